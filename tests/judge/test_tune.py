"""Tuning without a GPU: what is tried, what is chosen, what is kept, and that a confirmation repeats it."""

import json
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from evolve import wiring
from evolve.config import RunConfig, TunerConfig
from evolve.judge import backends
from evolve.judge.contract import job_of
from evolve.judge.pipeline import Record
from evolve.judge.points import Maker
from evolve.judge.stages import Point, Ruling, Screened
from evolve.judge.tune import Tuning, first_points
from evolve.problem import with_workloads
from evolve.tuner import key_of
from evolve.types import Verdict, Workload

sys.path.insert(0, str(Path(__file__).parent))

from cpu_bench import ROOT, TIMED, matmul, opened, swapped

OWN = """TUNE = {
    "BLOCK_M": (16, 32, 64, 128, 256),
    "BLOCK_N": (32, 64, 128, 256),
    "BLOCK_K": (32, 64, 128),
    "num_warps": (4, 8),
    "num_stages": (2, 3, 4, 5, 6),
}"""
GRID = {"BLOCK_M": (16, 64), "BLOCK_N": (64, 128), "num_stages": (2, 4)}
CHECKED = "    M, K = a.shape\n"


def tuned_over(space, *pairs):
    return swapped((OWN, f"TUNE = {space!r}"), *pairs)


def grid(space=None):
    space = space or GRID
    return [dict(zip(space, values, strict=True)) for values in product(*space.values())]


def at(point):
    """The seed with a point as its defaults, and nothing to tune."""
    usual = {"BLOCK_M": 64, "BLOCK_N": 64, "num_stages": 2}
    return swapped((f"{OWN}\n", ""), *((f"{n}={usual[n]},", f"{n}={v},") for n, v in point.items() if v != usual[n]))


@pytest.fixture(scope="module")
def cpu(tmp_path_factory):
    made = opened(tmp_path_factory.mktemp("cpu"), tuner=Tuning(points=8, seconds=120))
    yield made.backend
    made.backend.close()


@pytest.fixture(scope="module")
def tuned(cpu):
    found = cpu.evaluate(job_of(tuned_over(GRID)))
    assert found.verdict is Verdict.PASSED, found.feedback
    return found


def tried(evaluation, workload):
    return evaluation.evidence["tune"]["workloads"][workload]


# --- What is chosen ---------------------------------------------------------------------------------------------------


def test_it_finds_what_trying_everything_finds(cpu, tuned):
    times = {w.name: {} for w in TIMED}
    for point in grid():
        ready = cpu.prepare(job_of(at(point)), Record())
        for name, prediction in cpu.device.predict(ready).items():
            times[name][key_of(point)] = prediction.time_us
    assert {m.workload for m in tuned.measurements} == set(times)
    for m in tuned.measurements:
        assert m.time_us == pytest.approx(min(times[m.workload].values()))
        assert times[m.workload][key_of({n: m.parameters[n] for n in GRID})] == pytest.approx(m.time_us)
        for row in tried(tuned, m.workload)["tried"]:
            assert row["time_us"] == pytest.approx(times[m.workload][key_of(row["parameters"])])
    chosen = [m.parameters["BLOCK_M"] for m in tuned.measurements]
    assert chosen == [64, 16], "a square product and one of sixteen rows want different tiles"
    assert tuned.score > 1.5, "the seed's defaults are the baseline"


@pytest.mark.parametrize("width", [1, 3])
def test_points_come_back_in_the_order_they_were_asked_in(cpu, width):
    """However they were put together for the jail: those that share their TTIR go together."""
    bench = cpu.tune
    maker = Maker(problem=bench.problem, target=bench.target, jail=bench.jail, builder=bench.builder, width=width)
    screened = cpu.prepare(job_of(tuned_over(GRID)), Record()).screened
    wanted = [
        Point(workload=bench.problem.workload(w.name, bench.variant), parameters={**screened.defaults, **point})
        for w in TIMED
        for point in grid()
    ]
    made = maker.make(screened, wanted)
    assert [(s.point.workload, s.point.parameters) for s in made] == [(p.workload, p.parameters) for p in wanted]
    assert [s.plan.workload for s in made] == [p.workload.name for p in wanted]
    assert all(dict(s.plan.parameters) == p.parameters for s, p in zip(made, wanted, strict=True))


