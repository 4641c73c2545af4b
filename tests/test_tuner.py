"""Ask and tell: what is asked, what is never asked, and what is found."""

import logging
import random
import time
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.tuner import Tuner, key_of, nearest
from evolve.tuner_known import Limits, Setting, pairs, plain
from evolve.tuner_priors import priors
from evolve.tuner_search import Search

SPACE = {
    "BLOCK_M": (16, 32, 64, 128, 256),
    "BLOCK_N": (32, 64, 128, 256),
    "BLOCK_K": (32, 64, 128),
    "num_warps": (4, 8),
    "num_stages": (2, 3, 4, 5),
}
BEST = {"BLOCK_M": 128, "BLOCK_N": 256, "BLOCK_K": 64, "num_warps": 8, "num_stages": 3}


MATMUL = Setting(element_bytes=2)


def bowl(point, best=BEST):
    """Smooth in the positions of the values, with its floor of 100 µs at `best`."""
    steps = [abs(SPACE[n].index(point[n]) - SPACE[n].index(best[n])) / len(SPACE[n]) for n in SPACE]
    return 100.0 * (1 + sum(s * s for s in steps))


def run(tuner, value=bowl, batch=1):
    asked = []
    while points := tuner.ask(batch):
        for point in points:
            asked.append(point)
            tuner.tell(point, value(point))
    return asked


# --- What is asked ----------------------------------------------------------------------------------------------------


def test_what_is_believed_in_comes_first_whole_and_in_its_order():
    parents = {"BLOCK_M": 256, "num_stages": 4, "GONE": 1}
    defaults = {name: values[0] for name, values in SPACE.items()}
    asked = Tuner(SPACE, start=[parents, defaults, BEST, defaults], points=10).ask(4)
    assert asked[:3] == [{**defaults, "BLOCK_M": 256, "num_stages": 4}, defaults, BEST]
    assert len({key_of(p) for p in asked}) == 4, "the fourth start was asked already, so another point took its place"


def test_a_start_may_lie_outside_the_space():
    tuner = Tuner(SPACE, start=[{**BEST, "BLOCK_M": 48}], points=20)
    asked = run(tuner, lambda p: 5.0 if p["BLOCK_M"] == 48 else 9.0)
    assert asked[0]["BLOCK_M"] == 48
    assert all(p["BLOCK_M"] in SPACE["BLOCK_M"] for p in asked[1:])
    assert tuner.best.point == asked[0]


def test_a_space_that_fits_the_budget_is_tried_whole():
    space = {"a": (1, 2, 3), "b": (True, False), "c": ("only",)}
    tuner = Tuner(space, points=6)
    asked = run(tuner, lambda p: 1.0 + p["a"], batch=4)
    assert sorted(map(key_of, asked)) == sorted(
        key_of({"a": a, "b": b, "c": "only"}) for a, b, _ in product(*space.values())
    )
    assert tuner.ask(1) == []


def test_a_space_with_few_feasible_points_is_exhausted_too():
    tuner = Tuner(SPACE, points=40, feasible=lambda p: None if p["BLOCK_M"] == p["BLOCK_N"] == 64 else "not square")
    asked = run(tuner)
    assert len(asked) == 24
    assert all(p["BLOCK_M"] == p["BLOCK_N"] == 64 for p in asked)


@settings(max_examples=40, deadline=None)
@given(
    space=st.dictionaries(
        st.text(min_size=1, max_size=6),
        st.lists(
            st.booleans() | st.integers(-5, 1 << 40) | st.floats(-2, 2) | st.text(max_size=3), min_size=0, max_size=6
        ),
        max_size=5,
    ),
    points=st.integers(1, 25),
    batch=st.integers(1, 7),
    seed=st.integers(0, 5),
)
def test_odd_spaces_are_searched_without_repeating_a_point(space, points, batch, seed):
    tuner = Tuner(space, points=points, random_seed=seed)
    rng = random.Random(seed)
    asked = run(tuner, lambda p: rng.choice([None, 1.0, 2.5]), batch)
    assert len({key_of(p) for p in asked}) == len(asked) == min(points, tuner.size)
    for point in asked:
        assert all(any(repr(point[n]) == repr(v) for v in space[n]) for n in point)


