"""Tuning on a GPU made of Python: real jails, a real builder, real processes; the kernels are Python by their names.

Each point of the space launches another kernel, so that a point may be right, quick, wrong, slow, hang, fault or crash.
"""

import itertools
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)

from test_device import CALIBRATION, TARGET  # noqa: E402

from evolve.judge.backends import Settings  # noqa: E402
from evolve.judge.backends.assembly import open_shop  # noqa: E402
from evolve.judge.contract import job_of  # noqa: E402
from evolve.judge.gpu import device as device_module  # noqa: E402
from evolve.judge.gpu import sitting as sitting_module  # noqa: E402
from evolve.judge.gpu.device import GpuDevice, open_pool  # noqa: E402
from evolve.judge.gpu.sitting import GpuClock  # noqa: E402
from evolve.judge.points import Maker  # noqa: E402
from evolve.judge.tune import Tuning  # noqa: E402
from evolve.problem import load_problem  # noqa: E402
from evolve.types import Verdict  # noqa: E402

KINDS = {
    "good": ("honest", "quick", "likes_wide", "far_slower"),
    "mixed": ("honest", "quick", "wrong_and_quick", "hangs", "leaves_its_buffer", "likes_wide"),
    "deadly": ("honest", "leaves_its_buffer", "crashes", "hangs", "asks_for_too_much", "quick"),
}
NUMBER = {name: i for i, name in enumerate(dict.fromkeys(itertools.chain(*KINDS.values())))}
KERNEL = """
@triton.jit
def {name}(a_ptr, b_ptr, c_ptr, M, N, K):
    tl.store(c_ptr, tl.load(a_ptr) * {number} + tl.load(b_ptr) + M + N + K)
"""
TUNING = Tuning(points=12, seconds=60, gpu_seconds=30)


def source_of(kinds, extra="", offset=1.5, **tune):
    """A candidate that launches what its parameter `kind` says."""
    kernels = "".join(KERNEL.format(name=name, number=NUMBER[name] + offset) for name in kinds)
    sizes = "a.shape[0], b.shape[1], a.shape[1]"
    calls = "".join(
        f'    if kind == "{name}":\n        {name}[(1,)](a, b, c, {sizes}, num_warps=num_warps)\n' for name in kinds
    )
    space = {"kind": tuple(kinds), **tune}
    return (
        f"import torch\nimport triton\nimport triton.language as tl\n\nTUNE = {space!r}\n{kernels}\n"
        f'def matmul(a, b, *, kind="{kinds[0]}", num_warps=4):\n{extra}'
        f"    c = torch.empty((a.shape[0], b.shape[1]), device=a.device, dtype=a.dtype)\n{calls}    return c\n"
    )


@pytest.fixture(scope="module")
def gpu(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_module, "predict", lambda *a: SimpleNamespace(evidence=dict))
        patch.setattr(device_module, "traits", lambda *a: {"tensor_path": "none"})
        patch.setattr(device_module, "speed_feedback", lambda *a: "it ran")
        patch.setattr("evolve.judge.check.CANDIDATE_SECONDS", 0.4)
        patch.setattr(sitting_module, "POINT_SECONDS", 0.4)
        patch.setenv("PYTHONPATH", os.pathsep.join([HERE, str(Path(HERE).parent.parent)]))
        problem = load_problem(Path(HERE) / "gpu_problem.py")
        settings = Settings(
            problem=problem,
            variant=problem.variant(None),
            backend="gpu",
            target="sm_90",
            cache=tmp_path_factory.mktemp("cache"),
            width=2,
            timeout=60.0,
            tuner=TUNING,
        )
        pool = open_pool(problem, settings.variant, entry="gpu_fakes:host_worker")
        device = GpuDevice(problem=problem, variant=settings.variant, target=TARGET, calibration=CALIBRATION, pool=pool)
        shop = open_shop(settings, TARGET)
        made = shop.pipeline(device, GpuClock(device), ranking_key="fake", environment={})
        yield made
        made.close()


@pytest.fixture(scope="module")
def tuned(gpu):
    found = gpu.evaluate(job_of(source_of(KINDS["good"], num_warps=(4, 8))))
    assert found.verdict is Verdict.PASSED, found.feedback
    return found


def tried(evaluation, workload):
    rows = evaluation.evidence["tune"]["workloads"][workload]["tried"]
    return {row["parameters"]["kind"]: row for row in rows}


def kinds(evaluation):
    return {m.workload: m.parameters["kind"] for m in evaluation.measurements}


def test_each_workload_gets_what_is_fastest_there(gpu, tuned):
    assert kinds(tuned) == {"square": "quick", "wide": "likes_wide"}
    times = {m.workload: m.time_us for m in tuned.measurements}
    assert times["square"] == pytest.approx(0.8 * 262, rel=0.02)
    assert times["wide"] == pytest.approx(0.6 * 393, rel=0.02)
    kept = tuned.evidence["tune"]
    json.dumps(kept, allow_nan=False)
    assert kept["workloads"]["square"]["gain"]["ratio"] == pytest.approx(1.25, rel=0.01)
    assert kept["workloads"]["square"]["gain"]["ratio_low"] > 1.2
    assert {row["workload"] for row in kept["checks"]} == {"square", "wide"}
    assert all({"ragged", row["workload"]} <= set(row["errors"]) for row in kept["checks"])
    assert tried(tuned, "square")["far_slower"]["time_us"] == pytest.approx(5 * 262, rel=0.02)


