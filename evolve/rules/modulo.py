"""R11: masks in the place of `% M`. A wrapped index hides from the compiler that addresses are contiguous.

Only an index that serves one load is changed: elsewhere the wrap may be what keeps another access in bounds.
"""

from __future__ import annotations

import ast
import re

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.edits import Edits
from evolve.rules.match import DotLoop, Tile, dot_loop
from evolve.rules.source import Source
from evolve.rules.symbols import Bind, atom

REASON = (
    "Mask rows and columns beyond the edge rather than wrap them by `%`: addresses stay contiguous, so that copies "
    "stay wide and asynchronous, and the remainders are gone."
)


def rewrite(source: Source, context: Context) -> Applied:
    found = dot_loop(source)
    edits = Edits(source)
    changed = [_unwrap(edits, found, name) for name in (found.lhs, found.rhs)]
    if not any(changed):
        raise No(f"No load of {found.kernel.name} wraps its index by `%`.")
    return Applied(source=edits.result(), hypothesis=REASON)


def _unwrap(edits: Edits, found: DotLoop, name: str) -> bool:
    tile = found.tile(name)
    wrapped = [vec for vec in tile.axes if vec.modulo is not None]
    if not wrapped:
        return False
    if len(wrapped) > 1 or len(found.loads(name)) > 1 or len(tile.line.body) != 1:
        raise No(f"`{name}` is loaded in a way that the rule does not follow.")
    vec = wrapped[0]
    bind = _index(found, tile, vec.modulo or "")
    assert isinstance(bind.value, ast.BinOp)
    edits.replace(bind.line, f"{bind.name} = {ast.unparse(bind.value.left)}\n")
    condition = f"({bind.name}{'[:, None]' if vec.axis == 0 else '[None, :]'} < {atom(vec.modulo or '')})"
    value = next(b.value for b in found.scope.binds if b.line is tile.line)
    assert value is not None
    edits.replace(
        tile.line, f"{name} = {ast.unparse(value).replace(ast.unparse(tile.call), _masked(tile, condition))}\n"
    )
    return True


def _index(found: DotLoop, tile: Tile, modulo: str) -> Bind:
    """The one line that makes the wrapped index, used by nothing but this load's pointer."""
    code = found.source.code(found.kernel.node)
    binds = [
        b
        for b in found.scope.binds
        if isinstance(b.value, ast.BinOp)
        and isinstance(b.value.op, ast.Mod)
        and ast.unparse(b.value.right) == modulo
        and found.scope.is_vector(b.value, b.at)
    ]
    near = [b for b in binds if _feeds(found, tile, b.name)]
    if len(near) != 1 or len(re.findall(rf"\b{near[0].name}\b", code)) != 2 or len(found.scope.of(near[0].name)) != 1:
        raise No("The wrapped index is used in more than one place.")
    if near[0].inside or getattr(near[0].line, "body", None) is None:
        raise No("The wrapped index is made in a branch or a loop.")
    return near[0]


def _feeds(found: DotLoop, tile: Tile, name: str) -> bool:
    pointer = ast.unparse(tile.call.args[0])
    texts = [pointer, *(ast.unparse(b.value) for b in found.scope.of(pointer) if b.value is not None)]
    return any(re.search(rf"\b{name}\b", text) for text in texts)


def _masked(tile: Tile, condition: str) -> str:
    call = tile.call
    mask = next((k for k in call.keywords if k.arg == "mask"), None)
    if len(call.args) > 1:
        raise No("A load gives its mask by position.")
    whole = f"{condition} & ({ast.unparse(mask.value)})" if mask is not None else condition
    others = [f"{k.arg}={ast.unparse(k.value)}" for k in call.keywords if k.arg not in ("mask", "other")]
    return f"tl.load({', '.join([ast.unparse(call.args[0]), f'mask={whole}', 'other=0.0', *others])})"


RULE = Rule(
    name="modulo removal",
    reason=REASON,
    rewrite=rewrite,
    weight=1.3,
    helps=frozenset({"latency", "masks"}),
)
