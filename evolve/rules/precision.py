"""R12: another precision of a product, only where the variant's contract allows it.

float32 operands on tensor cores (tf32, bf16x3) where they may be rounded; fp8 sums in more exact steps, which costs
time and is a remedy for an answer that was not exact enough. `max_num_imprecise_acc=0` would leave the fp8 tensor
cores, so it is never proposed.
"""

from __future__ import annotations

import ast

import libcst as cst

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.edits import Edits
from evolve.rules.match import called, statement
from evolve.rules.source import Kernel, Source, literal
from evolve.rules.symbols import Scope

REASON = "Multiply in {name}, which the contract allows: float32 on tensor cores is many times as fast as without."
EXACT = "Add up fp8 products exactly every {steps} elements: the tensor core's own accumulator has 14 bits."
NAMES = ("tf32", "bf16x3", "tf32x3", "bf16x6")  # the fastest first
FROM = {"bf16x3": (3, 6), "bf16x6": (3, 6)}  # Triton's version
STEPS = (32, 64, 128)


def rewrite(source: Source, context: Context) -> Applied:
    found = [(kernel, *dot) for kernel in source.kernels.values() for dot in _dots(source, kernel)]
    if not found:
        raise No("No kernel of the file multiplies tiles by tl.dot.")
    dtypes = {str(w.params.get("dtype")) for w in context.workloads}
    if dtypes and all(d.startswith("float8") for d in dtypes):
        return _exact(source, found)
    if dtypes and "float32" not in dtypes:
        raise No(f"Operands in {min(dtypes)} are multiplied exactly; there is no precision to choose.")
    allowed = [n for n in NAMES if n in context.allows and context.version >= FROM.get(n, ())]
    if not allowed:
        raise No("The contract allows no other precision of the products than the one there is.")
    return _chosen(source, found, allowed, context)


def _dots(source: Source, kernel: Kernel) -> list[tuple[cst.SimpleStatementLine, ast.stmt, ast.Call]]:
    rows = []
    for _, line, _ in Scope(source, kernel).lines:
        if isinstance(line, cst.SimpleStatementLine) and len(line.body) == 1 and "tl.dot(" in source.code(line):
            node = statement(source, line.body[0])
            calls = [c for c in ast.walk(node) if isinstance(c, ast.Call) and called(c, "tl.dot") is c]
            rows += [(line, node, calls[0])] if len(calls) == 1 else []
    return rows


Dots = list[tuple[Kernel, cst.SimpleStatementLine, ast.stmt, ast.Call]]


def _chosen(source: Source, found: Dots, allowed: list[str], context: Context) -> Applied:
    """The tunable that the dot reads gets another default; a literal is written anew."""
    name = context.random.choice([allowed[0], *allowed])
    edits = Edits(source)
    for kernel, line, node, call in found:
        given = next((k for k in call.keywords if k.arg == "input_precision"), None)
        if given is None:
            raise No("A tl.dot without input_precision is in tf32 already.")
        text = ast.unparse(given.value)
        host = source.launch_of(kernel).arguments.get(text, "")
        if host in source.tunables:
            if source.tunables[host] == name:
                raise No(f"Products are in {name} already.")
            default = next(p.default for p in source.entry.params.kwonly_params if p.name.value == host)
            assert default is not None
            edits.expression(default, f'"{name}"')
        elif isinstance(literal(text), str) and literal(text) != name:
            given.value = ast.Constant(name)
            edits.replace(line, ast.unparse(node) + "\n")
        else:
            raise No(f"`input_precision={text}` is not a literal or a tunable that the rule could set.")
    signature = {"HGMMA": ">0"} if name == "tf32" and context.hopper else {}
    return Applied(source=edits.result(), hypothesis=REASON.format(name=name), signature=signature)


def _exact(source: Source, found: Dots) -> Applied:
    kernel, line, node, call = found[0]
    if len(found) > 1 or any(k.arg == "max_num_imprecise_acc" for k in call.keywords):
        raise No("How fp8 products are added up is said already, or there are several.")
    steps = source.fresh("EXACT_EVERY")
    call.keywords.append(ast.keyword(arg="max_num_imprecise_acc", value=ast.Name(id=steps, ctx=ast.Load())))
    edits = Edits(source)
    edits.replace(line, ast.unparse(node) + "\n")
    edits.constexpr(kernel, source.launch_of(kernel), steps, steps, str(STEPS[-1]))
    edits.tunable(steps, STEPS[-1], STEPS)
    return Applied(source=edits.result(), hypothesis=EXACT.format(steps=STEPS[-1]), signature={"QGMMA": ">0"})


RULE = Rule(name="precision", reason=REASON.format(name="a lower precision"), rewrite=rewrite, weight=2.8)
