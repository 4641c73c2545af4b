"""Reads a kernel that goes over a tensor and does something to each element by itself: what it loads from where.

Three ways to go are known: element by element over the flat tensor, a row for each program, a tile for each program.
Whatever does more than load, compute element by element and store is refused with `No`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import libcst as cst

from evolve.rules.base import No
from evolve.rules.match import stores
from evolve.rules.source import Kernel, Launch, Source
from evolve.rules.symbols import Bind, Scope, Sum, Vec, factors, folded, identifiers

PROGRAMS = ("tl.program_id(0)", "tl.program_id(axis=0)")
MIXES = ("sum", "max", "min", "dot", "cumsum", "sort", "reshape", "trans", "permute", "flip", "gather", "atomic_add")


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """A load or the store. `turned` is whether it is given two axes already; `row_stride` is the parameter that says
    how far rows are apart, None where the tensor is flat and its rows are as long as they are."""

    base: str
    kind: Literal["whole", "column", "row", "one"]
    row_stride: str | None = None
    turned: bool = True
    period: str = ""  # of a flat index that starts again with each row


@dataclass(frozen=True, kw_only=True, slots=True)
class Elementwise:
    kernel: Kernel
    launch: Launch
    lines: tuple[Bind, ...]  # that make the stored value, in order
    value: ast.expr
    loads: Mapping[str, Access]  # by the call's text
    store: Access


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """How the kernel goes: the index along the columns, and what makes a row of it."""

    form: Literal["flat", "rows", "tiles"]
    column: Vec
    row: Vec | None = None


def elementwise(source: Source, launch: Launch, read: str) -> Elementwise:
    """The kernel of a launch that reads the host's tensor `read`, element by element."""
    kernel = source.kernels[launch.kernel]
    scope, code = Scope(source, kernel), source.code(kernel.node.body)
    if any(not isinstance(line, cst.SimpleStatementLine) for _, line, _ in scope.lines):
        raise No(f"{kernel.name} has loops or branches.")
    if mixed := next((word for word in MIXES if re.search(rf"\btl\.{word}\(", code)), None):
        raise No(f"{kernel.name} uses tl.{mixed}, so that its elements are not each by itself.")
    stored = stores(scope)
    if len(stored) != 1 or code.count(".store(") != 1:
        raise No(f"{kernel.name} does not store exactly one tensor.")
    at, _, _, store = stored[0]
    found = list(_loads(scope, at, store))
    if code.count(".load(") != len(found):
        raise No(f"{kernel.name} loads in a way that the rule does not follow.")
    addresses = {ast.unparse(call): scope.value(call.args[0], place) for call, place in found}
    whole = [a for a in addresses.values() if launch.arguments.get(_base(kernel, a)) == read]
    if not whole:
        raise No(f"{kernel.name} does not read `{read}`.")
    way = _way(scope, kernel, whole[0])
    loads = {text: _access(scope, kernel, way, address) for text, address in addresses.items()}
    target = _access(scope, kernel, way, scope.value(store.args[0], at))
    if target.kind != "whole":
        raise No(f"{kernel.name} does not store where it loads.")
    lines = tuple(_needed(scope, store.args[1], at, loads))
    return Elementwise(kernel=kernel, launch=launch, lines=lines, value=store.args[1], loads=loads, store=target)


def _loads(scope: Scope, at: int, store: ast.Call) -> Iterator[tuple[ast.Call, int]]:
    values = [(b.value, b.at) for b in scope.binds if b.value is not None] + [(store, at)]
    for value, place in values:
        for node in ast.walk(value):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "tl.load":
                yield node, place


def _base(kernel: Kernel, address: Sum) -> str:
    return next((s for s in address.scalars if s in kernel.params and s not in kernel.constexprs), "")


def _rest(scope: Scope, kernel: Kernel, address: Sum) -> list[list[str]]:
    """What is added to the tensor's start and is no range, as factors."""
    scalars = list(address.scalars)
    scalars.remove(_base(kernel, address))
    resolved = (scope.resolved(s, 10**9) for s in scalars)
    return [factors(re.sub(r"\.to\(tl\.int64\)", "", text)) for text in resolved]


