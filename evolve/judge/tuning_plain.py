"""Switches that do nothing at the size they were chosen for, turned off before the choice is kept.

Where a host function splits a sum only if programs are few, `SPLIT_K=8` and `SPLIT_K=1` launch the same kernels on a
large product, and which of them wins is a draw. But a table's row also answers for sizes that nobody tuned, where the
split is taken: on an H200 a size between two others ran at 0.42 of cuBLAS that way, and at 0.91 without it. So a winner
is lowered once more with each switch off, and where the same launches come out, off it is. Nothing is built or timed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from evolve.judge.plan import Plan
from evolve.judge.points import Maker, Shot
from evolve.judge.stages import Gated, Point, Screened
from evolve.tuner import Key as PointKey
from evolve.tuner import key_of
from evolve.tuner_known import plain
from evolve.types import NOTHING, Scalar

Parameters: TypeAlias = Mapping[str, Scalar]


Known: TypeAlias = Mapping[tuple[str, PointKey], Shot]


def plainest(
    maker: Maker,
    screened: Screened,
    shots: Mapping[str, Shot],
    *,
    known: Known | None = None,
    before: Mapping[str, Parameters] = NOTHING,
) -> dict[str, Shot]:
    """Each with the switches off that its launches do not need: one by one first, then all of those together. Nothing
    is lowered to learn what `known` shots say, or about a switch that stands as the parent had it `before`."""
    off, known = plain(screened.tune), known or {}
    tried = {name: _each_off(shot, off, before.get(name, NOTHING)) for name, shot in shots.items()}
    told = {name: [s for p in row if (s := known.get((name, _key(screened, p))))] for name, row in tried.items()}
    alone = _alike(
        maker,
        screened,
        shots,
        {name: [p for p in row if (name, _key(screened, p)) not in known] for name, row in tried.items()},
    )
    for name, row in told.items():
        alone.setdefault(name, []).extend(s for s in row if _launches(s.plan) == _launches(shots[name].plan))
    several = {name: found for name, found in alone.items() if len(found) > 1}
    joint = _alike(maker, screened, shots, {name: [_joined(shots[name], found)] for name, found in several.items()})
    return {name: next(iter([*joint.get(name, []), *alone.get(name, []), shot])) for name, shot in shots.items()}


def _key(screened: Screened, parameters: Parameters) -> PointKey:
    return key_of({name: parameters[name] for name in screened.tune})


def _each_off(shot: Shot, off: Parameters, before: Parameters) -> list[Parameters]:
    mine = shot.point.parameters
    moved = [n for n in off if n in mine and repr(mine[n]) not in (repr(off[n]), repr(before.get(n)))]
    return [{**mine, name: off[name]} for name in moved]


def _joined(shot: Shot, found: Sequence[Shot]) -> Parameters:
    mine = shot.point.parameters
    moved = {n: v for each in found for n, v in each.point.parameters.items() if repr(mine[n]) != repr(v)}
    return {**mine, **moved}


def _alike(
    maker: Maker, screened: Screened, shots: Mapping[str, Shot], tried: Mapping[str, Sequence[Parameters]]
) -> dict[str, list[Shot]]:
    """Those of the tried that launch what the shot launches."""
    points = [
        (name, Point(workload=shots[name].point.workload, parameters=p)) for name, row in tried.items() for p in row
    ]
    found: dict[str, list[Shot]] = {}
    for (name, point), gated in zip(points, maker.gated(screened, [point for _, point in points]), strict=True):
        if isinstance(gated, Gated) and _launches(gated.lowered.plans[0]) == _launches(shots[name].plan):
            found.setdefault(name, []).append(Shot(point=point, gated=gated, built=shots[name].built))
    return found


def _launches(plan: Plan) -> object:
    """What reaches the chip. Constants are left out: where they matter they are in the TTIR."""
    return [(x.kernel, x.grid, x.arguments, x.options, x.ttir) for x in plan.launches], plan.roots, plan.outputs
