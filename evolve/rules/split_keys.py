"""R7 for attention: several programs for one block of queries, each with a part of the keys; a second kernel merges.

What makes decoding fast where a batch has fewer (sequence, head) pairs than the chip has SMs. Each part leaves its own
normalised answer and the logarithm of its sum; the merge weighs parts by it, so that the result does not depend on how
many there are. The loop must be a running softmax: a maximum, a sum and an accumulator that are divided at the end.
"""

from __future__ import annotations

import ast
import re
import textwrap
from dataclasses import dataclass

import libcst as cst

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.edits import Edits
from evolve.rules.match import Tile, on_host, statement, stores, tile_of
from evolve.rules.persistent import grid_of
from evolve.rules.source import Source, lines_of
from evolve.rules.streams import Stream, stream
from evolve.rules.symbols import atom, factors

REASON = (
    "Split the keys over several programs and merge their answers in a second kernel: a small batch of long sequences "
    "then fills the chip, and the cache is read at its full bandwidth."
)
SMS = 132
ENOUGH = 8  # programs for each SM that keep it busy until the last: then nothing is split, and nothing launched besides
MERGE = """\
@triton.jit
def {kernel}(parts_ptr, levels_ptr, out_ptr, rows, WIDTH: tl.constexpr, SPLITS: tl.constexpr):
    row = tl.program_id(0)
    splits = tl.arange(0, SPLITS)
    cols = tl.arange(0, WIDTH)
    level = tl.load(levels_ptr + splits * rows + row)
    weight = tl.{exp}(level - tl.max(level, axis=0))
    part = tl.load(parts_ptr + (splits[:, None] * rows + row) * WIDTH + cols[None, :])
    part = tl.where(weight[:, None] > 0.0, part, 0.0)  # a part without keys is 0 / 0
    out = tl.sum(part * weight[:, None], axis=0) / tl.sum(weight, axis=0)
    tl.store(out_ptr + row * WIDTH + cols, out.to(out_ptr.dtype.element_ty))


"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Softmax:
    """A running softmax: its three carried names, the base of its exponentials, and where its answer is stored."""

    peak: str
    total: str
    acc: str
    exp: str
    tile: Tile
    out: str  # on the host


def rewrite(source: Source, context: Context) -> Applied:
    found = stream(source)
    if len(source.launches) != 1:
        raise No(f"The entry makes {len(source.launches)} launches; the rule handles one.")
    if found.loop.start != "0" or "SPLITS" in found.kernel.params:
        raise No(f"The loop of {found.kernel.name} does not run over all keys.")
    if any(isinstance(x, cst.For) for x in found.loop.inside):
        raise No("The loop stands in another one.")
    _never_empty(found)
    soft = _softmax(found)
    names = {n: source.fresh(n) for n in ("SPLITS", "parts_ptr", "levels_ptr", "count", "split", "steps", "first_step")}
    edits = Edits(source)
    _part(edits, found, names, _host(edits, found, soft, names))
    _after(edits, found, soft, names)
    return Applied(source=edits.result(), hypothesis=REASON)


# --- What it is ---


def _never_empty(found: Stream) -> None:
    """A turn without any key for some row has no maximum, and its exponentials are 0 / 0. Only the first turn of all
    is sure to have one where masks are about more than the end of the keys."""
    var, stop = found.loop.var, found.loop.stop
    for _, line, inside in found.scope.lines:
        if found.loop.node not in inside or not isinstance(line, cst.SimpleStatementLine):
            continue
        for node in (n for small in line.body for n in ast.walk(statement(found.source, small))):
            if isinstance(node, ast.Compare) and found.depends(ast.unparse(node.left), var):
                right = node.comparators[0]
                if not isinstance(node.ops[0], ast.Lt) or ast.unparse(right) != stop or len(node.ops) > 1:
                    raise No(f"`{ast.unparse(node)[:50]}` may leave a part without a key for some row.")


def _softmax(found: Stream) -> Softmax:
    scope, loop = found.scope, found.loop.node
    acc, total = _divided(found)
    peak = next((b.name for b in scope.binds if loop in b.inside and _renewed(found, b.name, b.value)), None)
    if peak is None:
        raise No(f"The loop of {found.kernel.name} carries no running maximum.")
    carried = {b.name for b in scope.binds if loop in b.inside and any(loop not in x.inside for x in scope.of(b.name))}
    extra = carried - {acc, total, peak, found.loop.var}
    if extra:
        raise No(f"`{min(extra)}` is carried from turn to turn as well, and parts could not be merged.")
    for name, start in ((acc, "tl.zeros("), (total, "tl.zeros("), (peak, "tl.full(")):
        first = [b for b in scope.of(name) if loop not in b.inside and b.at < found.loop.at]
        if len(first) != 1 or first[0].value is None or not ast.unparse(first[0].value).startswith(start):
            raise No(f"`{name}` does not start empty.")
    code = found.source.code(loop)
    exp = "exp2" if "tl.exp2(" in code else "exp"
    if exp == "exp2" and "tl.exp(" in code:
        raise No("Two bases are mixed in the exponentials.")
    return Softmax(peak=peak, total=total, acc=acc, exp=exp, tile=_tile(found), out=_output(found))


def _divided(found: Stream) -> tuple[str, str]:
    """`acc / total[:, None]` after the loop."""
    for bind in found.scope.binds:
        node = bind.value
        if bind.at > found.loop.at and found.loop.node not in bind.inside and isinstance(node, ast.BinOp):
            right = node.right
            if (
                isinstance(node.op, ast.Div)
                and isinstance(node.left, ast.Name)
                and isinstance(right, ast.Subscript)
                and isinstance(right.value, ast.Name)
                and ast.unparse(right.slice).strip("()") == ":, None"
            ):
                return node.left.id, right.value.id
    raise No(f"{found.kernel.name} does not divide its accumulator by a sum after the loop.")


def _renewed(found: Stream, name: str, value: ast.expr | None) -> bool:
    """`peak = higher`, where `higher = tl.maximum(peak, ...)`."""
    if not isinstance(value, ast.Name):
        return False
    made = [b.value for b in found.scope.of(value.id) if found.loop.node in b.inside]
    return any(
        isinstance(m, ast.Call) and ast.unparse(m.func) == "tl.maximum" and name in [ast.unparse(a) for a in m.args]
        for m in made
    )


def _tile(found: Stream) -> Tile:
    after = stores(found.scope)
    if len(after) != 1 or found.loop.node in after[0][2] or after[0][0] < found.loop.at:
        raise No(f"{found.kernel.name} has {len(after)} tl.store; the rule wants one, after the loop.")
    at, line, _, call = after[0]
    tile = tile_of(found.scope, call, at, line, "", None)
    rows, columns = tile.axes
    if columns.stride != "1" or columns.offset != "0" or columns.block != rows.stride or tile.extents[1] is not None:
        raise No("The answer is not stored as whole rows, one after the other.")
    for scalar in tile.scalars:
        if rows.stride not in factors(found.scope.resolved(scalar, at)):
            raise No(f"The answer is stored at `{scalar[:40]}`, which need not be the start of a row.")
    return tile


def _output(found: Stream) -> str:
    tile = _tile(found)
    name = found.launch.arguments.get(tile.base, "")
    made = [
        x
        for x in lines_of(found.source.entry.body)
        if re.match(rf"{re.escape(name)} = torch\.empty(_like)?\(", found.source.code(x))
    ]
    if not name.isidentifier() or len(made) != 1:
        raise No("The output is not made by one torch.empty in the entry, so that its layout is not known.")
    return name


# --- What it becomes ---


def _host(edits: Edits, found: Stream, soft: Softmax, names: dict[str, str]) -> int:
    """The scratch, the third axis of the grid and the merge; returns the axis."""
    source, launch = found.source, found.launch
    if launch.statement not in source.entry.body.body:
        raise No("The launch stands in a branch.")
    grid = grid_of(source, launch)
    if len(grid.axes) > 2:
        raise No("The grid has three axes already.")
    width = on_host(launch, found.kernel, soft.tile.axes[0].stride)
    parts, levels, merge = source.fresh("parts"), source.fresh("levels"), source.fresh("merge_parts")
    size = f"{soft.out}.numel()"
    wanted, splits = source.fresh("SPLIT_KEYS"), source.fresh("splits")
    programs = " * ".join(atom(a) for a in grid.axes)
    lines = [
        f"{splits} = {wanted} if {programs} < {ENOUGH} * NUM_SMS else 1",
        f"{parts} = {soft.out}",
        f"{levels} = {soft.out}",
        f"if {splits} > 1:",
        f"    {parts} = torch.empty(({splits} * {size},), device={soft.out}.device, dtype=torch.float32)",
        f"    {levels} = torch.empty(({splits} * {size} // {atom(width)},), device={soft.out}.device,"
        " dtype=torch.float32)",
    ]
    edits.before(launch.statement, "\n".join(lines) + "\n")
    edits.expression(launch.grid, f"({', '.join([*grid.axes, splits])})")
    if grid.line is not None and len(re.findall(rf"\b{source.code(launch.grid)}\b", source.code(source.entry))) == 2:
        edits.replace(grid.line, "")
    edits.scalar(found.kernel, launch, names["parts_ptr"], parts)
    edits.scalar(found.kernel, launch, names["levels_ptr"], levels)
    edits.scalar(found.kernel, launch, names["count"], size)
    edits.constexpr(found.kernel, launch, names["SPLITS"], splits, "1")
    edits.tunable(wanted, 8, (1, 2, 4, 8, 16, 32, 64))
    if "NUM_SMS" not in source.tunables:
        edits.tunable("NUM_SMS", SMS)
    rows = f"{size} // {atom(width)}"
    call = f"{merge}[({rows},)]({parts}, {levels}, {soft.out}, {rows}, WIDTH={width}, SPLITS={splits})"
    edits.after(launch.statement, f"if {splits} > 1:\n    {call}\n")
    edits.before(source.entry, MERGE.format(kernel=merge, exp=soft.exp))
    return len(grid.axes)


def _part(edits: Edits, found: Stream, names: dict[str, str], axis: int) -> None:
    loop = found.loop
    total = f"tl.cdiv({loop.stop}, {loop.step})"
    split, steps, first = names["split"], names["steps"], names["first_step"]
    lines = [
        f"{split} = tl.program_id({axis}) if {names['SPLITS']} > 1 else 0",
        f"{steps} = tl.cdiv({total}, {names['SPLITS']})",
        f"{first} = {split} * {steps}",
    ]
    edits.before(loop.node, "\n".join(lines) + "\n")
    call = found.scope.tree(loop.node.iter)
    assert isinstance(call, ast.Call)
    options = "".join(f", {k.arg}={ast.unparse(k.value)}" for k in call.keywords)
    step = atom(loop.step)
    if loop.counts:
        new = f"{loop.head}({first}, tl.minimum({total}, {first} + {steps}){options})"
    else:
        end = f"tl.minimum({loop.stop}, ({first} + {steps}) * {step})"
        new = f"{loop.head}({first} * {step}, {end}, {loop.step}{options})"
    edits.expression(loop.node.iter, new)


def _after(edits: Edits, found: Stream, soft: Softmax, names: dict[str, str]) -> None:
    """One part stores the answer as before; several store their own and its level."""
    block = found.kernel.node.body.body if not found.loop.inside else None
    if block is None or found.loop.node not in block:
        raise No("The loop stands in a branch.")
    rest = list(block)[list(block).index(found.loop.node) + 1 :]
    old = "".join(found.source.module.code_for_node(x) for x in rest)
    rows, columns = soft.tile.axes
    row = f"({rows.offset} + tl.arange(0, {rows.block}))" if rows.offset != "0" else f"tl.arange(0, {rows.block})"
    start = " + ".join(atom(s) for s in soft.tile.scalars) or "0"
    extent = soft.tile.extents[0]
    name = found.source.fresh("part_rows")
    square, inside = ("", "") if extent is None else (f", mask={name}[:, None] < {extent}", f", mask={name} < {extent}")
    split, count, width = names["split"], names["count"], rows.stride
    log = "log2" if soft.exp == "exp2" else "log"
    new = [
        f"{name} = {row}",
        f"part_ptrs = {names['parts_ptr']} + {split} * {count} + {start} + {name}[:, None] * {width}"
        f" + tl.arange(0, {columns.block})[None, :]",
        f"tl.store(part_ptrs, {soft.acc} / {soft.total}[:, None]{square})",
        f"level_ptrs = {names['levels_ptr']} + {split} * ({count} // {width}) + ({start}) // {width} + {name}",
        f"tl.store(level_ptrs, {soft.peak} + tl.{log}({soft.total}){inside})",
    ]
    body = textwrap.indent("\n".join(new), "    ")
    edits.replace(rest[0], f"if {names['SPLITS']} == 1:\n{textwrap.indent(old, '    ')}else:\n{body}\n")
    for line in rest[1:]:
        edits.replace(line, "")


RULE = Rule(
    name="split keys",
    reason=REASON,
    rewrite=rewrite,
    weight=2.6,
    helps=frozenset({"few programs"}),
)
