"""The council: who is chosen and for what, what happens when a member breaks, and who is credited."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from evolve.council import Council, Seat
from evolve.council.council import checked
from evolve.council.scripted import ScriptedMember
from evolve.errors import ConfigError, MachineryError, MemberUnavailable
from evolve.types import (
    Asked,
    Attempt,
    Candidate,
    Confirmed,
    Draw,
    Evaluation,
    Event,
    Judged,
    Measurement,
    Noted,
    Prompt,
    Replied,
    Reply,
    Verdict,
)

PROMPT = Prompt(system="", user="", kind="diff")


def passed(score: float, low: float | None = None, key: str = "k", gpu: float = 0.0) -> Evaluation:
    measured = Measurement(
        workload="w", baseline="b", time_us=1.0, ratio=score, ratio_low=low or score, ratio_high=score
    )
    seconds = {"gpu": gpu} if gpu else {}
    return Evaluation(verdict=Verdict.PASSED, measurements=(measured,), ranking_key=key, seconds=seconds)


def failed(verdict: Verdict = Verdict.INCORRECT) -> Evaluation:
    return Evaluation(verdict=verdict)


def attempt(step: int, evaluation: Evaluation) -> Attempt:
    return Attempt(
        candidate=Candidate(step=step, source=f"x = {step}", member="seed", kind="seed"), evaluation=evaluation
    )


PARENT = attempt(0, passed(1.0))
BARE = Draw(step=1, island=0, parent=PARENT)
FULL = replace(BARE, inspirations=(attempt(1, passed(1.0)),), failures=(attempt(2, failed()),))


@dataclass
class Acts:
    """A member that does what it is told."""

    act: Callable[[], Any]
    name: str = "acts"

    async def ask(self, draw: Draw, prompt: Prompt) -> Reply:
        found = self.act()
        if isinstance(found, BaseException):
            raise found
        return found  # type: ignore[no-any-return]


def seat(name: str, weight: float = 1.0, kinds: dict[str, float] | None = None, act: Any = None) -> Seat:
    member = Acts(act) if act else ScriptedMember(lambda draw, prompt: f"from {name}", name=name)
    return Seat(name=name, member=member, weight=weight, **({"kinds": kinds} if kinds else {}))


def council(*seats: Seat, **settings: Any) -> Council:
    return Council(seats, random_seed=3, **settings)


# --- Choosing -------------------------------------------------------------------------------------------------------


def within_sampling_error(counts: Counter[str], shares: dict[str, float]) -> None:
    """Each count within four standard deviations of a binomial: 1 in 16,000 by chance."""
    total = counts.total()
    assert set(counts) == set(shares)
    for name, share in shares.items():
        assert abs(counts[name] - total * share) < 4 * (total * share * (1 - share)) ** 0.5, (name, counts)


def test_fixed_weights_hold_over_10_000_draws() -> None:
    three = council(seat("a", 5), seat("b", 3), seat("c", 2))
    draws = [three.choose(replace(FULL, step=step)) for step in range(10_000)]
    within_sampling_error(Counter(m for m, _ in draws), {"a": 0.5, "b": 0.3, "c": 0.2})
    kinds = {"diff": 0.5, "rewrite": 0.2, "crossover": 0.1, "fix": 0.1, "explore": 0.1}
    within_sampling_error(Counter(k for _, k in draws), kinds)


def test_a_choice_depends_on_seed_and_step_alone() -> None:
    one, two = council(seat("a"), seat("b")), council(seat("a"), seat("b"))
    steps = [replace(FULL, step=step) for step in range(50)]
    assert [one.choose(d) for d in steps] == [two.choose(d) for d in reversed(steps)][::-1]
    other = Council([seat("a"), seat("b")], random_seed=4)
    assert [one.choose(d) for d in steps] != [other.choose(d) for d in steps]


@pytest.mark.parametrize(
    ("draw", "kinds"),
    [
        (Draw(step=1, island=0), {"draft"}),
        (BARE, {"diff", "rewrite", "explore"}),
        (replace(FULL, failures=()), {"diff", "rewrite", "explore", "crossover"}),
        (replace(FULL, inspirations=()), {"diff", "rewrite", "explore", "fix"}),
        (FULL, {"diff", "rewrite", "explore", "crossover", "fix"}),
    ],
)
def test_a_kind_is_chosen_only_where_it_makes_sense(draw: Draw, kinds: set[str]) -> None:
    one = council(seat("a"))
    assert {one.choose(replace(draw, step=step))[1] for step in range(300)} == kinds


def test_rules_are_asked_for_rules_and_never_for_a_draft() -> None:
    both = council(seat("rules", kinds={"rule": 1.0}), seat("model"))
    assert {both.choose(Draw(step=step, island=0)) for step in range(50)} == {("model", "draft")}
    assert {k for m, k in (both.choose(replace(FULL, step=s)) for s in range(50)) if m == "rules"} == {"rule"}


def test_rules_alone_cannot_begin_without_a_seed() -> None:
    with pytest.raises(ConfigError, match=r"no member can draft one.*Give `seeds:`"):
        council(seat("rules", kinds={"rule": 1.0})).choose(Draw(step=1, island=0))


def test_a_fixer_with_nothing_to_fix_makes_a_diff() -> None:
    assert council(seat("fixer", kinds={"fix": 1.0})).choose(BARE) == ("fixer", "diff")


def test_a_weight_of_zero_is_never_asked() -> None:
    quiet = council(seat("a"), seat("b", 0.0))
    assert {quiet.choose(replace(FULL, step=s))[0] for s in range(100)} == {"a"}
    with pytest.raises(ConfigError, match="no member has a weight above 0"):
        council(seat("a", 0.0))


def test_names_are_unique() -> None:
    with pytest.raises(ConfigError, match=r'two members are named "a"'):
        council(seat("a"), seat("a"))


# --- Asking ---------------------------------------------------------------------------------------------------------


async def test_the_seat_names_the_reply() -> None:
    reply = await council(seat("mine", act=lambda: Reply(member="gpt-5", text="x"))).ask("mine", BARE, PROMPT)
    assert (reply.member, reply.text) == ("mine", "x")


@pytest.mark.parametrize(
    "error",
    [MachineryError("lost"), ValueError("bad JSON"), KeyError("choices"), OSError("gone"), TimeoutError(), TypeError()],
)
async def test_a_member_that_breaks_gives_an_empty_reply(error: Exception) -> None:
    reply = await council(seat("a", act=lambda: error), seat("b")).ask("a", BARE, PROMPT)
    assert reply.member == "a", "its own failure, which nobody else makes good"
    assert reply.text == ""
    assert reply.finish_reason.startswith(f"error: {type(error).__name__}")


async def test_cancellation_passes_through() -> None:
    with pytest.raises(asyncio.CancelledError):
        await council(seat("a", act=asyncio.CancelledError)).ask("a", BARE, PROMPT)


@pytest.mark.parametrize(
    "garbage",
    [
        None,
        "text",
        Reply(member="a", text=None),  # type: ignore[arg-type]
        Reply(member="a", text="x", cost_usd=float("nan")),
        Reply(member="a", text="x", cost_usd=-1.0),
        Reply(member="a", text="x", tokens_in="7"),  # type: ignore[arg-type]
    ],
)
async def test_garbage_becomes_an_empty_reply(garbage: Any) -> None:
    reply = await council(seat("a", act=lambda: garbage)).ask("a", BARE, PROMPT)
    assert (reply.member, reply.text) == ("a", "")
    assert reply.finish_reason.startswith("error: ")


def test_an_empty_reply_says_why() -> None:
    assert checked(Reply(member="a", text="\n"), "a").finish_reason == "the reply was empty"
    assert checked(Reply(member="a", text="", finish_reason="length"), "a").finish_reason == "length"


async def test_an_absent_members_turn_goes_to_another_and_it_is_said_once() -> None:
    away = seat("away", act=lambda: MemberUnavailable("rests for 60 s after 5 failures."))
    both = council(away, seat("rules", 9, kinds={"rule": 1.0}), seat("here"))
    for _ in range(3):
        reply = await both.ask("away", BARE, PROMPT)
        assert (reply.member, reply.text) == ("here", "from here"), "rules read no prompt and cannot stand in"
    (said,) = both.warnings()
    assert said == (
        '"away" is unavailable: rests for 60 s after 5 failures. '
        'From step 1 on, "here" or another is asked in its place.'
    )
    assert both.warnings() == []


async def test_absence_is_said_again_after_a_return() -> None:
    state: list[Any] = [MemberUnavailable("resting"), Reply(member="a", text="x"), MemberUnavailable("resting")]
    both = council(seat("a", act=lambda: state.pop(0)), seat("b"))
    for _ in range(3):
        await both.ask("a", BARE, PROMPT)
    assert len(both.warnings()) == 2


async def test_nobody_available_is_said_with_every_reason() -> None:
    a = seat("a", act=lambda: MemberUnavailable("no key"))
    b = seat("b", act=lambda: MemberUnavailable("resting"))
    with pytest.raises(MemberUnavailable, match=r'"a" is unavailable: no key\. "b" is unavailable: resting\.'):
        await council(a, b).ask("a", BARE, PROMPT)
    with pytest.raises(MemberUnavailable, match="no key"):
        await council(a, seat("rules", kinds={"rule": 1.0})).ask("a", BARE, PROMPT)


async def test_a_pause_is_said_once_and_at_once() -> None:
    state: list[Any] = [MemberUnavailable("resting", again_in=0.05)] * 4 + [Reply(member="a", text="back")] * 2
    alone, said = council(seat("a", act=lambda: state.pop(0))), []
    alone.told = lambda text, step: said.append((text, step))
    replies = await asyncio.gather(alone.ask("a", BARE, PROMPT), alone.ask("a", replace(BARE, step=2), PROMPT))
    assert [r.text for r in replies] == ["back", "back"]
    assert said[0] == (
        "The run pauses where it needs a reply, and goes on in 0 s. Nobody in the council can be asked for step 1. "
        '"a" is unavailable: resting.',
        1,
    )
    assert len(said) <= 2, "two rests, each said once"


async def test_rules_take_the_step_where_the_yaml_says_so() -> None:
    def asked(**options: Any) -> Any:
        away = seat("away", act=lambda: MemberUnavailable("rests", again_in=1.0))
        rules = seat("rules", kinds={"rule": 1.0})
        return Council([away, rules], random_seed=1, **options)._ask("away", BARE, PROMPT)

    assert (await asked(when_resting="rules")).member == "rules"
    with pytest.raises(MemberUnavailable, match="rests"):
        await asked()


async def test_a_member_that_left_the_yaml_is_replaced() -> None:
    assert (await council(seat("b")).ask("a", BARE, PROMPT)).member == "b"


async def test_several_asks_at_once() -> None:
    slow = Seat(name="slow", member=ScriptedMember(lambda d, p: str(d.step), name="slow", seconds=0.05))
    asked = [council(slow).ask("slow", replace(BARE, step=step), PROMPT) for step in range(20)]
    replies = await asyncio.wait_for(asyncio.gather(*asked), 1.0)
    assert [r.text for r in replies] == [str(step) for step in range(20)]


# --- Accounts -------------------------------------------------------------------------------------------------------


def ask(step: int, member: str = "a", kind: str = "diff") -> Asked:
    return Asked(step=step, member=member, prompt=replace(PROMPT, kind=kind))


def turn(step: int, evaluation: Evaluation, member: str = "a", *, parent: str | None = PARENT.id, cost: float = 0.0,
         kind: str = "diff", asked: str | None = None) -> list[Event]:  # fmt: skip
    candidate = Candidate(step=step, source=f"x = {step}", member=member, kind=kind, parent_id=parent)
    wordless = evaluation.verdict in (Verdict.NO_REPLY, Verdict.UNREADABLE)
    return [
        ask(step, asked or member, kind),
        Replied(step=step, reply=Reply(member=member, text="", cost_usd=cost, tokens_in=10, tokens_out=5)),
        Judged(step=step, evaluation=evaluation, candidate=None if wordless else candidate),
    ]


def watching(*seats: Seat, events: list[Event]) -> Council:
    found = council(*(seats or (seat("a"),)))
    found.observe(Judged(step=0, candidate=PARENT.candidate, evaluation=PARENT.evaluation))
    for event in events:
        found.observe(event)
    return found


def test_a_member_is_credited_with_what_came_of_it() -> None:
    events = [
        *turn(1, passed(1.2, gpu=3.0), cost=0.5),
        *turn(2, passed(0.9), cost=0.25),
        *turn(3, failed()),
        *turn(4, failed(Verdict.UNREADABLE)),
        ask(5),
    ]
    account = watching(events=events).standings.of["a"]
    assert (account.asked, account.replied, account.passed, account.improved) == (5, 4, 2, 1)
    assert (account.unreadable, account.cost_usd, account.tokens, account.gpu_seconds) == (1, 0.75, 60, 3.0)


def test_a_gain_within_the_noise_is_no_improvement() -> None:
    account = watching(events=turn(1, passed(1.02, low=0.99))).standings.of["a"]
    assert (account.passed, account.improved) == (1, 0)


def test_an_improvement_is_over_the_confirmed_parent() -> None:
    confirmed = Confirmed(step=0, candidate_id=PARENT.id, evaluation=passed(2.0))
    assert watching(events=[confirmed, *turn(1, passed(1.5))]).standings.of["a"].improved == 0
    assert watching(events=turn(1, passed(1.5), parent=PARENT.id)).standings.of["a"].improved == 1


def test_scores_of_different_keys_make_no_improvement() -> None:
    assert watching(events=turn(1, passed(9.0, key="other"))).standings.of["a"].improved == 0


def test_a_first_draft_that_passes_is_an_improvement_on_nothing() -> None:
    assert watching(events=turn(1, passed(0.5), parent=None, kind="draft")).standings.of["a"].improved == 1


def test_who_stands_in_is_credited_and_charged() -> None:
    of = watching(seat("a"), seat("b"), events=turn(1, passed(1.5), member="b", asked="a", cost=2.0)).standings.of
    assert (of["a"].asked, of["b"].asked, of["b"].improved, of["b"].cost_usd) == (0, 1, 1, 2.0)


def test_a_seed_is_nobodys_and_a_volunteer_is_credited() -> None:
    candidate = Candidate(step=9, source="y", member="Ada", kind="diff", parent_id=PARENT.id)
    of = watching(events=[Judged(step=9, candidate=candidate, evaluation=passed(2.0))]).standings.of
    assert set(of) == {"Ada"}
    assert (of["Ada"].asked, of["Ada"].improved) == (0, 1)


def test_a_step_asked_again_after_a_crash_counts_once() -> None:
    assert watching(events=[ask(1), *turn(1, passed(1.5))]).standings.of["a"].asked == 1


def test_members_see_every_event() -> None:
    member = ScriptedMember(["one", "two"], name="a")
    found = watching(Seat(name="a", member=member), events=[ask(4)])
    assert asyncio.run(found.ask("a", replace(BARE, step=5), PROMPT)).text == "two"
    assert asyncio.run(found.ask("a", replace(BARE, step=4), PROMPT)).text == "one"


# --- Silent uselessness ---------------------------------------------------------------------------------------------


def test_twenty_steps_without_a_passed_are_said_and_then_ever_more_seldom() -> None:
    found, said = watching(events=[]), {}
    for step in range(1, 100):
        for event in turn(step, failed()):
            found.observe(event)
        for sentence in found.warnings():
            said[step] = sentence
    assert list(said) == [20, 40, 80]
    assert said[20].startswith("20 steps without a PASSED")


def test_a_passed_ends_the_drought() -> None:
    events = [e for step in range(1, 19) for e in turn(step, failed())]
    events += turn(19, passed(0.1)) + [e for step in range(20, 39) for e in turn(step, failed())]
    assert watching(events=events).warnings() == []


@pytest.mark.parametrize(
    ("verdict", "words"), [(Verdict.UNREADABLE, "All 8 replies"), (Verdict.NO_REPLY, "asked 8 times and never")]
)
def test_a_member_in_vain_is_named(verdict: Verdict, words: str) -> None:
    events = [e for step in range(1, 9) for e in turn(step, failed(verdict))]
    (said,) = watching(events=events).warnings()
    assert words in said
    assert '"a"' in said
    once_readable = turn(9, failed()) + [e for s in range(10, 26) for e in turn(s, failed(verdict))]
    assert not any(words[:3] in s and '"a"' in s for s in watching(events=once_readable).warnings())


def test_a_replay_does_not_repeat_what_was_noted() -> None:
    events: list[Event] = [e for step in range(1, 21) for e in turn(step, failed())]
    first = watching(events=events)
    notes = [Noted(what="warning", text=text, step=20) for text in first.warnings()]
    assert len(notes) == 1
    assert watching(events=[*events, *notes]).warnings() == []
    assert len(watching(events=events).warnings()) == 1, "said before the crash could write it down"
