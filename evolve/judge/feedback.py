"""What the council reads about speed: time, roofline and bound, the machine's facts against the parent's, the cliffs.

Plain sentences, the telling ones first, and no praise. It repeats measured and modelled figures and says which they
are; it gives no verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evolve.judge.advice import cliffs
from evolve.judge.model import Prediction
from evolve.types import Measurement, Scalar

BOUNDS = {
    "compute": "arithmetic",
    "memory": "memory traffic",
    "latency": "latency: waiting for loads that nothing hides",
    "launch": "launching",
}
# What stands against the parent's, in this order: trait, what it is called, unit.
FACTS = (
    ("registers", "registers a thread", ""),
    ("spills_bytes", "spills", " B"),
    ("shared_bytes", "shared memory", " B"),
    ("blocks_per_sm", "blocks an SM", ""),
    ("occupancy", "occupancy", ""),
    ("n_HGMMA", "HGMMA", ""),
    ("n_HMMA", "HMMA", ""),
    ("n_FFMA", "FFMA", ""),
    ("n_LDGSTS", "LDGSTS", ""),
    ("n_UTMALDG", "UTMALDG", ""),
    ("n_LDG", "LDG", ""),
    ("n_total", "instructions", ""),
)
ALWAYS = ("registers", "spills_bytes", "shared_bytes", "occupancy")


def speed_feedback(
    measurements: Sequence[Measurement],
    predictions: Mapping[str, Prediction],
    found: Mapping[str, Scalar],
    parent: Mapping[str, Scalar],
) -> str:
    """`predictions` by workload give bound and roofline; `parent` is the parent's traits, empty without one."""
    lines = [_workload(m, predictions.get(m.workload)) for m in measurements]
    if found:
        lines.append(_where(found))
        lines.append(_facts(found, parent))
    lines += known_cliffs(found)
    lines += _advice(predictions, lines)
    return "\n".join(line for line in lines if line)


def same_machine_code(twin: str) -> str:
    """For a change that the compiler undid."""
    return (
        f"same machine code as {twin}: the change took no effect. Change what the compiler sees, not how it is written."
    )


def known_cliffs(found: Mapping[str, Scalar]) -> list[str]:
    """The cliffs that traits show."""
    counts = {name.removeprefix("n_"): int(value) for name, value in found.items() if name.startswith("n_")}
    counts |= {"LDG@loop": int(found.get("synchronous_loads_in_loop", 0))} if counts else {}
    tile = [int(n) for n in str(found.get("tile", "")).split("x") if n.isdigit()]
    return cliffs(
        instructions=counts,
        spills_bytes=int(found.get("spills_bytes", 0)),
        threads=int(found.get("threads", 0)),
        tile=(tile[0], tile[1]) if len(tile) == 3 else (0, 0),
        serialized=bool(found.get("wgmma_serialized", False)),
        wgmma_chip=found.get("target") == "sm_90",
    )


def _workload(measurement: Measurement, prediction: Prediction | None) -> str:
    how = "modelled" if measurement.modelled else "measured"
    line = f"{measurement.workload}: {measurement.time_us:.4g} us {how}, {_ratio(measurement)} {measurement.baseline}"
    if prediction is None:
        return line + "."
    ideal = prediction.roofline * prediction.time_us
    share = min(1.0, ideal / measurement.time_us)
    return f"{line}; {share:.0%} of the roofline, bound by {BOUNDS[prediction.bound]}."


def _ratio(measurement: Measurement) -> str:
    interval = ""
    if measurement.ratio_low != measurement.ratio_high:
        interval = f" ({measurement.ratio_low:.3f} to {measurement.ratio_high:.3f})"
    return f"{measurement.ratio:.3f}x{interval} against"


def _where(found: Mapping[str, Scalar]) -> str:
    several = f" in {found['launches']} launches" if int(found.get("launches", 1)) > 1 else ""
    return (
        f"Costliest kernel {found.get('kernel', '?')}{several}: {found.get('tensor_path')}, {found.get('structure')}, "
        f"tile {found.get('tile')}, {found.get('programs')} programs in {found.get('waves')} waves, "
        f"{found.get('blocks_per_sm')} blocks an SM, limited by {found.get('limited_by')}."
    )


def _facts(found: Mapping[str, Scalar], parent: Mapping[str, Scalar]) -> str:
    parts = []
    for name, called, unit in FACTS:
        now, before = found.get(name, 0), parent.get(name, 0)
        if name in found or name in parent:
            if parent and now != before:
                parts.append(f"{called} {before} → {now}{unit}")
            elif name in ALWAYS:
                parts.append(f"{called} {now}{unit}")
    against = " (parent's → this)" if any("→" in part for part in parts) else ""
    return f"Facts{against}: {', '.join(parts)}." if parts else ""


def _advice(predictions: Mapping[str, Prediction], said: Sequence[str]) -> list[str]:
    """Each piece of advice once, with the workloads that it came from; what a cliff has said is not said again."""
    where: dict[str, list[str]] = {}
    for workload, prediction in predictions.items():
        for sentence in prediction.advice:
            if sentence not in said:
                where.setdefault(sentence, []).append(workload)
    return [f"{', '.join(names)}: {sentence}" for sentence, names in where.items()]
