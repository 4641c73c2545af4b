"""The whole GPU half with real processes and a fake device: candidates that hang, crash, lie, honest ones between."""

import json
import os
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)

import gpu_fakes  # noqa: E402

from evolve.judge.gpu import device as device_module  # noqa: E402
from evolve.judge.gpu.device import GpuDevice, open_pool  # noqa: E402
from evolve.judge.stages import Gated, Ready, Ruling, Screened, Target  # noqa: E402
from evolve.problem import load_problem  # noqa: E402
from evolve.sentences import figure  # noqa: E402
from evolve.types import Attempt, Candidate, Evaluation, Job, Measurement, Verdict  # noqa: E402

TARGET = Target(
    name="sm_90",
    device="fake",
    backend="cuda",
    arch=90,
    warp_size=32,
    sms=132,
    shared_bytes=232448,
    registers=65536,
    threads=2048,
    blocks=32,
    l2_bytes=0,
    memory_gbs=4800.0,
    l2_gbs=9000.0,
    tflops={"float32": 60.0},
    launch_us=2.0,
)


def row(us, calls):
    return {"baseline": "library", "us": us, "calls": calls, "rows": [], "aa": {"spread": 0.001}}


CALIBRATION = {
    "gpu": {"device": "Fake", "torch": "2.13"},
    "ceilings": {"memory_gbs": 4000.0, "l2_gbs": 9000.0, "launch_us": 1.0, "tflops": {"bfloat16": 800.0}},
    "workloads": {"square": row(262.0, 1), "wide": row(393.0, 1), "ragged": row(36.0, 6), "hidden": row(67.0, 3)},
}


@pytest.fixture(scope="module")
def device():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_module, "predict", lambda *a: SimpleNamespace(evidence=dict))
        patch.setattr(device_module, "traits", lambda *a: {"tensor_path": "none"})
        patch.setattr(device_module, "speed_feedback", lambda *a: "it ran")
        patch.setattr("evolve.judge.check.CANDIDATE_SECONDS", 0.3)
        patch.setenv("PYTHONPATH", os.pathsep.join([HERE, str(Path(HERE).parent.parent)]))
        problem = load_problem(Path(HERE) / "gpu_problem.py")
        variant = problem.variant(None)
        pool = open_pool(problem, variant, entry="gpu_fakes:host_worker")
        made = GpuDevice(problem=problem, variant=variant, target=TARGET, calibration=CALIBRATION, pool=pool)
        yield made
        made.close()


@pytest.fixture(autouse=True)
def everyone_leaves(device):
    """As the pipeline has it, whatever came of a candidate."""
    yield
    while MADE:
        device.leave(MADE.pop())


MADE = []


def ready(device, name, tmp_path, *, step=1, mode="judge", incumbent=None):
    roles = ("check", "time", "held_out") if mode == "confirm" else ("check", "time")
    workloads = [w for role in roles for w in device.problem.of_role(role, device.variant)]
    candidate = Candidate(step=step, source=name, member="test", kind="seed")
    MADE.append(Job(candidate=candidate, mode=mode, incumbent=incumbent))
    return Ready(
        job=MADE[-1],
        screened=Screened(source=name, digest=name, entry="matmul", kernels=(name,), defaults={}, tune={}),
        gated=Gated(lowered=gpu_fakes.lowered_for(workloads, name, tmp_path), digest=name, certificate={}),
        built=gpu_fakes.built_for(name, tmp_path),
        parameters={w.name: {} for w in workloads},
    )


def attempt(made):
    figure = Measurement(workload="square", baseline="library", time_us=1, ratio=1, ratio_low=1, ratio_high=1)
    return Attempt(candidate=made.job.candidate, evaluation=Evaluation(verdict=Verdict.PASSED, measurements=(figure,)))


def test_an_honest_candidate_goes_all_the_way(device, tmp_path):
    made = ready(device, "honest", tmp_path)
    checked = device.check(made)
    timed = device.time(made)
    assert set(checked.errors) == {"ragged", "square", "wide"}
    assert [m.workload for m in timed.measurements] == ["square", "wide"]
    assert timed.beats_incumbent
    assert timed.feedback == "it ran"
    assert timed.evidence["lease_seconds"] > 0
    json.dumps({"check": checked.evidence, "time": timed.evidence})


