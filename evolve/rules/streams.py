"""Finds the loop of an attention-like kernel: several dots in one loop, through which blocks of rows stream.

`match.py` knows products, which have one dot. Here nothing is known about what the dots mean; only the loop, and the
tiles that are loaded in it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from evolve.rules.base import No
from evolve.rules.edits import Edits
from evolve.rules.match import RANGES, Loop, Tile, called, loop_of, tile_of, tree_or_none
from evolve.rules.source import Kernel, Launch, Source
from evolve.rules.symbols import Bind, Scope


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """A counted loop with at least two `tl.dot` in its own block."""

    source: Source
    kernel: Kernel
    launch: Launch
    scope: Scope
    loop: Loop

    def loads(self) -> Iterator[tuple[Bind, ast.Call]]:
        for bind in self.scope.binds:
            if bind.inside and bind.inside[-1] is self.loop.node and (call := called(bind.value, "tl.load")):
                yield bind, call

    def tiles(self) -> list[Tile]:
        """The two-dimensional loads that follow the loop; others (an index of a page, a scale) are not tiles."""
        found = []
        for bind, call in self.loads():
            if isinstance(bind.line, cst.SimpleStatementLine) and len(bind.line.body) == 1 and len(call.args) == 1:
                try:
                    found.append(tile_of(self.scope, call, bind.at, bind.line, bind.name, self.loop))
                except No:
                    continue
        return found

    def kept(self) -> list[Tile]:
        """Two-dimensional operands of the loop's dots that are loaded once, before it."""
        names = {n.id for x in self.loop.node.body.body for n in _operands(self.source.code(x))}
        found = []
        for bind in self.scope.binds:
            call = called(bind.value, "tl.load")
            plain = isinstance(bind.line, cst.SimpleStatementLine) and len(bind.line.body) == 1
            if call is None or bind.name not in names or bind.inside or not plain or len(self.scope.of(bind.name)) != 1:
                continue
            try:
                assert isinstance(bind.line, cst.SimpleStatementLine)
                found.append(tile_of(self.scope, call, bind.at, bind.line, bind.name, None))
            except No:
                continue
        return found

    def depends(self, text: str, on: str) -> bool:
        """Whether an expression was made, through whatever names and branches, from something that holds `on`."""
        seen: set[str] = set()
        queue = [text]
        while queue:
            item = queue.pop()
            if on in item:
                return True
            node = tree_or_none(item)
            names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} - seen if node is not None else set()
            seen |= names
            queue += [ast.unparse(b.value) for name in names for b in self.scope.of(name) if b.value is not None]
        return False


def _operands(text: str) -> Iterator[ast.Name]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "tl.dot":
            yield from (arg for arg in node.args[:2] if isinstance(arg, ast.Name))


def stream(source: Source) -> Stream:
    reasons = []
    for kernel in source.kernels.values():
        try:
            return _stream(source, kernel)
        except No as no:
            reasons.append(str(no))
    raise No(reasons[0] if reasons else "There is no kernel.")


def streams(source: Source) -> list[Stream]:
    """As many as the first kernel with one has: two where masked blocks have a loop of their own."""
    for kernel in source.kernels.values():
        try:
            return list(_streams(source, kernel))
        except No:
            continue
    return []


def _stream(source: Source, kernel: Kernel) -> Stream:
    found = list(_streams(source, kernel))
    if len(found) != 1:
        raise No(f"{kernel.name} has {len(found)} loops with several tl.dot; the rule wants one.")
    return found[0]


def _streams(source: Source, kernel: Kernel) -> Iterator[Stream]:
    scope = Scope(source, kernel)
    for _, line, _ in scope.lines:
        if not isinstance(line, cst.For):
            continue
        own = [x for x in line.body.body if not isinstance(x, cst.For)]
        if sum(source.code(x).count("tl.dot(") for x in own) > 1:
            loop = _loop(scope, line)
            yield Stream(source=source, kernel=kernel, launch=source.launch_of(kernel), scope=scope, loop=loop)


def _loop(scope: Scope, node: cst.For) -> Loop:
    """As a loop over elements where it can be read so; else it counts turns, from wherever it starts."""
    try:
        return loop_of(scope, node)
    except No:
        call = scope.tree(node.iter)
        plain = isinstance(node.target, cst.Name) and isinstance(call, ast.Call) and len(call.args) in (1, 2)
        if not plain or not isinstance(call, ast.Call) or ast.unparse(call.func) not in RANGES:
            raise
        at, inside = next((at, inside) for at, line, inside in scope.lines if line is node)
        texts = [ast.unparse(a) for a in call.args]
        return Loop(
            node=node,
            at=at,
            head=ast.unparse(call.func),
            var=scope.source.code(node.target),
            start=texts[0] if len(texts) == 2 else "0",
            stop=texts[-1],
            step="1",
            counts=True,
            inside=inside,
        )


def restrict(edits: Edits, scope: Scope, loop: cst.For, option: str, condition: str) -> None:
    """An option of the loop holds only under one more condition."""
    call = scope.tree(loop.iter)
    given = next((k for k in call.keywords if k.arg == option), None) if isinstance(call, ast.Call) else None
    if given is not None:
        given.value = ast.parse(f"({ast.unparse(given.value)}) and {condition}", mode="eval").body
        edits.expression(loop.iter, ast.unparse(call))


def positive(source: Source, launch: Launch, text: str) -> bool:
    """Whether the host's expression can only be above zero, as a softmax's scale is: 0.125, 1.44 * D**-0.5."""
    node = tree_or_none(text)
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float) and node.value > 0
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div):
        return all(positive(source, launch, ast.unparse(x)) for x in (node.left, node.right))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        power = tree_or_none(ast.unparse(node.right))
        try:
            value = ast.literal_eval(power) if power is not None else None
        except ValueError:
            return False
        return isinstance(value, float) and value != int(value)  # a real root is not negative
    if isinstance(node, ast.Name):
        kernel = source.kernels[launch.kernel]
        if node.id in launch.arguments and node.id in kernel.params:
            given = launch.arguments[node.id]
            return given != node.id and positive(source, launch, given)
    return False
