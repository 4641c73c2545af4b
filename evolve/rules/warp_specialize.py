"""R5: producer warps that only copy, consumer warps that only multiply.

Triton declines in silence where it cannot, and its compiler crashes on some forms: the guards below are those that were
seen. The option is tied to the descriptor switch, because the pointer path would crash the compiler.
"""

from __future__ import annotations

import ast

import libcst as cst

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.edits import Edits
from evolve.rules.match import DotLoop, dot_loop, restrict
from evolve.rules.registers import point_of, start_at
from evolve.rules.source import Source, literal
from evolve.rules.streams import Stream, streams
from evolve.rules.symbols import Bind, atom

REASON = (
    "Specialize warps in the loop over K: a producer keeps the TMA copies ahead while the consumers issue nothing but "
    "matrix instructions."
)
STREAMED = (128, 128, 2, 4)  # rows, columns, stages, warps of attention: 64 rows take twice as long (H200)
OPTIONS = ("warp_specialize=", "flatten=True", "loop_unroll_factor=")


def rewrite(source: Source, context: Context) -> Applied:
    if not context.hopper:
        raise No(f"Warp specialization was tried on sm_90 only, and the target is {context.target}.")
    if streams(source):
        return _stream(source)
    found = dot_loop(source)
    _guard(found, context)
    switch = _switch(found)
    edits = Edits(source)
    _four_warps(edits, found)
    wanted = source.fresh("WARP_SPECIALIZE")
    edits.constexpr(found.kernel, found.launch, wanted, wanted)
    edits.tunable(wanted, True, (True, False))
    switch = wanted if switch == "True" else f"{switch} and {wanted}"
    subtiles = _subtiles(found) if context.version < (3, 7) else None
    if subtiles is not None:
        switch = f"{switch} and {subtiles[0]} == 1"  # with a split epilogue the compiler crashes
        edits.expression(subtiles[1], "1")
    restrict(
        edits, found, "flatten", f"not {wanted}"
    )  # a flattened loop is not specialized, and Triton does not say so
    call = found.scope.tree(found.loop.node.iter)
    assert isinstance(call, ast.Call)
    parts = [ast.unparse(a) for a in call.args] + [f"{k.arg}={ast.unparse(k.value)}" for k in call.keywords]
    edits.expression(found.loop.node.iter, f"tl.range({', '.join([*parts, f'warp_specialize={switch}'])})")
    return Applied(source=edits.result(), hypothesis=REASON, signature={"USETMAXREG": ">0"})


def _stream(source: Source) -> Applied:
    """In an attention loop: where masked blocks have one of their own, one loop takes all of them again."""
    loops = streams(source)
    found, kernel = loops[-1], loops[-1].kernel
    code = source.code(kernel.node)
    if "warp_specialize=" in code:
        raise No(f"A loop of {kernel.name} already has warp_specialize.")
    loads = [b for b in found.scope.binds if found.loop.node in b.inside and _through_descriptor(b)]
    switches = {source.code(b.inside[-1].test) if isinstance(b.inside[-1], cst.If) else "True" for b in loads}
    if len({b.name for b in loads}) < 2 or len(switches) != 1:
        raise No("The blocks that stream are not loaded through descriptors; with pointers the compiler crashes.")
    edits = Edits(source)
    wanted = source.fresh("WARP_SPECIALIZE")
    if len(loops) == 2:
        _one_loop(edits, loops[0], wanted)
    elif len(loops) > 2:
        raise No(f"{kernel.name} has {len(loops)} loops with several tl.dot.")
    point = point_of(source, found, STREAMED)
    if point:
        start_at(edits, source, point)
    else:
        _four_warps(edits, found)
    edits.constexpr(kernel, found.launch, wanted, wanted)
    edits.tunable(wanted, True, (True, False))
    switch = switches.pop()
    for arg in found.launch.call.args:
        if arg.keyword is not None and arg.keyword.value == "maxnreg":  # specialized warps share registers themselves
            edits.expression(arg.value, f"None if {wanted} else ({source.code(arg.value)})")
        if arg.keyword is not None and arg.keyword.value.startswith("OWN_DESC"):  # each consumer takes a part of it
            edits.expression(arg.value, source.code(arg.value).replace("and False", f"and {wanted}"))
        if arg.keyword is not None and arg.keyword.value.startswith("LAZY_RESCALE"):  # a branch at run time
            edits.expression(arg.value, f"{atom(source.code(arg.value))} and not {wanted}")
    call = found.scope.tree(found.loop.node.iter)
    assert isinstance(call, ast.Call)
    parts = [ast.unparse(a) for a in call.args] + [f"{k.arg}={ast.unparse(k.value)}" for k in call.keywords]
    parts.append(f"warp_specialize={wanted if switch == 'True' else f'{switch} and {wanted}'}")
    edits.expression(found.loop.node.iter, f"tl.range({', '.join(parts)})")
    return Applied(source=edits.result(), hypothesis=REASON, signature={"USETMAXREG": ">0"})


