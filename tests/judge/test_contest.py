"""Side by side on a device made of Python: who is timed, who is left out and why, and what the intervals say."""

import contextlib
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)

import gpu_fakes  # noqa: E402
from gpu_fakes import CLOCK  # noqa: E402
from test_gpu_stages import PROBLEM_FILE, TARGET, NoGpu, TakesPids, opening  # noqa: E402

from evolve.judge.contest import Arena, Field, fastest, geomean  # noqa: E402
from evolve.judge.gpu.timing import orders_of  # noqa: E402
from evolve.judge.roofline import roof, with_ceilings  # noqa: E402
from evolve.judge.stages import Gated, Ready, Ruling, Screened  # noqa: E402
from evolve.problem import Baseline, load_problem  # noqa: E402
from evolve.types import Candidate, Job, Verdict  # noqa: E402


class Quiet(TakesPids):
    @contextlib.contextmanager
    def quiet(self):
        yield


@pytest.fixture
def problem():
    gpu_fakes.STASH.clear()
    CLOCK.noise = 0.001
    return load_problem(PROBLEM_FILE)


def ready(problem, name, folder):
    workloads = problem.of_role("time", problem.variants[0])
    screened = Screened(source="", digest="", entry="matmul", kernels=(name,), defaults={}, tune={})
    lowered = gpu_fakes.lowered_for(workloads, name, folder)
    return Ready(
        job=Job(candidate=Candidate(step=0, source=name, member="t", kind="seed")),
        screened=screened,
        gated=Gated(lowered=lowered, digest="", certificate=None),
        built=gpu_fakes.built_for(name, folder),
        parameters={w.name: {} for w in workloads},
    )


def arena(problem, monkeypatch, *baselines, **more):
    """On a problem with these baselines too: the worker loads the file, so it is given the whole object."""
    whole = replace(problem, baselines=(*problem.baselines, *baselines))
    monkeypatch.setattr("evolve.judge.gpu.worker.load_problem", lambda path: whole)
    variant = whole.variants[0]
    pool = Quiet(opening(whole, variant))
    made = Arena(problem=whole, variant=variant, target=TARGET, pool=pool, gpu=NoGpu(), **more)
    return made, [b.name for b in whole.baselines]


def slow(a, b):
    CLOCK.run(2 * a.shape[0] * b.shape[1] * a.shape[1] / 1000)
    return a @ b


def wrong(a, b):
    return (a @ b) * 1.001


def cannot(a, b):
    raise NotImplementedError("no kernel for sm_90\nand a long story")


def test_everyone_is_timed_beside_the_candidate_or_left_out_by_name(problem, monkeypatch, tmp_path):
    made, names = arena(
        problem,
        monkeypatch,
        Baseline(name="slow", call=slow, compiles=True),
        Baseline(name="wrong", call=wrong),
        Baseline(name="cannot", call=cannot),
    )
    rivals = {"seed": ready(problem, "bit_slower", tmp_path)}
    entered = Field(ready=ready(problem, "quick", tmp_path), rivals=rivals, baselines=names, absent={"old": "gone"})
    found = list(made.contests(entered, problem.of_role("time", made.variant)))
    assert [c.workload.name for c in found] == ["square", "wide"]
    for contest in found:
        ratios = {b.name: math.exp(b.ratio.median) for b in contest.beside}
        assert ratios == pytest.approx({"seed": 1.05 / 0.8, "library": 1 / 0.8, "slow": 2 / 0.8}, rel=0.01)
        assert all(b.ratio.low <= b.ratio.median <= b.ratio.high for b in contest.beside)
        assert contest.skipped["absent"] == "it was never installed"
        assert "an error of" in contest.skipped["wrong"]
        assert contest.skipped["cannot"] == "it fails on this workload: no kernel for sm_90"
        assert contest.skipped["old"] == "gone"
        assert contest.own.blocks == 12
        assert contest.eager_us > 0
        assert fastest(contest, ["slow", "library"]).name == "library"
    whole = geomean(found, "library")
    assert whole.low < math.log(1.25) < whole.high or whole.median == pytest.approx(math.log(1.25), abs=0.005)
    assert geomean(found, "nobody") is None
    assert made.pool.taken == 1, "one process compares everything"


def test_a_baseline_that_takes_the_process_down_is_left_out(problem, monkeypatch, tmp_path):
    def faults(a, b):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    made, names = arena(problem, monkeypatch, Baseline(name="faults", call=faults))
    entered = Field(ready=ready(problem, "honest", tmp_path), rivals={}, baselines=names)
    found = list(made.contests(entered, problem.of_role("time", made.variant)))
    assert len(found) == 2
    assert all("took its process down on square" in c.skipped["faults"] for c in found)
    assert made.pool.taken == 2


