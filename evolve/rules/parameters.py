"""R1: other tile sizes, warps and stages: the largest gains there are, and the cheapest to try.

Proposes defaults that the chip can hold (nothing is built for those it cannot), and declares `TUNE` so that the tuner
can go on from there. It does not search: one proposal a step, from what works on Hopper or beside the parent's best.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import libcst as cst

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.edits import Edits
from evolve.rules.match import DotLoop, dot_loop
from evolve.rules.source import Launch, Source, literal
from evolve.types import Scalar

REASON = "Choose tile sizes, warps and stages that fill the tensor cores and the shared memory of the chip."
SHARED_BYTES = {
    "sm_80": 166_912,
    "sm_89": 101_376,
    "sm_90": 232_448,
    "sm_100": 232_448,
    "gfx942": 65_536,
}  # of one block
# M, N, K, stages, warps for 16-bit operands. Large tiles first: they are what large problems want.
LARGE = ((128, 256, 64, 3, 8), (128, 128, 64, 4, 4), (128, 128, 64, 4, 8), (256, 128, 64, 3, 8), (64, 128, 64, 4, 4))
SMALL = ((64, 128, 64, 5, 4), (64, 64, 128, 4, 4), (64, 128, 64, 6, 4), (16, 64, 128, 4, 4), (16, 128, 128, 4, 4))
SPACES: Mapping[str, tuple[int, ...]] = {"num_warps": (2, 4, 8), "num_stages": (2, 3, 4, 5)}
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1, "int8": 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class Roles:
    """Which tunables are the three blocks of a dot loop, and how large the operands' elements are."""

    m: str
    n: str
    k: str
    element_bytes: int
    shared_bytes: int

    def feasible(self, point: Mapping[str, Scalar]) -> bool:
        m, n, k, stages, warps = (
            int(point.get(name, 1)) for name in (self.m, self.n, self.k, "num_stages", "num_warps")
        )
        shared = stages * (m * k + k * n) * self.element_bytes
        return shared <= self.shared_bytes and m * n <= 128 * 32 * warps and min(m, n, k) >= 16


def rewrite(source: Source, context: Context) -> Applied:
    if context.tuned:
        raise No("A tuner is at work, which finds the numbers of every workload by itself.")
    launch, added = with_options(source)
    point = {**source.tunables, **added}
    point.pop("NUM_SMS", None)
    if not point:
        raise No("The entry has no keyword-only parameters with literal defaults, so that there is nothing to choose.")
    roles = roles_of(source, context)
    start = {**point, **{k: v for k, v in context.parameters.items() if k in point}}
    proposals = [_own(p, point) for p in _proposals(source, context, roles, start)]
    proposals = [p for p in proposals if {**point, **p} != point]
    if not proposals:
        raise No("No other point of the parameters is feasible.")
    chosen = {**start, **context.random.choice(proposals)}
    if context.random.random() < 0.25:  # two steps at once, so that the moves never run out
        further = [_own(p, point) for p in _proposals(source, context, roles, chosen)]
        further = [p for p in further if p.items() != point.items()]
        chosen = {**chosen, **context.random.choice(further)} if further else chosen
    edits = Edits(source)
    _set(edits, source, launch, point, added, chosen)
    _declare(edits, source, chosen)
    wgmma = roles is not None and roles.element_bytes == 2 and int(chosen[roles.m]) >= 64 and context.hopper
    wgmma = wgmma and int(chosen.get("num_warps", 4)) >= 4
    return Applied(
        source=edits.result(),
        hypothesis=_hypothesis(roles, point, chosen),
        signature={"HGMMA": ">0"} if wgmma else {},
    )


