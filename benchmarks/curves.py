"""Two runs on one budget in one picture: the best so far against GPU seconds and against steps.

    python benchmarks/curves.py runs/h200-matmul runs/h200-matmul-best-of-n --out docs/curves.svg

The strong line is the best that was confirmed, on fresh inputs and held-out sizes; the thin one is the best first
figure, which is luck in part. Both curves end where the shorter run ended, so that neither has had more. Runs whose
scores do not compare (another GPU, version, problem, or workloads) are refused.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from drawn import Axes, sheet, text

from evolve.journal import Journal
from evolve.types import Confirmed, Judged

WIDTH, HEIGHT, TOP, PANEL = 900, 340, 84, 370
Points = list[tuple[float, float]]


@dataclass(kw_only=True)
class Curve:
    name: str
    key: tuple[str, str]
    device: str
    gpu_seconds: float = 0.0
    steps: int = 0
    confirmed: dict[str, Points] = field(default_factory=lambda: {"gpu": [], "steps": []})
    first: dict[str, Points] = field(default_factory=lambda: {"gpu": [], "steps": []})

    def note(self, line: dict[str, Points], score: float) -> None:
        if not line["gpu"] or score > line["gpu"][-1][1]:
            line["gpu"].append((self.gpu_seconds, score))
            line["steps"].append((self.steps, score))


def curve_of(run: Path) -> Curve:
    """A fold over the events, in the order in which they were committed."""
    with closing(Journal.open(run)) as journal:
        called = f"{journal.folder.name} ({str(journal.meta.get('strategy', 'evolution')).replace('_', ' ')})"
        key = (str(journal.meta["ranking_key"]), str(journal.meta["workloads"]))
        made = Curve(name=called, key=key, device=str(journal.meta["device"]))
        for logged in journal.events(evidence=False):
            event = logged.event
            if not isinstance(event, Judged | Confirmed):
                continue
            made.gpu_seconds += event.evaluation.seconds.get("gpu", 0.0)
            if isinstance(event, Judged):
                made.steps += bool(event.candidate is None or event.candidate.kind != "seed")
                if event.evaluation.passed:
                    made.note(made.first, event.evaluation.score)
            elif event.evaluation.passed and event.evaluation.beats_incumbent:
                made.note(made.confirmed, event.evaluation.score)
    return made


def until(points: Points, end: float) -> Points:
    return [(x, y) for x, y in points if x <= end]


def drawn(curves: Sequence[Curve]) -> Iterator[str]:
    ends = {
        "gpu": min(c.gpu_seconds for c in curves),
        "steps": float(min(c.steps for c in curves)),
    }
    lines = [line[axis] for c in curves for line in (c.first, c.confirmed) for axis in ends]
    scores = [y for points in lines for _, y in points]
    low, high = min(scores), max(scores)
    ys = (low - 0.05 * (high - low), high + 0.08 * (high - low))
    yield text(20, 22, f"Best so far on one budget, {curves[0].device}", "h")
    for n, (curve, tone) in enumerate(zip(curves, "ab", strict=False)):
        best = until(curve.confirmed["gpu"], ends["gpu"])
        told = f"{best[-1][1]:.3f}" if best else "nothing confirmed"
        yield text(20 + 430 * n, 44, f"— {curve.name}: {told}", f"text-{tone}")
    for n, (axis, below) in enumerate((("gpu", "GPU seconds"), ("steps", "steps"))):
        at = Axes(left=60 + n * (PANEL + 80), top=TOP, width=PANEL, height=200, xs=(0.0, ends[axis]), ys=ys)
        yield from at.frame(below, "score: × the baseline, geometric mean")
        for curve, tone in zip(curves, "ab", strict=False):
            for line, style in ((curve.first, f"{tone} thin"), (curve.confirmed, tone)):
                if points := until(line[axis], ends[axis]):
                    yield at.stairs(points, ends[axis], style)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs=2, type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, required=True)
    order = parser.parse_args()
    curves = [curve_of(run) for run in order.runs]
    if curves[0].key != curves[1].key:
        print(f"scores do not compare: {curves[0].key} and {curves[1].key}", file=sys.stderr)
        return 1
    order.out.write_text(sheet(WIDTH, HEIGHT, drawn(curves)))
    for c in curves:
        best = c.confirmed["gpu"][-1][1] if c.confirmed["gpu"] else float("nan")
        print(f"{c.name}: {c.steps} steps, {c.gpu_seconds:.0f} GPU seconds, best confirmed {best:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
