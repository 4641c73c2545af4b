"""What bounds a parent, as the judge said it: for choosing the rule that is a remedy.

Only the judge's words and its traits are read. Where it said nothing (a seed of another backend), nothing ails, and
every rule counts the same.
"""

from __future__ import annotations

import re

from evolve.rules.base import Rule
from evolve.types import Evaluation

BOUND = re.compile(r"bound by (arithmetic|memory traffic|latency|launching)")
CALLED = {"arithmetic": "compute", "memory traffic": "memory", "latency": "latency", "launching": "launch"}
SAID = (
    (re.compile(r"\d+ programs for \d+ SMs"), "few programs"),
    (re.compile(r"[\d.]+ waves: the last"), "ragged waves"),
    (re.compile(r"loaded synchronously|No copy is asynchronous"), "masks"),
    (re.compile(r"No WGMMA"), "no wgmma"),
)
REMEDY, IDLE = 1.6, 0.7  # what a rule's weight is multiplied by, if something ails that it helps, and if not


def ails(evaluation: Evaluation) -> frozenset[str]:
    found = {CALLED[word] for word in BOUND.findall(evaluation.feedback)}
    found |= {ail for pattern, ail in SAID if pattern.search(evaluation.feedback)}
    spills = evaluation.traits.get("spills_bytes", 0)
    if isinstance(spills, int | float) and spills > 0:
        found.add("spills")
    return frozenset(found)


def urgency(rule: Rule, ailing: frozenset[str]) -> float:
    if not ailing or not rule.helps:
        return 1.0
    return REMEDY if rule.helps & ailing else IDLE
