"""The mailbox: files that come, half come, come late, or say odd things; and a run that waits for nobody."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolve.config import parse_config
from evolve.council import Council, Seat
from evolve.council.mailbox import MailboxMember, read_front
from evolve.council.scripted import ScriptedMember
from evolve.errors import ConfigError, MemberUnavailable
from evolve.journal import Journal
from evolve.types import Asked, Draw, Judged, Prompt, Replied, Reply

HEAD = "model: me\ntokens_in: 5\ntokens_out: 6\ncost_usd: 0.25"
PROMPT = Prompt(system="You write kernels.", user="Make it faster.", kind="fix")


def box(folder: Path, **options: Any) -> MailboxMember:
    return MailboxMember(**{"name": "box", "folder": folder, "settled": 0.1, "look": 0.01, **options})


def asking(member: MailboxMember, step: int = 42) -> asyncio.Task[Reply]:
    return asyncio.ensure_future(member.ask(Draw(step=step, island=0), PROMPT))


async def appears(path: Path) -> str:
    async with asyncio.timeout(5):
        while not path.exists():
            await asyncio.sleep(0.01)
    return path.read_text()


async def test_a_prompt_is_a_file_and_so_is_its_answer(tmp_path: Path) -> None:
    task = asking(box(tmp_path))
    said = await appears(tmp_path / "mailbox/00042.prompt.md")
    assert "Answer in 00042.reply.md, beside this file" in said
    assert "Step 42 (fix)" in said
    assert said.endswith("-->\n\nYou write kernels.\n\nMake it faster.\n")
    (tmp_path / "mailbox/00042.reply.md").write_text(
        "---\nmodel: me\ntokens_in: 5\ntokens_out: 6\ncost_usd: 0.25\n---\nx = 1\n"
    )
    reply = await task
    assert (reply.text, reply.model, reply.finish_reason) == ("x = 1\n", "me", "stop")
    assert (reply.tokens_in, reply.tokens_out, reply.cost_usd) == (5, 6, 0.25)
    assert 0 <= reply.seconds < 5
    assert sorted(p.name for p in (tmp_path / "mailbox").iterdir()) == ["00042.prompt.md", "00042.reply.md"]


async def test_what_is_still_being_written_is_not_taken(tmp_path: Path) -> None:
    task = asking(box(tmp_path, timeout=0.2))
    await appears(tmp_path / "mailbox/00042.prompt.md")
    reply = tmp_path / "mailbox/00042.reply.md"
    reply.write_text("")  # an editor begins so
    await asyncio.sleep(0.15)
    assert not task.done()
    with reply.open("a") as file:
        for line in range(12):
            file.write(f"line {line}\n")
            file.flush()
            await asyncio.sleep(0.04)
            assert not task.done(), "its time is long up, but it is coming"
    assert (await task).text.endswith("line 11\n")


async def test_a_rename_brings_it_whole(tmp_path: Path) -> None:
    task = asking(box(tmp_path))
    await appears(tmp_path / "mailbox/00042.prompt.md")
    draft = tmp_path / "mailbox/draft"
    draft.write_text("whole")
    os.replace(draft, tmp_path / "mailbox/00042.reply.md")
    assert (await task).text == "whole"


async def test_after_a_resume_the_same_file_is_found_and_an_answer_taken(tmp_path: Path) -> None:
    task = asking(box(tmp_path))
    letter = tmp_path / "mailbox/00042.prompt.md"
    await appears(letter)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    before = letter.stat()
    (tmp_path / "mailbox/00042.reply.md").write_text("written meanwhile")
    assert (await asking(box(tmp_path))).text == "written meanwhile"
    assert (letter.stat().st_mtime_ns, letter.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


async def test_nobody_answers_in_time(tmp_path: Path) -> None:
    reply = await asking(box(tmp_path, timeout=0.1))
    assert reply.text == ""
    assert reply.finish_reason == "nobody answered 00042.prompt.md within 0.1 s"
    assert list((tmp_path / "mailbox").iterdir()) == [], "nobody shall answer in vain"


async def test_odd_files(tmp_path: Path) -> None:
    (tmp_path / "mailbox").mkdir()
    for step, content in (
        (1, b"\xff\xfe\x00 x"),
        (2, b" \n"),
        (3, b"\xef\xbb\xbf---\nmodel: m\n---\nx"),
        (4, b"---\nx = 1\n"),
    ):
        (tmp_path / f"mailbox/{step:05d}.reply.md").write_bytes(content)
    os.mkfifo(tmp_path / "mailbox/00005.reply.md")
    member = box(tmp_path, timeout=0.5)
    replies = await asyncio.gather(*(asking(member, step) for step in range(1, 6)))
    assert replies[0].text
    assert (replies[1].text.strip(), replies[1].finish_reason) == ("", "00002.reply.md says nothing")
    assert (replies[2].text, replies[2].model) == ("x", "m")
    assert replies[3].text == "---\nx = 1\n", "a rule that is never closed is no head"
    assert "nobody answered" in replies[4].finish_reason
    (tmp_path / "file").write_text("")
    with pytest.raises(MemberUnavailable, match="cannot be written"):
        await asking(box(tmp_path / "file"))


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("tokens: 5", "line 2: got 'tokens:'; expected model:, tokens_in:"),
        ("model: m\ncost_usd: $5", "line 3: cost_usd: got '$5'; expected dollars, such as 0.02"),
        ("cost_usd: nan", "cost_usd: got 'nan'"),
        ("cost_usd: -1", "cost_usd: got '-1'"),
        ("tokens_in: 1.5", "tokens_in: got '1.5'; expected a whole number"),
        ("tokens_in: true", "expected a whole number"),
        ("tokens_out: 9999999999", "expected a whole number"),
        ("tokens_in: 1\ntokens_in: 1", "line 3: tokens_in is given twice"),
        ("model:", "model: expected a name"),
        ("just words", "got 'just words'"),
    ],
)
def test_a_head_is_read_strictly_and_its_reply_kept(head: str, words: str) -> None:
    text, stated = read_front(f"---\n{head}\n---\nx = 1\n")
    assert text == "x = 1\n"
    assert words in stated.fault
    assert (stated.model, stated.tokens_in, stated.tokens_out, stated.cost_usd) == ("", 0, 0, 0.0)


@given(st.text(alphabet="-:\n model_tkens0123456789.csud$", max_size=60) | st.text(max_size=60))
def test_any_text_is_a_reply(text: str) -> None:
    for given_text in (text, f"---\n{text}", f"---\n{text}\n---\nx"):
        rest, stated = read_front(given_text)
        assert given_text.endswith(rest)
        assert min(stated.tokens_in, stated.tokens_out, stated.cost_usd) >= 0


def test_a_full_box_leaves_its_turn_to_others_and_counts_from_events(tmp_path: Path) -> None:
    member, again = box(tmp_path, slots=2), box(tmp_path, slots=2)
    council = Council(
        [Seat(name="box", member=member, weight=99), Seat(name="s", member=ScriptedMember(["x"], name="s"), weight=1)],
        random_seed=1,
    )
    chosen = []
    for step in range(40):
        who, kind = council.choose(Draw(step=step, island=0))
        event = Asked(step=step, member=who, prompt=Prompt(system="", user="", kind=kind))
        council.observe(event)
        again.observe(event)
        chosen.append(who)
    assert chosen.count("box") == 2
    assert member.busy
    assert again.busy
    first = chosen.index("box")
    council.observe(Replied(step=first, reply=Reply(member="box", text="x")))
    assert not member.busy
    alone = Council([Seat(name="box", member=again)], random_seed=1)
    assert alone.choose(Draw(step=99, island=0))[0] == "box", "where there is nobody else it is asked anyway"


def test_one_lane_for_a_box_and_others_is_refused() -> None:
    def load(council: str, concurrency: str) -> Any:
        text = f"problem: p\nseeds: [s]\nbudget: {{steps: 5}}\ncouncil: {council}\nconcurrency: {concurrency}"
        return parse_config(text, "x.yaml", check_files=False)

    load("[rules, mailbox]", "{replies: 2}")
    load("[mailbox]", "{replies: 1}")
    for concurrency in ("{replies: 1}", "{steps: 1}"):
        with pytest.raises(ConfigError, match=r"x\.yaml:5: 1 mailbox among other members .* would hold up the others"):
            load("[rules, mailbox]", concurrency)


def test_a_run_goes_on_while_a_box_waits(place: Any) -> None:
    scripted = {"member": "scripted", "replies": [f"```python\n# fake: score=1.1\nx = {n}\n```" for n in range(20)]}
    place.config(
        council=[scripted, {"member": "mailbox", "timeout": 1.5}],
        steps=8,
        concurrency={"replies": 3, "cpu": 1, "steps": 3},
    )
    done = place.evolve("run", "-c", "fake.yaml")
    assert done.status == 0, done.err
    with Journal.open(place.folder / "runs/fake-001") as journal:
        events = [logged.event for logged in journal.events()]
    replies = {e.step: e.reply for e in events if isinstance(e, Replied)}
    assert len(replies) == 8
    waited = [step for step, reply in replies.items() if reply.member == "mailbox"]
    assert waited, "somebody was written to"
    order = [e.step for e in events if isinstance(e, Judged)]
    assert sum(step > waited[0] for step in order[: order.index(waited[0])]) >= 2, "others came and went meanwhile"
