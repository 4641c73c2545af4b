"""Changes to a candidate that leave the rest of the file alone: comments, names and layout survive.

Edits go through libcst and are collected first, then made all at once. What they mean is not known here; that they stay
inside the EVOLVE-BLOCK is seen to at the end.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any, TypeVar

import libcst as cst

from evolve.rules.base import No
from evolve.rules.source import Kernel, Launch, Source, outside
from evolve.types import Scalar

Listed = TypeVar("Listed", cst.Param, cst.Arg, cst.BaseDictElement)


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
        self._touched: set[int] = set()

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

    def remove(self, node: cst.Param | cst.Arg | cst.BaseDictElement) -> None:
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
        self._touched = self.source.above(id(node) for node in self._kept)
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

    def on_visit(self, node: cst.CSTNode) -> bool:
        """Only the way to what changes is gone; the rest comes back as it is."""
        return id(node) in self._touched

    def on_leave(self, original_node: cst.CSTNode, updated_node: cst.CSTNode) -> object:  # type: ignore[override]
        key = id(original_node)
        if self._removed and isinstance(original_node, cst.Parameters | cst.Call | cst.Dict):
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

    def _without(self, original: cst.Parameters | cst.Call | cst.Dict, updated: cst.CSTNode) -> cst.CSTNode:
        """The list without what is to go; what becomes the last item ends as the last one did."""
        if isinstance(original, cst.Parameters):
            updated = self._shorter(original, updated, "params", "whitespace_after_param")
            return self._shorter(original, updated, "kwonly_params", "whitespace_after_param")
        field = "args" if isinstance(original, cst.Call) else "elements"
        return self._shorter(original, updated, field, "whitespace_after_arg")

    def _shorter(self, original: cst.CSTNode, updated: cst.CSTNode, field: str, trailing: str) -> cst.CSTNode:
        old, new = getattr(original, field), list(getattr(updated, field))
        kept = [item for before, item in zip(old, new, strict=True) if id(before) not in self._removed]
        if len(kept) == len(new):
            return updated
        if kept and id(old[-1]) in self._removed:
            space = {trailing: getattr(new[-1], trailing)} if hasattr(new[-1], trailing) else {}
            kept[-1] = kept[-1].with_changes(comma=new[-1].comma, **space)
        changes: dict[str, Any] = {field: kept}
        if field == "kwonly_params" and not kept:
            changes["star_arg"] = cst.MaybeSentinel.DEFAULT
        return updated.with_changes(**changes)

    def _statements(self, text: str) -> list[cst.CSTNode]:
        """What is to stand there. A comment at its top belongs to its first statement, not to a file of its own."""
        made = cst.parse_module(text, config=self.source.module.config_for_parsing)
        body: list[cst.CSTNode] = list(made.body)
        if made.header and body and isinstance(body[0], cst.SimpleStatementLine | cst.BaseCompoundStatement):
            body[0] = body[0].with_changes(leading_lines=[*made.header, *body[0].leading_lines])
        return body


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
    if not new:
        return new
    lead = getattr(old, "leading_lines", ())
    head = new[0]
    if middle and middle[0] is not head:
        if isinstance(head, cst.FunctionDef) and not head.leading_lines:  # a function stands apart from the one above
            new[0] = head.with_changes(leading_lines=[cst.EmptyLine(indent=False)] * 2)
        return new
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
