"""What no type can say about a configuration: keys that contradict each other, and runs that could not be."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from evolve.config.nodes import Node, at
from evolve.config.prices import price_of, shipped
from evolve.config.tree import CommandOptions, OpenAIOptions, RunConfig

_NAME = re.compile(r"[\w.:@+-]{1,60}")


def contradictions(config: RunConfig, root: Node) -> list[str]:
    return [
        *_council(config, root),
        *_workloads(config, root),
        *_budget(config, root),
        *_selection(config, root),
    ]


def _place(root: Node, *place: str | int) -> str:
    """Where a fault is: the nearest of the key's parents that the file holds."""
    while place and at(root, place) is None:
        place = place[:-1]
    node = at(root, place) or root
    return node.origin if place else node.origin.rsplit(":", 1)[0]


def _council(config: RunConfig, root: Node) -> Iterator[str]:
    where = _place(root, "council")
    if not config.council:
        yield f"{where}: council is empty; expected at least one member, such as `council: [rules]`."
    elif all(m.weight == 0 for m in config.council):
        yield f"{where}: every member has weight 0, so none would be asked; give one a weight above 0."
    for i, member in enumerate(config.council):
        here = _place(root, "council", i, "name")
        if not _NAME.fullmatch(member.name):
            yield f'{here}: council.{i}.name: got "{member.name[:60]}"; use up to 60 letters, digits and . : @ + - _.'
        if member.kinds and not any(member.kinds.values()):
            yield f"{_place(root, 'council', i, 'kinds')}: every kind of {member.name} has weight 0; raise one."
    for name, count in Counter(m.name for m in config.council).items():
        if count > 1:
            yield f'{where}: {count} members are named "{name}"; candidates name their member, so give each its own.'
    lanes = min(config.concurrency.replies, config.concurrency.steps or config.concurrency.replies)
    boxes = sum(m.member == "mailbox" and m.weight > 0 for m in config.council)
    if lanes <= boxes < sum(m.weight > 0 for m in config.council):
        yield (
            f"{_place(root, 'concurrency')}: {boxes} mailbox among other members and concurrency for {lanes} reply at "
            f"once, so that waiting for a person would hold up the others; let replies and steps be above {boxes}."
        )
    if config.when_resting == "rules" and not any(m.member == "rules" and m.weight > 0 for m in config.council):
        yield f"{_place(root, 'when_resting')}: when_resting is rules, and no rules sit in the council; add `rules`."
    if not config.seeds and all(m.member == "rules" for m in config.council):
        yield f"{where}: no seeds, and rules can only change a kernel; name a file in `seeds`, or a member that drafts."


def _workloads(config: RunConfig, root: Node) -> Iterator[str]:
    for name, count in Counter(w.name for w in config.workloads).items():
        if count > 1:
            yield f'{_place(root, "workloads")}: {count} workloads are named "{name}"; give each its own name.'
    for i, workload in enumerate(config.workloads):
        if not (math.isfinite(workload.weight) and workload.weight > 0):
            here = _place(root, "workloads", i, "weight")
            yield f"{here}: workloads.{i}.weight: expected a number above 0, got {workload.weight:g}."
    if config.workloads and not any(w.role == "time" for w in config.workloads):
        yield f'{_place(root, "workloads")}: no workload has role "time", so there would be nothing to score.'


def _budget(config: RunConfig, root: Node) -> Iterator[str]:
    budget = config.budget
    if all(v is None for v in (budget.steps, budget.usd, budget.tokens, budget.seconds, budget.gpu_seconds)):
        yield (
            f"{_place(root, 'budget')}: no budget, so the run would never end; write `budget: {{steps: 500}}`, "
            "or a limit in usd, tokens, hours or gpu_seconds."
        )
    for i, member in enumerate(config.council if budget.usd is not None else ()):
        options = member.options
        if isinstance(options, CommandOptions) and options.usd_per_call is None and member.weight:
            yield (
                f"{_place(root, 'council', i, 'command')}: {member.name} has no price, so a budget of ${budget.usd:g} "
                "could not be kept. Give it `usd_per_call: 0.05`, with 0 for a program that costs nothing, or limit "
                "steps instead of usd."
            )
        if not isinstance(options, OpenAIOptions) or member.weight == 0:
            continue
        if price_of(options.model, options.api_base, options.price) is None:
            yield (
                f"{_place(root, 'council', i, 'model')}: {member.name} has no price, so a budget of ${budget.usd:g} "
                f"could not be kept: nothing is known of {options.model} at this address (prices that ship are of "
                f"{shipped()[0]}, at OpenAI's own). Give it `price: {{usd_per_million_in: 1, usd_per_million_out: 10}}`"
                ", with zeros for a server of your own, or limit steps or tokens instead of usd."
            )


def _selection(config: RunConfig, root: Node) -> Iterator[str]:
    database = config.database
    total = database.exploration_ratio + database.exploitation_ratio
    if total > 1 + 1e-9:
        here = _place(root, "database", "exploration_ratio")
        yield f"{here}: database.exploration_ratio and exploitation_ratio add up to {total:g}; expected at most 1."
    if not any(config.prompt.kinds.values()):
        yield f"{_place(root, 'prompt', 'kinds')}: prompt.kinds: every edit kind has weight 0; raise one."
    if config.ray.address is not None and config.executor == "local":
        here = _place(root, "ray", "address")
        yield f"{here}: ray.address is given, but executor is local; write `executor: ray`, or remove the address."
