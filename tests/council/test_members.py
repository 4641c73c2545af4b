"""What scripted and replaying members do beyond the contract."""

from pathlib import Path

import pytest

from evolve.council.replay import ReplayMember
from evolve.council.scripted import ScriptedMember
from evolve.errors import ConfigError, JournalError
from evolve.journal import Journal
from evolve.types import Asked, Draw, Event, Prompt, Replied, Reply

PROMPT = Prompt(system="", user="", kind="diff")


def draw(step: int) -> Draw:
    return Draw(step=step, island=0)


def asked(step: int, member: str) -> Asked:
    return Asked(step=step, member=member, prompt=PROMPT)


async def say(member: ScriptedMember | ReplayMember, *steps: int) -> list[str]:
    return [(await member.ask(draw(step), PROMPT)).text for step in steps]


async def test_a_script_is_said_in_order_and_then_ends() -> None:
    member = ScriptedMember(["one", "two"])
    assert await say(member, 5, 9) == ["one", "two"]
    end = await member.ask(draw(10), PROMPT)
    assert (end.text, end.finish_reason) == ("", "the script ended after 2 replies")


async def test_asked_again_for_a_step_it_says_the_same() -> None:
    assert await say(ScriptedMember(["one", "two", "three"]), 1, 2, 1, 3) == ["one", "two", "one", "three"]


async def test_a_resumed_script_goes_on_where_it_was() -> None:
    first, resumed = (ScriptedMember([str(n) for n in range(9)], name="s") for _ in range(2))
    events: list[Event] = []
    for step in (1, 3, 4):
        events.append(asked(step, "s"))
        first.observe(events[-1])
        await say(first, step)
    events.append(asked(2, "another"))
    events.append(Replied(step=2, reply=Reply(member="s", text="")))  # in another's place
    events.append(asked(5, "s"))  # asked, and killed before it replied
    for event in events:
        resumed.observe(event)
    assert await say(resumed, 5, 6, 7) == ["4", "5", "6"]


async def test_a_script_may_be_a_function_and_cost_something() -> None:
    member = ScriptedMember(lambda d, p: f"{p.kind}{d.step}", cost_usd=0.5, tokens=9)
    reply = await member.ask(draw(3), PROMPT)
    assert (reply.text, reply.cost_usd, reply.tokens_out) == ("diff3", 0.5, 9)
    whole = Reply(member="scripted", text="", finish_reason="refused")
    assert await ScriptedMember([whole]).ask(draw(1), PROMPT) == whole


@pytest.mark.parametrize("replies", [[], "one string"])
def test_a_script_is_a_list_of_texts(replies: object) -> None:
    with pytest.raises(ConfigError, match="expected a list of texts"):
        ScriptedMember(replies)  # type: ignore[arg-type]


async def test_a_replay_gives_each_step_its_reply_for_nothing() -> None:
    first = Reply(member="gpt", model="gpt-5", text="lost", cost_usd=1.0, tokens_in=5, tokens_out=5, seconds=9.0)
    events: list[Event] = [
        asked(1, "gpt"),
        Replied(step=1, reply=first),
        Replied(step=1, reply=Reply(member="gpt", text="one", hypothesis="faster", cost_usd=1.0)),
        Replied(step=3, reply=Reply(member="gpt", model="gpt-5", text="three", cost_usd=2.0)),
    ]
    member = ReplayMember.of_events(events, name="again")
    reply = await member.ask(draw(1), PROMPT)
    assert reply == Reply(member="again", model="gpt", text="one", hypothesis="faster")
    assert await say(member, 3, 1) == ["three", "one"]
    nothing = await member.ask(draw(2), PROMPT)
    assert nothing.text == ""
    assert nothing.finish_reason == "the recorded run has no reply for step 2; its last is for step 3"


async def test_a_replay_reads_a_run(tmp_path: Path) -> None:
    with Journal.create(tmp_path / "old", config_text="") as journal:
        journal.append_all([asked(1, "gpt"), Replied(step=1, reply=Reply(member="gpt", text="whole text"))])
    member = ReplayMember.of_run(str(tmp_path / "old"))
    assert await say(member, 1) == ["whole text"]
    with pytest.raises(JournalError, match="no such run"):
        ReplayMember.of_run(str(tmp_path / "older"))
