"""What the screen needs to say about one piece of syntax: whether it is a literal, its dotted path, a complaint.

Nothing here evaluates anything, and nothing decides: the rules stand in `screen.py` and `dialect.py`.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field

from evolve.judge import allowed

MAX_INT = 1 << 64
MAX_TEXT = 200
MAX_EXPONENT = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """What the file binds at module level. Constants: True where a jit body may read them (`tl.constexpr`)."""

    imports: frozenset[str]
    kernels: Mapping[str, tuple[str, ...]]  # name -> parameters
    helpers: frozenset[str]
    constants: Mapping[str, bool]


@dataclass(slots=True)
class Complaints:
    """What was found, in any order; `lines` sorts them by place and stops before they drown the reader."""

    found: list[tuple[int, str]] = field(default_factory=list)

    def add(self, node: ast.AST, text: str) -> None:
        self.found.append((getattr(node, "lineno", 0), text))

    def lines(self, most: int = 8) -> str:
        unique = sorted(dict.fromkeys(self.found), key=lambda found: found[0])
        shown = [f"line {line}: {text}" if line else text for line, text in unique[:most]]
        if len(unique) > most:
            shown.append(f"... and {len(unique) - most} more of this kind.")
        return "\n".join(shown)


def unary_value(node: ast.expr) -> ast.expr:
    """-3 is an operator on 3 in the tree; a person calls both a literal."""
    return node.operand if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd) else node


def is_literal(node: ast.expr, *, depth: int = 3) -> bool:
    """A number, a bool, None, text, or a tuple or list of these."""
    if isinstance(node, ast.Tuple | ast.List):
        return depth > 0 and all(is_literal(e, depth=depth - 1) for e in node.elts)
    inner = unary_value(node)
    if not isinstance(inner, ast.Constant):
        return False
    if inner is not node:
        return type(inner.value) in (int, float)
    return inner.value is None or type(inner.value) in (bool, int, float, str)


def is_constexpr(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Attribute) and dotted(node) == ("tl", "constexpr")


def dotted(node: ast.expr) -> tuple[str, ...]:
    """("torch", "empty") for torch.empty; empty where the base is not a bare name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return (node.id, *reversed(parts)) if isinstance(node, ast.Name) else ()


def hint_for(path: str) -> str:
    while path:
        if path in allowed.HINTS:
            return allowed.HINTS[path]
        path = path.rpartition(".")[0]
    return "delete it"


def small_literal(node: ast.expr) -> bool:
    inner = unary_value(node)
    value = inner.value if isinstance(inner, ast.Constant) else None
    return isinstance(value, int | float) and abs(value) <= MAX_EXPONENT


def has_power(node: ast.expr) -> bool:
    return any(isinstance(part, ast.BinOp) and isinstance(part.op, ast.Pow) for part in ast.walk(node))


def brief(node: ast.AST, most: int = 60) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= most else text[: most - 3] + "..."
