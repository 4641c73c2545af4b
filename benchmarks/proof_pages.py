"""README's table, docs/results.md, the kept runs and the pictures, from what `benchmarks/proof.py` brought back.

    python benchmarks/proof_pages.py DIR [DIR ...]        DIR holds summary.json and all.tgz; a later one overrides

No figure here is typed by hand, and none is left out for being small: what falls short is printed as it is. The README
keeps what stands between `<!-- results -->` and `<!-- /results -->` for it. Runs are packed slim
to runs/h200-NAME.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tarfile
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from evolve import lineage
from evolve.journal import Journal
from evolve.packing import pack
from evolve.runs import is_run

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- results -->", "<!-- /results -->"
Row = Mapping[str, Any]
RIVALS = {  # what people use, and how a table calls it
    "cublas": "cuBLAS", "sdpa_cudnn": "cuDNN", "sdpa_flash": "FlashAttention-2", "compiled": "torch.compile",
    "eager": "eager", "cublaslt_fused": "cuBLASLt's fused epilogue", "gathered": "gather + SDPA",
    "the fastest of each": "the fastest of each", "seed_tuned": "the tuned seed", "seed": "the plain seed",
    "dense": "SDPA on a dense cache (not in pairs)", "copy": "of the copy bandwidth",
}  # fmt: skip


SHORT = {"layernorm_residual": "layernorm", "matmul_gelu": "gelu", "paged_decode": "decode"}  # of the runs' names


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What was to be reached against whom: over all sizes together, on each of them, or on one."""

    rival: str
    least: float
    where: str = "mean"  # mean, each, or a workload's name


