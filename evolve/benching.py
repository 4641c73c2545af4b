"""`evolve bench`: a kernel beside the libraries, in pairs, and a word that a CI job can act on.

The candidate goes through the ordinary judge first; there is no number for a wrong kernel. Then it, the plain seed and
the problem's baselines are timed side by side (`judge/contest.py`). What comes out is one JSON object, from which the
table and the picture are drawn. A limit fails only where the whole interval lies below it, holds only where the whole
interval lies above it, and is inconclusive in between, on a busy or overheated GPU, and wherever times are modelled.
"""

from __future__ import annotations

import difflib
import math
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from evolve import judging, wiring
from evolve.errors import UsageError
from evolve.exported import module_in
from evolve.judge import contest
from evolve.judge.backends.cpu import CpuDevice
from evolve.judge.contest import Arena, Contest, Field
from evolve.judge.gpu.device import GpuDevice
from evolve.judge.pipeline import Pipeline, Ready, Record
from evolve.judge.roofline import with_ceilings
from evolve.judge.stages import Ruling
from evolve.judge.statistics import MOST_DISCARDED, Interval, combine
from evolve.loop import seeds_of
from evolve.problem import Problem
from evolve.types import NOTHING, Candidate, Evaluation, Job, Json, Scalar

SCHEMA = 1
SEED = "seed"
PASSED, FAILED, INCONCLUSIVE = "passed", "failed", "inconclusive"
STATUS = {PASSED: 0, FAILED: 1, INCONCLUSIVE: 3}
Told = Callable[[Mapping[str, Json]], None]


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to compare with what. `target` is a file, RUN:ID or an exported package."""

    target: str
    problem: str | None = None
    variant: str | None = None
    backend: str | None = None
    workloads: tuple[str, ...] = ()
    against: tuple[str, ...] = ()  # names, or words of names; empty: all there are, and the seed
    fail_under: float | None = None
    min_roofline: float | None = None
    tune: bool = False
    seconds: float = contest.SECONDS  # of samples, a workload
    compiles: bool = True  # whether baselines that compile at their first call take part


@dataclass(frozen=True, kw_only=True)
class Result:
    """`data` is what `--json` prints. Without a pass there is no comparison, and the evaluation says why."""

    candidate: Candidate
    evaluation: Evaluation
    device: str
    data: Mapping[str, Json] = field(default_factory=dict)

    @property
    def status(self) -> int:
        return STATUS[self.data["outcome"]] if self.evaluation.passed else STATUS[FAILED]


def bench(order: Order, each: Told = lambda row: None) -> Result:
    """`each` gets every workload's row as it comes."""
    asked = judging.wanted(_as_judged(order))
    problem = judging.narrowed(wiring.problem(asked.config), order.workloads)
    variant = wiring.variant(asked.config, problem)
    names, with_seed = chosen(problem, order.against)
    config = replace(asked.config, tuner=replace(asked.config.tuner, enabled=order.tune and not asked.chosen))
    seed = judging.plain_seed(config, problem)
    job = replace(_fresh(asked.job), parameters=asked.chosen)
    opened = wiring.open_backend(config, problem, seed or job.candidate.source, calibration=asked.calibration)
    with closing(opened.backend):
        pipeline = opened.backend
        if not isinstance(pipeline, Pipeline):
            raise UsageError(f'backend "{config.backend}" keeps no built kernels to compare; use gpu, cpu or auto.')
        evaluation = pipeline.evaluate(job)
        result = Result(candidate=job.candidate, evaluation=evaluation, device=opened.device)
        if not evaluation.passed:
            return result
        job = replace(job, parameters=evaluation.parameters)
        entered = _field(pipeline, job, seed if with_seed else None, names)
        contests, too_large = _contests(pipeline, entered, problem, order, lambda c: each(row_of(c, problem, names)))
    about = {
        "schema": SCHEMA,
        "candidate": job.candidate.id,
        "target": order.target,
        "problem": problem.name,
        "variant": variant.name,
        "device": opened.device,
        "environment": _environment(opened.calibration, opened.environment),
        "warnings": list(opened.warnings),
        "too_large": dict(too_large),
    }
    rows = [row_of(c, problem, names) for c in contests]
    gates = list(_gates(contests, problem, names if order.against else [], order))
    data = {**about, "workloads": rows, "geomean": _geomeans(contests, names), "gates": gates, "outcome": outcome(gates)}
    return replace(result, data=data)


def _as_judged(order: Order) -> judging.Order:
    """An exported package stands for its kernels and for the problem that it was judged by."""
    module = module_in(order.target)
    if module is None:
        return judging.Order(
            target=order.target, problem=order.problem, variant=order.variant, backend=order.backend
        )
    return judging.Order(
        target=str(module.kernels),
        problem=order.problem or str(module.problem),
        variant=order.variant or module.variant,
        backend=order.backend,
        parameters=module.parameters,
    )


