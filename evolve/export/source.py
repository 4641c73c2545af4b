"""The library's call out of a problem's file, as source that needs torch and not evolve.

A problem's file imports evolve, a package must not. So what `library=` (and `gradient=`) name in `Problem(...)` is
taken out with everything that it uses of the file: functions, constants, imports. It is read, never run. What is
written with evolve's own nouns cannot be taken out, and is refused by name.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from evolve import syntax
from evolve.errors import ProblemError

HEAD = '''"""What would run without the kernel: the library's call{gradient}, taken from the problem as judged."""

from __future__ import annotations

'''
ORIGINAL = '''def {name}(**arguments: Any) -> Any:
    """The kernel that was there before, called as then."""
    from .{module} import {function} as function

    return function(**arguments)'''
MARK = "declare `library=` in Problem(...): the call that people make today, written with torch alone"


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """`text` is the module; `files` are modules beside the problem that it needs, by name."""

    text: str
    files: dict[str, str] = field(default_factory=dict)
    has_gradient: bool = False


def library_source(path: Path) -> Taken:
    text = path.read_text(encoding="utf-8")
    module = _Module(path, text)
    wanted = {"library": module.keyword("library") or module.first_baseline()}
    gradient = module.keyword("gradient")
    if gradient is not None:
        wanted["gradient"] = gradient
    body = module.taken(wanted)
    head = HEAD.format(gradient=" and its gradient" if gradient is not None else "")
    return Taken(text=head + body, files=module.files, has_gradient=gradient is not None)


class _Module:
    """One file by what its top level binds."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text = path, text
        self.files: dict[str, str] = {}
        self.tree = syntax.parse(text)
        self.bound: dict[str, ast.stmt] = {}
        for statement in self.tree.body:
            for name in _binds(statement):
                self.bound.setdefault(name, statement)

    # --- what is asked for ---

    def _problem(self) -> ast.Call:
        made = self.bound.get("PROBLEM")
        value = made.value if isinstance(made, ast.Assign | ast.AnnAssign) else None
        if not isinstance(value, ast.Call):
            raise ProblemError(f"{self.path}: PROBLEM is not written as Problem(...); export reads its keywords there.")
        return value

    def keyword(self, name: str) -> ast.expr | None:
        value = next((k.value for k in self._problem().keywords if k.arg == name), None)
        return None if isinstance(value, ast.Constant) and value.value is None else value

    def first_baseline(self) -> ast.expr:
        listed = self._resolved(self.keyword("baselines"))
        first = self._resolved(listed.elts[0]) if isinstance(listed, ast.Tuple | ast.List) and listed.elts else None
        call = next((k.value for k in first.keywords if k.arg == "call"), None) if isinstance(first, ast.Call) else None
        if call is None:
            raise ProblemError(f"{self.path}: its first baseline cannot be read off the file; {MARK}.")
        return call

    def _resolved(self, value: ast.expr | None) -> ast.expr | None:
        while isinstance(value, ast.Name):
            made = self.bound.get(value.id)
            value = made.value if isinstance(made, ast.Assign | ast.AnnAssign) else None
        return value

    # --- what it needs ---

    def taken(self, wanted: dict[str, ast.expr]) -> str:
        imports, definitions = self._closure(list(wanted.values()))
        parts = ["\n".join(sorted(imports)), *(self._text(d) for d in definitions)]
        parts += [
            f"{name} = {ast.get_source_segment(self.text, value)}"
            for name, value in wanted.items()
            if not (isinstance(value, ast.Name) and value.id == name)
        ]
        return "\n\n\n".join(part for part in parts if part) + "\n"

    def _closure(self, roots: list[ast.expr]) -> tuple[set[str], list[ast.stmt]]:
        imports: set[str] = set()
        found: list[ast.stmt] = []
        waiting = [pair for root in roots for pair in _names(root)]
        seen: set[str] = set()
        while waiting:
            name, annotation = waiting.pop()
            statement = self.bound.get(name)
            if name in seen or statement is None:
                if statement is None and name not in seen and not hasattr(builtins, name):
                    continue  # a local of a function: its own scope binds it
                continue
            if isinstance(statement, ast.Import | ast.ImportFrom):
                line = self._import(statement, name, annotation)
                if line:
                    imports.add(line)
                    seen.add(name)
                continue
            seen.add(name)
            if statement not in found:
                found.append(statement)
                waiting += [] if _adopted(statement) else _names(statement)
        return imports, sorted(found, key=lambda s: s.lineno)

    def _import(self, statement: ast.Import | ast.ImportFrom, name: str, annotation: bool) -> str:
        alias = next(a for a in statement.names if (a.asname or a.name.split(".")[0]) == name)
        source = (statement.module or "") if isinstance(statement, ast.ImportFrom) else alias.name
        if source.split(".")[0] == "evolve":
            if annotation:
                return ""  # annotations stay text and are never looked up
            raise ProblemError(
                f"{self.path}:{statement.lineno}: the library's call uses `{name}` of {source}, and a package may not "
                f"import evolve; {MARK}."
            )
        renamed = f" as {alias.asname}" if alias.asname else ""
        beside = self.path.parent / f"{source.split('.')[0]}.py"
        if beside.is_file():
            self.files[beside.name] = beside.read_text(encoding="utf-8")
            if isinstance(statement, ast.ImportFrom):
                return f"from .{source} import {alias.name}{renamed}"
            return f"from . import {alias.name}{renamed}"
        if isinstance(statement, ast.ImportFrom):
            return f"from {source} import {alias.name}{renamed}"
        return f"import {alias.name}{renamed}"

    def _own(self, target: str) -> tuple[str, str]:
        """A user's file that the problem adopts, under a name that no other file of the package has; its function."""
        path, _, function = target.rpartition(":")
        file = own_name(path)
        self.files[file] = (self.path.parent / path).read_text(encoding="utf-8")
        return file.removesuffix(".py"), function

    def _text(self, statement: ast.stmt) -> str:
        if adopted := _adopted(statement):
            how, target, names = adopted
            module, function = self._own(target)
            if how == "Original":  # late: it is a Triton kernel, and importing the package must not need Triton
                return ORIGINAL.format(name=names[0], module=module, function=function)
            return f"from . import {module} as {names[0]}\nfrom .{module} import {function} as {names[1]}"
        decorators = getattr(statement, "decorator_list", [])
        first = min([statement.lineno, *(d.lineno for d in decorators)])
        return "\n".join(self.text.splitlines()[first - 1 : statement.end_lineno])


def own_name(path: str) -> str:
    """How it is called in a package, and when that package is written again."""
    name = Path(path).name
    return name if name.startswith("own_") else f"own_{name}"


def _adopted(statement: ast.stmt) -> tuple[str, str, list[str]] | None:
    """`NAME = own.Original(__file__, "FILE:FUNCTION")` or `FILE, NAME = own.load(...)`, as `evolve init` writes them:
    how, the file and function, and the names."""
    if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Call):
        return None
    call, target = statement.value, statement.targets[0]
    how = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if how not in ("Original", "load") or ast.unparse(call.func) != f"own.{how}" or len(call.args) < 2:
        return None
    names = [n.id for n in (target.elts if isinstance(target, ast.Tuple) else [target]) if isinstance(n, ast.Name)]
    value = call.args[1]
    known = isinstance(value, ast.Constant) and isinstance(value.value, str) and len(names) == (how == "load") + 1
    return (how, str(value.value), names) if known and isinstance(value, ast.Constant) else None


def _binds(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        yield from (a.asname or a.name.split(".")[0] for a in statement.names)
    else:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id


def _names(node: ast.AST, annotation: bool = False) -> Iterator[tuple[str, bool]]:
    """Every name that is read, and whether only as an annotation."""
    if isinstance(node, ast.Name):
        yield node.id, annotation
    for field_name, value in ast.iter_fields(node):
        inside = annotation or field_name in ("annotation", "returns")
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _names(child, inside)
