"""What the journal costs: appending, the size of the file, replaying it, asking it. Prints what was measured.

    python benchmarks/journal.py [--steps 100000] [--keep FOLDER]

The replay is what resuming pays before any state is folded; ten seconds are allowed for both at 100,000 steps.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from synthetic import KEY, events

from evolve import lineage
from evolve.journal import Journal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--keep", type=Path, help="make the run here and leave it")
    parser.add_argument("--read", type=Path, help="make nothing; replay this run and ask it")
    given = parser.parse_args()
    if given.read:
        with Journal.open(given.read) as journal:
            replay(journal)
            ask(journal)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch) / "synthetic-001"
        fill(folder, given.steps)
        # In a process of its own, so that its memory is not the filling's.
        subprocess.run([sys.executable, __file__, "--read", str(folder)], check=True)


def fill(folder: Path, steps: int) -> None:
    taken: list[float] = []
    worked = 0.0
    with Journal.create(
        folder, config_text="problem: matmul\n", meta={"problem": "matmul", "device": "none"}
    ) as journal:
        for event in events(steps):
            begun, busy = time.perf_counter(), time.process_time()
            journal.append(event)
            worked += time.process_time() - busy
            taken.append(time.perf_counter() - begun)
    size = sum(f.stat().st_size for f in folder.iterdir())
    tail = sorted(taken)[int(0.99 * len(taken))]
    print(f"{len(taken):,} events of {steps:,} steps, {size / 2**20:,.0f} MB ({size / steps / 1024:.1f} kB a step)")
    mean, median = statistics.fmean(taken), statistics.median(taken)
    print(f"append: {mean * 1e3:.3f} ms mean, {worked / len(taken) * 1e3:.3f} of them work; {median * 1e3:.3f} median, "
          f"{tail * 1e3:.3f} at 99 %, {max(taken) * 1e3:.0f} at worst", flush=True)  # fmt: skip


def replay(journal: Journal) -> None:
    before = peak_mb()
    seconds, count = timed(lambda: sum(1 for _ in journal.events(evidence=False)))
    print(f"replay: {seconds:.2f} s for {count:,} events, {seconds / max(1, count) * 1e6:.1f} µs each, "
          f"peak memory {before:.0f} -> {peak_mb():.0f} MB")  # fmt: skip


def ask(journal: Journal) -> None:
    rows = list(journal.rows("s.verdict = 'PASSED'", order="s.generation DESC LIMIT 1"))
    deepest = rows[0].candidate_id or ""
    questions: dict[str, Callable[[], object]] = {
        "top 20": lambda: lineage.top(journal, 20, KEY),
        "best": lambda: lineage.best(journal),
        f"ancestors, {rows[0].generation} deep": lambda: lineage.ancestors(journal, deepest),
        "descendants of the seed": lambda: lineage.descendants(journal, lineage.find(journal, "0").candidate_id or ""),
        "children of the seed": lambda: lineage.children(journal, lineage.find(journal, "0").candidate_id or ""),
        "verdict counts": lambda: lineage.verdict_counts(journal),
        "scoreboard": lambda: lineage.scoreboard(journal),
        "spend": lambda: lineage.spend(journal),
        "best so far": lambda: lineage.best_so_far(journal),
        "pending": journal.pending,
        "one candidate": lambda: journal.attempt(deepest),
    }
    for name, question in questions.items():
        seconds = min(timed(question)[0] for _ in range(3))
        print(f"{name}: {seconds * 1e3:.2f} ms")


def timed(work: Callable[[], object]) -> tuple[float, object]:
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def peak_mb() -> float:
    """Of this process alone; `getrusage` would begin with the peak of the one that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
