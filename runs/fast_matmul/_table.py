"""What a call looks like, and which row of dispatch.json it takes.

A row is a measured workload on one device under one Triton; it holds parameters, or "baseline". A call takes the row of
its own dtypes, layouts and flags whose sizes are nearest by their ratios. Whatever was not seen when the package was
verified (a dtype, a layout, an alignment, a relation between sizes) takes the baseline. Nothing is measured here.
"""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch

HERE = Path(__file__).parent
OTHERWISE = 4.0  # a size that cannot be compared weighs as much as one that is 16 times another
# A scalar of another type makes Triton build another kernel than the verified one.
KINDS = {"flag": (bool, str), "size": (int,), "number": (float,)}


class Unfit(Exception):
    """The kernel does not take this call; the message says why."""


@dataclass(frozen=True)
class Call:
    """A call that the kernel may take: what must match a row exactly, and the sizes that pick the nearest one."""

    dtypes: tuple
    layout: tuple
    flags: tuple
    sizes: dict = field(hash=False)
    device: torch.device
    astray: str = ""  # why the kernel does not take this one, though it may take others like it


@dataclass(frozen=True)
class Choice:
    kernel: bool
    why: str
    kernels: str = ""
    parameters: dict = field(default_factory=dict)
    passing: bool = False  # another call of the same guard may be decided otherwise
    eager: bool = True  # False: launch-bound, so outside CUDA graphs the baseline is faster


class Table:
    def __init__(self, path=HERE / "dispatch.json"):
        whole = json.loads(path.read_text(encoding="utf-8"))
        self.rows, self.spec = whole["rows"], whole["call"]
        self.arguments = [(a["name"], a["kind"]) for a in self.spec["arguments"]]
        self.tensors = [i for i, (_, kind) in enumerate(self.arguments) if kind == "tensor"]
        self.reach = float(whole["reach"])
        self.alignment = int(whole["alignment"])
        self.most = int(whole["most_elements"])
        self.autocast = tuple(whole.get("autocast", ()))
        self.written = frozenset(re.findall(r"Tensor\(\w!\) (\w+)", self.spec["schema"]))

    def describe(self, arguments, placed=True):
        """The call in the table's words; raises Unfit. Not `placed`: of traced tensors, which lie nowhere."""
        dtypes, layout, flags, sizes, device, astray = [], [], [], {}, None, ""
        for (name, kind), value in zip(self.arguments, arguments):
            if type(value) not in KINDS.get(kind, (type(value),)):
                raise Unfit(f"{name} is of type {type(value).__name__}, and was verified as {kind}")
            if kind == "flag":
                flags.append([name, value])
            elif kind == "size":
                self._size(sizes, name, value)
            elif kind == "tensor":
                device = self._place(name, value, device)
                for dim, size in zip(self.spec["dims"][name], value.shape):
                    self._size(sizes, dim, size)
                if placed and value.data_ptr() % self.alignment:
                    astray = f"{name} does not begin on a multiple of {self.alignment} bytes"
                dtypes.append(str(value.dtype).removeprefix("torch."))
                layout.append(order_of(value))
                if layout[-1] is None:
                    raise Unfit(f"{name} has strides {tuple(value.stride())}, which nobody verified")
        self._relations(sizes)
        return Call(tuple(dtypes), tuple(layout), tuple(map(tuple, flags)), sizes, device, astray)

    def _place(self, name, tensor, device):
        if tensor.layout is not torch.strided or tensor.device.type != "cuda":
            raise Unfit(f"{name} lies on {tensor.device}, layout {tensor.layout}")
        if device is not None and tensor.device != device:
            raise Unfit(f"{name} lies on {tensor.device}, another argument on {device}")
        if tensor.ndim != len(self.spec["dims"][name]):
            raise Unfit(f"{name} has {tensor.ndim} dimensions")
        if not 0 < tensor.numel() <= self.most:
            raise Unfit(f"{name} has {tensor.numel()} elements")
        if tensor.is_neg() or tensor.is_conj():
            raise Unfit(f"{name} is a lazily negated or conjugated view")
        return tensor.device

    @staticmethod
    def _size(sizes, name, value):
        if sizes.setdefault(name, int(value)) != value:
            raise Unfit(f"{name} is both {sizes[name]} and {value}")

    def _relations(self, sizes):
        for name, seen in self.spec["closed"].items():
            if sizes[name] not in seen:
                raise Unfit(f"{name}={sizes[name]} was not verified; {seen} were")
        for part, whole in self.spec["divides"]:
            if sizes[whole] % sizes[part]:
                raise Unfit(f"{part}={sizes[part]} does not divide {whole}={sizes[whole]}")
        if math.prod(max(1, sizes[n]) for n in self.spec["largest_output"]) > self.most:
            raise Unfit("the result has more elements than were verified")

    def choose(self, call, device, triton, force=""):
        """The row's word. `force="kernel"` takes the nearest row of any device, measured faster or not."""
        same = [r for r in self.rows if self._alike(r, call)]
        if force == "kernel":
            return self._forced(same, call)
        here = [r for r in same if (r["device"], r["triton"]) == (device, triton)]
        if not here:
            return Choice(False, "no verified row has these dtypes, layouts and flags here")
        row = min(here, key=lambda r: distance(r["sizes"], call.sizes))
        apart = distance(row["sizes"], call.sizes)
        if apart > self.reach:
            return Choice(False, f"the nearest measured workload, {row['workload']}, is too far away")
        if row["parameters"] == "baseline":
            return Choice(False, f"nearest to {row['workload']}: {row['why']}")
        if call.astray:
            return Choice(False, call.astray, passing=True)
        why = f"nearest to {row['workload']}: {row['why']}"
        eager = row.get("eager", "kernel") == "kernel"
        return Choice(True, why, row["kernels"], row["parameters"], eager=eager)

    def knows(self, device, triton):
        return any((r["device"], r["triton"]) == (device, triton) and r.get("verified") for r in self.rows)

    def _alike(self, row, call):
        layouts = all(fits(o, theirs) for o, theirs in zip(call.layout, row["layout"]))
        return layouts and tuple(row["dtypes"]) == call.dtypes and dict(call.flags) == row["flags"]

    def _forced(self, same, call):
        if not same:
            raise Unfit("FORCE=kernel, and no row has these dtypes, layouts and flags, so there are no parameters")
        row = min(same, key=lambda r: distance(r["sizes"], call.sizes))
        parameters = row["parameters"] if row["parameters"] != "baseline" else row["tried"]
        return Choice(True, f"forced, at the parameters of {row['workload']}", row["kernels"], parameters)


def order_of(tensor):
    """The order in which a dense tensor's dimensions lie in memory, "01" for row-major; None if it is not dense. A
    dimension of size 1 keeps its place where its stride says so, and is left out where it could stand anywhere."""
    shape, stride = tensor.shape, tensor.stride()
    dims = sorted(range(tensor.ndim), key=lambda d: (-stride[d], d))
    step = 1
    for d in reversed(dims):
        if stride[d] != step:
            return None
        step *= shape[d]
    return "".join(str(d) for d in dims if shape[d] > 1)


def fits(order, theirs):
    """A call's order against a row's: the same but for dimensions of size 1."""
    rest = iter(theirs)
    return all(d in rest for d in order)


def distance(one, other):
    return sum(apart(one.get(name), other.get(name)) for name in sorted({*one, *other}))


def apart(a, b):
    if a == b:
        return 0.0
    if isinstance(a, int | float) and isinstance(b, int | float):
        return abs(math.log2(a / b)) if a > 0 and b > 0 else OTHERWISE
    return OTHERWISE
