"""The bandit, on simulated councils."""

import random
import statistics
from collections import Counter
from collections.abc import Mapping

import pytest

from evolve.council.weights import FLOOR, Adaptive, Arm, Fixed

KINDS = {"diff": 5.0, "rewrite": 2.0, "crossover": 1.0, "explore": 1.0}
COUNCILS = 60


def arms(*members: str, kinds: Mapping[str, float] = KINDS) -> list[Arm]:
    return [Arm(member=m, weight=1.0, kinds=kinds) for m in members]


def simulate(
    seed: int, steps: int, rates: dict[str, float], *, swap: int = 0, usd: Mapping[str, float] | None = None,
    gpu: Mapping[str, float] | None = None, bandit: Adaptive | None = None, start: int = 0,
) -> list[str]:  # fmt: skip
    """Who was asked, step by step. At `swap` the members trade their rates."""
    bandit, world, asked = bandit or Adaptive(), random.Random(seed * 1009 + 1), []
    rates = dict(rates)
    for step in range(start, start + steps):
        if swap and step == swap:
            rates = dict(zip(rates, reversed(rates.values()), strict=True))
        member, kind = bandit.pick(arms(*rates), random.Random(f"{seed}/{step}"))
        bandit.learn(
            member, kind, improved=world.random() < rates[member], usd=(usd or {}).get(member, 0.0),
            gpu_seconds=(gpu or {}).get(member, 0.0),
        )  # fmt: skip
        asked.append(member)
    return asked


def share(asked: list[str], member: str) -> float:
    return asked.count(member) / len(asked)


def test_it_finds_the_better_member_within_150_steps() -> None:
    found = [share(simulate(seed, 150, {"good": 0.20, "poor": 0.05})[100:], "good") for seed in range(COUNCILS)]
    assert statistics.mean(found) > 0.75
    assert sum(f > 0.5 for f in found) >= 0.9 * COUNCILS


def test_it_recovers_within_150_steps_of_a_swap() -> None:
    found = [share(simulate(s, 300, {"a": 0.20, "b": 0.05}, swap=150)[250:], "b") for s in range(COUNCILS)]
    assert statistics.mean(found) > 0.75
    assert sum(f > 0.5 for f in found) >= 0.9 * COUNCILS


def test_it_starves_none() -> None:
    for seed in range(20):
        asked = Counter(simulate(seed, 1000, {"good": 0.4, "poor": 0.0, "worse": 0.0}))
        assert min(asked.values()) > 0.5 * FLOOR * 1000
        assert len(asked) == 3


def test_it_finds_the_better_kind_of_a_member() -> None:
    late: Counter[str] = Counter()
    for seed in range(20):
        bandit, world = Adaptive(), random.Random(seed)
        for step in range(200):
            member, kind = bandit.pick(arms("a"), random.Random(f"{seed}/{step}"))
            improved = world.random() < {"rewrite": 0.3}.get(kind, 0.03)
            bandit.learn(member, kind, improved=improved, usd=0.0, gpu_seconds=0.0)
            if step >= 100:
                late[kind] += 1
    assert late["rewrite"] > 0.6 * late.total(), "against its YAML weight of 2 in 9"
    assert len(late) == len(KINDS)


@pytest.mark.parametrize("what", ["usd", "gpu"])
def test_of_two_equals_the_cheaper_is_asked_more(what: str) -> None:
    price = {"dear": 1.0, "cheap": 0.05}
    rates = {"dear": 0.15, "cheap": 0.15}
    found = [share(simulate(s, 400, rates, **{what: price})[50:], "cheap") for s in range(30)]  # type: ignore[arg-type]
    assert statistics.mean(found) > 0.6


def test_a_dear_member_that_is_much_better_is_worth_it() -> None:
    found = [share(simulate(s, 300, {"dear": 0.4, "cheap": 0.05}, usd={"dear": 1.0})[100:], "dear") for s in range(30)]
    assert statistics.mean(found) > 0.7


def test_yaml_weights_are_where_it_begins() -> None:
    heavy = Arm(member="heavy", weight=9.0, kinds=KINDS)
    light = Arm(member="light", weight=1.0, kinds=KINDS)
    bandit = Adaptive()
    first = Counter(bandit.pick([heavy, light], random.Random(s))[0] for s in range(1000))
    assert first["heavy"] > 2 * first["light"]
    assert bandit.shares([heavy, light])["heavy"] > 0.7


def test_it_is_a_fold() -> None:
    one, two = Adaptive(), Adaptive()
    simulate(1, 100, {"a": 0.2, "b": 0.1}, bandit=one)
    simulate(1, 100, {"a": 0.2, "b": 0.1}, bandit=two)
    picks = [[b.pick(arms("a", "b"), random.Random(s)) for s in range(50)] for b in (one, two)]
    assert picks[0] == picks[1]


def test_thousands_of_steps_overflow_nothing_and_forget_the_first() -> None:
    bandit = Adaptive()
    simulate(1, 20_000, {"a": 0.2, "b": 0.05}, bandit=bandit)
    assert share(simulate(2, 150, {"a": 0.05, "b": 0.2}, bandit=bandit, start=20_000)[100:], "b") > 0.5


def test_shares_add_up_and_favour_who_gains() -> None:
    bandit = Adaptive()
    simulate(4, 200, {"good": 0.4, "poor": 0.02}, bandit=bandit)
    shares = bandit.shares(arms("good", "poor"))
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["good"] > 0.7


def test_fixed_weights_learn_nothing() -> None:
    fixed = Fixed()
    for _ in range(100):
        fixed.learn("a", "diff", improved=True, usd=0.0, gpu_seconds=0.0)
    asked = Counter(fixed.pick(arms("a", "b"), random.Random(s))[0] for s in range(2000))
    assert abs(asked["a"] - 1000) < 4 * 500**0.5
