"""What became of a prediction: each claim held against what the judge found of parent and child.

A claim is `confirmed` if what it says happened; of a change with a size, if at least half of it came. It is `without
effect` if the quantity did not move, or a time by no more than its interval; `refuted` if it moved the other way or
fell short; `not measured` where nobody read it. A time is compared as a ratio over the baseline, because times of two
judgements differ with the clock.

Pure functions over `types`; nothing here knows a journal.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from evolve.experiments_claims import Claim
from evolve.types import NOTHING, Evaluation, Scalar

NOISE = 0.005  # a difference in time smaller than this is none, whatever the interval says; models have no interval
ENOUGH = 0.5  # of the predicted change
# Instructions that the judge counts: one of these that a disassembled kernel does not show is not there.
COUNTED = "HGMMA QGMMA IGMMA HMMA IMMA FFMA MUFU LDGSTS UTMALDG UTMASTG LDG STG LDSM LDL STL BAR USETMAXREG total MFMA"
# Of the profiler, which only confirmed candidates are shown to, where it may read them.
COUNTERS = frozenset(("sm_percent", "dram_percent", "l2_hit_percent", "occupancy_percent", "tensor_percent"))
_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, "=": operator.eq, ">=": operator.ge, ">": operator.gt,
}  # fmt: skip


class Outcome(StrEnum):
    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    WITHOUT_EFFECT = "without effect"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """`said` is the claim, `seen` what was found instead: "registers 168 → 120", "time −3.1 %"."""

    said: str
    seen: str
    outcome: Outcome


def overall(findings: Sequence[Finding]) -> Outcome:
    """One refuted claim refutes; what did not move comes next; a reason that nobody measured is not confirmed."""
    outcomes = {finding.outcome for finding in findings}
    order = (Outcome.REFUTED, Outcome.WITHOUT_EFFECT, Outcome.NOT_MEASURED, Outcome.CONFIRMED)
    return next((o for o in order if o in outcomes), Outcome.NOT_MEASURED)


def held(
    wanted: Sequence[Claim], parent: Evaluation | None, child: Evaluation, counters: Mapping[str, Scalar] = NOTHING
) -> list[Finding]:
    """Each claim with what was found. Every hypothesis means to be faster, so that is held against it said or unsaid.
    `counters` are the profiler's, of parent ("before:NAME") and child."""
    stated = list(wanted)
    if not any(claim.quantity in ("time", "score") for claim in stated):
        stated.append(Claim(text="faster", quantity="time", relation="falls"))
    return [_hold(claim, parent, child, counters) for claim in stated]


def _hold(claim: Claim, parent: Evaluation | None, child: Evaluation, counters: Mapping[str, Scalar]) -> Finding:
    if claim.quantity in ("time", "score"):
        seen, outcome = _time(claim, parent, child)
    else:
        seen, outcome = _trait(claim, parent, child, counters)
    return Finding(said=claim.text, seen=seen, outcome=outcome)


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """Of the ratio over the baseline, as logarithms: above 0 is faster."""

    log: float
    noise: float

    @property
    def beyond(self) -> int:
        """1 faster, -1 slower, 0 neither by more than the noise."""
        return 0 if abs(self.log) <= self.noise else 1 if self.log > 0 else -1


def change(parent: Evaluation | None, child: Evaluation, workload: str = "") -> Change | None:
    """How the child's time compares with its parent's, on one workload or by score. None where they do not compare."""
    if parent is None or not (parent.passed and child.passed):
        return None
    if parent.ranking_key != child.ranking_key or parent.modelled != child.modelled:
        return None
    spans = [_span(evaluation, workload) for evaluation in (parent, child)]
    if any(span is None or min(span) <= 0 for span in spans):
        return None
    (before, low, high), (now, lower, higher) = (tuple(map(math.log, span)) for span in spans if span)
    return Change(log=now - before, noise=max(NOISE, math.hypot((high - low) / 2, (higher - lower) / 2)))


def _span(evaluation: Evaluation, workload: str) -> tuple[float, float, float] | None:
    if not workload:
        return evaluation.score, evaluation.score_low, evaluation.score_high
    found = next((m for m in evaluation.measurements if m.workload == workload), None)
    return (found.ratio, found.ratio_low, found.ratio_high) if found else None


