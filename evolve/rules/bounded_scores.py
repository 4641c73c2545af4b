"""R10 for one loop: a causal mask as an upper bound of the scores, two instructions each instead of four.

`tl.where(cols <= rows, scores, -inf)` costs a comparison, the packing of its bits, and a selection. The least of a
score and `(rows - cols + 1/2) * 1e30` is the score where the mask holds and so far below every other where it does not
that its exponential is zero. It is for the loop that cannot do without the mask: where warps are specialized all blocks
are in one. Only masks whose other value is minus infinity, and only comparisons of the block's own index with a row's.
"""

from __future__ import annotations

import ast
import re

import libcst as cst

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.edits import Edits
from evolve.rules.match import statement
from evolve.rules.source import Source, suites
from evolve.rules.streams import Stream, streams
from evolve.rules.symbols import folded

REASON = (
    "Mask scores by the least of them and a bound that falls steeply beyond the diagonal: one multiply-add and one "
    "minimum for each score, in the place of a comparison, the packing of its bits and a selection."
)
STEEP = "1e30"  # above every score, and no overflow at a hundred million rows
INFINITE = ("float('-inf')", "-float('inf')")


def rewrite(source: Source, context: Context) -> Applied:
    loops = streams(source)
    if not loops:
        raise No("No kernel has a loop with several tl.dot, whose scores could be masked.")
    if STEEP in source.code(loops[0].kernel.node):
        raise No(f"{loops[0].kernel.name} bounds its scores already.")
    edits = Edits(source)
    bounded = [_bounded(edits, found) for found in loops]
    if not any(bounded):
        raise No(f"{loops[0].kernel.name} selects no scores by comparing the block's own index with a row's.")
    return Applied(source=edits.result(), hypothesis=REASON)


def _bounded(edits: Edits, found: Stream) -> bool:
    """`seen = seen & (cols <= rows)`, on its own line after the scores and before they are selected by `seen`."""
    lines = list(_lines(found.loop.node.body))
    if _inline(edits, found, lines):
        return True
    scores = _selected(found, lines)
    if scores is None:
        return False
    mask, name, place = scores
    made = [i for i, line in enumerate(lines) if _target(found, line) == name and i < place]
    for i, line in enumerate(lines[:place]):
        compare = _narrowing(found, line, mask)
        if compare is None or not made or made[-1] > i:
            continue
        bound = _bound(found, compare)
        if bound is not None:
            edits.replace(line, f"{name} = tl.minimum({name}, {bound})\n")
            return True
    return False


def _inline(edits: Edits, found: Stream, lines: list[cst.SimpleStatementLine]) -> bool:
    """`scores = tl.where((cols < end) & (cols <= rows), scores, -inf)`, where the mask has no name."""
    for line in lines:
        node = _tree(found, line)
        call = node.value if node is not None else None
        if node is None or not _selects(call) or not isinstance(call, ast.Call):
            continue
        name = ast.unparse(node.targets[0])
        parts = _conjunction(call.args[0])
        bounds = [_bound(found, p) if isinstance(p, ast.Compare) and len(p.ops) == 1 else None for p in parts]
        bound = next((b for b in bounds if b is not None), None)
        if bound is not None and ast.unparse(call.args[1]) == name:
            rest = [f"({ast.unparse(p)})" for p, b in zip(parts, bounds, strict=True) if b != bound]
            after = f"{name} = tl.where({' & '.join(rest)}, {name}, {ast.unparse(call.args[2])})\n" if rest else ""
            edits.replace(line, f"{name} = tl.minimum({name}, {bound})\n{after}")
            return True
    return False


def _conjunction(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd):
        return _conjunction(node.left) + _conjunction(node.right)
    return [node]


def _selects(call: ast.expr | None) -> bool:
    whole = isinstance(call, ast.Call) and ast.unparse(call.func) == "tl.where" and len(call.args) == 3
    return whole and isinstance(call, ast.Call) and ast.unparse(call.args[2]).replace('"', "'") in INFINITE


