"""For kernels bound by memory: no masks where a row is exactly as long as the block that holds it.

The host compares the two once. A mask that is always true costs the compiler what it knows about widths: predicates on
every access, selections in every sum.
"""

from __future__ import annotations

import ast
import re

import libcst as cst

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.edits import Edits
from evolve.rules.match import on_host
from evolve.rules.source import Kernel, Source
from evolve.rules.symbols import Bind, Scope, atom

REASON = (
    "Drop the masks of rows that are exactly as long as their block: accesses stay as wide as they can be, and the "
    "selections in the sums are gone."
)


def rewrite(source: Source, context: Context) -> Applied:
    reasons = []
    for kernel in source.kernels.values():
        try:
            return _whole(source, kernel)
        except No as no:
            reasons.append(str(no))
    raise No(reasons[0] if reasons else "There is no kernel.")


def _whole(source: Source, kernel: Kernel) -> Applied:
    if "tl.dot(" in source.code(kernel.node):
        raise No(f"{kernel.name} multiplies tiles; its masks are another rule's.")
    scope = Scope(source, kernel)
    bind, cols, block, extent = _mask(scope)
    launch = source.launch_of(kernel)
    whole = source.fresh("WHOLE_ROWS")
    edits = Edits(source)
    host = (on_host(launch, kernel, extent), on_host(launch, kernel, block))
    edits.constexpr(kernel, launch, whole, f"{atom(host[0])} == {atom(host[1])}")
    note = "  # always true for whole rows, and the compiler sees it"
    edits.replace(bind.line, f"{bind.name} = {cols} < ({block} if {whole} else {extent}){note}\n")
    return Applied(source=edits.result(), hypothesis=REASON)


def _mask(scope: Scope) -> tuple[Bind, str, str, str]:
    """`inside = cols < width`, by which accesses are masked: its line, the index, its block, the width."""
    code = scope.source.code(scope.kernel.node)
    for bind in scope.binds:
        node = bind.value
        if not (isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.Lt)):
            continue
        alone = isinstance(bind.line, cst.SimpleStatementLine) and len(bind.line.body) == 1
        used = re.search(rf"mask={bind.name}\b", code)
        names = isinstance(node.left, ast.Name) and isinstance(node.comparators[0], ast.Name)
        if not alone or not used or not names or len(scope.of(bind.name)) != 1:
            continue
        try:
            index = scope.value(node.left, bind.at)
        except No:
            continue
        if len(index.vecs) == 1 and not index.scalars and index.vecs[0].offset == "0" and index.vecs[0].stride == "1":
            return bind, ast.unparse(node.left), index.vecs[0].block, ast.unparse(node.comparators[0])
    raise No(f"{scope.kernel.name} has no mask `index < width` of a whole row.")


RULE = Rule(
    name="unmasked rows",
    reason=REASON,
    rewrite=rewrite,
    then=("streaming loads",),
    weight=1.6,
    helps=frozenset({"memory", "latency", "masks"}),
)