def test_equal_numbers_of_different_kinds_are_different_points():
    asked = run(Tuner({"x": (1, True, 1.0, "1")}, points=10), lambda p: 1.0)
    assert sorted(repr(p["x"]) for p in asked) == ["'1'", "1", "1.0", "True"]


@pytest.mark.parametrize("batch", [1, 5])
def test_the_same_numbers_and_seed_give_the_same_questions(batch):
    first, again, other = (run(Tuner(SPACE, random_seed=s, points=40), batch=batch) for s in (3, 3, 4))
    assert first == again
    assert first != other


def test_telling_what_was_not_asked_is_the_callers_mistake():
    tuner = Tuner(SPACE, points=5)
    (point,) = tuner.ask()
    with pytest.raises(ValueError, match="positive and finite"):
        tuner.tell(point, float("nan"))
    tuner.tell(point, 3.0)
    with pytest.raises(ValueError, match="not waiting"):
        tuner.tell(point, 3.0)


# --- What is found ----------------------------------------------------------------------------------------------------


def test_it_finds_more_than_chance_does():
    """480 points, 60 questions: the mean over seeds of the best found, against as many random ones."""
    found, chance = [], []
    everything = [dict(zip(SPACE, v, strict=True)) for v in product(*SPACE.values())]
    for seed in range(8):
        tuner = Tuner(SPACE, random_seed=seed, points=60)
        run(tuner, batch=4)
        found.append(tuner.best.value_us)
        chance.append(min(map(bowl, random.Random(seed).sample(everything, 60))))
    assert sum(found) < sum(chance)
    assert sum(f < 101 for f in found) >= 6, found


def test_infeasible_points_are_remembered_and_avoided():
    def value(point):
        return None if point["BLOCK_M"] >= 128 else bowl(point)

    tuner = Tuner(SPACE, start=[BEST], random_seed=1, points=60)
    asked = run(tuner, value)
    assert tuner.trials[0].value_us is None
    assert tuner.best.point["BLOCK_M"] == 64
    late = [p for p in asked[30:] if p["BLOCK_M"] >= 128]
    assert len(late) < 12, "two fifths of the space, and it should know by then"


def test_nothing_feasible_has_no_best():
    tuner = Tuner({"x": (1, 2)}, points=4)
    (first, second) = tuner.ask(4)
    tuner.tell(first, None, why="it does not build")
    tuner.tell(second, None)
    assert tuner.best is None
    assert tuner.trials[0].why == "it does not build"


def test_150_questions_take_about_a_second():
    run(Tuner(SPACE, points=5))  # the import
    began = time.process_time()  # the machine may be busy with others
    asked = run(Tuner(SPACE, points=150, feasible=Limits(setting=MATMUL)))
    assert len(asked) == 150
    assert time.process_time() - began < 5, "about one second of a quick core"


def test_optuna_says_nothing(caplog, capfd):
    with caplog.at_level(logging.DEBUG):
        run(Tuner(SPACE, points=12))
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


# --- What cannot work -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "why"),
    [
        (BEST, None),
        ({**BEST, "num_warps": 4}, "256 accumulators"),
        ({**BEST, "BLOCK_K": 128, "num_stages": 5}, "shared memory"),
        ({**BEST, "BLOCK_M": 96}, "no power of two"),
        ({**BEST, "num_warps": 64}, "at most 32"),
        ({"BLOCK_M": 512, "BLOCK_N": 512}, None),
        ({"num_stages": 9, "SPLIT": 3, "BLOCK_M": True}, None),
    ],
)
def test_what_cannot_work_is_known_before_a_build(point, why):
    found = Limits(setting=MATMUL)(point)
    assert found is None if why is None else why in found


