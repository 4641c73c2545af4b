"""The process beside the GPU: takes orders, launches what was built, compares, samples. It imports no candidate.

Forked from `server`, so that torch is there and CUDA is not; the first order opens the context and rehearses, that is,
does everything once that libraries load or choose at their first call, before anyone holds the GPU's lease. Every order
ends with one final record; a process that ends without one has failed, whatever its exit code. It decides nothing.
"""

from __future__ import annotations

import random
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache, partial
from typing import Any

import torch

from evolve.judge.fitness import examine
from evolve.judge.gpu import ceilings
from evolve.judge.gpu.checking import Case, Checking
from evolve.judge.gpu.clock import Phases
from evolve.judge.gpu.driver import DriverError, Function
from evolve.judge.gpu.engine import CudaEngine, Engine
from evolve.judge.gpu.facts import REFUSALS, fatal, free_bytes, question_of, surroundings, survey, workload_of
from evolve.judge.gpu.launch import Program
from evolve.judge.gpu.memory import Memory
from evolve.judge.gpu.quick import Desk
from evolve.judge.gpu.rehearsal import empty_plan
from evolve.judge.gpu.timing import EAGER_CALLS, Contestant, Timing
from evolve.judge.gpu.watching import Watch
from evolve.judge.gpu.wire import Channel, WireError
from evolve.judge.inputs import families
from evolve.judge.plan_json import decode
from evolve.problem import Baseline, Problem, Variant, load_problem
from evolve.types import Workload

Order = Mapping[str, Any]
PLACED_US = 1000.0  # of samples thrown away in a new place


def main(channel: Channel) -> None:
    worker = Worker(channel)
    while True:
        try:
            order = channel.receive()
        except WireError:
            return  # the judge wants nothing more
        try:
            reply = worker.obey(order)
        except Exception as error:  # the edge of a worker process: whatever it was becomes a record, and the end
            channel.send(fault_of(error))
            return
        channel.send(reply)


def fault_of(error: Exception) -> dict[str, Any]:
    text = "".join(traceback.format_exception_only(error)).strip()
    if isinstance(error, torch.OutOfMemoryError) or "out of memory" in text:
        return {"fault": "memory", "text": text}
    if isinstance(error, DriverError) or "CUDA error" in text or type(error).__name__ == "AcceleratorError":
        return {"fault": "cuda", "text": text}
    return {"fault": "error", "text": "".join(traceback.format_exception(error))[-4000:]}


