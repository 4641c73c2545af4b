"""Every backend that ships, held to `evolve.judge.contract`; and what the cpu one does when its own parts die."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from evolve.errors import MachineryError
from evolve.judge.backends.fake import FakeBackend
from evolve.judge.contract import BackendContract, descendants, job_of
from evolve.types import Verdict

sys.path.insert(0, str(Path(__file__).parents[1] / "judge"))

from cpu_bench import ENDLESS, FAILING, SEED, opened, swapped

FAKED = {v: f"# fake: verdict={v}\n" for v in Verdict if v not in (Verdict.PASSED, Verdict.DUPLICATE)}


class TestFake(BackendContract):
    passing = "# fake: score=1.25\nx = 1\n"
    failing = FAKED

    @classmethod
    def open(cls, folder):
        return FakeBackend()


class TestCpu(BackendContract):
    passing = SEED
    failing = FAILING
    echo = "# The same, with another comment.\n" + SEED.replace("acc = tl.zeros", "acc  =  tl.zeros")

    @classmethod
    def open(cls, folder):
        return opened(folder).backend


@pytest.mark.gpu
@pytest.mark.slow
class TestGpu(BackendContract):
    passing = SEED
    failing = FAILING
    echo = TestCpu.echo
    agree = 0.02
    patience = 120.0

    @classmethod
    def open(cls, folder):
        return opened(folder, backend="gpu").backend


# --- When the machinery dies ------------------------------------------------------------------------------------------

SLOW_TO_LOWER = swapped(
    ("    acc = tl.zeros", "    for i in tl.static_range(500):\n        M = M + 0 * K\n    acc = tl.zeros")
)


@pytest.fixture(scope="module")
def cpu(tmp_path_factory):
    made = opened(tmp_path_factory.mktemp("cpu")).backend
    yield made
    made.close()


def named(*words):
    """Our processes with all of these on their command line."""
    for pid, _ in descendants():
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        except OSError:
            continue
        if all(word in line for word in words):
            yield pid


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def killing(pids, backend, job, after=0.3):
    """The evaluation of a job during which these processes are killed."""
    found = []
    thread = threading.Thread(target=lambda: found.append(backend.evaluate(job)))
    thread.start()
    time.sleep(after)
    assert thread.is_alive(), "nothing was under way any more"
    for pid in pids():
        os.kill(pid, signal.SIGKILL)
    thread.join(60)
    assert found, "no verdict after its server was killed"
    return found[0]


@pytest.mark.parametrize("whom", ["launcher", "server"])
def test_a_jail_that_is_killed_starts_again_and_the_candidate_keeps_its_verdict(cpu, whom):
    assert cpu.evaluate(job_of(SEED)).verdict is Verdict.PASSED

    def pids():
        launchers = [s._process.pid for s in cpu.jail._servers if s is not None]
        return launchers if whom == "launcher" else [p for p, _ in descendants() if parent(p) in launchers]

    slow = SLOW_TO_LOWER.replace("500", "501") if whom == "server" else SLOW_TO_LOWER
    found = killing(pids, cpu, job_of(slow))
    assert found.verdict is Verdict.PASSED, found.feedback
    assert cpu.evaluate(job_of(FAILING[Verdict.INCORRECT])).verdict is Verdict.INCORRECT


def test_an_interpreting_jail_that_is_killed_starts_again(cpu):
    def pids():
        return [s._process.pid for s in cpu.device.jail._servers if s is not None]

    several = swapped(("range(0, K, BLOCK_K)", "range(0, K, BLOCK_K // 2 * 2)"), ("BLOCK_K=32", "BLOCK_K=16"))
    found = killing(pids, cpu, job_of(several), after=0.25)
    assert found.verdict is Verdict.PASSED, found.feedback


def test_a_builder_that_is_killed_starts_again(cpu):
    fresh = swapped(("BLOCK_K=32", "BLOCK_K=64"), ("num_stages=2", "num_stages=4"))
    found = killing(lambda: [cpu.builder._server._process.pid], cpu, job_of(fresh))
    assert found.verdict is Verdict.PASSED, found.feedback
    assert cpu.evaluate(job_of(SEED)).verdict is Verdict.PASSED


def test_a_jail_that_cannot_live_is_no_candidates_fault(tmp_path, monkeypatch):
    backend = opened(tmp_path).backend
    try:
        backend.jail.close()
        with pytest.raises(MachineryError, match="jail is closed"):
            backend.evaluate(job_of(SEED))
    finally:
        backend.close()


def test_time_that_runs_out_is_a_verdict(tmp_path):
    backend = opened(tmp_path, timeout=3.0).backend
    try:
        began = time.monotonic()
        found = backend.evaluate(job_of(ENDLESS))
        assert found.verdict is Verdict.TIMEOUT, found.feedback
        assert time.monotonic() - began < 10
    finally:
        backend.close()