ATTENTION = Setting(sizes={"S": 4096, "D": 128}, chained=True, wgmma=True, element_bytes=2)


@pytest.mark.parametrize(
    ("setting", "point", "why"),
    [
        (MATMUL, {**BEST, "num_warps": 4, "WARP_SPECIALIZE": True}, None),
        (MATMUL, {**BEST, "num_warps": 4, "WARP_SPECIALIZE_2": False}, "accumulators"),
        (Setting(element_bytes=2, specialized=True), {**BEST, "num_warps": 4}, None),
        (ATTENTION, {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 8, "num_stages": 3}, None),
        (ATTENTION, {"BLOCK_M": 128, "BLOCK_N": 128, "num_warps": 8, "num_stages": 3}, None),
        (ATTENTION, {"BLOCK_M": 128, "BLOCK_N": 128, "num_warps": 4, "num_stages": 2}, "accumulators"),
        (ATTENTION, {"BLOCK_M": 128, "BLOCK_N": 128, "num_warps": 4, "num_stages": 2, "WARP_SPECIALIZE": True}, None),
        (ATTENTION, {"BLOCK_M": 64, "BLOCK_N": 128, "num_warps": 4, "num_stages": 4}, "278,528 B"),  # what ptxas says
        (ATTENTION, {"BLOCK_M": 32, "BLOCK_N": 128, "num_warps": 4, "num_stages": 4}, None),
    ],
)
def test_it_depends_on_the_kernel_what_cannot_work(setting, point, why):
    found = Limits(setting=setting)(point)
    assert found is None if why is None else why in found


def test_what_is_hopeless_is_left_out_of_large_spaces_only():
    low = {"BLOCK_M": 32, "BLOCK_N": 64, "num_warps": 4, "num_stages": 3}
    shared_rows = {**low, "BLOCK_M": 64, "num_warps": 8}
    limits = Limits(setting=ATTENTION, doubts=True)
    assert "WGMMA" in limits(low)
    assert "softmax" in limits(shared_rows)
    assert limits({**shared_rows, "BLOCK_M": 128}) is None
    assert Limits(setting=ATTENTION)(low) is None
    capped = {**shared_rows, "num_warps": 4, "REGISTERS": 96}
    assert "too few of 96 registers" in limits(capped)
    assert limits({**capped, "REGISTERS": 128}) is None
    assert limits({**capped, "REGISTERS": 0}) is None
    few_rows = Setting(sizes={"M": 16, "N": 4096, "K": 4096}, wgmma=True, element_bytes=2)
    assert Limits(setting=few_rows, doubts=True)({**BEST, "BLOCK_M": 16}) is None


def test_what_was_built_overrules_a_rule_and_only_that():
    limits = Limits(setting=MATMUL)
    built = {**BEST, "num_warps": 4}
    assert limits(built)
    limits.overrule(built)
    assert limits(built) is None
    assert limits({**BEST, "BLOCK_N": 96})


def test_refused_points_are_on_record_until_they_are_allowed():
    limits = Limits(setting=MATMUL)
    space = {"BLOCK_M": (128,), "BLOCK_N": (128, 256), "num_warps": (4,)}
    tuner = Tuner(space, points=8, feasible=limits)
    (only,) = tuner.ask(8)
    ((refused, why),) = tuner.refused
    assert (only["BLOCK_N"], refused["BLOCK_N"]) == (128, 256)
    assert "accumulators" in why
    limits.overrule(refused)
    assert tuner.ask(8) == [refused]
    assert tuner.refused == []


def test_priors_are_of_the_space():
    assert {**BEST} in priors(SPACE)
    for point in priors(SPACE):
        assert all(value in SPACE[name] for name, value in point.items())
    assert priors({"BLOCK_M": (128,), "BLOCK_N": (64,), "num_warps": (8,)}) == [
        {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 8}
    ]
    assert priors({"ROWS": (1, 2)}) == []


def matmul(m, n, k, **more):
    return Setting(sizes={"M": m, "N": n, "K": k}, element_bytes=2, wgmma=True, **more)


