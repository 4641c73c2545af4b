"""R13: what a second kernel does to each element of a product is done to the tile before it is stored.

A bias, an activation, a scale, a residual as a launch of their own read the whole product again and write it again. In
the product's kernel they are a few instructions on registers. The value is not rounded to the product's type between
the two any longer, which makes the answer more exact, never less.
"""

from __future__ import annotations

import ast
import re
from collections import Counter

import libcst as cst

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.edits import Edits
from evolve.rules.elementwise import Access, Elementwise, elementwise
from evolve.rules.match import DotLoop, Tile, dot_loop, on_host, stored_tile
from evolve.rules.persistent import grid_of
from evolve.rules.source import Source
from evolve.rules.symbols import substitute
from evolve.rules.undo import drop_tunables

REASON = (
    "Do what `{kernel}` does to each element in the epilogue of `{product}`: one launch and one pass over the output, "
    "read and written again, are saved."
)


def rewrite(source: Source, context: Context) -> Applied:
    if len(source.launches) != 2 or len({x.kernel for x in source.launches}) != 2:
        raise No(f"The entry makes {len(source.launches)} launches; the rule wants a product and one kernel after it.")
    found = dot_loop(source)
    first, launch = source.launches
    if found.launch is not first or any(x.statement not in source.entry.body.body for x in source.launches):
        raise No("The product is not the first of two launches outside of branches.")
    tile = stored_tile(found)
    if re.search(r"\b(?!tl\b)\w+\.store\(", source.code(found.kernel.node)):
        raise No(f"{found.kernel.name} also stores through a descriptor.")
    middle = first.arguments.get(tile.base, "")
    second = elementwise(source, launch, middle)
    edits = Edits(source)
    _one_launch(edits, found, second, middle)
    _epilogue(edits, found, tile, second)
    names = {"kernel": second.kernel.name, "product": found.kernel.name}
    return Applied(source=edits.result(), hypothesis=REASON.format(**names))


# --- On the host ------------------------------------------------------------------------------------------------------


def _one_launch(edits: Edits, found: DotLoop, second: Elementwise, middle: str) -> None:
    """The product writes what the second kernel wrote; both are plain tensors of one shape, made by the entry."""
    source, entry = found.source, found.source.code(found.source.entry)
    out = second.launch.arguments.get(second.store.base, "")
    if middle == out:
        raise No(f"`{out}` is changed in place, and how much of it is not certain.")
    made, own = _made(source, middle), _made(source, out)
    shape = _shape(source, own, middle)
    if shape not in (_shape(source, made, middle), "like"):
        raise No(f"`{out}` does not have the shape of the product, as far as the entry says.")
    grid = grid_of(source, second.launch).line
    gone: list[cst.CSTNode] = [made, second.launch.statement, *([grid] if grid is not None else [])]
    left = _count(entry, middle) - sum(_count(source.code(x), middle) for x in [*gone, own, found.launch.statement])
    if left:
        raise No(f"`{middle}` is used for more than the second kernel.")
    text = source.code(own)
    if shape == "like":
        if re.search(r"dtype\s*=", text):
            raise No(f"`{out}` takes the product's shape and a type of its own.")
        text = re.sub(rf"^{middle} =", f"{out} =", source.code(made))
    body = list(source.entry.body.body)
    if body.index(made) > body.index(found.launch.statement):
        raise No("The product is launched before its output is made.")
    for line in (*gone[1:], own):
        edits.replace(line, "")
    edits.replace(made, text + "\n")
    for arg in found.launch.call.args:
        given = source.code(arg.value)
        if _count(given, middle):
            edits.expression(arg.value, re.sub(rf"\b{middle}\b", out, given))
    edits.replace(second.kernel.node, "")
    words = Counter(re.findall(r"[A-Za-z_]\w*", entry))
    for line in gone[1:]:
        words -= Counter(re.findall(r"[A-Za-z_]\w*", source.code(line)))
    drop_tunables(edits, words)


def _count(text: str, name: str) -> int:
    return len(re.findall(rf"\b{re.escape(name)}\b", text))


def _made(source: Source, name: str) -> cst.SimpleStatementLine:
    found = [
        line
        for line in source.entry.body.body
        if isinstance(line, cst.SimpleStatementLine)
        and len(line.body) == 1
        and re.match(rf"{re.escape(name)} = torch\.empty(_like)?\(", source.code(line))
    ]
    if not name.isidentifier() or len(found) != 1:
        raise No(f"`{name}` is not made by one torch.empty in the entry.")
    return found[0]


def _shape(source: Source, line: cst.SimpleStatementLine, middle: str) -> str:
    text = " ".join(source.code(line).split())
    if re.search(rf"torch\.empty(_like\({middle}\)|_like\({middle},|\({middle}\.shape,)", text):
        return "like"
    found = re.search(r"torch\.empty\((\([^()]*\)), ", text)
    if found is None:
        raise No("The shape of an output is not written out.")
    return found[1].replace(" ", "")


