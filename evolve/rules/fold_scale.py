"""R9, second half: the scores' scale goes into the exponent, where it is one multiply-add instead of two instructions.

`exp2(x·s − m)` is a single fused multiply-add before the exponential; scaling first costs a multiplication for every
score. The running maximum is taken of the unscaled scores and scaled afterwards, once a row, which is the same only if
the scale is above zero: the host's expression must say so.
"""

from __future__ import annotations

import ast

import libcst as cst

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.edits import Edits
from evolve.rules.match import statement
from evolve.rules.source import Source
from evolve.rules.streams import Stream, positive, stream
from evolve.rules.symbols import substitute

REASON = (
    "Scale scores in the exponent, `exp2(x * scale - peak)`, and scale the maximum once a row: a fused multiply-add "
    "takes the place of a multiplication and a subtraction for every score."
)
EXPONENTIALS = ("tl.exp2", "tl.math.exp2")


def rewrite(source: Source, context: Context) -> Applied:
    found = stream(source)
    if "tl.exp(" in source.code(found.loop.node):
        raise No("The exponential is tl.exp; as a power of two it is cheaper first.")
    rows = [(x, statement(source, x.body[0])) for x in _own_lines(found)]
    scaled = [(t, n) for _, t in rows for n in ast.walk(t) if _scaled_dot(n)]
    if len(scaled) != 1:
        raise No(f"The loop of {found.kernel.name} does not scale the result of one tl.dot by a name.")
    tree, product = scaled[0]
    assert isinstance(product, ast.BinOp)
    dot, scale = (product.left, product.right) if isinstance(product.right, ast.Name) else (product.right, product.left)
    assert isinstance(scale, ast.Name)
    _above_zero(found, scale.id)
    scores = _scores(rows, tree)
    fold = _Fold(product, dot, scale.id, scores)
    edits = Edits(source)
    for line, node in rows:
        before = ast.unparse(node)
        after = ast.unparse(fold.visit(node))
        if after != before:
            edits.replace(line, after + "\n")
    if fold.left or not fold.exponents or not fold.maxima:
        raise No("The scaled scores are used for more than a maximum and an exponential.")
    return Applied(source=edits.result(), hypothesis=REASON, signature={"FFMA": ">0"})


def _own_lines(found: Stream) -> list[cst.SimpleStatementLine]:
    lines = [x for _, x, inside in found.scope.lines if found.loop.node in inside]
    simple = [x for x in lines if isinstance(x, cst.SimpleStatementLine)]
    if any(len(x.body) != 1 for x in simple):
        raise No("Two statements share a line in the loop.")
    return simple


def _scaled_dot(node: ast.AST) -> bool:
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)):
        return False
    sides = (node.left, node.right)
    return any(isinstance(x, ast.Name) for x in sides) and any(
        isinstance(x, ast.Call) and ast.unparse(x.func) == "tl.dot" for x in sides
    )


def _above_zero(found: Stream, scale: str) -> None:
    text = found.scope.resolved(scale, found.loop.at)
    host = substitute(text, {k: v for k, v in found.launch.arguments.items() if k in found.kernel.params})
    if found.scope.moves(scale) or not positive(found.source, found.launch, host):
        raise No(f"Nothing says that the scale `{scale}` is above zero, without which a maximum may not be scaled.")


def _scores(rows: list[tuple[cst.SimpleStatementLine, ast.stmt]], first: ast.stmt) -> frozenset[str]:
    """The names of the scores: what the dot goes to, and what only selects from it."""
    known = _target(first)
    for _, node in rows:
        selected = _selected(getattr(node, "value", None))
        if selected is not None and ast.unparse(selected) in known:
            known |= _target(node)
    return known


def _selected(node: ast.expr | None) -> ast.expr | None:
    whole = isinstance(node, ast.Call) and ast.unparse(node.func) == "tl.where" and len(node.args) == 3
    return node.args[1] if whole and isinstance(node, ast.Call) else None


def _target(node: ast.stmt) -> frozenset[str]:
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        return frozenset({node.targets[0].id})
    raise No("The scores do not go into one name.")


class _Fold(ast.NodeTransformer):
    """Takes the scale from the dot and puts it where scores are compared and exponentiated; counts what is `left`."""

    def __init__(self, product: ast.BinOp, dot: ast.expr, scale: str, scores: frozenset[str]) -> None:
        self.product, self.dot, self.scale, self.scores = product, dot, scale, scores
        self.exponents = self.maxima = self.left = 0

    def _scale(self, node: ast.expr) -> ast.expr:
        return ast.BinOp(left=node, op=ast.Mult(), right=ast.Name(id=self.scale, ctx=ast.Load()))

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        if node is self.product:
            return self.dot
        self.generic_visit(node)
        return node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if isinstance(node.ctx, ast.Load) and node.id in self.scores:
            self.left += 1
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        head = ast.unparse(node.func)
        first = node.args[0] if node.args else None
        if head == "tl.max" and isinstance(first, ast.Name) and first.id in self.scores:
            self.maxima += 1
            return self._scale(node)
        if head in EXPONENTIALS and isinstance(first, ast.BinOp) and self._differs(first):
            self.exponents += 1
            first.left = self._scale(first.left)
            first.right = self.visit(first.right)
            return node
        if head == "tl.where" and len(node.args) == 3 and self._selects(node):
            node.args[1] = self.dot if node.args[1] is self.product else node.args[1]
            return node
        self.generic_visit(node)
        return node

    def _differs(self, node: ast.BinOp) -> bool:
        return isinstance(node.op, ast.Sub) and isinstance(node.left, ast.Name) and node.left.id in self.scores

    def _selects(self, node: ast.Call) -> bool:
        value, other = node.args[1], ast.unparse(node.args[2]).replace('"', "'")
        own = value is self.product or (isinstance(value, ast.Name) and value.id in self.scores)
        if own and other not in ("float('-inf')", "-float('inf')"):
            raise No("Masked scores are not minus infinity, and would be scaled as well.")
        return own


RULE = Rule(
    name="scale in the exponent",
    reason=REASON,
    rewrite=rewrite,
    weight=2.3,
    helps=frozenset({"compute"}),
)
