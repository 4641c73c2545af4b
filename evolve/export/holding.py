"""Whether a package keeps what the judge found: right answers, the judged launches, and the judged speed."""

from __future__ import annotations

from collections.abc import Mapping

from evolve.types import Evaluation, Json, Measurement

# The function's times come from a process like a user's, without the judge's guards and its many blocks: it is slower
# for certain where its whole interval lies this far below the judge's.
KEEPS = 0.95


def wrong(found: Mapping[str, Json]) -> list[str]:
    """A sentence for each workload that is answered wrongly."""
    return [
        f"{name}, {case['family']} inputs: {case['wrong']}"
        for name, row in found["workloads"].items()
        for case in row.get("cases", ())
        if case["wrong"]
    ]


def against(found: Mapping[str, Json], judged: Mapping[str, Evaluation]) -> list[str]:
    """A sentence for each way in which a candidate's trial on a GPU is not what it was judged to be."""
    said = wrong(found)
    for kernels, evaluation in judged.items():
        rows = found["candidates"][kernels]
        said += [
            f"{kernels}, {name}: {row['launches']['difference']}"
            for name, row in rows.items()
            if row["runs"] == "kernel" and row["launches"]["difference"]
        ]
        said += [
            sentence
            for m in evaluation.measurements
            if (sentence := slower(rows.get(m.workload), m))
        ]  # fmt: skip
    return said


def slower(row: Mapping[str, Json] | None, judged: Measurement) -> str:
    """Only where the judge promised a gain."""
    if row is None or judged.ratio_low <= 1:
        return ""
    if row["runs"] == "library":
        return f"{judged.workload}: the function would not run the kernel ({row['why']})"
    if "measured" not in row:
        return ""
    ratio = (row["measured"].get("baseline") or row["measured"])["ratio"]
    if ratio["high"] >= KEEPS * judged.ratio_low:
        return ""
    ours = f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}] × {judged.baseline} through the function"
    theirs = f"{judged.ratio:.3f} [{judged.ratio_low:.3f}, {judged.ratio_high:.3f}]"
    return f"{judged.workload}: {ours}, and the judge found {theirs}"
