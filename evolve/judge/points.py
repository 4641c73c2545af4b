"""Points of a candidate's space made ready to launch: lowered, gated and built, on CPUs and without a GPU's lease.

`Maker.make` takes as many points as there are, spreads them over the jails' and the builder's processes, and gives for
each a `Shot` or the sentence that a stage holds against it. Nothing here raises for a candidate's fault: a point that
ends the whole run of a jail is found by halving, and the others go on. It knows no clock and chooses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import ceil

from evolve.judge.build import Builder, Key
from evolve.judge.gate import gate, named
from evolve.judge.jail import Jail
from evolve.judge.lower import lower
from evolve.judge.plan import Lowered, Plan
from evolve.judge.plan_json import PlanError, decode, encode
from evolve.judge.stages import Binary, Built, Gated, Point, Ruling, Screened, Target
from evolve.problem import Problem
from evolve.tuner import key_of
from evolve.types import Scalar

UNLOWERED = "it does not lower: the host function or Triton refuses it"
LATE = "not tried: the time was up"
CHUNK = 6  # points that are worth a run of the jail of their own: it starts in the time that two of them take,
LARGEST = 24  # and what is begun when the time is up comes to its end
# What a compiler may take for one of many points. One that takes longer has no place in a search: it is not known to
# be fast, and while it builds nothing else does.
BUILD_SECONDS = 20.0
AFTER_TTIR = ("num_warps", "num_stages", "maxnreg")  # points that differ in these alone share their TTIR


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One point of one workload, ready to launch."""

    point: Point
    gated: Gated
    built: Built

    @property
    def plan(self) -> Plan:
        return self.gated.lowered.plans[0]

    @property
    def workload(self) -> str:
        return self.point.workload.name

    @property
    def twin(self) -> str:
        """Equal for points that are the same to the chip, whatever they are called."""
        rows = []
        for launch in self.plan.launches:
            made = self.built.of(launch)
            options = [option for option in launch.options if option[0] not in AFTER_TTIR]
            rows.append((made.sass, made.shared_bytes, made.threads, launch.grid, launch.arguments, options))
        return repr((rows, self.plan.roots))

    @property
    def spills_bytes(self) -> int:
        return max((binary.spills_bytes for binary in self.built.binaries.values()), default=0)


@dataclass(frozen=True, kw_only=True)
class Maker:
    problem: Problem
    target: Target
    jail: Jail
    builder: Builder
    width: int = 1  # runs of the jail at once
    build_seconds: float = BUILD_SECONDS
    lean: bool = False  # whoever has a clock does not count instructions
    over: Callable[[], bool] = field(default=lambda: False)  # no time is left; what is not begun is not tried

    def make(self, screened: Screened, points: Sequence[Point], *, shuffle_seed: int = 0) -> list[Shot | str]:
        """In the order of the points."""
        if not points:
            return []
        chunks = _chunks(points, self.width)
        with ThreadPoolExecutor(min(self.width, len(chunks)), thread_name_prefix="points") as threads:
            found = list(threads.map(lambda chunk: self._made(screened, chunk, shuffle_seed), chunks))
        by_name = {
            _name(p.workload.name, p.parameters): shot
            for chunk, shots in zip(chunks, found, strict=True)
            for p, shot in zip(chunk, shots, strict=True)
        }
        return [by_name[_name(p.workload.name, p.parameters)] for p in points]

    def gated(self, screened: Screened, points: Sequence[Point]) -> list[Gated | str]:
        """Lowered and gated, not built; in the order of the points."""
        return self._gated(screened, points, 0) if points else []

    def _made(self, screened: Screened, points: Sequence[Point], shuffle_seed: int) -> list[Shot | str]:
        if self.over():
            return [LATE] * len(points)
        passed = self._gated(screened, points, shuffle_seed)
        gated = [g for g in passed if isinstance(g, Gated)]
        modules = {name: text for g in gated for name, text in g.lowered.modules.items()}
        plans = tuple(plan for g in gated for plan in g.lowered.plans)
        lowered = Lowered(plans=plans, modules=modules)
        each = self.builder.build_each(lowered, timeout=self.build_seconds, lean=self.lean) if plans else {}
        return [
            found if isinstance(found, str) else _shot(point, found, each)
            for point, found in zip(points, passed, strict=True)
        ]

    def _gated(self, screened: Screened, points: Sequence[Point], shuffle_seed: int) -> list[Gated | str]:
        """Each by itself, or why not. Where one point ends the whole run of the jail, it is found by halving."""
        try:
            raw = lower(
                self.jail,
                screened,
                self.problem,
                points,
                self.target,
                shuffle_seed=shuffle_seed,
                skip_failures=True,
            )
            found = dict(_by_point(decode(raw)))
        except Ruling as ruling:
            if len(points) == 1:
                return [ruling.feedback]
            if self.over():
                return [LATE] * len(points)
            half = len(points) // 2
            halves = (points[:half], points[half:])
            return [each for some in halves for each in self._gated(screened, some, shuffle_seed)]
        except PlanError as error:
            return [str(error)] * len(points)
        return [self._gate(screened, p, found.get(_name(p.workload.name, p.parameters))) for p in points]

    def _gate(self, screened: Screened, point: Point, alone: Lowered | None) -> Gated | str:
        if alone is None:
            return UNLOWERED
        try:
            return gate(encode(alone), screened=screened, problem=self.problem, points=[point], target=self.target)
        except Ruling as ruling:
            return ruling.feedback


def _shot(point: Point, gated: Gated, each: Mapping[Key, Binary | Ruling]) -> Shot | str:
    binaries: dict[Key, Binary] = {}
    for launch in gated.lowered.plans[0].launches:
        made = each[launch.ttir, launch.options]
        if isinstance(made, Ruling):
            return made.feedback
        binaries[launch.ttir, launch.options] = made
    return Shot(point=point, gated=gated, built=Built(binaries=binaries))


def _chunks(points: Sequence[Point], width: int) -> list[list[Point]]:
    """Points that share their TTIR stay together: within a run it is lowered once."""
    alike: dict[object, list[Point]] = {}
    for point in points:
        shown = {name: value for name, value in point.parameters.items() if name not in AFTER_TTIR}
        alike.setdefault(key_of(shown), []).append(point)
    least, most = ceil(len(points) / LARGEST), ceil(len(points) / CHUNK)
    chunks: list[list[Point]] = [[] for _ in range(max(least, min(width, most)))]
    for group in sorted(alike.values(), key=len, reverse=True):
        min(chunks, key=len).extend(group)
    return [chunk for chunk in chunks if chunk]


def _by_point(lowered: Lowered) -> Iterator[tuple[tuple[str, str], Lowered]]:
    """Every plan with its own modules, by the point that it says it is for; the gate holds it to that."""
    for plan in lowered.plans:
        needed = {launch.ttir for launch in plan.launches} & lowered.modules.keys()
        alone = Lowered(plans=(plan,), modules={name: lowered.modules[name] for name in sorted(needed)})
        yield _name(plan.workload, dict(plan.parameters)), alone


def _name(workload: str, parameters: Mapping[str, Scalar]) -> tuple[str, str]:
    return workload, repr(named(parameters))


def merged(shots: Sequence[Shot]) -> tuple[Lowered, Built]:
    """Many shots as one candidate's plans and kernels."""
    plans = tuple(shot.plan for shot in shots)
    modules = {name: text for shot in shots for name, text in shot.gated.lowered.modules.items()}
    binaries = {key: binary for shot in shots for key, binary in shot.built.binaries.items()}
    return Lowered(plans=plans, modules=modules), Built(binaries=binaries)