WIDE = {**SPACE, "num_stages": (2, 3, 4, 5, 6)}
HEADS = {"BLOCK_M": (32, 64, 128), "BLOCK_N": (32, 64, 128), "num_warps": (4, 8), "num_stages": (2, 3, 4)}
NARROW = Setting(sizes={"S": 2048, "D": 64}, chained=True, element_bytes=2)


@pytest.mark.parametrize(
    ("space", "setting", "wanted"),
    [
        (WIDE, matmul(4096, 4096, 4096), [(128, 256, 64, 8, 3), (128, 128, 64, 4, 4), (256, 128, 64, 8, 3)]),
        (WIDE, matmul(4096, 4096, 4096, specialized=True), [(128, 256, 64, 4, 3), (128, 128, 64, 4, 4)]),
        (WIDE, matmul(16, 4096, 4096), [(16, 64, 128, 4, 4), (16, 64, 64, 4, 6)]),
        (WIDE, matmul(512, 512, 16384), [(64, 64, 128, 4, 4), (128, 128, 64, 4, 4)]),
        (HEADS, ATTENTION, [(128, 64, 8, 3), (128, 128, 8, 3)]),
        (HEADS, NARROW, [(128, 128, 4, 3)]),
    ],
)
def test_hoppers_best_are_among_the_first(space, setting, wanted):
    """Whatever the parameters are called."""
    for names in (space, {name.replace("BLOCK_", "BLOCK_SIZE_"): values for name, values in space.items()}):
        asked = Tuner(names, start=priors(names, setting), points=40, feasible=Limits(setting=setting)).ask(10)
        found = [tuple(point.values()) for point in asked]
        assert set(wanted) <= set(found)


def test_the_switch_of_specialized_warps_brings_its_own_priors():
    space = {**WIDE, "WARP_SPECIALIZE": (True, False)}
    found = priors(space, matmul(4096, 4096, 4096))
    assert {(p["num_warps"], p["WARP_SPECIALIZE"]) for p in found} >= {(4, True), (8, False), (4, False)}
    assert (8, True) not in {(p["num_warps"], p["WARP_SPECIALIZE"]) for p in found}, "Triton declines it in silence"
    assert {"BLOCK_M": 128, "BLOCK_N": 256, "BLOCK_K": 64, "num_warps": 4, "num_stages": 3} in [
        {n: v for n, v in p.items() if n != "WARP_SPECIALIZE"} for p in found
    ]


@pytest.mark.parametrize(("setting", "columns"), [(ATTENTION, 64), (NARROW, 128)])
def test_a_cap_on_registers_comes_with_what_it_was_made_for(setting, columns):
    found = priors({**HEADS, "REGISTERS": (0, 96, 128, 168)}, setting)
    capped = [p for p in found if p["REGISTERS"]]
    best = {"BLOCK_M": 128, "BLOCK_N": columns, "num_warps": 8, "num_stages": 2, "REGISTERS": 128}
    assert capped == [best]
    assert found.index(best) == 0
    assert len(found) > 3


def test_a_sum_is_split_where_that_fills_the_chip_and_leaves_each_part_enough():
    space = {**WIDE, "SPLIT_K": (1, 2, 4, 8, 16, 32)}
    parts = {
        sizes: {p["SPLIT_K"] for p in priors(space, matmul(*sizes))}
        for sizes in ((4096, 4096, 4096), (512, 512, 16384), (512, 512, 512), (16, 4096, 4096))
    }
    assert parts[4096, 4096, 4096] == {1}
    assert 8 in parts[512, 512, 16384]
    assert max(parts[512, 512, 512]) <= 2, "eight steps of 64 are not shared by eight"
    assert parts[16, 4096, 4096] <= {1, 2, 4}


