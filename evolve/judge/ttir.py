"""TTIR text as a tree of operations: names, operands, types, regions. Nothing is checked and nothing is evaluated.

It reads the form in which Triton prints its modules (3.6 to 3.8), and is lenient on purpose: a line it does not know
becomes an operation without meaning. The gate, which must not be lenient, has its own reading.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

LOCATION = re.compile(r"\s*\bloc\((?:[^()\"]|\"[^\"]*\"|\([^()]*\))*\)")
FUNCTION = re.compile(r"tt\.func\s+(?:public\s+|private\s+)?@([\w$.\"-]+)\((.*)\)")
ARGUMENT = re.compile(r"(%[\w$.-]+):\s*((?:[^,{}<>]|<(?:[^<>]|<[^<>]*>)*>)+)")
ASSIGNED = re.compile(r"^(%[\w$.-]+)(?::(\d+))?\s*=\s*(.*)$")
NAME = re.compile(r"^\"?([a-z_]+(?:\.[\w.]+)?)\"?")
VALUE = re.compile(r"%[\w$.-]+(?:#\d+)?")
SHAPED = re.compile(r"(?:tensor|tensordesc)<(?:tensor<)?((?:\d+x)*)(?:!tt\.ptr<)?([\w]+)")

ITEMSIZE = {"i1": 1, "i8": 1, "i16": 2, "i32": 4, "i64": 8, "bf16": 2, "f16": 2, "f32": 4, "f64": 8, "index": 8}


@dataclass(frozen=True, slots=True)
class Tile:
    """A tensor type's shape and element; pointers count as what they point to. A scalar has no shape."""

    shape: tuple[int, ...]
    element: str

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * ITEMSIZE.get(self.element, 1)  # what is left are the one-byte floats


@dataclass(slots=True)
class Op:
    name: str
    results: tuple[str, ...]
    operands: tuple[str, ...]
    text: str  # after the name, without types
    types: str
    regions: list[list[Op]] = field(default_factory=list)

    def tiles(self) -> list[Tile]:
        return [_tile(shape, element) for shape, element in SHAPED.findall(self.types)]

    @property
    def tile(self) -> Tile:
        """The last type named: a load's result, a store's value."""
        found = self.tiles()
        return found[-1] if found else Tile((), (re.findall(r"[\w]+", self.types) or ["i32"])[-1])

    def walk(self) -> Iterator[Op]:
        yield self
        for region in self.regions:
            for op in region:
                yield from op.walk()


@dataclass(frozen=True, slots=True)
class Function:
    name: str
    arguments: tuple[tuple[str, str], ...]  # value and type
    body: tuple[Op, ...]

    def walk(self) -> Iterator[Op]:
        for op in self.body:
            yield from op.walk()


def _tile(shape: str, element: str) -> Tile:
    return Tile(tuple(int(n) for n in shape.split("x") if n), element)


@functools.lru_cache(maxsize=256)
def parse(text: str) -> Function:
    """The module's first function; a text without one gives an empty one."""
    lines = [clean for line in text.splitlines() if (clean := LOCATION.sub("", line).strip()) and clean[0] != "#"]
    for number, line in enumerate(lines):
        if found := FUNCTION.search(line):
            arguments = tuple((name, kind.strip()) for name, kind in ARGUMENT.findall(found[2]))
            body, _ = _region(lines, number + 1)
            return Function(found[1].strip('"'), arguments, tuple(body))
    return Function("", (), ())


def _region(lines: list[str], at: int) -> tuple[list[Op], int]:
    """Operations up to the brace that closes this region; the number of that line."""
    ops: list[Op] = []
    while at < len(lines):
        line = lines[at]
        if line.startswith("}"):
            return ops, at
        at += 1
        if line.startswith("^"):
            continue
        op = _operation(line)
        ops.append(op)
        while line.endswith("{"):  # `} else {` and `} do {` go on with the same operation
            region, at = _region(lines, at)
            op.regions.append(region)
            line = lines[at] if at < len(lines) else "}"
            if line.startswith("})"):  # a reduction names its types after its region
                op.types = line
            at += 1
    return ops, at


def _operation(line: str) -> Op:
    results: tuple[str, ...] = ()
    if assigned := ASSIGNED.match(line):
        count = int(assigned[2] or 1)
        results = (assigned[1],) if count == 1 else tuple(f"{assigned[1]}#{i}" for i in range(count))
        line = assigned[3]
    named = NAME.match(line)
    name = named[1] if named else ""
    rest = line[named.end() :] if named else line
    text, _, types = rest.partition(" : ")
    return Op(name, results, tuple(VALUE.findall(text)), text.strip(), types)