# --- In the kernel ----------------------------------------------------------------------------------------------------


def _epilogue(edits: Edits, found: DotLoop, tile: Tile, second: Elementwise) -> None:
    """The second kernel's computation on the tile, in the place of the product's store."""
    change = _Change(found, tile, second)
    lines = []
    for bind in second.lines:
        assert bind.value is not None
        value = ast.unparse(change.visit(_copy(bind.value)))
        change.names[bind.name] = found.source.fresh(bind.name)
        lines.append(f"{change.names[bind.name]} = {value}")
    call = ast.Call(
        func=tile.call.func,
        args=[tile.call.args[0], change.visit(_copy(second.value))],
        keywords=tile.call.keywords,
    )
    edits.replace(tile.line, "\n".join([*lines, ast.unparse(call)]) + "\n")
    for name, here in change.kept.items():
        given = second.launch.arguments.get(name, second.kernel.defaults.get(name, ""))
        add = edits.constexpr if name in second.kernel.constexprs else edits.scalar
        add(found.kernel, found.launch, here, given)


def _copy(node: ast.expr) -> ast.expr:
    return ast.parse(ast.unparse(node), mode="eval").body


class _Change(ast.NodeTransformer):
    """An expression of the second kernel on the tile: loads by the tile's own index, names out of the way."""

    def __init__(self, found: DotLoop, tile: Tile, second: Elementwise) -> None:
        self.found, self.tile, self.second = found, tile, second
        self.names: dict[str, str] = {}
        self.kept: dict[str, str] = {}  # the second kernel's parameters that are needed -> what they are called here
        mask = next((ast.unparse(k.value) for k in tile.call.keywords if k.arg == "mask"), None)
        self.mask = f", mask={mask}, other=0.0" if mask else ""
        self.rows, self.columns = (f"({v.offset} + tl.arange(0, {v.block}))" for v in tile.axes)
        if tile.extents[0] is None or tile.extents[1] is None:
            raise No("The product's store has no mask that says how large it is.")
        self.extents = (tile.extents[0], tile.extents[1])

    def visit_Call(self, node: ast.Call) -> ast.expr:
        access = self.second.loads.get(ast.unparse(node))
        if access is not None:
            return self._load(access)
        if ast.unparse(node.func) in ("tl.arange", "tl.program_id"):
            raise No("The second kernel computes with its own indices.")
        self.generic_visit(node)
        return node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self.names:
            return ast.Name(id=self.names[node.id], ctx=node.ctx)
        return ast.Name(id=self._param(node.id), ctx=node.ctx) if node.id in self.second.kernel.params else node

    def _param(self, name: str) -> str:
        if name == self.second.store.base:
            return self.tile.base  # the answer takes its type
        return self.kept.setdefault(name, self.found.source.fresh(name))

    def _load(self, access: Access) -> ast.expr:
        given = self.second.launch.arguments
        if access.kind == "one":
            text = f"tl.load({self._param(access.base)})"
        elif access.kind == "whole" and given.get(access.base) == self.found.launch.arguments.get(self.tile.base):
            return _value(self.tile)
        elif access.kind == "whole":
            width = self.extents[1] if access.row_stride is None else self._param(access.row_stride)
            place = f"{self.rows}[:, None] * {width} + {self.columns}[None, :]"
            text = f"tl.load({self._param(access.base)} + {place}{self.mask})"
        else:
            text = self._line(access)
        return ast.parse(text, mode="eval").body

    def _line(self, access: Access) -> str:
        """One element for each column, or for each row."""
        width = on_host(self.found.launch, self.found.kernel, self.extents[1])
        if access.period and substitute(access.period, self.second.launch.arguments) != width:
            raise No(f"`{access.base}` starts again after another number of elements than a row has.")
        column = access.kind == "column"
        index, extent = (self.columns, self.extents[1]) if column else (self.rows, self.extents[0])
        turned = ("[None, :]" if column else "[:, None]") if access.turned else ""
        return f"tl.load({self._param(access.base)} + {index}, mask={index} < {extent}, other=0.0){turned}"


def _value(tile: Tile) -> ast.expr:
    """The product's value before it was rounded for its store."""
    node = tile.call.args[1]
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "to"
        and [ast.unparse(a) for a in node.args] == [f"{tile.base}.dtype.element_ty"]
    ):
        node = node.func.value
    return _copy(node)


RULE = Rule(
    name="fused epilogue",
    reason=REASON.format(kernel="the second kernel", product="the product's kernel"),
    rewrite=rewrite,
    weight=2.9,
    helps=frozenset({"memory", "launch"}),
)