def test_few_rows_begin_without_what_a_program_sets_up():
    """On an H200 a skinny product took 16 µs with descriptors and a persistent grid, and 12.8 without both."""
    space = {**WIDE, "DESCRIPTORS": (True, False), "PROGRAMS_PER_SM": (0, 1), "SPLIT_K": (1, 2, 4)}
    for point in priors(space, matmul(16, 4096, 4096)):
        assert (point["DESCRIPTORS"], point["PROGRAMS_PER_SM"]) == (False, 0)
    assert {p["SPLIT_K"] for p in priors(space, matmul(16, 4096, 4096))} > {1}
    assert "DESCRIPTORS" not in priors(space, matmul(4096, 4096, 4096))[0], "as it came"


def test_switches_have_an_off_and_tiles_have_none():
    space = {"SPLIT_K": (4, 1, 8), "DESCRIPTORS": (True, False), "PROGRAMS_PER_SM": (1, 0, 2), "GROUP_M": (1, 8)}
    assert plain({**SPACE, **space, "EVICT": ("evict_first", ""), "DEPTH": (2, 3)}) == {
        "SPLIT_K": 1,
        "DESCRIPTORS": False,
        "PROGRAMS_PER_SM": 0,
        "GROUP_M": 1,
        "EVICT": "",
    }


def test_beside_the_best_lie_steps_of_two_and_switches_at_off():
    space = {**SPACE, "SPLIT_K": (1, 2, 4, 8)}
    here = {**BEST, "BLOCK_M": 64, "num_warps": 4, "SPLIT_K": 8}
    tuner = Tuner(space, start=[here], points=100, pairs=pairs(space), plain=plain(space))
    (first,) = tuner.ask(1)
    tuner.tell(first, 100.0)
    beside = []
    while asked := tuner.ask(1, near=True):
        beside += asked
        tuner.tell(asked[0], 200.0)
    assert tuner.settled()
    moved = [{n for n in space if p[n] != here[n]} for p in beside]
    assert {"SPLIT_K": 1} in [{n: p[n] for n in m} for p, m in zip(beside, moved, strict=True)]
    assert {"BLOCK_M", "num_warps"} in moved
    assert {"BLOCK_K", "num_stages"} in moved
    assert max(map(len, moved)) == 2


# --- Workloads side by side -------------------------------------------------------------------------------------------


def child(kin, value=bowl, **more):
    """A search of two workloads, whose first start is what the parent had; how many points each asked."""
    starts = [{**BEST, "num_stages": 4}, {**BEST, "BLOCK_M": 64, "num_warps": 4}]
    tuners = {n: Tuner(SPACE, start=starts, points=40, pairs=pairs(SPACE)) for n in ("one", "two")}
    search, rounds = Search(tuners=tuners, points=40, kin=kin), 0
    while asked := search.ask(10):
        for name, point in asked:
            tuners[name].tell(point, value(point))
        search.compare({n: (more["best"] / t.best.value_us, 1.0) for n, t in tuners.items()} if more else {})
        rounds += 1
        if search.over:
            break
        search.share([t.best.point for t in tuners.values()])
    return {n: t.asked for n, t in tuners.items()}, search, rounds


def test_a_child_asks_few_points_unless_it_contends_and_most_where_it_leads():
    everything, _, _ = child("none", best=50.0)
    few, search, _ = child("familiar", best=88.0)
    assert everything["one"] > 20
    assert set(few.values()) == {5}
    assert "of the best candidate's speed" in search.over
    some, _, _ = child("strange", best=88.0)
    assert set(some.values()) == {6}
    more, _, _ = child("strange", best=97.0)
    assert set(more.values()) == {12}
    near, _, _ = child("familiar", best=105.0)
    assert 5 < near["one"] <= 16
    most, search, _ = child("strange", best=105.0)
    assert near["one"] < most["one"] <= 24


def test_who_is_far_behind_everywhere_is_left_after_a_round():
    asked, search, rounds = child("strange", best=70.0)
    assert rounds == 1
    assert "1.3 times slower" in search.over
    assert set(asked.values()) == {2}, "its starts"


def test_without_anything_to_be_compared_with_a_child_may_lead():
    asked, search, _ = child("familiar")
    assert search.speed == 1
    assert asked["one"] > 5


