"""Budgets: what is spent, what is in flight, and time over several sessions."""

import pytest

from evolve.council.budget import Budget
from evolve.types import (
    Asked,
    Candidate,
    Confirmed,
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


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def asked(step: int, member: str = "a") -> Asked:
    return Asked(step=step, member=member, prompt=Prompt(system="", user="", kind="diff"))


def replied(step: int, *, usd: float = 0.0, tokens: int = 0, member: str = "a") -> Replied:
    return Replied(step=step, reply=Reply(member=member, text="", cost_usd=usd, tokens_in=tokens, tokens_out=tokens))


def evaluation(score: float | None = None, *, gpu: float = 0.0, key: str = "k") -> Evaluation:
    seconds = {"gpu": gpu, "build": 100.0}
    if score is None:
        return Evaluation(verdict=Verdict.INCORRECT, seconds=seconds)
    measured = Measurement(workload="w", baseline="b", time_us=1, ratio=score, ratio_low=score, ratio_high=score)
    return Evaluation(verdict=Verdict.PASSED, measurements=(measured,), seconds=seconds, ranking_key=key)


def judged(step: int, found: Evaluation | None = None, kind: str = "diff") -> Judged:
    candidate = Candidate(step=step, source=f"x = {step}", member="a", kind=kind)
    return Judged(step=step, candidate=candidate, evaluation=found or evaluation())


def after(budget: Budget, *events: Event) -> Budget:
    for event in events:
        budget.observe(event)
    return budget


def test_without_a_limit_it_never_ends() -> None:
    budget = after(Budget(), *[e for s in range(50) for e in (asked(s), replied(s, usd=9.0), judged(s))])
    assert budget.spent() is None
    assert budget.left() == {}


def test_steps_count_what_is_asked_and_not_seeds() -> None:
    budget = after(Budget(steps=3), judged(0, evaluation(1.0), kind="seed"), asked(1), replied(1), asked(2))
    assert budget.spent() is None
    assert budget.left() == {"steps": "1"}
    assert after(budget, asked(3)).spent() == "the budget of 3 steps is used up"
    assert after(budget, judged(1)).spent(), "a step that is judged stays used"


def test_a_step_asked_again_after_a_crash_is_one_step() -> None:
    assert after(Budget(steps=2), asked(1), asked(1)).spent() is None


def test_a_step_that_someone_proposed_unasked_counts() -> None:
    assert after(Budget(steps=1), judged(5)).spent()


def test_dollars_count_what_is_in_flight_at_the_members_mean() -> None:
    budget = Budget(usd=10.0)
    after(budget, *[e for s in range(4) for e in (asked(s), replied(s, usd=2.0), judged(s))])
    assert budget.used()["usd"] == pytest.approx(8.0)
    assert budget.spent() is None
    assert after(budget, asked(4, "free"), asked(5, "free")).spent() is None, "nothing is known to cost anything there"
    after(budget, asked(6))
    assert budget.used()["usd"] == pytest.approx(10.0)
    assert budget.spent() == "the budget of $10.00 is used up: $10.00, what 3 in flight will cost included"
    after(budget, replied(6, usd=0.5))
    assert budget.spent() is None, "it cost less than expected"
    assert budget.left() == {"dollars": "$1.50"}


def test_tokens() -> None:
    budget = after(Budget(tokens=1000), asked(1), replied(1, tokens=200), judged(1))
    assert budget.left() == {"tokens": "600"}
    assert after(budget, asked(2), asked(3)).spent() == (
        "the budget of 1,000 tokens is used up: 1,200 tokens, what 2 in flight will cost included"
    )


def test_gpu_seconds_count_judgements_confirmations_and_what_is_in_flight() -> None:
    budget = after(Budget(gpu_seconds=10.0), asked(1), replied(1), judged(1, evaluation(1.0, gpu=3.0)))
    after(budget, Confirmed(step=1, candidate_id="00001-x", evaluation=evaluation(1.0, gpu=1.0)))
    assert budget.used()["gpu_seconds"] == pytest.approx(4.0)
    assert after(budget, asked(2), replied(2)).used()["gpu_seconds"] == pytest.approx(7.0)
    assert after(budget, asked(3)).spent()


def test_the_first_limit_reached_ends_it() -> None:
    budget = after(Budget(steps=100, usd=1.0), asked(1), replied(1, usd=1.5), judged(1))
    assert budget.spent() == "the budget of $1.00 is used up"


# --- Time -----------------------------------------------------------------------------------------------------------


def start(what: str = "started") -> Noted:
    return Noted(what=what, text="")


def test_wall_time_runs_from_the_start() -> None:
    clock = Clock()
    budget = after(Budget(seconds=60.0, clock=clock), start())
    clock.now += 45
    assert budget.left() == {"time": "15 s"}
    assert budget.spent() is None
    clock.now += 15
    assert budget.spent() == "the budget of 60 s is used up"


def test_wall_time_adds_up_over_sessions_and_leaves_out_what_lies_between() -> None:
    clock = Clock()
    budget = Budget(seconds=500.0, clock=clock)
    for event, at in (
        (start(), 100.0),
        (asked(1), 110.0),
        (replied(1), 160.0),  # killed here, without a word
        (start("resumed"), 700.0),
        (judged(1), 720.0),
        (Noted(what="finished", text=""), 730.0),
        (start("resumed"), 900.0),
    ):
        budget.observe(event, at=at)
    clock.now = 900.0
    assert budget.wall_seconds == pytest.approx(60 + 30)
    clock.now = 1000.0
    assert budget.wall_seconds == pytest.approx(60 + 30 + 100)
    after(budget, asked(2))
    assert budget.wall_seconds == pytest.approx(190), "live events are taken at the clock's time"


def test_a_clock_that_was_put_back_takes_nothing_away() -> None:
    clock = Clock()
    budget = after(Budget(clock=clock), start())
    clock.now -= 500
    assert budget.wall_seconds == 0.0


# --- Patience -------------------------------------------------------------------------------------------------------


def test_patience_ends_a_run_that_gets_nowhere() -> None:
    budget = after(Budget(patience=3, threshold=0.01), judged(0, evaluation(1.0), kind="seed"))
    after(budget, judged(1), judged(2, evaluation(1.005)))
    assert budget.spent() is None
    assert budget.left() == {"patience": "1"}
    assert after(budget, judged(3)).spent() == "3 steps brought nothing better by more than 0.01"
    assert after(budget, judged(4, evaluation(1.02))).spent() is None


def test_what_did_not_hold_when_confirmed_raises_no_bar() -> None:
    budget = after(Budget(patience=3), judged(1, evaluation(9.0)))
    name = judged(1).candidate
    assert name
    after(budget, Confirmed(step=1, candidate_id=name.id, evaluation=evaluation()), judged(2), judged(3))
    after(budget, judged(4, evaluation(1.5)))
    assert budget.used()["patience"] == 0


def test_under_another_ranking_key_it_begins_anew() -> None:
    budget = after(Budget(patience=2), judged(1, evaluation(9.0)), judged(2), judged(3, evaluation(1.0, key="other")))
    assert budget.used()["patience"] == 0


def test_it_is_a_fold() -> None:
    events: list[Event] = [start()]
    for step in range(1, 30):
        events += [asked(step), replied(step, usd=step / 7, tokens=step)]
        events += [judged(step, evaluation(1 + step % 5, gpu=0.5))] if step % 3 else []
    clock = Clock()
    one, two = Budget(clock=clock), Budget(clock=clock)
    for event in events:
        one.observe(event, at=5.0)
        two.observe(event, at=5.0)
        one.used()
        one.spent()
    assert one.used() == two.used()