def _fresh(job: Job) -> Job:
    """Judged anew, whatever it was judged as before: on new inputs, and on the workloads that are shown."""
    return replace(job, mode="judge", random_seeds=seeds_of(secrets.token_hex(8), job.candidate.id))


def chosen(problem: Problem, against: Sequence[str]) -> tuple[list[str], bool]:
    """Names of baselines, and whether the seed takes part. A word stands for every name that has it between
    underscores: `cudnn` for `sdpa_cudnn`, `cublas` for `cublas`, `cublas_fp8` and the like."""
    known = [b.name for b in problem.baselines]
    if not against:
        return known, True
    found, seed = list[str](), False
    for word in against:
        fits = [n for n in known if n == word or f"_{word}_" in f"_{n}_"]
        if not fits and word != SEED:
            near = difflib.get_close_matches(word, [*known, SEED], n=1)
            hint = f' did you mean "{near[0]}"?' if near else ""
            raise UsageError(
                f"--against {word}: {problem.path} has no such baseline;{hint} It has {', '.join([*known, SEED])}."
            )
        found += fits
        seed = seed or word == SEED
    return list(dict.fromkeys(found)), seed


# --- Who takes part -------------------------------------------------------------------------------------------------


def _field(pipeline: Pipeline, job: Job, seed: str | None, names: Sequence[str]) -> Field:
    ready = pipeline.prepare(job, Record())
    if seed is None:
        return Field(ready=ready, rivals={}, baselines=names)
    if seed == job.candidate.source and all(p == ready.screened.defaults for p in ready.parameters.values()):
        return Field(ready=ready, rivals={}, baselines=names, absent={SEED: "it is the candidate itself"})
    rival, why_not = _seed(pipeline, seed)
    if rival is None:
        return Field(ready=ready, rivals={}, baselines=names, absent={SEED: why_not})
    return Field(ready=ready, rivals={SEED: rival}, baselines=names)


def _seed(pipeline: Pipeline, source: str) -> tuple[Ready | None, str]:
    """The plain seed at its defaults. On a GPU it is checked, as the candidate was; elsewhere nothing of it is run."""
    candidate = Candidate(step=0, source=source, member="seed", kind="seed")
    job = _fresh(Job(candidate=candidate))
    try:
        ready = pipeline.prepare(job, Record())
        if isinstance(pipeline.device, GpuDevice):
            pipeline.device.check(ready)
    except Ruling as ruling:
        return None, f"{ruling.verdict} in {ruling.stage}: {ruling.feedback}"
    return ready, ""


def _contests(
    pipeline: Pipeline, entered: Field, problem: Problem, order: Order, each: Callable[[Contest], None]
) -> tuple[list[Contest], Mapping[str, str]]:
    workloads = problem.of_role("time", pipeline.variant)
    device = pipeline.device
    if isinstance(device, CpuDevice):
        return list(_told(contest.modelled(device, entered, workloads), each)), NOTHING
    assert isinstance(device, GpuDevice)
    arena = Arena(
        problem=problem,
        variant=pipeline.variant,
        target=with_ceilings(device.target, device.calibration["ceilings"]),
        pool=device.pool,
        gpu=device.gpu,
        seconds=order.seconds,
        compiles=order.compiles,
    )
    with closing(arena):
        return list(_told(arena.contests(entered, workloads), each)), arena.too_large


def _told(contests: Iterator[Contest], each: Callable[[Contest], None]) -> Iterator[Contest]:
    for found in contests:
        each(found)
        yield found


# --- What is said of it ---------------------------------------------------------------------------------------------


def row_of(found: Contest, problem: Problem, names: Sequence[str]) -> dict[str, Json]:
    """One workload. The first line is the candidate's; ratios above 1 say that it is the faster one."""
    low, high = math.exp(found.own.low), math.exp(found.own.high)
    best = contest.fastest(found, names)
    return {
        "workload": found.workload.name,
        "params": dict(found.workload.params),
        "mode": found.workload.mode,
        "weight": found.workload.weight,
        **_speed(found, found.time_us),
        "time_low_us": low,
        "time_high_us": high,
        "eager_us": found.eager_us,
        "parameters": dict(found.parameters),
        "roof": {
            "us": found.roof.us,
            "bound": found.roof.bound,
            "intensity": found.roof.intensity,
            "gbs": found.roof.gbs,
            "tflops": found.roof.tflops,
        },
        "against": [
            {"name": b.name, **_speed(found, b.time_us), **_ratio(b.ratio), "error": b.error} for b in found.beside
        ],
        "fastest": best.name if best else None,
        "skipped": dict(found.skipped),
        "blocks": found.own.blocks,
        "calls": found.calls,
        "discarded": found.discarded,
        "why": found.why,
        "clock": found.clock,
        "foreigners": list(found.foreigners),
        "modelled": found.modelled,
    }


