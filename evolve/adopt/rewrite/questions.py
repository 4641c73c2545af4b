"""Questions about a piece of syntax, for `cleaning.py`: what it asks of the machine, what is known of it already, which
names it reads and binds. Nothing is changed here."""

from __future__ import annotations

import ast
from collections.abc import Sequence

import libcst as cst

from evolve.adopt.rewrite.reading import File, dotted


def asks(text: str, file: File) -> bool:
    """Whether a check asks what a candidate has no words for, and a problem has settled already."""
    for part in ast.walk(ast.parse(text, mode="eval")):
        if isinstance(part, ast.Call) and dotted(part.func) in ("isinstance", "callable", "hasattr"):
            return True
        if isinstance(part, ast.Attribute):
            if part.attr in ("is_cuda", "requires_grad", "layout", "get_device"):
                return True
            if part.attr == "type" and isinstance(part.value, ast.Attribute) and part.value.attr == "device":
                return True
            if file.path_of(dotted(part)).startswith(("torch.cuda.", "torch.version.")):
                return True
    return False


KNOWN = (ast.Expression, ast.Constant, ast.BoolOp, ast.UnaryOp, ast.Compare, ast.Tuple, ast.Subscript)
KNOWN_OPERATORS = (ast.boolop, ast.unaryop, ast.cmpop, ast.expr_context)


def known_value(text: str) -> bool | None:
    """A test of literals alone, as questions about the machine have become by now."""
    tree = ast.parse(text.strip(), mode="eval")
    if not all(isinstance(node, KNOWN + KNOWN_OPERATORS) for node in ast.walk(tree)):
        return None
    return bool(eval(compile(tree, "", "eval"), {"__builtins__": {}}))


def both(old: cst.BaseExpression, new: cst.BaseExpression) -> list[tuple[cst.BaseExpression, cst.BaseExpression]]:
    """The parts of `a and b and c`, before and after cleaning."""
    pair = isinstance(old, cst.BooleanOperation) and isinstance(old.operator, cst.And)
    if pair and isinstance(old, cst.BooleanOperation) and isinstance(new, cst.BooleanOperation):
        return [*both(old.left, new.left), *both(old.right, new.right)]
    return [(old, new)]


def only_raises(body: cst.BaseSuite) -> bool:
    lines = body.body
    return bool(lines) and all(
        isinstance(line, cst.SimpleStatementLine) and all(isinstance(s, cst.Raise) for s in line.body) for line in lines
    )


def longer(args: Sequence[cst.Arg], text: str) -> list[cst.Arg]:
    new = cst.ensure_type(cst.parse_expression(f"f({text})"), cst.Call).args[0]
    old = list(args)
    if old:
        old[-1] = old[-1].with_changes(comma=cst.Comma(whitespace_after=cst.SimpleWhitespace(" ")))
    return [*old, new]


def bound_in(function: ast.FunctionDef) -> set[str]:
    """Names that a function binds itself."""
    stored = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    return stored | {n.arg for n in ast.walk(function) if isinstance(n, ast.arg)}


def read_in(file: File, names: set[str]) -> set[str]:
    """Global names that these functions read."""
    found: set[str] = set()
    for function in (file.functions[n] for n in names):
        found |= {n.id for s in function.body for n in ast.walk(s) if isinstance(n, ast.Name)} - bound_in(function)
    return found
