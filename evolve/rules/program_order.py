"""R8: which tile of the output a program takes. Tiles that run at the same time should share panels that are in L2.

Three moves on `pid // tiles, pid % tiles` and its spellings: grouped, by columns, reversed. The set of tiles that is
computed never changes, only who computes which.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

import libcst as cst

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.edits import Edits
from evolve.rules.match import Tile, dot_loop, stored_tile, tiles
from evolve.rules.source import Kernel, Source
from evolve.rules.symbols import Bind, Scope, atom, identifiers

REASON = "Take the output's tiles in another order, so that programs that run together read the same panels from L2."
GROUPED = "Take tiles in groups of {group} rows: programs that run together then share panels of both operands in L2."
COLUMNS = "Take tiles column by column: programs that run together then share a panel of the right operand in L2."
REVERSED = "Take tiles from the last to the first, so that the heaviest, or those still in L2, come first."


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """Programs go row by row: `row = pid // across`, `column = pid % across`; or they have a grid of two axes."""

    kernel: Kernel
    row: Bind
    column: Bind
    pid: str
    across: str  # tiles in a row
    down: str  # tiles in a column
    plane: bool = False


def rewrite(source: Source, context: Context) -> Applied:
    reasons = []
    for kernel in source.kernels.values():
        try:
            order = _order(source, kernel)
        except No as no:
            reasons.append(str(no))
            continue
        return _move(source, order, context)
    raise No(reasons[0] if reasons else "There is no kernel.")


def _move(source: Source, order: Order, context: Context) -> Applied:
    if context.tuned:  # one row a group is the order that there was, more rows than there are is column by column
        return _grouped(source, order, context)
    moves = [_grouped, _grouped, _columns] if order.plane else [_grouped, _grouped, _columns, _reversed]
    return context.random.choice(moves)(source, order, context)


def _order(source: Source, kernel: Kernel) -> Order:
    scope = Scope(source, kernel)
    quotients = [b for b in scope.binds if _over(b, ast.FloorDiv)]
    rests = [b for b in scope.binds if _over(b, ast.Mod)]
    for row in quotients:
        for column in rests:
            assert row.value is not None
            assert column.value is not None
            if _parts(row.value) == _parts(column.value) and row.inside == column.inside and row.name != column.name:
                pid, across = _parts(row.value)
                if _linear(scope, pid, row) and len(scope.of(row.name)) == len(scope.of(column.name)) == 1:
                    down = _down(source, kernel, scope, row, column, across)
                    return Order(kernel=kernel, row=row, column=column, pid=pid, across=across, down=down)
    plane = _plane(source, kernel, scope)
    if plane is not None:
        return plane
    raise No(f"{kernel.name} does not split one program id as `pid // tiles` and `pid % tiles`.")


def _over(bind: Bind, operator: type[ast.operator]) -> bool:
    return bind.op == "" and isinstance(bind.value, ast.BinOp) and isinstance(bind.value.op, operator)


def _parts(node: ast.expr) -> tuple[str, str]:
    assert isinstance(node, ast.BinOp)
    return ast.unparse(node.left), ast.unparse(node.right)


def _linear(scope: Scope, pid: str, row: Bind) -> bool:
    """The number that is split is the program's own, or the tile of a persistent loop."""
    bind = scope.last(pid, row.at) if pid.isidentifier() else None
    if any(b.op == "for" for b in scope.of(pid)):
        return len(scope.of(pid)) == 1
    if bind is None or bind.value is None:
        return pid in ("tl.program_id(0)", "tl.program_id(axis=0)")
    return ast.unparse(bind.value) in ("tl.program_id(0)", "tl.program_id(axis=0)")


def _down(source: Source, kernel: Kernel, scope: Scope, row: Bind, column: Bind, across: str) -> str:
    """How many rows of tiles there are: from the bounds of the tile that the kernel stores."""
    tile = stored_tile(dot_loop(source, kernel))
    counts = {}
    for name in (row.name, column.name):
        counts[name] = _count(tile, name)
    if tiles(scope.resolved(across, row.at)) != tiles(counts[column.name]):
        raise No(f"`{across}` is not the number of tiles across the stored output.")
    return counts[row.name]


def _count(tile: Tile, name: str) -> str:
    for vec, extent in zip(tile.axes, tile.extents, strict=True):
        if name in identifiers(vec.offset) and extent is not None:
            if vec.offset.replace(" ", "") not in (f"{name}*{vec.block}", f"{vec.block}*{name}"):
                break
            return f"tl.cdiv({extent}, {vec.block})"
    raise No(f"`{name}` is not the index of a tile of the stored output.")