def _one_loop(edits: Edits, first: Stream, wanted: str) -> None:
    """The launch leaves the loop of unmasked blocks out where warps are specialized: two loops crash the compiler."""
    around = [x for x in first.loop.inside if isinstance(x, cst.If)]
    switch = edits.source.code(around[-1].test) if around else ""
    given = [a for a in first.launch.call.args if a.keyword is not None and a.keyword.value == switch]
    if switch not in first.kernel.constexprs or len(given) != 1:
        raise No(f"{first.kernel.name} has two loops with several tl.dot; the compiler crashes on two.")
    edits.expression(given[0].value, f"{atom(edits.source.code(given[0].value))} and not {wanted}")


def _guard(found: DotLoop, context: Context) -> None:
    code = found.source.code(found.kernel.node)
    present = [option for option in OPTIONS if option in code]
    if present:
        raise No(f"A loop of {found.kernel.name} already has {present[0].split('=')[0]}, which excludes this.")
    loops = [
        x for _, x, inside in found.scope.lines if isinstance(x, cst.For) and x not in (found.loop.node, *_outer(found))
    ]
    if loops:
        raise No(f"{found.kernel.name} has another loop beside the one over K; the compiler crashes on two.")
    if "split(" in code and context.version < (3, 7) and _subtiles(found) is None:
        raise No("Before Triton 3.7 the compiler crashes on warp specialization with a split epilogue.")
    m, n = (found.source.tunables.get(found.launch.arguments.get(b, ""), 0) for b in _blocks(found))
    if (m, n) == (64, 256):
        raise No("The compiler crashes on warp specialization with tiles of 64×256.")
    if isinstance(m, int) and 0 < m < 64:
        raise No(f"Tiles of {m} rows do not reach WGMMA, which warp specialization needs.")


def _subtiles(found: DotLoop) -> tuple[str, cst.BaseExpression] | None:
    """The tunable that says into how many parts the output's tile is split, with its default; 1 leaves it whole."""
    for name in sorted(found.kernel.constexprs):
        if f"if {name} == 1:" in found.source.code(found.kernel.node) and name.startswith("EPILOGUE"):
            for param in found.source.entry.params.kwonly_params:
                if param.name.value == found.launch.arguments.get(name) and param.default is not None:
                    return name, param.default
    return None


def _outer(found: DotLoop) -> tuple[cst.CSTNode, ...]:
    return found.loop.inside


def _blocks(found: DotLoop) -> tuple[str, str]:
    for bind in found.scope.of(found.accumulator):
        if (
            isinstance(bind.value, ast.Call)
            and bind.value.args
            and isinstance(bind.value.args[0], ast.Tuple | ast.List)
        ):
            elements = bind.value.args[0].elts
            if len(elements) == 2:
                return ast.unparse(elements[0]), ast.unparse(elements[1])
    return "", ""


def _switch(found: DotLoop) -> str:
    """The constexpr under which both operands come through descriptors; True where they always do."""
    switches = set()
    for name in (found.lhs, found.rhs):
        loads = [b for b in found.scope.of(name) if found.loop.node in b.inside and _through_descriptor(b)]
        if not loads:
            raise No(f"`{name}` is not loaded through a descriptor; with pointers the compiler crashes.")
        inner = loads[0].inside[loads[0].inside.index(found.loop.node) + 1 :]
        switches.add(found.source.code(inner[0].test) if inner and isinstance(inner[0], cst.If) else "True")
    if len(switches) != 1:
        raise No("The two operands do not come through descriptors under one condition.")
    switch = switches.pop()
    if switch != "True" and switch not in found.kernel.constexprs:
        raise No(f"`{switch}` is not a constexpr, and an `if` at run time in the loop excludes warp specialization.")
    return switch


def _through_descriptor(bind: Bind) -> bool:
    node = bind.value
    while True:
        if isinstance(node, ast.Attribute):
            node = node.value
        elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("tl.trans"):
            node = node.args[0]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "reshape":
            node = node.func.value
        else:
            break
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load"):
        return False
    return ast.unparse(node.func.value) != "tl"


def _four_warps(edits: Edits, found: DotLoop | Stream) -> None:
    """It takes with four warps and at least two stages; with eight Triton declines in silence."""
    for name, wanted in (("num_warps", 4), ("num_stages", 3)):
        stated = found.launch.options.get(name)
        value = found.source.tunables.get(stated or "", literal(stated) if stated else None)
        fine = value == 4 if name == "num_warps" else value is None or (isinstance(value, int) and value >= 2)
        if fine:
            continue
        if stated is None:
            edits.append(found.launch.call, f"{name}={wanted}")
        elif stated in found.source.tunables:
            params = found.source.entry.params.kwonly_params
            default = next(p.default for p in params if p.name.value == stated)
            assert default is not None
            edits.expression(default, str(wanted))
        else:
            arg = next(a for a in found.launch.call.args if a.keyword is not None and a.keyword.value == name)
            edits.expression(arg.value, str(wanted))


RULE = Rule(
    name="warp specialization",
    reason=REASON,
    rewrite=rewrite,
    then=("settled masks", "bounded scores"),
    weight=1.5,
    helps=frozenset({"compute"}),
)
