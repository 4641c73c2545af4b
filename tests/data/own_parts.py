"""Members and backends of one's own, some of which break: for tests of how a run bears them."""

import asyncio
import random
from pathlib import Path

from evolve.errors import MachineryError, MemberUnavailable
from evolve.judge.backends import Opened
from evolve.judge.backends.fake import FakeBackend
from evolve.types import Reply


class Raising:
    """Breaks for its own reasons whenever it is asked."""

    def __init__(self, *, name):
        self.name = name

    async def ask(self, draw, prompt):
        raise ValueError("a bug of the member's own")


class Absent:
    def __init__(self, *, name):
        self.name = name

    async def ask(self, draw, prompt):
        raise MemberUnavailable("its server is down")


class Slow:
    def __init__(self, *, name):
        self.name = name

    async def ask(self, draw, prompt):
        await asyncio.sleep(60)
        return Reply(member=self.name, text="")


class Verbose:
    """Writes 12 kB a reply, of a kind that does not compress."""

    def __init__(self, *, name):
        self.name = name

    async def ask(self, draw, prompt):
        noise = random.Random(draw.step).randbytes(6000).hex()
        return Reply(member=self.name, text=f"```python\n# fake: score=1.1\nx = {noise!r}\n```")


class Breaking(FakeBackend):
    """The machine fails at the fourth candidate, until somebody makes the file `mended`."""

    judged = 0

    def evaluate(self, job):
        self.judged += job.mode == "judge"
        if self.judged > 3 and not Path("mended").exists():
            raise MachineryError("the GPU fell off the bus; reboot the machine.")
        return super().evaluate(job)


def breaking(settings):
    return Opened(backend=Breaking(), device="a machine that breaks", ranking_key="fake")
