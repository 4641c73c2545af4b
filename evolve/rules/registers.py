"""A cap on registers, so that two blocks share an SM: while one takes its exponentials, the other multiplies.

Triton waits for a matrix product before it touches the result, so within one block tensor cores stand still during a
softmax. What keeps them busy is another block on the same SM, for which there must be registers: 256 threads with 128
each are two blocks, 128 with 168 three. A tunable decides, 0 for no cap; a cap that is below what WGMMA needs does not
build and is a point that the tuner leaves out.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import TypeGuard

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.edits import Edits
from evolve.rules.parameters import space_of
from evolve.rules.source import Source, literal
from evolve.rules.streams import Stream, streams
from evolve.types import Scalar

REASON = (
    "Cap registers at what lets two blocks share an SM: one block's matrix products then run while the other computes "
    "its exponentials."
)
CAPS = (0, 96, 128, 168)  # of 65536 registers: 128 are two blocks of 8 warps, 168 three of 4
# Rows, columns, stages, warps, registers: two blocks of 128 dimensions fit an SM, in registers and in shared memory,
# and nothing was faster at 4,32,4096,128 (H200). With 64 dimensions 128 registers were: four blocks.
GOOD = (64, 64, 3, 4, 168)


def rewrite(source: Source, context: Context) -> Applied:
    if not context.hopper:
        raise No(f"How many registers leave room for two blocks was worked out for sm_90, not for {context.target}.")
    loops = streams(source)
    if not loops:
        raise No("No kernel computes between the tl.dot of a loop, which a second block could hide.")
    found = loops[-1]
    if "maxnreg" in found.launch.options:
        raise No(f"The launch of {found.kernel.name} already states its registers.")
    name = source.fresh("REGISTERS")
    edits = Edits(source)
    special = next((x for x in sorted(found.kernel.constexprs) if x.startswith("WARP_SPECIALIZE")), "")
    given = found.launch.arguments.get(special, "")
    capped = f"{name} and not {given}" if given else name  # who specializes warps shares registers out itself
    edits.append(found.launch.call, f"maxnreg={name} if {capped} else None")
    point = point_of(source, found, GOOD)
    edits.tunable(name, GOOD[-1] if point else 0, CAPS)
    start_at(edits, source, point)
    return Applied(source=edits.result(), hypothesis=REASON)


def start_at(edits: Edits, source: Source, point: Mapping[str, Scalar]) -> None:
    for param in source.entry.params.kwonly_params:
        wanted = point.get(param.name.value)
        if wanted is not None and param.default is not None and literal(source.code(param.default)) != wanted:
            edits.expression(param.default, repr(wanted))


def point_of(source: Source, found: Stream, good: Sequence[int]) -> Mapping[str, Scalar]:
    """Rows, columns, stages and warps as defaults of the entry; nothing where it does not have these numbers."""
    names = {found.launch.arguments.get(block, "") for block in _rows(found)} & source.tunables.keys()
    column = found.launch.arguments.get(found.loop.step, "")
    if len(names) != 1 or column not in source.tunables:
        return {}
    values = (names.pop(), column, *(found.launch.options.get(n, "") for n in ("num_stages", "num_warps")))
    point = dict(zip(values, good, strict=False))
    space = space_of(source)
    fits = all(name in source.tunables and value in space.get(name, ()) for name, value in point.items())
    return point if fits else {}


def _rows(found: Stream) -> set[str]:
    """The first extents of what the loop sums up in."""
    summed = {b.name for b in found.scope.binds if found.loop.node in b.inside}
    shapes = [b.value.args[0] for b in found.scope.binds if b.name in summed and _filled(b.value)]
    return {ast.unparse(s.elts[0]) for s in shapes if isinstance(s, ast.Tuple | ast.List) and s.elts}


def _filled(node: ast.expr | None) -> TypeGuard[ast.Call]:
    return isinstance(node, ast.Call) and ast.unparse(node.func) in ("tl.zeros", "tl.full") and bool(node.args)


RULE = Rule(
    name="register cap",
    reason=REASON,
    rewrite=rewrite,
    then=("operand in registers",),
    weight=2.05,
    helps=frozenset({"compute", "latency"}),
)
