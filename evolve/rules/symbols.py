"""What the names of a kernel stand for: which tile of which tensor a load or store touches, as text.

A pointer is a sum of scalars and of vectors `(offset + arange(0, block)) * stride`, each along one axis. What does not
have that form is refused with `No`, never guessed. Only what a straight-line reading can know is known: a name that
gets different values in the branches of an `if` stands for itself.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import libcst as cst

from evolve.rules.base import No
from evolve.rules.source import Kernel, Line, Source, suites, tree

LONGEST = 2000  # characters of a resolved expression, and terms of a sum: no address that a person wrote is longer
TERMS = 32
SAME = ("tl.max_contiguous", "tl.multiple_of")  # hints: the value is their first argument


@dataclass(frozen=True, kw_only=True, slots=True)
class Bind:
    """One `name = value` or `name op= value` in a kernel. `at` counts statements in reading order."""

    name: str
    value: ast.expr | None  # None: a part of a tuple that comes from a call
    op: str
    at: int
    line: Line
    inside: tuple[cst.CSTNode, ...]  # the compound statements around it, outermost first


@dataclass(frozen=True, kw_only=True, slots=True)
class Vec:
    block: str
    offset: str = "0"
    stride: str = "1"
    modulo: str | None = None
    axis: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sum:
    scalars: tuple[str, ...] = ()
    vecs: tuple[Vec, ...] = ()
    advances: tuple[str, ...] = ()  # added once per iteration of the loop around

    @property
    def scalar(self) -> str:
        return plus(*self.scalars)


def plus(*texts: str) -> str:
    kept = [text for text in texts if text != "0"]
    return " + ".join(f"({t})" if t.startswith("-") and i else t for i, t in enumerate(kept)) or "0"


def times(a: str, b: str) -> str:
    if "0" in (a, b):
        return "0"
    if "1" in (a, b):
        return b if a == "1" else a
    return f"{atom(a)} * {atom(b)}"


def atom(text: str) -> str:
    plain = isinstance(tree(text), ast.Name | ast.Constant | ast.Call | ast.Attribute | ast.Subscript)
    return text if plain else f"({text})"


def factors(text: str) -> list[str]:
    """The factors of a product, sorted: `a * b` and `b * a` are the same step."""
    node = tree(text)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return sorted(factors(ast.unparse(node.left)) + factors(ast.unparse(node.right)))
    return [] if text == "1" else [ast.unparse(node)]


class Scope:
    """A kernel's names, read from top to bottom."""

    def __init__(self, source: Source, kernel: Kernel) -> None:
        self.source, self.kernel = source, kernel
        self.binds: list[Bind] = []
        self.lines: list[tuple[int, Line, tuple[cst.CSTNode, ...]]] = []
        self._vectors: dict[tuple[str, int], bool] = {}
        self._at = 0
        self._read(kernel.node.body, ())

    def _read(self, block: cst.BaseSuite, inside: tuple[cst.CSTNode, ...]) -> None:
        for line in block.body:
            if not isinstance(line, cst.SimpleStatementLine | cst.BaseCompoundStatement):
                continue
            self._at += 1
            self.lines.append((self._at, line, inside))
            if isinstance(line, cst.SimpleStatementLine):
                self.binds.extend(b for small in line.body for b in self._bind(small, line, inside))
            if isinstance(line, cst.For) and isinstance(line.target, cst.Name):
                self.binds.append(self._made(line.target.value, None, "for", line, (*inside, line)))
            for suite in suites(line):
                self._read(suite, (*inside, line))

    def _bind(self, small: cst.BaseSmallStatement, line: Line, inside: tuple[cst.CSTNode, ...]) -> Iterator[Bind]:
        if isinstance(small, cst.Assign) and len(small.targets) == 1:
            yield from self._assign(small.targets[0].target, small.value, line, inside)
        elif isinstance(small, cst.AnnAssign) and isinstance(small.target, cst.Name) and small.value is not None:
            yield from self._assign(small.target, small.value, line, inside)
        elif isinstance(small, cst.AugAssign) and isinstance(small.target, cst.Name):
            op = self.source.code(small.operator)[:-1]
            yield self._made(small.target.value, self.tree(small.value), op, line, inside)

    def _assign(
        self, target: cst.CSTNode, value: cst.BaseExpression, line: Line, inside: tuple[cst.CSTNode, ...]
    ) -> Iterator[Bind]:
        if isinstance(target, cst.Name):
            node = self.tree(value)
            if _itself(target.value, node):
                return
            step = _own_step(target.value, node)
            yield self._made(target.value, step or node, "+" if step is not None else "", line, inside)
        elif isinstance(target, cst.Tuple):
            parts = (
                value.elements if isinstance(value, cst.Tuple) and len(value.elements) == len(target.elements) else None
            )
            for i, element in enumerate(target.elements):
                if isinstance(element.value, cst.Name):
                    part = self.tree(parts[i].value) if parts else None
                    yield self._made(element.value.value, part, "", line, inside)

    def _made(self, name: str, value: ast.expr | None, op: str, line: Line, inside: tuple[cst.CSTNode, ...]) -> Bind:
        return Bind(name=name, value=value, op=op, at=self._at, line=line, inside=inside)

    def tree(self, node: cst.CSTNode) -> ast.expr:
        return tree(self.source.code(node))

    def of(self, name: str) -> list[Bind]:
        return [b for b in self.binds if b.name == name]

    def last(self, name: str, at: int) -> Bind | None:
        """The definition that holds at a place, or None where a parameter or a branch makes it unknowable."""
        found = [b for b in self.of(name) if b.at < at and b.op == ""]
        if not found:
            return None
        bind = found[-1]
        branched = [b for b in found if any(isinstance(x, cst.If | cst.Else) for x in b.inside)]
        return None if branched and len(found) > 1 else bind

    def resolved(self, text: str, at: int, depth: int = 20) -> str:
        """Names replaced by what they were bound to, as far as that is knowable."""
        if len(text) > LONGEST:
            return text
        node = tree(text)
        mapping = {}
        for name in {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}:
            bind = self.last(name, at)
            if bind is not None and bind.value is not None and depth and not self.moves(name):
                mapping[name] = self.resolved(ast.unparse(bind.value), bind.at, depth - 1)
        return substitute(text, mapping)

    def moves(self, name: str) -> bool:
        return any(b.op for b in self.of(name))

    def is_vector(self, node: ast.AST, at: int) -> bool:
        """Whether a range or a loaded tile goes into an expression, through whatever names."""
        for n in ast.walk(node):
            if isinstance(n, ast.Call) and ast.unparse(n.func) in ("tl.arange", "tl.load", "tl.zeros", "tl.full"):
                return True
            if isinstance(n, ast.Name) and self._vector_name(n.id, at):
                return True
        return False

    def _vector_name(self, name: str, at: int) -> bool:
        if (name, at) not in self._vectors:  # a chain of names is walked once, however they cross
            known = [b for b in self.of(name) if b.at < at]
            self._vectors[name, at] = any(b.value is not None and self.is_vector(b.value, b.at) for b in known)
        return self._vectors[name, at]

    def value(self, node: ast.expr, at: int, loop: cst.For | None = None) -> Sum:
        """The pointer or index that an expression stands for at a place; `loop` is the loop whose steps it may take."""
        if isinstance(node, ast.Name):
            return self._name(node.id, at, loop)
        if isinstance(node, ast.BinOp):
            return self._operation(node, at, loop)
        if isinstance(node, ast.Subscript):
            return replace_axis(self.value(node.value, at, loop), _axis(node))
        if isinstance(node, ast.Call):
            head = ast.unparse(node.func)
            if head == "tl.arange" and len(node.args) == 2 and ast.unparse(node.args[0]) == "0":
                return Sum(vecs=(Vec(block=ast.unparse(node.args[1])),))
            if head in SAME and node.args:
                return self.value(node.args[0], at, loop)
            if isinstance(node.func, ast.Attribute) and node.func.attr == "to" and self.is_vector(node.func.value, at):
                return self.value(node.func.value, at, loop)
        if self.is_vector(node, at):
            raise No(f"`{ast.unparse(node)[:60]}` is not a pointer or an index of a known form.")
        return Sum(scalars=(ast.unparse(node),))

    def _name(self, name: str, at: int, loop: cst.For | None) -> Sum:
        bind = self.last(name, at)
        steps = [b for b in self.of(name) if b.op not in ("", "for")]
        if bind is None or bind.value is None or not self.is_vector(bind.value, bind.at):
            plain = bind is None and not any(
                b.value is not None and self.is_vector(b.value, b.at) for b in self.of(name)
            )
            if (plain or bind is not None) and not (steps and loop is None):
                return Sum(scalars=(name,))
            raise No(f"`{name}` has more than one meaning in the kernel.")
        if not steps:
            return self.value(bind.value, bind.at, loop if loop in bind.inside else None)
        if loop is None or any(s.op != "+" or loop not in s.inside or s.at < at for s in steps) or loop in bind.inside:
            raise No(f"`{name}` moves in a way that the rule does not follow.")
        start = self.value(bind.value, bind.at)
        return replace(start, advances=start.advances + tuple(ast.unparse(s.value) for s in steps if s.value))

    def _operation(self, node: ast.BinOp, at: int, loop: cst.For | None) -> Sum:
        left, right = self.value(node.left, at, loop), self.value(node.right, at, loop)
        if not left.vecs and not right.vecs and not left.advances and not right.advances:
            return Sum(scalars=(ast.unparse(node),)) if not isinstance(node.op, ast.Add) else _joined(left, right)
        if isinstance(node.op, ast.Add):
            return _joined(left, right)
        if isinstance(node.op, ast.Mult) and bool(left.vecs) != bool(right.vecs):
            vector, factor = (left, right) if left.vecs else (right, left)
            return _scaled(folded(vector), factor.scalar)
        if isinstance(node.op, ast.Mod) and not right.vecs:
            vec = single(folded(left))
            if vec.stride == "1" and vec.modulo is None and not left.advances:
                return Sum(vecs=(replace(vec, modulo=right.scalar),))
        raise No(f"`{ast.unparse(node)[:60]}` is not a sum of strided ranges.")


