"""What of an evaluation's evidence a page can draw: models, ceilings, raw samples.

Evidence is whatever a judge wrote, perhaps an older or another one, so nothing here trusts its shape: what does not
look as `judge/time.py` and `judge/model.py` write it is passed over, and still stands on the page as JSON.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evolve.dashboard import charts
from evolve.types import Evaluation, Measurement

SIDES = {"C": ("candidate", "c1"), "B": ("baseline", "c2"), "I": ("incumbent", "c3")}
MOST_BLOCKS = 400


@dataclass(frozen=True, kw_only=True)
class Model:
    """What the cost model says of one workload. `ideal_us` is the roofline's time."""

    ideal_us: float
    bound: str
    terms: Mapping[str, float]
    flops: float | None = None
    moved: float | None = None  # bytes that must come or go
    tflops: float | None = None
    gbs: float | None = None

    @property
    def intensity(self) -> float | None:
        return self.flops / self.moved if self.flops and self.moved else None


def number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def models(evaluation: Evaluation) -> dict[str, Model]:
    """By workload: from beside the samples of a GPU, or in their place where there was none."""
    time = mapping(evaluation.evidence.get("time"))
    found = mapping(time.get("model")) or time
    return {str(name): model for name, raw in found.items() if (model := _model(mapping(raw))) is not None}


def _model(raw: Mapping[str, Any]) -> Model | None:
    time_us, roofline = number(raw.get("time_us")), number(raw.get("roofline"))
    if not time_us or not roofline or time_us <= 0 or roofline <= 0:
        return None
    terms = {str(k): v for k, raw_term in mapping(raw.get("terms_us")).items() if (v := number(raw_term)) is not None}
    ideal = mapping(raw.get("ideal"))
    return Model(
        ideal_us=time_us * roofline,
        bound=str(raw.get("bound", ""))[:40],
        terms=terms,
        flops=number(ideal.get("flops")),
        moved=number(ideal.get("bytes")),
        tflops=number(ideal.get("tflops")),
        gbs=number(ideal.get("gbs")),
    )


def fraction(model: Model | None, time_us: float) -> float | None:
    """How much of what the chip allows, by the time that counts."""
    return min(1.0, model.ideal_us / time_us) if model and time_us > 0 else None


# --- Raw samples ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Samples:
    workload: str
    spec: charts.Spec
    blocks: int
    discarded: float | None
    decision: str
    clock: charts.Spec | None
    clocks: str  # in words


def samples(evaluation: Evaluation) -> list[Samples]:
    """Every sample in the order in which it was taken, by side, with the clock that was read between looks."""
    time = mapping(evaluation.evidence.get("time"))
    found = []
    for measurement in evaluation.measurements:
        raw = mapping(time.get(measurement.workload))
        blocks = [b for b in map(_block, raw.get("blocks") or ()) if b] if isinstance(raw.get("blocks"), list) else []
        if blocks:
            found.append(_samples(measurement, raw, blocks[:MOST_BLOCKS]))
    return found


def _block(raw: Any) -> tuple[str, list[float], bool] | None:
    block = mapping(raw)
    order, times = block.get("order"), block.get("times_us")
    if not isinstance(order, str) or not isinstance(times, list) or len(order) != len(times):
        return None
    figures = [number(t) for t in times]
    return (order, [f for f in figures if f is not None], bool(block.get("slowed"))) if None not in figures else None


def _samples(
    measurement: Measurement, raw: Mapping[str, Any], blocks: Sequence[tuple[str, list[float], bool]]
) -> Samples:
    rows: dict[str, tuple[list[float], list[float]]] = {}
    at, slowed = 0, []
    for order, times, slow in blocks:
        if slow:
            slowed.append(at)
        for side, time_us in zip(order, times, strict=True):
            xs, ys = rows.setdefault(side, ([], []))
            xs.append(at)
            ys.append(time_us)
            at += 1
    spec = charts.chart(x="sample, in order taken", y="µs a call", height=170, small=True)
    for side, (label, tone) in SIDES.items():
        if side in rows:
            charts.add(spec, label, *rows[side], "points", tone)
    clock, told = _clock(raw.get("clocks"), at)
    decision = mapping(raw.get("decision"))
    return Samples(
        workload=measurement.workload,
        spec=charts.aligned(spec),
        blocks=len(blocks),
        discarded=number(raw.get("discarded")),
        decision=f"{decision.get('call', '')}: {decision.get('why', '')}".strip(": ")[:200],
        clock=clock,
        clocks=told + (f"; {len(slowed)} blocks slowed" if slowed else ""),
    )


def _clock(raw: Any, end: int) -> tuple[charts.Spec | None, str]:
    """The SM clock was read after each look, evenly drawn over the samples: when each was is not on record."""
    readings = [mapping(r) for r in raw] if isinstance(raw, list) else []
    mhz = [m for r in readings if (m := number(r.get("sm_mhz")))]
    if not mhz:
        return None, "no clock on record"
    watts = [w for r in readings if (w := number(r.get("power_watts")))]
    heat = [c for r in readings if (c := number(r.get("celsius")))]
    told = f"SM clock {_range(mhz)} MHz"
    told += f", {_range(watts)} W" if watts else ""
    told += f", {_range(heat)} °C" if heat else ""
    spec = charts.chart(x="sample, in order taken", y="SM, MHz", height=90, small=True)
    xs = [(i + 1) * end / len(mhz) for i in range(len(mhz))]
    charts.add(spec, "SM clock, MHz", [0.0, *xs], [mhz[0], *mhz], "line", "c4")
    return charts.aligned(spec), told


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.0f}" if round(low) == round(high) else f"{low:.0f}–{high:.0f}"
