"""For attention: the queries stay in registers, and not in shared memory, from which every product would read them.

A product of 64×64 reads as many bytes of its left operand as of its right one, and two such products in flight take
all that shared memory can give. Hopper's instructions take the left operand from registers as well; Triton does so for
what was computed, but not for what was just loaded. So the block goes through the selection that its rows' mask is:
the same values, and a computed operand. Shared memory gets room for a stage or a block more. A tunable decides.
"""

from __future__ import annotations

import ast

import libcst as cst

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.edits import Edits
from evolve.rules.match import Tile, called, statement, tile_of
from evolve.rules.parameters import space_of
from evolve.rules.source import Source
from evolve.rules.streams import Stream, streams
from evolve.rules.symbols import Bind, identifiers

REASON = (
    "Keep `{name}` in registers: the products of the loop then read half as much from shared memory, and what it took "
    "there is free for another stage or block."
)
NOTE = "# What was computed stays in registers; what was loaded would be read from shared memory by every product."


def rewrite(source: Source, context: Context) -> Applied:
    if not context.hopper:
        raise No(f"Products that take an operand from registers were looked at on sm_90, not on {context.target}.")
    loops = streams(source)
    if not loops:
        raise No("No kernel has a loop with several tl.dot, one of whose operands stays.")
    found = loops[0]
    name = _kept(found)
    tile, holder = _loaded(found, name)
    if tile.extents[0] is None:
        raise No(f"No mask of `{name}` says how many rows there are.")
    switch = source.fresh(f"{name.upper()}_IN_REGISTERS")
    rows = tile.axes[0]
    index = f"({rows.offset} + tl.arange(0, {rows.block}))"
    edits = Edits(source)
    selected = f"{name} = tl.where({index}[:, None] < {tile.extents[0]}, {name}, 0.0)"
    edits.after(holder, f"{NOTE}\nif {switch}:\n    {selected}\n")
    special = next((x for x in sorted(found.kernel.constexprs) if x.startswith("WARP_SPECIALIZE")), "")
    given = found.launch.arguments.get(special, "")
    edits.constexpr(found.kernel, found.launch, switch, f"{switch} and not {given}" if given else switch)
    edits.tunable(switch, True, (True, False))
    _start(edits, found)
    return Applied(source=edits.result(), hypothesis=REASON.format(name=name))


def _start(edits: Edits, found: Stream) -> None:
    """Where there is a cap on registers to choose, it and two stages let three blocks of 64×64 share an SM."""
    source, space = found.source, space_of(found.source)
    capped = identifiers(found.launch.options.get("maxnreg", "0")) & source.tunables.keys()
    wanted = {**dict.fromkeys(capped, 168), **({found.launch.options.get("num_stages", ""): 2} if capped else {})}
    for param in source.entry.params.kwonly_params:
        value = wanted.get(param.name.value)
        if value is not None and param.default is not None and value in space.get(param.name.value, ()):
            edits.expression(param.default, repr(value))


def _kept(found: Stream) -> str:
    """The first operand of a dot of the loop that is made before it."""
    inside = {b.name for b in found.scope.binds if found.loop.node in b.inside}
    for line in found.loop.node.body.body:
        for small in line.body if isinstance(line, cst.SimpleStatementLine) else ():
            for node in ast.walk(statement(found.source, small)):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "tl.dot" and node.args:
                    first = node.args[0]
                    if isinstance(first, ast.Name) and first.id not in inside and found.scope.of(first.id):
                        return first.id
    raise No(f"No tl.dot in the loop of {found.kernel.name} has a left operand that was loaded before it.")


def _loaded(found: Stream, name: str) -> tuple[Tile, cst.CSTNode]:
    """The block as its pointer load states it, and the statement of the kernel's own block that loads it, whichever
    way it is taken."""
    binds = found.scope.of(name)
    holders = {id(h): h for h in (_holder(b) for b in binds)}
    if len(holders) != 1 or any(b.op or not _load(b) for b in binds):
        raise No(f"`{name}` is not what one statement loads.")
    for bind in binds:
        call = called(bind.value, "tl.load")
        if call is not None and isinstance(bind.line, cst.SimpleStatementLine):
            tile = tile_of(found.scope, call, bind.at, bind.line, name, None)
            return tile, next(iter(holders.values()))
    raise No(f"`{name}` is not loaded by a pointer whose mask says how many rows there are.")


def _holder(bind: Bind) -> cst.CSTNode:
    return bind.inside[0] if bind.inside else bind.line


def _load(bind: Bind) -> bool:
    node = bind.value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "reshape":
        node = node.func.value
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load"


RULE = Rule(
    name="operand in registers",
    reason=REASON.format(name="q"),
    rewrite=rewrite,
    weight=2.0,
    helps=frozenset({"compute", "latency"}),
)
