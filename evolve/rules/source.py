"""A candidate as its parts: kernels, the entry, its launches, `TUNE`.

The tree is libcst's, so that `edits.py` can change it and give the rest back byte for byte. Expressions are read with
`ast`, which is easier to reason about and never written back. What the parts compute is not known here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeAlias

import libcst as cst

from evolve.rules.base import No
from evolve.types import Scalar

MARKERS = ("EVOLVE-BLOCK-START", "EVOLVE-BLOCK-END")
Line: TypeAlias = cst.SimpleStatementLine | cst.BaseCompoundStatement


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    node: cst.FunctionDef
    name: str
    params: tuple[str, ...]
    constexprs: frozenset[str]
    defaults: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """One `kernel[grid](...)`. `arguments` gives each kernel parameter's text on the host; `options` the rest."""

    statement: cst.SimpleStatementLine
    call: cst.Call
    kernel: str
    grid: cst.BaseExpression
    arguments: Mapping[str, str]
    options: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    text: str
    module: cst.Module
    kernels: Mapping[str, Kernel]
    entry: cst.FunctionDef
    launches: tuple[Launch, ...]
    names: frozenset[str]  # every identifier in the file, so that new ones can stay clear of them
    # Every rule reads the same parent: texts of nodes and their parents are found once. Ids hold as long as the module.
    _texts: dict[int, str] = field(default_factory=dict, compare=False, repr=False)
    _parents: dict[int, int] = field(default_factory=dict, compare=False, repr=False)

    def code(self, node: cst.CSTNode) -> str:
        found = self._texts.get(id(node))
        if found is None:
            found = self._texts[id(node)] = self.module.code_for_node(node).strip()
        return found

    def above(self, nodes: Iterable[int]) -> set[int]:
        """The nodes that hold these, and these themselves."""
        if not self._parents:
            queue: list[cst.CSTNode] = [self.module]
            while queue:
                node = queue.pop()
                for child in node.children:
                    self._parents[id(child)] = id(node)
                    queue.append(child)
        found: set[int] = set()
        for key in nodes:
            while key not in found:
                found.add(key)
                key = self._parents.get(key, key)
        return found

    def fresh(self, wanted: str) -> str:
        name, n = wanted, 2
        while name in self.names:
            name, n = f"{wanted}_{n}", n + 1
        return name

    def launch_of(self, kernel: Kernel) -> Launch:
        found = [launch for launch in self.launches if launch.kernel == kernel.name]
        if len(found) != 1:
            raise No(f"{kernel.name} is launched {len(found)} times in the entry; the rule handles one launch.")
        return found[0]

    @property
    def tunables(self) -> Mapping[str, Scalar]:
        """The entry's keyword-only parameters with literal defaults."""
        found = {}
        for param in self.entry.params.kwonly_params:
            value = literal(self.code(param.default)) if param.default is not None else None
            if isinstance(value, bool | int | float | str):
                found[param.name.value] = value
        return found

    @property
    def tune(self) -> cst.Dict | None:
        for line in self.module.body:
            for small in line.body if isinstance(line, cst.SimpleStatementLine) else ():
                if (
                    isinstance(small, cst.Assign)
                    and isinstance(small.targets[0].target, cst.Name)
                    and small.targets[0].target.value == "TUNE"
                    and isinstance(small.value, cst.Dict)
                ):
                    return small.value
        return None


@lru_cache(maxsize=8)  # every rule reads the same parent, some of them often
def parse(text: str) -> Source:
    try:
        module = cst.parse_module(text)
        names = frozenset(n.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name))
    except (cst.ParserSyntaxError, SyntaxError, ValueError, RecursionError) as error:
        raise No(f"The file does not parse ({type(error).__name__}).") from error
    names |= frozenset(re.findall(r"[A-Za-z_]\w*", text))
    functions = [node for node in module.body if isinstance(node, cst.FunctionDef)]
    kernels = {f.name.value: _kernel(f, module) for f in functions if _is_jit(f, module)}
    hosts = [f for f in functions if not f.decorators]
    found = [(f, tuple(_launches(f, kernels, module))) for f in hosts]
    found = [(f, launches) for f, launches in found if launches]
    if len(found) != 1:
        raise No(f"{len(found)} host functions launch kernels; the rule handles exactly one entry with its launches.")
    entry, launches = found[0]
    return Source(text=text, module=module, kernels=kernels, entry=entry, launches=launches, names=names)