def test_steps_of_what_is_favoured_come_first():
    tuner = Tuner(SPACE, start=[BEST], points=40, favour=("num_stages",))
    (first,) = tuner.ask(1)
    tuner.tell(first, 100.0)
    assert [p["num_stages"] for p in tuner.ask(2, near=True)] == [2, 4]


# --- Sizes that were never tuned --------------------------------------------------------------------------------------

TABLE = [
    ({"M": 4096, "N": 4096, "K": 4096}, {"BLOCK_M": 128}),
    ({"M": 16, "N": 4096, "K": 4096}, {"BLOCK_M": 16}),
    ({"M": 512, "N": 512, "K": 16384}, {"BLOCK_M": 64}),
]


@pytest.mark.parametrize(
    ("sizes", "block"),
    [((4096, 4096, 4096), 128), ((5000, 8192, 2048), 128), ((1, 4096, 4096), 16), ((300, 700, 9000), 64)],
)
def test_the_nearest_by_ratio_answers(sizes, block):
    assert nearest(TABLE, dict(zip("MNK", sizes, strict=True))) == {"BLOCK_M": block}


def test_flags_count_and_nothing_has_nothing_near():
    table = [({"M": 64, "causal": True}, {"x": 1}), ({"M": 128, "causal": False}, {"x": 2})]
    assert nearest(table, {"M": 64, "causal": False}) == {"x": 2}
    assert nearest(table, {"M": 64, "causal": True}) == {"x": 1}
    assert nearest(table, {"M": 0, "layout": "nt"}) == {"x": 1}, "the first of equals, whatever is asked"
    assert nearest([], {"M": 1}) == {}


def test_who_has_not_found_better_for_long_is_stale():
    tuner = Tuner({"x": tuple(range(30))}, points=30)
    values = iter([None, 90.0, 100.0, 89.5, 95.0, None])
    assert tuner.stale(1.01) == 0
    for _ in range(6):
        (point,) = tuner.ask()
        tuner.tell(point, next(values))
    assert tuner.stale(1.01) == 4, "89.5 is no better than 90 by more than one in a hundred"
    (point,) = tuner.ask()
    tuner.tell(point, 50.0)
    assert tuner.stale(1.01) == 0


def test_what_is_suggested_is_asked_next_and_once():
    tuner = Tuner(SPACE, points=20)
    (first,) = tuner.ask()
    tuner.suggest([BEST, first, {**BEST, "BLOCK_M": 16}, BEST])
    assert tuner.ask(2) == [BEST, {**BEST, "BLOCK_M": 16}]
    limited = Tuner(SPACE, points=20, feasible=lambda p: "no" if p["BLOCK_M"] == 16 else None)
    limited.suggest([{**BEST, "BLOCK_M": 16}, BEST])
    assert limited.ask()[0] == BEST


def test_near_asks_beside_the_best_and_nowhere_else_until_it_is_settled():
    space = {"a": (1, 2, 4, 8, 16), "b": (1, 2, 3, 4, 5), "c": (1, 2, 3, 4, 5)}
    tuner = Tuner(space, start=[{"a": 4, "b": 2, "c": 2}], points=60)
    best = (4, 2, 2)
    for point in tuner.ask(1):
        tuner.tell(point, 100.0)
    while asked := tuner.ask(1, near=True):
        (point,) = asked
        here = (point["a"], point["b"], point["c"])
        steps = [abs(space[n].index(x) - space[n].index(y)) for n, x, y in zip("abc", here, best, strict=True)]
        assert sum(steps) == 1
        value = 10.0 + sum((space[n].index(x) - goal) ** 2 for n, x, goal in zip("abc", here, (4, 3, 0), strict=True))
        tuner.tell(point, value)
        best = tuple(tuner.best.point[n] for n in "abc")
    assert best == (16, 4, 1)
    assert tuner.settled()
    assert tuner.ask(1), "elsewhere there is more to try"
