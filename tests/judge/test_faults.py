"""Forty candidates that crash, hoard, loop and hang wherever they can without a GPU: each gets the right verdict in its
time, the honest ones among them too, and nothing is left of any."""

import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from evolve.judge.contract import descendants, job_of, left_behind_nothing, sound
from evolve.types import Verdict

sys.path.insert(0, str(Path(__file__).parent))

from cpu_bench import ENDLESS, TIMED, matmul, opened, source_of, swapped

PATIENCE = 3.0  # seconds that a stage may take
GIB = 1 << 30


def inside(*lines):
    """In the kernel, before its sum."""
    return swapped(("    acc = tl.zeros", "".join(f"    {line}\n" for line in lines) + "    acc = tl.zeros"))


def on_the_host(*lines):
    return swapped(("    M, K = a.shape", "".join(f"    {line}\n" for line in lines) + "    M, K = a.shape"))


UNROLLED = ["mixed = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)", "for i in tl.static_range(400):"]
UNROLLED += [
    "    mixed += tl.exp(tl.sin(mixed * i) + tl.load(a_ptr + i))",
    "tl.store(c_ptr + rows[:, None] + cols[None, :], mixed, mask=rows[:, None] < M - 10**6)",
]
KINDS = {
    "passes": (swapped(("BLOCK_K=32", "BLOCK_K=64")), {"PASSED"}, {"time"}),
    "segfaults while lowering": (source_of("segfault_lowering"), {"RUNTIME_ERROR"}, {"lower"}),
    "asks for a terabyte": (source_of("memory_bomb"), {"RUNTIME_ERROR"}, {"lower"}),
    "hoards bit by bit": (
        on_the_host("kept = [[i] * 60000000 for i in range(100000)]"), {"RUNTIME_ERROR", "TIMEOUT"}, {"lower"}
    ),
    "unrolls for ever": (source_of("compile_bomb_unroll"), {"TIMEOUT", "RUNTIME_ERROR"}, {"lower"}),
    "loops on the host": (source_of("host_loop"), {"TIMEOUT"}, {"lower"}),
    "compiles for ever": (inside(*UNROLLED), {"TIMEOUT"}, {"build"}),
    "writes far away": (
        swapped(("tl.store(c_ptrs, acc", "tl.store(c_ptrs + 1000000000000, acc")), {"RUNTIME_ERROR"}, {"check"}
    ),
    "never ends when it runs": (ENDLESS, {"TIMEOUT"}, {"check"}),
    "raises on the host": (on_the_host("assert a.shape[0] < 0, 'never'"), {"RUNTIME_ERROR"}, {"lower"}),
}  # fmt: skip
ORDER = [name for name in KINDS for _ in range(4)]
random.Random(1).shuffle(ORDER)


def resident(pids):
    """Bytes of memory that these processes have to themselves."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))
    return total


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_forty_bad_candidates_get_their_verdicts_and_leave_nothing():
    with left_behind_nothing() as trace:
        made = opened(trace.folder, problem=matmul(TIMED[:1]), timeout=PATIENCE).backend
        assert made.evaluate(job_of(KINDS["passes"][0])).verdict is Verdict.PASSED
        before, standing = resident(p for p, _ in descendants()), set(descendants())

        def judged(name):
            began = time.monotonic()
            found = sound(made.evaluate(job_of(KINDS[name][0])), job_of(""))
            return name, found, time.monotonic() - began

        with ThreadPoolExecutor(2) as pool:
            done = list(pool.map(judged, ORDER))
        deadline = time.monotonic() + 5
        while len(set(descendants()) - standing) > 4 and time.monotonic() < deadline:
            time.sleep(0.1)
        after, new = resident(p for p, _ in descendants()), set(descendants()) - standing
        trace.look()
        made.close()
    assert len(done) == 40
    for name, found, seconds in done:
        _, verdicts, stages = KINDS[name]
        assert found.verdict in verdicts, (name, found.verdict, found.stage, found.feedback)
        assert found.stage in stages, (name, found.stage, found.feedback)
        assert seconds < 5 * PATIENCE, (name, seconds)
    print(sorted({(name, str(e.verdict), e.stage, round(s, 1)) for name, e, s in done}))
    assert after - before < GIB // 2, f"{(after - before) >> 20} MiB more than before"
    assert len(new) <= 4, "no more than a server that was started again, with its launcher, for each slot"