def _lines(block: cst.BaseSuite) -> list[cst.SimpleStatementLine]:
    found = []
    for line in block.body:
        if isinstance(line, cst.SimpleStatementLine):
            found.append(line)
        for inner in suites(line):
            found += _lines(inner)
    return found


def _tree(found: Stream, line: cst.SimpleStatementLine) -> ast.Assign | None:
    node = statement(found.source, line.body[0]) if len(line.body) == 1 else None
    plain = isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)
    return node if plain and isinstance(node, ast.Assign) else None


def _target(found: Stream, line: cst.SimpleStatementLine) -> str:
    node = _tree(found, line)
    return ast.unparse(node.targets[0]) if node is not None else ""


def _selected(found: Stream, lines: list[cst.SimpleStatementLine]) -> tuple[str, str, int] | None:
    """`scores = tl.where(seen, scores, -inf)`: the mask's name, the scores', and where; the only use of the mask."""
    for place, line in enumerate(lines):
        node = _tree(found, line)
        call = node.value if node is not None else None
        if (
            node is None
            or not isinstance(call, ast.Call)
            or ast.unparse(call.func) != "tl.where"
            or len(call.args) != 3
        ):
            continue
        mask, value, other = call.args
        same = ast.unparse(value) == ast.unparse(node.targets[0])
        if same and isinstance(mask, ast.Name) and ast.unparse(other).replace('"', "'") in INFINITE:
            uses = [x for x in lines[place + 1 :] if re.search(rf"\b{mask.id}\b", found.source.code(x))]
            if not uses:
                return mask.id, ast.unparse(value), place
    return None


def _narrowing(found: Stream, line: cst.SimpleStatementLine, mask: str) -> ast.Compare | None:
    """The comparison that a line adds to the mask."""
    node = _tree(found, line)
    value = node.value if node is not None and ast.unparse(node.targets[0]) == mask else None
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.BitAnd) and ast.unparse(value.left) == mask:
        right = value.right
        return right if isinstance(right, ast.Compare) and len(right.ops) == 1 else None
    return None


def _bound(found: Stream, node: ast.Compare) -> str | None:
    """What the scores must not be above, where `block's index <= row`."""
    small, large, op = node.left, node.comparators[0], node.ops[0]
    if isinstance(op, ast.Gt | ast.GtE):
        small, large = large, small
    if not isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE):
        return None
    column, row = _along(small, "None, :"), _along(large, ":, None")
    if column is None or row is None or not _of_block(found, column) or found.loop.var in ast.unparse(row):
        return None
    half = "- 0.5" if isinstance(op, ast.Lt | ast.Gt) else "+ 0.5"
    rows = f"(({ast.unparse(row)} - {found.loop.var}).to(tl.float32) {half}) * {STEEP}"
    return f"({rows})[:, None] - (tl.arange(0, {found.loop.step}).to(tl.float32) * {STEEP})[None, :]"


def _along(node: ast.expr, axis: str) -> ast.expr | None:
    if isinstance(node, ast.Subscript) and ast.unparse(node.slice).strip("()") == axis:
        return node.value
    return None


def _of_block(found: Stream, node: ast.expr) -> bool:
    """`start + tl.arange(0, block)`, itself or by the name that it has in this loop."""
    if isinstance(node, ast.Name):
        own = [b for b in found.scope.of(node.id) if found.loop.node in b.inside]
        if len(own) != 1 or own[0].value is None:
            return False
        node = own[0].value
    try:
        value = folded(found.scope.value(node, found.loop.at + 10_000, found.loop.node))
    except No:
        return False
    if found.loop.counts or len(value.vecs) != 1 or value.scalars or value.advances:
        return False
    vec = value.vecs[0]
    return (vec.offset, vec.block, vec.stride, vec.modulo) == (found.loop.var, found.loop.step, "1", None)


RULE = Rule(name="bounded scores", reason=REASON, rewrite=rewrite, weight=1.45, helps=frozenset({"compute", "masks"}))
