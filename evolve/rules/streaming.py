"""For kernels bound by memory: what is read once leaves L2 first, so that what is read again stays.

The hint is a tunable, because where everything fits into L2 it takes away what the next kernel would find there. It has
no effect on loads that are pipelined, which is why loops with a dot are left alone.
"""

from __future__ import annotations

import ast
import re

import libcst as cst

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.edits import Edits
from evolve.rules.source import Kernel, Source
from evolve.rules.symbols import Scope, identifiers

REASON = "Mark {names} as read once (evict first): what streams past then leaves in L2 what every program reads."


def rewrite(source: Source, context: Context) -> Applied:
    reasons = []
    for kernel in source.kernels.values():
        try:
            return _marked(source, kernel)
        except No as no:
            reasons.append(str(no))
    raise No(reasons[0] if reasons else "There is no kernel.")


def _marked(source: Source, kernel: Kernel) -> Applied:
    code = source.code(kernel.node)
    if "tl.dot(" in code:
        raise No(f"{kernel.name} pipelines its loads, where such hints have no effect.")
    if "eviction_policy" in code:
        raise No(f"{kernel.name} already says what leaves L2 first.")
    scope = Scope(source, kernel)
    own = [
        b for b in scope.binds if b.value is not None and "tl.load(" in ast.unparse(b.value) and _own(scope, b.value)
    ]
    if not own:
        raise No(f"{kernel.name} loads nothing that only one program reads.")
    edits, policy = Edits(source), source.fresh("EVICTION")
    for bind in own:
        if not isinstance(bind.line, cst.SimpleStatementLine) or len(bind.line.body) != 1:
            raise No("A load shares its line with something else.")
        text = source.code(bind.line)
        if text.count("tl.load(") != 1:
            raise No("A line holds several loads.")
        edits.replace(bind.line, _hinted(text, policy) + "\n")
    edits.constexpr(kernel, source.launch_of(kernel), policy, policy, '""')
    edits.tunable(policy, "evict_first", ("evict_first", ""))
    names = " and ".join(f"`{b.name}`" for b in own)
    return Applied(source=edits.result(), hypothesis=REASON.format(names=names))


def _own(scope: Scope, node: ast.expr) -> bool:
    """The address is made from the program's own number."""
    seen: set[str] = set()
    queue = [ast.unparse(node)]
    while queue:
        text = queue.pop()
        if "tl.program_id(" in text:
            return True
        names = identifiers(text) - seen
        seen |= names
        binds = [b for name in names for b in scope.of(name)]
        queue += [ast.unparse(b.value) for b in binds if b.value is not None]
        queue += [scope.source.code(b.line.iter) for b in binds if b.op == "for" and isinstance(b.line, cst.For)]
    return False


def _hinted(text: str, policy: str) -> str:
    """One more keyword at the end of the call of tl.load."""
    start = text.index("tl.load(") + len("tl.load(")
    depth, end = 1, start
    while depth:
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        end += 1
    inner = re.sub(r",\s*$", "", text[start : end - 1])
    return f"{text[:start]}{inner}, eviction_policy={policy}{text[end - 1 :]}"


RULE = Rule(
    name="streaming loads",
    reason=REASON.format(names="rows"),
    rewrite=rewrite,
    weight=1.2,
    helps=frozenset({"memory"}),
)
