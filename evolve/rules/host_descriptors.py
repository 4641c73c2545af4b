"""R3 on the host: descriptors of attention's blocks come with the launch, and no program makes its own.

A descriptor that a program makes is written to memory, fenced and waited for before the first load; with thousands of
short programs that is a share of each. The host describes each tensor once, as parts of rows, and a program names its
part in the load: what lies beyond the rows of a part is zero as before. Found on an H200: 4,32,4096,128 causal went
from 0.80 to 0.83 of cuDNN.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

import libcst as cst

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.edits import Edits
from evolve.rules.match import on_host
from evolve.rules.source import Source
from evolve.rules.streams import Stream, streams
from evolve.rules.symbols import atom, factors

REASON = (
    "Let the host make the descriptors of {names}, once for each launch: thousands of programs then neither write one "
    "to memory nor wait for it before their first load."
)
IMPORT = "from triton.tools.tensor_descriptor import TensorDescriptor"
MAKE = "tl.make_tensor_descriptor"
OWN = "OWN_DESC"  # the constexpr under which a program still makes one


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """One descriptor that the kernel makes: of which parameter, where its part begins, and its blocks."""

    line: cst.SimpleStatementLine
    name: str
    base: str
    part: str  # the number of the part
    shape: tuple[str, str]
    block: tuple[str, str]
    switch: str  # the constexpr under which it is made; empty: always


def rewrite(source: Source, context: Context) -> Applied:
    if not context.hopper and context.target != "sm_100":
        raise No(f"{context.target} has no TMA engine.")
    loops = streams(source)
    if not loops:
        raise No("No kernel has a loop with several tl.dot; a product's programs are few where descriptors pay.")
    found = loops[0]
    made = [m for bind in found.scope.binds if (m := _made(found, bind.line, bind.name)) is not None]
    if not made:
        raise No(f"{found.kernel.name} makes no descriptor of a part of a tensor.")
    edits = Edits(source)
    kept = {each.name for each in made if not _from_host(edits, found, each)}
    if len(kept) == len(made):
        raise No(f"{found.kernel.name} makes no descriptor of what streams through its loop.")
    if IMPORT not in source.text:
        tune = next((x for x in source.module.body if _assigns(source, x, "TUNE")), None)
        if tune is not None:
            edits.after(tune, IMPORT + "\n")
        else:
            edits.before(found.kernel.node, IMPORT + "\n")
    names = " and ".join(f"`{m.base}`" for m in made if m.name not in kept)
    return Applied(source=edits.result(), hypothesis=REASON.format(names=names), signature={"UTMALDG": ">0"})


def _assigns(source: Source, line: cst.CSTNode, name: str) -> bool:
    return isinstance(line, cst.SimpleStatementLine) and source.code(line).startswith(f"{name} =")


def _made(found: Stream, line: cst.CSTNode, name: str) -> Made | None:
    if not isinstance(line, cst.SimpleStatementLine) or len(line.body) != 1 or MAKE not in found.source.code(line):
        return None
    small = line.body[0]
    call = found.scope.tree(small.value) if isinstance(small, cst.Assign) else None
    if not isinstance(call, ast.Call) or ast.unparse(call.func) != MAKE or len(call.args) != 1:
        return None
    given = {k.arg: k.value for k in call.keywords}
    lists = [given.get(n) for n in ("shape", "strides", "block_shape")]
    texts = [tuple(ast.unparse(e) for e in x.elts) for x in lists if isinstance(x, ast.List)]
    if len(texts) != 3 or any(len(t) != 2 for t in texts) or texts[1][1] != "1" or texts[1][0] != texts[0][1]:
        return None
    start = call.args[0]
    if not isinstance(start, ast.BinOp) or not isinstance(start.op, ast.Add) or not isinstance(start.left, ast.Name):
        return None
    shape, _, block = texts
    part = _part(found, ast.unparse(start.right), (shape[0], shape[1]))
    inside = next(i for _, x, i in found.scope.lines if x is line)
    tests = [found.source.code(x.test) for x in inside if isinstance(x, cst.If)]
    if part is None or len(tests) != len(inside) or len(tests) > 1 or not set(tests) <= found.kernel.constexprs:
        return None
    return Made(
        line=line,
        name=name,
        base=start.left.id,
        part=part,
        shape=(shape[0], shape[1]),
        block=(block[0], block[1]),
        switch=tests[0] if tests else "",
    )


def _part(found: Stream, offset: str, shape: tuple[str, str]) -> str | None:
    """`part` of `part * rows * columns`, where a part of the tensor begins."""
    bind = found.scope.last(offset, found.loop.at) if offset.isidentifier() else None
    rest = factors(ast.unparse(bind.value) if bind is not None and bind.value is not None else offset)
    for each in shape:
        if each not in rest or each not in found.kernel.params or found.scope.of(each):
            return None
        rest.remove(each)
    return " * ".join(atom(r) for r in rest) if rest else None


def _from_host(edits: Edits, found: Stream, made: Made) -> bool:
    """Whether the host makes it from now on: of what streams through the loop."""
    source, launch = found.source, found.launch
    pointer = launch.arguments.get(made.base, "")
    if not pointer.isidentifier():
        raise No(f"The launch does not give `{made.base}` by a name.")
    rows, columns, *block = (on_host(launch, found.kernel, x) for x in (*made.shape, *made.block))
    part = source.fresh(made.name.removesuffix("_desc") + "_part")
    loads = [x for _, x, _ in found.scope.lines if isinstance(x, cst.SimpleStatementLine) and _loads(source, x, made)]
    moves = any(isinstance(y, cst.For) for _, x, i in found.scope.lines if x in loads for y in i)
    if not moves:
        _kept(edits, found, made)
        return False
    given = f"TensorDescriptor.from_tensor({pointer}.view(-1, {rows}, {columns}), [1, {block[0]}, {block[1]}])"
    shaped = f".reshape({made.block[0]}, {made.block[1]})"
    if made.switch:
        given = f"{given} if {launch.arguments[made.switch]} else {pointer}"
    edits.scalar(found.kernel, launch, made.name, given)
    edits.replace(made.line, f"{part} = tl.cast({made.part}, tl.int32)\n")
    count = 0
    for line in loads:
        new, times = re.subn(rf"\b{made.name}\.load\(\[", f"{made.name}.load([{part}, ", source.code(line))
        edits.replace(line, re.sub(rf"({made.name}\.load\(\[[^\]]*\]\))", rf"\1{shaped}", new) + "\n")
        count += times
    if count != len(re.findall(rf"\b{made.name}\b", source.code(found.kernel.node))) - 1:
        raise No(f"`{made.name}` is used for more than loads.")
    return True


def _kept(edits: Edits, found: Stream, made: Made) -> None:
    """A block that stays is loaded once, and plainly: only where warps are specialized must it come by a descriptor,
    and then by the program's own, because each consumer takes a part of the block."""
    holder = next(i[-1] for _, x, i in found.scope.lines if x is made.line) if made.switch else None
    if not isinstance(holder, cst.If) or holder.orelse is None:
        return
    special = next((x for x in sorted(found.kernel.constexprs) if x.startswith("WARP_SPECIALIZE")), "")
    given = found.launch.arguments.get(special, "")
    own = found.source.fresh(OWN)
    edits.expression(holder.test, own)
    edits.constexpr(found.kernel, found.launch, own, f"{found.launch.arguments[made.switch]} and {given or 'False'}")


def _loads(source: Source, line: cst.SimpleStatementLine, made: Made) -> bool:
    return re.search(rf"\b{made.name}\.load\(\[", source.code(line)) is not None


RULE = Rule(
    name="descriptors from the host",
    reason=REASON.format(names="the tensors"),
    rewrite=rewrite,
    weight=2.25,
    helps=frozenset({"compute", "latency", "launch"}),
)
