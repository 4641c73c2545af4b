"""`evolve bench`: a kernel beside the libraries, in pairs, and a word that a CI job can act on.

The candidate goes through the ordinary judge first; there is no number for a wrong kernel. Then it, the plain seed and
the problem's baselines are timed side by side (`judge/contest.py`). What comes out is one JSON object, from which the
table and the picture are drawn; what it says, limits included, is `benching_rows.py`'s.
"""

from __future__ import annotations

import difflib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace

from evolve import judging, wiring
from evolve.benching_rows import FAILED, STATUS, gates, geomeans, outcome, row_of
from evolve.errors import ProblemError, UsageError
from evolve.exported import module_in
from evolve.judge import contest
from evolve.judge.backends import Opened, gpu_present
from evolve.judge.backends.cpu import CpuDevice
from evolve.judge.contest import Arena, Contest, Field
from evolve.judge.gpu.device import GpuDevice
from evolve.judge.gpu.nvml import Gpu, visible
from evolve.judge.pipeline import Pipeline, Record
from evolve.judge.roofline import with_ceilings
from evolve.judge.stages import Ready, Ruling
from evolve.loop import seeds_of
from evolve.problem import Problem, Variant
from evolve.types import Candidate, Evaluation, Job, Json, Workload

SCHEMA = 1
SEED = "seed"
SEED_TUNED = "seed_tuned"  # its parameters were searched for as long as the candidate's
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
    tune: float | None = None  # seconds that parameters may be searched for, the seed's as well; None: as they come
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
    with bench_of(order) as made:
        if not made.evaluation.passed:
            return Result(candidate=made.candidate, evaluation=made.evaluation, device=made.device)
        contests = []
        for found in made.contests():
            contests.append(found)
            each(row_of(found, made.names))
        data = made.data(contests)
        return Result(candidate=made.candidate, evaluation=made.evaluation, device=made.device, data=data)


@contextmanager
def bench_of(order: Order) -> Iterator[Bench]:
    """A judge that stands ready and has ruled on the candidate; what it passed can be compared, more than once."""
    asked = judging.wanted(_as_judged(order))
    whole = judging.narrowed(wiring.problem(asked.config), order.workloads)
    problem, left_out = _shown(whole, wiring.variant(asked.config, whole))
    names, with_seed = chosen(problem, order.against)
    tuner = asked.config.tuner
    tuner = replace(tuner, enabled=order.tune is not None, seconds=order.tune or tuner.seconds)
    config = replace(asked.config, tuner=tuner)
    seed = judging.plain_seed(config, problem)
    job = replace(_fresh(asked.job), parameters=asked.chosen)
    opened = wiring.open_backend(config, problem, seed or job.candidate.source, calibration=asked.calibration)
    with closing(opened.backend):
        pipeline = opened.backend
        if not isinstance(pipeline, Pipeline):
            raise UsageError(f'backend "{config.backend}" keeps no built kernels to compare; use gpu, cpu or auto.')
        evaluation = pipeline.evaluate(job)
        made = Bench(order=order, problem=problem, names=names, opened=opened, pipeline=pipeline, evaluation=evaluation)
        made.candidate, made.left_out = job.candidate, left_out
        if evaluation.passed:
            made.entered = _field(pipeline, replace(job, parameters=evaluation.parameters), seed, with_seed, names)
        with closing(made):
            yield made


@dataclass(kw_only=True)
class Bench:
    """An order as far as it has come. `names` are the baselines that take part."""

    order: Order
    problem: Problem
    names: Sequence[str]
    opened: Opened
    pipeline: Pipeline
    evaluation: Evaluation
    candidate: Candidate = field(init=False)
    entered: Field = field(init=False)
    left_out: dict[str, str] = field(default_factory=dict)  # workloads, with the reason
    arena: Arena | None = None

    @property
    def device(self) -> str:
        return self.opened.device

    @property
    def workloads(self) -> tuple[Workload, ...]:
        return self.problem.of_role("time", self.pipeline.variant)

    def contests(
        self, workloads: Sequence[Workload] | None = None, *, compiles: bool | None = None
    ) -> Iterator[Contest]:
        """Side by side on these workloads, or on all that are timed."""
        wanted = self.workloads if workloads is None else workloads
        device = self.pipeline.device
        if isinstance(device, CpuDevice):
            yield from contest.modelled(device, self.entered, wanted)
            return
        assert isinstance(device, GpuDevice)
        arena = self._arena(device)
        arena.compiles = self.order.compiles if compiles is None else compiles
        yield from arena.contests(self.entered, wanted)
        self.left_out |= arena.too_large

    def _arena(self, device: GpuDevice) -> Arena:
        """One for all comparisons: what is compiled stays compiled in its process."""
        if self.arena is None:
            self.arena = Arena(
                problem=self.problem,
                variant=self.pipeline.variant,
                target=with_ceilings(device.target, device.calibration["ceilings"]),
                pool=device.pool,
                gpu=device.gpu,
                seconds=self.order.seconds,
            )
        return self.arena

    def close(self) -> None:
        if self.arena is not None:
            self.arena.close()

    def data(self, contests: Sequence[Contest]) -> dict[str, Json]:
        """All of it, as `--json` prints it."""
        order, names = self.order, self.names
        rivals = [*names, SEED] if SEED in order.against else names
        limits = gates(contests, rivals, fail_under=order.fail_under, min_roofline=order.min_roofline)
        return {
            "schema": SCHEMA,
            "candidate": self.candidate.id,
            "target": order.target,
            "problem": self.problem.name,
            "variant": self.pipeline.variant.name,
            "tuned": order.tune is not None,
            "device": self.device,
            "environment": _environment(self.opened.calibration, self.opened.environment),
            "warnings": list(self.opened.warnings),
            "left_out": dict(self.left_out),
            "workloads": [row_of(c, names) for c in contests],
            "geomean": geomeans(contests, names),
            "gates": limits,
            "outcome": outcome(limits),
        }


