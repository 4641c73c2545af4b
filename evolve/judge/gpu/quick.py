"""The tuner's half of a GPU process: many points of one candidate, quickly, on buffers that are made once.

    a point runs once, and once more behind a cushion: clearly slower than the best so far, and that was its sample;
    otherwise it joins the timing as one more side and is sampled between two samples of the anchor, the candidate as
    it was checked, so that a clock that moves between points does not decide between them;
    a duel samples a few points and the anchor interleaved, in rounds, as candidates are timed against each other.

Every point says its number before it runs, with what was found so far: if nothing more is heard, the parent knows whom
to drop and loses nothing. What is found here chooses and does not count: whatever it chooses is checked and timed like
any candidate. Which points there are, what they are worth and when to stop asking is `judge.tuning`'s.
"""

from __future__ import annotations

import math
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from evolve.judge.gpu.clock import Phases
from evolve.judge.gpu.driver import DriverError
from evolve.judge.gpu.engine import Engine
from evolve.judge.gpu.facts import workload_of
from evolve.judge.gpu.launch import Program
from evolve.judge.gpu.memory import Memory
from evolve.judge.gpu.timing import Timing
from evolve.problem import Problem

SLOWER = 1.4  # times the best so far: no noise of a single call is that large, and none but the best are wanted
AROUND = ("C", "P", "P", "P", "C")
WARM_SAMPLES, WARM_US = 12, 5000.0  # of the anchor, before anything is compared with it: clocks rise in that time
KEEP_BYTES = 2 << 30  # of buffers that wait for more points, while others use the GPU
Load = Callable[[Mapping[str, Any]], Program]


