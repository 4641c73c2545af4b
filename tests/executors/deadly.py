"""A judge for tests of executors: the fake one, and a candidate may end its process, or never end at all.

    # deadly: segfault        the process that judges dies
    # deadly: once PATH       the same, but only where there is no file at PATH yet
    # deadly: hang            the verdict never comes
    # deadly: broken PATH     the machinery breaks, unless there is a file at PATH

What was begun is written down at EVOLVE_DEADLY_LOG, a line a time: candidate, process, ranking key.
"""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

from evolve.errors import MachineryError
from evolve.judge.backends import Opened, Settings
from evolve.judge.backends.fake import FakeBackend
from evolve.types import Evaluation, Job


class Deadly(FakeBackend):
    def evaluate(self, job: Job) -> Evaluation:
        if log := os.environ.get("EVOLVE_DEADLY_LOG"):
            with open(log, "a") as file:
                file.write(f"{job.candidate.id} {os.getpid()} {self.ranking_key} {job.mode}\n")
        found = re.search(r"^# deadly: (\w+) ?(\S*)$", job.candidate.source, re.MULTILINE)
        deed, where = found.groups() if found else ("", "")
        first = bool(where) and not Path(where).exists()
        if first:
            Path(where).touch()
        if deed == "segfault" or (deed == "once" and first):
            os.kill(os.getpid(), signal.SIGSEGV)
        if deed == "broken" and first:
            raise MachineryError("the device fell off the bus")
        if deed in ("hang", "segfault", "once") and not (deed == "once" and not first):
            time.sleep(3600)
        return super().evaluate(job)


def open_deadly(settings: Settings) -> Opened:
    key = os.environ.get("EVOLVE_DEADLY_KEY", "fake")
    return Opened(backend=Deadly(ranking_key=key), device=f"the deadly judge ({key})", ranking_key=key)