def test_a_child_starts_from_its_parents_best(cpu, tuned):
    child = tuned_over(GRID, ("    c = torch.empty((M, N)", "    assert M > 0\n    c = torch.empty((M, N)"))
    found = cpu.evaluate(job_of(child, step=2, parent=tuned))
    for workload, parameters in tuned.parameters.items():
        first = tried(found, workload)["tried"][0]["parameters"]
        assert first == {n: parameters[n] for n in GRID}


def test_a_switch_that_does_nothing_at_a_size_is_off_in_its_row(cpu):
    """A row also answers for sizes that nobody tuned, where the switch may do something."""
    space = {"BLOCK_M": (16, 64), "DEEPER": (2, 0)}
    switch = "    M, K = a.shape\n    if M < 64:\n        num_stages = num_stages + DEEPER\n"
    source = tuned_over(space, (CHECKED, switch), ("num_stages=2,", "num_stages=2, DEEPER=2,"))
    found = cpu.evaluate(job_of(source))
    assert found.verdict is Verdict.PASSED, found.feedback
    square, skinny = (found.parameters[w.name] for w in TIMED)
    assert square["DEEPER"] == 0
    assert skinny["DEEPER"] == 2, "where it is faster it stays on, else this test shows nothing"
    row = tried(found, "square")
    assert {key_of(p["parameters"]) for p in row["tried"]} == set(map(key_of, grid(space))), "off is tried everywhere"
    assert row["time_us"] == min(p["time_us"] for p in row["tried"])
    confirmed = cpu.evaluate(job_of(source, mode="confirm", parameters=found.parameters))
    plans = confirmed.evidence["plan"]["workloads"]
    for name in ("held_wide", "held_ragged"):
        assert dict(plans[name]["parameters"])["DEEPER"] == 0, "nearest to the square"


@pytest.mark.slow
def test_a_child_of_its_parents_form_is_done_after_a_third_and_another_is_not(cpu):
    space = {"BLOCK_M": (16, 64, 128), "BLOCK_N": (64, 128), "BLOCK_K": (32, 64), "num_warps": (4, 8)}
    cpu.tune.tuning = Tuning(points=21, seconds=300)
    try:
        parent = cpu.evaluate(job_of(tuned_over(space)))
        same = tuned_over(space, (CHECKED, CHECKED + "    assert M > 0\n"))
        loop = "    for nothing in range(0, N, N):\n        acc += nothing\n    for k in range("
        other = tuned_over(space, ("    for k in range(", loop))
        found = [cpu.evaluate(job_of(text, step=n, parent=parent)) for n, text in ((1, same), (2, other))]
    finally:
        cpu.tune.tuning = Tuning(points=8, seconds=120)
    assert [f.verdict for f in (parent, *found)] == [Verdict.PASSED] * 3, [f.feedback for f in found]
    whole, familiar, strange = (
        sum(len(row["tried"]) for row in f.evidence["tune"]["workloads"].values()) for f in (parent, *found)
    )
    assert [f.evidence["tune"]["kin"] for f in found] == ["familiar", "strange"]
    assert familiar <= 0.5 * whole, (whole, familiar, strange)
    assert strange > familiar


def test_who_has_nothing_to_tune_stays_as_it_was(cpu):
    found = cpu.evaluate(job_of(at({})))
    assert found.verdict is Verdict.PASSED, found.feedback
    assert "tune" not in found.evidence
    assert {m.parameters["BLOCK_M"] for m in found.measurements} == {64}


# --- What is kept -----------------------------------------------------------------------------------------------------