def _own(proposal: Mapping[str, Scalar], point: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Without numbers that the entry does not have: stages and warps of a second launch are not added."""
    return {name: value for name, value in proposal.items() if name in point}


def with_options(source: Source) -> tuple[Launch | None, dict[str, int]]:
    """num_warps and num_stages, where one launch leaves them to Triton or states them as numbers."""
    if len(source.launches) != 1:
        return None, {}
    launch = source.launches[0]
    added = {}
    for name, default in (("num_warps", 4), ("num_stages", 3)):
        stated = launch.options.get(name)
        value = literal(stated) if stated is not None else default
        if name not in source.tunables and isinstance(value, int) and name not in _parameters(source):
            added[name] = value
    return launch, added


def _parameters(source: Source) -> set[str]:
    params = source.entry.params
    return {p.name.value for p in (*params.params, *params.kwonly_params)}


def roles_of(source: Source, context: Context) -> Roles | None:
    try:
        found = dot_loop(source)
        m, n = _accumulator_blocks(found)
        names = [found.launch.arguments.get(block, "") for block in (m, n, found.loop.step)]
    except No:
        return None
    if any(name not in source.tunables for name in names) or len(set(names)) != 3:
        return None
    sizes = [BYTES.get(str(w.params.get("dtype")), 2) for w in context.workloads]
    return Roles(
        m=names[0],
        n=names[1],
        k=names[2],
        element_bytes=max(sizes, default=2),
        shared_bytes=SHARED_BYTES.get(context.target, 65_536),
    )


def _accumulator_blocks(found: DotLoop) -> tuple[str, str]:
    for bind in found.scope.of(found.accumulator):
        if isinstance(bind.value, ast.Call) and ast.unparse(bind.value.func) == "tl.zeros" and bind.value.args:
            shape = bind.value.args[0]
            if isinstance(shape, ast.Tuple | ast.List) and len(shape.elts) == 2:
                return ast.unparse(shape.elts[0]), ast.unparse(shape.elts[1])
    raise No("The accumulator is not made by tl.zeros.")


def _proposals(
    source: Source, context: Context, roles: Roles | None, start: Mapping[str, Scalar]
) -> Iterator[dict[str, Scalar]]:
    """Known good points, the better ones more often, and steps away from where the parent stands."""
    if roles is not None:
        shapes = SMALL if _small(context) else LARGE
        for rank, (m, n, k, stages, warps) in enumerate(shapes):
            k = k * 2 // roles.element_bytes
            blocks: dict[str, Scalar] = {roles.m: m, roles.n: n, roles.k: k, "num_warps": warps}
            fewer = [{**blocks, "num_stages": s} for s in range(stages, 1, -1)]
            point = next(filter(roles.feasible, fewer), None)
            if point is not None:
                yield from [point] * (2 if rank < 2 else 1)
    tune = space_of(source)
    for name, value in start.items():
        for other in _beside(name, value, tune.get(name)):
            beside = {**start, name: other}
            if roles is None or (roles.feasible(beside) and not _leaves_wgmma(roles, start, beside, context)):
                yield beside


def _leaves_wgmma(roles: Roles, old: Mapping[str, Scalar], new: Mapping[str, Scalar], context: Context) -> bool:
    """WGMMA wants 64 rows and the four warps of a warp group."""

    def has_it(point: Mapping[str, Scalar]) -> bool:
        return int(point[roles.m]) >= 64 and int(point.get("num_warps", 4)) >= 4

    return not _small(context) and has_it(old) and not has_it(new)


def _small(context: Context) -> bool:
    rows = [w.params["M"] for w in context.workloads if w.role == "time" and "M" in w.params]
    return bool(rows) and all(isinstance(m, int) and m < 64 for m in rows)


def _beside(name: str, value: Scalar, space: Sequence[Scalar] | None) -> list[Scalar]:
    """One step down and up: in the declared space, else by powers of two (stages and odd numbers by one)."""
    if space is not None and value in space:
        i = list(space).index(value)
        return [space[j] for j in (i - 1, i + 1) if 0 <= j < len(space)]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int) and (value >= 8 or name == "num_warps") and value & (value - 1) == 0:
        return [v for v in (value // 2, value * 2) if v >= 1 and (name != "num_warps" or v <= 16)]
    if isinstance(value, int) and value >= 1:
        return [v for v in (value - 1, value + 1) if v > 1]
    return []


def space_of(source: Source) -> dict[str, tuple[Scalar, ...]]:
    value = literal(source.code(source.tune)) if source.tune is not None else None
    if not isinstance(value, dict):
        return {}
    return {str(k): tuple(v) for k, v in value.items() if isinstance(v, tuple | list)}


def _set(
    edits: Edits,
    source: Source,
    launch: Launch | None,
    point: Mapping[str, Scalar],
    added: Mapping[str, int],
    chosen: Mapping[str, Scalar],
) -> None:
    for param in source.entry.params.kwonly_params:
        name = param.name.value
        if param.default is not None and name in point and chosen[name] != point[name]:
            edits.expression(param.default, repr(chosen[name]))
    for name in added:
        assert launch is not None
        stated = [arg for arg in launch.call.args if arg.keyword is not None and arg.keyword.value == name]
        if stated:
            edits.expression(stated[0].value, name)
        else:
            edits.append(launch.call, f"{name}={name}")
        edits.tunable(name, chosen[name])


def _declare(edits: Edits, source: Source, chosen: Mapping[str, Scalar]) -> None:
    """The space holds every default: widened where it lacks one, written where there is none."""
    if source.tune is None:
        rows = "".join(f'    "{name}": {_around(name, value)!r},\n' for name, value in chosen.items())
        functions = [source.entry, *(kernel.node for kernel in source.kernels.values())]
        first = next(line for line in source.module.body if line in functions)
        edits.before(first, "TUNE = {\n" + rows + "}\n")
        return
    known = {}
    for element in source.tune.elements:
        if isinstance(element, cst.DictElement):
            known[literal(source.code(element.key))] = element
    for name, value in chosen.items():
        if name not in known:
            edits.append(source.tune, f'"{name}": {_around(name, value)!r}')
            continue
        space = literal(source.code(known[name].value))
        if isinstance(space, tuple | list) and value not in space:
            wider = tuple(sorted({*space, value}))
            edits.expression(known[name].value, repr(wider))


def _around(name: str, value: Scalar) -> tuple[Scalar, ...]:
    if name in SPACES and isinstance(value, int):
        return tuple(sorted({*SPACES[name], value}))
    if isinstance(value, int) and not isinstance(value, bool) and value >= 16 and value & (value - 1) == 0:
        return tuple(sorted({max(16, value // 2), value, min(256, value * 2)} | {value}))
    return tuple(sorted({value, *_beside(name, value, None)}, key=str if isinstance(value, str) else float))


def _hypothesis(roles: Roles | None, old: Mapping[str, Scalar], new: Mapping[str, Scalar]) -> str:
    if roles is not None and any(old.get(name) != new[name] for name in (roles.m, roles.n, roles.k)):
        m, n, k = (new[name] for name in (roles.m, roles.n, roles.k))
        return (
            f"Take tiles of {m}×{n}×{k} with {new.get('num_warps')} warps and {new.get('num_stages')} stages: "
            "each element that is loaded is then used more often, and the loads run further ahead."
        )
    changed = [f"{name} {old.get(name, 'unset')} → {value}" for name, value in new.items() if old.get(name) != value]
    return f"Move the parameters one step from the parent's point: {', '.join(changed)}."


RULE = Rule(name="parameters", reason=REASON, rewrite=rewrite, weight=2.0)
