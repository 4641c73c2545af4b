"""A candidate as its parts: kernels, the entry, its launches, `TUNE`; and edits that leave the rest of the file alone.

Edits go through libcst, so that comments, names and layout survive. Expressions are read with `ast`, which is easier
to reason about and never written back. What the parts compute is not known here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar

import libcst as cst

from evolve.rules.base import No
from evolve.types import Scalar

MARKERS = ("EVOLVE-BLOCK-START", "EVOLVE-BLOCK-END")
Line: TypeAlias = cst.SimpleStatementLine | cst.BaseCompoundStatement
Listed = TypeVar("Listed", cst.Param, cst.Arg, cst.BaseDictElement)


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

    def code(self, node: cst.CSTNode) -> str:
        return self.module.code_for_node(node).strip()

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


class Edits(cst.CSTTransformer):
    """Collects changes to a source and makes them all at once. A replaced statement must not be edited inside."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.source = source
        self._replaced: dict[int, str] = {}
        self._before: dict[int, list[str]] = {}
        self._after: dict[int, list[str]] = {}
        self._expressions: dict[int, str] = {}
        self._removed: set[int] = set()
        self._appended: dict[int, list[str]] = {}
        self._kept: list[cst.CSTNode] = []  # ids are only good while the nodes live

    def replace(self, line: cst.CSTNode, text: str) -> None:
        self._kept.append(line)
        self._replaced[id(line)] = text

    def before(self, line: cst.CSTNode, text: str) -> None:
        self._kept.append(line)
        self._before.setdefault(id(line), []).append(text)

    def after(self, line: cst.CSTNode, text: str) -> None:
        self._kept.append(line)
        self._after.setdefault(id(line), []).append(text)

    def expression(self, node: cst.BaseExpression, text: str) -> None:
        self._kept.append(node)
        self._expressions[id(node)] = text

    def remove(self, node: cst.Param | cst.Arg) -> None:
        self._kept.append(node)
        self._removed.add(id(node))

    def append(self, holder: cst.Parameters | cst.Call | cst.Dict, text: str) -> None:
        """A kernel parameter, a keyword of a call, an entry of a dict."""
        self._kept.append(holder)
        self._appended.setdefault(id(holder), []).append(text)

    def constexpr(self, kernel: Kernel, launch: Launch, name: str, value: str, absent: str = "False") -> None:
        """One more constexpr parameter, which the launch fills by keyword."""
        params = kernel.node.params
        if params.kwonly_params or isinstance(params.star_arg, cst.Param) or params.star_kwarg or params.posonly_params:
            raise No(f"{kernel.name} has starred or keyword-only parameters; the rule adds only to plain ones.")
        default = f" = {absent}" if any(p.default is not None for p in params.params) else ""
        self.append(params, f"{name}: tl.constexpr{default}")
        self.append(launch.call, f"{name}={value}")

    def scalar(self, kernel: Kernel, launch: Launch, name: str, value: str) -> None:
        """One more run-time parameter, which the launch fills by keyword."""
        default = "=0" if any(p.default is not None for p in kernel.node.params.params) else ""
        self.append(kernel.node.params, f"{name}{default}")
        self.append(launch.call, f"{name}={value}")

    def tunable(self, name: str, default: Scalar, space: Sequence[Scalar] = ()) -> None:
        """One more keyword-only parameter of the entry, with its space in TUNE."""
        self.append(self.source.entry.params, f"*{name}={default!r}")
        tune = self.source.tune
        if tune is not None and space:
            self.append(tune, f'"{name}": {tuple(space)!r}')

    def result(self) -> str:
        try:
            text = self.source.module.visit(self).code
            ast.parse(text)
        except (cst.CSTValidationError, cst.ParserSyntaxError, SyntaxError, ValueError) as error:
            raise No(f"The rewrite does not fit this file ({type(error).__name__}).") from error
        if outside(text) != outside(self.source.text):
            raise No("The rewrite would touch lines outside the EVOLVE-BLOCK.")
        if text == self.source.text:
            raise No("The rewrite changes nothing here.")
        return text

    def on_leave(self, original_node: cst.CSTNode, updated_node: cst.CSTNode) -> object:  # type: ignore[override]
        key = id(original_node)
        if self._removed and isinstance(original_node, cst.Parameters | cst.Call):
            updated_node = self._without(original_node, updated_node)
        if key in self._expressions:
            return cst.parse_expression(self._expressions[key])
        if key in self._appended:
            for text in self._appended[key]:
                updated_node = _append(updated_node, text)
        around = key in self._before or key in self._after
        if not around and key not in self._replaced:
            return updated_node
        middle = [updated_node]
        if key in self._replaced:
            middle = _with_remark(self._statements(self._replaced[key]), original_node, self._replaced[key])
        first = [s for text in self._before.get(key, ()) for s in self._statements(text)]
        last = [s for text in self._after.get(key, ()) for s in self._statements(text)]
        return cst.FlattenSentinel(_with_lead([*first, *middle, *last], original_node, middle))

    def _without(self, original: cst.Parameters | cst.Call, updated: cst.CSTNode) -> cst.CSTNode:
        """The list without what is to go; what becomes the last item ends as the last one did."""
        field = "params" if isinstance(original, cst.Parameters) else "args"
        old, new = getattr(original, field), list(getattr(updated, field))
        kept = [item for before, item in zip(old, new, strict=True) if id(before) not in self._removed]
        if len(kept) == len(new) or not kept:
            return updated.with_changes(**{field: kept}) if len(kept) != len(new) else updated
        if id(old[-1]) in self._removed:
            trailing = "whitespace_after_param" if field == "params" else "whitespace_after_arg"
            kept[-1] = kept[-1].with_changes(comma=new[-1].comma, **{trailing: getattr(new[-1], trailing)})
        return updated.with_changes(**{field: kept})

    def _statements(self, text: str) -> list[cst.CSTNode]:
        return list(cst.parse_module(text, config=self.source.module.config_for_parsing).body)


