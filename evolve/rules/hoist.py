"""What every tile needs alike is loaded once, before the loop over tiles: a layer's weights, a scale, the indices.

The compiler leaves loads where they are once the loop stores anything. A load is moved only if its tensor is not one
that the kernel stores to, and with it whatever it is made of.
"""

from __future__ import annotations

import ast
import re

import libcst as cst

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.edits import Edits
from evolve.rules.source import Kernel, Launch, Source
from evolve.rules.symbols import Bind, Scope, identifiers

REASON = (
    "Load {names} once before the loop over tiles rather than for every tile: they are the same for all, and each load "
    "of them costs bandwidth of L2 and waits."
)


def rewrite(source: Source, context: Context) -> Applied:
    reasons = []
    for kernel in source.kernels.values():
        try:
            return _hoisted(source, kernel)
        except No as no:
            reasons.append(str(no))
    raise No(reasons[0] if reasons else "There is no kernel.")


def _hoisted(source: Source, kernel: Kernel) -> Applied:
    loop = next((x for x in kernel.node.body.body if isinstance(x, cst.For)), None)
    if loop is None or not source.code(loop.iter).startswith(("tl.range(", "range(")):
        raise No(f"{kernel.name} has no loop at its top.")
    scope = Scope(source, kernel)
    moved = _invariant(scope, loop)
    loads = [b for b in moved if b.value is not None and "tl.load(" in ast.unparse(b.value)]
    if not loads:
        raise No(f"Everything that the loop of {kernel.name} loads depends on its turn.")
    stored = _stored(source, kernel, source.launch_of(kernel))
    for bind in loads:
        written = stored & _params(scope, bind, kernel)
        if written:
            raise No(f"`{bind.name}` is loaded from `{min(written)}`, which the kernel stores to.")
    edits = Edits(source)
    edits.before(loop, "".join(source.module.code_for_node(b.line) for b in moved))
    for bind in moved:
        edits.replace(bind.line, "")
    names = " and ".join(f"`{b.name}`" for b in loads)
    return Applied(source=edits.result(), hypothesis=REASON.format(names=names))


def _invariant(scope: Scope, loop: cst.For) -> list[Bind]:
    """Plain assignments of the loop's own block that read nothing which the loop makes."""
    made = {b.name for b in scope.binds if loop in b.inside}
    found: list[Bind] = []
    for bind in scope.binds:
        if not bind.inside or bind.inside[-1] is not loop or bind.value is None or bind.op:
            continue
        alone = isinstance(bind.line, cst.SimpleStatementLine) and len(bind.line.body) == 1
        once = len(scope.of(bind.name)) == 1
        known = {b.name for b in found}
        if alone and once and not (identifiers(ast.unparse(bind.value)) & made - known):
            found.append(bind)
    return [b for b in found if isinstance(b.line, cst.SimpleStatementLine)]


def _params(scope: Scope, bind: Bind, kernel: Kernel) -> set[str]:
    names = identifiers(scope.resolved(ast.unparse(bind.value), bind.at)) if bind.value is not None else frozenset()
    return set(names & set(kernel.params))


def _stored(source: Source, kernel: Kernel, launch: Launch) -> set[str]:
    """Parameters that may be the tensor of a store or an atomic, by name or by being given the same argument."""
    scope = Scope(source, kernel)
    direct: set[str] = set()
    for at, line, _ in scope.lines:
        code = source.code(line) if isinstance(line, cst.SimpleStatementLine) else ""
        if re.search(r"\.store\(|tl\.atomic_|\.atomic_", code):
            names = {n for small in re.findall(r"[A-Za-z_]\w*", code) for n in identifiers(scope.resolved(small, at))}
            direct |= names & set(kernel.params)
    pointers = {launch.arguments.get(name) for name in direct if name in _pointed(scope, kernel)}
    same = {name for name, given in launch.arguments.items() if given in pointers}
    return (direct & _pointed(scope, kernel)) | same


def _pointed(scope: Scope, kernel: Kernel) -> set[str]:
    """Parameters at the head of an address in a store."""
    heads: set[str] = set()
    for at, line, _ in scope.lines:
        code = scope.source.code(line) if isinstance(line, cst.SimpleStatementLine) else ""
        for first in re.findall(r"(?:tl\.store|tl\.atomic_\w+)\(\s*([A-Za-z_]\w*)", code):
            text = scope.resolved(first, at)
            heads |= {re.split(r"\W", text.lstrip("("))[0]} & set(kernel.params) or set(kernel.params)
        for first in re.findall(r"([A-Za-z_]\w*)\.(?:store|atomic_\w+)\(", code):
            if first != "tl":
                heads |= set(kernel.params)
    return heads


RULE = Rule(
    name="loads before the loop",
    reason=REASON.format(names="what all tiles share"),
    rewrite=rewrite,
    weight=1.9,
    helps=frozenset({"latency", "memory"}),
)