def _itself(name: str, node: ast.expr) -> bool:
    """`n = n // 8 * 8`, which tells the compiler of a multiple and changes nothing."""
    match node:
        case ast.BinOp(op=ast.Mult(), right=ast.Constant(value=c), left=ast.BinOp(op=ast.FloorDiv(), left=n, right=d)):
            return ast.unparse(n) == name and ast.unparse(d) == str(c)
    return False


def _own_step(name: str, node: ast.expr) -> ast.expr | None:
    """The step of `x = x + step`, which is `x += step`."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add) and isinstance(node.left, ast.Name):
        return node.right if node.left.id == name else None
    return None


def _joined(a: Sum, b: Sum) -> Sum:
    if len(a.scalars) + len(b.scalars) + len(a.vecs) + len(b.vecs) > TERMS:
        raise No("An address has too many terms to follow.")
    return Sum(scalars=a.scalars + b.scalars, vecs=a.vecs + b.vecs, advances=a.advances + b.advances)


def _scaled(value: Sum, factor: str) -> Sum:
    vec = single(value)
    steps = tuple(times(step, factor) for step in value.advances)
    return Sum(vecs=(replace(vec, stride=times(vec.stride, factor)),), advances=steps)


def single(value: Sum) -> Vec:
    if len(value.vecs) != 1 or value.scalars:
        raise No("An index is not one range with an offset.")
    return value.vecs[0]


def folded(value: Sum) -> Sum:
    """An index whose scalars went into the offset of its one range."""
    if len(value.vecs) == 1 and value.vecs[0].stride == "1" and value.vecs[0].modulo is None and value.scalars:
        vec = value.vecs[0]
        return replace(value, scalars=(), vecs=(replace(vec, offset=plus(*value.scalars, vec.offset)),))
    return value


def replace_axis(value: Sum, axis: int) -> Sum:
    value = folded(value)
    if len(value.vecs) != 1 or value.scalars or value.vecs[0].axis is not None:
        raise No("An index has more than one range.")
    return replace(value, vecs=(replace(value.vecs[0], axis=axis),))


def _axis(node: ast.Subscript) -> int:
    """0 for `[:, None]`, 1 for `[None, :]`."""
    index = node.slice
    if isinstance(index, ast.Tuple) and len(index.elts) == 2:
        slices = [isinstance(e, ast.Slice) and e.lower is None and e.upper is None for e in index.elts]
        nones = [isinstance(e, ast.Constant) and e.value is None for e in index.elts]
        if slices == [True, False] and nones == [False, True]:
            return 0
        if slices == [False, True] and nones == [True, False]:
            return 1
    raise No(f"`{ast.unparse(node)[:60]}` is not `[:, None]` or `[None, :]`.")


def substitute(text: str, mapping: Mapping[str, str]) -> str:
    """Names replaced by expressions; parentheses only where the meaning needs them."""

    class Change(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            return tree(mapping[node.id]) if node.id in mapping else node

    return ast.unparse(Change().visit(tree(text)))


def identifiers(text: str) -> frozenset[str]:
    """The names that a text reads as variables: `tl` of `tl.cdiv` is not one."""
    return frozenset(n.id for n in ast.walk(tree(text)) if isinstance(n, ast.Name)) - {
        "tl",
        "triton",
        "torch",
        "min",
        "max",
    }
