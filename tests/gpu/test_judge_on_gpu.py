"""The judge on a real GPU: the driver's corners, then whole judgements of honest, wrong and misbehaving candidates."""

import math
import random
import sys
import time
from pathlib import Path

import pytest

from evolve.judge.gpu.nvml import Gpu, count, visible

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(count() == 0, reason="no NVIDIA GPU answers here")]
ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import judge_sources as sources  # noqa: E402

from evolve.judge.backends import Settings  # noqa: E402
from evolve.judge.pipeline import Record  # noqa: E402
from evolve.problem import load_problem  # noqa: E402
from evolve.types import Candidate, Job, Verdict  # noqa: E402


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    from evolve.judge.backends.gpu import open_gpu

    problem = load_problem(ROOT / "benchmarks" / "judge_problem.py")
    settings = Settings(
        problem=problem,
        variant=problem.variant("bf16"),
        backend="gpu",
        target="sm_90",
        cache=tmp_path_factory.mktemp("cache"),
        width=4,
        timeout=60.0,
    )
    made = open_gpu(settings, None)
    yield made
    made.backend.close()


def evaluate(opened, source, step=1, mode="judge", **more):
    return opened.backend.evaluate(
        Job(candidate=Candidate(step=step, source=source, member="t", kind="seed"), mode=mode, **more)
    )


# --- the corners, each in a process that may die --------------------------------------------------------------------


def in_worker(function):
    """Run `function` in a child of its own: a context that faults must not be pytest's."""
    import multiprocessing

    context = multiprocessing.get_context("fork")  # nothing here has opened CUDA
    queue = context.Queue()
    process = context.Process(target=_child, args=(function, queue))
    process.start()
    try:
        return queue.get(timeout=120)
    finally:
        process.join(10)
        if process.is_alive():
            process.kill()
        process.join()


def _child(function, queue):
    try:
        queue.put(("ok", function()))
    except BaseException as error:
        queue.put((type(error).__name__, str(error)[:2000]))


def guarded_memory():
    from evolve.judge.gpu.engine import CudaEngine
    from evolve.judge.gpu.memory import Memory

    engine = CudaEngine("0")
    memory = Memory("cuda", engine.pages, random.Random(1))
    buffers = [memory.allocate(n) for n in (1, 1000, 5 << 20)]
    for number, buffer in enumerate(buffers):
        buffer.body.fill_(number)
    engine.synchronize()
    intact = memory.untouched()
    buffers[1].whole[buffers[1].body.storage_offset() - buffers[1].whole.storage_offset() - 1] = 3
    seen = not memory.untouched()
    memory.free()
    return memory.kind, intact, seen


def past_the_end():
    """Reading one page behind a buffer must fault, not give a number."""
    from evolve.judge.gpu.engine import CudaEngine
    from evolve.judge.gpu.memory import Memory, over

    engine = CudaEngine("0")
    if engine.pages is None:
        return "canaries only"
    memory = Memory("cuda", engine.pages, random.Random(1))
    buffer = memory.allocate(4096)
    try:
        over(buffer.pointer + 4096, 4096, "cuda").sum().item()
    except Exception as error:
        return f"faulted: {type(error).__name__}"
    return "read something"


def stirred():
    """Two launches touch places in many buffers with holes between them, and nothing but exchanged elements changes."""
    import torch

    from evolve.judge.gpu.engine import CudaEngine
    from evolve.judge.gpu.memory import Memory
    from evolve.judge.gpu.place import Placed
    from evolve.judge.gpu.stir import Stir, fingerprint

    problem = load_problem(ROOT / "benchmarks" / "judge_problem.py")
    workload = problem.workload("check_ragged", problem.variant("bf16"))
    engine = CudaEngine("0")
    memory = Memory("cuda", engine.pages, random.Random(1))
    sets = [Placed(memory, problem, workload, problem.make_inputs(workload, "cuda", i)) for i in range(5)]
    before = [[t.clone() for t in s.tensors("value").values()] for s in sets]
    prints = torch.stack([fingerprint(s) for s in sets])
    stir = Stir(engine, sets, [], random.Random(2))
    stir.prepare(3)
    stir(2)
    engine.synchronize()
    changed = [
        int((t != b).sum())
        for s, old in zip(sets, before, strict=True)
        for t, b in zip(s.tensors("value").values(), old, strict=True)
    ]
    return (
        changed,
        bool((torch.stack([fingerprint(s) for s in sets]) != prints).flatten(1).any(1).all()),
        memory.untouched(),
    )


