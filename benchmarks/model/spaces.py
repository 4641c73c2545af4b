"""Whole spaces of a few kernels, every point timed on a GPU: what benchmarks/tuner_replay.py replays searches against.

    python benchmarks/model/spaces.py --out DIR [--seconds 30] [--build-seconds 80] [--passes 2] [--stand-in]

The data set of the cost model has a few points of many structures; a search needs all points of one. Here are seven
structures in the same workloads, each over a grid of 40 to 110 points that holds good tiles and bad ones. Build and
timing are collect.py's: everything is built first, then timed by the tuner's quick clock under the lease.
DIR/spaces.json has a row a point; points that do not build are not in it, which is what they are to a search.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

import collect  # noqa: E402
import sources  # noqa: E402

from evolve.judge.stages import Point  # noqa: E402
from evolve.judge.targets import find  # noqa: E402
from evolve.tuner_known import Limits, Setting  # noqa: E402
from evolve.types import Scalar  # noqa: E402

Grid = Mapping[str, Sequence[Scalar]]
TOGETHER = 12  # points in one run of the jail
TILES: Grid = {
    "BLOCK_M": (64, 128, 256),
    "BLOCK_N": (64, 128, 256),
    "BLOCK_K": (32, 64),
    "num_warps": (4, 8),
    "num_stages": (3, 4),
}
FLAT: Grid = {
    "BLOCK_M": (16, 64),
    "BLOCK_N": (32, 64, 128),
    "BLOCK_K": (64, 128),
    "num_warps": (4, 8),
    "num_stages": (4, 6),
}
DEEP: Grid = {
    "BLOCK_M": (64, 128),
    "BLOCK_N": (32, 64, 128),
    "BLOCK_K": (64, 128),
    "num_warps": (4, 8),
    "num_stages": (3, 5),
}
HEADS: Grid = {
    "BLOCK_M": (32, 64, 128),
    "BLOCK_N": (32, 64, 128),
    "num_warps": (4, 8),
    "num_stages": (2, 3, 4),
}
GRIDS: Mapping[str, Grid] = {"4096": TILES, "skinny16": FLAT, "split_k": DEEP, "4k_causal": HEADS, "1k_d64": HEADS}
# What each has beside its tile.
MORE: Mapping[str, Grid] = {
    "seed + split-K": {"SPLIT_K": (1, 8)},
    "seed + tensor descriptors + warp specialization": {"WARP_SPECIALIZE": (True, False)},
}
PLAIN = {"4096", "skinny16", "split_k"}
STRUCTURES: Mapping[str, Mapping[str, set[str]]] = {
    "matmul": {
        "seed": PLAIN,
        "seed + tensor descriptors": {"4096", "split_k"},
        "seed + split-K": {"skinny16", "split_k"},
        "seed + tensor descriptors + warp specialization": {"4096"},
    },
    "attention": {name: {"4k_causal", "1k_d64"} for name in ("seed", "described", "two_loops")},
}


def tasks(workloads: Sequence[str]) -> Iterator[collect.Task]:
    for structure in sources.structures():
        wanted = STRUCTURES.get(structure.problem, {}).get(structure.name, set()) & set(workloads)
        for workload in sources.workloads_of(structure.problem) if wanted else ():
            if workload.name not in wanted:
                continue
            grid = {**GRIDS[workload.name], **MORE.get(structure.name, {})}
            limits = Limits(setting=Setting(sizes=workload.params, element_bytes=2))
            chosen = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
            defaults = structure.screened.defaults
            points = [
                Point(workload=workload, parameters={**defaults, **point})
                for point in chosen
                if point.keys() <= defaults.keys() and limits(point) is None
            ]
            for first in range(0, len(points), TOGETHER):
                yield collect.Task(structure=structure, points=points[first : first + TOGETHER])


Named = tuple[collect.Structure, Point]


def trials_of(producer: collect.Producer) -> tuple[list[collect.Trial], dict[int, list[Named]]]:
    """Each machine code is timed once, and stands for all points that become it; those by id of the trial."""
    found: dict[str, collect.Trial] = {}
    names: dict[int, list[Named]] = {}
    while (ready := producer.ready.get()) is not None:
        structure, shot = ready
        key = f"{structure.problem}{shot.workload}{shot.twin}"
        trial = found.setdefault(key, collect.Trial(structure=structure, shot=shot, rows=[]))
        names.setdefault(id(trial), []).append((structure, shot.point))
    return sorted(found.values(), key=lambda t: t.structure.name != "seed"), names


def measured(chosen: argparse.Namespace, cache: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What stands beside the rows, and the rows."""
    target, began = find(chosen.target), time.monotonic()
    todo = list(tasks(chosen.only or list(GRIDS)))
    about: dict[str, Any] = {"versions": {n: version(n) for n in ("torch", "triton")}, "stand_in": chosen.stand_in}
    producer = collect.Producer(todo, target, cache, began + chosen.build_seconds)
    with closing(producer):
        producer.start()
        clock: Any = collect.StandIn(target) if chosen.stand_in else collect.GpuClock(target)
        with closing(clock):
            trials, names = trials_of(producer)
            about["build_seconds"] = round(time.monotonic() - began, 1)
            print(f"{len(trials)} points built in {about['build_seconds']} s", flush=True)
            with collect.leased(clock):
                held = time.monotonic()
                clock.begin()
                about["passes"] = collect.through(trials, clock, held + chosen.seconds, chosen.passes)
                about["seconds"] = round(time.monotonic() - held, 1)
            about |= clock.environment
    return about, rows_of(trials, names)


def rows_of(trials: Sequence[collect.Trial], names: Mapping[int, Sequence[Named]]) -> list[dict[str, Any]]:
    rows = []
    for trial in trials:
        times = sorted(float(row["us"]) for row in trial.rows)
        for structure, point in names[id(trial)] if times else ():
            grid = {**GRIDS[point.workload.name], **MORE.get(structure.name, {})}
            rows.append(
                {
                    "problem": structure.problem,
                    "workload": point.workload.name,
                    "structure": structure.name,
                    "parameters": {name: point.parameters[name] for name in grid},
                    "time_us": round(times[(len(times) - 1) // 2], 3),
                    "spread": round(times[-1] / times[0] - 1, 4),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=30.0, help="of timing, under the GPU's lease")
    parser.add_argument("--passes", type=int, default=2, help="over all points; the median counts")
    parser.add_argument("--build-seconds", type=float, default=80.0, help="after that no point is begun")
    parser.add_argument("--only", action="append", choices=list(GRIDS), help="a workload; may be repeated")
    parser.add_argument("--target", default="sm_90")
    parser.add_argument("--stand-in", action="store_true")
    parser.add_argument("--cache", type=Path, help="keep what is built here between calls")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        about, rows = measured(chosen, chosen.cache or Path(scratch) / "build")
    head = [f'"{name}": {json.dumps(value)}' for name, value in about.items()]
    body = ",\n".join(json.dumps(row) for row in rows)
    (chosen.out / "spaces.json").write_text("{" + ",\n".join([*head, f'"rows": [\n{body}\n]']) + "}\n")
    counts = {f"{r['workload']} {r['structure']}": 0 for r in rows}
    for row in rows:
        counts[f"{row['workload']} {row['structure']}"] += 1
    print("\n".join(f"{n:>5} {name}" for name, n in counts.items()))


if __name__ == "__main__":
    main()
