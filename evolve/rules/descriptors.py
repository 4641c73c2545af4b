"""R3: a dot's operands through tensor descriptors: the TMA engine copies tiles and no thread computes addresses.

Both paths stay in the kernel, behind a constexpr that the host derives from strides: TMA wants a contiguous last axis
and rows that start at multiples of 16 bytes, and whoever calls with other tensors must still get the right answer. What
the host cannot see is the alignment of a view's first element; tensors as torch allocates them are aligned.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

import libcst as cst

from evolve.rules import stream_descriptors
from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.edits import Edits
from evolve.rules.match import DotLoop, Tile, dot_loop, on_host, stored_tile
from evolve.rules.source import Source, first_line
from evolve.rules.streams import streams
from evolve.rules.symbols import atom, identifiers, plus

REASON = (
    "Load the operands of {dot} through tensor descriptors: the TMA engine copies whole tiles into shared memory, so "
    "that no registers and no instructions go into addresses and masks."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """One tensor to be described. `flag` names the constexpr that says it lies column by column, where it may."""

    tile: Tile
    descriptor: str
    flag: str | None
    columns: bool  # it always lies column by column


def rewrite(source: Source, context: Context) -> Applied:
    if not context.hopper and context.target != "sm_100":
        raise No(f"{context.target} has no TMA engine.")
    if streams(source):
        return stream_descriptors.rewrite(source, context)
    found = dot_loop(source)
    if "tl.make_tensor_descriptor" in source.code(found.kernel.node):
        raise No(f"{found.kernel.name} already uses tensor descriptors.")
    operands = [_plan(found, found.tile(name), may_turn=i == 1) for i, name in enumerate((found.lhs, found.rhs))]
    result = _result(found)
    edits = Edits(source)
    switch = source.fresh("USE_DESC")
    edits.constexpr(found.kernel, found.launch, switch, switch)
    for plan in operands:
        if plan.flag:
            edits.constexpr(found.kernel, found.launch, plan.flag, plan.flag)
    wanted = source.fresh("DESCRIPTORS")
    edits.tunable(wanted, True, (True, False))
    _host(edits, found, [*operands, *([result] if result else [])], switch, wanted)
    _describe(edits, found, [*operands, *([result] if result else [])], switch)
    _load(edits, found, operands, switch)
    if result:
        _store(edits, found, result, switch)
    return Applied(
        source=edits.result(),
        hypothesis=REASON.format(dot=f"`{found.kernel.name}`"),
        signature={"UTMALDG": ">0", "LDGSTS": "=0"},
    )


def _plan(found: DotLoop, tile: Tile, *, may_turn: bool) -> Plan:
    if tile.scalars:
        raise No(f"`{tile.base}` is read at an offset ({tile.scalars[0][:40]}) whose alignment is not known.")
    stem = tile.base.removesuffix("_ptr").removesuffix("_ptrs").strip("_") or tile.base
    first, last = (v.stride for v in tile.axes)
    if first == "1" and last == "1":
        raise No(f"Both strides of `{tile.base}` are 1.")
    for vec in tile.axes:
        if identifiers(vec.block) - found.kernel.constexprs:
            raise No(f"The block `{vec.block}` is not a constexpr parameter.")
    extents = [_extent(found, tile, axis) for axis in (0, 1)]
    tile = Tile(
        call=tile.call,
        at=tile.at,
        line=tile.line,
        target=tile.target,
        base=tile.base,
        scalars=(),
        axes=tile.axes,
        extents=(extents[0], extents[1]),
    )
    both = may_turn and "1" not in (first, last)
    flag = found.source.fresh(f"{stem.upper()}_COLUMNS") if both else None
    return Plan(tile=tile, descriptor=found.source.fresh(f"{stem}_desc"), flag=flag, columns=first == "1")


def _extent(found: DotLoop, tile: Tile, axis: int) -> str:
    """The bound that the masks state; along K the loop's own bound where the load has no mask there."""
    known, vec = tile.extents[axis], tile.axes[axis]
    along = found.loop.var in identifiers(vec.offset)
    if (along and known not in (None, found.loop.stop)) or (along and vec.modulo):
        raise No(f"The loop runs to `{found.loop.stop}` and the mask to `{known}`.")
    extent = found.loop.stop if along else known
    if extent is None:
        raise No(f"No mask of `{tile.base}` says where the tensor ends.")
    if vec.modulo is not None and vec.modulo != extent:
        raise No(f"`{tile.base}` wraps at `{vec.modulo}` and is masked at `{extent}`.")
    other = next((k.value for k in tile.call.keywords if k.arg == "other"), None)
    if other is not None and getattr(other, "value", None) != 0:
        raise No(f"Masked elements of `{tile.base}` are not zero, which a descriptor would make them.")
    return extent


