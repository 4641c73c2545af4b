"""Every executor that ships, held to `evolve.executors.contract`."""

import sys
from pathlib import Path

import pytest

from evolve.errors import MachineryError
from evolve.executors.contract import ExecutorContract
from evolve.executors.local import LocalExecutor
from evolve.judge.backends.fake import FakeBackend
from evolve.judge.contract import job_of
from evolve.types import Verdict

sys.path.insert(0, str(Path(__file__).parents[1] / "judge"))

from cpu_bench import FAILING, SEED, opened

FAKED = {v: f"# fake: verdict={v}\n" for v in Verdict if v not in (Verdict.PASSED, Verdict.DUPLICATE)}


class TestLocalOverFake(ExecutorContract):
    passing = "# fake: score=1.25 sleep=0.1\n"
    failing = FAKED

    def open(self, folder):
        return LocalExecutor(FakeBackend(), width=2)


@pytest.mark.slow  # the backend's contract runs on the cpu anyway
class TestLocalOverCpu(ExecutorContract):
    passing = SEED
    failing = FAILING

    def open(self, folder):
        return LocalExecutor(opened(folder).backend, width=2)


class Broken:
    def evaluate(self, job):
        raise MachineryError("the judge's disk is full")

    def close(self):
        pass


async def test_broken_machinery_comes_through_as_it_is():
    executor = LocalExecutor(Broken())
    with pytest.raises(MachineryError, match="disk is full"):
        await executor.evaluate(job_of("x = 1"))
    executor.close()
