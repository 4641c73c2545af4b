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
    "latency": "latency: waiting for loads and for each other, which nothing hides",
    "launch": "launching",
}
TERMS = 3
TERM = {"compute": "tensor cores", "issue": "instruction issue", "special": "exponentials", "latency": "waiting"}
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
    helps = _helps(predictions)
    lines += [sentence for sentence in known_cliffs(found) if sentence not in helps]
    lines += [f"{sentence} ({where})" for sentence, where in helps.items()]
    return "\n".join(line for line in lines if line)


def same_as(twin: str, what: str, parent: str | None) -> str:
    """What the compiler undid is another lesson than what someone else had found by another way."""
    if twin == parent:
        return (
            f"same {what} as its parent {twin}: the change took no effect. "
            "Change what the compiler sees, not how it is written."
        )
    return f"same {what} as {twin}, which was judged before and came there by another way. Build on that one instead."


def known_cliffs(found: Mapping[str, Scalar]) -> list[str]:
    """The cliffs that traits show."""
    counts = {name.removeprefix("n_"): int(value) for name, value in found.items() if name.startswith("n_")}
    counts |= {"LDG@loop": int(found.get("synchronous_loads_in_loop", 0))} if counts else {}
    tile = [int(n) for n in str(found.get("tile", "")).split("x") if n.isdigit()]
    shown = cliffs(
        instructions=counts,
        spills_bytes=int(found.get("spills_bytes", 0)),
        threads=int(found.get("threads", 0)),
        tile=(tile[0], tile[1]) if len(tile) == 3 else (0, 0),
        serialized=bool(found.get("wgmma_serialized", False)),
        wgmma_chip=found.get("target") == "sm_90",
    )
    return list(shown.values())


def _workload(measurement: Measurement, prediction: Prediction | None) -> str:
    how = "modelled" if measurement.modelled else "measured"
    line = f"{measurement.workload}: {measurement.time_us:.4g} us {how}, {_ratio(measurement)} {measurement.baseline}"
    if prediction is None:
        return line + "."
    ideal = prediction.roofline * prediction.time_us
    share = min(1.0, ideal / measurement.time_us)
    return f"{line}; {share:.0%} of the roofline, bound by {BOUNDS[prediction.bound]} ({terms_of(prediction)})."


def terms_of(prediction: Prediction) -> str:
    """The largest terms, as the model has them. They overlap, so they do not add up."""
    largest = sorted(prediction.terms.items(), key=lambda term: -term[1])[:TERMS]
    return "modelled: " + ", ".join(f"{TERM.get(name, name)} {us:.3g} us" for name, us in largest if us > 0)


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


def _helps(predictions: Mapping[str, Prediction]) -> dict[str, str]:
    """What would help most by the model, each change once: where, and what part of the time it would save."""
    found: dict[str, list[str]] = {}
    for workload, prediction in predictions.items():
        for change in prediction.helps:
            found.setdefault(change.sentence, []).append(f"{workload} −{change.saves:.0%}")
    return {sentence: f"modelled: {', '.join(where)}" for sentence, where in found.items()}