class Worker:
    """State of one process: the problem, the engine, and at most one workload that is being timed."""

    def __init__(self, channel: Channel, engine: Engine | None = None) -> None:
        self._channel = channel
        self._engine = engine
        self._problem: Problem | None = None
        self._timing: Timing | None = None
        self._again: Callable[..., Timing] | None = None  # the same timing in another place
        self._memory: Memory | None = None
        self._watch: Watch | None = None
        self._intact = True  # memory around every buffer that was timed
        self._loaded: dict[str, Function] = {}
        self._limits: dict[str, float] = {}
        self._desk: Desk | None = None  # the tuner's, from its first order on

    def obey(self, order: Order) -> dict[str, Any]:
        deeds = {
            "open": self._open,
            "check": self._check,
            "time": self._time,
            "blocks": self._blocks,
            "verify": self._verify,
            "end": self._end,
            "quick": lambda o: self.desk.quick(o),
            "duel": lambda o: self.desk.duel(o),
            "probe": self._probe,
            "baseline": self._baseline,
            "ceilings": self._ceilings,
            "examine": self._examine,
        }
        self._limits.update(order.get("limits", {}))
        return deeds[str(order["op"])](order)

    @property
    def engine(self) -> Engine:
        assert self._engine is not None, "the first order is `open`"
        return self._engine

    @property
    def problem(self) -> Problem:
        assert self._problem is not None, "the first order is `open`"
        return self._problem

    @property
    def desk(self) -> Desk:
        self._desk = self._desk or Desk(self.engine, self.problem, self._program, self._phases)
        return self._desk

    def _phases(self, **where: Any) -> Phases:
        return Phases(self._channel.send, self._limits, **where)

    # --- open, probe ---

    def _open(self, order: Order) -> dict[str, Any]:
        phases = self._phases()
        with phases("open"):
            self._problem = load_problem(order["problem"])
            if self._engine is None:
                self._engine = CudaEngine(str(order.get("gpu", "0")))
        with phases("rehearse"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The CUDA Graph is empty")  # on purpose: see `_rehearse`
            if order.get("rehearse"):
                self._rehearse(workload_of(order["rehearse"]), self.problem.variant(order["variant"]), phases)
        return {"opened": surroundings(self.engine), "seconds": phases.seconds}

    def _rehearse(self, workload: Workload, variant: Variant, phases: Phases) -> None:
        """A check and a block with a plan of no launches: the answer is wrong, the way through the libraries right."""
        plan = empty_plan(self.problem, workload)
        program = Program(self.engine.driver, plan, (), self._loaded)
        rng = random.Random(0)
        baseline = self._first_baseline(workload)
        checking = Checking(
            self.engine, self.problem, variant, workload, program, baseline=baseline, rng=rng, phases=phases
        )
        checking.rehearse(families(self.problem))
        checking.changed(0)
        checking.close()
        contestants: dict[str, Contestant] = {"C": program, **({"B": baseline} if baseline else {})}
        if "B" in contestants:
            memory = Memory(self.engine.device, self.engine.pages, rng)
            timing = Timing(
                self.engine, memory, self.problem, workload, contestants, calls=2, random_seed=0, phases=phases
            )
            timing.block()
            timing.watched(1)
            timing.eager_us()
            del timing
            self.engine.synchronize()
            memory.free()

    def _first_baseline(self, workload: Workload) -> Baseline | None:
        """The first that runs here; a library may refuse what this GPU does not have."""
        for baseline in self.problem.baselines:
            if baseline.compiles or baseline.unavailable(workload):
                continue
            try:
                baseline.call(*self.problem.make_inputs(workload, self.engine.device, 1))
            except REFUSALS as error:
                if fatal(error):
                    raise
            else:
                return baseline
        return None

    def _probe(self, order: Order) -> dict[str, Any]:
        """A known answer, and the baseline on the workload that a candidate failed on."""
        phases = self._phases(workload="probe")
        with phases("probe"):
            a = torch.arange(256 * 256, device=self.engine.device, dtype=torch.int32).reshape(256, 256) % 7
            product = a.to(torch.float32) @ a.to(torch.float32)
            right = torch.equal(product.cpu(), a.cpu().to(torch.float32) @ a.cpu().to(torch.float32))
        if order.get("workload"):
            workload = workload_of(order["workload"])
            with phases("baseline"):
                baseline = self._named_baseline(order.get("baseline")) or self._first_baseline(workload)
                if baseline is not None:
                    baseline.call(*self.problem.make_inputs(workload, self.engine.device, 1))
                    self.engine.synchronize()
        return {"healthy": right, "free_bytes": free_bytes(self.engine)}

    # --- check ---

    def _check(self, order: Order) -> dict[str, Any]:
        """All kinds of inputs of one workload, until one of them is wrong."""
        workload = workload_of(order["workload"])
        variant = self.problem.variant(order["variant"])
        phases = self._phases(workload=workload.name)
        cases: list[Case] = []
        with phases("candidate", doing="load"):
            program = self._program(order["candidate"])
        checking = Checking(
            self.engine,
            self.problem,
            variant,
            workload,
            program,
            baseline=self._named_baseline(order.get("baseline")),
            rng=random.Random(order["random_seed"]),
            phases=phases,
        )
        for family, seed in order["families"]:
            cases.append(checking.changed(seed) if family == "changed" else checking.case(family, seed))
            if cases[-1].wrong:
                break
        checking.close()
        memory = Memory(self.engine.device, self.engine.pages, random.Random()).kind
        return {"cases": [c.to_json() for c in cases], "seconds": phases.seconds, "memory": memory}

    def _program(self, data: Mapping[str, Any]) -> Program:
        return Program(self.engine.driver, decode(data["plan"]).plans[0], data["folders"], self._loaded)

    def _named_baseline(self, name: str | None) -> Baseline | None:
        return next((b for b in self.problem.baselines if b.name == name), None)

    # --- time ---

    def _time(self, order: Order) -> dict[str, Any]:
        """Make one workload ready for sampling. Contestants are plans, or names of baselines."""
        self._end(order)
        self._intact = True
        contestants = {letter: self._contestant(data) for letter, data in order["contestants"].items()}
        timing = self._place(order, contestants, taken=int(order.get("taken", 0)))
        self._watch = Watch(self.problem, timing.workload)
        self._again = partial(self._place, order, contestants)
        with timing.phases("candidate", doing="warm-up"):
            timing.warm_up(float(order.get("warm_us", 0.0)))
            eager = timing.eager_us(int(order.get("eager_calls", EAGER_CALLS)))
        assert self._memory is not None
        return {
            "orders": list(timing.orders),
            "eager_us": eager,
            "stirs": timing.stirs,
            "flushes": timing.flushes,
            "memory": self._memory.kind,
            "seconds": timing.phases.seconds,
        }

    def _place(self, order: Order, contestants: Mapping[str, Contestant], *, taken: int) -> Timing:
        """Everything in memory that it was not in before: the old place is given back when the new one is taken."""
        workload = workload_of(order["workload"])
        before, seed = self._memory, int(order["random_seed"]) + 2 * taken
        memory = Memory(self.engine.device, self.engine.pages, random.Random(seed + 1))
        self._timing = Timing(
            self.engine,
            memory,
            self.problem,
            workload,
            contestants,
            calls=int(order["calls"]),
            random_seed=seed,
            phases=self._phases(workload=workload.name),
            taken=taken,
            names=order.get("names", {}),
        )
        with self._timing.phases("memory"):
            self._give_back(before)
        self._memory = memory
        return self._timing

    def _give_back(self, memory: Memory | None) -> None:
        if memory is None:
            return
        self.engine.synchronize()
        self._intact = self._intact and memory.untouched()
        memory.free()

    def _contestant(self, data: Any) -> Contestant:
        if isinstance(data, str):
            found = self._named_baseline(data)
            assert found is not None, f"no baseline {data!r}"
            return found
        with self._phases()("candidate", doing="load"):
            return self._program(data)

    def _blocks(self, order: Order) -> dict[str, Any]:
        """Some blocks more; before a secret one of them the candidate's outputs are kept, and compared in full: now, or
        later where the order says so."""
        timing = self._timing
        assert timing is not None, "`time` comes before `blocks`"
        phases = self._phases(workload=timing.workload.name)
        count, rows = int(order["count"]), []
        watched = random.SystemRandom().randrange(count) if order.get("watch") else -1
        report: dict[str, Any] = {}
        for number in range(count):
            if timing.stale:
                assert self._again is not None
                timing = self._again(taken=timing.taken)
                phases.add(timing.phases)
                with phases("candidate", doing="warm-up"):
                    timing.warm_up(PLACED_US)
            if number == watched:
                assert self._watch is not None
                self._watch.look(timing, phases)
                if not order.get("later"):
                    self._compare(order, phases)
                    (report["watched"],) = self._watch.taken()
                elif self._watch.full:
                    self._compare(order, phases)
            sides = timing.order
            with phases("candidate", doing="samples"):
                times, slowed = timing.block()
            rows.append({"order": sides, "place": timing.place, "times_us": times, "slowed": slowed})
        reading = getattr(self.engine, "reading", None)
        return {"blocks": rows, "clock": reading() if reading else None, "seconds": phases.seconds, **report}

    def _compare(self, order: Order, phases: Phases) -> None:
        assert self._watch is not None
        variant, baseline = self.problem.variant(order["variant"]), self._named_baseline(order.get("baseline"))
        self._watch.compare(variant, baseline, phases)

    def _verify(self, order: Order) -> dict[str, Any]:
        """What was kept of watched samples, compared with the reference; a row a sample."""
        timing = self._timing
        assert timing is not None, "`time` comes before `verify`"
        phases = self._phases(workload=timing.workload.name)
        self._compare(order, phases)
        assert self._watch is not None
        return {"watched": self._watch.taken(), "seconds": phases.seconds}

    def _end(self, order: Order) -> dict[str, Any]:
        """Give the timed workload's memory back, and what was kept for the tuner."""
        phases = self._phases()
        with phases("memory"):
            if self._desk is not None:
                self._desk.close()
            if self._memory is not None:
                self.engine.synchronize()
                self._timing = self._watch = None
                self._give_back(self._memory)
                self._memory = None
                self.engine.trim()
        return {"intact": self._intact, "seconds": phases.seconds}

    # --- calibration ---

    def _baseline(self, order: Order) -> dict[str, Any]:
        """Each baseline on one workload: why not, or its error and its time a call."""
        workload, variant = workload_of(order["workload"]), self.problem.variant(order["variant"])
        question = cache(partial(question_of, self.engine, self.problem, workload, int(order["random_seed"])))
        found: dict[str, Any] = {}
        for baseline in self.problem.baselines:
            if "only" in order and baseline.name not in order["only"]:
                continue
            with self._phases(workload=workload.name)("baseline", name=baseline.name):
                found[baseline.name] = survey(self.engine, self.problem, baseline, workload, variant, order, question)
            self.engine.trim()
        return {"baselines": found}

    def _ceilings(self, order: Order) -> dict[str, Any]:
        with self._phases()("ceilings"):
            return {"ceilings": ceilings.measure(self.engine), **surroundings(self.engine)}

    def _examine(self, order: Order) -> dict[str, Any]:
        """Is the problem fit for use, on this device and at the sizes that candidates are checked at."""
        with self._phases()("examine"):
            variant = self.problem.variant(order["variant"])
            return {"findings": [asdict(f) for f in examine(self.problem, variant, device=self.engine.device)]}
