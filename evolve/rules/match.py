"""Finds what rules move: the loop that feeds a `tl.dot`, the tiles that it loads, the tile that is stored after it.

Everything is found by structure; no name of anyone's seed stands here. What is found is described as text in the
kernel's own names, for the rules to write with.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, replace

import libcst as cst

from evolve.rules.base import No
from evolve.rules.edits import Edits
from evolve.rules.source import Kernel, Launch, Line, Source, tree
from evolve.rules.symbols import Bind, Scope, Sum, Vec, factors, folded, identifiers, plus, substitute, times

RANGES = ("range", "tl.range")


@dataclass(frozen=True, kw_only=True, slots=True)
class Loop:
    """A counted loop. In elements it runs from `start` to `stop` by `step`; `position` is how far it has come."""

    node: cst.For
    at: int
    head: str
    var: str
    start: str
    stop: str  # in elements: K of `range(0, K, BLOCK_K)` and of `range(tl.cdiv(K, BLOCK_K))`
    step: str
    counts: bool  # the variable counts iterations rather than elements
    inside: tuple[cst.CSTNode, ...]

    @property
    def position(self) -> str:
        if self.counts:
            return times(self.var, self.step)
        return self.var if self.start == "0" else f"({self.var} - {self.start})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """What one load or store touches: `extents` are the bounds that its masks or wraps state, per axis."""

    call: ast.Call
    at: int
    line: cst.SimpleStatementLine
    target: str  # the name that receives a load
    base: str  # the kernel's pointer parameter
    scalars: tuple[str, ...]
    axes: tuple[Vec, Vec]
    extents: tuple[str | None, str | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class DotLoop:
    """A loop over K around one `tl.dot` of two loaded tiles."""

    source: Source
    kernel: Kernel
    launch: Launch
    scope: Scope
    loop: Loop
    dot: ast.Call
    dot_line: cst.SimpleStatementLine
    dot_at: int
    accumulator: str
    lhs: str
    rhs: str

    def tile(self, name: str) -> Tile:
        """The pointer load of an operand: the only one, or the last of the branches of an `if`, which is the general
        one. A descriptor's load may stand beside it."""
        loads = self.loads(name)
        if not loads or (len(loads) > 1 and not all(isinstance(b.inside[-1], cst.If | cst.Else) for b, _ in loads)):
            raise No(f"`{name}` is not loaded by exactly one tl.load in the loop of {self.kernel.name}.")
        bind, call = loads[-1]
        assert isinstance(bind.line, cst.SimpleStatementLine)
        return tile_of(self.scope, call, bind.at, bind.line, name, self.loop)

    def loads(self, name: str) -> list[tuple[Bind, ast.Call]]:
        binds = [b for b in self.scope.of(name) if self.loop.node in b.inside]
        return [(b, call) for b in binds if (call := called(b.value, "tl.load")) is not None]

    def holder(self, line: cst.CSTNode) -> cst.CSTNode:
        """The statement of the loop's own block in which a line stands: the line itself, or an `if` around it."""
        inside = next((inside for _, x, inside in self.scope.lines if x is line), ())
        chain = [*inside, line]
        return chain[chain.index(self.loop.node) + 1] if self.loop.node in chain else line


def called(node: ast.expr | None, head: str) -> ast.Call | None:
    """The call of `head` that an expression is, seen through `.to(...)`."""
    while isinstance(node, ast.Call):
        if ast.unparse(node.func) == head:
            return node
        node = node.func.value if isinstance(node.func, ast.Attribute) and node.func.attr == "to" else None
    return None


def dot_loop(source: Source, kernel: Kernel | None = None) -> DotLoop:
    """The one loop over K around a dot, in the one kernel that has it."""
    kernels = [kernel] if kernel else list(source.kernels.values())
    found: list[DotLoop] = []
    reasons: list[str] = []
    for candidate in kernels:
        try:
            found.append(_dot_loop(source, candidate))
        except No as no:
            reasons.append(str(no))
    if len(found) == 1:
        return found[0]
    if found:
        raise No(f"{len(found)} kernels have a tl.dot in a loop; the rule handles one.")
    raise No(reasons[0] if reasons else "There is no kernel.")


