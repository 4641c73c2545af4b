"""Fits the model's constants to the measured points, and says how well it does on structures that it has not seen.

    python benchmarks/model/fit.py [--data benchmarks/model/data/h200.json] [--write] [--folds 5]

Nothing is built and no GPU is needed: plans, TTIR and what the kernels cost are in the data set. A fold leaves whole
structures out of every workload; the figures printed are of points whose structure the fit did not see. `--write` fits
to all of them and puts the constants, with these figures, into evolve/data/model.json.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import spearmanr

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import dataset  # noqa: E402
from dataset import Measured  # noqa: E402
from sources import problem_of  # noqa: E402

from evolve.judge.constants import FITTED, Constants, constants  # noqa: E402, F401
from evolve.judge.cost import timed  # noqa: E402
from evolve.judge.cost_traffic import us_for  # noqa: E402
from evolve.judge.cost_work import Work, works_for  # noqa: E402
from evolve.judge.stages import Target  # noqa: E402
from evolve.judge.targets import calibrated, find  # noqa: E402
from evolve.judge.ttir import parse  # noqa: E402

DATA = HERE / "data" / "h200.json"
DOCS = HERE.parents[1] / "docs" / "model.md"
MODEL = HERE.parents[1] / "evolve" / "data" / "model.json"
RATES = ("bfloat16", "float16", "tf32")
HELD_BY = 0.15  # of a residual for a constant that moves by a factor of e: a constant that nothing speaks for stays
ROUGH = 0.3  # residuals (of the logarithm) above this count less and less
# What cannot be: a part of a ceiling that the chip's data sheet does not have, an overlap worse than none.
BOUNDS: Mapping[str, tuple[float, float]] = {
    "wgmma": (0.5, 1.25),
    "mma": (0.3, 0.9),
    "memory": (0.7, 1.15),
    "l2": (0.6, 2.0),
    "overlap": (1.5, 12.0),
    "units": (1.5, 12.0),
    "serial": (0.01, 1.5),
    "dependent": (0.05, 1.5),
}
TOP = 5


@dataclass(frozen=True, kw_only=True)
class Point:
    """A measured point with what its time is predicted from."""

    row: Measured
    works: tuple[Work, ...]
    cleared: tuple[int, ...]  # bytes of each memset

    def predicted_us(self, target: Target, c: Constants) -> float:
        memory = target.memory_gbs * c.memory
        cleared = sum(target.launch_us + us_for(nbytes, memory) for nbytes in self.cleared)
        return sum(timed(work, target, c).time_us for work in self.works) + cleared


def target_of(head: Mapping[str, Any]) -> Target:
    measured = head.get("ceilings") or {}
    found = find("sm_90", str(head.get("gpu", {}).get("device", "NVIDIA H200")))
    if not measured:
        return found
    kept = {k: measured[k] for k in ("memory_gbs", "l2_gbs", "launch_us") if measured.get(k)}
    return calibrated(found, {**kept, "tflops": {k: v for k, v in measured["tflops"].items() if k in RATES}})


def reached(head: Mapping[str, Any]) -> dict[str, float]:
    """Of the data sheet, what calibration measured beside the points: for chips that nobody has calibrated."""
    measured, sheet = head.get("ceilings") or {}, find("sm_90", "NVIDIA H200")
    if not measured:
        return {}
    return {
        "reached_tensor": measured["tflops"]["bfloat16"] / sheet.tflops["bfloat16"],
        "reached_memory": measured["memory_gbs"] / sheet.memory_gbs,
        "reached_l2": measured["l2_gbs"] / sheet.l2_gbs,
    }


def fit_for_use(rows: Sequence[Measured], target: Target, most: float) -> list[Measured]:
    """Without times that the chip cannot reach, and without those whose passes disagree."""
    sheet = find(target.name, target.device)
    return [row for row in rows if row.spread <= most and row.time_us > 0.97 * _least_us(row, sheet)]


def _least_us(row: Measured, sheet: Target) -> float:
    """By the data sheet: the workload's operations at full rate, its bytes at full bandwidth."""
    problem, variant = problem_of(row.problem)
    workload = problem.workload(row.workload, variant)
    flops = problem.flops(workload) / (sheet.tflops["bfloat16"] * 1e6) if problem.flops else 0.0
    moved = problem.bytes_moved(workload) - sheet.l2_bytes  # some of it may lie in L2 from the call before
    return max(flops, us_for(max(0.0, moved), sheet.memory_gbs))


def points_of(rows: Sequence[Measured], target: Target) -> list[Point]:
    found = []
    for row in rows:
        modules = {name: parse(text) for name, text in row.ttir.items()}
        works = tuple(works_for(row.plan, modules, dict(enumerate(row.binaries)), target))
        found.append(Point(row=row, works=works, cleared=tuple(r.nbytes for r in row.plan.roots if r.zeroed)))
    return found


