"""Taking samples: graph replays of whole plans over distinct inputs and outputs, interleaved in blocks.

A sample is one replay of a graph of `calls` calls, each on a set of its own; the number of calls was fixed by the
baseline at calibration and is the same for all sides. Before each sample, outside the stamps, in this order:

    some elements of every input are overwritten by others of it, at secret places: no content is ever seen twice, so
    that neither an earlier result nor a fingerprint of the inputs is of use; in-place arguments are restored, scratch
    is scribbled over;
    then the L2 is filled with something else, unless the mode is `hot` or the sets are many times its size anyway.

Between blocks, at a secret moment, one sample of the candidate is compared with the reference in full (`worker`).
Deciding when to stop and what a figure means is `judge.time`'s.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch

from evolve.judge.gpu.clock import Phases
from evolve.judge.gpu.engine import Engine, Mark, Replay
from evolve.judge.gpu.launch import Bound, Program
from evolve.judge.gpu.memory import Buffer, Memory
from evolve.judge.gpu.place import Placed, allocator, scratch_for
from evolve.judge.gpu.stir import Stir, fingerprint
from evolve.problem import Baseline, Problem
from evolve.types import NOTHING, Workload

EAGER_CALLS = 20  # at most
# Blocks in one place. Where buffers lie is a draw like any other: between two places the same skinny product takes 12
# to 16 µs (H200), and an interval from one place alone is too sure of itself.
STAY, SETTLED, STAY_LONG = 6, 24, 24
# Reads of twice the L2, about 30 µs each, ahead of a block; doubled while they end before the host is ready. On an H200
# whose host was busy compiling, four of them left the first sample of each block 10 to 20 µs late: half the blocks came
# out 5 % apart from the others, and 192 were taken where 24 would have done.
CUSHIONS, MOST_CUSHIONS = 4, 32
ENOUGH_L2 = 8  # sets that are together this many times the L2 evict each other

# Who takes part, by letter: C candidate, I another plan (the incumbent, a seed), every other one a baseline.
# Calibration lets baselines stand anywhere.
Contestant: TypeAlias = Program | Baseline
WHO = {"C": "candidate", "I": "incumbent"}


def orders_of(letters: Iterable[str]) -> tuple[str, ...]:
    """Each block there and back, so that a drift over it cancels, and in turns from another side on: CIBBIC, IBCCBI,
    BCIICB. With the candidate always at the ends it came out 0.13 % slower than itself (H200, 60 decisions of a kernel
    against itself): the first sample meets another clock."""
    row = "".join(sorted(letters, key=lambda letter: (letter != "C", -ord(letter))))
    turned = (row[n:] + row[:n] for n in range(len(row)))
    return tuple(each + each[::-1] for each in turned)


class Timing:
    """One workload, ready to be sampled."""

    def __init__(
        self,
        engine: Engine,
        memory: Memory,
        problem: Problem,
        workload: Workload,
        contestants: Mapping[str, Contestant],
        *,
        calls: int,
        random_seed: int,
        phases: Phases,
        taken: int = 0,
        names: Mapping[str, str] = NOTHING,
    ) -> None:
        """`names` are for telling who was at work when the process was lost."""
        self.engine, self.problem, self.workload = engine, problem, workload
        self.calls, self.orders = calls, orders_of(contestants)
        self.taken = taken  # blocks, in earlier places too: they say whose turn it is to begin
        self.place = taken  # named by its first block
        self._stay = taken + (STAY if taken < SETTLED else STAY_LONG)
        self._memory, self.phases, self._names = memory, phases, names
        self._rng = random.Random(random_seed)
        with phases("inputs"):
            self.sets = [self._set() for _ in range(calls)]
            self._restore = [(t, t.clone()) for s in self.sets for t in s.tensors("in_out").values()]
            self._stir = Stir(engine, self.sets, [kept for _, kept in self._restore], self._rng)
            # Read, never written: written lines would be carried to memory during the sample, at its cost.
            self._other = torch.zeros(2 * engine.l2_bytes // 4, dtype=torch.int32, device=engine.device)
        self._flush = self._other.max if workload.mode != "hot" and _evict(self.sets, engine.l2_bytes) else None
        self._warm = _small_inputs(self.sets) if workload.mode == "weights_cold" else []
        self._samples = 0  # of the block that is being taken
        self._cushions = CUSHIONS
        self.bound: list[Bound] = []  # the candidate's, one a set
        self._scratch: dict[str, list[Buffer]] = {}  # by side
        self._seen: list[torch.Tensor] = []
        candidate = contestants["C"]
        self._plan = candidate.plan if isinstance(candidate, Program) else None
        self._replays = {letter: self._capture(letter, one) for letter, one in contestants.items()}

    @property
    def stale(self) -> bool:
        """Time for another place."""
        return self.taken >= self._stay

    @property
    def stirs(self) -> bool:
        return bool(self._stir)

    @property
    def flushes(self) -> bool:
        return self._flush is not None

    def _set(self) -> Placed:
        made = self.problem.make_inputs(self.workload, self.engine.device, self._rng.getrandbits(48))
        return Placed(self._memory, self.problem, self.workload, made)

    def _capture(self, letter: str, contestant: Contestant) -> Replay:
        named = {"contestant": self._names[letter]} if letter in self._names else {}
        with self.phases(WHO.get(letter, "baseline"), doing="capture", **named):
            if isinstance(contestant, Baseline):
                replay = capture_calls(self.engine, contestant, [s.arguments for s in self.sets])
            else:
                bound = self.bind(letter, contestant, self._memory)
                if letter == "C":
                    self.bound = bound
                bound[0].run(self.engine.stream())  # outside the capture first: what fails is then this launch, by name
                self.engine.synchronize()
                replay = self.engine.capture(lambda: _run(bound, self.engine.stream()))
            replay()
            self.engine.synchronize()
        return replay

    def bind(self, letter: str, program: Program, memory: Memory) -> list[Bound]:
        """One binding a set, with scratch out of `memory`. It is one for all calls, as it is for a host function that
        allocates it anew each time: the allocator hands out the same place. Only what the kernels themselves ask for
        differs by call."""
        scratch = scratch_for(program.plan, memory)
        self._scratch[letter] = list(scratch.values())
        pointers = {name: buffer.pointer for name, buffer in scratch.items()}
        place = allocator(memory)
        return [program.bind(s.roots(program.plan, pointers), place) for s in self.sets]

    def join(self, letter: str, bound: Sequence[Bound]) -> None:
        """One more side, which `bind` made and which ran once, until it leaves: the tuner's points come and go."""
        replay = self.engine.capture(lambda: _run(bound, self.engine.stream()))
        replay()
        self._replays[letter] = replay

    def leave(self, letter: str) -> None:
        """Its memory is the caller's again, once the device is idle."""
        self._replays.pop(letter, None)
        self._scratch.pop(letter, None)

    # --- sampling ---

    def _before(self, number: int, side: str, *, watch: bool) -> None:
        """What happens ahead of sample `number` of a block, outside its stamps."""
        self._renew(number)
        if self.workload.mode == "hot":  # one replay to warm the L2, then new contents once more: not even it helps
            self._replays[side]()
            self._renew(number + self._samples)
        if watch:
            self._seen = [fingerprint(s) for s in self.sets]
        if self._flush is not None:
            self._flush()
        for tensor in self._warm:
            tensor.sum()

    def _renew(self, number: int) -> None:
        self._stir(number)
        self._put_back()
        for buffer in (b for buffers in self._scratch.values() for b in buffers):
            buffer.body.fill_(self._rng.randrange(256))  # what an earlier call left there is of no use

    def _put_back(self) -> None:
        for tensor, kept in self._restore:
            tensor.copy_(kept)

    @property
    def order(self) -> str:
        """Of the next block."""
        return self.orders[self.taken % len(self.orders)]

    def block(self) -> tuple[list[float], bool | None]:
        """One block, enqueued as a whole so that the device never waits for the host; microseconds a call."""
        order = self.order
        self.taken += 1
        return self.samples(order)

    def samples(self, order: Sequence[str]) -> tuple[list[float], bool | None]:
        """One of each side in this order; microseconds a call, and whether the chip was slowed."""
        marks = [self._first(order)]
        marks += [self._sample(number, side) for number, side in enumerate(order) if number]
        slowed = self.engine.slowed()  # asked while the device works
        self.engine.synchronize()
        return [self.engine.between_us(a, b) / self.calls for a, b in marks], slowed

    def _first(self, order: Sequence[str]) -> tuple[Mark, Mark]:
        """The sample that opens a block. If its first stamp was taken before its work had arrived, it holds the host's
        time: then it is taken anew behind a longer cushion, whatever it says and whoever's it is."""
        self._begin(len(order))
        marks = self._sample(0, order[0])
        while self.engine.passed(marks[0]) and self._cushions < MOST_CUSHIONS:
            self._cushions *= 2
            self.engine.synchronize()
            self._begin(len(order))
            marks = self._sample(0, order[0])
        return marks

    def _begin(self, samples: int) -> None:
        self._samples = samples
        self._stir.prepare(2 * samples)
        self.cushion()

    def _sample(self, number: int, side: str, *, watch: bool = False) -> tuple[Mark, Mark]:
        self._before(number, side, watch=watch)
        first = self.engine.mark()
        self._replays[side]()
        return first, self.engine.mark()

    def cushion(self) -> None:
        """Work for the device to be busy with while the host enqueues the first sample. Without it the first stamp is
        taken before the graph has arrived, always to the cost of the side that comes first: the candidate."""
        for _ in range(self._cushions):
            self._other.max()

    def warm_up(self, enough_us: float) -> None:
        """Bring clocks and caches to where they will be; these samples are thrown away."""
        spent, taken = 0.0, self.taken
        while spent < enough_us:
            times, _ = self.block()
            spent += max(1.0, sum(times) * self.calls)
        self.taken = taken

    def eager_us(self, most: int = EAGER_CALLS) -> float | None:
        """A call as a host makes it, launch by launch: shown beside the score, never ranked."""
        if not self.bound or not most:
            return None
        runs = [self.bound[i % len(self.bound)] for i in range(most)]
        first = self.engine.mark()
        for bound in runs:
            bound.run(self.engine.stream())
        last = self.engine.mark()
        self.engine.synchronize()
        return self.engine.between_us(first, last) / most

    # --- what a timed sample computed ---

    def watched(self, most: int) -> tuple[list[Placed], bool]:
        """A block that breaks off behind one of the candidate's samples, which one is secret: some of its sets, and
        whether it left its inputs alone. Up to there it is a block like any other, so a kernel cannot tell that what
        it computes now will be looked at; a counter is of no use either."""
        last = self._rng.choice([n for n, side in enumerate(self.order) if side == "C"])
        self._begin(len(self.order))
        for number, side in enumerate(self.order[: last + 1]):
            self._sample(number, side, watch=number == last)
        self.engine.synchronize()
        untouched = all(torch.equal(a, fingerprint(s)) for a, s in zip(self._seen, self.sets, strict=True))
        return self._rng.sample(self.sets, min(most, len(self.sets))), untouched

    def outputs(self, placed: Placed) -> tuple[torch.Tensor, ...]:
        assert self._plan is not None, "only a plan's outputs lie where they can be read"
        return placed.read(self._plan)

    @property
    def output_bytes(self) -> int:
        return sum(r.nbytes for r in self._plan.roots if r.kind == "output") if self._plan is not None else 0

    def arguments(self, placed: Placed) -> tuple[Any, ...]:
        """The arguments of a set as they were before the last sample."""
        kept = {id(t): k for t, k in self._restore}
        return tuple(kept.get(id(a), a) for a in placed.arguments)


