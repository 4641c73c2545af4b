"""How fast the tuner asks, and how many questions it needs. Needs no GPU: `python benchmarks/tuner.py [--seeds N]`.

The landscape is a closed form with what real ones have: tiles that must fill the chip, a pipeline with a best depth,
a cliff where accumulators spill, points that do not build. It says nothing about any kernel; it compares ways to ask:
the tuner (four questions at a time), and drawing at random among the same feasible points. How near the judge's search
comes on times that an H200 gave says tuner_replay.py.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

from evolve.tuner import Point, Tuner
from evolve.tuner_known import Limits, Setting
from evolve.tuner_priors import priors

SPACE = {
    "BLOCK_M": (16, 32, 64, 128, 256),
    "BLOCK_N": (32, 64, 128, 256),
    "BLOCK_K": (32, 64, 128),
    "num_warps": (4, 8),
    "num_stages": (2, 3, 4, 5),
    "GROUP_M": (1, 4, 8, 16),
}
DEFAULTS = {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "num_warps": 4, "num_stages": 2, "GROUP_M": 1}
SIZES = {"square": (4096, 4096, 4096), "skinny": (16, 4096, 4096), "deep": (512, 512, 16384)}
SHARED, SMS = 232_448, 132
NEAR = 1.02  # what counts as found: within two per cent of the best point of all


def landscape(m: int, n: int, k: int) -> Callable[[Point], float | None]:
    def time_us(point: Point) -> float | None:
        bm, bn, bk, warps, stages, group = (int(point[name]) for name in SPACE)
        if (bm + bn) * bk * 2 * stages > SHARED:
            return None
        waves = math.ceil(math.ceil(m / bm) * math.ceil(n / bn) / SMS)
        rate = 1.0 if bm >= 64 else 0.6
        feed = min(1.0, bm * bn / (bm + bn) / 64) * (1 + 0.03 * math.log2(group))
        spill = 3.0 if bm * bn / (32 * warps) > 128 else 1.0
        ahead = 1 + 0.6 / (stages * bk / 32) + 0.02 * stages
        loop = bm * bn * k / (6.0e6 * rate * feed) * ahead * spill
        return 3.0 + waves * (1.2 + loop + 0.1 * k / bk)

    return time_us


def questions(tuner: Tuner, time_us: Callable[[Point], float | None], goal: float) -> int:
    """Until the goal is met; the whole budget where it never is."""
    count = 0
    while asked := tuner.ask(4):
        for point in asked:
            count += 1
            value = time_us(point)
            tuner.tell(point, value)
            if value is not None and value <= goal:
                return count
    return count


def drawn(points: list[Point], time_us: Callable[[Point], float | None], goal: float, seed: int, most: int) -> int:
    order = random.Random(seed).sample(points, most)
    values = [time_us(point) for point in order]
    return next((i + 1 for i, value in enumerate(values) if value is not None and value <= goal), most)


def compare(seeds: int, budget: int) -> None:
    limits = Limits(setting=Setting(shared_bytes=SHARED, element_bytes=2))
    everything: list[Point] = [dict(zip(SPACE, values, strict=True)) for values in product(*SPACE.values())]
    feasible = [point for point in everything if limits(point) is None]
    print(f"{len(everything)} points, {len(feasible)} feasible; median questions of {seeds} seeds, at most {budget}")
    print(f"{'':<8} {'best µs':>8} {'defaults':>9} {'tuner, priors':>14} {'tuner, cold':>12} {'random':>7}")
    for name, sizes in SIZES.items():
        time_us = landscape(*sizes)
        setting = Setting(sizes=dict(zip("MNK", sizes, strict=True)), shared_bytes=SHARED, element_bytes=2, sms=SMS)
        best = min(value for point in feasible if (value := time_us(point)) is not None)
        rows: dict[str, list[int]] = {"priors": [], "cold": [], "random": []}
        for seed in range(seeds):
            for kind, start in (("priors", [DEFAULTS, *priors(SPACE, setting)]), ("cold", [DEFAULTS])):
                tuner = Tuner(SPACE, start=start, random_seed=seed, points=budget, feasible=limits)
                rows[kind].append(questions(tuner, time_us, best * NEAR))
            rows["random"].append(drawn(feasible, time_us, best * NEAR, seed, min(budget, len(feasible))))
        figures = [median(rows[kind]) for kind in ("priors", "cold", "random")]
        print("{:<8} {:>8.1f} {:>9.1f} {:>14g} {:>12g} {:>7g}".format(name, best, time_us(DEFAULTS) or 0.0, *figures))


def rate(points: int) -> None:
    time_us = landscape(*SIZES["square"])
    Tuner(SPACE, points=points).ask()  # the import is paid once
    began = time.perf_counter()
    tuner = Tuner(SPACE, points=points, feasible=Limits(setting=Setting(shared_bytes=SHARED, element_bytes=2)))
    count = questions(tuner, time_us, 0.0)
    print(f"{count} questions, asked and told, in {time.perf_counter() - began:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=11)
    parser.add_argument("--budget", type=int, default=200)
    given = parser.parse_args()
    rate(150)
    compare(given.seeds, given.budget)


if __name__ == "__main__":
    main()