def _dot_loop(source: Source, kernel: Kernel) -> DotLoop:
    scope = Scope(source, kernel)
    dots = list(_dots(scope))
    if len(dots) != 1:
        raise No(f"{kernel.name} has {len(dots)} tl.dot; the rule wants one, in a loop over K.")
    at, line, inside, dot = dots[0]
    loops = [x for x in inside if isinstance(x, cst.For)]
    if not loops:
        raise No(f"The tl.dot of {kernel.name} is not in a loop.")
    return DotLoop(
        source=source,
        kernel=kernel,
        launch=source.launch_of(kernel),
        scope=scope,
        loop=loop_of(scope, loops[-1]),
        dot=dot,
        dot_line=line,
        dot_at=at,
        accumulator=_accumulator(line),
        lhs=_operand(dot.args[0]),
        rhs=_operand(dot.args[1]),
    )


def _dots(scope: Scope) -> Iterator[tuple[int, cst.SimpleStatementLine, tuple[cst.CSTNode, ...], ast.Call]]:
    for at, line, inside in scope.lines:
        if isinstance(line, cst.SimpleStatementLine) and "tl.dot" in scope.source.code(line):
            for small in line.body:
                for node in ast.walk(statement(scope.source, small)):
                    if isinstance(node, ast.Call) and ast.unparse(node.func) == "tl.dot" and len(node.args) >= 2:
                        yield at, line, inside, node


def statement(source: Source, small: cst.BaseSmallStatement) -> ast.stmt:
    try:
        return ast.parse(source.code(small).rstrip(";")).body[0]
    except (SyntaxError, IndexError) as error:
        raise No("A statement does not parse on its own.") from error


def _accumulator(line: cst.SimpleStatementLine) -> str:
    small = line.body[0]
    target = None
    if isinstance(small, cst.AugAssign):
        target = small.target
    elif isinstance(small, cst.Assign):
        target = small.targets[0].target
    if len(line.body) == 1 and isinstance(target, cst.Name):
        return target.value
    raise No("The tl.dot does not go into one named accumulator.")


def _operand(node: ast.expr) -> str:
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "to":
        node = node.func.value
    if isinstance(node, ast.Name):
        return node.id
    raise No(f"`{ast.unparse(node)[:60]}` is not a loaded tile by name.")


def loop_of(scope: Scope, node: cst.For) -> Loop:
    at, inside = next((at, inside) for at, line, inside in scope.lines if line is node)
    call = scope.tree(node.iter)
    if not (isinstance(node.target, cst.Name) and isinstance(call, ast.Call) and ast.unparse(call.func) in RANGES):
        raise No("The loop does not run over range or tl.range.")
    texts = [ast.unparse(a) for a in call.args]
    if not 1 <= len(texts) <= 3 or any(isinstance(a, ast.Starred) for a in call.args):
        raise No("The loop's range is not a plain one.")
    start, stop = ("0", texts[0]) if len(texts) == 1 else texts[:2]
    step = texts[2] if len(texts) == 3 else "1"
    counts = step == "1"
    if counts:
        start_stop = tiles(stop) or tiles(scope.resolved(stop, at))
        if start_stop is None or start != "0":
            raise No(f"The loop counts to `{stop}`, which is not tl.cdiv(extent, block) from 0.")
        stop, step = start_stop
    head = ast.unparse(call.func)
    var = node.target.value
    return Loop(node=node, at=at, head=head, var=var, start=start, stop=stop, step=step, counts=counts, inside=inside)


def tiles(text: str) -> tuple[str, str] | None:
    """Extent and block of `tl.cdiv(extent, block)` or `(extent + block - 1) // block`."""
    node = tree_or_none(text)
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("tl.cdiv", "triton.cdiv") and len(node.args) == 2:
        return ast.unparse(node.args[0]), ast.unparse(node.args[1])
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.FloorDiv):
        block = ast.unparse(node.right)
        top = ast.unparse(node.left)
        if top.endswith(f" + {block} - 1"):
            return top.removesuffix(f" + {block} - 1"), block
    return None


def tree_or_none(text: str) -> ast.expr | None:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError):
        return None


