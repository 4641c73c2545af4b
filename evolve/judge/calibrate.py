"""Getting to know a GPU before anything is judged on it: who must be beaten, how restless it is, what it can do.

`calibrate` gives one JSON object that a run keeps in its environment and every stage uses. It refuses to start where a
baseline misses the problem's own bound, because then either the bound or the baseline is wrong, and no verdict would
mean anything. Nothing is set on the GPU; what it finds is what it finds.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from evolve.errors import MachineryError, NoBaseline, ProblemError
from evolve.judge import statistics
from evolve.judge.check import OTHER_SECONDS, Baseline, seed_of
from evolve.judge.gpu.facts import workload_to
from evolve.judge.gpu.lease import lease
from evolve.judge.gpu.nvml import Gpu
from evolve.judge.gpu.pool import Pool, WorkerFault
from evolve.judge.gpu.session import Asked
from evolve.judge.statistics import Block
from evolve.problem import Problem, Variant
from evolve.types import Json, Workload

SCHEMA = 1
SAMPLE_US = 200.0  # twice what keeps events and host outside
MOST_CALLS = 128
MEMORY_SHARE = 0.2  # of the free memory, for all sets of one workload
AA_BLOCKS = 24
TRIED = {"torch": ("2.11", "2.13"), "triton": ("3.6", "3.7")}
LIMITS = {"baseline": 600.0, "candidate": 600.0, "other": OTHER_SECONDS}  # torch.compile may take its time here, once


def calibrate(
    pool: Pool,
    gpu: Gpu,
    problem: Problem,
    variant: Variant,
    workloads: Sequence[Workload],
    *,
    secret: bytes | None = None,
) -> dict[str, Json]:
    """All of it, under the lease: some seconds. `workloads` are all that the run will check or time."""
    seed = secret or secrets.token_bytes(16)
    worker = pool.take()
    try:
        with lease(gpu.uuid, label="evolve calibration") as held:
            before = gpu.read()
            foreigners = gpu.foreigners(pool.pids())
            ceilings = worker.ask({"op": "ceilings"}, seconds=OTHER_SECONDS)
            found = _workloads(worker, problem, variant, workloads, seed)
            after = gpu.read()
            seconds = held.seconds
    except WorkerFault as fault:
        raise MachineryError(f"calibration failed at {fault.at or 'its start'}: {fault.text}") from fault
    finally:
        worker.drop()
    surroundings = {k: v for k, v in worker.opened.get("opened", {}).items() if k != "pid"}
    return {
        "schema": SCHEMA,
        "gpu": {**surroundings, "driver": gpu.driver(), "uuid": gpu.uuid},
        "clocks": {"before": before.evidence() if before else None, "after": after.evidence() if after else None},
        "ceilings": ceilings["ceilings"],
        "workloads": found,
        "foreigners": list(foreigners),
        "warnings": untried(surroundings),
        "seconds": round(seconds, 3),
    }


def baselines(calibration: Mapping[str, Any]) -> dict[str, Baseline]:
    """What calibration fixed, by workload."""
    rows = calibration["workloads"].items()
    return {n: Baseline(name=r["baseline"], us=r["us"], calls=r["calls"]) for n, r in rows if r["baseline"]}


def aa_spreads(calibration: Mapping[str, Any]) -> dict[str, float]:
    return {n: r["aa"]["spread"] for n, r in calibration["workloads"].items() if r.get("aa")}


def ceilings_for_target(calibration: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that `targets.calibrated` takes. Rates of the CUDA cores stay the data sheet's: the model reads the
    clock off them, and what a library's product reaches says little about that."""
    measured = calibration["ceilings"]
    rates = {k: v for k, v in measured["tflops"].items() if k not in ("float32", "float64")}
    kept = {k: measured[k] for k in ("memory_gbs", "l2_gbs", "launch_us") if measured.get(k)}
    return {**kept, "tflops": rates}


def table(calibration: Mapping[str, Any]) -> str:
    """For people: a line a workload."""
    lines = [f"{'workload':<16} {'baseline':<14} {'µs':>10} {'calls':>5} {'error':>9} {'A/A':>7}"]
    for name, row in calibration["workloads"].items():
        error = max((x["error"] for x in row["rows"]), default=math.nan)
        aa = f"{row['aa']['spread']:.2%}" if row.get("aa") else ""
        us = f"{row['us']:.2f}" if row["us"] else ""
        lines.append(f"{name:<16} {row['baseline'] or '-':<14} {us:>10} {row['calls']:>5} {error:>9.1e} {aa:>7}")
    return "\n".join(lines)


# --- One workload after the other -----------------------------------------------------------------------------------


