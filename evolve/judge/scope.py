"""What a name means in a function: its own, the file's, on the list, or none of these.

`scope.name` and `scope.attribute` say what is wrong with a use, or nothing. Which constructs may stand where is for
`dialect.py`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from evolve.judge import allowed
from evolve.judge.literals import Complaints, Names, dotted, hint_for

READS = {
    True: "jit code uses to, dtype, shape, T, trans, reshape, permute, split, load, store and the reductions",
    False: "host code uses shape, stride(), dtype, device, view, reshape, T, transpose, permute, numel and the like",
}


def bound_names(function: ast.FunctionDef) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(function):
        if isinstance(node, ast.arg):
            yield node, node.arg
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node, node.id


def check_binding(node: ast.AST, name: str, names: Names, complaints: Complaints) -> None:
    """No name that matters may mean something else in one place, and none may open a door of the interpreter's."""
    if name.startswith("__"):
        complaints.add(node, f"`{name}`: names that begin with two underscores are the interpreter's; choose another.")
    elif not name.isascii():
        complaints.add(node, f"the name {name!a} is not plain ASCII; write it with a-z, 0-9 and _.")
    elif name in names.imports or name in names.kernels or name in names.helpers or name in ("TUNE", *allowed.MODULES):
        complaints.add(node, f"`{name}` is bound again here; it names something at module level: choose another name.")
    elif name in allowed.UNBINDABLE:
        complaints.add(node, f"`{name}` is Python's or Triton's own and may not be rebound; choose another name.")


class Scope:
    """The names of one function."""

    def __init__(self, function: ast.FunctionDef, names: Names, complaints: Complaints, *, jit: bool) -> None:
        self.names = names
        self.jit = jit
        self.complaints = complaints
        self.word = "jit code" if jit else "host code"
        self.paths = allowed.JIT_PATHS if jit else allowed.HOST_PATHS
        self.attributes = allowed.JIT_ATTRIBUTES if jit else allowed.HOST_ATTRIBUTES
        self.locals: set[str] = set()
        for node, name in bound_names(function):
            check_binding(node, name, names, complaints)
            self.locals.add(name)

    def name(self, node: ast.Name) -> None:
        name = node.id
        if name in self.locals:
            return
        if name in self.names.constants:
            if self.jit and not self.names.constants[name]:
                self.complaints.add(
                    node,
                    f'the kernel reads global "{name}", which is not a tl.constexpr. Triton would refuse it at the '
                    f"first launch. Write `{name} = tl.constexpr(...)` at module level, or pass it as a parameter.",
                )
            return
        self.complaints.add(node, self.unknown(name))

    def unknown(self, name: str) -> str:
        if name in self.names.kernels:
            use = f"call it as {name}(...)" if self.jit else f"launch it as {name}[grid](...)"
            return f"`{name}` is a jit function and not a value; {use}."
        if name in self.names.helpers:
            if self.jit:
                return f"`{name}` is a host function; a kernel calls functions decorated with @triton.jit."
            return f"`{name}` is a function and not a value; call it."
        if name in self.names.imports:
            return f"bare `{name}`; name what you need of it, such as {name}.<function>."
        if name in allowed.BUILTINS:
            return f"`{name}` without a call; call it as {name}(...)."
        if name in allowed.MODULES:
            statement = next(s for s, bound in allowed.IMPORTS.items() if bound == name)
            return f"`{name}` is not imported; add `{statement}`."
        advice = allowed.NAME_HINTS.get(name, "use your own names, or " + ", ".join(sorted(allowed.BUILTINS)))
        return f"`{name}` is not defined in this file and not on the list; {advice}."

    def attribute(self, node: ast.Attribute) -> bool:
        """Whether its base is an expression of its own, which remains to be read."""
        path = dotted(node)
        if path and path[0] not in self.locals and (path[0] in self.names.imports or path[0] in allowed.MODULES):
            self.listed(node, path)
            return False
        if path and path[0] not in self.locals and (path[0] in self.names.kernels or path[0] in self.names.helpers):
            self.complaints.add(node, f"`{'.'.join(path)}`: a function has no attributes here; launch or call it.")
            return False
        if isinstance(node.value, ast.Constant | ast.JoinedStr):
            self.complaints.add(node, f"`.{node.attr}` of a literal; write the value out.")
            return False
        return True

    def listed(self, node: ast.AST, path: tuple[str, ...]) -> None:
        if path[0] not in self.names.imports:
            self.complaints.add(node, self.unknown(path[0]))
            return
        name = ".".join(path)
        if name in self.paths:
            return
        base, _, last = name.rpartition(".")
        if base in self.paths and base.rpartition(".")[2] in allowed.DTYPES | allowed.TL_DTYPES:
            self.member(node, last)
            return
        elsewhere = allowed.HOST_PATHS if self.jit else allowed.JIT_PATHS
        if name in elsewhere:
            place = "the host function" if self.jit else "a kernel"
            self.complaints.add(node, f"`{name}` in {self.word}; it belongs in {place}.")
        else:
            self.complaints.add(node, f"`{name}` is not on the list; {hint_for(name)}.")

    def member(self, node: ast.AST, attribute: str) -> None:
        if attribute not in self.attributes:
            hidden = "names that begin with an underscore are private; delete it"
            fallback = hidden if attribute.startswith("_") else READS[self.jit]
            advice = allowed.ATTRIBUTE_HINTS.get(attribute, fallback)
            self.complaints.add(node, f"`.{attribute}` is not on the list; {advice}.")
