"""Running a launch plan: roots become pointers, arguments become bytes, launches go to a stream in order.

The plan was gated; what is checked again here is only what would be silent: that our parameter layout is the cubin's.
"""

from __future__ import annotations

import ctypes
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolve.errors import MachineryError
from evolve.judge.gpu.driver import Driver, Function
from evolve.judge.plan import Argument, Descriptor, Launch, Plan, View

# Bytes of one element, by the dtype names that plans use.
ITEMSIZE: Mapping[str, int] = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "int16": 2,
    "uint16": 2,
    "int32": 4,
    "uint32": 4,
    "int64": 8,
    "uint64": 8,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2fnuz": 1,
    "complex64": 8,
}
_INTEGERS: Mapping[str, Any] = {
    "i1": ctypes.c_int8,
    "i8": ctypes.c_int8,
    "i16": ctypes.c_int16,
    "i32": ctypes.c_int32,
    "i64": ctypes.c_int64,
    "u1": ctypes.c_uint8,
    "u8": ctypes.c_uint8,
    "u16": ctypes.c_uint16,
    "u32": ctypes.c_uint32,
    "u64": ctypes.c_uint64,
}
_DESCRIPTOR = re.compile(r"tensordesc<([^[>]*)\[([^]]*)\]")

Allocate = Callable[[int], int]  # bytes -> pointer, kept alive by whoever allocates


@dataclass(frozen=True)
class Step:
    """One launch with everything bound: nothing is computed between two of them."""

    function: Function
    grid: tuple[int, int, int]
    parameters: Any
    keep: tuple[Any, ...]  # what `parameters` points to


@dataclass(frozen=True)
class Bound:
    """A plan on particular buffers. `run` enqueues it and returns."""

    driver: Driver
    zeroed: tuple[tuple[int, int], ...]
    steps: tuple[Step, ...]

    def run(self, stream: int) -> None:
        for pointer, nbytes in self.zeroed:
            self.driver.fill(pointer, 0, nbytes, stream)
        for step in self.steps:
            self.driver.launch(step.function, step.grid, step.parameters, stream)


class Program:
    """A plan whose kernels are loaded. Loading happens here, so that none falls into a capture or a sample."""

    def __init__(self, driver: Driver, plan: Plan, folders: Sequence[str], loaded: dict[str, Function]) -> None:
        """`folders` are the builder's, one a launch; `loaded` is shared by the programs of a process."""
        self.plan = plan
        self._driver = driver
        for folder in folders:
            if folder not in loaded:
                loaded[folder] = _load(driver, folder)
        self._functions = tuple(loaded[folder] for folder in folders)

    @property
    def scratch_bytes(self) -> int:
        """What the launches want besides the plan's roots: room for descriptors that kernels make themselves."""
        return sum(_scratch(f, x.grid) for f, x in zip(self._functions, self.plan.launches, strict=True))

    def bind(self, roots: Mapping[str, int], allocate: Allocate) -> Bound:
        zeroed = tuple((roots[r.name], r.nbytes) for r in self.plan.roots if r.zeroed and r.nbytes)
        pairs = zip(self._functions, self.plan.launches, strict=True)
        return Bound(self._driver, zeroed, tuple(self._step(f, x, roots, allocate) for f, x in pairs))

    def _step(self, function: Function, launch: Launch, roots: Mapping[str, int], allocate: Allocate) -> Step:
        wanted = _scratch(function, launch.grid)
        scratch = allocate(wanted) if wanted else 0
        values = [*_expand(self._driver, function, launch, roots), ctypes.c_uint64(scratch), ctypes.c_uint64(0)]
        _agree(function, [ctypes.sizeof(v) for v in values])
        parameters = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        return Step(function, launch.grid, parameters, tuple(values))


def _load(driver: Driver, folder: str) -> Function:
    try:
        return driver.load(Path(folder))
    except (OSError, ValueError, KeyError) as error:
        raise MachineryError(
            f"{folder}: a built kernel is not in the builder's cache ({error}); build it again."
        ) from error


def _scratch(function: Function, grid: tuple[int, int, int]) -> int:
    return function.scratch_bytes * grid[0] * grid[1] * grid[2] * function.ctas


def _expand(driver: Driver, function: Function, launch: Launch, roots: Mapping[str, int]) -> list[Any]:
    """The kernel's parameters in order. A descriptor becomes its tensor map (or, where the kernel was compiled without
    one, base, sizes, strides and padding), followed by sizes and strides once more."""
    kinds = dict(launch.signature)
    metas = iter(function.descriptors)
    values: list[Any] = []
    for name, argument in launch.arguments:
        if isinstance(argument, Descriptor):
            values += _descriptor(driver, function, next(metas, None), argument, kinds[name], roots)
        else:
            values.append(_plain(argument, kinds[name], roots))
    return values


def _descriptor(
    driver: Driver,
    function: Function,
    meta: dict[str, Any] | None,
    argument: Descriptor,
    kind: str,
    roots: Mapping[str, int],
) -> list[Any]:
    if not _DESCRIPTOR.match(kind):
        raise MachineryError(
            f'a descriptor stands where the kernel takes "{kind}"; the plan and its signature disagree.'
        )
    view, base = argument.view, pointer_of(argument.view, roots)
    sizes, steps = list(view.shape), list(view.stride)
    nan = argument.padding == "nan"
    tail = [*map(ctypes.c_int32, sizes), *map(ctypes.c_int64, steps)]
    if meta is not None:
        return [driver.tensor_map(meta, base, sizes, steps, nan), *tail]
    flags = [ctypes.c_int8(nan)]
    if _version(function) >= (3, 7):
        flags.append(ctypes.c_int8(0))  # rounding to tf32
    return [ctypes.c_uint64(base), *map(ctypes.c_int64, sizes + steps), *flags, *tail]


def _version(function: Function) -> tuple[int, ...]:
    return tuple(int(x) for x in re.findall(r"\d+", str(function.metadata.get("triton_version", "")))[:2])


def _plain(argument: Argument, kind: str, roots: Mapping[str, int]) -> Any:
    if isinstance(argument, View):
        return ctypes.c_uint64(pointer_of(argument, roots))
    if kind in _INTEGERS:
        return _INTEGERS[kind](int(argument))  # type: ignore[arg-type]
    number = float(argument)  # type: ignore[arg-type]
    if kind in ("fp32", "f32"):
        return ctypes.c_float(number)
    if kind == "fp64":
        return ctypes.c_double(number)
    if kind == "fp16":
        return ctypes.c_uint16(struct.unpack("<H", struct.pack("<e", number))[0])
    if kind == "bf16":
        return ctypes.c_uint16(_bf16(number))
    raise MachineryError(
        f'an argument {argument!r} stands where the kernel takes "{kind}", which the judge cannot pass.'
    )


def _bf16(number: float) -> int:
    bits = int(struct.unpack("<I", struct.pack("<f", number))[0])
    return bits >> 16  # cut off, as Triton's own launcher does: the same call must compute the same thing here


def _agree(function: Function, ours: list[int]) -> None:
    theirs = function.parameters
    if theirs is not None and list(theirs) != ours:
        raise MachineryError(
            f"kernel {function.name} takes parameters of {list(theirs)} bytes and the judge would pass {ours}; "
            f"this version of Triton lays them out in a way that is not known here."
        )


def pointer_of(view: View, roots: Mapping[str, int]) -> int:
    return roots[view.root] + view.offset * ITEMSIZE[view.dtype]
