"""R10: blocks that need no mask in a loop of their own, the rest in the loop that there was; or all in the latter.

A block lies inside if its last index keeps every comparison that the loop masks with. How many blocks do is computed
before the loop, so that both loops together do what the one did, whatever the sizes. A tunable chooses: two loops spare
most blocks their masks, one loop is what warp specialization wants.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

import libcst as cst

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.bounded_scores import STEEP
from evolve.rules.edits import Edits
from evolve.rules.match import settled
from evolve.rules.source import Source
from evolve.rules.streams import Stream, stream
from evolve.rules.symbols import folded, identifiers, plus

REASON = (
    "Run the blocks that lie inside every mask in a loop of their own, without comparisons and selections; only those "
    "at the edge and on the diagonal keep them."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """A comparison that holds for a whole block if the block ends at or before `bound`."""

    bound: str
    under: str = ""  # the constexpr under which it is asked for


@dataclass(kw_only=True)
class Masks:
    """What the loop masks with: the names that hold masks, and the terms that they are made of."""

    found: Stream
    terms: list[Term] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    lines: list[cst.CSTNode] = field(default_factory=list)  # that only make masks

    def add(self, term: Term) -> None:
        if term not in self.terms:
            self.terms.append(term)


def rewrite(source: Source, context: Context) -> Applied:
    found = stream(source)
    loop = found.loop
    if STEEP in source.code(loop.node):
        raise No("The loop bounds its scores, which is a mask that this rule would not see.")
    if loop.counts or loop.start != "0":
        raise No("The loop does not run from 0 in elements, so that its last whole block is not easily known.")
    if any(isinstance(x, cst.For) for x in loop.inside):
        raise No("The loop stands in another one.")
    masks = Masks(found=found)
    body = _unmasked(masks)
    if not masks.terms:
        raise No(f"The loop of {found.kernel.name} masks nothing.")
    whole, switch = source.fresh("whole"), source.fresh("MASKS_APART")
    call = found.scope.tree(loop.node.iter)
    assert isinstance(call, ast.Call)
    edits = Edits(source)
    edits.constexpr(found.kernel, found.launch, switch, switch)
    edits.tunable(switch, True, (True, False))
    edits.before(loop.node, _first_loop(masks, call, whole, switch, body))
    edits.expression(loop.node.iter, _range(call, whole, loop.stop))
    return Applied(source=edits.result(), hypothesis=REASON, signature={"HGMMA": ">0"})


def _first_loop(masks: Masks, call: ast.Call, whole: str, switch: str, body: str) -> str:
    loop = masks.found.loop
    rows = [f"{whole} = 0", f"if {switch}:", f"    {whole} = {loop.stop}"]
    for term in masks.terms:
        if term.under:
            rows += [f"    if {term.under}:", f"        {whole} = tl.minimum({whole}, {term.bound})"]
        elif term.bound != loop.stop:
            rows.append(f"    {whole} = tl.minimum({whole}, {term.bound})")
    rows += [
        f"    {whole} = {whole} // {loop.step} * {loop.step}",
        f"    for {loop.var} in {_range(call, '0', whole)}:",
    ]
    return "\n".join(rows) + "\n" + body


def _range(call: ast.Call, start: str, stop: str) -> str:
    options = "".join(f", {k.arg}={ast.unparse(k.value)}" for k in call.keywords if k.arg != "warp_specialize")
    return f"{ast.unparse(call.func)}({start}, {stop}, {ast.unparse(call.args[-1])}{options})"


# --- The body without its masks ---------------------------------------------------------------------------------------


def _unmasked(masks: Masks) -> str:
    found = masks.found
    for bind in found.scope.binds:
        if bind.inside and found.loop.node in bind.inside and bind.value is not None and bind.op == "":
            under = _under(found, bind.inside)
            terms = None if under is None else _terms(masks, bind.value, bind.at, under)
            if terms is not None:
                masks.names.add(bind.name)
                masks.lines.append(bind.line)
    for bind in found.scope.binds:
        if bind.name in masks.names and bind.line not in masks.lines:
            raise No(f"`{bind.name}` is a mask and something else besides.")
    return "".join(_lines(masks, found.loop.node.body, 2))


def _under(found: Stream, inside: tuple[cst.CSTNode, ...]) -> str | None:
    """The constexpr between the loop and a line; None where the way there is decided at run time or is longer."""
    between = inside[inside.index(found.loop.node) + 1 :]
    if not between:
        return ""
    branch = between[0]
    if len(between) > 1 or not isinstance(branch, cst.If) or branch.orelse is not None:
        return None
    test = found.source.code(branch.test)
    return test if test in found.kernel.constexprs else None


def _lines(masks: Masks, block: cst.BaseSuite, depth: int) -> Iterator[str]:
    source, pad = masks.found.source, "    " * depth
    for line in block.body:
        if line in masks.lines:
            continue
        if isinstance(line, cst.If):
            yield from _branch(masks, line, depth)
        elif isinstance(line, cst.SimpleStatementLine):
            text = source.code(line)
            made = ast.Module(body=[_Drop(masks).visit(n) for n in ast.parse(text).body], type_ignores=[])
            changed = ast.unparse(made)
            if not _itself(made.body):
                yield f"{pad}{text if changed == ast.unparse(ast.parse(text)) else changed}\n"
        else:
            raise No("The loop holds another loop, or a statement that the rule does not follow.")


def _itself(body: list[ast.stmt]) -> bool:
    """`scores = scores` is what is left of a selection."""
    node = body[0] if len(body) == 1 else None
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == ast.unparse(node.value)


def _branch(masks: Masks, line: cst.If, depth: int) -> Iterator[str]:
    source, pad = masks.found.source, "    " * depth
    inner = list(_lines(masks, line.body, depth + 1))
    otherwise = line.orelse
    if isinstance(otherwise, cst.If):
        raise No("The loop has an `elif`.")
    last = list(_lines(masks, otherwise.body, depth + 1)) if otherwise is not None else []
    if inner or last:
        yield f"{pad}if {source.code(line.test)}:\n"
        yield from inner or [f"{pad}    pass\n"]
        if last:
            yield f"{pad}else:\n"
            yield from last


class _Drop(ast.NodeTransformer):
    """Loads without their masks, selections without their conditions."""

    def __init__(self, masks: Masks) -> None:
        self.masks = masks

    def visit_Call(self, node: ast.Call) -> ast.expr:
        head = ast.unparse(node.func)
        self.generic_visit(node)
        if head == "tl.where" and len(node.args) == 3 and self._always(node.args[0]):
            return node.args[1]
        if head == "tl.load":
            mask = next((k for k in node.keywords if k.arg == "mask"), None)
            if mask is not None and self._always(mask.value):
                node.keywords = [k for k in node.keywords if k.arg not in ("mask", "other")]
        return node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return node

    def _always(self, node: ast.expr) -> bool:
        at = self.masks.found.loop.at + 10_000
        return _terms(self.masks, node, at, "") is not None


def _terms(masks: Masks, node: ast.expr, at: int, under: str) -> list[Term] | None:
    """The terms of a conjunction, also entered in `masks`; None where it is not one of those that are followed."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd):
        sides = [_terms(masks, side, at, under) for side in (node.left, node.right)]
        return None if None in sides else [t for side in sides if side for t in side]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) and settled(node, masks.found.kernel):
        return _terms(masks, node.left, at, under)
    if isinstance(node, ast.Subscript):
        return _terms(masks, node.value, at, under) if _axis_only(node) else None
    if isinstance(node, ast.Name):
        return [] if node.id in masks.names else None
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        term = _term(masks.found, node, at, under)
        if term is not None:
            masks.add(term)
            return [term]
    return None