def test_the_incumbent_is_timed_beside_it(device, tmp_path):
    old = ready(device, "honest", tmp_path, step=2)
    device.check(old)
    device.time(old)
    new = ready(device, "quick", tmp_path, step=3, incumbent=attempt(old))
    device.check(new)
    timed = device.time(new)
    assert timed.evidence["square"]["orders"] == ["CIBBIC", "IBCCBI", "BCIICB"]
    assert timed.evidence["promotion"]["incumbent"] == old.job.candidate.id
    assert timed.beats_incumbent


def test_nothing_is_promoted_over_an_incumbent_that_cannot_be_built_again(device, tmp_path):
    """Such as a resumed run's, whose plans are remembered nowhere: being fast is not being faster than it."""
    gone = ready(device, "slower", tmp_path, step=21)
    new = ready(device, "quick", tmp_path, step=22, incumbent=attempt(gone))
    device.check(new)
    timed = device.time(new)
    assert not timed.beats_incumbent
    why = timed.evidence["promotion"]["why"]
    assert why == f"the incumbent {gone.job.candidate.id} could not be built again to be timed beside it"


def test_who_loses_the_race_is_told_and_shown_as_timed_quickly_and_a_confirmation_never_is(device, tmp_path):
    old = ready(device, "honest", tmp_path, step=12)
    device.check(old)
    device.time(old)
    for mode, quick in (("judge", True), ("confirm", False)):
        new = ready(device, "slower", tmp_path, step=13, incumbent=attempt(old), mode=mode)
        device.check(new)
        timed = device.time(new)
        judged = Evaluation(verdict=Verdict.PASSED, measurements=timed.measurements)
        assert not timed.beats_incumbent
        assert judged.quick is quick
        assert timed.feedback.startswith("Timed quickly") is quick
        assert figure(judged).endswith("timed quickly") is quick
        device.leave(new.job)


def test_confirm_times_held_out_workloads_too(device, tmp_path):
    made = ready(device, "honest", tmp_path, step=4, mode="confirm")
    assert "hidden" in device.check(made).errors
    assert "hidden" in {m.workload for m in device.time(made).measurements}


@pytest.mark.parametrize(
    ("name", "verdict", "says"),
    [
        ("hangs", Verdict.TIMEOUT, "did not end"),
        ("crashes", Verdict.RUNTIME_ERROR, "status -11"),
        ("leaves_its_buffer", Verdict.RUNTIME_ERROR, "leaves its buffer"),
        ("drops_tail", Verdict.INCORRECT, "ragged"),
    ],
)
def test_bad_ones_get_their_verdict_and_the_next_is_judged_as_if_nothing_was(device, tmp_path, name, verdict, says):
    bad = ready(device, name, tmp_path, step=5)
    began = time.monotonic()
    with pytest.raises(Ruling) as caught:
        device.check(bad)
    assert time.monotonic() - began < 30
    assert caught.value.verdict is verdict
    assert says in caught.value.feedback
    good = ready(device, "honest", tmp_path, step=6)
    device.check(good)
    assert device.time(good).measurements


def test_who_leaves_makes_room_and_leaves_no_process(device, tmp_path, monkeypatch):
    """More candidates than places: each waits for one that is through, and none loses its process to another."""
    monkeypatch.setattr(device, "_places", threading.BoundedSemaphore(2))
    through = []

    def one(step):
        (tmp_path / str(step)).mkdir()
        made = ready(device, "honest", tmp_path / str(step), step=step)
        try:
            device.check(made)
            through.append(device.time(made).measurements)
        finally:
            device.leave(made.job)

    threads = [threading.Thread(target=one, args=(step,)) for step in range(100, 104)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(through) == 4
    assert not device._sessions
    alive = [p for p in device.pool.pids() if _runs(p)]
    assert len(alive) <= 2 + 2, "server, standby, and two that are just dying"


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_ranking_key_names_what_matters(device):
    key = device.ranking_key
    assert all(part in key for part in ("Fake", "torch 2.13", "triton", device.problem.digest, "fp32"))
