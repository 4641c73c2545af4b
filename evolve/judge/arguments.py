"""One launch held against the rules: its kernel, its grid, its options, and every argument that it passes.

This is where a number could become a pointer: the types in the plan's signature, the values that stand beside them and
the parameters of the TTIR function must all say the same, or an integer of the candidate's choosing would be read as
an address. `gate.py` calls it for each launch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from evolve.judge.plan import OPTIONS, Argument, Descriptor, Launch, Root, View
from evolve.judge.stages import Target
from evolve.judge.vocabulary import Module, Parameter

MAX_GRID = (2**31 - 1, 65535, 65535)
MAX_PROGRAMS = 2**32
MAX_DIMENSIONS = 16
MAX_STAGES = 16


class Refused(ValueError):
    """A claim that does not hold; the message is a sentence without its full stop."""


# torch dtype -> (bytes, Triton's names, MLIR's name)
DTYPES: Mapping[str, tuple[int, tuple[str, ...], str]] = {
    "bool": (1, ("u1", "i1"), "i1"),
    "uint8": (1, ("u8",), "i8"),
    "uint16": (2, ("u16",), "i16"),
    "uint32": (4, ("u32",), "i32"),
    "uint64": (8, ("u64",), "i64"),
    "int8": (1, ("i8",), "i8"),
    "int16": (2, ("i16",), "i16"),
    "int32": (4, ("i32",), "i32"),
    "int64": (8, ("i64",), "i64"),
    "float16": (2, ("fp16",), "f16"),
    "bfloat16": (2, ("bf16",), "bf16"),
    "float32": (4, ("fp32",), "f32"),
    "float64": (8, ("fp64",), "f64"),
    "float8_e4m3fn": (1, ("fp8e4nv",), "f8E4M3FN"),
    "float8_e5m2": (1, ("fp8e5",), "f8E5M2"),
    "float8_e4m3fnuz": (1, ("fp8e4b8",), "f8E4M3FNUZ"),
    "float8_e5m2fnuz": (1, ("fp8e5b16",), "f8E5M2FNUZ"),
}
INTEGERS = {"i8": (-(2**7), 2**7), "i16": (-(2**15), 2**15), "i32": (-(2**31), 2**31), "i64": (-(2**63), 2**63)}
INTEGERS |= {"u8": (0, 2**8), "u16": (0, 2**16), "u32": (0, 2**32), "u64": (0, 2**64)}
FLOATS = {"fp16": "f16", "bf16": "bf16", "fp32": "f32", "fp64": "f64"}
SIGNED = re.compile(r"x[su]i(\d+)>>$")  # only descriptors tell signed from unsigned; the copy is the same
DESCRIPTOR = re.compile(r"tensordesc<(\w+)\[(\d+(?:, ?\d+)*)\]>")


def itemsize(dtype: str) -> int:
    if dtype not in DTYPES:
        raise Refused(f"the dtype {dtype[:40]!r}; known are {', '.join(DTYPES)}")
    return DTYPES[dtype][0]


def span(view: View, root: Root) -> None:
    """The view's first and last byte lie inside its root. Meta tensors do not check that by themselves."""
    size = itemsize(view.dtype)
    if len(view.shape) != len(view.stride) or len(view.shape) > MAX_DIMENSIONS:
        raise Refused(f"a view of {root.name!r} with {len(view.shape)} sizes and {len(view.stride)} strides")
    if view.offset < 0 or any(n < 0 for n in (*view.shape, *view.stride)):
        raise Refused(f"a view of {root.name!r} with a negative offset, size or stride")
    if 0 in view.shape:
        return
    last = view.offset + sum((n - 1) * step for n, step in zip(view.shape, view.stride, strict=True))
    if (last + 1) * size > root.nbytes:
        raise Refused(f"a view of {root.name!r} reaches byte {(last + 1) * size:,} of {root.nbytes:,}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchRules:
    kernels: Mapping[str, tuple[str, ...]]  # screened name -> parameters
    modules: Mapping[str, Module]
    target: Target

    def hold(self, launch: Launch, roots: Mapping[str, Root]) -> None:
        if launch.kernel not in self.kernels:
            raise Refused(f"a launch of {launch.kernel[:60]!r}, which is no screened kernel")
        try:
            self.grid(launch)
            self.options(launch)
            self.names(launch)
            self.arguments(launch, roots)
        except Refused as error:
            raise Refused(f"kernel {launch.kernel!r}: {error}") from error

    def grid(self, launch: Launch) -> None:
        if any(not 1 <= n <= most for n, most in zip(launch.grid, MAX_GRID, strict=True)):
            raise Refused(f"the grid {launch.grid}; each number is at least 1 and at most {MAX_GRID}")
        if launch.grid[0] * launch.grid[1] * launch.grid[2] > MAX_PROGRAMS:
            raise Refused(f"the grid {launch.grid} has more than 2**32 programs; give each more to do")

    def options(self, launch: Launch) -> None:
        given = dict(launch.options)
        unknown = sorted(set(given) - set(OPTIONS))
        if unknown or len(given) != len(launch.options):
            raise Refused(f"the options {[name for name, _ in launch.options]}; a launch has {', '.join(OPTIONS)}")
        wide = self.target.backend == "cuda" and isinstance(self.target.arch, int) and self.target.arch >= 90
        legal = {
            "num_warps": [2**n for n in range(6) if 2**n * self.target.warp_size <= 1024],
            "num_stages": range(MAX_STAGES + 1),
            "num_ctas": (1, 2, 4, 8, 16) if wide else (1,),
            "maxnreg": range(8, 256),
        }
        for name, value in given.items():
            if value not in legal[name]:
                shown = [*legal[name]] if len(legal[name]) < 10 else f"{legal[name][0]} to {legal[name][-1]}"
                raise Refused(f"{name}={value}; {self.target.name} takes {shown}")

    def names(self, launch: Launch) -> None:
        parameters = self.kernels[launch.kernel]
        typed = [name for name, _ in launch.signature]
        runtime = [name for name, kind in launch.signature if kind != "constexpr"]
        fixed = [name for name, kind in launch.signature if kind == "constexpr"]
        if typed != list(parameters):
            raise Refused(f"the signature names {typed[:20]}; the kernel has {list(parameters)[:20]}")
        if runtime != [name for name, _ in launch.arguments]:
            raise Refused("its arguments are not those that its signature gives a type")
        if sorted(fixed) != sorted(name for name, _ in launch.constexprs):
            raise Refused("its constexprs are not those that its signature names")

    def arguments(self, launch: Launch, roots: Mapping[str, Root]) -> None:
        """Signature, value and TTIR parameter of each argument agree."""
        module = self.modules.get(launch.ttir)
        if module is None:
            raise Refused(f"its TTIR {launch.ttir[:40]!r} is not there")
        if module.kernel != launch.kernel:
            raise Refused(f"its TTIR defines {module.kernel[:60]!r}")
        kinds = dict(launch.signature)
        left = list(module.parameters)
        for name, value in launch.arguments:
            try:
                left = self.argument(kinds[name], value, roots, left)
            except Refused as error:
                raise Refused(f"argument {name!r}: {error}") from error
        if left:
            raise Refused(f"its TTIR has {len(left)} parameters more than the launch has arguments")

    def argument(self, kind: str, value: Argument, roots: Mapping[str, Root], left: list[Parameter]) -> list[Parameter]:
        """What is left of the TTIR parameters behind this argument's."""
        if isinstance(value, Descriptor):
            expected = descriptor(kind, value, root_of(value.view, roots))
        elif isinstance(value, View):
            expected = [pointer(kind, value, root_of(value, roots))]
        else:
            expected = [scalar(kind, value)]
        found = [SIGNED.sub(r"xi\1>>", p.type) for p in left[: len(expected)]]
        if found != expected:
            raise Refused(f"the plan passes {', '.join(expected)}, the TTIR takes {', '.join(found) or 'no more'}")
        self.divisible(value, left[0])
        return left[len(expected) :]

    def divisible(self, value: Argument, parameter: Parameter) -> None:
        """A false claim would make the compiler read sixteen bytes at once where it may not."""
        if parameter.divisibility <= 1 or isinstance(value, float | Descriptor):
            return
        number = value.offset * itemsize(value.dtype) if isinstance(value, View) else int(value)
        if parameter.divisibility > 16 or number % parameter.divisibility:
            raise Refused(f"the TTIR claims a multiple of {parameter.divisibility}, the value is {number}")


def root_of(view: View, roots: Mapping[str, Root]) -> Root:
    root = roots.get(view.root)
    if root is None:
        raise Refused(f"it lies in {view.root[:40]!r}, which this plan does not have")
    span(view, root)
    return root


def pointer(kind: str, view: View, root: Root) -> str:
    _, names, mlir = DTYPES[view.dtype]
    if kind not in {f"*{const}{name}" for name in names for const in ("", "k")}:
        raise Refused(f"a {view.dtype} tensor is typed {kind[:40]!r}")
    return f"!tt.ptr<{mlir}>"


def scalar(kind: str, value: bool | int | float) -> str:
    if isinstance(value, bool):
        if kind not in ("u1", "i1"):
            raise Refused(f"{value} is typed {kind[:40]!r}")
        return "i1"
    if isinstance(value, int):
        low, high = INTEGERS.get(kind, (0, 0))
        if not low <= value < high:
            raise Refused(f"{value} is typed {kind[:40]!r}")
        return "i" + kind[1:]
    if kind not in FLOATS:
        raise Refused(f"{value} is typed {kind[:40]!r}")
    return FLOATS[kind]


def descriptor(kind: str, value: Descriptor, root: Root) -> list[str]:
    """The TTIR parameters of a host-side descriptor: itself, its sizes, its strides."""
    view, size = value.view, itemsize(value.view.dtype)
    _, names, mlir = DTYPES[view.dtype]
    typed = DESCRIPTOR.fullmatch(kind)
    block = tuple(int(n) for n in typed[2].split(",")) if typed else ()
    rank = len(view.shape)
    if typed is None or typed[1] not in names or block != value.block_shape:
        raise Refused(f"a descriptor of {view.dtype} {list(value.block_shape)} is typed {kind[:60]!r}")
    if not 1 <= rank <= 5 or len(block) != rank or any(n < 1 or n > 2**16 for n in block):
        raise Refused(f"a descriptor with {rank} dimensions and blocks of {list(block)}")
    if 0 in view.shape or any(n > 2**31 - 1 for n in view.shape):
        raise Refused(f"a descriptor over sizes {list(view.shape)}")
    aligned = all(step * size % 16 == 0 for step in view.stride[:-1]) and view.offset * size % 16 == 0
    if not aligned or view.stride[-1] != 1 or block[-1] * size < 16:
        raise Refused(
            "a descriptor needs its start and strides on multiples of 16 bytes, a last stride of 1 and blocks of at "
            f"least 16 bytes; it has offset {view.offset}, strides {list(view.stride)}, blocks {list(block)}"
        )
    if value.padding not in ("zero", "nan"):
        raise Refused(f"a descriptor padded with {value.padding[:40]!r}; padding is zero or nan")
    tile = "x".join(map(str, block))
    return [f"!tt.tensordesc<tensor<{tile}x{mlir}>>", *["i32"] * rank, *["i64"] * rank]