def test_a_workload_that_does_not_fit_is_passed_over(problem, monkeypatch, tmp_path):
    made, names = arena(problem, monkeypatch)
    honest = problem.make_inputs

    def greedy(workload, device, random_seed):
        if workload.name == "square" and device != "meta":
            raise RuntimeError("CUDA out of memory. Tried to allocate 900 GiB")
        return honest(workload, device, random_seed)

    whole = replace(made.problem, make_inputs=greedy)
    monkeypatch.setattr("evolve.judge.gpu.worker.load_problem", lambda path: whole)
    entered = Field(ready=ready(problem, "honest", tmp_path), rivals={}, baselines=names)
    found = list(made.contests(entered, problem.of_role("time", made.variant)))
    assert [c.workload.name for c in found] == ["wide"]
    assert "900 GiB" in made.too_large["square"]


def test_what_is_not_computed_gets_no_number(problem, monkeypatch, tmp_path):
    made, names = arena(problem, monkeypatch)
    entered = Field(ready=ready(problem, "skips_when_done", tmp_path), rivals={}, baselines=names)
    with pytest.raises(Ruling) as caught:
        list(made.contests(entered, problem.of_role("time", made.variant)))
    assert caught.value.verdict is Verdict.INCORRECT


@pytest.mark.parametrize("letters", ["CB", "CIB", "CIBA", "CIBADE"])
def test_each_side_begins_ends_and_stands_inside_as_often_as_the_others(letters):
    orders = orders_of(letters)
    assert len(orders) == len(letters)
    for place in range(2 * len(letters)):
        assert sorted(order[place] for order in orders) == sorted(letters)
    assert all(order == order[::-1] for order in orders)


def test_the_roof_takes_measured_ceilings_and_the_contract_s_rate(problem):
    variant = problem.variants[0]
    square = problem.workload("square", variant)
    measured = with_ceilings(TARGET, {"memory_gbs": 4000.0, "read_gbs": 4300.0, "tflops": {"float32": 50.0}})
    found = roof(problem, variant, square, measured)
    assert (found.gbs, found.tflops) == (4300.0, 50.0)
    assert found.us == pytest.approx(max(3 * 64 * 64 * 4 / 4300e3, 2 * 64**3 / 50e6))
    assert found.us < roof(problem, variant, square, replace(measured, memory_gbs=1.0)).us


def test_a_problem_is_examined_beside_the_gpu_too(problem, monkeypatch):
    from types import SimpleNamespace

    from evolve import checking
    from evolve.judge.gpu.pool import WorkerFault

    made, _ = arena(problem, monkeypatch)
    device = SimpleNamespace(pool=made.pool, gpu=made.gpu, variant=made.variant)
    found = list(checking._on_gpu(device))
    assert [f.what for f in found] == ["workloads, on the GPU"]  # the fake device is a CPU, and nothing is interpreted

    def lost(order, seconds):
        raise WorkerFault("died", "killed")

    monkeypatch.setattr(gpu_fakes.Local, "ask", lambda self, order, seconds: lost(order, seconds))
    monkeypatch.setattr(gpu_fakes.Local, "__init__", lambda self, opening: None)
    assert [(f.state, "killed" in f.sentence) for f in checking._on_gpu(device)] == [("wrong", True)]


def test_what_a_library_refuses_is_a_reason_and_nothing_to_beat_is_said(problem, monkeypatch):
    from evolve.errors import NoBaseline
    from evolve.judge.calibrate import calibrate

    monkeypatch.setattr("evolve.judge.gpu.ceilings.measure", lambda engine: {"tflops": {}})
    made, _ = arena(problem, monkeypatch, Baseline(name="cannot", call=cannot))
    square = [problem.workload("square", made.variant)]
    found = calibrate(made.pool, made.gpu, made.problem, made.variant, square, secret=b"1")["workloads"]["square"]
    assert found["baseline"] == "library"
    assert found["others"]["cannot"] == "it fails on this workload: no kernel for sm_90"
    alone = replace(problem, baselines=(Baseline(name="cannot", call=cannot),))
    monkeypatch.setattr("evolve.judge.gpu.worker.load_problem", lambda path: alone)
    with pytest.raises(NoBaseline, match=r"cannot: it fails on this workload: no kernel for sm_90"):
        calibrate(made.pool, made.gpu, alone, made.variant, square, secret=b"1")
