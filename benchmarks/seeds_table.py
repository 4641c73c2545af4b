"""Every seed against every baseline on every timed workload, for docs/baselines.md.

    python benchmarks/seeds_table.py --out DIR --seconds 240 [--tune 12] [--backend gpu|cpu] [--problems matmul,...]

Built on `evolve bench`: a seed is judged first, then timed in blocks with the others in one process. First come all
five problems in bf16, each at once with what needs no compiling and then, within its share of the time, with
torch.compile too; then the other variants, as far as the time goes. With `--tune` the seed's parameters are searched
for so many seconds a problem, and the seed at its defaults stands beside. A row is written to DIR as it comes, so that
whatever ends it costs nothing that was measured: DIR/seeds_table.json has everything, DIR/baselines.md is for docs.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from evolve import benching  # noqa: E402
from evolve.benching_rows import row_of  # noqa: E402
from evolve.errors import EvolveError  # noqa: E402
from evolve.terminal import contest as page  # noqa: E402


@dataclass(frozen=True)
class Entry:
    problem: str
    variant: str
    seed: str = ""  # the problem's own, if not named
    share: float = 0.0  # of the time; 0: whatever is left, and without what compiles

    @property
    def name(self) -> str:
        return f"{self.seed or self.problem} {self.variant}"

    @property
    def file(self) -> Path:
        return ROOT / "seeds" / f"{self.seed or self.problem}.py"


FIRST = (
    Entry("matmul", "bf16", share=0.30),
    Entry("attention", "bf16", share=0.16),
    Entry("layernorm_residual", "bf16", share=0.15),
    Entry("matmul_gelu", "bf16", share=0.19),
    Entry("paged_decode", "bf16", share=0.20),
)
THEN = (
    Entry("matmul", "fp16"),
    Entry("attention", "fp16"),
    Entry("matmul", "fp8"),
    Entry("matmul", "int8"),
    Entry("matmul", "tf32"),
    Entry("matmul", "tf32_normwise", "matmul_strassen"),
    Entry("paged_decode", "fp16"),
    Entry("layernorm_residual", "fp16"),
    Entry("matmul_gelu", "fp16"),
    Entry("matmul", "fp32"),
    Entry("matmul", "fp32_normwise", "matmul_strassen"),
)


class TimeUp(Exception):
    """The time given is over; what was measured is written."""


@dataclass
class Table:
    out: Path
    ends: float
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    troubles: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def left(self) -> float:
        return self.ends - time.monotonic()

    def keep(self, name: str, data: dict[str, Any]) -> None:
        self.found[name] = data
        self.write()

    def write(self) -> None:
        whole = {"tables": self.found, "troubles": self.troubles, "seconds": self.seconds}
        (self.out / "seeds_table.json").write_text(json.dumps(whole, indent=1), encoding="utf-8")
        (self.out / "baselines.md").write_text(markdown(self.found, self.troubles), encoding="utf-8")


# --- Measuring --------------------------------------------------------------------------------------------------------


def measure(entry: Entry, table: Table, options: argparse.Namespace, until: float) -> None:
    order = benching.Order(
        target=str(entry.file),
        problem=str(ROOT / "evaluators" / f"{entry.problem}.py"),
        variant=entry.variant,
        backend=options.backend,
        tune=options.tune if entry.share and options.tune else None,
        seconds=options.samples,
    )
    began = time.monotonic()
    try:
        with benching.bench_of(order) as made:
            if made.evaluation.passed:
                rows(entry, made, table, until)
            else:
                table.troubles[entry.name] = f"{made.evaluation.verdict}: {made.evaluation.feedback}"
    except EvolveError as error:
        table.troubles[entry.name] = str(error)
    finally:
        table.seconds[entry.name] = round(time.monotonic() - began, 1)
        table.write()
    print(f"{entry.name}: {table.seconds[entry.name]} s {table.troubles.get(entry.name, '')}", flush=True)


def rows(entry: Entry, made: benching.Bench, table: Table, until: float) -> None:
    """Everything that is quick first, then the same again with what compiles, a workload at a time."""
    contests = {}
    for found in made.contests(compiles=False):
        contests[found.workload.name] = found
        told(entry, row_of(found, made.names))
        table.keep(entry.name, made.data(list(contests.values())))
        if table.left < 0:
            raise TimeUp
    for workload in made.workloads if entry.share else ():
        if time.monotonic() > until or not any(b.compiles for b in made.problem.baselines):
            return
        for found in made.contests([workload]):
            contests[found.workload.name] = found
            told(entry, row_of(found, made.names))
        table.keep(entry.name, made.data(list(contests.values())))


def told(entry: Entry, row: dict[str, Any]) -> None:
    others = ", ".join(f"{o['name']} {o['time_us']:.1f} ({o['ratio']:.3f}×)" for o in row["against"])
    print(f"  {entry.name} {row['workload']}: {row['time_us']:.1f} µs; {others}", flush=True)


# --- For people -------------------------------------------------------------------------------------------------------

HEAD = """# The seeds and what there is to beat