def _result(found: DotLoop) -> Plan | None:
    """The stored tile, where it can go through a descriptor as well; the pointer store is right in any case."""
    try:
        tile = stored_tile(found)
        if any(v.modulo for v in tile.axes) or tile.base in (found.tile(found.lhs).base, found.tile(found.rhs).base):
            return None
        plan = _plan(found, tile, may_turn=False)
        _guards(found, plan)
    except No:
        return None
    return None if plan.columns else plan


def _guards(found: DotLoop, plan: Plan) -> tuple[str, str]:
    """What the host must see for the tensor to lie row by row, and for it to lie column by column."""
    pointer = found.launch.arguments.get(plan.tile.base)
    if pointer is None:
        raise No(f"The launch does not give `{plan.tile.base}`.")
    first, last = (on_host(found.launch, found.kernel, v.stride) for v in plan.tile.axes)
    return _fits(pointer, first, last), _fits(pointer, last, first)


def _fits(pointer: str, long: str, short: str) -> str:
    aligned = f"{atom(long)} * {atom(pointer)}.element_size() % 16 == 0"
    return aligned if short == "1" else f"{atom(short)} == 1 and {aligned}"


def _host(edits: Edits, found: DotLoop, plans: list[Plan], switch: str, tunable: str) -> None:
    lines, wanted = [], [tunable]
    for plan in plans:
        rows, columns = _guards(found, plan)
        if plan.flag:
            lines.append(f"{plan.flag} = {columns}")
            wanted.append(f"({plan.flag} or {rows})")
        else:
            wanted.append(f"({columns if plan.columns else rows})")
    condition = "\n    and ".join(wanted)
    note = "# A descriptor wants one contiguous axis and rows that start at multiples of 16 bytes."
    edits.before(found.launch.statement, "\n".join([note, *lines, f"{switch} = (\n    {condition}\n)\n"]))


def _describe(edits: Edits, found: DotLoop, plans: list[Plan], switch: str) -> None:
    lines = [f"if {switch}:"]
    used: set[str] = set()
    for plan in plans:
        rows, columns = _made(plan, turned=False), _made(plan, turned=True)
        if plan.flag:
            lines += [f"    if {plan.flag}:", *_indent(columns, 2), "    else:", *_indent(rows, 2)]
        else:
            lines += _indent(columns if plan.columns else rows, 1)
        for vec, extent in zip(plan.tile.axes, plan.tile.extents, strict=True):
            used |= identifiers(vec.stride) | identifiers(extent or "0")
    if not used <= set(found.kernel.params) or any(found.scope.of(name) for name in used):
        raise No("Extents or strides are computed in the kernel, so that descriptors cannot stand at its top.")
    edits.before(first_line(found.kernel), "\n".join(lines) + "\n")


def _made(plan: Plan, *, turned: bool) -> list[str]:
    axes, extents = list(plan.tile.axes), list(plan.tile.extents)
    if turned:
        axes, extents = axes[::-1], extents[::-1]
    return [
        f"{plan.descriptor} = tl.make_tensor_descriptor(",
        f"    {plan.tile.base},",
        f"    shape=[{extents[0]}, {extents[1]}],",
        f"    strides=[{axes[0].stride}, 1],",
        f"    block_shape=[{axes[0].block}, {axes[1].block}],",
        ")",
    ]


def _indent(lines: list[str], depth: int) -> list[str]:
    return ["    " * depth + line for line in lines]


