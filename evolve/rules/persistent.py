"""R4: as many programs as there are SMs, each taking one tile after another.

Launch cost and prologue are paid once a program, and what is set up before the loop (descriptors) is set up once. Small
grids gain nothing, so that how many programs an SM gets is a tunable; 0 is a program a tile, as before. Where every
program has one tile the host says so, and the loop is written so that the compiler then sees one turn and leaves none.
(A loop around it cost the pipeline its depth: 512×512×16384 fell from 0.55 to 0.45 of cuBLAS on an H200.)
`NUM_SMS` is the reserved parameter that whoever launches fills in.
"""

from __future__ import annotations

import ast
import re
import textwrap
from dataclasses import dataclass

import libcst as cst

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.edits import Edits
from evolve.rules.source import Kernel, Launch, Source, lines_of, tree
from evolve.rules.symbols import Bind, Scope, substitute

REASON = "Launch one program for each SM and let it take tile after tile: prologues and launch cost are paid once."
FIRST = ("tl.program_id(0)", "tl.program_id(axis=0)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """The launch's grid: the line that makes it, if it has a name, and its axes on the host."""

    line: cst.SimpleStatementLine | None
    axes: tuple[str, ...]


def rewrite(source: Source, context: Context) -> Applied:
    launch = _launch(source)
    kernel = source.kernels[launch.kernel]
    if "tl.num_programs" in source.code(kernel.node):
        raise No(f"{kernel.name} already steps by the number of programs.")
    pid, var = _program(source, kernel)
    grid = grid_of(source, launch)
    if len(grid.axes) > 2 or (len(grid.axes) == 2 and not _splits(source, kernel)):
        raise No("The grid has more than one axis, of which the rule would shorten only the first.")
    tiles, programs, each = source.fresh("tiles"), source.fresh("programs"), source.fresh("PROGRAMS_PER_SM")
    edits = Edits(source)
    several = source.fresh("PERSISTENT")
    _loop(edits, kernel, pid, var, (tiles, several))
    edits.scalar(kernel, launch, tiles, tiles)
    edits.constexpr(kernel, launch, several, f"{programs} < {tiles}")
    rows = "tl.dot(" not in source.code(kernel.node)  # bound by memory: several programs an SM keep it busy
    edits.tunable(each, 4 if rows else 1, (0, 1, 2, 4, 8) if rows else (0, 1, 2))
    if "NUM_SMS" not in source.tunables:
        edits.tunable("NUM_SMS", 132)
    size = (
        f"{tiles} = {grid.axes[0]}\n{programs} = {tiles}\n"
        f"if {each} > 0:\n    {programs} = min({tiles}, {each} * NUM_SMS)\n"
    )
    whole = ", ".join([programs, *grid.axes[1:]])
    if grid.line is not None:
        edits.replace(grid.line, f"{size}{source.code(launch.grid)} = ({whole},)\n")
    else:
        edits.before(launch.statement, size)
        edits.expression(launch.grid, f"({whole},)" if len(grid.axes) == 1 else f"({whole})")
    return Applied(source=edits.result(), hypothesis=REASON)


def _launch(source: Source) -> Launch:
    """The only one, or of several the one whose kernel multiplies tiles."""
    found = list(source.launches)
    if len(found) > 1:
        found = [x for x in found if "tl.dot(" in source.code(source.kernels[x.kernel].node)]
    if len(found) != 1 or found[0].statement not in source.entry.body.body:
        raise No(f"The entry makes {len(source.launches)} launches; the rule handles one, outside of branches.")
    return found[0]


def _program(source: Source, kernel: Kernel) -> tuple[Bind, str]:
    """The one line that reads tl.program_id(0), on which everything else depends; and what the tile is called."""
    axis = re.findall(r"tl\.program_id\((?:axis=)?(\w+)\)", source.code(kernel.node))
    if axis.count("0") != 1 or source.code(kernel.node).count("tl.program_id(") != len(axis):
        raise No(f"{kernel.name} does not take its tile from one program id.")
    if any(isinstance(small, cst.Return) for line in lines_of(kernel.node.body) for small in _small(line)):
        raise No(f"{kernel.name} returns early.")
    binds = Scope(source, kernel).binds
    found = [b for b in binds if b.op == "" and b.value is not None and any(x in ast.unparse(b.value) for x in FIRST)]
    if len(found) != 1 or found[0].inside or len(_small(found[0].line)) != 1:
        raise No(f"{kernel.name} has no plain line that makes something from tl.program_id(0).")
    pid = found[0]
    plain = pid.value is not None and ast.unparse(pid.value) in FIRST
    early, late = ({b.name for b in binds if (b.at < pid.at) == first} for first in (True, False))
    if early & late or len([b for b in binds if b.name == pid.name]) != 1:
        raise No("A value from before the tile is known changes afterwards, so that tiles would not be independent.")
    return pid, pid.name if plain else source.fresh("tile")


def _splits(source: Source, kernel: Kernel) -> bool:
    """The second axis only says which part of a loop is meant: with several tiles a program it is 1 long."""
    scope = Scope(source, kernel)
    loops = [(at, scope.tree(x.iter)) for at, x, _ in scope.lines if isinstance(x, cst.For)]
    starts = [(at, call.args[0]) for at, call in loops if isinstance(call, ast.Call) and len(call.args) > 1]
    return any("program_id(1)" in scope.resolved(ast.unparse(start), at) for at, start in starts)


def _small(line: cst.CSTNode) -> list[cst.BaseSmallStatement]:
    return list(line.body) if isinstance(line, cst.SimpleStatementLine) else []


def _loop(edits: Edits, kernel: Kernel, pid: Bind, var: str, names: tuple[str, str]) -> None:
    tiles, several = names
    lines = list(kernel.node.body.body)
    rest = lines[lines.index(pid.line) + 1 :]
    if not rest:
        raise No(f"{kernel.name} does nothing with its program id.")
    stop, step = f"{tiles} if {several} else tl.program_id(0) + 1", f"tl.num_programs(0) if {several} else 1"
    head = f"for {var} in tl.range(tl.program_id(0), {stop}, {step}):\n"
    body = "".join(edits.source.module.code_for_node(line) for line in rest)
    if var != pid.name:
        text = edits.source.module.code_for_node(pid.line)
        spelled = next((x for x in FIRST if x in text), None)
        if spelled is None:
            raise No("The program id is written in a way that the rule does not follow.")
        body = text.replace(spelled, var) + body
    # A loop's variable is a plain number under the interpreter, which has no methods.
    body = re.sub(rf"\b{var}\.to\((tl\.\w+)\)", rf"tl.cast({var}, \1)", body)
    edits.replace(pid.line, head + textwrap.indent(body, "    "))
    for line in rest:
        edits.replace(line, "")


def grid_of(source: Source, launch: Launch) -> Grid:
    text = source.code(launch.grid)
    line = None
    if isinstance(launch.grid, cst.Name):
        line, text = _made(source, launch.grid.value)
    node = tree(text)
    if isinstance(node, ast.Lambda) and len(node.args.args) == 1:
        node = _without_meta(node, launch)
    if not isinstance(node, ast.Tuple) or any(isinstance(e, ast.Starred) for e in node.elts):
        raise No("The grid is not written as a tuple.")
    return Grid(line=line, axes=tuple(ast.unparse(e) for e in node.elts))


def _made(source: Source, name: str) -> tuple[cst.SimpleStatementLine, str]:
    found = []
    for line in lines_of(source.entry.body):
        for small in _small(line):
            if isinstance(small, cst.Assign) and source.code(small.targets[0].target) == name:
                found.append((line, source.code(small.value), line in source.entry.body.body))
    if len(found) != 1 or not found[0][2] or len(_small(found[0][0])) != 1:
        raise No(f"The grid `{name}` is not made by one line of the entry.")
    assert isinstance(found[0][0], cst.SimpleStatementLine)
    return found[0][0], found[0][1]


def _without_meta(node: ast.Lambda, launch: Launch) -> ast.expr:
    meta = node.args.args[0].arg

    class Change(ast.NodeTransformer):
        def visit_Subscript(self, item: ast.Subscript) -> ast.expr:
            if isinstance(item.value, ast.Name) and item.value.id == meta and isinstance(item.slice, ast.Constant):
                known = {**launch.arguments, **launch.options}.get(str(item.slice.value))
                if known is None:
                    raise No(f"The grid reads `{ast.unparse(item)}`, which the launch does not give.")
                return tree(known)
            return item

    body: ast.expr = Change().visit(tree(ast.unparse(node.body)))
    if meta in {n.id for n in ast.walk(body) if isinstance(n, ast.Name)}:
        raise No("The grid uses its argument in a way that the rule does not follow.")
    return tree(substitute(ast.unparse(body), {}))


RULE = Rule(
    name="persistent grid",
    reason=REASON,
    rewrite=rewrite,
    then=("flattened loops", "loads before the loop"),
    weight=2.0,
    helps=frozenset({"latency", "launch", "memory", "ragged waves"}),
)
