"""R2: no masks along K where K is a multiple of the block, decided once by the host.

The masked loop stays for every other size. Masks along the rows and columns are not touched here.
"""

from __future__ import annotations

import ast

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.edits import Edits
from evolve.rules.match import DotLoop, Tile, conditions, dot_loop, on_host
from evolve.rules.source import Source
from evolve.rules.symbols import atom, identifiers

REASON = (
    "Drop the masks along the loop's axis where its extent is a multiple of the block: the loads become plain "
    "asynchronous copies and the loop loses its comparisons."
)


def rewrite(source: Source, context: Context) -> Applied:
    found = dot_loop(source)
    if any(len(found.loads(name)) > 1 for name in (found.lhs, found.rhs)):
        raise No(f"{found.kernel.name} already has several loads of one operand.")
    plain = {name: _unmasked(found, found.tile(name)) for name in (found.lhs, found.rhs)}
    if not any(plain.values()):
        raise No(f"The loads of {found.kernel.name} have no mask along K.")
    even = source.fresh("EVEN_K")
    extent = on_host(found.launch, found.kernel, found.loop.stop)
    block = on_host(found.launch, found.kernel, found.loop.step)
    edits = Edits(source)
    edits.constexpr(found.kernel, found.launch, even, f"{atom(extent)} % {atom(block)} == 0")
    for name, text in plain.items():
        if text:
            line = found.tile(name).line
            old = "\n".join(f"    {row}" for row in source.code(line).splitlines())
            edits.replace(line, f"if {even}:\n    {name} = {text}\nelse:\n{old}\n")
    return Applied(source=edits.result(), hypothesis=REASON)


def _unmasked(found: DotLoop, tile: Tile) -> str:
    """The load without the parts of its mask that are about K; empty where there are none."""
    call = tile.call
    mask = next((k for k in call.keywords if k.arg == "mask"), None)
    if mask is None or len(call.args) != 1:
        return ""
    parts = _parts(mask.value)
    kept = [p for p in parts if not _along(found, tile, p)]
    if len(kept) == len(parts):
        return ""
    if len(tile.line.body) != 1:
        raise No("A load shares its line with something else.")
    keywords = [k for k in call.keywords if k.arg not in ("mask", "other")]
    if kept:
        joined = " & ".join(f"({ast.unparse(p)})" if len(kept) > 1 else ast.unparse(p) for p in kept)
        other = [k for k in call.keywords if k.arg == "other"]
        keywords = [ast.keyword(arg="mask", value=ast.parse(joined, mode="eval").body), *other, *keywords]
    new = ast.unparse(ast.Call(func=call.func, args=call.args, keywords=keywords))
    value = next(b.value for b in found.scope.binds if b.line is tile.line)
    assert value is not None
    return ast.unparse(value).replace(ast.unparse(call), new)


def _parts(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd):
        return _parts(node.left) + _parts(node.right)
    return [node]


def _along(found: DotLoop, tile: Tile, part: ast.expr) -> bool:
    axes = {left.axis for left, _ in conditions(found.scope, part, tile.at, found.loop)}
    moving = {v.axis for v in tile.axes if found.loop.var in identifiers(v.offset)}
    if axes <= moving:
        return True
    if axes & moving:
        raise No("A mask by name mixes the loop's axis with another.")
    return False


RULE = Rule(
    name="EVEN_K",
    reason=REASON,
    rewrite=rewrite,
    weight=0.8,
    helps=frozenset({"latency", "masks"}),
)