def fit(points: Sequence[Point], target: Target, start: Constants, names: Sequence[str] = FITTED) -> Constants:
    """Least squares of logarithms, each workload weighing the same, held by `start` where the points say nothing."""
    sizes = {p.row.key: sum(q.row.key == p.row.key for q in points) for p in points}
    weights = np.array([math.sqrt(100.0 / sizes[p.row.key]) for p in points])
    measured = np.log([p.row.time_us for p in points])
    origin = np.log([getattr(start, name) for name in names])

    def made(x: np.ndarray[Any, Any]) -> Constants:
        return replace(start, **dict(zip(names, map(float, np.exp(x)), strict=True)))

    def residuals(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        c = made(x)
        off = np.log([p.predicted_us(target, c) for p in points]) - measured
        return np.concatenate([weights * _softened(off), HELD_BY * math.sqrt(len(points)) * (x - origin) / 4])

    low = np.array([math.log(BOUNDS.get(n, (1e-3, 1e3))[0]) for n in names])
    high = np.array([math.log(BOUNDS.get(n, (1e-3, 1e3))[1]) for n in names])
    found = least_squares(
        residuals, np.clip(origin, low + 1e-6, high - 1e-6), bounds=(low, high), max_nfev=14, diff_step=1e-3
    )
    return made(found.x)


def _softened(off: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A few points that the model cannot explain must not bend it for the others."""
    return np.sign(off) * ROUGH * (np.sqrt(1 + 2 * np.abs(off) / ROUGH) - 1)


def folds_of(points: Sequence[Point], count: int) -> list[set[tuple[str, str]]]:
    """Structures, by problem, dealt out."""
    hands: list[set[tuple[str, str]]] = [set() for _ in range(count)]
    for problem in sorted({p.row.problem for p in points}):
        names = sorted({p.row.structure for p in points if p.row.problem == problem})
        random.Random(3).shuffle(names)
        for n, name in enumerate(names):
            hands[n % count].add((problem, name))
    return [hand for hand in hands if hand]


def held_out(points: Sequence[Point], target: Target, start: Constants, count: int) -> dict[int, float]:
    """By place of the point, predicted by constants that have not seen its structure."""
    found: dict[int, float] = {}
    for hand in folds_of(points, count):
        seen = [p for p in points if (p.row.problem, p.row.structure) not in hand]
        c = fit(seen, target, start)
        for n, point in enumerate(points):
            if (point.row.problem, point.row.structure) in hand:
                found[n] = point.predicted_us(target, c)
    return found


def figures(points: Sequence[Point], predicted: Mapping[int, float]) -> dict[str, dict[str, Any]]:
    """For each workload: rank correlation, where the truly best point stands, and the median error."""
    rows: dict[str, dict[str, Any]] = {}
    for key in sorted({p.row.key for p in points}):
        chosen = [n for n in predicted if points[n].row.key == key]
        if len(chosen) < 3:
            continue
        true = np.array([points[n].row.time_us for n in chosen])
        model = np.array([predicted[n] for n in chosen])
        best = int(true.argmin())
        rows[key] = {
            "points": len(chosen),
            "structures": len({points[n].row.structure for n in chosen}),
            "spearman": round(float(spearmanr(true, model).statistic), 3),
            "rank_of_the_best": int((model < model[best]).sum()) + 1,
            "best_of_top_over_best": round(float(true[np.argsort(model)[:TOP]].min() / true[best]), 3),
            "median_error": round(float(np.median(np.abs(np.log(model / true)))), 3),
        }
    return rows


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        f"{'workload':<26} {'points':>6} {'structures':>10} {'Spearman':>8} {'best at':>7} {'top 5':>6} {'error':>6}"
    ]
    for key, row in rows.items():
        lines.append(
            f"{key:<26} {row['points']:>6} {row['structures']:>10} {row['spearman']:>8.3f} "
            f"{row['rank_of_the_best']:>7} {row['best_of_top_over_best']:>6.2f} {row['median_error']:>6.1%}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--spread", type=float, default=0.15, help="passes further apart than this are no measurement")
    chosen = parser.parse_args()
    head, rows = dataset.load(chosen.data)
    target = target_of(head)
    points = points_of(fit_for_use(rows, target, chosen.spread), target)
    print(f"{len(rows) - len(points)} of {len(rows)} points left out: faster than the chip, or passes too far apart")
    start = replace(Constants(), **reached(head))
    outside = figures(points, held_out(points, target, start, chosen.folds))
    print(f"structures held out, {chosen.folds} folds, {len(points)} points:\n{table(outside)}")
    c = fit(points, target, start)
    inside = figures(points, {n: p.predicted_us(target, c) for n, p in enumerate(points)})
    print(f"\nfitted to all:\n{table(inside)}\n")
    for name in FITTED:
        print(f"  {name:<14} {getattr(start, name):>8.3f} -> {getattr(c, name):.3f}")
    if chosen.write:
        kept = {
            "about": "Fitted by benchmarks/model/fit.py; constants.py says what each means.",
            "data": {"device": target.device, "versions": head.get("versions"), "points": len(points)},
            "held_out": outside,
            "constants": {name: float(f"{value:.5g}") for name, value in asdict(c).items()},
        }
        MODEL.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        print(f"written to {MODEL}")
        _into_docs(outside)


def _into_docs(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """The table of docs/model.md, so that it cannot say anything else than the file that ships."""
    head = "| workload | points | structures | Spearman | best at | top 5 | median error |\n"
    head += "|---|---|---|---|---|---|---|\n"
    lines = "".join(
        f"| {key} | {row['points']} | {row['structures']} | {row['spearman']:.2f} | {row['rank_of_the_best']} | "
        f"{row['best_of_top_over_best']:.2f} | {row['median_error']:.0%} |\n"
        for key, row in rows.items()
    )
    before, rest = DOCS.read_text(encoding="utf-8").split("| workload |", 1)
    DOCS.write_text(before + head + lines + "\n" + rest.split("\n\n", 1)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
