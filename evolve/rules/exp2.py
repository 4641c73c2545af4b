"""R9: powers of two in the place of natural exponentials, with log2(e) folded into the scale of the scores.

The hardware has only 2^x, so that every tl.exp costs a multiplication. Scores that are scaled anyway take it for free,
if they are used for nothing but comparing and subtracting before the exponential; where they also leave the kernel (as
a log-sum-exp) the rule declines.
"""

from __future__ import annotations

import ast

import libcst as cst

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.edits import Edits
from evolve.rules.match import statement
from evolve.rules.source import Kernel, Source
from evolve.rules.symbols import Scope

REASON = (
    "Compute exponentials as powers of two, with log2(e) folded into the scale of the scores: the multiplication that "
    "every tl.exp hides is gone."
)
LOG2_E = "1.4426950408889634"
KEEPS = ("tl.max", "tl.maximum", "tl.where")  # scaling by a positive number passes through these


def rewrite(source: Source, context: Context) -> Applied:
    reasons = []
    for kernel in source.kernels.values():
        try:
            return _rewritten(source, kernel)
        except No as no:
            reasons.append(str(no))
    raise No(reasons[0] if reasons else "There is no kernel.")


def _rewritten(source: Source, kernel: Kernel) -> Applied:
    scope = Scope(source, kernel)
    simple = [x for _, x, _ in scope.lines if isinstance(x, cst.SimpleStatementLine)]
    trees = [(line, statement(source, line.body[0])) for line in simple if len(line.body) == 1]
    exponentials = [c for _, t in trees for c in ast.walk(t) if _is_call(c, "tl.exp")]
    if not exponentials:
        raise No(f"{kernel.name} computes no tl.exp.")
    if len(trees) != len(simple) or any(
        _is_call(n, "tl.exp2", "tl.log", "tl.log2") for _, t in trees for n in ast.walk(t)
    ):
        raise No(f"{kernel.name} also takes logarithms or powers of two, whose base would change.")
    scale = _scale(kernel, [t for _, t in trees])
    scores = _scores(scale, [t for _, t in trees])
    for _, node in trees:
        _check(node, scale, scores)
    folded = source.fresh(f"{scale}_log2")
    edits = Edits(source)
    for line, node in trees:
        if any(_is_call(n, "tl.exp") or (isinstance(n, ast.Name) and n.id == scale) for n in ast.walk(node)):
            edits.replace(line, ast.unparse(_Fold(scale, folded).visit(node)) + "\n")
    edits.before(kernel.node.body.body[_first(kernel)], f"{folded} = {scale} * {LOG2_E}\n")
    return Applied(source=edits.result(), hypothesis=REASON, signature={"MUFU": ">0"})


def _is_call(node: ast.AST, *heads: str) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) in heads


def _first(kernel: Kernel) -> int:
    """Behind the docstring."""
    head = kernel.node.body.body[0]
    plain = isinstance(head, cst.SimpleStatementLine) and isinstance(head.body[0], cst.Expr)
    return 1 if plain and len(kernel.node.body.body) > 1 else 0


def _scale(kernel: Kernel, trees: list[ast.stmt]) -> str:
    """The one parameter that is only ever a factor of a dot's result."""
    dots = {n for t in trees if any(_is_call(c, "tl.dot") for c in ast.walk(t)) for n in _targets(t)}
    found = []
    for name in kernel.params:
        uses = [n for t in trees for n in ast.walk(t) if isinstance(n, ast.Name) and n.id == name]
        factors = [n for t in trees for n in ast.walk(t) if _multiplies(n, name)]
        if (
            uses
            and len(uses) == len(factors) == 1
            and any(_is_call(n, "tl.dot") or _plain(n, dots) for n in _others(factors[0], name))
        ):
            found.append(name)
    if len(found) != 1:
        raise No(f"{kernel.name} has no one parameter that scales the scores of a dot.")
    return found[0]