def test_the_evidence_has_every_point_and_what_was_chosen(tuned):
    kept = tuned.evidence["tune"]
    json.dumps(kept, allow_nan=False)
    assert kept["points"] == 8
    assert 0 < kept["seconds"]["taken"] <= tuned.seconds["tune"] + 0.01
    assert set(kept["workloads"]) == {w.name for w in TIMED} == set(kept["plan"]["workloads"])
    for m in tuned.measurements:
        row = tried(tuned, m.workload)
        assert {key_of(r["parameters"]) for r in row["tried"]} == set(map(key_of, grid()))
        assert row["space"] == 8
        assert row["chosen"] == m.parameters
        (launch,) = kept["plan"]["workloads"][m.workload]["launches"]
        assert launch["ttir"] in {k["ttir"] for k in kept["build"]["kernels"].values()}
        assert dict(kept["plan"]["workloads"][m.workload]["parameters"]) == m.parameters
    winners = {key_of(r["parameters"]) for r in kept["checks"]}
    assert winners <= {key_of(m.parameters) for m in tuned.measurements}
    assert winners, "other tiles than the defaults' are checked again"
    assert all(error <= 1 for r in kept["checks"] for error in r["errors"].values())


def test_infeasible_points_are_on_record_with_their_reasons(cpu):
    space = {"BLOCK_K": (32, 48, 128), "BLOCK_N": (64, 256), "BLOCK_M": (128,), "num_stages": (2, 4, 5)}
    source = tuned_over(space, (CHECKED, CHECKED + "    assert BLOCK_N != 64 or BLOCK_K != 128\n"))
    cpu.tune.tuning = Tuning(points=18, seconds=120)
    try:
        found = cpu.evaluate(job_of(source))
    finally:
        cpu.tune.tuning = Tuning(points=8, seconds=120)
    assert found.verdict is Verdict.PASSED, found.feedback
    for workload in (w.name for w in TIMED):
        row = tried(found, workload)
        why = {key_of(r["parameters"]): r.get("infeasible", "") for r in row["tried"]}
        out = {key_of(r["parameters"]): r["why"] for r in row["ruled_out"]}
        for k, n, stages in product(*(space[x] for x in ("BLOCK_K", "BLOCK_N", "num_stages"))):
            key = key_of({"BLOCK_K": k, "BLOCK_N": n, "BLOCK_M": 128, "num_stages": stages})
            if k == 48:
                assert "no power of two" in out[key]
            elif (k, n) == (128, 64):
                assert "does not lower" in why[key]
            elif k == 128 and stages > 2:
                assert "shared memory" in {**why, **out}[key], (n, stages)
            else:
                assert key in why
        assert (row["chosen"]["BLOCK_K"], row["chosen"]["BLOCK_N"]) != (128, 64)


def test_a_point_that_ends_the_whole_run_costs_only_itself(cpu, monkeypatch):
    inner = cpu.tune.jail.run

    def run(task, payload, **more):
        if payload.get("skip") and any(p["parameters"]["BLOCK_N"] == 128 for p in payload["points"]):
            raise Ruling(Verdict.RUNTIME_ERROR, "It crashed.", stage="lower")
        return inner(task, payload, **more)

    monkeypatch.setattr(cpu.tune.jail, "run", run)
    found = cpu.evaluate(job_of(tuned_over(GRID)))
    assert found.verdict is Verdict.PASSED, found.feedback
    for row in tried(found, "square")["tried"]:
        assert (row.get("infeasible") == "It crashed.") == (row["parameters"]["BLOCK_N"] == 128)


def test_what_is_wrong_elsewhere_than_at_the_defaults_cannot_win(cpu, tuned):
    assert tuned.parameters["skinny"]["BLOCK_M"] == 16, "else this test shows nothing"
    source = tuned_over(GRID, ("    c_ptrs = ", "    if BLOCK_M == 16:\n        acc = acc * 1.01\n    c_ptrs = "))
    found = cpu.evaluate(job_of(source))
    assert found.verdict is Verdict.PASSED, found.feedback
    assert {p["BLOCK_M"] for p in found.parameters.values()} == {64}
    assert any("failed" in row for row in found.evidence["tune"]["checks"])
    forced = {name: {**p, "BLOCK_M": 16} for name, p in found.parameters.items()}
    confirmed = cpu.evaluate(job_of(source, mode="confirm", parameters=forced))
    assert confirmed.verdict is Verdict.INCORRECT


