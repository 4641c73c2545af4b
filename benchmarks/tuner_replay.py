"""The tuner against recorded times: how near to the best point of a space it comes, and with how many points.

    python benchmarks/tuner_replay.py [--seeds 5] [--share 0.25] [--batch 10] [--cases]

Needs no GPU. Every case is a structure and a workload of an H200; its points' recorded times answer the very search
that the judge runs (`Search`, `Limits`, `priors`), which starts at the kernel's defaults and may ask a quarter of the
points. The problem's other workloads are not there, so nothing is shared between them.

    grid    every point of a space was timed (data/spaces.json by model/spaces.py, autotune's tables of tuner_gpu.py)
    run     40 of attention's 54 points, as a run's own tuner timed them; the others are no points here
    pooled  the cost model's data set: 20 to 38 tiles, of which each structure has some. What is missing is filled in as
            what tile and structure are worth on the average (logarithms add up); the recorded ones stand as they are.
            These tiles were chosen by the people who wrote the priors down: it is the easiest of the three

What it cannot show: points that do not build (a space holds those that did), and noise between two timings of a point.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "model")]

from evolve.problem import load_problem  # noqa: E402
from evolve.tuner import Point, Tuner, key_of  # noqa: E402
from evolve.tuner_known import Limits, Setting, pairs, plain, sides  # noqa: E402
from evolve.tuner_priors import priors  # noqa: E402
from evolve.tuner_search import Search  # noqa: E402
from evolve.types import Scalar  # noqa: E402

DATA = HERE / "model" / "data"
NEAR = 0.02
DEFAULTS = {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "num_warps": 4, "num_stages": 2}
LEAST = 12  # points of a space that is worth a search


@dataclass(frozen=True, kw_only=True)
class Case:
    kind: str
    name: str
    setting: Setting
    times: Mapping[Any, float] = field(repr=False)  # by key of the point
    points: Sequence[Point] = field(repr=False)

    @property
    def space(self) -> dict[str, tuple[Scalar, ...]]:
        names = self.points[0].keys()
        return {n: tuple({repr(p[n]): p[n] for p in self.points}.values()) for n in names}

    @property
    def best(self) -> float:
        return min(self.times.values())


# --- Cases ------------------------------------------------------------------------------------------------------------


def case(kind: str, name: str, problem: str, sizes: Mapping[str, Scalar], rows: Sequence[tuple[Point, float]]) -> Case:
    setting = Setting(
        sizes=sizes,
        chained=problem == "attention",
        wgmma=True,
        element_bytes=2,
    )
    times = {key_of(point): us for point, us in rows}
    points = list({key_of(point): point for point, _ in rows}.values())
    return Case(kind=kind, name=name, setting=setting, times=times, points=points)


def grids() -> Iterator[Case]:
    path = DATA / "spaces.json"
    found: dict[tuple[str, str, str], list[tuple[Point, float]]] = {}
    for row in json.loads(path.read_text())["rows"] if path.exists() else ():
        key = (row["problem"], row["workload"], row["structure"])
        found.setdefault(key, []).append((row["parameters"], row["time_us"]))
    for (problem, workload, structure), rows in found.items():
        yield case("grid", f"{workload} {structure}", problem, sizes_of(problem, workload), rows)


def recorded() -> Iterator[Case]:
    path = DATA / "tuned_h200.json"
    for row in json.loads(path.read_text())["tables"] if path.exists() else ():
        points = [(point, us) for point, us in row["points"] if us is not None]
        yield case(row["kind"], row["name"], row["problem"], row["sizes"], points)


def pooled() -> Iterator[Case]:
    """By workload: logarithms of tile and structure, by least squares over what was recorded."""
    found: dict[tuple[str, str], dict[tuple[str, Any], float]] = {}
    tiles: dict[Any, Point] = {}
    for row in json.loads((DATA / "h200.json").read_text())["rows"]:
        tile = tile_of(row["parameters"])
        if tile is not None:
            tiles[key_of(tile)] = tile
            table = found.setdefault((row["problem"], row["workload"]), {})
            at = (row["structure"], key_of(tile))
            table[at] = min(row["time_us"], table.get(at, math.inf))
    for (problem, workload), table in found.items():
        whole = completed(table)
        for structure in sorted({s for s, _ in table}):
            rows = [(tiles[key], us) for (s, key), us in whole.items() if s == structure]
            yield case("pooled", f"{workload} {structure}", problem, sizes_of(problem, workload), rows)


def tile_of(parameters: Mapping[str, Scalar]) -> Point | None:
    """The tile by its usual names; nothing where a structure has none."""
    usual = {"TILE_R": "BLOCK_M", "TILE_C": "BLOCK_N", "TILE_D": "BLOCK_K"}
    named = {usual.get(name, name): value for name, value in parameters.items()}
    side = {name: f"BLOCK_{s}" for s, name in sides(named).items()}
    found = {side.get(n, n): v for n, v in named.items() if n in side or n in ("num_warps", "num_stages")}
    return found if {"BLOCK_M", "BLOCK_N", "num_warps", "num_stages"} <= found.keys() else None


def completed(table: Mapping[tuple[str, Any], float]) -> dict[tuple[str, Any], float]:
    structures, tiles = sorted({s for s, _ in table}), sorted({t for _, t in table})
    rows = np.zeros((len(table), len(structures) + len(tiles)))
    for n, (structure, tile) in enumerate(table):
        rows[n, structures.index(structure)] = rows[n, len(structures) + tiles.index(tile)] = 1
    worth = np.linalg.lstsq(rows, np.log(list(table.values())), rcond=None)[0]
    filled = {
        (s, t): math.exp(worth[i] + worth[len(structures) + j])
        for i, s in enumerate(structures)
        for j, t in enumerate(tiles)
    }
    return {**filled, **table}


def sizes_of(problem: str, workload: str) -> Mapping[str, Scalar]:
    loaded = load_problem(HERE.parent / "evaluators" / f"{problem}.py")
    return loaded.workload(workload, loaded.variant("bf16")).params


# --- A search ---------------------------------------------------------------------------------------------------------


def search(case: Case, share: float, batch: int, seed: int) -> tuple[float, int]:
    """The best found over the best there is, and how many points were asked."""
    points = max(4, math.floor(share * len(case.points)))
    limits = Limits(setting=case.setting, doubts=math.prod(map(len, case.space.values())) > points)

    def feasible(point: Point) -> str | None:
        return limits(point) if key_of(point) in case.times else "it is not among the recorded"

    start = [p for p in [usual(case), *priors(case.space, case.setting)] if key_of(p) in case.times]
    tuner = Tuner(
        case.space,
        start=start,
        random_seed=seed,
        points=points,
        feasible=feasible,
        pairs=pairs(case.space),
        plain=plain(case.space),
    )
    asking = Search(tuners={"one": tuner}, points=points)
    while asked := asking.ask(batch):
        for _, point in asked:
            tuner.tell(point, case.times[key_of(point)])
        asking.share([trial.point for trial in tuner.leaders(3)])
    best = tuner.best
    return (best.value_us or math.inf) / case.best if best else math.inf, len(tuner.trials)


def usual(case: Case) -> Point:
    """The seeds' defaults, as near as the space has them."""
    return {
        name: min(values, key=lambda v: abs(float(v) - DEFAULTS[name])) if name in DEFAULTS else values[0]
        for name, values in case.space.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--share", type=float, default=0.25, help="of a space's points that may be asked")
    parser.add_argument("--batch", type=int, default=10, help="points that are asked before any is told")
    parser.add_argument("--cases", action="store_true", help="a line for each")
    given = parser.parse_args()
    rows = []
    for each in [*grids(), *recorded(), *pooled()]:
        if len(each.points) < LEAST:
            continue
        runs = [search(each, given.share, given.batch, seed) for seed in range(given.seeds)]
        rows.append((each, [ratio for ratio, _ in runs], [asked for _, asked in runs]))
    if given.cases:
        for each, ratios, asked in sorted(rows, key=lambda r: (r[0].kind, -median(r[1]))):
            print(
                f"{each.kind:<7} {each.name:<60} {len(each.points):>4} points, asked {median(asked):>3g}, "
                f"off {median(ratios) - 1:6.1%} (worst of {given.seeds}: {max(ratios) - 1:.1%})"
            )
    for kind in dict.fromkeys(each.kind for each, _, _ in rows):
        mine = [(each, ratios, asked) for each, ratios, asked in rows if each.kind == kind]
        every = [ratio - 1 for _, ratios, _ in mine for ratio in ratios]
        share = sum(sum(asked) for _, _, asked in mine) / sum(len(e.points) * len(asked) for e, _, asked in mine)
        near = sum(off <= NEAR for off in every) / len(every)
        print(
            f"{kind}: {len(mine)} cases x {given.seeds} seeds, {share:.0%} of the points; at most {NEAR:.0%} off in "
            f"{near:.0%}, median {median(every):.1%}, worst {max(every):.1%}"
        )


if __name__ == "__main__":
    main()