def _axis_only(node: ast.Subscript) -> bool:
    return ast.unparse(node.slice).strip("()") in (":, None", "None, :")


def _term(found: Stream, node: ast.Compare, at: int, under: str) -> Term | None:
    """`index < scalar`, or `index <= index of a row`, where the first index is the loop's block."""
    if not isinstance(node.ops[0], ast.Lt | ast.LtE):
        return None
    more = " + 1" if isinstance(node.ops[0], ast.LtE) else ""
    try:
        left = folded(found.scope.value(node.left, at, found.loop.node))
        right = found.scope.value(node.comparators[0], at, found.loop.node)
        if len(right.vecs) == 1:
            right = folded(right)
    except No:
        return None
    if len(left.vecs) != 1 or left.scalars or left.advances or right.advances or len(right.vecs) > 1:
        return None
    vec = left.vecs[0]
    if vec.offset != found.loop.position or vec.block != found.loop.step or vec.stride != "1" or vec.modulo:
        return None
    if right.vecs:
        row = right.vecs[0]
        if right.scalars or row.stride != "1" or row.modulo:
            return None
        low = row.offset
    else:
        low = plus(*right.scalars)
    if found.loop.var in identifiers(low) or _made_inside(found, low):
        return None
    return Term(bound=low + more, under=under)


def _made_inside(found: Stream, text: str) -> bool:
    return any(found.loop.node in b.inside for name in identifiers(text) for b in found.scope.of(name))


RULE = Rule(
    name="masked blocks apart",
    reason=REASON,
    rewrite=rewrite,
    then=("heaviest first", "settled masks"),
    weight=2.1,
    helps=frozenset({"compute", "masks"}),
)