def test_guarded_memory_holds_and_sees():
    status, (kind, intact, seen) = in_worker(guarded_memory)
    print("memory:", kind)
    assert (status, intact, seen) == ("ok", True, True)


def test_reading_past_the_end_faults():
    status, what = in_worker(past_the_end)
    print("past the end:", status, what)
    assert status == "ok"
    assert what.startswith(("faulted", "canaries"))


def test_stirring_touches_every_input_and_nothing_else():
    status, found = in_worker(stirred)
    assert status == "ok", found
    changed, prints_differ, untouched = found
    assert all(0 < n <= 64 for n in changed)
    assert prints_differ
    assert untouched


# --- whole judgements -----------------------------------------------------------------------------------------------


def test_calibration_names_the_device_and_its_unrest(opened):
    from evolve.judge.calibrate import table

    print(table(opened.calibration))
    assert opened.calibration["gpu"]["device"]
    assert all(row["aa"]["spread"] < 0.02 for row in opened.calibration["workloads"].values() if row.get("aa"))


@pytest.mark.parametrize("name", list(sources.GOOD))
def test_honest_kernels_pass(opened, name):
    found = evaluate(opened, sources.GOOD[name])
    assert found.verdict is Verdict.PASSED, found.feedback
    assert 0.05 < found.score < 3
    print(name, round(found.score, 3), {m.workload: round(m.time_us, 1) for m in found.measurements}, found.seconds)


@pytest.mark.parametrize("name", list(sources.WRONG))
def test_wrong_kernels_are_incorrect(opened, name):
    found = evaluate(opened, sources.WRONG[name])
    assert found.verdict in (Verdict.INCORRECT, Verdict.RUNTIME_ERROR), found.feedback
    print(name, found.verdict, found.feedback[:300], found.seconds)


@pytest.mark.parametrize(
    ("source", "verdict"),
    [(sources.HANGS, Verdict.TIMEOUT), (sources.LEAVES_ITS_BUFFER, Verdict.RUNTIME_ERROR)],
    ids=["hangs", "leaves its buffer"],
)
def test_misbehaving_kernels_end_and_leave_the_gpu_as_it_was(opened, source, verdict):
    gpu = Gpu(visible(0))
    before = gpu.free_bytes()
    began = time.monotonic()
    found = evaluate(opened, source)
    assert found.verdict is verdict, found.feedback
    print(verdict, round(time.monotonic() - began, 2), "s", found.feedback[:200])
    time.sleep(2)
    after = gpu.free_bytes()
    assert before is None or after is None or abs(before - after) < 1 << 30
    assert evaluate(opened, sources.GOOD["grouped 128x128"]).verdict is Verdict.PASSED


def test_confirm_adds_the_held_out_workloads(opened):
    found = evaluate(opened, sources.GOOD["grouped 128x128"], step=9, mode="confirm")
    assert found.verdict is Verdict.PASSED, found.feedback
    assert {"held_wide", "held_ragged"} <= {m.workload for m in found.measurements}


def test_two_judgements_agree(opened):
    scores = [evaluate(opened, sources.GOOD["grouped 128x256"], step=s).score for s in (11, 12)]
    assert abs(math.log(scores[0] / scores[1])) < 0.01


def test_what_is_launched_is_what_was_planned(opened):
    ready = opened.backend.prepare(
        Job(candidate=Candidate(step=20, source=sources.GOOD["host descriptors"], member="t", kind="seed")), Record()
    )
    assert ready.built.binaries
