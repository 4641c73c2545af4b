"""What a person or an agent brings to a run: through its writer if there is one, as its writer if there is none."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evolve import lineage
from evolve.inbox import as_reply
from evolve.journal import Journal
from evolve.prompts.read import edited, hypothesis_of, prediction_of
from evolve.types import Verdict

RUN = Path("runs/fake-001")
IDEA = "Larger tiles. Prediction: fake -10 %"


def source(score: float, number: int) -> str:
    return f"# fake: score={score:.3f}\nx = {number}\n"


def own(place: Any, score: float, number: int) -> Path:
    path = place.folder / f"mine{number}.py"
    path.write_text(source(score, number))
    return path


def answer(folder: Path, step: int, text: str) -> None:
    (folder / f"{step:05d}.reply.md").write_text(text)


@pytest.fixture
def ended(place: Any) -> Any:
    """A run that has spent its budget of two steps."""
    assert place.evolve("run", "-c", place.config(steps=2)).status == 0
    return place


def test_a_proposal_is_an_ordinary_step(ended: Any) -> None:
    with Journal.open(RUN) as journal:
        before = lineage.state(journal)
    done = ended.evolve(
        "judge", own(ended, 3.0, 77), "--run", "fake-001", "--parent", "0", "--hypothesis", IDEA, "--member", "claude"
    )
    assert done.status == 0, done.err
    assert "score    3.000" in done.out
    assert "is the new best, confirmed at 3.000" in done.out
    assert "predicted: fake -10 % → confirmed: fake −66.7 %" in done.out
    with Journal.open(RUN) as journal:
        turn = journal.step(3)
        assert turn.asked is not None
        assert turn.replied is not None
        assert turn.judged is not None
        assert turn.judged.candidate is not None
        assert (turn.judged.candidate.member, turn.judged.candidate.hypothesis) == ("claude", "Larger tiles.")
        assert turn.judged.candidate.parent_id == journal.resolve("0")
        assert turn.judged.candidate.source == source(3.0, 77)
        assert journal.resolve("best") == turn.judged.candidate.id
        assert lineage.state(journal) == before, "the run ended as it had ended"
    assert (RUN / "best.py").read_text() == source(3.0, 77)
    assert list((RUN / "mailbox").iterdir()) == []
    again = ended.evolve(
        "judge", own(ended, 3.0, 77), "--run", "fake-001", "--parent", "0", "--hypothesis", IDEA, "--json"
    )
    assert again.status == 1
    assert json.loads(again.out)["verdict"] == "DUPLICATE"


def test_ask_and_tell_by_hand(ended: Any) -> None:
    out = ended.folder / "letters"
    done = ended.evolve("ask", "fake-001", "-n", "3", "-o", out)
    assert done.status == 0, done.err
    letters = sorted(out.glob("*.prompt.md"))
    assert [p.name for p in letters] == ["00003.prompt.md", "00004.prompt.md", "00005.prompt.md"]
    assert "evolve tell fake-001" in letters[0].read_text()
    assert "## Your answer" in letters[0].read_text()
    answer(out, 3, "---\nmodel: me\ntokens_out: 12\n---\nHypothesis: faster.\n```python\n" + source(2.5, 31) + "```\n")
    answer(out, 5, "I have no idea.")
    answer(out, 9, "nobody asked")
    told = ended.evolve("tell", "fake-001", out)
    assert told.status == 0, told.err
    assert "00009.reply.md: step 9 waits for no reply" in told.out
    assert "by hand PASSED with 2.500" in told.out
    assert "UNREADABLE" in told.out
    with Journal.open(RUN) as journal:
        assert journal.step(5).evaluations[-1].verdict is Verdict.UNREADABLE
        replied = journal.step(3).replied
        assert replied is not None
        assert (replied.reply.model, replied.reply.tokens_out) == ("me", 12)
        assert [p.asked.step for p in journal.pending() if p.asked] == [4], "it still waits"
    assert "waits for no reply" in ended.evolve("tell", "fake-001", out).out + ended.evolve("tell", "fake-001", out).err
    # Going on with the run asks nobody else for what was handed out.
    assert ended.evolve("run", "-c", "fake.yaml", "--resume", "--set", "budget.steps=6").status in (0, 1)
    with Journal.open(RUN) as journal:
        assert [p.asked.step for p in journal.pending() if p.asked] == [4]


def test_a_run_travels_from_machine_to_machine_between_question_and_answer(ended: Any) -> None:
    """Asked and answered in a copy elsewhere; carried back, the replies are judged as soon as it is resumed."""
    away = ended.folder / "away" / "fake-001"
    shutil.copytree(RUN, away)
    assert ended.evolve("ask", away, "-n", "2", "--member", "claude").status == 0
    answer(away / "mailbox", 3, "Hypothesis: faster.\n```python\n" + source(2.5, 31) + "```\n")
    assert ended.evolve("ask", away, "-n", "1", "--member", "claude").status == 0, "it judges no reply that lies there"
    os.utime(away / "mailbox/00003.reply.md", (1.7e9, 1.7e9))  # it took a while to carry it
    shutil.rmtree(RUN)
    shutil.copytree(away, RUN)
    assert ended.evolve("run", "-c", "fake.yaml", "--resume", "fake-001").status == 0  # no budget left for more
    with Journal.open(RUN) as journal:
        judged = journal.step(3).judged
        assert judged is not None
        assert judged.candidate is not None
        assert (judged.candidate.member, judged.evaluation.score) == ("claude", 2.5)
        assert [p.asked.step for p in journal.pending() if p.asked] == [4, 5], "nobody answered these yet"


def test_a_living_writer_takes_it_in(place: Any, until: Callable[..., None]) -> None:
    config = place.config(steps=400, sleep=0.05, budget={"steps": 400})
    process = place.start("run", "-c", config)
    until(lambda: (RUN / "journal.sqlite").is_file())
    done = place.evolve("judge", own(place, 90.0, 99), "--run", "fake-001", "--hypothesis", IDEA, "--member", "claude")
    assert done.status == 0, done.err
    assert f"Process {process.pid} is writing fake-001" in done.out
    assert "is the new best, confirmed at 90.000" in done.out
    out = place.folder / "letters"
    assert place.evolve("ask", "fake-001", "-n", "2", "-o", out, "--member", "pupil").status == 0
    first = int(min(out.glob("*.prompt.md")).name[:5])
    answer(out, first, "Hypothesis: x\n```python\n" + source(95.0, 501) + "```\n")
    told = place.evolve("tell", "fake-001", out)
    assert told.status == 0, told.err
    assert "by pupil PASSED with 95.000" in told.out
    assert process.poll() is None, "the run went on all the while"
    process.terminate()
    assert place.ended(process).status == 130
    with Journal.open(RUN) as journal:
        assert {"claude", "pupil", "scripted"} <= {row.member for row in journal.rows()}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--hypothesis", ""], "--hypothesis is missing"),
        (["--hypothesis", "x", "--member", "scripted"], "sits in this run's council"),
        (["--hypothesis", "x", "--member", "a b"], "expected up to 60 letters"),
        (["--hypothesis", "x", "--parent", "77"], "no step 77"),
        (["--hypothesis", "x", "--problem", "p.py"], "brings its own problem"),
    ],
)
def test_a_mistake_is_a_sentence_and_changes_nothing(ended: Any, words: list[str], told: str) -> None:
    with Journal.open(RUN) as journal:
        before = journal.last_step()
    assert told in ended.evolve("judge", own(ended, 3.0, 7), "--run", "fake-001", *words).sentence
    with Journal.open(RUN) as journal:
        assert journal.last_step() == before


def test_other_mistakes(ended: Any) -> None:
    assert "no such folder" in ended.evolve("tell", "fake-001", "nowhere").sentence
    assert "no reply to a step that waits" in ended.evolve("tell", "fake-001", ended.folder).sentence
    assert "no such run" in ended.evolve("ask", "nobody", "-n", "2").sentence
    assert "expected 1 to 1000" in ended.evolve("ask", "fake-001", "-n", "0").sentence
    assert "no such file" in ended.evolve("judge", "none.py", "--run", "fake-001", "--hypothesis", "x").sentence


@pytest.mark.parametrize("text", ["", "[]", "{", '{"count": true, "member": "m"}', '{"member": 3}', "\x00"])
def test_a_strange_order_stops_nobody(ended: Any, text: str) -> None:
    box = RUN / "mailbox"
    box.mkdir(exist_ok=True)
    (box / "ask-strange.json").write_text(text)
    assert ended.evolve("judge", own(ended, 3.0, 8), "--run", "fake-001", "--hypothesis", IDEA).status == 0
    if text:  # an empty file is one that is still being written
        assert not (box / "ask-strange.json").exists()


def test_code_with_fences_in_it_is_carried_whole() -> None:
    code = '"""\n```python\nx = 1\n```\n"""\ny = 2\n'
    reply = as_reply(code, "It is\nfaster.\nPrediction: registers < 3")
    assert edited(reply, None).source == code
    assert (hypothesis_of(reply), prediction_of(reply)) == ("It is faster.", "registers < 3")
