"""Pipelining depth of one loop: `tl.range(..., num_stages=LOOP_STAGES)`, a tunable.

Triton pipelines by the kernel's num_stages only loops with a dot. A loop that streams rows is left alone until it asks,
and a dot loop may want another depth than the kernel's. Whether the stages fit is for the build to say where the blocks
are not those of a dot.
"""

from __future__ import annotations

import ast

import libcst as cst

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.edits import Edits
from evolve.rules.match import RANGES
from evolve.rules.source import Kernel, Source
from evolve.rules.symbols import Scope

REASON = "Let the loads of the loop over `{var}` run some iterations ahead: memory latency then hides behind the work."
DEPTHS = (1, 2, 3, 4, 5)


def rewrite(source: Source, context: Context) -> Applied:
    found = [(k, loop) for k in source.kernels.values() for loop in _loops(source, k)]
    if not found:
        raise No("No loop over range with loads in it, whose depth is not the kernel's num_stages already.")
    kernel, loop = context.random.choice(found)
    call = Scope(source, kernel).tree(loop.iter)
    assert isinstance(call, ast.Call)
    stages = source.fresh("LOOP_STAGES")
    others = [f"{k.arg}={ast.unparse(k.value)}" for k in call.keywords if k.arg != "num_stages"]
    parts = [*(ast.unparse(a) for a in call.args), *others, f"num_stages={stages}"]
    edits = Edits(source)
    edits.expression(loop.iter, f"tl.range({', '.join(parts)})")
    edits.constexpr(kernel, source.launch_of(kernel), stages, stages, "1")
    edits.tunable(stages, 3, DEPTHS)
    streams = "tl.dot" not in source.code(loop) and "tl.load" in source.code(loop)
    return Applied(
        source=edits.result(),
        hypothesis=REASON.format(var=source.code(loop.target)),
        signature={"LDGSTS": ">0"} if streams else {},
    )


def _loops(source: Source, kernel: Kernel) -> list[cst.For]:
    """Innermost loops with loads; the one over a dot only where it has no tunable depth yet."""
    scope = Scope(source, kernel)
    loops = [x for _, x, _ in scope.lines if isinstance(x, cst.For)]
    return [loop for loop in loops if _loads(source, loop) and not _has_depth(source, kernel, scope, loop)]


def _loads(source: Source, loop: cst.For) -> bool:
    code = source.code(loop.body)
    head = source.code(loop.iter)
    innermost = "for " not in code
    return innermost and ".load(" in code and any(head.startswith(f"{name}(") for name in RANGES)


def _has_depth(source: Source, kernel: Kernel, scope: Scope, loop: cst.For) -> bool:
    node = scope.tree(loop.iter)
    stated = [k.value for k in node.keywords if k.arg == "num_stages"] if isinstance(node, ast.Call) else []
    if stated:
        return not isinstance(stated[0], ast.Constant)
    launches = [launch for launch in source.launches if launch.kernel == kernel.name]
    tunable = any(launch.options.get("num_stages") in source.tunables for launch in launches)
    return "tl.dot(" in source.code(loop) and tunable


RULE = Rule(
    name="pipelining depth",
    reason=REASON.format(var="k"),
    rewrite=rewrite,
    weight=1.7,
    helps=frozenset({"latency", "memory"}),
)
