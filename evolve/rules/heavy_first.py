"""R8 for causal work: the programs with the longest loops start first, so that the last wave is not the slowest.

The order is turned over by a tunable, because where all programs do the same it changes only what is in L2.
"""

from __future__ import annotations

import ast

import libcst as cst

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.edits import Edits
from evolve.rules.source import Kernel, Source
from evolve.rules.symbols import Bind, Scope

REASON = "Start the programs with the longest loops first, so that the last wave is made of the shortest."
FIRST = ("tl.program_id(0)", "tl.program_id(axis=0)")


def rewrite(source: Source, context: Context) -> Applied:
    reasons = []
    for kernel in source.kernels.values():
        try:
            return _turned(source, kernel)
        except No as no:
            reasons.append(str(no))
    raise No(reasons[0] if reasons else "There is no kernel.")


def _turned(source: Source, kernel: Kernel) -> Applied:
    code = source.code(kernel.node)
    if sum(code.count(spelling) for spelling in FIRST) != 1:
        raise No(f"{kernel.name} does not take its block from one tl.program_id(0).")
    if "tl.num_programs(0)" in code:
        raise No(f"{kernel.name} already orders its programs.")
    scope = Scope(source, kernel)
    holder = next((b for b in scope.binds if _spelled(b)), None)
    if holder is None or holder.inside or not isinstance(holder.line, cst.SimpleStatementLine) or holder.value is None:
        raise No(f"The program id of {kernel.name} is not used in a plain assignment at its top.")
    if not _grows(scope):
        raise No(f"No loop of {kernel.name} is longer for later programs, so that their order does not matter.")
    block, switch = source.fresh("place"), source.fresh("HEAVY_FIRST")
    edits = Edits(source)
    launch = source.launch_of(kernel)
    edits.constexpr(kernel, launch, switch, switch)
    edits.tunable(switch, True, (True, False))
    spelled = next(x for x in FIRST if x in ast.unparse(holder.value))
    text = source.code(holder.line)
    if spelled not in text:
        raise No("The program id is written in a way that the rule does not follow.")
    lines = [
        f"{block} = tl.program_id(0)",
        f"if {switch}:",
        f"    {block} = tl.num_programs(0) - 1 - {block}",
        text.replace(spelled, block),
    ]
    edits.replace(holder.line, "\n".join(lines) + "\n")
    return Applied(source=edits.result(), hypothesis=REASON)


def _spelled(bind: Bind) -> bool:
    return bind.op == "" and bind.value is not None and any(x in ast.unparse(bind.value) for x in FIRST)


def _grows(scope: Scope) -> bool:
    """Some loop's end is made from the program's own number."""
    for _, line, _ in scope.lines:
        call = scope.tree(line.iter) if isinstance(line, cst.For) else None
        if isinstance(call, ast.Call) and call.args and _from_program(scope, call.args[min(1, len(call.args) - 1)]):
            return True
    return False


def _from_program(scope: Scope, node: ast.expr) -> bool:
    seen: set[str] = set()
    queue: list[ast.expr] = [node]
    while queue:
        item = queue.pop()
        if any(x in ast.unparse(item) for x in FIRST):
            return True
        names = {n.id for n in ast.walk(item) if isinstance(n, ast.Name)} - seen
        seen |= names
        queue += [b.value for name in names for b in scope.of(name) if b.value is not None]
    return False


RULE = Rule(
    name="heaviest first", reason=REASON, rewrite=rewrite, weight=1.8, helps=frozenset({"compute", "ragged waves"})
)
