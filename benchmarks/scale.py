"""More GPUs, more candidates: one trace judged by one GPU, by all of this machine's, and by all of them through Ray.

    python benchmarks/scale.py --out DIR --seconds 120

Each phase is a process of its own with a build cache of its own, so that nothing is there when it begins. Candidates
are always at hand, four for each GPU as in a run, and timed beside the seed; the tuner is off. One in twenty leaves its
buffer and takes its GPU process with it. The clock runs from the second verdict a GPU on; afterwards all that was begun
is waited for: a step that does not end once is lost. One calibration, the first phase's, serves all three.

What is printed goes to DIR/scale.json as each phase ends. `--backend cpu` or `fake` rehearses it without a GPU.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import judge_sources as sources  # noqa: E402

from evolve.errors import EvolveError  # noqa: E402
from evolve.executors.local import LocalExecutor  # noqa: E402
from evolve.judge import backends  # noqa: E402
from evolve.judge.gpu.nvml import usable, visible  # noqa: E402
from evolve.problem import load_problem  # noqa: E402
from evolve.types import Attempt, Candidate, Evaluation, Executor, Job  # noqa: E402

PHASES = ("one", "local", "ray")
EACH = 4  # candidates in flight a GPU, as in a run
CRASHES = 20  # one in so many
OPENING = 180.0  # seconds for a phase to open and to calibrate, and for what is in flight to end
SEEDS = (11, 22, 33)


def trace(count: int, backend: str) -> list[str]:
    """The recorded replies: no two build the same, and none is known to be slow."""
    if backend == "fake":
        return [f"# fake: score=1.{i % 10} sleep=0.05\nx = {i}\n" for i in range(count)]
    shapes = [
        (m, n, k, w, s)
        for m, n, k, w in ((128, 256, 64, 8), (128, 128, 64, 8), (128, 128, 64, 4), (64, 256, 64, 8), (256, 128, 64, 8))
        for s in (3, 4)
        if (m + n) * k * 2 * s <= 200_000
    ]
    honest = [
        sources.grouped(*shape).replace("GROUP_M=8", f"GROUP_M={group}") for shape in shapes for group in range(2, 66)
    ]
    random.Random(7).shuffle(honest)
    crash = sources.LEAVES_ITS_BUFFER
    return [crash if i % CRASHES == CRASHES - 1 else honest[i % len(honest)] for i in range(count)]


@dataclass
class Measured:
    seconds: float
    submitted: int = 0
    ended: Counter[int] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)


async def measured(executor: Executor, codes: list[str], seconds: float, stations: int) -> Measured:
    """Keep every GPU supplied until the time is up, then wait for what was begun."""
    seed = Candidate(step=0, source=codes[0], member="seed", kind="seed")
    first = await executor.evaluate(Job(candidate=seed, random_seeds=SEEDS))
    if not first.passed:
        raise SystemExit(f"the seed is {first.verdict} in {first.stage}: {first.feedback}")
    incumbent = Attempt(candidate=seed, evaluation=first)
    found, flying = Measured(seconds), dict[asyncio.Task[Evaluation], int]()
    began: float | None = None

    def late() -> bool:
        return began is not None and time.monotonic() - began > seconds

    while not late() or flying:
        while len(flying) < EACH * stations and not late():
            found.submitted += 1
            step = found.submitted
            candidate = Candidate(step=step, source=codes[step % len(codes)], member="trace", kind="rewrite")
            job = Job(candidate=candidate, incumbent=incumbent, parent=first, random_seeds=SEEDS)
            flying[asyncio.ensure_future(executor.evaluate(job))] = step
        done, _ = await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED, timeout=OPENING)
        if not done:
            break
        for task in done:
            step = flying.pop(task)
            if (error := task.exception()) is not None:
                found.broken.append(f"step {step}: {error}"[:300])
                continue
            found.ended[step] += 1
            if began is None and len(found.ended) >= 2 * stations:
                began = time.monotonic()
            elif began is not None:
                found.rows.append(row(step, task.result(), time.monotonic() - began))
    return found


def row(step: int, evaluation: Evaluation, at: float) -> dict[str, Any]:
    gpu = (evaluation.evidence.get("environment") or {}).get("gpu") or {}
    return {
        "step": step,
        "at": round(at, 3),
        "verdict": str(evaluation.verdict),
        "gpu": str(gpu.get("uuid", "none")),
        "leased": round(evaluation.seconds.get("gpu", 0.0), 3),
        "score": evaluation.score,
    }


def summary(found: Measured, stations: int, opening: float) -> dict[str, Any]:
    within = [r for r in found.rows if r["at"] <= found.seconds]
    leased: Counter[str] = Counter()
    for each in within:
        leased[each["gpu"]] += each["leased"]
    return {
        "stations": stations,
        "opening_seconds": round(opening, 1),
        "seconds": found.seconds,
        "judged": len(within),
        "candidates_per_hour": round(len(within) / found.seconds * 3600),
        "lease_busy": {gpu: round(seconds / found.seconds, 3) for gpu, seconds in sorted(leased.items())},
        "verdicts": dict(Counter(r["verdict"] for r in within)),
        "submitted": found.submitted,
        "lost": found.submitted - len(found.ended) - len(found.broken),
        "ended_twice": sum(count > 1 for count in found.ended.values()),
        "broken": found.broken,
        "rows": found.rows,
    }


# --- One phase, in a process of its own -------------------------------------------------------------------------------


def phase(name: str, options: argparse.Namespace, calibration: Path, result: Path) -> None:
    kept = json.loads(calibration.read_text()) if calibration.exists() else None
    with tempfile.TemporaryDirectory(prefix="evolve-scale-") as cache:
        os.environ["TMPDIR"] = tempfile.tempdir = cache  # judges of a cluster keep their builds there
        began = time.monotonic()
        executor, opened, stations = started(name, options, Path(cache), kept)
        opening = time.monotonic() - began
        if kept is None:
            calibration.write_text(json.dumps(dict(opened.calibration)))
        try:
            found = asyncio.run(measured(executor, trace(2000, options.backend), options.seconds, stations))
        finally:
            executor.close()
        made = summary(found, stations, opening)
        result.write_text(json.dumps({**made, "device": opened.device, "ranking_key": opened.ranking_key}))


def started(
    name: str, options: argparse.Namespace, cache: Path, kept: dict[str, Any] | None
) -> tuple[Any, backends.Opened, int]:
    shipped = ROOT / ("tests/data/fake_problem.py" if options.backend == "fake" else "benchmarks/judge_problem.py")
    problem = load_problem(shipped)
    bf16 = [v for v in problem.variants if v.name == ("bf16" if options.backend == "gpu" else "fp16")]
    settings = backends.Settings(
        problem=problem,
        variant=(bf16 or list(problem.variants))[0],
        backend=options.backend,
        target="sm_90",
        cache=cache / "cache",
        width=options.width or os.cpu_count() or 1,
        timeout=120.0,
    )
    settings.cache.mkdir()
    seed = trace(1, options.backend)[0]
    if name != "ray":
        every = backends.open_all(settings, seed=seed, calibration=kept)
        return LocalExecutor(*(each.backend for each in every), width=settings.width), every[0], len(every)
    from evolve.executors.cluster import open_cluster

    executor, opened = open_cluster(settings, address=None, seed=seed, calibration=kept)
    wanted, end = max(1, usable()), time.monotonic() + OPENING
    while executor.stations < wanted and time.monotonic() < end:
        time.sleep(0.2)
    return executor, opened, executor.stations


# --- All of them ------------------------------------------------------------------------------------------------------


def run_phase(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    environment = dict(os.environ)
    if name == "one" and options.backend == "gpu":
        environment["CUDA_VISIBLE_DEVICES"] = visible(0)
    result, log = folder / f"{name}.json", folder / f"{name}.log"
    command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--phase", name, "--folder", str(folder)]
    with log.open("w") as out:
        try:
            subprocess.run(
                command, env=environment, stdout=out, stderr=out, timeout=options.seconds + OPENING, check=False
            )
        except subprocess.TimeoutExpired:
            out.write(f"\nstopped after {options.seconds + OPENING:.0f} s\n")
    if result.exists():
        made: dict[str, Any] = json.loads(result.read_text())
        return made
    return {"failed": log.read_text(errors="replace")[-3000:]}


def compared(phases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Against one GPU: how many times the candidates, and whether the same candidate still scores the same."""
    one, found = phases.get("one", {}), {}
    for name in ("local", "ray"):
        other = phases.get(name, {})
        if not one.get("judged") or not other.get("judged"):
            continue
        scores = {r["step"]: r["score"] for r in one["rows"] if r["score"] > 0}
        apart = [
            abs(math.log(r["score"] / scores[r["step"]])) for r in other["rows"] if r["score"] and r["step"] in scores
        ]
        found[name] = {
            "ratio": round(other["candidates_per_hour"] / one["candidates_per_hour"], 3),
            "scores_apart_median": round(statistics.median(apart), 5) if apart else None,
            "scores_compared": len(apart),
        }
    return found