class Desk:
    """All workloads of one candidate; orders in, rows out."""

    def __init__(self, engine: Engine, problem: Problem, load: Load, phases: Callable[..., Phases]) -> None:
        self._engine, self._problem, self._load, self._phases = engine, problem, load, phases
        self._open: OrderedDict[str, Quick] = OrderedDict()

    def quick(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """A row a point, fewer where the seconds are over."""
        began = time.monotonic()
        quick, phases = self._ready(order)
        best = float(order["best"])
        rows: list[dict[str, Any]] = []
        for number, data in enumerate(order["points"]):
            if time.monotonic() - began > float(order["seconds"]):
                break
            with phases("candidate", point=number, done=rows):
                row = self._row(quick, data, best)
            rows.append(row)
            if "ratio" in row:
                best = min(row["ratio"], best)
        self._settle()
        return {"rows": rows, "anchor_us": quick.anchor_us, "seconds": phases.seconds}

    def _row(self, quick: Quick, data: Mapping[str, Any], best: float) -> dict[str, Any]:
        try:
            return quick.point(self._load(data), best)
        except torch.OutOfMemoryError as error:
            return {"why": f"it asks for more scratch than the GPU has left: {str(error).splitlines()[0]}"}
        except DriverError as error:
            if quick.poisoned():
                raise  # nothing in this process is worth anything any more
            return {"why": str(error)}  # it takes more of something than a block may have: only its loading failed

    def duel(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Rounds of microseconds, the anchor's first and then each point's."""
        quick, phases = self._ready(order)
        found = quick.duel([self._load(data) for data in order["points"]], int(order["rounds"]), phases)
        self._settle()
        return {"rounds": found, "seconds": phases.seconds}

    def _ready(self, order: Mapping[str, Any]) -> tuple[Quick, Phases]:
        workload = workload_of(order["workload"])
        phases = self._phases(workload=workload.name)
        if workload.name not in self._open:
            with phases("candidate", doing="load"):
                anchor = self._load(order["anchor"])
            rng = random.Random(int(order["random_seed"]))
            memory = Memory(self._engine.device, self._engine.pages, rng)
            timing = Timing(
                self._engine,
                memory,
                self._problem,
                workload,
                {"C": anchor},
                calls=int(order["calls"]),
                random_seed=rng.getrandbits(48),
                phases=phases,
            )
            self._open[workload.name] = Quick(self._engine, memory, timing, rng, phases)
        self._open.move_to_end(workload.name)
        return self._open[workload.name], phases

    def _settle(self) -> None:
        """Between two orders the GPU is somebody else's: only so much is kept."""
        while sum(q.nbytes for q in self._open.values()) > KEEP_BYTES:
            self._open.popitem(last=False)[1].close()
            self._engine.trim()

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()
            self._engine.trim()


class Quick:
    """One workload with its buffers and its anchor."""

    def __init__(self, engine: Engine, memory: Memory, timing: Timing, rng: random.Random, phases: Phases) -> None:
        self._engine, self._memory, self._timing, self._rng = engine, memory, timing, rng
        with phases("candidate", doing="warm-up"):
            spent, times = 0.0, [1.0]
            while spent < WARM_US:
                times, _ = timing.samples("C" * WARM_SAMPLES)
                spent += max(1.0, sum(times) * timing.calls)
            self._anchor_alone = sorted(self._alone(timing.bound[0].run) for _ in range(3))[1]
        self.anchor_us = _middle(times[WARM_SAMPLES // 2 :])

    @property
    def nbytes(self) -> int:
        return self._memory.nbytes

    def point(self, program: Program, best: float) -> dict[str, Any]:
        """Its time over the anchor's, and its microseconds as the anchor's were at first."""
        memory = Memory(self._engine.device, self._engine.pages, self._rng)
        try:
            bound = self._timing.bind("P", program, memory)
            bound[0].run(self._engine.stream())
            self._engine.synchronize()
            alone = self._alone(bound[0].run) / self._anchor_alone
            if alone > SLOWER * best:
                return self._found(alone, 1)
            self._timing.join("P", bound)
            times, _ = self._timing.samples(AROUND)
            anchor = _middle([t for t, side in zip(times, AROUND, strict=True) if side == "C"])
            own = sorted(t for t, side in zip(times, AROUND, strict=True) if side == "P")
            return self._found(own[len(own) // 2] / anchor, len(own))
        finally:
            self._timing.leave("P")
            self._give_back(memory)

    def _found(self, ratio: float, samples: int) -> dict[str, Any]:
        return {"ratio": ratio, "us": ratio * self.anchor_us, "samples": samples}

    def _alone(self, run: Callable[[int], None]) -> float:
        """One call, launch by launch, behind work that hides the host."""
        self._timing.cushion()
        first = self._engine.mark()
        run(self._engine.stream())
        last = self._engine.mark()
        self._engine.synchronize()
        return max(1e-3, self._engine.between_us(first, last))

    def duel(self, programs: Sequence[Program], rounds: int, phases: Phases) -> list[list[float]]:
        """In each round everyone once in a shuffled order and once in the reverse of it, so that a drift cancels."""
        memory = Memory(self._engine.device, self._engine.pages, self._rng)
        letters = [str(number) for number in range(len(programs))]
        found: list[list[float]] = []
        try:
            for number, (letter, program) in enumerate(zip(letters, programs, strict=True)):
                with phases("candidate", point=number, doing="duel"):
                    bound = self._timing.bind(letter, program, memory)
                    bound[0].run(self._engine.stream())
                    self._engine.synchronize()
                    self._timing.join(letter, bound)
            with phases("candidate", doing="duel"):
                for _ in range(rounds):
                    found.append(self._round(["C", *letters]))
        finally:
            for letter in letters:
                self._timing.leave(letter)
            self._give_back(memory)
        return found

    def _round(self, sides: Sequence[str]) -> list[float]:
        order = self._rng.sample(sides, len(sides))
        order = [*order, *reversed(order)]
        times, _ = self._timing.samples(order)
        return [_middle([t for t, side in zip(times, order, strict=True) if side == each]) for each in sides]

    def poisoned(self) -> bool:
        """Whether the context is beyond use: then even waiting for it fails."""
        try:
            self._engine.synchronize()
        except RuntimeError:
            return True
        return False

    def _give_back(self, memory: Memory) -> None:
        self._engine.synchronize()
        memory.free()

    def close(self) -> None:
        self._engine.synchronize()
        self._memory.free()


def _middle(times: Sequence[float]) -> float:
    """The geometric mean: what ratios are taken of."""
    return math.exp(sum(math.log(max(t, 1e-3)) for t in times) / len(times))