def _evict(sets: Sequence[Placed], l2_bytes: int) -> bool:
    """Whether the sets are too small to push each other out of the L2. One set alone never does so reliably."""
    own = sum(b.nbytes for s in sets for b in s.storages("value", "index", "in_out").values())
    return own < ENOUGH_L2 * l2_bytes or len(sets) == 1


def _small_inputs(sets: Sequence[Placed]) -> list[torch.Tensor]:
    """`weights_cold`: the largest input streams from memory, the others were just produced by somebody else."""
    small = []
    for placed in sets:
        tensors = list(placed.tensors("value", "in_out").values())
        largest = max(tensors, key=lambda t: t.numel() * t.element_size(), default=None)
        small += [t for t in tensors if t is not largest]
    return small


def _run(bound: Sequence[Bound], stream: int) -> None:
    for each in bound:
        each.run(stream)


def capture_calls(engine: Engine, baseline: Baseline, sets: Sequence[Sequence[Any]]) -> Replay:
    """The baseline's calls as one graph. Their outputs are all kept: each call writes to memory of its own."""
    for _ in range(2):  # libraries choose and load kernels at the first calls, which no capture allows
        baseline.call(*sets[0])
    for arguments in sets[1:] if baseline.compiles else ():  # each set is let in by guards, or compiled for, before it
        baseline.call(*arguments)
    engine.synchronize()
    return engine.capture(lambda: [baseline.call(*arguments) for arguments in sets])
