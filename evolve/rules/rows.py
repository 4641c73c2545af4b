"""For kernels that give a row to each program: several rows to each, as one two-dimensional tile.

A short row leaves little under way: one wait for a few kilobytes, one launch of a program for each. With several rows a
program more bytes are asked for before the first is needed, and what all rows share is loaded once for them. The rows
become the first axis of everything that depends on the program, sums run along the second. How many is a tunable, 1 is
as it was; rows beyond the last are masked, and not even that where their number divides.
"""

from __future__ import annotations

import ast
import re

import libcst as cst

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.edits import Edits
from evolve.rules.match import on_host, statement
from evolve.rules.persistent import grid_of
from evolve.rules.source import Kernel, Source
from evolve.rules.symbols import Bind, Scope, atom, identifiers

REASON = (
    "Give several rows to each program as one tile: more bytes are under way before the first is needed, and what all "
    "rows share is loaded once for them."
)
FIRST = ("tl.program_id(0)", "tl.program_id(axis=0)")
SUMS = ("tl.sum", "tl.max", "tl.min")
SHAPES = ("tl.zeros", "tl.full")
# What is known to do the same to every element, whatever the shape.
ARITHMETIC = "where exp exp2 log log2 sqrt rsqrt abs maximum minimum sigmoid fma erf sin cos floor ceil cast"
OTHERS = (
    "load store constexpr cdiv range static_range multiple_of max_contiguous float32 float16 bfloat16 int32 int64 int1"
)
EACH = frozenset(f"{ARITHMETIC} {OTHERS}".split())
LARGEST = 8192  # elements of a tile of several rows: 64 a thread of 4 warps, beyond which they spill


def rewrite(source: Source, context: Context) -> Applied:
    reasons = []
    for kernel in source.kernels.values():
        try:
            return _rows(source, kernel)
        except No as no:
            reasons.append(str(no))
    raise No(reasons[0] if reasons else "There is no kernel.")


def _rows(source: Source, kernel: Kernel) -> Applied:
    scope, launch = Scope(source, kernel), source.launch_of(kernel)
    pid = _program(source, kernel, scope)
    _plain(source, kernel, scope)
    grid = grid_of(source, launch)
    if len(grid.axes) != 1 or launch.statement not in source.entry.body.body:
        raise No("The grid has more than one axis, or the launch stands in a branch.")
    names = {n: source.fresh(n) for n in ("ROWS", "EVEN_ROWS", "count", "place", "here")}
    change = _Change(source, scope, pid, names)
    edits = Edits(source)
    for at, line, _ in scope.lines:
        if isinstance(line, cst.SimpleStatementLine):
            trees = [statement(source, small) for small in line.body if not _documents(small)]
            before = [ast.unparse(t) for t in trees]
            after = [ast.unparse(change.at(at).visit(t)) for t in trees]
            if before != after:
                edits.replace(line, _head(names, pid, line) + "\n".join(after) + "\n")
    edits.scalar(kernel, launch, names["count"], grid.axes[0])
    edits.constexpr(kernel, launch, names["ROWS"], each := source.fresh("rows_each"), "1")
    edits.constexpr(kernel, launch, names["EVEN_ROWS"], f"{atom(grid.axes[0])} % {each} == 0")
    edits.tunable(names["ROWS"], 2, (1, 2, 4, 8))
    widest = " * ".join([names["ROWS"], atom(on_host(launch, kernel, _block(scope)))])
    lines = f"{each} = {names['ROWS']} if {widest} <= {LARGEST} else 1\n"
    whole = f"(triton.cdiv({grid.axes[0]}, {each}),)"
    if grid.line is not None:
        edits.replace(grid.line, f"{lines}{source.code(launch.grid)} = {whole}\n")
    else:
        edits.before(launch.statement, lines)
        edits.expression(launch.grid, whole)
    return Applied(source=edits.result(), hypothesis=REASON)


def _documents(small: cst.BaseSmallStatement) -> bool:
    return isinstance(small, cst.Expr) and isinstance(small.value, cst.SimpleString | cst.ConcatenatedString)


def _head(names: dict[str, str], pid: Bind, line: cst.CSTNode) -> str:
    """Which rows these are, above the line that asked for the program's number."""
    if line is not pid.line:
        return ""
    return (
        f"{names['place']} = tl.program_id(0) * {names['ROWS']} + tl.arange(0, {names['ROWS']})[:, None]\n"
        f"{names['here']} = {names['place']} < {names['count']}\n"
        f"if {names['EVEN_ROWS']}:\n"
        f"    {names['here']} = tl.full(({names['ROWS']}, 1), True, dtype=tl.int1)\n"
    )


def _program(source: Source, kernel: Kernel, scope: Scope) -> Bind:
    code = source.code(kernel.node)
    if code.count("tl.program_id(") != 1 or "tl.num_programs(" in code:
        raise No(f"{kernel.name} does not take one row from one tl.program_id(0).")
    found = [b for b in scope.binds if b.value is not None and any(x in ast.unparse(b.value) for x in FIRST)]
    if len(found) != 1 or found[0].inside or found[0].op:
        raise No(f"The program's number is not read by a plain assignment at the top of {kernel.name}.")
    return found[0]


