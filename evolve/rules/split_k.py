"""R7: several programs for one tile of the output, each with a part of K; a second kernel adds the parts.

For outputs with fewer tiles than the chip has SMs. Parts are summed in one order, so that two runs agree bit for bit;
atomics would not, and need a zeroed output besides. The host splits only where SMs would be idle and K is long; else
nothing is launched besides and no scratch is made, so that a candidate is nowhere worse than its parent.
"""

from __future__ import annotations

import ast
import re

import libcst as cst

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.edits import Edits
from evolve.rules.match import DotLoop, Tile, dot_loop, on_host, restrict, stored_tile
from evolve.rules.persistent import grid_of
from evolve.rules.source import Source, lines_of
from evolve.rules.symbols import atom, identifiers

REASON = (
    "Split K over several programs a tile where the output has fewer tiles than the chip has SMs, and add the parts in "
    "a second kernel: idle SMs then share the work."
)
ATOMIC = (
    "Split K over several programs a tile where the output has fewer tiles than the chip has SMs, and let each add its "
    "part to the zeroed output by atomics: idle SMs share the work, and no second kernel reads parts again."
)
SUM = """\
@triton.jit
def {kernel}(parts_ptr, out_ptr, count, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    where = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for split in tl.static_range(SPLITS):
        total += tl.load(parts_ptr + split * count + where, mask=where < count, other=0.0)
    tl.store(out_ptr + where, total.to(out_ptr.dtype.element_ty), mask=where < count)


"""
PER_SM = 4  # programs that still run at once where each is small
# Of K that each part keeps: it is written and read again in float32. A candidate that split wherever four programs an
# SM found room was at 0.42 of cuBLAS on 1536×5120×2560 (H200). Where tiles fill the chip nothing is split.
DEEP = 512
TILE, SMS = 128, 132  # what the largest tiles leave to a chip of this size, where no workload says otherwise


def rewrite(source: Source, context: Context) -> Applied:
    if any(str(w.params.get("dtype")) == "int8" for w in context.workloads):
        raise No("Parts are added up in float32, which is not exact for sums of integers; atomics are.")
    return split(source, context, atomic=False)


def split(source: Source, context: Context, *, atomic: bool) -> Applied:
    _worth_it(context)
    found = dot_loop(source)
    if found.loop.start != "0" or "SPLIT" in source.code(found.kernel.node):
        raise No(f"The loop of {found.kernel.name} does not run over the whole of K.")
    tile = stored_tile(found)
    _only_the_sum(found, tile)
    out = _output(found, tile)
    edits = Edits(source)
    axis = _host(edits, found, tile, out, atomic=atomic)
    _kernel(edits, found, tile, axis, atomic=atomic)
    if not atomic:
        edits.before(source.entry, SUM.format(kernel=source.fresh("sum_splits")))
    return Applied(source=edits.result(), hypothesis=ATOMIC if atomic else REASON)


