"""`evolve check`: is a problem fit for use, does its plain seed pass, and what does a full judgement cost here.

What is tried of the problem itself stands in `judge/fitness.py`; the seed goes through the whole judge of this machine.
"""

from __future__ import annotations

import resource
import secrets
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from evolve import wiring
from evolve.config import RunConfig
from evolve.errors import NoBaseline
from evolve.judge.fitness import Finding, examine
from evolve.judge.gpu.device import GpuDevice
from evolve.judge.gpu.lease import lease
from evolve.judge.gpu.pool import WorkerFault
from evolve.judging import plain_seed
from evolve.loop import seeds_of
from evolve.problem import Problem, Variant
from evolve.types import Candidate, Evaluation, Job

EXAMINED_SECONDS = 300.0


def check(path: str, *, variant: str | None, backend: str) -> Iterator[tuple[str, Finding]]:
    """Findings by variant, as they come: one variant, or all of them."""
    problem = wiring.problem(RunConfig(problem=path, source=path))
    for chosen in [problem.variant(variant)] if variant else problem.variants:
        for finding in examine(problem, chosen):
            yield chosen.name, finding
        for finding in _judged(path, problem, chosen, backend):
            yield chosen.name, finding


def _judged(path: str, problem: Problem, variant: Variant, backend: str) -> Iterator[Finding]:
    config = RunConfig(problem=path, variant=variant.name, backend=backend, source=path)
    seed = plain_seed(config, problem)
    if seed is None:
        usual = Path(path).parent.parent / "seeds" / f"{problem.name}.py"
        yield Finding(what="seed", state="skipped", sentence=f"there is no {usual} to judge.")
        return
    began = time.perf_counter()
    try:
        made = wiring.open_backend(config, problem, seed)
    except NoBaseline as error:  # such as a dtype that this GPU does not have
        yield Finding(what="seed", state="skipped", sentence=str(error))
        return
    opened = time.perf_counter()
    with closing(made.backend):
        device = getattr(made.backend, "device", None)
        if isinstance(device, GpuDevice):
            yield from _on_gpu(device)
        begun = time.perf_counter()
        candidate = Candidate(step=0, source=seed, member="seed", kind="seed")
        job = Job(candidate=candidate, random_seeds=seeds_of(secrets.token_hex(8), candidate.id))
        evaluation = made.backend.evaluate(job)
    yield _seed_finding(evaluation)
    judged = time.perf_counter() - begun
    stages = ", ".join(f"{name} {seconds:.2f}" for name, seconds in evaluation.seconds.items())
    sentence = f"the judge opens in {opened - began:.1f} s and rules in {judged:.1f} s ({stages}) on {made.device}."
    yield Finding(what="time", state="ok", sentence=sentence)
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    yield Finding(what="memory", state="ok", sentence=f"{peak / 1024:.0f} MB in the largest process of the host.")


def _on_gpu(device: GpuDevice) -> Iterator[Finding]:
    """The same questions at the sizes that candidates are checked at, in the variant itself and not its stand-in."""
    worker = device.pool.take()
    order = {"op": "examine", "variant": device.variant.name, "limits": {"other": EXAMINED_SECONDS}}
    try:
        with lease(device.gpu.uuid, label="evolve check"):
            findings = worker.ask(order, seconds=EXAMINED_SECONDS)["findings"]
    except WorkerFault as fault:
        yield Finding(what="on the GPU", state="wrong", sentence=f"the examination ended early: {fault.text}")
        return
    finally:
        worker.drop()
    for row in findings:
        yield Finding(**{**row, "what": f"{row['what']}, on the GPU"})


def _seed_finding(evaluation: Evaluation) -> Finding:
    if not evaluation.passed:
        sentence = f"{evaluation.verdict} in {evaluation.stage}: {evaluation.feedback}"
        return Finding(what="seed", state="wrong", sentence=sentence)
    worst = max(evaluation.errors.values(), default=0.0)
    return Finding(what="seed", state="ok", sentence=f"passes; at most {worst:.2f} of its bound.")
