"""What rules would do to one candidate: which apply, which do not and why, and what each does to the machine code.

Each move is screened, lowered and built for the target like any candidate, in the judge's own jail and builder, and is
neither run nor timed: this needs no GPU, and says nothing about speed. What rules did bring in a run is in its journal,
and `terminal/rules_page.py` counts it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from evolve import wiring
from evolve.journal import Journal
from evolve.judge.backends import Settings
from evolve.judge.backends.assembly import Shop, open_shop
from evolve.judge.backends.cpu import CpuDevice
from evolve.judge.pipeline import Pipeline, Record
from evolve.judge.stages import Binary, Ready, Ruling
from evolve.judge.targets import find
from evolve.judging import RUNS, Order, Wanted, narrowed, wanted
from evolve.problem import Problem, Variant
from evolve.rules import RULES, Applied, Context, Rule, apply
from evolve.runs import named
from evolve.terminal import rules_page
from evolve.terminal.console import Out
from evolve.types import Candidate, Scalar

WAYS = 4  # of a rule that knows several moves, how many are looked for


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernels:
    """What a plan's launches amount to: the largest of each resource, the sum of each opcode."""

    facts: Mapping[str, int]
    launches: int
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """`after` is None where the rule does not apply (`why`), or where its result does not build (`why` as well)."""

    rule: str
    applies: bool
    hypothesis: str = ""
    why: str = ""
    before: Kernels | None = None
    after: Kernels | None = None
    unmet: tuple[str, ...] = ()  # what its signature promised and the machine code does not show
    parameters: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def same(self) -> bool:
        """Machine code that the move did not change, at this workload."""
        return self.before is not None and self.after is not None and self.before.digest == self.after.digest


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """The candidate as it is, and where it was looked at."""

    kernels: Kernels | None
    why: str
    workload: str
    target: str


def moves(order: Order) -> Iterator[Subject | Move]:
    """The candidate first, then each rule's move. Raises for the caller's mistakes."""
    found = wanted(order)
    whole = wiring.problem(found.config)
    variant = wiring.variant(found.config, whole)
    name = order.workload or _heaviest(whole, variant)
    problem = narrowed(whole, (name,))
    settings = Settings(
        problem=problem,
        variant=variant,
        backend="cpu",
        target=found.config.target,
        cache=wiring.cache_folder(),
        width=1,
        timeout=found.config.evaluator.timeout,
    )
    shop = open_shop(settings, find(settings.target))
    with closing(_pipeline(shop, problem, variant)) as bench:
        kernels, why = _built(bench, found, found.job.candidate.source, name)
        yield Subject(kernels=kernels, why=why, workload=name, target=found.config.target)
        for rule in RULES:
            yield from _moves(rule, bench, found, whole, variant, name, kernels)


def _heaviest(problem: Problem, variant: Variant) -> str:
    """The workload that weighs most, and of those the one with the most to do."""
    timed = problem.of_role("time", variant)
    work = problem.flops or problem.bytes_moved
    return max(timed, key=lambda w: (w.weight, _size(work, w))).name


def _size(work: object, workload: object) -> float:
    try:
        return float(work(workload)) if callable(work) else 0.0
    except (TypeError, ValueError):  # it depends on inputs, which are not here
        return 0.0


def _pipeline(shop: Shop, problem: Problem, variant: Variant) -> Pipeline:
    device = CpuDevice(problem=problem, variant=variant, target=shop.target, jail=shop.jail, baselines={})
    return shop.pipeline(device, device, ranking_key="", environment={}, builds=("time",))


def _moves(
    rule: Rule,
    bench: Pipeline,
    found: Wanted,
    problem: Problem,
    variant: Variant,
    name: str,
    before: Kernels | None,
) -> Iterator[Move]:
    """Every different move of a rule, as far as a few draws find them."""
    seen: dict[str, Applied] = {}
    for number in range(WAYS):
        made = apply(rule, found.job.candidate.source, _context(found, problem, variant, number))
        if not isinstance(made, Applied):
            yield Move(rule=rule.name, applies=False, why=made.reason)
            return
        seen.setdefault(made.hypothesis, made)
    for made in seen.values():
        after, why = _built(bench, found, made.source, name)
        facts = after.facts if after else {}
        unmet = tuple(f"{op} {bound}" for op, bound in made.signature.items() if not _holds(facts, op, bound))
        yield Move(
            rule=rule.name,
            applies=True,
            hypothesis=made.hypothesis,
            why=why,
            before=before,
            after=after,
            unmet=unmet if after else (),
        )


def _context(found: Wanted, problem: Problem, variant: Variant, number: int) -> Context:
    return Context(
        random=random.Random(number),
        workloads=problem.of_role("time", variant),
        target=found.config.target,
        triton=wiring.environment()["versions"]["triton"] or "",
        allows=variant.allows,
        repeat=variant.repeat,
        tuned=wiring.tuning(found.config) is not None,
    )


def _holds(facts: Mapping[str, int], op: str, bound: str) -> bool:
    wanted_count = int(bound[1:])
    count = facts.get(op, 0)
    return count > wanted_count if bound[0] == ">" else count == wanted_count


def _built(bench: Pipeline, found: Wanted, source: str, name: str) -> tuple[Kernels | None, str]:
    """At the parameters that the candidate was timed at, where a run chose some; else at the defaults."""
    job = replace(
        found.job,
        candidate=Candidate(step=0, source=source, member="rules", kind="rule"),
        parameters={w: p for w, p in found.chosen.items() if w == name},
        mode="judge",
    )
    try:
        ready = bench.prepare(job, Record())
    except Ruling as ruling:
        return None, ruling.feedback
    return _kernels(ready, name), ""


def _kernels(ready: Ready, name: str) -> Kernels:
    plan = next(p for p in ready.gated.lowered.plans if p.workload == name)
    binaries: list[Binary] = [ready.built.of(launch) for launch in plan.launches]
    facts = {
        "registers": max((b.registers for b in binaries), default=0),
        "spills": max((b.spills_bytes for b in binaries), default=0),
        "shared memory": max((b.shared_bytes for b in binaries), default=0),
    }
    for binary in binaries:
        for op, count in binary.instructions.items():
            called = "instructions" if op == "total" else op
            facts[called] = facts.get(called, 0) + count
    digest = repr([(b.sass, x.grid) for b, x in zip(binaries, plan.launches, strict=True)])
    return Kernels(facts=facts, launches=len(binaries), digest=digest)


def page(order: Order) -> None:
    """`evolve show FILE|RUN[:ID] --rules`."""
    run = None if Path(order.target).is_file() or order.target.endswith(".py") else named(order.target, RUNS)
    if run is None or run.selector:
        rules_page.moves(moves(order), Out())
        return
    with Journal.open(run.folder) as journal:
        rules_page.history(journal, Out())