def test_its_time_on_the_gpu_is_counted_and_so_is_every_configuration(gpu, tuned):
    kept = tuned.evidence["tune"]
    assert 0 < kept["gpu_seconds"]["taken"] < tuned.seconds["gpu"]
    rows = [row for workload in kept["workloads"].values() for row in workload["tried"]]
    assert len(rows) == 16
    assert 12 <= kept["timed"] <= 16, "the candidate as it came is the measure and is not timed again"
    assert tuned.evidence["time"]["promotion"]["configurations"] >= kept["timed"]


def test_bad_points_are_out_and_the_candidate_is_not(gpu):
    found = gpu.evaluate(job_of(source_of(KINDS["mixed"]), step=2))
    assert found.verdict is Verdict.PASSED, found.feedback
    assert kinds(found) == {"square": "quick", "wide": "likes_wide"}
    kept = found.evidence["tune"]
    why = tried(found, "square")
    assert "did not end" in why["hangs"]["infeasible"]
    assert "leaves its buffer" in why["leaves_its_buffer"]["infeasible"]
    failed = [row for row in kept["checks"] if "failed" in row]
    assert failed, "the quickest of all is wrong, which its check has to find"
    assert {row["parameters"]["kind"] for row in failed} == {"wrong_and_quick"}
    assert [row["kind"] for row in kept["lost"]] == ["hung", "cuda"], "each costs one process, on one workload"
    confirmed = gpu.evaluate(job_of(source_of(KINDS["mixed"]), step=2, mode="confirm", parameters=found.parameters))
    assert confirmed.verdict is Verdict.PASSED, confirmed.evidence["ruling"]
    assert {m.workload: m.parameters["kind"] for m in confirmed.measurements} == {**kinds(found), "hidden": "quick"}


def test_only_so_many_processes_are_spent_on_one_candidate(gpu):
    found = gpu.evaluate(job_of(source_of(KINDS["deadly"], num_warps=(4, 8)), step=3))
    assert found.verdict is Verdict.PASSED, found.feedback
    kept = found.evidence["tune"]
    assert len(kept["lost"]) == sitting_module.MOST_LOST
    assert "took their GPU process" in kept["ended"]
    assert any("time was up" in row.get("infeasible", "") for row in kept["workloads"]["wide"]["tried"])
    after = gpu.evaluate(job_of(source_of(("honest",)), step=4))
    assert after.verdict is Verdict.PASSED, "the next one is judged as if nothing had been"
    assert "tune" in after.evidence


def test_its_seconds_on_the_gpu_end_the_search(gpu, monkeypatch):
    monkeypatch.setattr(gpu.tune, "tuning", replace(TUNING, gpu_seconds=1e-4))
    found = gpu.evaluate(job_of(source_of(KINDS["good"], "    assert a.shape[0] > 0\n", num_warps=(4, 8)), step=5))
    assert found.verdict is Verdict.PASSED, found.feedback
    kept = found.evidence["tune"]
    assert "seconds on the GPU" in kept["ended"]
    assert kept["rounds"] == 1
    assert "not tried" in json.dumps(kept["workloads"]["wide"]["tried"])
    assert kinds(found)["wide"] == "honest"


@pytest.mark.slow
def test_points_are_built_while_others_use_the_gpu_and_never_under_the_lease(gpu, monkeypatch):
    """Three candidates at once. Who builds holds no lease, and somebody else does meanwhile."""
    builds, leases = [], []
    make, leased = Maker.make, gpu.device.leased

    def made(maker, screened, points, **more):
        began = time.monotonic()
        try:
            return make(maker, screened, points, **more)
        finally:
            builds.append((threading.get_ident(), began, time.monotonic()))

    @contextmanager
    def held(ready, stage):
        with leased(ready, stage) as lease:
            began = time.monotonic()
            try:
                yield lease
            finally:
                leases.append((threading.get_ident(), began, time.monotonic()))

    monkeypatch.setattr(Maker, "make", made)
    monkeypatch.setattr(gpu.device, "leased", held)
    jobs = [job_of(source_of(KINDS["good"], offset=10.0 + n, num_warps=(4, 8)), step=20 + n) for n in range(3)]
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(gpu.evaluate, jobs))
    assert [e.verdict for e in found] == [Verdict.PASSED] * 3
    overlaps = [
        (who, other, min(to, until) - max(since, began))
        for who, since, to in builds
        for other, began, until in leases
        if min(to, until) > max(since, began)
    ]
    assert all(who != other for who, other, _ in overlaps), "built while it held the lease"
    assert sum(seconds for _, _, seconds in overlaps) > 0.1, "the GPU waited for the compilers"
    ordered = sorted((began, until) for _, began, until in leases)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(ordered)), "one at a time"


def test_a_child_starts_from_its_parents_table(gpu, tuned):
    child = source_of(KINDS["good"], "    assert b.shape[0] > 0\n", num_warps=(4, 8))
    found = gpu.evaluate(job_of(child, step=6, parent=tuned))
    assert found.verdict is Verdict.PASSED, found.feedback
    for name, parameters in tuned.parameters.items():
        rows = found.evidence["tune"]["workloads"][name]["tried"]
        assert [rows[0]["parameters"], rows[2]["parameters"]] == [
            dict(parameters),
            *(dict(p) for other, p in tuned.parameters.items() if other != name),
        ]