def _as_judged(order: Order) -> judging.Order:
    """An exported package stands for its kernels and for the problem that it was judged by."""
    module = module_in(order.target, Gpu(visible(0)).device() if gpu_present() else None)
    if module is None:
        return judging.Order(target=order.target, problem=order.problem, variant=order.variant, backend=order.backend)
    return judging.Order(
        target=str(module.kernels),
        problem=order.problem or str(module.problem),
        variant=order.variant or module.variant,
        backend=order.backend,
        parameters=module.parameters,
        timed=module.workloads,
    )


def _shown(problem: Problem, variant: Variant) -> tuple[Problem, dict[str, str]]:
    """Without held-out workloads, which nobody is compared on, and without those that the problem makes no inputs for:
    each of these with the reason."""
    left_out = {w.name: why for w in problem.of_role("time", variant) if (why := _no_inputs(problem, w))}
    kept = tuple(w for w in problem.workloads if w.role != "held_out" and w.name not in left_out)
    if not any(w.role == "time" for w in kept):
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise ProblemError(f"{problem.path}: makes inputs for none of its timed workloads ({reasons}).")
    return replace(problem, workloads=kept), left_out


def _no_inputs(problem: Problem, workload: Workload) -> str | None:
    try:
        problem.make_inputs(workload, "meta", 0)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, AssertionError) as error:
        return f"make_inputs refuses its sizes: {type(error).__name__}: {error}"
    return None


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


def _field(pipeline: Pipeline, job: Job, seed: str | None, with_seed: bool, names: Sequence[str]) -> Field:
    ready = pipeline.prepare(job, Record())
    if not with_seed:
        return Field(ready=ready, rivals={}, baselines=names)
    if seed is None:
        return Field(ready=ready, rivals={}, baselines=names, absent={SEED: "the problem has no seed beside it"})
    own = seed == job.candidate.source
    if own and all(p == ready.screened.defaults for p in ready.parameters.values()):
        return Field(ready=ready, rivals={}, baselines=names, absent={SEED: "it is the candidate itself"})
    rivals, absent = _seeds(pipeline, seed, tuned=not own)
    return Field(ready=ready, rivals=rivals, baselines=names, absent=absent)


def _seeds(pipeline: Pipeline, source: str, *, tuned: bool) -> tuple[dict[str, Ready], dict[str, str]]:
    """The plain seed at its defaults and, where parameters are searched at all, at the best that a search as long as
    the candidate's finds for it. On a GPU it is checked, as the candidate was; elsewhere nothing of it is run."""
    candidate = Candidate(step=0, source=source, member="seed", kind="seed")
    job = _fresh(Job(candidate=candidate))
    try:
        ready = pipeline.prepare(job, Record())
        if isinstance(pipeline.device, GpuDevice):
            pipeline.device.check(ready)
        best = pipeline.tune(ready) if tuned else ready
    except Ruling as ruling:
        return {}, {SEED: f"{ruling.verdict} in {ruling.stage}: {ruling.feedback}"}
    finally:
        pipeline.device.leave(job)
    if not best.tuning:
        return {SEED: ready}, {}
    if best.parameters == ready.parameters:
        return {SEED: ready}, {SEED_TUNED: "its defaults are the best that was found"}
    return {SEED: ready, SEED_TUNED: best}, {}


def _environment(calibration: Mapping[str, Json], opened: Mapping[str, Json]) -> dict[str, Json]:
    gpu = {k: v for k, v in (calibration.get("gpu") or {}).items() if k not in ("pid", "uuid")}
    return {
        **wiring.environment(),
        "gpu": gpu,
        "clocks": calibration.get("clocks"),
        "ceilings": calibration.get("ceilings"),
        "protections": opened.get("protections", []),
    }