Plain seeds against libraries and compilers, by `python benchmarks/seeds_table.py --out DIR --seconds N`. Times are of
graph replays over rotating inputs, interleaved in one process; × is a contestant's time over the seed's, with its
interval: above 1 the seed is faster. "of the roof" is the share of the ceilings measured on that very GPU. A seed runs
at its own defaults unless "tuned" is said; the same at its defaults then stands beside.
"""


def markdown(found: dict[str, dict[str, Any]], troubles: dict[str, str]) -> str:
    lines = [HEAD]
    for name, data in found.items():
        lines += [f"\n## {name}{', the seed tuned' if data['tuned'] else ''}\n", f"On {page.surroundings(data)}.\n"]
        lines += list(grid(data))
        lines += [f"- {line}" for line in page.left_out(data)]
    if troubles:
        lines += ["\n## Not measured\n", *(f"- {name}: {why}" for name, why in troubles.items())]
    return "\n".join(lines) + "\n"


def grid(data: dict[str, Any]) -> Iterator[str]:
    """A line a workload, a column a contestant."""
    names = list(dict.fromkeys(o["name"] for row in data["workloads"] for o in row["against"]))
    titles = [f"{n} at its defaults" if n == "seed" else n for n in names]
    yield f"| workload | seed{', tuned' if data['tuned'] else ''} | of the roof | {' | '.join(titles)} |"
    yield "|" + "---|" * (3 + len(names))
    for row in data["workloads"]:
        by_name = {o["name"]: o for o in row["against"]}
        cells = [cell(row, by_name[n]) if n in by_name else "" for n in names]
        yield f"| {row['workload']} | {speed(row, row)} | {row['roofline']:.0%} | {' | '.join(cells)} |"
    means = {m["name"]: f"{m['ratio']:.3f} × [{m['ratio_low']:.3f}, {m['ratio_high']:.3f}]" for m in data["geomean"]}
    yield f"| geometric mean | | | {' | '.join(means.get(n, '') for n in names)} |\n"


def cell(row: dict[str, Any], other: dict[str, Any]) -> str:
    interval = "modelled" if row["modelled"] else f"[{other['ratio_low']:.3f}, {other['ratio_high']:.3f}]"
    return f"{speed(row, other)}, {other['ratio']:.3f} × {interval}"


def speed(row: dict[str, Any], figures: dict[str, Any]) -> str:
    compute = row["roof"]["bound"] == "compute"
    return f"{figures['time_us']:.4g} µs, " + (
        f"{figures['tflops']:.4g} TFLOP/s" if compute else f"{figures['gbs']:.4g} GB/s"
    )


# --- In order ---------------------------------------------------------------------------------------------------------


def deadlines(entries: Sequence[Entry], seconds: float) -> dict[str, float]:
    """Until when each may go on compiling; what one leaves is the next one's."""
    now, shared = time.monotonic(), 0.0
    found = {}
    for entry in entries:
        shared += entry.share
        found[entry.name] = now + seconds * shared
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=240.0, help="after these nothing new is begun")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--tune", type=float, default=0.0, help="seconds a bf16 problem; 0: the seed's defaults")
    parser.add_argument("--samples", type=float, default=1.5, help="seconds of samples, at most, a workload")
    parser.add_argument("--problems", default="", help="names with commas between; all if left out")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    wanted = [x for x in options.problems.split(",") if x]
    entries = [e for e in (*FIRST, *THEN) if not wanted or e.problem in wanted]
    table = Table(out=options.out, ends=time.monotonic() + options.seconds)
    until = deadlines(entries, 0.95 * options.seconds)

    def late(signum: int, frame: Any) -> None:
        raise TimeUp

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, options.seconds + 20)  # one that compiles for ever is cut off
    try:
        for entry in entries:
            if table.left < 8:
                table.troubles[entry.name] = "the time was up"
                continue
            try:
                measure(entry, table, options, until[entry.name])
            except TimeUp:
                table.troubles[entry.name] = "the time was up before all of it was measured"
            except (RuntimeError, ValueError, KeyError, OSError, AssertionError) as error:
                traceback.print_exc()
                table.troubles[entry.name] = f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        table.write()
    print(markdown(table.found, table.troubles))


if __name__ == "__main__":
    main()