def _workloads(
    worker: Asked, problem: Problem, variant: Variant, workloads: Sequence[Workload], secret: bytes
) -> dict[str, Any]:
    found, too_large = {}, []
    for workload in workloads:
        order = {
            "op": "baseline",
            "workload": workload_to(workload),
            "variant": variant.name,
            "timed": True,
            "random_seed": seed_of(secret, "calibrate", workload.name),
            "limits": LIMITS,
        }
        try:
            answers = worker.ask(order, seconds=LIMITS["baseline"])["baselines"]
        except WorkerFault as fault:
            if fault.kind != "memory":
                raise
            too_large.append(workload.name)
            break  # that process is gone; what fits is what came before
        found[workload.name] = _chosen(problem, workload, answers, worker)
    if too_large:
        fits = ", ".join(found) or "none"
        raise MachineryError(f"too little GPU memory for workload {too_large[0]}; these fit: {fits}. Leave it out.")
    for workload in workloads:
        row = found[workload.name]
        if workload.role != "check" and row["baseline"]:
            row["aa"] = control(worker, workload, variant, row["baseline"], row["calls"], secret)
    return found


def _chosen(problem: Problem, workload: Workload, answers: Mapping[str, Any], worker: Asked) -> dict[str, Any]:
    """The fastest of those that are right. One that is wrong ends the run before it starts."""
    usable = {}
    for name, row in answers.items():
        if row.get("unavailable"):
            continue
        bad = next((r for r in row["rows"] if r["ratio"] > 1), None)
        if bad is not None:
            raise ProblemError(
                f'{problem.path or problem.name}: baseline "{name}" misses the problem\'s own bound on workload '
                f'"{workload.name}": output {bad["output"]}, error {bad["error"]:.2e} against {bad["bound"]:.2e}. '
                f"Either the reference, the baseline or the bound is wrong; `evolve check` shows more."
            )
        usable[name] = row
    if not usable:
        if workload.role == "check":
            return {"baseline": None, "us": None, "calls": 1, "rows": [], "others": dict(answers)}
        reasons = "; ".join(f"{name}: {row['unavailable']}" for name, row in answers.items())
        raise NoBaseline(
            f'{problem.path or problem.name}: no baseline can run on workload "{workload.name}" here ({reasons}). '
            f"Leave the workload out, choose another variant, or add a baseline."
        )
    name = min(usable, key=lambda n: usable[n]["us"])
    row = usable[name]
    return {
        "baseline": name,
        "us": row["us"],
        "calls": calls_for(row["us"], row["bytes"], _free(worker)),
        "rows": row["rows"],
        "others": {n: r.get("us") or r.get("unavailable") for n, r in answers.items() if n != name},
    }


def calls_for(us: float, nbytes: float, free: float) -> int:
    """So many calls that a sample is long enough, as long as their sets fit."""
    wanted = math.ceil(SAMPLE_US / us)
    fitting = int(MEMORY_SHARE * free / max(1.0, nbytes))
    return max(1, min(wanted, fitting, MOST_CALLS))


def _free(worker: Asked) -> float:
    opened = getattr(worker, "opened", {}).get("opened", {})
    return float(opened.get("free_bytes") or 8 << 30)


def control(
    worker: Asked,
    workload: Workload,
    variant: Variant,
    baseline: str,
    calls: int,
    secret: bytes,
    *,
    blocks: int = AA_BLOCKS,
) -> dict[str, Any]:
    """A/A: the baseline against itself, twice over, in the blocks that candidates are timed in."""
    order = {
        "op": "time",
        "workload": workload_to(workload),
        "variant": variant.name,
        "contestants": {"C": baseline, "I": baseline, "B": baseline},
        "calls": calls,
        "random_seed": seed_of(secret, "control", workload.name),
        "warm_us": 20_000.0,
        "limits": LIMITS,
    }
    worker.ask(order, seconds=OTHER_SECONDS)
    found = worker.ask({"op": "blocks", "count": blocks}, seconds=OTHER_SECONDS)
    worker.ask({"op": "end"}, seconds=OTHER_SECONDS)
    rows = [Block(order=b["order"], times_us=tuple(b["times_us"]), slowed=b["slowed"]) for b in found["blocks"]]
    logs = [b.log_ratio("I") for b in rows] + [b.log_ratio("B") for b in rows]
    sigma, middle = statistics.spread(logs), statistics.median(logs)
    # What the median of a first look (12 blocks) wanders by, and never less than what it was off by here.
    spread = max(abs(middle), 1.2533 * sigma / math.sqrt(statistics.LOOKS[0]))
    clock = found.get("clock")
    return {"spread": spread, "sigma": sigma, "median": middle, "blocks": len(rows), "clock": clock}


def untried(surroundings: Mapping[str, Any]) -> list[str]:
    """Versions that nobody ran this judge with."""
    import importlib.metadata

    versions = {"torch": str(surroundings.get("torch", ""))}
    try:
        versions["triton"] = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        versions["triton"] = "none"
    return [
        f"{name} {versions[name]} was never tried; tried are {', '.join(TRIED[name])}. Look twice at what it says."
        for name in TRIED
        if not versions[name].startswith(TRIED[name])
    ]
