"""What asking and observing cost, and what the population weighs: python benchmarks/population.py [STEPS ...]

Candidates, verdicts and scores are drawn at random (60 % PASSED, all cells of the default axes, 3 digests each), with
ever better ones late, as a search would have them. The journal is a dict: its time is not in these numbers, and most of
the memory is its.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

from evolve.population import Population
from evolve.problem import AXES
from evolve.types import Attempt, Candidate, Confirmed, Evaluation, Judged, Measurement, Verdict

WINDOW = 1000  # steps over which a cost is averaged
CONFIRM_EVERY = 250


def evaluation(rng: random.Random, step: int) -> Evaluation:
    digests = tuple(f"{kind}:{rng.getrandbits(64):016x}" for kind in ("ast", "plan", "sass"))
    if rng.random() > 0.6:
        return Evaluation(verdict=Verdict.INCORRECT, feedback="wrong", stage="check", digests=digests)
    ratio = 0.5 + rng.random() + step * 1e-6
    time_us = 100 / ratio
    measured = Measurement(
        workload="w", baseline="b", time_us=time_us, ratio=ratio, ratio_low=ratio * 0.99, ratio_high=ratio * 1.01
    )
    traits = {name: rng.choice(labels) for name, labels in AXES.items()}
    return Evaluation(
        verdict=Verdict.PASSED, measurements=(measured,), traits=traits, digests=digests, ranking_key="gpu"
    )


def resident_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def main(marks: list[int]) -> None:
    rng = random.Random(0)
    journal: dict[str, Attempt] = {}
    events: list[Judged | Confirmed] = []
    population = Population(axes=AXES, islands=5, random_seed=1, attempt=journal.__getitem__)
    asking = observing = 0.0
    print(f"{'steps':>8} {'ask µs':>8} {'observe µs':>10} {'live':>5} {'known':>7} {'RSS MiB':>8}")
    for step in range(max(marks) + 1):
        began = time.perf_counter()
        draw = population.ask(step)
        asked = time.perf_counter()
        parent = draw.parent.id if draw.parent else None
        candidate = Candidate(step=step, source=f"x = {step}\n", member="m", kind="diff", parent_id=parent)
        judged = Judged(step=step, candidate=candidate, evaluation=evaluation(rng, step))
        journal[candidate.id] = Attempt(candidate=candidate, evaluation=judged.evaluation)
        batch: list[Judged | Confirmed] = [judged]
        if step % CONFIRM_EVERY == 0 and judged.evaluation.passed:
            batch.append(Confirmed(step=step, candidate_id=candidate.id, evaluation=judged.evaluation))
        ready = time.perf_counter()
        for event in batch:
            population.observe(event)
        observing += time.perf_counter() - ready
        asking += asked - began
        events += batch
        if step + 1 in marks:
            micro = 1e6 / WINDOW
            print(
                f"{step + 1:8} {asking * micro:8.0f} {observing * micro:10.0f} {len(population):5} "
                f"{len(population.known):7} {resident_mib():8.0f}"
            )
        if (step + 1) % WINDOW == 0:
            asking = observing = 0.0
    began = time.perf_counter()
    again = Population(axes=AXES, islands=5, random_seed=1, attempt=journal.__getitem__)
    for event in events:
        again.observe(event)
    same = again.cells() == population.cells() and again.ask(10**6) == population.ask(10**6)
    print(
        f"replay of {len(events)} events: {time.perf_counter() - began:.2f} s, {'the same' if same else 'NOT THE SAME'}"
    )


if __name__ == "__main__":
    main([int(a) for a in sys.argv[1:]] or [1_000, 10_000, 100_000])
