"""Counts what one launch does, from its TTIR and its arguments: arithmetic, bytes, iterations, panels shared.

The scalars of the kernel are evaluated for a sample of program instances at once (numpy arrays over the sample), loops
once with their trip counts as weights; tensors are never computed, only their sizes and which scalars they depend on.
Two programs whose load depends on equal scalars read the same bytes: that is how reuse in L2 is seen. What depends on
data (a loop over a length read from memory) is unknown, is counted once, and is said in `unknown`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from evolve.judge.addresses import Tensor, Touch, shaped, touch_of
from evolve.judge.counts import ATOMIC, Counts, Dot, Move
from evolve.judge.plan import Argument, Descriptor, Launch, View
from evolve.judge.scalars import UNKNOWN, Numbers, Value, arithmetic
from evolve.judge.ttir import Function, Op, Tile

WAVE = 4096  # programs looked at for reuse: more are never resident
GOLDEN = 0.6180339887498949  # multiples of it are spread evenly over 0 to 1
SPREAD = 256  # programs spread over the grid, for the mean of what differs between them

SPECIAL = (
    "math.exp",
    "math.log",
    "math.sin",
    "math.cos",
    "math.sqrt",
    "math.rsqrt",
    "math.tanh",
    "math.erf",
    "math.pow",
)
FLOATING = ("addf", "subf", "mulf", "divf", "maxnumf", "minnumf", "maximumf", "minimumf", "negf", "cmpf", "truncf")


def count(function: Function, launch: Launch, *, resident: int) -> Counts:
    """`resident`: how many programs the chip holds at once, which is how far reuse through L2 can be seen."""
    return _Counter(function, launch, resident).run()


class _Counter:
    def __init__(self, function: Function, launch: Launch, resident: int) -> None:
        self.function, self.launch = function, launch
        programs = max(1, prod(launch.grid))
        self.wave = max(1, min(programs, resident, WAVE))
        spread = np.linspace(0, programs - 1, min(SPREAD, programs)).astype(np.int64)
        self.ids = np.concatenate([np.arange(self.wave, dtype=np.int64), spread])
        self.mean_of = slice(self.wave, None)
        # Where in a loop each program is looked at: those of the wave at its start, all together; those for the mean
        # spread over its turns, for what depends on the turn.
        self.phase = np.zeros(len(self.ids))
        self.phase[self.mean_of] = np.arange(len(spread)) * GOLDEN % 1.0
        self.values: dict[str, Value] = {}
        self.tensors: dict[str, Tensor] = {}  # of the program in the middle of the wave
        self.found = Counts(programs=programs)
        self.unknown: list[str] = []
        self.chain = np.zeros(len(self.ids))  # iterations of each sampled program
        self.entered = np.zeros(len(self.ids))  # and how often it begins a loop

    def run(self) -> Counts:
        for (name, _), value in zip(self.function.arguments, _spread_out(self.function, self.launch), strict=False):
            self.values[name] = self._argument(value, len(self.values))
        self._block(list(self.function.body), np.ones(len(self.ids)), 0)
        chain = self.chain[self.mean_of]
        self.found.iterations = float(chain.mean())
        self.found.longest = self._longest(chain)
        self.found.unknown = tuple(dict.fromkeys(self.unknown))
        return self.found

    def _longest(self, chain: NDArray[np.float64]) -> float:
        """A program that takes many tiles has long ones and short ones among them; that it has more tiles is real."""
        entered = self.entered[self.mean_of]
        if not chain.mean() > 0 or not entered.mean() > 0:
            return 1.0
        tiles = max(1.0, entered.mean() / max(1, self.found.loops))
        by_length = 1 + (float(chain.max() / chain.mean()) - 1) / tiles
        return float(max(by_length, entered.max() / entered.mean()))

    def _argument(self, value: Argument | None, position: int) -> Value:
        if isinstance(value, bool | int):
            return Value(np.full(len(self.ids), int(value), dtype=np.int64))
        # A pointer counts from its own root: only where programs differ matters.
        return Value(np.zeros(len(self.ids), dtype=np.int64), arguments=frozenset({position}))

    def _block(self, ops: Sequence[Op], times: NDArray[np.float64], depth: int) -> bool:
        """Whether anything in it loads. `times`: how often each sampled program gets here."""
        loads = False
        for op in ops:
            if op.name == "scf.for":
                loads |= self._for(op, times, depth)
            elif op.name in ("scf.if", "scf.while"):
                loads |= self._branch(op, times, depth)
            else:
                loads |= self._count(op, times, depth)
                self._evaluate(op)
        return loads

    # --- control flow ---

    def _for(self, op: Op, times: NDArray[np.float64], depth: int) -> bool:
        names = list(op.operands)
        if len(names) < 4 or not op.regions:
            return False
        index, low, high, step = names[0], *(self._get(n) for n in names[1:4])
        trips = self._trips(low, high, step)
        carried = list(zip(names[4::2], names[5::2], strict=False))
        at = self._turn(low, step, trips)
        self.values[index] = Value(at, low.depends, moving=True, starts_at_program=low.starts_at_program)
        for inner, outer in carried:
            start = self._get(outer)
            self.values[inner] = Value(start.numbers, start.depends, start.arguments, moving=True)
            if outer in self.tensors:
                self.tensors[inner] = self.tensors[outer]
        stride = None if step.numbers is None else int(step.numbers[0])
        if depth == 0 and low.starts_at_program and stride == prod(self.launch.grid):
            self.found.persistent = True
        before = self.chain.copy()
        loads = self._block(op.regions[0], times * trips, depth + 1)
        if loads and np.array_equal(before, self.chain):  # no loop inside has counted them
            self.chain = self.chain + times * trips
            self.found.loops += 1
            self.entered = self.entered + times * (trips > 0)
            self.found.entered = float(self.entered[self.mean_of].mean())
        for result, (_, outer) in zip(op.results, carried, strict=False):
            start = self._get(outer)
            self.values[result] = Value(start.numbers, start.depends, start.arguments)
            if outer in self.tensors:  # where it stands after the loop is not known; how it lies in memory is
                self.tensors[result] = self.tensors[outer]
        return loads

    def _turn(self, low: Value, step: Value, trips: NDArray[np.float64]) -> Numbers | None:
        if low.numbers is None or step.numbers is None:
            return None
        return np.asarray(low.numbers + step.numbers * np.floor(trips * self.phase).astype(np.int64))

    def _trips(self, low: Value, high: Value, step: Value) -> NDArray[np.float64]:
        if low.numbers is None or high.numbers is None or step.numbers is None:
            self.unknown.append("a loop's length depends on data; it is counted as one iteration")
            return np.ones(len(self.ids))
        trips = -(-(high.numbers - low.numbers) // np.maximum(1, step.numbers))
        return np.asarray(np.maximum(0, trips), dtype=np.float64)

    def _branch(self, op: Op, times: NDArray[np.float64], depth: int) -> bool:
        condition = self._get(op.operands[0]) if op.operands and op.name == "scf.if" else UNKNOWN
        if op.name == "scf.while":
            self.unknown.append("a while loop's length is not known; it is counted as one iteration")
            weights = [np.ones(len(self.ids))] * len(op.regions)
        elif condition.numbers is None:
            weights = [np.full(len(self.ids), 0.5)] * 2
            self.unknown.append("a branch depends on data; each side is counted half")
        else:
            taken = (condition.numbers != 0).astype(np.float64)
            weights = [taken, 1.0 - taken]
        loads = False
        for region, weight in zip(op.regions, weights, strict=False):
            loads |= self._block(region, times * weight, depth)
        for position, result in enumerate(op.results):
            self.values[result] = self._yielded(op, position, condition)
        return loads

    def _yielded(self, op: Op, position: int, condition: Value) -> Value:
        """What a branch gives: either side's number where it is known which is taken, else the first side's leaves."""
        sides = [
            self._get(region[-1].operands[position])
            for region in op.regions
            if region and region[-1].name == "scf.yield" and position < len(region[-1].operands)
        ]
        if not sides:
            return UNKNOWN
        first, last = sides[0], sides[-1]
        decided = len(sides) == 2 and condition.numbers is not None and not condition.moving
        if decided and first.numbers is not None and last.numbers is not None:
            numbers = np.where(condition.numbers != 0, first.numbers, last.numbers)
            depends = first.depends | last.depends | self._leaves(condition)
            return Value(numbers, depends, first.arguments | last.arguments, first.moving or last.moving)
        return Value(None, first.depends, first.arguments, moving=True)

    # --- scalars ---

    def _get(self, name: str) -> Value:
        return self.values.get(name, UNKNOWN)

    def _evaluate(self, op: Op) -> None:
        if not op.results:
            return
        operands = [self._get(name) for name in op.operands]
        tile = op.tile
        moving = any(v.moving for v in operands)
        arguments = frozenset().union(*(v.arguments for v in operands)) if operands else frozenset()
        numbers = None if tile.shape or "tensordesc" in op.types else self._number(op, operands)
        depends = frozenset().union(*(self._leaves(v) for v in operands)) if operands else frozenset()
        starts = op.name == "tt.get_program_id" or (len(operands) == 1 and operands[0].starts_at_program)
        value = Value(numbers, depends, arguments, moving, starts)
        for result in op.results:
            self.values[result] = value
        if (made := shaped(op, [self._tensor(name) for name in op.operands])) is not None:
            self.tensors[op.results[0]] = made

    def _tensor(self, name: str) -> Tensor | None:
        """In the program in the middle of the wave: those at the edges have masks of their own."""
        if name in self.tensors:
            return self.tensors[name]
        value = self._get(name)
        return None if value.numbers is None else np.asarray(value.numbers[self.wave // 2])

    def _leaves(self, value: Value) -> frozenset[bytes]:
        """What makes programs differ in a value: a scalar's numbers where they differ, a tensor's scalars."""
        if value.numbers is None:
            return value.depends
        wave = value.numbers[: self.wave]
        return frozenset() if (wave == wave[0]).all() else frozenset({wave.tobytes()})

    def _number(self, op: Op, operands: list[Value]) -> Numbers | None:
        if op.name == "arith.constant":
            return self._constant(op.text)
        if op.name in ("tt.get_program_id", "tt.get_num_programs"):
            axis = "xyz".find(op.text.strip()[:1])
            return self._program(axis) if op.name == "tt.get_program_id" else self._full(self.launch.grid[axis])
        return arithmetic(op, [v.numbers for v in operands])

    def _constant(self, text: str) -> Numbers | None:
        word = text.split()[0] if text.split() else ""
        word = {"true": "1", "false": "0"}.get(word, word)
        return self._full(int(word)) if word.lstrip("-").isdigit() else None

    def _full(self, number: int) -> Numbers:
        return np.full(len(self.ids), number, dtype=np.int64)

    def _program(self, axis: int) -> Numbers:
        x, y, _ = self.launch.grid
        return np.asarray((self.ids % x, self.ids // x % y, self.ids // (x * y))[axis])

    # --- what is counted ---

    def _count(self, op: Op, times: NDArray[np.float64], depth: int) -> bool:
        mean = float(times[self.mean_of].mean())
        if op.name in ("tt.dot", "tt.dot_scaled"):
            self._dot(op, mean)
        elif op.name in ("tt.load", "tt.store", "tt.descriptor_load", "tt.descriptor_gather", "tt.descriptor_store"):
            self._move(op, mean, depth)
        elif op.name in ATOMIC:
            self.found.atomics = True
            self._move(op, mean, depth)
        elif op.name == "tt.make_tensor_descriptor":
            self.found.described += mean
        elif op.name.startswith(SPECIAL):
            self.found.special += op.tile.numel * mean
        elif op.name == "tt.reduce" or op.name.removeprefix("arith.") in FLOATING or op.name.startswith("math."):
            tiles = op.tiles()
            self.found.floating += (tiles[0] if tiles else Tile((), "f32")).numel * mean
        return op.name in ("tt.load", "tt.descriptor_load", "tt.descriptor_gather") and bool(op.tile.shape)

    def _dot(self, op: Op, mean: float) -> None:
        tiles = op.tiles()
        if len(tiles) < 3 or len(tiles[0].shape) < 2:
            return
        a, c = tiles[0], tiles[-1]
        batch = prod(a.shape[:-2])
        precision = op.text.partition("inputPrecision = ")[2].split(",")[0].strip()
        self.found.dots.append(Dot(a.shape[-2], c.shape[-1], a.shape[-1], a.element, precision, mean * batch))

    def _move(self, op: Op, mean: float, depth: int) -> None:
        tiles = op.tiles()
        if not tiles:
            return
        tile = tiles[0] if op.name in ("tt.store", *ATOMIC) else tiles[-1]
        touched = [self._get(name) for name in self._address(op)]
        leaves = frozenset().union(*(self._leaves(v) for v in touched)) if touched else frozenset()
        arguments = sorted(frozenset().union(*(v.arguments for v in touched))) if touched else []
        argument = arguments[0] if arguments else None
        touch = self._touch(op, tile)
        self.found.moves.append(
            Move(
                op.name,
                tile.nbytes,
                mean,
                self._distinct(leaves),
                argument,
                depth > 0,
                touch.sector_bytes,
                touch.run_bytes,
            )
        )

    def _touch(self, op: Op, tile: Tile) -> Touch:
        if "descriptor" in op.name and tile.shape:  # whole tiles, row by row
            return Touch(1.0, float(tile.nbytes), tile.nbytes / max(1, prod(tile.shape[:-1])))
        return touch_of(op, self.tensors) or Touch(1.0, 0.0, 0.0)

    def _address(self, op: Op) -> list[str]:
        """The operands that say where: the pointer, or a descriptor with its indices."""
        if "descriptor" not in op.name:
            return list(op.operands[:1])
        inside = op.text.partition("]")[0]
        return [name for name in op.operands if name in inside]

    def _distinct(self, leaves: frozenset[bytes]) -> float:
        """Of the resident programs, what part touches bytes of its own."""
        if not leaves:
            return 1.0 / self.wave
        rows = np.stack([np.frombuffer(leaf, dtype=np.int64) for leaf in sorted(leaves)])
        return len(np.unique(rows, axis=1)[0]) / self.wave


def _spread_out(function: Function, launch: Launch) -> list[Argument | None]:
    """The launch's arguments as the module has them: a descriptor is followed by its sizes and strides, and where the
    chip has none it is a pointer with sizes, strides and flags first."""
    kinds = [kind for _, kind in function.arguments]
    values: list[Argument | None] = []
    for _, argument in launch.arguments:
        if not isinstance(argument, Descriptor):
            values.append(argument)
            continue
        view = argument.view
        values.append(view)
        if len(values) <= len(kinds) and "tensordesc" not in kinds[len(values) - 1]:
            values += [*view.shape, *view.stride]
            while len(values) < len(kinds) and kinds[len(values)] == "i1":
                values.append(False)
        values += [*view.shape, *view.stride]
    return values


def view_of(function: Function, launch: Launch, position: int) -> View | None:
    """The tensor behind a module's argument."""
    values = _spread_out(function, launch)
    value = values[position] if position < len(values) else None
    return value.view if isinstance(value, Descriptor) else value if isinstance(value, View) else None