def table(phases: dict[str, dict[str, Any]], ratios: dict[str, Any]) -> str:
    lines = [f"{'phase':<7}{'GPUs':>5}{'judged':>8}{'an hour':>9}{'ratio':>7}{'lost':>6}  lease busy"]
    for name, made in phases.items():
        if "failed" in made:
            lines.append(f"{name:<7} failed: {made['failed'].strip().splitlines()[-1:]}")
            continue
        ratio = ratios.get(name, {}).get("ratio", 1.0 if name == "one" else float("nan"))
        busy = ", ".join(f"{share:.0%}" for share in made["lease_busy"].values())
        counts = f"{made['stations']:>5}{made['judged']:>8}{made['candidates_per_hour']:>9}"
        lines.append(f"{name:<7}{counts}{ratio:>7.2f}{made['lost'] + made['ended_twice']:>6}  {busy}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("scale-benchmark"))
    parser.add_argument("--seconds", type=float, default=120.0, help="of each phase's clock")
    parser.add_argument("--backend", default="gpu")
    parser.add_argument("--phases", default=",".join(PHASES))
    parser.add_argument("--width", type=int, default=0, help="cores to lower and build on; 0: all")
    parser.add_argument("--phase", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.phase:
        phase(options.phase, options, options.folder / "calibration.json", options.folder / f"{options.phase}.json")
        return
    options.out.mkdir(parents=True, exist_ok=True)
    phases: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="evolve-scale-out-") as folder:
        for name in options.phases.split(","):
            phases[name] = run_phase(name, options, Path(folder))
            ratios = compared(phases)
            (options.out / "scale.json").write_text(json.dumps({"phases": phases, "against_one": ratios}, indent=1))
            print(table({name: phases[name]}, ratios), flush=True)
    print("\n" + table(phases, compared(phases)))
    for name, compare in compared(phases).items():
        print(f"{name}: the same candidates score {compare['scores_apart_median']} apart (median of the logarithm)")


if __name__ == "__main__":
    try:
        main()
    except EvolveError as error:
        raise SystemExit(f"scale: {error}") from error