GOALS: Mapping[str, Sequence[Goal]] = {
    "matmul": (Goal(rival="cublas", least=1.0), Goal(rival="cublas", least=0.95, where="each")),
    "attention": (Goal(rival="sdpa_cudnn", least=0.92), Goal(rival="sdpa_flash", least=1.37, where="each")),
    "layernorm_residual": (Goal(rival="compiled", least=1.02), Goal(rival="copy", least=0.93)),
    "matmul_gelu": (Goal(rival="the fastest of each", least=1.0), Goal(rival="eager", least=1.06)),
    "paged_decode": (
        Goal(rival="dense", least=0.95, where="b64_8k"),
        Goal(rival="gathered", least=3.0, where="b64_8k"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A ratio, above 1 the kernel is faster, with its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


# --- Figures --------------------------------------------------------------------------------------------------------


def mean(data: Row, rival: str) -> Figure | None:
    """As `evolve bench` combined it; the share of the copying rate is combined here, from the same rows."""
    if rival == "copy":
        rate = (data["environment"].get("ceilings") or {}).get("memory_gbs")
        shares = [share(row, rate) for row in data["workloads"]] if rate else []
        return combined(shares) if shares else None
    found = next((g for g in data["geomean"] if g["name"] == rival), None)
    if found is None and rival == "the fastest of each" and len(data["geomean"]) == 1:
        found = data["geomean"][0]
    return ratio_of(found) if found else None


def on(data: Row, rival: str, workload: str, dense: Row) -> Figure | None:
    row = next((w for w in data["workloads"] if w["workload"] == workload), None)
    if row is None:
        return None
    if rival == "dense":
        other = dense.get(workload)
        if not isinstance(other, Mapping):
            return None
        return Figure(
            value=other["time_us"] / row["time_us"],
            low=other["time_low_us"] / row["time_high_us"],
            high=other["time_high_us"] / row["time_low_us"],
        )
    found = next((a for a in row["against"] if a["name"] == rival), None)
    return ratio_of(found) if found else None


def ratio_of(found: Row) -> Figure:
    return Figure(value=found["ratio"], low=found["ratio_low"], high=found["ratio_high"])


def share(row: Row, rate: float) -> Figure:
    nbytes = row["gbs"] * row["time_us"]
    return Figure(
        value=row["gbs"] / rate,
        low=nbytes / row["time_high_us"] / rate,
        high=nbytes / row["time_low_us"] / rate,
    )


def combined(figures: Sequence[Figure]) -> Figure:
    """Geometric; half-widths of independent intervals add in squares."""
    n = len(figures)
    middle = sum(math.log(f.value) for f in figures) / n
    half = math.sqrt(sum((math.log(f.high / f.low) / 2) ** 2 for f in figures)) / n
    return Figure(value=math.exp(middle), low=math.exp(middle - half), high=math.exp(middle + half))


def word(found: Figure | None, least: float) -> str:
    """As for any limit: the whole interval decides."""
    if found is None:
        return "not measured"
    return "reached" if found.low >= least else "missed" if found.high < least else "undecided"


def outcome(data: Row, goal: Goal, dense: Row) -> tuple[Figure | None, str]:
    if goal.where == "mean":
        figure = mean(data, goal.rival)
    elif goal.where == "each":
        found = [on(data, goal.rival, w["workload"], dense) for w in data["workloads"]]
        figure = min((f for f in found if f), key=lambda f: f.value, default=None)
    else:
        figure = on(data, goal.rival, goal.where, dense)
    return figure, word(figure, goal.least)


def searched(row: Row, goal: Goal) -> tuple[Figure | None, str]:
    """Without a comparison on all sizes: what the run confirmed on those that it searched, if that was the rival."""
    scored = [m for m in row.get("measurements", ()) if m["weight"]]
    if goal.where != "mean" or not scored or any(m["baseline"] != goal.rival for m in scored):
        return None, "not measured"
    value, low, high = row["score"]
    figure = Figure(value=value, low=low, high=high)
    firm = "" if row["confirmed"] else ", not confirmed"
    if row.get("leading"):
        name, *ahead, _ = row["leading"]
        more = Figure(value=ahead[0], low=ahead[1], high=ahead[2])
        firm += f"; {more} confirmed for `{name}`, not promoted (docs/results.md says why)"
    return figure, f"{word(figure, goal.least)} on the {len(scored)} sizes searched{firm}"


# --- Pages ----------------------------------------------------------------------------------------------------------


def measured(row: Row, variant: str) -> Row | None:
    data = row.get(variant)
    return data if isinstance(data, Mapping) and data.get("workloads") else None


def readme(rows: Sequence[Row]) -> str:
    """One line a goal, and what the search took."""
    lines = [surroundings(rows), ""]
    lines += [
        "| kernel | against | goal | bf16 | fp16 | over the tuned seed | steps, GPU minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        data, other = measured(row, "bf16"), measured(row, "fp16")
        for n, goal in enumerate(GOALS.get(row["name"], ())):
            figure, said = outcome(data, goal, row.get("dense") or {}) if data else searched(row, goal)
            beside = outcome(other, goal, {})[0] if other else None
            gain = mean(data, "seed_tuned") if data and not n else None
            itself = bool(data and len(row["ancestry"]) == 1 and not n)
            cells = [
                f"`{row['name']}`" if not n else "",
                RIVALS[goal.rival] + {"mean": "", "each": ", least of all sizes"}.get(goal.where, f", {goal.where}"),
                f"≥ {goal.least:g}",
                f"{figure}, {said}" if figure else said,
                str(beside) if beside else "–",
                "it is the seed, tuned" if itself else f"{gain.value:.2f} ×" if gain else "",
                f"{row['spent']['steps']}, {row['spent']['gpu_seconds'] / 60:.1f}" if not n else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def surroundings(rows: Sequence[Row]) -> str:
    data = next((d for r in rows for v in ("bf16", "fp16") if (d := measured(r, v))), None)
    if data is None:
        return "Nothing was compared yet."
    versions = data["environment"]["versions"]
    driver = data["environment"]["gpu"].get("driver", "unknown")
    told = (
        f"One {data['device']}, torch {versions['torch']}, Triton {versions['triton']}, driver {driver}; × is the "
        "other's time over the kernel's, above 1 the kernel is faster; in pairs, with 99 % intervals, geometric mean "
        "over the sizes. [docs/results.md](docs/results.md) has every size."
    )
    return textwrap.fill(told, 120, break_long_words=False, break_on_hyphens=False)


def results(rows: Sequence[Row]) -> str:
    parts = ["# Every size, as measured", "", surroundings(rows).partition("[docs")[0].rstrip(), ""]
    parts += ["Made by `benchmarks/proof_pages.py` from what `benchmarks/proof.py` measured; not edited.", ""]
    for row in rows:
        parts += [f"## {row['name']}", "", *_search(row), ""]
        for variant in ("bf16", "fp16"):
            data = measured(row, variant)
            if data is not None:
                parts += [f"### {variant}", "", *_table(data, row.get("dense") if variant == "bf16" else None), ""]
            elif told := (row.get(variant) or {}).get("skipped"):
                parts += [f"{variant}: {told.strip().splitlines()[0]}", ""]
    return "\n".join(parts).rstrip() + "\n"


def _search(row: Row) -> Iterator[str]:
    spent = row["spent"]
    yield (
        f"`{row['config']}`: {spent['steps']} steps in {spent['sessions']} session{'s' * (spent['sessions'] > 1)}, "
        f"{spent['seconds'] / 60:.1f} minutes of search, {spent['gpu_seconds'] / 60:.1f} of the GPU's."
    )
    if "best" not in row:
        yield "No candidate was promoted."
        return
    score, low, high = row["score"]
    firm = "confirmed" if row["confirmed"] else "a first figure, **not confirmed**"
    yield (
        f"Best `{row['best']}`, score {score:.3f} [{low:.3f}, {high:.3f}] over the searched sizes and their baselines, "
        f"{firm}. Its way:"
    )
    yield ""
    for step, value, member, hypothesis in row["ancestry"]:
        yield f"- step {step}, {value:.3f}, by {member}: {hypothesis or 'the seed'}"
    if row.get("leading"):
        name, value, low, high, why = row["leading"]
        yield ""
        yield f"Confirmed at {value:.3f} [{low:.3f}, {high:.3f}] and not promoted: `{name}`, for {why}."


def _table(data: Row, dense: Row | None) -> Iterator[str]:
    names = list(dict.fromkeys(a["name"] for w in data["workloads"] for a in w["against"]))
    titles = [RIVALS.get(n, n) for n in names]
    yield f"| size | time | of the roof | {' | '.join(f'× {t}' for t in titles)} | parameters |"
    yield "|---" * (len(names) + 4) + "|"
    for row in data["workloads"]:
        beside = {a["name"]: a for a in row["against"]}
        ratios = [str(ratio_of(beside[n])) if n in beside else "–" for n in names]
        chosen = ", ".join(f"{k}={v}" for k, v in row["parameters"].items())
        roof = f"{100 * row['roofline']:.0f} % ({row['tflops']:.0f} TFLOP/s, {row['gbs']:.0f} GB/s)"
        yield f"| {row['workload']} | {row['time_us']:.2f} µs | {roof} | {' | '.join(ratios)} | {chosen} |"
    means = {n: mean(data, n) for n in names}
    yield f"| geometric mean | | | {' | '.join(str(means[n]) if means[n] else '–' for n in names)} | |"
    skipped = {n: why for w in data["workloads"] for n, why in w["skipped"].items()}
    if skipped:
        yield ""
        yield "Left out: " + "; ".join(f"{n}: {why.splitlines()[0]}" for n, why in skipped.items()) + "."
    if dense and "skipped" not in dense:
        yield ""
        told = [f"{n} {d['time_us']:.1f} µs ({on(data, 'dense', n, dense)})" for n, d in dense.items()]
        yield f"SDPA on a dense cache without pages, timed in the same minute and not in pairs: {'; '.join(told)}."


# --- Files ----------------------------------------------------------------------------------------------------------


def gathered(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """By name; a later figure takes an earlier one's place, and what only an earlier lease measured stays."""
    rows: dict[str, dict[str, Any]] = {}
    for folder in folders:
        for row in json.loads((folder / "summary.json").read_text()):
            if "skipped" in row:
                continue
            before = rows.get(row["name"], {})
            kept = {v: before[v] for v in ("bf16", "fp16", "dense") if v in before and not measured(row, v)}
            rows[row["name"]] = {**row, **(kept if row.get("best") == before.get("best") else {})}
    return list(rows.values())


def keep(folders: Sequence[Path], rows: Sequence[Row], runs: Path) -> None:
    """Each run slim, under a name that lasts."""
    with tempfile.TemporaryDirectory() as place:
        for folder in folders:
            if (folder / "all.tgz").is_file():
                with tarfile.open(folder / "all.tgz") as tar:
                    tar.extractall(place, filter="data")
        for row in rows:
            # Unpacked already, or out of the archive.
            found = next(
                (f / row["run"] for f in reversed(folders) if (f / row["run"]).is_dir()), Path(place) / row["run"]
            )
            to = runs / kept_as(row["name"])
            if found.is_dir():
                shutil.rmtree(to, ignore_errors=True)
                print(pack(found, to, slim=True).sentence())
            name = str((row.get("package") or {}).get("name", ""))
            package = next((f / name for f in reversed(folders) if name and (f / name).is_dir()), Path(place) / name)
            if row.get("package", {}).get("name") and package.is_dir():
                shutil.rmtree(runs / package.name, ignore_errors=True)
                shutil.copytree(package, runs / package.name)


def kept_as(name: str) -> str:
    return f"h200-{SHORT.get(name, name)}"


def leading(run: Path, row: dict[str, Any]) -> None:
    """A candidate that was confirmed above the best and not promoted: its figure, and why."""
    with closing(Journal.open(run)) as journal:
        for found in lineage.top(journal, 5):
            if found.candidate_id and found.confirmed and not found.beats and found.score > row["score"][0]:
                why = journal.attempt(found.candidate_id).evaluation.evidence["time"]["promotion"]["why"]
                row["leading"] = [found.candidate_id, found.score, found.score_low, found.score_high, why]
                return


def put(page: Path, block: str) -> None:
    text = page.read_text()
    start, end = text.find(BEGIN), text.find(END)
    if not 0 <= start < end:
        raise SystemExit(f"{page}: expected {BEGIN} and {END} with the results between them.")
    page.write_text(text[: start + len(BEGIN)] + "\n" + block + "\n" + text[end:])


def pictures(runs: Path, docs: Path) -> None:
    one, rival = runs / "h200-matmul", runs / "h200-matmul-best-of-n"
    if one.is_dir() and rival.is_dir():
        draw = [sys.executable, "benchmarks/curves.py", str(one), str(rival), "--out", str(docs / "best-of-n.svg")]
        subprocess.run(draw, cwd=ROOT, check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--no-runs", action="store_true", help="only the pages")
    order = parser.parse_args()
    rows = gathered(order.folders)
    for row in rows:
        for run in [f / row["run"] for f in order.folders if is_run(f / row["run"]) and "best" in row]:
            leading(run, row)
    shown = [row for name in GOALS for row in rows if row["name"] == name]
    put(ROOT / "README.md", readme(shown))
    (ROOT / "docs" / "results.md").write_text(results(shown))
    if not order.no_runs:
        keep(order.folders, rows, ROOT / "runs")
        pictures(ROOT / "runs", ROOT / "docs")
    print(readme(shown))


if __name__ == "__main__":
    main()