def _multiplies(node: ast.AST, name: str) -> bool:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return any(isinstance(x, ast.Name) and x.id == name for x in (node.left, node.right))
    return isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Mult) and ast.unparse(node.value) == name


def _others(node: ast.AST, name: str) -> list[ast.expr]:
    if isinstance(node, ast.BinOp):
        return [x for x in (node.left, node.right) if ast.unparse(x) != name]
    return [node.target] if isinstance(node, ast.AugAssign) else []


def _plain(node: ast.expr, dots: set[str]) -> bool:
    """A name that some dot was assigned to."""
    return isinstance(node, ast.Name) and node.id in dots


def _scores(scale: str, trees: list[ast.stmt]) -> frozenset[str]:
    """Every name that is proportional to the scale: what is made from it without passing an exponential."""
    known = {scale}
    while True:
        new = {n for t in trees for n in _targets(t) if known & _read(t)} | known
        if new == known:
            return frozenset(known)
        known = new


def _targets(node: ast.stmt) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
    return {t.id for t in targets if isinstance(t, ast.Name)}


def _read(node: ast.stmt) -> set[str]:
    """Names that the value reads outside exponentials."""
    value = getattr(node, "value", None)
    found, queue = set(), [value] if isinstance(value, ast.AST) else []
    while queue:
        item = queue.pop()
        if _is_call(item, "tl.exp"):
            continue
        if isinstance(item, ast.Name):
            found.add(item.id)
        queue.extend(ast.iter_child_nodes(item))
    return found


def _check(node: ast.stmt, scale: str, scores: frozenset[str]) -> None:
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and _is_call(call, "tl.exp"):
            _linear(call.args[0] if call.args else call, scores)
    if not scores & _read(node):
        return
    if not isinstance(node, ast.Assign | ast.AugAssign) or len(_targets(node)) != 1:
        raise No("Scores are used for more than an exponential, and would come out in another base.")
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Mult) and ast.unparse(node.value) == scale:
        return
    if isinstance(node, ast.AugAssign):
        raise No("Something is added to the scores, and would have to be scaled as well.")
    _proportional(node.value, scale, scores)


def _linear(node: ast.expr, scores: frozenset[str]) -> None:
    """An exponent is a score or the difference of two."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
        _linear(node.left, scores)
        _linear(node.right, scores)
    elif isinstance(node, ast.Subscript):
        _linear(node.value, scores)
    elif not (isinstance(node, ast.Name) and node.id in scores):
        raise No(f"The exponent `{ast.unparse(node)[:50]}` is not a difference of scores.")


def _proportional(node: ast.expr, scale: str, scores: frozenset[str]) -> None:
    """The value is in the scores' own unit: scaled dots, their maxima, their selection against infinity."""
    if isinstance(node, ast.Name) and node.id in scores and node.id != scale:
        return None
    if _multiplies(node, scale):
        return None
    if isinstance(node, ast.Subscript):
        return _proportional(node.value, scale, scores)
    if isinstance(node, ast.Call) and _is_call(node, *KEEPS):
        values = (
            node.args[1:]
            if _is_call(node, "tl.where")
            else node.args[:2]
            if _is_call(node, "tl.maximum")
            else node.args[:1]
        )
        for value in values:
            if ast.unparse(value).replace('"', "'") not in ("float('-inf')", "-float('inf')"):
                _proportional(value, scale, scores)
        return None
    raise No(f"`{ast.unparse(node)[:50]}` does more to the scores than scale, select and compare them.")


class _Fold(ast.NodeTransformer):
    def __init__(self, scale: str, folded: str) -> None:
        self.scale, self.folded = scale, folded

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(id=self.folded, ctx=node.ctx) if node.id == self.scale else node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if ast.unparse(node) == "tl.exp":
            return ast.Attribute(value=node.value, attr="exp2", ctx=node.ctx)
        self.generic_visit(node)
        return node


RULE = Rule(
    name="exp2",
    reason=REASON,
    rewrite=rewrite,
    then=("scale in the exponent",),
    weight=2.8,
    helps=frozenset({"compute"}),
)