def tile_of(
    scope: Scope, call: ast.Call, at: int, line: cst.SimpleStatementLine, target: str, loop: Loop | None
) -> Tile:
    """The tile behind the pointer of a load or store; refuses what is not two strided axes."""
    node = loop.node if loop else None
    pointer = located(scope.value(call.args[0], at, node), loop)
    base, rest = _base(scope, pointer, at)
    if len(pointer.vecs) != 2 or {v.axis for v in pointer.vecs} != {0, 1}:
        raise No(f"`{ast.unparse(call.args[0])[:60]}` does not point at a two-dimensional tile.")
    axes = tuple(sorted(pointer.vecs, key=lambda v: v.axis or 0))
    _still(scope, identifiers(" + ".join(text for v in axes for text in (v.offset, v.stride, v.block))), loop)
    mask = next((k.value for k in call.keywords if k.arg == "mask"), None)
    if mask is None and len(call.args) > (2 if target == "" else 1):
        mask = call.args[2 if target == "" else 1]
    bounds = dict(_bounds(scope, mask, at, loop, axes)) if mask is not None else {}
    extents = (bounds.get(0) or axes[0].modulo, bounds.get(1) or axes[1].modulo)
    return Tile(
        call=call,
        at=at,
        line=line,
        target=target,
        base=base,
        scalars=rest,
        axes=(axes[0], axes[1]),
        extents=extents,
    )


def located(value: Sum, loop: Loop | None) -> Sum:
    """A pointer that steps along with the loop, as an offset of the axis that it steps on."""
    for step in value.advances:
        assert loop is not None
        fits = [v for v in value.vecs if factors(step) == sorted(factors(v.block) + factors(v.stride))]
        if len(fits) != 1 or fits[0].block != loop.step:
            raise No(f"The pointer's step `{step}` is not one block of one axis.")
        moved = replace(fits[0], offset=plus(fits[0].offset, loop.position))
        value = replace(value, vecs=tuple(moved if v is fits[0] else v for v in value.vecs))
    return replace(value, advances=())


def _still(scope: Scope, names: frozenset[str], loop: Loop | None) -> None:
    """Offsets are written again at the load, so that their names must still mean what they meant."""
    for name in names - {loop.var if loop else ""}:
        binds = scope.of(name)
        branched = all(any(isinstance(x, cst.If | cst.Else) for x in b.inside) for b in binds)
        if any(b.op not in ("", "for") for b in binds) or (len(binds) > 1 and not branched):
            raise No(f"`{name}` changes its value in the kernel.")


def _base(scope: Scope, pointer: Sum, at: int) -> tuple[str, tuple[str, ...]]:
    if not pointer.scalars:
        raise No("A load has no pointer parameter in its address.")
    first, rest = pointer.scalars[0], list(pointer.scalars[1:])
    bind = scope.last(first, at)
    if first not in scope.kernel.params and bind is not None and bind.value is not None:
        head = tree_or_none(scope.resolved(first, at))
        while isinstance(head, ast.BinOp) and isinstance(head.op, ast.Add):
            rest.append(ast.unparse(head.right))
            head = head.left
        first = ast.unparse(head) if head is not None else first
    moved = scope.of(first)
    if first not in scope.kernel.params or first in scope.kernel.constexprs or moved:
        raise No(f"`{first}` is not a pointer parameter that stays put.")
    return first, tuple(rest)


def _bounds(
    scope: Scope, mask: ast.expr, at: int, loop: Loop | None, axes: tuple[Vec, ...]
) -> Iterator[tuple[int, str]]:
    """(axis, extent) of every `index < extent` that a mask is made of; anything else in a mask is refused."""
    for left, right in conditions(scope, mask, at, loop):
        if left.axis is None:
            raise No("A mask compares something that is not an index of the tile.")
        vec = axes[left.axis]
        if left.block != vec.block or left.modulo:
            raise No("A mask is about another range than the load.")
        yield left.axis, _extent(left, right, vec, loop)