def _speed(found: Contest, time_us: float) -> dict[str, Json]:
    roof = found.roof
    return {
        "time_us": time_us,
        "tflops": roof.flops / time_us / 1e6,
        "gbs": roof.nbytes / time_us / 1e3,
        "roofline": roof.us / time_us,
    }


def _ratio(found: Interval) -> dict[str, float]:
    return {"ratio": math.exp(found.median), "ratio_low": math.exp(found.low), "ratio_high": math.exp(found.high)}


def _geomeans(contests: Sequence[Contest], names: Sequence[str]) -> list[dict[str, Json]]:
    """A line a contestant, over the workloads that it ran on; and one over whatever was fastest on each of them."""
    known = dict.fromkeys(b.name for c in contests for b in c.beside)
    rows = []
    for name in known:
        whole = contest.geomean(contests, name)
        if whole is not None:
            count = sum(any(b.name == name for b in c.beside) for c in contests)
            rows.append({"name": name, **_ratio(whole), "workloads": count})
    best = [(found, c.workload.weight) for c in contests if (found := contest.fastest(c, names)) is not None]
    if len(names) > 1 and best:
        whole = combine([b.ratio for b, _ in best], [w for _, w in best])
        rows.append({"name": "the fastest of each", **_ratio(whole), "workloads": len(best)})
    return rows


def _environment(calibration: Mapping[str, Json], opened: Mapping[str, Json]) -> dict[str, Json]:
    gpu = {k: v for k, v in (calibration.get("gpu") or {}).items() if k not in ("pid", "uuid")}
    return {
        **wiring.environment(),
        "gpu": gpu,
        "clocks": calibration.get("clocks"),
        "ceilings": calibration.get("ceilings"),
        "protections": opened.get("protections", []),
    }


# --- Limits ---------------------------------------------------------------------------------------------------------


def _gates(contests: Sequence[Contest], problem: Problem, named: Sequence[str], order: Order) -> Iterator[dict[str, Json]]:
    names = list(named) or [b.name for b in problem.baselines]
    if order.fail_under is not None:
        best = {c.workload.name: contest.fastest(c, [*names, *_seed_if_named(order)]) for c in contests}
        for found in contests:
            rival = best[found.workload.name]
            what = f"{found.workload.name} × {rival.name if rival else 'nothing'}"
            yield gate(what, "--fail-under", order.fail_under, rival.ratio if rival else None, _doubts(found))
        ran = [(b.ratio, c.workload.weight) for c in contests if (b := best[c.workload.name]) is not None]
        if len(ran) > 1:
            whole = combine([r for r, _ in ran], [w for _, w in ran])
            doubts = next((d for c in contests if (d := _doubts(c))), "")
            yield gate("geometric mean", "--fail-under", order.fail_under, whole, doubts)
    if order.min_roofline is not None:
        for found in contests:
            share = _negative(found.own, math.log(found.roof.us))
            yield gate(found.workload.name, "--min-roofline", order.min_roofline, share, _doubts(found))


def _seed_if_named(order: Order) -> list[str]:
    return [SEED] if SEED in order.against else []


def _negative(own: Interval, roof: float) -> Interval:
    """ln(roof / time) from ln(time)."""
    return Interval(median=roof - own.median, low=roof - own.high, high=roof - own.low, blocks=own.blocks)


def _doubts(found: Contest) -> str:
    """Why no figure of this workload may decide anything."""
    if found.modelled:
        return "there is no GPU here, and a modelled time decides nothing"
    if found.foreigners:
        return f"other processes are on the GPU: {', '.join(found.foreigners)}"
    if found.discarded > MOST_DISCARDED:
        return f"{found.discarded:.0%} of the blocks were taken while the GPU was slowed by heat or hardware"
    return ""


def gate(what: str, limit: str, least: float, found: Interval | None, doubts: str) -> dict[str, Json]:
    """One limit on one figure."""
    if found is None:
        return {"what": what, "limit": limit, "least": least, "word": INCONCLUSIVE, "why": "nothing ran to compare with"}
    low, high = math.exp(found.low), math.exp(found.high)
    word, why = INCONCLUSIVE, doubts
    if not doubts and high < least:
        word, why = FAILED, f"all of [{low:.3f}, {high:.3f}] lies below {least:g}"
    elif not doubts and low >= least:
        word, why = PASSED, f"all of [{low:.3f}, {high:.3f}] lies at {least:g} or above"
    elif not doubts:
        why = f"[{low:.3f}, {high:.3f}] holds {least:g}; more blocks (--seconds) narrow it"
    return {
        "what": what,
        "limit": limit,
        "least": least,
        "value": math.exp(found.median),
        "low": low,
        "high": high,
        "word": word,
        "why": why,
    }


def outcome(gates: Sequence[Mapping[str, Any]]) -> str:
    words = {g["word"] for g in gates}
    return FAILED if FAILED in words else INCONCLUSIVE if INCONCLUSIVE in words else PASSED
