"""What is said of a comparison: a row a workload, geometric means, and the word on each limit.

Rows are plain data, as `--json` prints them. A limit fails only where the whole interval lies below it, holds only
where the whole interval lies at it or above, and is inconclusive in between, on a GPU that others use or that heat has
slowed, and wherever times are modelled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evolve.judge import contest
from evolve.judge.contest import Contest
from evolve.judge.statistics import MOST_DISCARDED, Interval, combine
from evolve.types import Json

PASSED, FAILED, INCONCLUSIVE = "passed", "failed", "inconclusive"
STATUS = {PASSED: 0, FAILED: 1, INCONCLUSIVE: 3}


def row_of(found: Contest, names: Sequence[str]) -> dict[str, Json]:
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


def geomeans(contests: Sequence[Contest], names: Sequence[str]) -> list[dict[str, Json]]:
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


# --- Limits ---------------------------------------------------------------------------------------------------------


def gates(
    contests: Sequence[Contest], names: Sequence[str], *, fail_under: float | None, min_roofline: float | None
) -> list[dict[str, Json]]:
    """Every workload on its own, and the mean. `names` are those that must be beaten: the fastest of them counts."""
    found: list[dict[str, Json]] = []
    if fail_under is not None:
        found += _speeds(contests, names, fail_under)
    if min_roofline is not None:
        for c in contests:
            share = _negative(c.own, math.log(c.roof.us))
            found.append(gate(c.workload.name, "--min-roofline", min_roofline, share, _doubts(c)))
    return found


def _speeds(contests: Sequence[Contest], names: Sequence[str], least: float) -> Iterator[dict[str, Json]]:
    best = [(c, contest.fastest(c, names)) for c in contests]
    for c, rival in best:
        what = f"{c.workload.name}, over {rival.name}" if rival else c.workload.name
        yield gate(what, "--fail-under", least, rival.ratio if rival else None, _doubts(c))
    ran = [(b.ratio, c.workload.weight) for c, b in best if b is not None]
    if len(ran) > 1:
        whole = combine([r for r, _ in ran], [w for _, w in ran])
        doubts = next((d for c in contests if (d := _doubts(c))), "")
        yield gate("geometric mean", "--fail-under", least, whole, doubts)


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
        why = doubts or "nothing ran to compare with"
        return {"what": what, "limit": limit, "least": least, "word": INCONCLUSIVE, "why": why}
    low, high = math.exp(found.low), math.exp(found.high)
    word, why = INCONCLUSIVE, doubts
    if not doubts and high < least:
        word, why = FAILED, f"all of [{low:.3f}, {high:.3f}] lies below {least:g}"
    elif not doubts and low >= least:
        word, why = PASSED, f"all of [{low:.3f}, {high:.3f}] lies at {least:g} or above"
    elif not doubts:
        why = f"[{low:.3f}, {high:.3f}] holds {least:g}; more blocks (--seconds) may tell"
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


def outcome(found: Sequence[Mapping[str, Any]]) -> str:
    words = {g["word"] for g in found}
    return FAILED if FAILED in words else INCONCLUSIVE if INCONCLUSIVE in words else PASSED
