"""For a running softmax: the sums are rescaled only when a maximum has grown by more than 2^8, which is seldom.

Each block of keys multiplies the whole accumulator by how much the row's maximum has grown, a fifth of the
instructions of a 64×64 tile with 128 dimensions; after the first few blocks that factor is nearly always one. A maximum
that lags behind by at most 8 leaves exponentials of at most 2^8, which no sum minds, and the answer is divided by its
sum in the end. Whether any row of the tile has grown is one reduction. A tunable decides; it is a branch at run time,
which warp specialization excludes.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

import libcst as cst

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.edits import Edits
from evolve.rules.match import statement
from evolve.rules.source import Source
from evolve.rules.streams import Stream, streams

REASON = (
    "Rescale the sums only where a row's maximum has grown by more than {slack}: mostly none has, and the "
    "multiplication of the whole accumulator is left out."
)
SLACK = "8.0"
EXPONENTIALS = ("tl.exp2", "tl.exp", "tl.math.exp2", "tl.math.exp")
SWITCH = "LAZY_RESCALE"


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    node: cst.SimpleStatementLine
    target: str
    value: ast.expr


@dataclass(frozen=True, kw_only=True, slots=True)
class Softmax:
    """The lines of one turn: the new maximum, how much it shrinks what was, and the two that are shrunk by it."""

    higher: Line
    top: ast.expr  # what the old maximum is compared with
    peak: str
    shrink: Line
    total: Line
    added: ast.expr
    acc: Line
    summed: str  # the accumulator's line without the factor


def rewrite(source: Source, context: Context) -> Applied:
    loops = streams(source)
    if not loops:
        raise No("No kernel has a loop with several tl.dot, whose sums could be rescaled.")
    kernel, launch = loops[0].kernel, loops[0].launch
    if SWITCH in source.code(kernel.node):
        raise No(f"{kernel.name} rescales only where it must already.")
    switch, top = source.fresh(SWITCH), source.fresh("top")
    edits = Edits(source)
    for found in loops:
        _lazy(edits, _softmax(found), switch, top)
    special = next((x for x in sorted(kernel.constexprs) if x.startswith("WARP_SPECIALIZE")), "")
    given = launch.arguments.get(special, "")
    edits.constexpr(kernel, launch, switch, f"{switch} and not {given}" if given else switch)
    edits.tunable(switch, True, (True, False))
    return Applied(source=edits.result(), hypothesis=REASON.format(slack=SLACK))


def _lazy(edits: Edits, soft: Softmax, switch: str, top: str) -> None:
    peak, higher, shrink = soft.peak, soft.higher.target, soft.shrink.target
    edits.replace(
        soft.higher.node,
        f"{top} = {ast.unparse(soft.top)}\n"
        f"{higher} = tl.where({top} > {peak} + {SLACK}, {top}, {peak}) if {switch} else tl.maximum({peak}, {top})\n",
    )
    lines = [
        f"{shrink} = {ast.unparse(soft.shrink.value)}",
        f"{soft.total.target} = {soft.total.target} * {shrink}",
        f"{soft.acc.target} = {soft.acc.target} * {shrink}[:, None]",
    ]
    block = [
        f"if {switch}:",
        f"    if tl.max(({higher} > {peak}).to(tl.int32), axis=0) > 0:",
        *(f"        {line}" for line in lines),
        "else:",
        *(f"    {line}" for line in lines),
    ]
    edits.replace(soft.shrink.node, "\n".join(block) + "\n")
    edits.replace(soft.total.node, f"{soft.total.target} = {soft.total.target} + {ast.unparse(soft.added)}\n")
    edits.replace(soft.acc.node, f"{soft.acc.target} = {soft.summed}\n")


def _softmax(found: Stream) -> Softmax:
    lines = list(_own(found))
    by_name = {line.target: line for line in lines}
    for higher in lines:
        call = higher.value
        peaks = [x.target for x in lines if ast.unparse(x.value) == higher.target]
        if not (
            isinstance(call, ast.Call) and ast.unparse(call.func) == "tl.maximum" and len(call.args) == 2 and peaks
        ):
            continue
        peak = peaks[0]
        others = [a for a in call.args if ast.unparse(a) != peak]
        shrink = next((x for x in lines if _shrinks(x.value, peak, higher.target)), None)
        if len(others) != 1 or shrink is None:
            continue
        total, added = _added(lines, shrink.target)
        acc, summed = _summed(lines, shrink.target)
        order = [lines.index(x) for x in (higher, shrink, total, acc, by_name[peak])]
        uses = sum(len(re.findall(rf"\b{shrink.target}\b", ast.unparse(x.value))) for x in lines)
        between = lines[order[1] + 1 : max(order[2], order[3])]
        read = [x for x in between if x not in (total, acc) and _reads(x, {total.target, acc.target})]
        if order[0] < order[1] < min(order[2:4]) and max(order[2:4]) < order[4] and uses == 2 and not read:
            return Softmax(
                higher=higher,
                top=others[0],
                peak=peak,
                shrink=shrink,
                total=total,
                added=added,
                acc=acc,
                summed=summed,
            )
    raise No(f"The loop of {found.kernel.name} is no running softmax of a known form.")


def _own(found: Stream) -> list[Line]:
    made = []
    for line in found.loop.node.body.body:
        if isinstance(line, cst.SimpleStatementLine):
            node = statement(found.source, line.body[0]) if len(line.body) == 1 else None
            if not isinstance(node, ast.Assign) or len(node.targets) != 1 or not isinstance(node.targets[0], ast.Name):
                raise No("A line of the loop is no plain assignment.")
            made.append(Line(node=line, target=node.targets[0].id, value=node.value))
    return made


def _shrinks(node: ast.expr, peak: str, higher: str) -> bool:
    whole = isinstance(node, ast.Call) and ast.unparse(node.func) in EXPONENTIALS and len(node.args) == 1
    return whole and isinstance(node, ast.Call) and ast.unparse(node.args[0]) == f"{peak} - {higher}"


def _added(lines: list[Line], shrink: str) -> tuple[Line, ast.expr]:
    """`total = total * shrink + sum`."""
    for line in lines:
        node = line.value
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            for one, other in ((node.left, node.right), (node.right, node.left)):
                if ast.unparse(one) in (f"{line.target} * {shrink}", f"{shrink} * {line.target}"):
                    return line, other
    raise No("No sum of the loop is shrunk and added to.")


def _summed(lines: list[Line], shrink: str) -> tuple[Line, str]:
    """`acc = tl.dot(p, v, acc * shrink[:, None])`, or the product added to it."""
    for line in lines:
        text, factor = ast.unparse(line.value), f"{line.target} * {shrink}[:, None]"
        if "tl.dot(" in text and text.count(factor) == 1:
            return line, text.replace(factor, line.target)
    raise No("No accumulator of the loop is shrunk and added to.")


def _reads(line: Line, names: set[str]) -> bool:
    return any(re.search(rf"\b{name}\b", ast.unparse(line.value)) or line.target == name for name in names)


RULE = Rule(
    name="lazy rescale",
    reason=REASON.format(slack=SLACK),
    rewrite=rewrite,
    weight=1.42,
    helps=frozenset({"compute"}),
)