def _worth_it(context: Context) -> None:
    sizes = [(w.params.get("M"), w.params.get("N")) for w in context.workloads if w.role == "time"]
    known = [(m, n) for m, n in sizes if isinstance(m, int) and isinstance(n, int)]
    if known and all(-(-m // TILE) * -(-n // TILE) >= SMS for m, n in known):
        raise No("Every timed workload has more tiles than the chip has SMs, so that none would be split.")


def _only_the_sum(found: DotLoop, tile: Tile) -> None:
    """What is stored is the accumulator and nothing more: a bias would be added once for each part."""
    name = _stripped(found, tile.call.args[1], tile.base)
    for _ in range(3):
        if name == found.accumulator:
            break
        bind = found.scope.last(name, tile.at)
        if bind is None or bind.value is None or len(found.scope.of(name)) != 1:
            break
        name = _stripped(found, bind.value, tile.base)
    binds = found.scope.of(found.accumulator)
    if name != found.accumulator or any(b.at > found.loop.at and found.loop.node not in b.inside for b in binds):
        raise No("What is stored is more than the sum of the loop, so that parts could not simply be added.")
    if len([b for b in binds if found.loop.node in b.inside]) != 1:
        raise No("The loop does more with its accumulator than add to it.")
    first = [b for b in binds if found.loop.node not in b.inside]
    if len(first) != 1 or not ast.unparse(first[0].value or ast.Constant(0)).startswith("tl.zeros("):
        raise No("The accumulator does not start from zero.")


def _stripped(found: DotLoop, node: ast.expr, base: str) -> str:
    """The name under a cast to the output's own type; another cast would round every part."""
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "to":
        if [ast.unparse(a) for a in node.args] != [f"{base}.dtype.element_ty"]:
            raise No("The result is rounded to a type of its own before it is stored.")
        node = node.func.value
    return ast.unparse(node)


def _output(found: DotLoop, tile: Tile) -> str:
    """The host's name of a freshly made, contiguous output."""
    name = found.launch.arguments.get(tile.base, "")
    made = []
    for line in lines_of(found.source.entry.body):
        if isinstance(line, cst.SimpleStatementLine) and re.match(
            rf"{re.escape(name)} = torch\.empty\(", found.source.code(line)
        ):
            made.append(line)
    if not name.isidentifier() or len(made) != 1:
        raise No("The output is not made by one torch.empty in the entry, so that its layout is not known.")
    return name


def _host(edits: Edits, found: DotLoop, tile: Tile, out: str, *, atomic: bool) -> int:
    source, launch = found.source, found.launch
    if launch.statement not in source.entry.body.body:
        raise No("The launch stands in a branch.")
    grid = grid_of(source, launch)
    if len(grid.axes) > 2:
        raise No("The grid has three axes already.")
    splits, parts = source.fresh("splits"), source.fresh("parts")
    kernel = source.fresh("sum_splits")
    tiles = _tiles(found) or " * ".join(atom(a) for a in grid.axes)
    depth = atom(on_host(launch, found.kernel, found.loop.stop))
    lines = [
        f"{splits} = 1",
        f"if {tiles} < NUM_SMS:",
        f"    {splits} = max(1, min(SPLIT_K, {PER_SM} * NUM_SMS // max(1, {tiles}), {depth} // {DEEP}))",
        *(() if atomic else (f"{parts} = {out}",)),
        f"if {splits} > 1:",
        f"    {out} = torch.zeros({out}.shape, device={out}.device, dtype={out}.dtype)"
        if atomic
        else f"    {parts} = torch.empty(({splits} * {out}.numel(),), device={out}.device, dtype=torch.float32)",
    ]
    edits.before(launch.statement, "\n".join(lines) + "\n")
    edits.expression(launch.grid, f"({', '.join([*grid.axes, splits])})")
    if grid.line is not None and len(re.findall(rf"\b{source.code(launch.grid)}\b", source.code(source.entry))) == 2:
        edits.replace(grid.line, "")
    if not atomic:
        arg = next(a for a in launch.call.args if _fills(found, a, tile.base))
        edits.expression(arg.value, parts)
        edits.scalar(found.kernel, launch, source.fresh("split_stride"), f"{out}.numel()")
    count = source.fresh("SPLITS")
    edits.constexpr(found.kernel, launch, count, splits, "1")
    restrict(edits, found, "flatten", f"{count} == 1")  # partial tiles are staged beside the loop's own: no room
    for name, default, space in (("SPLIT_K", 8, (1, 2, 4, 8, 16, 32)), ("NUM_SMS", SMS, ())):
        if name not in source.tunables:
            edits.tunable(name, default, space)
    if atomic:
        return len(grid.axes)
    size = f"{out}.numel()"
    call = f"{kernel}[(triton.cdiv({size}, 1024),)]({parts}, {out}, {size}, SPLITS={splits}, BLOCK=1024)"
    edits.after(launch.statement, f"if {splits} > 1:\n    {call}\n")
    return len(grid.axes)


def _tiles(found: DotLoop) -> str:
    """How many tiles there are, where a loop takes several of them in one program."""
    for loop in found.loop.inside:
        call = found.scope.tree(loop.iter) if isinstance(loop, cst.For) else None
        names = identifiers(ast.unparse(call.args[1])) if isinstance(call, ast.Call) and len(call.args) > 1 else ()
        given = [n for n in sorted(names) if n in found.launch.arguments and n not in found.kernel.constexprs]
        if given:
            return atom(found.launch.arguments[given[0]])
    return ""


def _fills(found: DotLoop, arg: cst.Arg, param: str) -> bool:
    if arg.keyword is not None:
        return arg.keyword.value == param
    return found.launch.call.args.index(arg) == found.kernel.params.index(param)


def _kernel(edits: Edits, found: DotLoop, tile: Tile, axis: int, *, atomic: bool) -> None:
    source, loop = found.source, found.loop
    names = [source.fresh(n) for n in ("SPLITS", "split_stride", "split", "split_steps", "first_step")]
    count, stride, split, steps, first = names
    total = f"tl.cdiv({loop.stop}, {loop.step})"
    lines = [
        f"{split} = tl.program_id({axis}) if {count} > 1 else 0",
        f"{steps} = tl.cdiv({total}, {count})",
        f"{first} = {split} * {steps}",
        *(f"{name} += {first} * {atom(step)}" for name, step in _carried(found)),
    ]
    edits.before(loop.node, "\n".join(lines) + "\n")
    call = found.scope.tree(loop.node.iter)
    assert isinstance(call, ast.Call)
    options = "".join(f", {k.arg}={ast.unparse(k.value)}" for k in call.keywords)
    step = atom(loop.step)
    if loop.counts:
        new = f"{loop.head}({first}, min({total}, {first} + {steps}){options})"
    else:
        new = f"{loop.head}({first} * {step}, min({loop.stop}, ({first} + {steps}) * {step}), {loop.step}{options})"
    edits.expression(loop.node.iter, new)
    _store(edits, found, tile, "" if atomic else f"{split} * {stride}", count)


def _carried(found: DotLoop) -> list[tuple[str, str]]:
    """Pointers and indices that step along: they must start where the part starts."""
    inside = [b for b in found.scope.binds if found.loop.node in b.inside and b.op not in ("", "for")]
    moved = []
    for bind in inside:
        if bind.name == found.accumulator:
            continue
        if (
            bind.op != "+"
            or bind.value is None
            or (bind.inside[-1] is not found.loop.node and not _branch(found, bind.inside))
        ):
            raise No(f"`{bind.name}` changes in the loop in a way that the rule does not follow.")
        if found.scope.is_vector(bind.value, bind.at):
            raise No(f"`{bind.name}` steps by a vector.")
        moved.append((bind.name, ast.unparse(bind.value)))
    return moved


def _branch(found: DotLoop, inside: tuple[cst.CSTNode, ...]) -> bool:
    """Only branches that are decided while compiling lie between the loop and the step."""
    between = inside[inside.index(found.loop.node) + 1 :]
    tests = [found.source.code(x.test) for x in between if isinstance(x, cst.If)]
    return all(isinstance(x, cst.If | cst.Else) for x in between) and set(tests) <= found.kernel.constexprs


def _store(edits: Edits, found: DotLoop, tile: Tile, shift: str, count: str) -> None:
    small = tile.line.body[0]
    assert isinstance(small, cst.Expr)
    assert isinstance(small.value, cst.Call)
    if shift:
        first = small.value.args[0].value
        edits.expression(first, f"{found.source.code(first)} + {shift}")
    else:
        old = found.source.code(tile.line)
        added = old.replace("tl.store(", "tl.atomic_add(", 1)
        edits.replace(tile.line, f"if {count} == 1:\n    {old}\nelse:\n    {added}\n")
    holder = next((x for _, x, _ in found.scope.lines if isinstance(x, cst.If) and _otherwise(x, tile.line)), None)
    if holder is not None:
        test = found.source.code(holder.test)
        if test not in found.kernel.constexprs:
            raise No("The store stands in a branch that is taken at run time.")
        edits.expression(holder.test, f"{test} and {count} == 1")


def _otherwise(branch: cst.If, line: cst.CSTNode) -> bool:
    return isinstance(branch.orelse, cst.Else) and line in branch.orelse.body.body


RULE = Rule(
    name="split-K",
    reason=REASON,
    rewrite=rewrite,
    then=("wider space",),
    weight=2.4,
    helps=frozenset({"few programs"}),
)
