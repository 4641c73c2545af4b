"""What a colleague would say of a candidate: how fast it is where, what was built, and what the judge remarked.

Figures are repeated as the judge gave them, and called modelled where they are. Nothing is advised here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from evolve.prompts.situation import Situation, Timing
from evolve.types import Attempt, Scalar, Workload

KIB = 1024
BOUNDS = {
    "compute": "arithmetic",
    "memory": "memory traffic",
    "latency": "latency, waiting for loads",
    "launch": "launching",
}
# Instructions that tell how a kernel works, in the order in which one would ask for them.
TELLING = "HGMMA QGMMA IGMMA HMMA IMMA FFMA MUFU UTMALDG LDGSTS LDG LDSM UTMASTG STG LDL STL BAR"
# What this account says itself, in fewer words: lines of the judge's feedback that need not be said again.
_SAID = re.compile(r"^(Costliest kernel |Facts( \(|:))")


def sizes(workload: Workload) -> str:
    return ", ".join(f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in workload.params.items())


def times(at: Situation, *, brief: bool = False) -> str:
    """Score, and a line a workload; `brief` for those that are shown beside another."""
    found = at.evaluation
    if brief:
        how = " (modelled)" if found.modelled else f" ({found.score_low:.3f} to {found.score_high:.3f})"
        return "\n".join([f"Its score is {found.score:.3f}{how}.", *(_timing(t, brief) for t in at.timings)])
    baselines = sorted({t.measured.baseline.removesuffix(" (modelled)") for t in at.timings})
    over = "the seed" if baselines == ["seed"] else baselines[0] if len(baselines) == 1 else "its baselines"
    how = "All times are modelled from the machine code, not measured." if found.modelled else _interval(at)
    lines = [f"Its score is {found.score:.3f}: the weighted geometric mean of its speed-up over {over}. {how}".rstrip()]
    lines += [_timing(t) for t in at.timings]
    lines += _parameters(at)
    return "\n".join(lines)


def _interval(at: Situation) -> str:
    low, high = at.evaluation.score_low, at.evaluation.score_high
    return f"Measured, between {low:.3f} and {high:.3f} at 95 %."


def _timing(timing: Timing, brief: bool = False) -> str:
    m = timing.measured
    base = m.baseline.removesuffix(" (modelled)")
    bounds = "" if m.modelled else f" ({m.ratio_low:.3f} to {m.ratio_high:.3f})"
    said = f"- {timing.workload.name}: {m.time_us:.4g} us, {m.ratio:.3f} times as fast as {base}{bounds}"
    if timing.roofline is not None:
        said += f"; {timing.roofline:.0%} of the roofline"
    if timing.bound:
        said += f", bound by {BOUNDS.get(timing.bound, timing.bound)}"
    parts = sorted(((us, what) for what, us in timing.terms_us.items() if us >= 0.1 * m.time_us), reverse=True)[:3]
    if len(parts) > 1 and not brief:
        modelled = "" if m.modelled else "modelled "
        said += f"; {modelled}parts, which overlap: {', '.join(f'{what} {us:.3g}' for us, what in parts)} us"
    return said


def _parameters(at: Situation) -> list[str]:
    """What all workloads ran at is said once."""
    chosen = {t.workload.name: dict(t.measured.parameters) for t in at.timings if t.measured.parameters}
    told = {name: _assignments(values) for name, values in chosen.items()}
    if len(set(told.values())) == 1:
        return [f"All ran at {next(iter(told.values()))}."]
    return ["The tuner chose:", *(f"- {name}: {text}" for name, text in told.items())] if told else []


def _assignments(values: Mapping[str, Scalar]) -> str:
    return ", ".join(f"{k}={v!r}" if isinstance(v, str) else f"{k}={v}" for k, v in values.items())


def built(at: Situation) -> str:
    """The costliest kernel of the heaviest workload, in a paragraph."""
    t = at.traits
    if "kernel" not in t:
        return ""
    several = f", the costliest of {t['launches']} launches," if at.number("launches") > 1 else ""
    path = {"none": "no tensor cores", "mma": "HMMA", "wgmma": "WGMMA"}.get(at.path.split("+")[0], at.path)
    through = " through descriptors" if at.descriptors else ""
    tile = f", tile {t['tile']}" if len(at.tile) == 3 else ""
    spilled = f"spills {at.number('spills_bytes'):.0f} B" if at.number("spills_bytes") else "spills nothing"
    sentences = [
        f"{t['kernel']}{several} uses {path}{through}: a {at.structure} grid of {t.get('programs')} programs in "
        f"{at.number('waves'):.3g} waves{tile}, {at.warps} warps, {t.get('num_stages')} stages.",
        f"A thread holds {t.get('registers')} registers and {spilled}; a block takes "
        f"{at.number('shared_bytes') / KIB:.0f} KiB of shared memory; {t.get('blocks_per_sm')} "
        f"block{'' if t.get('blocks_per_sm') == 1 else 's'} an SM, limited by {t.get('limited_by')} (occupancy "
        f"{at.number('occupancy'):.0%}).",
        _machine_code(at),
        "It is made for the timed sizes: their neighbours run another kernel." if t.get("specialised") else "",
    ]
    return " ".join(s for s in sentences if s)


def _machine_code(at: Situation) -> str:
    if not at.counted:
        return ""
    held = [f"{name} {at.count(name):.0f}" for name in TELLING.split() if at.count(name)]
    loop = at.number("synchronous_loads_in_loop")
    inside = f", {loop:.0f} synchronous loads in the loop" if loop else ""
    return f"Machine code: {at.count('total'):.0f} instructions, of them {', '.join(held)}{inside}."


def profiled(at: Situation) -> str:
    """What Nsight Compute read, where it could."""
    profile = (at.evaluation.evidence.get("time") or {}).get("profile")
    if not isinstance(profile, Mapping) or not profile.get("launches"):
        return ""
    costliest = max(profile["launches"], key=lambda launch: launch.get("duration", 0.0))
    read = [f"{k.removesuffix('_percent')} {v:.0f} %" for k, v in costliest.items() if k.endswith("_percent")]
    known = {w.name for w in at.workloads}
    on = f" on {profile['workload']}" if profile.get("workload") in known else ""
    return f"The profiler read{on}: {', '.join(read)}." if read else ""


def remarks(at: Situation, hidden: Iterable[str]) -> str:
    """What else the judge's feedback says: cliffs and advice. Lines on a hidden workload stay hidden."""
    names = [t.workload.name for t in at.timings]
    kept = []
    for line in at.evaluation.feedback.splitlines():
        spoken_of = {name.strip() for name in line.partition(": ")[0].split(",")}
        timing = any(line.startswith(f"{name}: ") and " us m" in line for name in names)
        if line.strip() and not timing and not _SAID.match(line) and not spoken_of & set(hidden):
            kept.append(f"- {line.strip()}")
    return "\n".join(kept)


def failure(attempt: Attempt, *, longest: int) -> str:
    """A failed child: what it wanted, how it failed, and the end of what was said."""
    evaluation, candidate = attempt.evaluation, attempt.candidate
    idea = f"It wanted: {candidate.hypothesis}\n" if candidate.hypothesis else ""
    where = f" in {evaluation.stage}" if evaluation.stage else ""
    if candidate.matched == "fuzzy":
        idea += "Its SEARCH text was not in the file as quoted; the one place that resembles it was edited.\n"
    return f"{idea}It ended as {evaluation.verdict}{where}: {tail(evaluation.feedback.strip(), longest)}"


def tail(text: str, longest: int) -> str:
    """Compilers say what is wrong at the end; what was asked of them stands at the beginning."""
    if len(text) <= longest:
        return text
    head = text[: longest // 4].rsplit("\n", 1)[0]
    return f"{head}\n[...]\n{text[len(head) - longest :]}"