def _plain(source: Source, kernel: Kernel, scope: Scope) -> None:
    """Only what does the same to each element or sums up a row, and no way through the kernel that a row decides."""
    code = source.code(kernel.node.body)
    known = EACH | {"arange", "program_id", "sum", "max", "min", "zeros", "full"}
    other = next((n for n in re.findall(r"\btl\.(?:math\.)?(\w+)", code) if n not in known), None)
    called = set(re.findall(r"\b(\w+)\(", code)) & source.kernels.keys()
    if other or called or "None" in code or "libdevice" in code:
        what = f"tl.{other}" if other else "another function" if called else "an axis of its own"
        raise No(f"{kernel.name} uses {what}, of which the rule does not know what it does to several rows.")
    moved = _of_rows(scope)
    for _, line, _ in scope.lines:
        test = line.test if isinstance(line, cst.If | cst.While) else line.iter if isinstance(line, cst.For) else None
        if test is not None and identifiers(source.code(test)) & moved:
            raise No(f"A branch or a loop of {kernel.name} depends on the row.")
        if isinstance(line, cst.While):
            raise No(f"{kernel.name} has a while loop.")


def _block(scope: Scope) -> str:
    """How long a row's tile is."""
    code = scope.source.code(scope.kernel.node)
    blocks: set[str] = set(re.findall(r"tl\.arange\(0, ([^()]+)\)", code))
    if len(blocks) != 1:
        raise No(f"{scope.kernel.name} has {len(blocks)} kinds of ranges, so that its row is not one tile.")
    return blocks.pop()


def _of_rows(scope: Scope) -> frozenset[str]:
    """Every name that is made, through whatever others, from the program's number."""
    known: set[str] = set()
    while True:
        new = {
            b.name
            for b in scope.binds
            if b.value is not None
            and (any(x in ast.unparse(b.value) for x in FIRST) or identifiers(ast.unparse(b.value)) & known)
        }
        if new <= known:
            return frozenset(known)
        known |= new


class _Change(ast.NodeTransformer):
    """One statement as it is for several rows."""

    def __init__(self, source: Source, scope: Scope, pid: Bind, names: dict[str, str]) -> None:
        self.scope, self.names, self.rows = scope, names, _of_rows(scope)
        self.place = 0

    def at(self, place: int) -> _Change:
        self.place = place
        return self

    def visit_Call(self, node: ast.Call) -> ast.expr:
        head = ast.unparse(node.func)
        depends = bool(identifiers(ast.unparse(node)) & self.rows) or any(x in ast.unparse(node) for x in FIRST)
        if ast.unparse(node) in FIRST:
            return ast.Name(id=self.names["place"], ctx=ast.Load())
        if head == "tl.arange":
            return ast.parse(f"{ast.unparse(node)}[None, :]", mode="eval").body
        if head in SUMS:
            return self._sum(node)
        if head in SHAPES and node.args and isinstance(node.args[0], ast.Tuple | ast.List):
            return self._shape(node)
        pointer = ast.unparse(node.args[0]) if node.args else ""
        access = head in ("tl.load", "tl.store")
        if head == "tl.store" and not self._moves(pointer):
            raise No("Something is stored to the same place by every row.")
        whole = depends and access and self._moves(pointer)
        self.generic_visit(node)
        if whole:
            self._mask(node)
        return node

    def _moves(self, pointer: str) -> bool:
        return bool(identifiers(pointer) & self.rows) or any(x in pointer for x in FIRST)

    def _sum(self, node: ast.Call) -> ast.expr:
        axis = [ast.unparse(k.value) for k in node.keywords if k.arg == "axis"] + [
            ast.unparse(a) for a in node.args[1:]
        ]
        others = [k for k in node.keywords if k.arg != "axis"]
        if axis not in ([], ["0"]) or others or len(node.args) > 2:
            raise No(f"`{ast.unparse(node)[:50]}` is not a plain sum over a row.")
        self.generic_visit(node)
        inner = ast.unparse(node.args[0])
        return ast.parse(f"{ast.unparse(node.func)}({inner}, axis=1, keep_dims=True)", mode="eval").body

    def _shape(self, node: ast.Call) -> ast.expr:
        shape = node.args[0]
        assert isinstance(shape, ast.Tuple | ast.List)
        if len(shape.elts) != 1:
            raise No(f"`{ast.unparse(node)[:50]}` has more than one axis already.")
        shape.elts.insert(0, ast.Name(id=self.names["ROWS"], ctx=ast.Load()))
        return node

    def _mask(self, node: ast.Call) -> None:
        count = 1 if ast.unparse(node.func) == "tl.load" else 2
        if len(node.args) != count:
            raise No("A mask is given by position.")
        given = next((k for k in node.keywords if k.arg == "mask"), None)
        here = self.names["here"]
        if given is None:
            node.keywords.append(ast.keyword(arg="mask", value=ast.Name(id=here, ctx=ast.Load())))
        else:
            text = ast.unparse(given.value)
            joined = f"{text} & {here}" if isinstance(given.value, ast.Name) else f"({text}) & {here}"
            given.value = ast.parse(joined, mode="eval").body


RULE = Rule(
    name="rows per program",
    reason=REASON,
    rewrite=rewrite,
    then=("unmasked rows",),
    weight=2.3,
    helps=frozenset({"memory", "latency", "launch"}),
)