def _time(claim: Claim, parent: Evaluation | None, child: Evaluation) -> tuple[str, Outcome]:
    name = claim.workload or ("score" if claim.quantity == "score" else "time")
    if claim.relation in _COMPARE and claim.value is not None and not claim.percent:
        return _absolute(claim, name, parent, child)
    moved = change(parent, child, claim.workload)
    if moved is None:
        return f"{name} not measured", Outcome.NOT_MEASURED
    faster = claim.quantity == "score"
    seen = f"{name} {_percent(moved.log if faster else -moved.log)}"
    if claim.relation == "stays":
        return seen, Outcome.REFUTED if moved.beyond else Outcome.CONFIRMED
    rises = claim.relation in ("rises", ">", ">=")
    wanted = 1 if rises == faster else -1
    if not moved.beyond:
        return seen, Outcome.WITHOUT_EFFECT
    if moved.beyond != wanted:
        return seen, Outcome.REFUTED
    share = (claim.value or 0.0) / 100
    expected = abs(math.log1p(min(share, 20.0) if rises else -min(share, 0.99))) if claim.percent else 0.0
    return seen, Outcome.CONFIRMED if abs(moved.log) >= ENOUGH * expected else Outcome.REFUTED


def _percent(log: float) -> str:
    return f"{100 * math.expm1(log):+.1f} %".replace("-0.0", "±0.0").replace("+0.0", "±0.0").replace("-", "−")


def _absolute(claim: Claim, name: str, parent: Evaluation | None, child: Evaluation) -> tuple[str, Outcome]:
    """`square < 200 us`, `score > 1.1`."""
    before, now = (_figure(claim, e) if e else None for e in (parent, child))
    if now is None or claim.value is None:
        return f"{name} not measured", Outcome.NOT_MEASURED
    unit = "" if claim.quantity == "score" else " us"
    seen = f"{name} {before:.4g} → {now:.4g}{unit}" if before else f"{name} {now:.4g}{unit}"
    close = claim.relation == "=" and abs(now / claim.value - 1) < 0.05 if claim.value else False
    if close or _COMPARE[claim.relation](now, claim.value):
        return seen, Outcome.CONFIRMED
    moved = change(parent, child, claim.workload)
    return seen, Outcome.WITHOUT_EFFECT if moved and not moved.beyond else Outcome.REFUTED


def _figure(claim: Claim, evaluation: Evaluation) -> float | None:
    if claim.quantity == "score":
        return evaluation.score if evaluation.passed else None
    times = [m.time_us for m in evaluation.measurements if m.workload == claim.workload or not claim.workload]
    return times[0] if len(times) == 1 else None


def _trait(
    claim: Claim, parent: Evaluation | None, child: Evaluation, counters: Mapping[str, Scalar]
) -> tuple[str, Outcome]:
    name = claim.quantity.removeprefix("n_").replace("_", " ") if claim.quantity else claim.text
    now = trait(child.traits, claim.quantity, counters.get(claim.quantity))
    before = trait(parent.traits if parent else {}, claim.quantity, counters.get(f"before:{claim.quantity}"))
    if now is None:
        return f"{name} not measured", Outcome.NOT_MEASURED
    moves = before is not None and before != now
    seen = f"{name} {_shown(before)} → {_shown(now)}" if moves else f"{name} {_shown(now)}"
    if claim.word:
        good = claim.word == str(now).lower()
        return seen, Outcome.CONFIRMED if good else Outcome.REFUTED if moves else Outcome.WITHOUT_EFFECT
    if not isinstance(now, int | float):
        return seen, Outcome.NOT_MEASURED
    if claim.relation in _COMPARE and claim.value is not None:
        if _COMPARE[claim.relation](now, claim.value):
            return seen, Outcome.CONFIRMED
        return seen, Outcome.WITHOUT_EFFECT if before == now else Outcome.REFUTED
    return seen, _moved(claim, before, now)


def _moved(claim: Claim, before: Scalar | None, now: float) -> Outcome:
    if not isinstance(before, int | float):
        return Outcome.NOT_MEASURED
    if claim.relation == "stays":
        return Outcome.CONFIRMED if now == before else Outcome.REFUTED
    if now == before:
        return Outcome.WITHOUT_EFFECT
    if (now > before) != (claim.relation == "rises"):
        return Outcome.REFUTED
    size = claim.value or 0.0
    expected = abs(before) * size / 100 if claim.percent else size
    return Outcome.CONFIRMED if abs(now - before) >= ENOUGH * expected else Outcome.REFUTED


def trait(traits: Mapping[str, Scalar], name: str, counted: Scalar | None = None) -> Scalar | None:
    """What is known of it. An instruction that is counted and that a disassembled kernel does not hold is not there."""
    if counted is not None or not name:
        return counted
    if name not in traits and "n_total" in traits and name.removeprefix("n_") in COUNTED.split():
        return 0
    return traits.get(name)


def _shown(value: Scalar | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
