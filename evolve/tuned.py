"""`evolve tune`: one kernel's numbers, searched for each workload and written back into a file.

It is the judge's own tuner with a budget of its own: the kernel is checked, tuned, checked again at what was chosen and
timed, as in a run, and nothing is written unless it passed. The file is the kernel as it was, with other defaults (the
heaviest workload's best) and a table that a later `evolve judge`, `evolve tune` or run starts from. It changes nothing
else, and it does not rank: whether a kernel is better than another is `evolve run`'s affair.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from evolve import wiring
from evolve.config import TunerConfig
from evolve.errors import UsageError
from evolve.judge.screen import screen
from evolve.judge.stages import Ruling, Screened
from evolve.judge.table import Row, written
from evolve.judging import Order, narrowed, plain_seed, wanted
from evolve.problem import Problem, Variant
from evolve.types import Candidate, Evaluation, Job, Json, Measurement, Scalar

POINTS = 400  # of a workload, at most; the seconds end it before
WALL = 10.0  # seconds for each of the GPU's: builds take most of them, and the GPU is not held meanwhile


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """What tuning did for one workload. The ratio is of samples in pairs, above 1 is faster than before."""

    workload: str
    space: int
    tried: int
    timed: int
    infeasible: tuple[str, ...]  # why, of each point that was
    before_us: float | None
    after_us: float
    ratio: float | None
    interval: tuple[float, float] | None  # None: modelled
    seconds: float | None  # of the GPU's
    parameters: Mapping[str, Scalar]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    candidate: Candidate
    evaluation: Evaluation
    device: str
    lines: tuple[Line, ...]
    file: Path | None  # None: nothing was better, or it did not pass
    ended: str


def tune(order: Order, *, budget: float, out: Path | None) -> Report:
    found = wanted(order)
    job, config = found.job, found.config
    if not (budget > 0):
        raise UsageError(f"--budget {budget:g}: expected a number of seconds above 0.")
    config = replace(config, tuner=_tuner(budget))
    problem = narrowed(wiring.problem(config), (order.workload,) if order.workload is not None else ())
    variant = wiring.variant(config, problem)
    screened = _tunable(job.candidate.source, problem, order.target)
    # One that was confirmed is tuned all the same, from what it had.
    job = replace(job, mode="judge", parameters=found.chosen)
    bench = wiring.open_single(config, problem, plain_seed(config, problem) or job.candidate.source)
    with closing(bench.executor):
        evaluation = asyncio.run(bench.executor.evaluate(job))
    kept = evaluation.evidence.get("tune", {})
    lines = tuple(_line(m, kept, screened.tune) for m in evaluation.measurements)
    moved = any(
        kept["workloads"][x.workload]["before"]["parameters"] != m.parameters
        for x, m in zip(lines, evaluation.measurements, strict=True)
    )
    file = None
    if evaluation.passed and moved:
        file = out or _usual(order.target, job)
        file.write_text(_text(job, problem, variant, evaluation, lines, bench.device, config.target), encoding="utf-8")
    return Report(
        candidate=job.candidate,
        evaluation=evaluation,
        device=bench.device,
        lines=lines,
        file=file,
        ended=str(kept.get("ended", "")),
    )


def _tuner(budget: float) -> TunerConfig:
    """The seconds are the GPU's. Without one they are wall clock, which the gpu backend's bound never undercuts."""
    from evolve.judge.backends import gpu_present

    wall = max(60.0, WALL * budget) if gpu_present() else budget
    return TunerConfig(enabled=True, points=POINTS, seconds=wall, gpu_seconds=budget)


def _tunable(source: str, problem: Problem, name: str) -> Screened:
    try:
        screened = screen(source, entry=problem.entry)
    except Ruling as ruling:
        raise UsageError(f"{name}: the judge refuses it, so there is nothing to tune:\n{ruling.feedback}") from ruling
    if not screened.tune:
        names = ", ".join(screened.defaults) or "none"
        raise UsageError(
            f"{name} declares no space. Give {problem.entry}() keyword-only parameters (it has {names}) and their "
            'values: TUNE = {"BLOCK_M": (64, 128), "num_warps": (4, 8)}.'
        )
    return screened


def _line(m: Measurement, kept: Mapping[str, Json], names: Collection[str]) -> Line:
    row = kept["workloads"][m.workload]
    before, gain = row["before"]["time_us"], row.get("gain")
    reasons = [t["infeasible"] for t in row["tried"] if "infeasible" in t] + [r["why"] for r in row["ruled_out"]]
    modelled = before / m.time_us if before and m.modelled else None
    return Line(
        workload=m.workload,
        space=row["space"],
        tried=len(row["tried"]),
        timed=sum("time_us" in t for t in row["tried"]),
        infeasible=tuple(reasons),
        before_us=before,
        after_us=m.time_us,
        ratio=gain["ratio"] if gain else modelled,
        interval=(gain["ratio_low"], gain["ratio_high"]) if gain else None,
        seconds=kept.get("gpu_seconds", {}).get("workloads", {}).get(m.workload),
        parameters={name: value for name, value in m.parameters.items() if name in names},
    )


def _usual(target: str, job: Job) -> Path:
    file = Path(target)
    if file.is_file():
        return file if file.stem.endswith("_tuned") else file.with_name(f"{file.stem}_tuned.py")
    run = file.name.split(":")[0]
    return Path(f"{run}-{job.candidate.id}_tuned.py")


def _text(
    job: Job,
    problem: Problem,
    variant: Variant,
    evaluation: Evaluation,
    lines: tuple[Line, ...],
    device: str,
    target: str,
) -> str:
    """The file, which must pass the screen as the kernel did."""
    source = job.candidate.source
    modelled = " (modelled)" if evaluation.modelled else ""
    sizes = {
        m.workload: {n: v for n, v in problem.workload(m.workload, variant).params.items() if n not in variant.params}
        for m in evaluation.measurements
    }
    rows = [Row(sizes=sizes[x.workload], parameters=x.parameters, comment=f"{_comment(x)}{modelled}") for x in lines]
    known = [dict(row.sizes) for row in rows]
    rows += [
        Row(sizes=old, parameters=chosen, comment="from an earlier table")
        for old, chosen in screen(source, entry=problem.entry).tuned
        if dict(old) not in known
    ]
    heaviest = max(evaluation.measurements, key=lambda m: (m.weight, m.time_us))
    versions = wiring.environment()["versions"]
    chip = f"modelled for {target}" if evaluation.modelled else device
    title = f"Tuned by evolve, {variant.name}: {chip}, Triton {versions['triton']}. Sizes, and what suits them."
    text = written(source, problem.entry, defaults=heaviest.parameters, rows=rows, title=title)
    again = screen(text, entry=problem.entry)
    assert {n: again.defaults[n] for n in heaviest.parameters} == dict(heaviest.parameters)
    return text


def _comment(line: Line) -> str:
    before = f"{line.before_us:.1f} -> " if line.before_us else ""
    return f"{line.workload}: {before}{line.after_us:.1f} us"