def _plane(source: Source, kernel: Kernel, scope: Scope) -> Order | None:
    found = {}
    for axis in (0, 1):
        spelled = (f"tl.program_id({axis})", f"tl.program_id(axis={axis})")
        binds = [b for b in scope.binds if b.op == "" and b.value is not None and ast.unparse(b.value) in spelled]
        if len(binds) != 1 or len(scope.of(binds[0].name)) != 1 or binds[0].inside:
            return None
        found[axis] = binds[0]
    count = source.code(kernel.node).count("tl.program_id(")
    if count != 2:
        return None
    return Order(
        kernel=kernel,
        row=found[0],
        column=found[1],
        pid="",
        across="tl.num_programs(1)",
        down="tl.num_programs(0)",
        plane=True,
    )


def _start(source: Source, order: Order) -> tuple[list[str], str]:
    """Lines that give the linear program number, and its name."""
    if not order.plane:
        return [], order.pid
    pid = source.fresh("pid")
    return [f"{pid} = tl.program_id(0) + tl.program_id(1) * tl.num_programs(0)"], pid


def _grouped(source: Source, order: Order, context: Context) -> Applied:
    launch = source.launch_of(order.kernel)
    size = 8 if context.tuned else context.random.choice((4, 8))
    names = [source.fresh(n) for n in ("GROUP_M", "tiles_in_group", "first_row", "group_rows")]
    group, in_group, first, rows = names
    before, pid = _start(source, order)
    edits = Edits(source)
    edits.constexpr(order.kernel, launch, group, group, "1")
    edits.tunable(group, size, (1, 2, 4, 8, 16, 64))
    lines = [
        *before,
        f"{in_group} = {group} * {atom(order.across)}",
        f"{first} = {pid} // {in_group} * {group}",
        f"{rows} = min({order.down} - {first}, {group})",
        f"{order.row.name} = {first} + {pid} % {in_group} % {rows}",
    ]
    _write(edits, order, lines, f"{order.column.name} = {pid} % {in_group} // {rows}")
    return Applied(source=edits.result(), hypothesis=GROUPED.format(group=size))


def _columns(source: Source, order: Order, context: Context) -> Applied:
    edits = Edits(source)
    before, pid = _start(source, order)
    if order.plane:  # axis 0 runs fastest, so that a plane already goes by columns
        lines = [*before, f"{order.row.name} = {pid} // {order.across}"]
        _write(edits, order, lines, f"{order.column.name} = {pid} % {order.across}")
        return Applied(source=edits.result(), hypothesis=REASON)
    count = source.fresh("tiles_down")
    lines = [f"{count} = {order.down}", f"{order.row.name} = {pid} % {count}"]
    _write(edits, order, lines, f"{order.column.name} = {pid} // {count}")
    return Applied(source=edits.result(), hypothesis=COLUMNS)


def _reversed(source: Source, order: Order, context: Context) -> Applied:
    edits = Edits(source)
    across = atom(order.across)
    lines = [f"{order.row.name} = {order.down} - 1 - {order.pid} // {across}"]
    _write(edits, order, lines, f"{order.column.name} = {across} - 1 - {order.pid} % {across}")
    return Applied(source=edits.result(), hypothesis=REVERSED)


def _write(edits: Edits, order: Order, row: list[str], column: str) -> None:
    """Row and column may lean on each other's helpers, so that both stand where the later one stood."""
    first, last = sorted((order.row, order.column), key=lambda b: b.at)
    if any(not isinstance(b.line, cst.SimpleStatementLine) or len(b.line.body) != 1 for b in (first, last)):
        raise No("The program's row and column share a line with something else.")
    binds = Scope(edits.source, order.kernel).binds
    between = [b for b in binds if first.at < b.at < last.at]
    if any(first.name in identifiers(ast.unparse(b.value)) for b in between if b.value is not None):
        raise No("Something uses the program's row before its column is known.")
    if first.line is not last.line:
        edits.replace(first.line, "")
    elif len([b for b in binds if b.line is last.line]) != 2:
        raise No("The program's row and column are assigned together with something else.")
    edits.replace(last.line, "\n".join([*row, column]) + "\n")


RULE = Rule(
    name="program order",
    reason=REASON,
    rewrite=rewrite,
    weight=2.2,
    helps=frozenset({"compute", "memory"}),
)
