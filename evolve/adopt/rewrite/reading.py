"""A user's file as its parts, and what its names mean. Nothing is changed here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import libcst as cst

from evolve.errors import AdoptError

# What a path is called in a candidate. The longest that fits counts.
CANONICAL = {
    "triton.language.extra.cuda.libdevice": "libdevice",
    "triton.language.extra.libdevice": "libdevice",
    "triton.language.libdevice": "libdevice",
    "triton.language": "tl",
    "triton.tools.tensor_descriptor.TensorDescriptor": "TensorDescriptor",
}
DEVICE_FACTS = ("torch.cuda.get_device_properties", "triton.runtime.driver.active.utils.get_device_properties")


@dataclass(frozen=True)
class File:
    path: Path
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        try:
            return ast.parse(self.text)
        except SyntaxError as error:
            raise AdoptError(f"{self.path}:{error.lineno}: does not parse: {error.msg}.") from error

    @cached_property
    def module(self) -> cst.Module:
        return cst.parse_module(self.text)

    @cached_property
    def functions(self) -> dict[str, ast.FunctionDef]:
        return {n.name: n for n in self.tree.body if isinstance(n, ast.FunctionDef)}

    @cached_property
    def assigned(self) -> dict[str, ast.expr]:
        """Module-level names with one value."""
        found: dict[str, ast.expr] = {}
        for node in self.tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                found |= {t.id: node.value for t in targets if isinstance(t, ast.Name)}
        return found

    @cached_property
    def imported(self) -> dict[str, str]:
        """Local name -> the dotted path that it stands for."""
        found: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    first = alias.name if alias.asname else alias.name.partition(".")[0]
                    found[alias.asname or first] = first
            elif isinstance(node, ast.ImportFrom):
                base = "." * node.level + (node.module or "")
                found |= {a.asname or a.name: f"{base}.{a.name}" for a in node.names}
        return found

    def path_of(self, dotted: str) -> str:
        """`F.relu` as torch.nn.functional.relu, `tl.load` as tl.load: what a candidate calls it."""
        head, _, rest = dotted.partition(".")
        whole = f"{self.imported.get(head, head)}.{rest}".rstrip(".")
        if whole.startswith("triton.language.extra.") and ".libdevice" in whole:
            return "libdevice" + whole.partition(".libdevice")[2]
        for long, short in CANONICAL.items():
            if whole == long or whole.startswith(long + "."):
                return short + whole[len(long) :]
        return whole

    def refuse(self, line: int, why: str) -> AdoptError:
        return AdoptError(f"{self.path}:{line}: {why}")


def dotted(node: ast.expr | cst.BaseExpression) -> str:
    """ "torch.cuda.x", or nothing where the base is no name."""
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    if isinstance(node, cst.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr.value}" if base else ""
    if isinstance(node, ast.Name):
        return node.id
    return node.value if isinstance(node, cst.Name) else ""


def is_query(node: ast.expr, file: File) -> bool:
    """The number of multiprocessors, asked of the device in either of the usual ways."""
    if isinstance(node, ast.Attribute) and node.attr == "multi_processor_count":
        return True
    key = node.slice if isinstance(node, ast.Subscript) else None
    return isinstance(key, ast.Constant) and key.value == "multiprocessor_count"


def asks_device(node: ast.AST, file: File) -> bool:
    paths = (file.path_of(dotted(n)) for n in ast.walk(node) if isinstance(n, ast.Attribute))
    return any(p.startswith(("torch.cuda.", "triton.runtime.")) for p in paths)


@dataclass(slots=True)
class Needed:
    """What the entry reaches, by name. `sms` are names that stand for the number of multiprocessors."""

    functions: list[str] = field(default_factory=list)
    constants: list[str] = field(default_factory=list)
    sms: set[str] = field(default_factory=set)
    kernels: set[str] = field(default_factory=set)


def needed(file: File, entry: str, kernels: set[str]) -> Needed:
    """Functions in the file's order. What only a decorator names is not needed: it is read off the running file."""
    if entry not in file.functions:
        raise AdoptError(f"{file.path}: {entry} is no function at the file's top level; move it there.")
    found = Needed(sms=set(_sms(file)))
    waiting, seen = [entry], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in file.functions and name not in found.sms:
            waiting += _names(file.functions[name])
    found.functions = [n for n in file.functions if n in seen and n not in found.sms]
    found.constants = [n for n in file.assigned if n in seen]
    found.kernels = kernels & set(found.functions)
    _no_strangers(file, found)
    return found


def _names(function: ast.FunctionDef) -> Iterator[str]:
    for part in (*function.body, *function.args.defaults, *(d for d in function.args.kw_defaults if d)):
        yield from (n.id for n in ast.walk(part) if isinstance(n, ast.Name))


def _sms(file: File) -> Iterator[str]:
    for name, value in file.assigned.items():
        if is_query(value, file):
            yield name
    for name, function in file.functions.items():
        body = [s for s in function.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
        last = body[-1] if body else None
        if isinstance(last, ast.Return) and last.value is not None and is_query(last.value, file):
            yield name


def _no_strangers(file: File, found: Needed) -> None:
    """Whatever comes from another file of theirs cannot come along."""
    known = ("torch", "triton", "math", "typing", "functools", "warnings", "logging")
    for name in found.functions:
        for node in ast.walk(file.functions[name]):
            path = file.imported.get(node.id) if isinstance(node, ast.Name) else None
            if path and path.split(".")[0] not in known:
                raise file.refuse(
                    getattr(node, "lineno", 1),
                    f"`{getattr(node, 'id', '')}` comes from {path.rpartition('.')[0] or path}; a candidate is one "
                    "file: put what it needs of that here.",
                )
