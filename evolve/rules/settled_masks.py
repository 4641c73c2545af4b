"""R2 for attention: where the keys are a multiple of the block, no block needs to be held against their end.

The host compares the two once; a comparison that it settles is `true` to the compiler, which drops it with its
selection. What remains is the mask that is about something else, as a causal one. One loop for all blocks, as warp
specialization wants it, is then as short as it can be.
"""

from __future__ import annotations

import ast

import libcst as cst

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.edits import Edits
from evolve.rules.match import on_host, statement, tree_or_none
from evolve.rules.source import Source
from evolve.rules.streams import Stream, streams
from evolve.rules.symbols import atom, factors, folded

REASON = (
    "Settle on the host whether the last block of keys is whole: where it is, comparisons with their end and the "
    "selections that follow leave the loop."
)


def rewrite(source: Source, context: Context) -> Applied:
    loops = streams(source)
    if not loops:
        raise No("No kernel has a loop with several tl.dot, whose blocks could be whole.")
    if "EVEN_BLOCKS" in loops[0].kernel.constexprs:
        raise No(f"{loops[0].kernel.name} is told already whether its blocks are whole.")
    even = source.fresh("EVEN_BLOCKS")
    edits = Edits(source)
    extents = {extent for found in loops for extent in _settled(edits, found, even)}
    if len(extents) != 1:
        raise No(f"{loops[0].kernel.name} holds no block of its loop against one end that the host knows.")
    found = loops[0]
    extent, block = (on_host(found.launch, found.kernel, x) for x in (extents.pop(), found.loop.step))
    edits.constexpr(found.kernel, found.launch, even, f"{atom(extent)} % {atom(block)} == 0")
    return Applied(source=edits.result(), hypothesis=REASON)


def _settled(edits: Edits, found: Stream, even: str) -> set[str]:
    """Rewrites the comparisons of one loop; the ends that they are about."""
    if not _from_a_whole_block(found):
        return set()
    change = _Change(found, even)
    for at, line, inside in found.scope.lines:
        if found.loop.node in inside and isinstance(line, cst.SimpleStatementLine) and len(line.body) == 1:
            node = statement(found.source, line.body[0])
            before = ast.unparse(node)
            change.place = at
            after = ast.unparse(change.visit(node))
            if before != after:
                edits.replace(line, after + "\n")
    return change.extents


def _from_a_whole_block(found: Stream) -> bool:
    """The loop starts at 0 or at a multiple of the block."""
    start, step = found.loop.start, found.loop.step
    if found.loop.counts:
        return False
    if start == "0" or step in factors(start):
        return True
    binds = [b for b in found.scope.of(start) if b.at < found.loop.at] if start.isidentifier() else []
    made = [ast.unparse(b.value) for b in binds if b.value is not None]
    return bool(made) and len(made) == len(binds) and made[0] == "0" and made[-1].endswith(f"// {step} * {step}")


class _Change(ast.NodeTransformer):
    """`index < end` becomes `(index < end) | EVEN`, where the loop's blocks end with the end if it is a multiple."""

    def __init__(self, found: Stream, even: str) -> None:
        self.found, self.even = found, even
        self.extents: set[str] = set()
        self.place = 0

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        extent = ast.unparse(node.comparators[0])
        if len(node.ops) == 1 and isinstance(node.ops[0], ast.Lt) and self._of_block(node.left) and self._ends(extent):
            self.extents.add(extent)
            return ast.BinOp(left=node, op=ast.BitOr(), right=ast.Name(id=self.even, ctx=ast.Load()))
        return node

    def _of_block(self, node: ast.expr) -> bool:
        found = self.found
        if isinstance(node, ast.Subscript) and ast.unparse(node.slice).strip("()") in (":, None", "None, :"):
            node = node.value
        if isinstance(node, ast.Name):  # another loop may have an index of this name as well
            own = [b for b in found.scope.of(node.id) if found.loop.node in b.inside]
            node = own[0].value if len(own) == 1 and own[0].value is not None and own[0].at < self.place else node
        try:
            value = folded(found.scope.value(node, self.place, found.loop.node))
        except No:
            return False
        if len(value.vecs) != 1 or value.scalars or value.advances:
            return False
        vec = value.vecs[0]
        return (vec.offset, vec.block, vec.stride, vec.modulo) == (found.loop.var, found.loop.step, "1", None)

    def _ends(self, extent: str) -> bool:
        """It is a parameter, and the loop does not go on behind it."""
        found = self.found
        if extent not in found.kernel.params or found.scope.of(extent):
            return False
        stop = found.loop.stop
        values = [b.value for b in found.scope.of(stop) if b.at < found.loop.at] if stop.isidentifier() else []
        return _at_most(tree_or_none(stop), extent) or (bool(values) and all(_at_most(v, extent) for v in values))


def _at_most(node: ast.expr | None, extent: str) -> bool:
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("min", "tl.minimum"):
        return any(_at_most(arg, extent) for arg in node.args)
    return node is not None and ast.unparse(node) == extent


RULE = Rule(name="settled masks", reason=REASON, rewrite=rewrite, weight=1.95, helps=frozenset({"compute", "masks"}))