def _way(scope: Scope, kernel: Kernel, whole: Sum) -> Way:
    rest, vecs = _rest(scope, kernel, whole), whole.vecs
    if len(vecs) == 2 and not rest:
        row, column = sorted(vecs, key=lambda v: v.axis or 0)
        if column.stride == "1" and {row.axis, column.axis} == {0, 1}:
            return Way(form="tiles", column=column, row=row)
    if len(vecs) == 1 and vecs[0].stride == "1" and len(rest) == 1 and len(rest[0]) == 2:
        vec, program = vecs[0], [p for p in rest[0] if p in PROGRAMS]
        other = next((p for p in rest[0] if p not in PROGRAMS), "")
        if program and other == vec.block:
            return Way(form="flat", column=vec)
        if program and vec.offset == "0" and vec.modulo is None:
            return Way(form="rows", column=vec)
    raise No(f"{kernel.name} goes over its tensor in a way that the rule does not know.")


def _access(scope: Scope, kernel: Kernel, way: Way, address: Sum) -> Access:
    base = _base(kernel, address)
    if not base:
        raise No(f"{kernel.name} reads or writes at an address without a tensor.")
    rest, vecs = _rest(scope, kernel, address), address.vecs
    if not rest and not vecs:
        return Access(base=base, kind="one")
    if way.form == "flat":
        return _flat(way, base, rest, vecs)
    if way.form == "rows":
        return _by_rows(kernel, way, base, rest, vecs)
    return _by_tiles(kernel, way, base, rest, vecs)


def _flat(way: Way, base: str, rest: list[list[str]], vecs: tuple[Vec, ...]) -> Access:
    if len(vecs) == 1 and vecs[0].stride == "1" and vecs[0].block == way.column.block:
        if len(rest) == 1 and vecs[0].modulo is None and way.column.block in rest[0] and len(rest[0]) == 2:
            return Access(base=base, kind="whole")
        if not rest and vecs[0].modulo is not None and vecs[0].offset != "0":
            return Access(base=base, kind="column", period=vecs[0].modulo)
    raise No(f"`{base}` is neither read element by element nor once for each column.")


def _by_rows(kernel: Kernel, way: Way, base: str, rest: list[list[str]], vecs: tuple[Vec, ...]) -> Access:
    stride = next((p for part in rest for p in part if p not in PROGRAMS), None)
    if not vecs and rest in ([[p] for p in PROGRAMS], [[PROGRAMS[0]]], [[PROGRAMS[1]]]):
        return Access(base=base, kind="row")
    if vecs == (way.column,) and not rest:
        return Access(base=base, kind="column")
    if vecs == (way.column,) and len(rest) == 1 and len(rest[0]) == 2 and stride in kernel.params:
        return Access(base=base, kind="whole", row_stride=stride)
    raise No(f"`{base}` is read in a way that does not follow the rows.")


def _by_tiles(kernel: Kernel, way: Way, base: str, rest: list[list[str]], vecs: tuple[Vec, ...]) -> Access:
    assert way.row is not None
    if not rest and len(vecs) == 2:
        row, column = sorted(vecs, key=lambda v: v.axis or 0)
        if _like(row, way.row) and _like(column, way.column) and column.stride == "1" and row.stride in kernel.params:
            return Access(base=base, kind="whole", row_stride=row.stride)
    if len(vecs) == 1:
        vec = folded(Sum(scalars=tuple(" * ".join(part) for part in rest), vecs=vecs)).vecs[0]
        if vec.stride == "1" and _like(vec, way.column) and vec.axis in (None, 1):
            return Access(base=base, kind="column", turned=vec.axis is not None)
        if vec.stride == "1" and _like(vec, way.row) and vec.axis in (None, 0):
            return Access(base=base, kind="row", turned=vec.axis is not None)
    raise No(f"`{base}` is read in a way that does not follow the tiles.")


def _like(one: Vec, other: Vec) -> bool:
    return (one.block, factors(one.offset), one.modulo) == (other.block, factors(other.offset), other.modulo)


def _needed(scope: Scope, value: ast.expr, at: int, loads: Mapping[str, Access]) -> list[Bind]:
    """The lines that make the stored value, but not those that only make an address or a mask."""
    wanted = _reads(value, loads)
    found: list[Bind] = []
    for bind in reversed(scope.binds):
        if bind.name in wanted and bind.at < at:
            if bind.value is None or bind.op or len(scope.of(bind.name)) != 1:
                raise No(f"`{bind.name}` changes its value in {scope.kernel.name}.")
            found.append(bind)
            wanted |= _reads(bind.value, loads)
    return found[::-1]


def _reads(node: ast.expr, loads: Mapping[str, Access]) -> set[str]:
    """Names outside loads."""

    class Without(ast.NodeTransformer):
        def visit_Call(self, call: ast.Call) -> ast.expr:
            if ast.unparse(call) in loads:
                return ast.Constant(0)
            self.generic_visit(call)
            return call

    copy = ast.parse(ast.unparse(node), mode="eval").body
    return set(identifiers(ast.unparse(Without().visit(copy))))
