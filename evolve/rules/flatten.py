"""The two loops of a persistent kernel as one: the next tile's loads are under way while this one's result is stored.

The compiler does the work; the rule only asks for it, by a tunable, because a long loop over K gains little and the
fused one costs instructions. Triton leaves warp specialization aside where a loop is flattened.
"""

from __future__ import annotations

import ast

import libcst as cst

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.edits import Edits
from evolve.rules.match import DotLoop, dot_loop
from evolve.rules.source import Source
from evolve.rules.symbols import identifiers

REASON = (
    "Flatten the loop over tiles with the one over K, so that the copies for the next tile run while this one's result "
    "is stored: what a short K loses between tiles is won back."
)


def rewrite(source: Source, context: Context) -> Applied:
    if context.version and context.version < (3, 4):
        raise No(f"Triton {context.triton} does not flatten loops.")
    found = dot_loop(source)
    outer = _tiles_loop(found)
    call = found.scope.tree(outer.iter)
    assert isinstance(call, ast.Call)
    if any(k.arg in ("flatten", "warp_specialize") for k in call.keywords):
        raise No("The loop over tiles already says how it is to be run.")
    switch = source.fresh("FLATTEN")
    edits = Edits(source)
    parts = [ast.unparse(a) for a in call.args] + [f"{k.arg}={ast.unparse(k.value)}" for k in call.keywords]
    edits.expression(outer.iter, f"tl.range({', '.join([*parts, f'flatten={_where(found, call, switch)}'])})")
    edits.constexpr(found.kernel, found.launch, switch, switch)
    edits.tunable(switch, True, (True, False))
    return Applied(source=edits.result(), hypothesis=REASON)


def _tiles_loop(found: DotLoop) -> cst.For:
    around = [x for x in found.loop.inside if isinstance(x, cst.For)]
    if len(around) != 1 or not found.source.code(around[0].iter).startswith("tl.range("):
        raise No(f"{found.kernel.name} has no loop over tiles (tl.range) around its loop over K.")
    if found.loop.node not in around[0].body.body:
        raise No("The loop over K stands in a branch, which cannot be flattened.")
    return around[0]


def _where(found: DotLoop, tiles: ast.Call, switch: str) -> str:
    """Not where warps are specialized, which a flattened loop excludes in silence; nor where K is split, because the
    partial tiles are staged beside the loop's own and leave no room; nor at one tile each, where the loop is to go."""
    inner = found.scope.tree(found.loop.node.iter)
    options = inner.keywords if isinstance(inner, ast.Call) else []
    special = [ast.unparse(k.value) for k in options if k.arg == "warp_specialize"]
    split = [f"{name} == 1" for name in sorted(found.kernel.constexprs) if name.startswith("SPLITS")]
    several = sorted(identifiers(ast.unparse(tiles.args[1])) & found.kernel.constexprs) if len(tiles.args) > 1 else []
    return " and ".join([switch, *several, *split, *(f"not ({s})" for s in special)])


RULE = Rule(
    name="flattened loops",
    reason=REASON,
    rewrite=rewrite,
    weight=1.9,
    helps=frozenset({"compute", "latency"}),
)
