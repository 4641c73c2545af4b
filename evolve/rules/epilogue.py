"""R6: the output tile leaves in halves or quarters, so that staging it takes as much less shared memory.

Only where the tile is stored through a descriptor, which stages it in shared memory; what is freed can hold another
stage of the loop, which the parameters rule or the tuner will find.
"""

from __future__ import annotations

import ast
from collections.abc import Callable

import libcst as cst

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.edits import Edits
from evolve.rules.source import Kernel, Source
from evolve.rules.symbols import Scope

REASON = (
    "Store the output tile in two or four parts: staging then takes less shared memory, which a further stage can use."
)


def rewrite(source: Source, context: Context) -> Applied:
    reasons = []
    for kernel in source.kernels.values():
        try:
            return _halved(source, kernel, context)
        except No as no:
            reasons.append(str(no))
    raise No(reasons[0] if reasons else "There is no kernel.")


def _halved(source: Source, kernel: Kernel, context: Context) -> Applied:
    scope = Scope(source, kernel)
    code = source.code(kernel.node)
    if "split(" in code:
        raise No(f"{kernel.name} already splits its tile.")
    if "warp_specialize=" in code and context.version < (3, 7):
        raise No("Before Triton 3.7 the compiler crashes on a split epilogue with warp specialization.")
    line, call, name = _stored(scope)
    made = [b for b in scope.of(name) if isinstance(b.value, ast.Call)]
    if len(made) != 1 or len(scope.of(name)) != 1:
        raise No(f"`{name}` is made in more than one way.")
    rows, columns, block = _blocks(source, made[0].line)
    offsets = call.args[0]
    if not (isinstance(offsets, ast.List | ast.Tuple) and len(offsets.elts) == 2):
        raise No("The tile is not stored at two offsets.")
    x, y = (ast.unparse(e) for e in offsets.elts)
    value = ast.unparse(call.args[1])
    parts = source.fresh("EPILOGUE_SUBTILES")
    edits = Edits(source)
    edits.expression(block, f"{columns} // {parts}")
    lines = _parts(
        source, parts, rows, columns, value, lambda i, n, v: f"{name}.store([{x}, {_shifted(y, i, n, columns)}], {v})"
    )
    edits.replace(line, "\n".join(lines) + "\n")
    edits.constexpr(kernel, source.launch_of(kernel), parts, parts, "1")
    edits.tunable(parts, 2, (1, 2, 4))
    return Applied(source=edits.result(), hypothesis=REASON, signature={"UTMASTG": ">1"})


def _parts(
    source: Source, parts: str, rows: str, columns: str, value: str, store: Callable[[int, int, str], str]
) -> list[str]:
    """One branch for each number of parts, of which the compiler sees the one that the launch names."""
    left, right, *quarters = (source.fresh(name) for name in ("left", "right", "first", "second", "third", "fourth"))
    a, b, c, d = quarters
    return [
        f"if {parts} == 1:",
        f"    {store(0, 1, value)}",
        "else:",
        f"    {left}, {right} = {_halves(value, rows, columns, 2)}",
        f"    if {parts} == 2:",
        f"        {store(0, 2, left)}",
        f"        {store(1, 2, right)}",
        "    else:",
        f"        {a}, {b} = {_halves(left, rows, columns, 4)}",
        f"        {store(0, 4, a)}",
        f"        {store(1, 4, b)}",
        f"        {c}, {d} = {_halves(right, rows, columns, 4)}",
        f"        {store(2, 4, c)}",
        f"        {store(3, 4, d)}",
    ]


def _halves(value: str, rows: str, columns: str, n: int) -> str:
    return f"tl.split(tl.permute(tl.reshape({value}, ({rows}, 2, {columns} // {n})), (0, 2, 1)))"


def _shifted(offset: str, part: int, parts: int, columns: str) -> str:
    if part == 0:
        return offset
    times = "" if part == 1 else f" * {part}"
    return f"{offset} + {columns} // {parts}{times}"


def _stored(scope: Scope) -> tuple[cst.SimpleStatementLine, ast.Call, str]:
    found = []
    for _, line, _ in scope.lines:
        if isinstance(line, cst.SimpleStatementLine) and len(line.body) == 1 and isinstance(line.body[0], cst.Expr):
            call = scope.tree(line.body[0].value)
            if (
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Attribute)
                and call.func.attr == "store"
                and isinstance(call.func.value, ast.Name)
                and call.func.value.id != "tl"
                and len(call.args) == 2
            ):
                found.append((line, call, call.func.value.id))
    if len(found) != 1:
        raise No(f"{scope.kernel.name} does not store exactly one tile through a descriptor.")
    return found[0]


def _blocks(source: Source, line: cst.CSTNode) -> tuple[str, str, cst.BaseExpression]:
    """Rows, columns, and the node of the columns, of `block_shape=[rows, columns]`."""
    assert isinstance(line, cst.SimpleStatementLine)
    small = line.body[0]
    if len(line.body) == 1 and isinstance(small, cst.Assign) and isinstance(small.value, cst.Call):
        for arg in small.value.args:
            shape = arg.value
            if arg.keyword is None or arg.keyword.value != "block_shape" or not isinstance(shape, cst.List):
                continue
            texts = [source.code(e.value) for e in shape.elements]
            if len(texts) == 2 and texts[1].isidentifier():
                return texts[0], texts[1], shape.elements[1].value
    raise No("The descriptor of the output does not state its block as two names.")


RULE = Rule(
    name="epilogue subtiling", reason=REASON, rewrite=rewrite, weight=1.6, helps=frozenset({"compute", "spills"})
)