def test_seconds_bound_the_search(cpu):
    cpu.tune.tuning = Tuning(points=40, seconds=0.001)
    try:
        found = cpu.evaluate(job_of(tuned_over({**GRID, "BLOCK_K": (32, 64)})))
    finally:
        cpu.tune.tuning = Tuning(points=8, seconds=120)
    kept = found.evidence["tune"]
    assert kept["rounds"] == 1
    assert "in time" in kept["ended"]
    assert len(tried(found, "square")["tried"]) == 4


# --- What is confirmed ------------------------------------------------------------------------------------------------


def test_a_confirmation_judges_what_was_chosen(cpu, tuned):
    found = cpu.evaluate(job_of(tuned_over(GRID), mode="confirm", parameters=tuned.parameters))
    assert found.verdict is Verdict.PASSED, found.evidence["ruling"]
    assert found.parameters == tuned.parameters
    assert [m.time_us for m in found.measurements] == [m.time_us for m in tuned.measurements]
    assert "tune" not in found.evidence
    check = found.evidence["check"]
    assert [check["parameters"], *(row["parameters"] for row in check["also"])] == list(tuned.parameters.values())
    plans = found.evidence["plan"]["workloads"]
    for workload, parameters in tuned.parameters.items():
        assert dict(plans[workload]["parameters"]) == parameters
    chosen = {key_of(p) for p in tuned.parameters.values()}
    assert {key_of(dict(plan["parameters"])) for plan in plans.values()} == chosen, "the others take the nearest's"
    kept = found.evidence["replay"]["parameters"]
    assert kept == {name: dict(p) for name, p in tuned.parameters.items()}, "so that it can be judged once more"


def test_workloads_start_where_they_or_the_nearest_were_tuned():
    screened = Screened(
        source="", digest="", entry="f", kernels=(), defaults={"BLOCK": 64, "num_warps": 4}, tune={"BLOCK": (64, 128)}
    )
    tall, flat, near = (Workload(name=n, params={"M": m}) for n, m in (("tall", 8192), ("flat", 16), ("near", 20)))
    assert [p.parameters for p in first_points(screened, [tall, near])] == [screened.defaults] * 2
    given = {"tall": {"BLOCK": 128, "GONE": 1}, "flat": {"BLOCK": 16}}
    found = {p.workload.name: p.parameters for p in first_points(screened, [tall, flat, near], given)}
    assert found == {
        "tall": {"BLOCK": 128, "num_warps": 4},
        "flat": {"BLOCK": 16, "num_warps": 4},
        "near": {"BLOCK": 16, "num_warps": 4},
    }


# --- How it is switched on --------------------------------------------------------------------------------------------


def test_the_configuration_reaches_the_judge(monkeypatch):
    seen = []
    monkeypatch.setattr(backends, "open_backend", lambda settings, **more: seen.append(settings))
    path = str(ROOT / "evaluators/matmul.py")
    problem = with_workloads(matmul(), TIMED)
    config = RunConfig(problem=path, backend="cpu")
    on = TunerConfig(enabled=True, points=12, seconds=20.0, gpu_seconds=2.5)
    auto = replace(on, enabled="auto")
    for each in (config, replace(config, tuner=on), replace(config, tuner=auto)):
        wiring.open_backend(each, problem, None)
    wiring.open_backend(replace(config, tuner=auto, backend="gpu"), problem, None)
    wanted = Tuning(points=12, seconds=20.0, gpu_seconds=2.5)
    assert [s.tuner for s in seen] == [None, wanted, None, wanted], "auto is on with a GPU alone"