def _extent(left: Vec, right: str, vec: Vec, loop: Loop | None) -> str:
    if left.offset == vec.offset:
        return right
    if loop is not None and plus(left.offset, loop.position) == vec.offset:
        node = tree_or_none(right)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
            gone = ast.unparse(node.right)
            if factors(gone) == factors(loop.position):
                return ast.unparse(node.left)
    raise No(f"The mask `... < {right[:40]}` does not follow the load's index.")


def conditions(
    scope: Scope, node: ast.expr, at: int, loop: Loop | None, axis: int | None = None
) -> list[tuple[Vec, str]]:
    """The comparisons `vector < scalar` whose conjunction a mask is."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd):
        return conditions(scope, node.left, at, loop, axis) + conditions(scope, node.right, at, loop, axis)
    if isinstance(node, ast.BinOp) and settled(node, scope.kernel):
        return conditions(scope, node.left, at, loop, axis)
    if isinstance(node, ast.Name):
        bind = scope.last(node.id, at)
        if bind is None or bind.value is None or scope.moves(node.id):
            raise No(f"The mask `{node.id}` is not a plain comparison.")
        inner = loop if loop is not None and loop.node in bind.inside else None
        return conditions(scope, bind.value, bind.at, inner, axis)
    if isinstance(node, ast.Subscript):
        side = 0 if ast.unparse(node.slice).startswith("(:") or ast.unparse(node).endswith("[:, None]") else 1
        return conditions(scope, node.value, at, loop, side)
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.Lt):
        left = folded(located(scope.value(node.left, at, loop.node if loop else None), loop))
        if len(left.vecs) == 1 and not left.scalars and not scope.is_vector(node.comparators[0], at):
            vec = left.vecs[0]
            return [(vec if axis is None else replace(vec, axis=axis), ast.unparse(node.comparators[0]))]
    raise No(f"The mask `{ast.unparse(node)[:60]}` is not made of `index < extent`.")


def settled(node: ast.BinOp, kernel: Kernel) -> bool:
    """`(index < end) | EVEN`: a comparison that the host may have settled. It states the same end."""
    return isinstance(node.op, ast.BitOr) and isinstance(node.right, ast.Name) and node.right.id in kernel.constexprs


def stores(scope: Scope) -> list[tuple[int, cst.SimpleStatementLine, tuple[cst.CSTNode, ...], ast.Call]]:
    found = []
    for at, line, inside in scope.lines:
        if isinstance(line, cst.SimpleStatementLine) and len(line.body) == 1 and isinstance(line.body[0], cst.Expr):
            call = called(scope.tree(line.body[0].value), "tl.store")
            if call is not None and len(call.args) >= 2:
                found.append((at, line, inside, call))
    return found


def stored_tile(found: DotLoop) -> Tile:
    """The one tile that the kernel stores after its loop."""
    after = [s for s in stores(found.scope) if s[0] > found.loop.at and found.loop.node not in s[2]]
    if len(after) != 1 or len(stores(found.scope)) != 1:
        raise No(f"{found.kernel.name} has {len(stores(found.scope))} tl.store; the rule wants one, after the loop.")
    at, line, _, call = after[0]
    return tile_of(found.scope, call, at, line, "", None)


def on_host(found_launch: Launch, kernel: Kernel, text: str) -> str:
    """A kernel expression over its parameters, as the host would write it."""
    known = {**kernel.defaults, **found_launch.arguments}
    if not identifiers(text) <= set(kernel.params) & set(known):
        raise No(f"`{text}` is not made of the kernel's parameters, so that the host cannot check it.")
    return substitute(text, known)


def body_lines(node: cst.For) -> list[Line]:
    return [x for x in node.body.body if isinstance(x, cst.SimpleStatementLine | cst.BaseCompoundStatement)]


def restrict(edits: Edits, found: DotLoop, option: str, condition: str) -> None:
    """An option of the loops around the dot loop holds only under one more condition."""
    for loop in found.loop.inside:
        call = found.scope.tree(loop.iter) if isinstance(loop, cst.For) else None
        given = next((k for k in call.keywords if k.arg == option), None) if isinstance(call, ast.Call) else None
        if call is not None and given is not None and isinstance(loop, cst.For):
            given.value = tree(f"({ast.unparse(given.value)}) and {condition}")
            edits.expression(loop.iter, ast.unparse(call))
