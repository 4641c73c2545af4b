"""The judge's statistics against simulated noise: what it promises about luck must hold."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolve.judge.statistics import (
    LOOKS,
    RACE_BLOCKS,
    Block,
    Interval,
    brief,
    combine,
    decide,
    enough,
    hopeless,
    interval,
    kept,
    lost,
    margin,
    median,
    next_look,
    promotes,
    spread,
)

SIGMA = 0.0016  # of one block at 4096³ on an H200


def looks(gain: float, sigma: float, rng: random.Random, *, heavy: bool = False) -> tuple[str, int]:
    """Blocks as the timing stage would take them, until it stops: what it calls, and after how many."""
    rival: list[float] = []
    base: list[float] = []
    while True:
        for _ in range(next_look(len(rival)) - len(rival)):
            noise = rng.gauss(0, sigma) * (8 if heavy and rng.random() < 0.05 else 1)
            rival.append(math.log1p(gain) + noise)
            base.append(0.3 + rng.gauss(0, sigma))
        decision = decide(base, rival, aa_spread=sigma, configurations=100)
        if decision.stop:
            return decision.call, len(rival)


def test_a_kernel_against_itself_is_hardly_ever_called_faster():
    rng = random.Random(1)
    calls = [looks(0.0, SIGMA, rng)[0] for _ in range(1000)]
    assert calls.count("faster") == 0
    assert calls.count("slower") <= 50


def test_noise_ten_times_as_large_makes_no_false_winner_either():
    rng = random.Random(2)
    calls = [looks(0.0, 0.02, rng)[0] for _ in range(300)]
    assert calls.count("faster") <= 3


def test_small_slowdowns_are_seen():
    rng = random.Random(3)
    two = [looks(-0.02, SIGMA, rng)[0] for _ in range(200)]
    five = [looks(-0.05, SIGMA, rng) for _ in range(200)]
    assert two.count("slower") >= 198
    assert [c for c, _ in five].count("slower") == 200
    assert max(n for _, n in five) == LOOKS[0], "clearly slower kernels stop at the first look"


def test_a_real_gain_is_seen_through_wild_blocks():
    rng = random.Random(4)
    calls = [looks(0.03, SIGMA, rng, heavy=True)[0] for _ in range(200)]
    assert calls.count("faster") >= 190


def test_quiet_workloads_stop_at_the_first_full_look():
    rng = random.Random(5)
    assert {looks(0.0, SIGMA, rng)[1] for _ in range(100)} == {12}


def test_the_last_look_is_a_tie_not_a_guess():
    rng = random.Random(6)
    call, blocks = looks(0.0, 0.2, rng)
    assert (call, blocks) == ("tie", LOOKS[-1])


@pytest.mark.parametrize("count", LOOKS)
def test_the_interval_holds_the_median_as_often_as_it_says(count):
    rng = random.Random(count)
    missed = 0
    for _ in range(600):
        found = interval([rng.expovariate(1.0) - math.log(2) for _ in range(count)], alpha=0.05)
        missed += not found.low <= 0 <= found.high
    assert missed / 600 <= 0.08


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60))
def test_an_interval_surrounds_its_median(values):
    found = interval(values)
    assert found.low <= found.median <= found.high
    assert min(values) <= found.low
    assert found.high <= max(values)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=40), st.floats(-5, 5))
def test_spread_ignores_where_the_values_lie(values, shift):
    assert spread(values) == pytest.approx(spread([v + shift for v in values]), abs=1e-9)


def test_a_linear_drift_cancels_within_a_block():
    drifting = Block(order="CIBBIC", times_us=tuple(100 * math.exp(0.01 * i) for i in range(6)))
    assert drifting.log_ratio("I") == pytest.approx(0.0, abs=1e-12)
    assert drifting.log_ratio("B") == pytest.approx(0.0, abs=1e-12)


def test_log_ratio_is_positive_when_the_candidate_is_faster():
    block = Block(order="CBBC", times_us=(50, 100, 100, 50))
    assert block.log_ratio("B") == pytest.approx(math.log(2))


def test_margin_grows_with_what_was_tried():
    few = margin(aa_spread=0.0, sigma=0.05, configurations=10, blocks=12)
    many = margin(aa_spread=0.0, sigma=0.05, configurations=10_000, blocks=12)
    assert 0.01 < few < many
    assert margin(aa_spread=0.02, sigma=0.0, configurations=1, blocks=12) == pytest.approx(0.04)
    assert margin(aa_spread=0.0, sigma=0.0, configurations=1, blocks=12) == pytest.approx(0.01)


def test_the_luckiest_of_many_equal_kernels_is_not_promoted():
    rng = random.Random(8)
    won = 0
    for _ in range(400):
        logs = [rng.gauss(0, 0.03) for _ in range(12)]
        won += promotes([interval(logs)], [1.0], [spread(logs)], aa_spread=0.0, configurations=400)[0]
    assert won == 0


def test_promotion_weighs_workloads():
    up = Interval(median=0.10, low=0.09, high=0.11, blocks=12)
    down = Interval(median=-0.10, low=-0.11, high=-0.09, blocks=12)
    assert promotes([up, down], [9.0, 1.0], [0.001, 0.001], aa_spread=0.0, configurations=2)[0]
    assert not promotes([up, down], [1.0, 1.0], [0.001, 0.001], aa_spread=0.0, configurations=2)[0]


def test_combining_narrows():
    one = Interval(median=0.0, low=-0.01, high=0.01, blocks=12)
    assert combine([one] * 4, [1, 1, 1, 1]).half_width == pytest.approx(0.005)
    assert combine([one], [3]).half_width == pytest.approx(0.01)


def test_only_heat_discards():
    blocks = [Block(order="CBBC", times_us=(1, 1, 1, 1), slowed=s) for s in (False, True, None, False)]
    good, share = kept(blocks)
    assert (len(good), share) == (3, 0.25)


def test_median_of_even_and_odd():
    assert median([3, 1, 2]) == 2
    assert median([4, 1, 2, 3]) == 2.5


def test_several_workloads_need_less_of_each():
    assert enough(1) == pytest.approx(0.005)
    one = Interval(median=0.0, low=-enough(3), high=enough(3), blocks=48)
    assert combine([one] * 3, [1, 1, 1]).half_width == pytest.approx(0.005)
    assert enough(100) == enough(4) == pytest.approx(0.01)


def race(gains: list[float], rng: random.Random, *, place: float = 0.02, sigma: float = 0.003) -> bool:
    """Whether a race over workloads with these gains is lost: noise of blocks, and a place of its own for each."""
    parts = []
    for gain in gains:
        off = rng.gauss(0, place)
        parts.append(brief([math.log1p(gain) + off + rng.gauss(0, sigma) for _ in range(RACE_BLOCKS)]))
    return lost(parts, [1.0] * len(gains)) is not None


def test_hardly_anybody_who_is_not_slower_loses_a_race():
    rng = random.Random(11)
    for count in (1, 2, 4, 6):
        assert sum(race([0.0] * count, rng) for _ in range(400)) <= 0.025 * 400 + 8
        assert sum(race([0.02] * count, rng) for _ in range(400)) <= 2
    assert sum(race([-0.08] * 4, rng) for _ in range(200)) >= 195, "and who is clearly slower does"
    assert not any(race([0.3, -0.2, 0.0], rng) for _ in range(200)), "one bad workload loses nothing"


def test_few_blocks_say_as_much_as_they_know():
    """The true ratio lies in the interval in 95 of 100, with places as far apart as were seen on an H200."""
    rng, missed = random.Random(12), 0
    for _ in range(600):
        off = rng.gauss(0, 0.02)
        found = brief([off + rng.gauss(0, 0.003) for _ in range(RACE_BLOCKS)])
        missed += not found.low <= 0 <= found.high
    assert missed / 600 <= 0.05
    assert not hopeless([-0.8]), "one block is no block"
    assert hopeless([-0.8, -0.9])
    assert not hopeless([-0.8, -0.5])


def test_it_stops_where_the_score_is_known_well_enough():
    logs = [0.002 * (n % 15 - 7) for n in range(24)]
    assert not decide(logs, None, aa_spread=0.0, configurations=2).stop
    assert decide(logs, None, aa_spread=0.0, configurations=2, half_width=enough(4)).stop