def tree(text: str) -> ast.expr:
    """An expression as `ast` sees it. The parentheses let it span lines."""
    try:
        return ast.parse(f"({text}\n)", mode="eval").body
    except (SyntaxError, ValueError, RecursionError) as error:
        raise No("An expression does not parse on its own.") from error


def literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None


def _is_jit(function: cst.FunctionDef, module: cst.Module) -> bool:
    return any(module.code_for_node(d.decorator).strip() in ("triton.jit", "jit") for d in function.decorators)


def _kernel(function: cst.FunctionDef, module: cst.Module) -> Kernel:
    params = function.params
    constexprs = {
        p.name.value
        for p in params.params
        if p.annotation is not None and "constexpr" in module.code_for_node(p.annotation.annotation)
    }
    return Kernel(
        node=function,
        name=function.name.value,
        params=tuple(p.name.value for p in params.params),
        constexprs=frozenset(constexprs),
        defaults={p.name.value: module.code_for_node(p.default) for p in params.params if p.default is not None},
    )


def _launches(host: cst.FunctionDef, kernels: Mapping[str, Kernel], module: cst.Module) -> Iterator[Launch]:
    for line in lines_of(host.body):
        if not isinstance(line, cst.SimpleStatementLine):
            continue
        for small in line.body:
            if isinstance(small, cst.Expr) and isinstance(small.value, cst.Call):
                launch = _launch(line, small.value, kernels, module)
                if launch is not None:
                    yield launch


def _launch(
    line: cst.SimpleStatementLine, call: cst.Call, kernels: Mapping[str, Kernel], module: cst.Module
) -> Launch | None:
    head = call.func
    if not (isinstance(head, cst.Subscript) and isinstance(head.value, cst.Name) and head.value.value in kernels):
        return None
    index = head.slice[0].slice
    if len(head.slice) != 1 or not isinstance(index, cst.Index) or any(arg.star for arg in call.args):
        return None
    kernel = kernels[head.value.value]
    arguments: dict[str, str] = {}
    options: dict[str, str] = {}
    for i, arg in enumerate(call.args):
        text = module.code_for_node(arg.value).strip()
        if arg.keyword is None:
            if i >= len(kernel.params):
                return None
            arguments[kernel.params[i]] = text
        elif arg.keyword.value in kernel.params:
            arguments[arg.keyword.value] = text
        else:
            options[arg.keyword.value] = text
    return Launch(statement=line, call=call, kernel=kernel.name, grid=index.value, arguments=arguments, options=options)


def first_line(kernel: Kernel) -> cst.CSTNode:
    """Where the kernel's code begins, behind its docstring."""
    lines = list(kernel.node.body.body)
    head = lines[0]
    if isinstance(head, cst.SimpleStatementLine) and isinstance(head.body[0], cst.Expr) and len(lines) > 1:
        return lines[1] if isinstance(head.body[0].value, cst.SimpleString | cst.ConcatenatedString) else head
    return head


def lines_of(block: cst.BaseSuite) -> Iterator[Line]:
    """Every statement of a block in order, those of inner blocks after the statement that holds them."""
    for line in block.body:
        if isinstance(line, cst.SimpleStatementLine | cst.BaseCompoundStatement):
            yield line
        for inner in suites(line):
            yield from lines_of(inner)


def suites(line: cst.CSTNode) -> list[cst.BaseSuite]:
    found: list[cst.BaseSuite] = []
    if isinstance(line, cst.For | cst.While | cst.If | cst.With | cst.Else):
        found.append(line.body)
    if isinstance(line, cst.For | cst.While | cst.If) and line.orelse is not None:
        found += suites(line.orelse)
    return found


def outside(text: str) -> str:
    """What no rewrite may touch: everything but the lines between the markers; nothing where there are none."""
    start, end = (text.find(marker) for marker in MARKERS)
    return "" if start < 0 or end < start else text[:start] + "\0" + text[end:]
