"""R1 with a tuner at work: not a point but a space, and a default in it that is known to be good.

What the tuner may not choose it cannot find: a decode that hides two loads behind each other wants seven stages, a
skinny product 32 columns. The rule adds what is missing and takes nothing away.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

import libcst as cst

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.edits import Edits
from evolve.rules.parameters import Roles, roles_of, space_of, with_options
from evolve.rules.source import Launch, Source, literal
from evolve.rules.symbols import Scope
from evolve.types import Scalar

REASON = "Let the tuner look further, at {what}: what the space does not hold it cannot find."
ROWS, COLUMNS, DEPTHS = (16, 64, 128, 256), (32, 64, 128, 256), (32, 64, 128, 256)
GOOD = (128, 128, 64, 4, 4)  # of a product: rows, columns, depth, stages, warps
INDIRECT = (2, 3, 5, 7)  # stages where an address is loaded first: half of them hide that load


def rewrite(source: Source, context: Context) -> Applied:
    launch, added = with_options(source)
    if not any("for " in source.code(kernel.node.body) for kernel in source.kernels.values()):
        added.pop("num_stages", None)  # nothing would be pipelined
    point = {**source.tunables, **added}
    point.pop("NUM_SMS", None)
    roles = roles_of(source, context)
    wanted, defaults = _wanted(source, roles, point, added)
    space = space_of(source)
    lacking = {n: tuple(sorted({*space.get(n, ()), *v})) for n, v in wanted.items() if set(v) - set(space.get(n, ()))}
    if not lacking:
        raise No("TUNE holds all that is worth a try in this kernel.")
    edits = Edits(source)
    _declare(edits, source, lacking, {**point, **defaults})
    _defaults(edits, source, launch, added, defaults)
    return Applied(source=edits.result(), hypothesis=REASON.format(what=", ".join(lacking)))


def _wanted(
    source: Source, roles: Roles | None, point: Mapping[str, Scalar], added: Mapping[str, int]
) -> tuple[dict[str, tuple[int, ...]], dict[str, Scalar]]:
    """The space that each tunable should have, and better defaults."""
    bare = [name for name in ("num_warps", "num_stages") if name in point and name not in space_of(source)]
    wanted: dict[str, tuple[int, ...]] = {name: _usual(name) for name in (*added, *bare)}
    defaults: dict[str, Scalar] = {}
    if roles is not None:
        scale = 2 if roles.element_bytes == 1 else 1
        wanted |= {roles.m: ROWS, roles.n: COLUMNS, roles.k: tuple(d * scale for d in DEPTHS)}
        wanted |= {"num_warps": (4, 8), "num_stages": (2, 3, 4, 5, 6)}
        m, n, k, stages, warps = GOOD
        good = {roles.m: m, roles.n: n, roles.k: k * 2 // roles.element_bytes, "num_stages": stages, "num_warps": warps}
        if not point.keys() & {"WARP_SPECIALIZE"} and roles.feasible(good):
            defaults = {name: value for name, value in good.items() if name in point}
    elif _indirect(source):
        wanted["num_stages"] = INDIRECT
        defaults = {"num_stages": 5} if "num_stages" in point else {}
    return {name: values for name, values in wanted.items() if name in point}, defaults


def _usual(name: str) -> tuple[int, ...]:
    return (1, 2, 4, 8, 16) if name == "num_warps" else (1, 2, 3, 4)


def _indirect(source: Source) -> bool:
    """Whether a loop loads from an address that it has just loaded."""
    for kernel in source.kernels.values():
        scope = Scope(source, kernel)
        for bind in scope.binds:
            inside = [x for x in bind.inside if isinstance(x, cst.For)]
            if inside and bind.value is not None and "tl.load(" in ast.unparse(bind.value):
                pointer = scope.resolved(ast.unparse(bind.value), bind.at)
                if pointer.count("tl.load(") > 1:
                    return True
    return False


def _declare(
    edits: Edits, source: Source, lacking: Mapping[str, tuple[Scalar, ...]], point: Mapping[str, Scalar]
) -> None:
    if source.tune is None:
        rows = "".join(f'    "{name}": {tuple(sorted({*v, point[name]}))!r},\n' for name, v in lacking.items())
        functions = [source.entry, *(kernel.node for kernel in source.kernels.values())]
        first = next(line for line in source.module.body if line in functions)
        edits.before(first, "TUNE = {\n" + rows + "}\n")
        return
    known = {str(literal(source.code(e.key))): e for e in source.tune.elements if isinstance(e, cst.DictElement)}
    for name, values in lacking.items():
        whole: Sequence[Scalar] = sorted({*values, point[name]})
        if name in known:
            edits.expression(known[name].value, repr(tuple(whole)))
        else:
            edits.append(source.tune, f'"{name}": {tuple(whole)!r}')


def _defaults(
    edits: Edits, source: Source, launch: Launch | None, added: Mapping[str, int], defaults: Mapping[str, Scalar]
) -> None:
    for param in source.entry.params.kwonly_params:
        name = param.name.value
        if param.default is not None and name in defaults and defaults[name] != source.tunables.get(name):
            edits.expression(param.default, repr(defaults[name]))
    for name, value in added.items():
        assert launch is not None
        stated = [arg for arg in launch.call.args if arg.keyword is not None and arg.keyword.value == name]
        if stated:
            edits.expression(stated[0].value, name)
        else:
            edits.append(launch.call, f"{name}={name}")
        edits.tunable(name, defaults.get(name, value))


RULE = Rule(name="wider space", reason=REASON.format(what="more values"), rewrite=rewrite, weight=2.5)