def _with_remark(new: list[cst.CSTNode], old: cst.CSTNode, text: str) -> list[cst.CSTNode]:
    """The comment behind a replaced line stays, above what came in its place."""
    remark = old.trailing_whitespace.comment if isinstance(old, cst.SimpleStatementLine) else None
    if remark is None or not new or remark.value in text:
        return new
    head = new[0]
    if isinstance(head, cst.SimpleStatementLine | cst.BaseCompoundStatement):
        lead = [*getattr(old, "leading_lines", ()), cst.EmptyLine(comment=remark)]
        new[0] = head.with_changes(leading_lines=lead)
    return new


def _with_lead(new: list[cst.CSTNode], old: cst.CSTNode, middle: list[cst.CSTNode]) -> list[cst.CSTNode]:
    """Comments and blank lines above the old statement stay above what came in its place."""
    if (middle and middle[0] is not new[0]) or not new:
        return new
    lead = getattr(old, "leading_lines", ())
    head = new[0]
    if isinstance(head, cst.SimpleStatementLine | cst.BaseCompoundStatement) and lead and not head.leading_lines:
        new[0] = head.with_changes(leading_lines=lead)
    return new


def _append(holder: cst.CSTNode, text: str) -> cst.CSTNode:
    if isinstance(holder, cst.Call):
        arg = cst.ensure_type(cst.parse_expression(f"f({text})"), cst.Call).args[0]
        return holder.with_changes(args=_longer(holder.args, arg))
    if isinstance(holder, cst.Dict):
        element = cst.ensure_type(cst.parse_expression(f"{{{text}}}"), cst.Dict).elements[0]
        return holder.with_changes(elements=_longer(holder.elements, element))
    assert isinstance(holder, cst.Parameters)
    if text.startswith("*"):
        made = _parameters(f"*, {text[1:]}").kwonly_params[0]
        star = holder.star_arg if holder.kwonly_params else cst.ParamStar()
        return holder.with_changes(star_arg=star, kwonly_params=_longer(holder.kwonly_params, made))
    return holder.with_changes(params=_longer(holder.params, _parameters(text).params[0]))


def _parameters(text: str) -> cst.Parameters:
    return cst.ensure_type(cst.parse_statement(f"def f({text}): pass"), cst.FunctionDef).params


def _longer(items: Sequence[Listed], new: Listed) -> list[Any]:
    """The list with one more item, laid out as its last lines are: the comment behind an item stays with it."""
    if not items:
        return [new]
    last = items[-1]
    between = items[-2].comma if len(items) > 1 else None
    lead = between.whitespace_after if isinstance(between, cst.Comma) else cst.SimpleWhitespace(" ")
    if isinstance(lead, cst.ParenthesizedWhitespace):
        lead = lead.with_changes(first_line=lead.first_line.with_changes(comment=None))
    end = last.comma
    if isinstance(end, cst.Comma):
        space = end.whitespace_after
        if isinstance(space, cst.ParenthesizedWhitespace) and isinstance(lead, cst.ParenthesizedWhitespace):
            lead = lead.with_changes(first_line=space.first_line)
            end = end.with_changes(whitespace_after=space.with_changes(first_line=cst.TrailingWhitespace()))
    trailing = "whitespace_after_param" if isinstance(last, cst.Param) else "whitespace_after_arg"
    if hasattr(last, trailing):
        new = new.with_changes(comma=end, **{trailing: getattr(last, trailing)})
        last = last.with_changes(**{trailing: cst.SimpleWhitespace("")})
    else:
        new = new.with_changes(comma=end)
    moved = last.with_changes(comma=cst.Comma(whitespace_after=lead))
    return [*items[:-1], moved, new]


def outside(text: str) -> str:
    """What no rewrite may touch: everything but the lines between the markers; nothing where there are none."""
    start, end = (text.find(marker) for marker in MARKERS)
    return "" if start < 0 or end < start else text[:start] + "\0" + text[end:]