def _load(edits: Edits, found: DotLoop, plans: list[Plan], switch: str) -> None:
    """`if switch: descriptor loads, else: the pointer loads and their steps`, in the place of the last load."""
    steps = [s for plan in plans for s in _steps(found, plan.tile)]
    loads = [_holder(found, plan) for plan in plans]
    _same_block(found, plans, steps)
    lines = [f"if {switch}:"]
    for plan in plans:
        straight, turned = _read(plan, turned=False), _read(plan, turned=True)
        if plan.flag:
            lines += [f"    if {plan.flag}:", f"        {turned}", "    else:", f"        {straight}"]
        else:
            lines.append(f"    {turned if plan.columns else straight}")
    old: list[cst.CSTNode] = [x for x in found.loop.node.body.body if x in loads or x in steps]
    lines += ["else:", *(f"    {row}" for x in old for row in found.source.code(x).splitlines())]
    place = max(loads, key=old.index)
    for line in old:
        edits.replace(line, "\n".join(lines) + "\n" if line is place else "")


def _holder(found: DotLoop, plan: Plan) -> cst.CSTNode:
    """The load, or the `if` around the ways to load this operand and nothing else."""
    holder = found.holder(plan.tile.line)
    inside = {b.name for b in found.scope.binds if b.line is holder or holder in b.inside}
    if inside != {plan.tile.target}:
        raise No(f"The load of `{plan.tile.target}` stands in a branch with something else.")
    return holder


def _steps(found: DotLoop, tile: Tile) -> list[cst.SimpleStatementLine]:
    """The loop's own steps of the pointer, which nobody else may read."""
    name = tree_name(tile)
    steps = [b for b in found.scope.of(name) if b.op == "+" and found.loop.node in b.inside] if name else []
    return [b.line for b in steps if isinstance(b.line, cst.SimpleStatementLine)]


def tree_name(tile: Tile) -> str | None:
    return getattr(tile.call.args[0], "id", None)


def _same_block(found: DotLoop, plans: list[Plan], steps: list[cst.SimpleStatementLine]) -> None:
    """Loads and steps may move together only if nothing between them or after them minds."""
    body, loads = list(found.loop.node.body.body), [_holder(found, plan) for plan in plans]
    alone = [plan.tile.line for plan in plans] + steps
    if any(line not in body for line in [*loads, *steps, found.dot_line]) or any(len(x.body) != 1 for x in alone):
        raise No("Loads, pointer steps and the tl.dot do not stand side by side in the loop.")
    first, last = sorted(body.index(line) for line in loads)
    if body.index(found.dot_line) < last:
        raise No("The tl.dot does not follow its loads in the loop.")
    pointers = {name for plan in plans if (name := tree_name(plan.tile))}
    stepped = {name for name in pointers if found.scope.moves(name)}
    for i, line in enumerate(body):
        if line in loads or line in steps:
            continue
        words = set(re.findall(r"\w+", found.source.code(line)))
        if words & stepped:
            raise No("A pointer that moves is used elsewhere in the loop.")
        if first < i < last and words & {found.lhs, found.rhs, *pointers}:
            raise No("Something between the two loads uses one of them.")
    between = {b.name for b in found.scope.binds if b.line in body[first:last] and b.line not in [*loads, *steps]}
    if between & set(re.findall(r"\w+", found.source.code(body[first]))):
        raise No("Something that the first load reads changes before the second.")


def _read(plan: Plan, *, turned: bool) -> str:
    offsets = [plus(v.offset) for v in plan.tile.axes]
    if turned:
        return f"{plan.tile.target} = {plan.descriptor}.load([{offsets[1]}, {offsets[0]}]).T"
    return f"{plan.tile.target} = {plan.descriptor}.load([{offsets[0]}, {offsets[1]}])"


def _store(edits: Edits, found: DotLoop, plan: Plan, switch: str) -> None:
    value = ast.unparse(plan.tile.call.args[1])
    cast = f"{plan.tile.base}.dtype.element_ty"
    value = value if value.endswith(f".to({cast})") else f"{atom(value)}.to({cast})"
    offsets = ", ".join(v.offset for v in plan.tile.axes)
    new = f"if {switch}:\n    {plan.descriptor}.store([{offsets}], {value})\nelse:\n"
    old = found.source.code(plan.tile.line)
    edits.replace(plan.tile.line, new + "\n".join(f"    {row}" for row in old.splitlines()) + "\n")


RULE = Rule(
    name="tensor descriptors",
    reason=REASON,
    rewrite=rewrite,
    then=("alignment", "wider space", "descriptors from the host", "register cap", "operand in registers"),
    weight=3.0,
    helps=frozenset({"compute", "latency", "masks"}),
)
