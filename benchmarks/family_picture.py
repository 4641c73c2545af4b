"""A run's lineage as a picture: every step at its score, with the way to the best, and who was refused.

python benchmarks/family_picture.py runs/h200-attention --out docs/case-study.svg
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from drawn import Axes, sheet, text

from evolve import lineage
from evolve.journal import Journal

WIDTH, HEIGHT = 900, 470


def drawn(journal: Journal) -> Iterator[str]:
    rows = list(journal.rows("s.state = 3"))
    places = {row.candidate_id: row for row in rows if row.candidate_id and row.passed}
    best = lineage.best(journal)
    way = lineage.ancestors(journal, best.candidate_id) if best and best.candidate_id else []
    scores = [row.score for row in places.values()]
    low, high = min(scores), max(scores)
    pad = 0.08 * (high - low) or 0.05
    floor = low - 3 * pad
    at = Axes(
        left=60, top=60, width=810, height=350, xs=(-0.5, max(r.step for r in rows) + 0.5), ys=(floor, high + pad)
    )
    device = journal.meta.get("device")
    yield text(20, 22, f"{journal.folder.name}: every step at its score, the way to the best in green; {device}", "h")
    yield from at.frame("step", "score: × the baseline, geometric mean")
    for row in rows:
        parent = places.get(row.parent_id or "")
        if parent is not None:
            y = row.score if row.passed else floor + pad
            yield (
                f'<line class="edge" x1="{at.x(parent.step):.1f}" y1="{at.y(parent.score):.1f}"'
                f' x2="{at.x(row.step):.1f}" y2="{at.y(y):.1f}"/>'
            )
    points = " ".join(f"{at.x(r.step):.1f},{at.y(r.score):.1f}" for r in way)
    yield f'<polyline class="way" points="{points}"/>'
    on_way = {r.step for r in way}
    for row in rows:
        x = at.x(row.step)
        if row.passed:
            style, size = ("best", 5) if row.step in on_way else ("passed", 4)
            yield (
                f'<circle class="{style}" cx="{x:.1f}" cy="{at.y(row.score):.1f}" r="{size}">'
                f"<title>{_told(row.step, row.hypothesis)}</title></circle>"
            )
            yield text(x + 6, at.y(row.score) - 6, str(row.step), "dim")
        else:
            y = at.y(floor + pad)
            yield (
                f'<path class="out" d="M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"><title>{_told(row.step, row.headline)}'
                "</title></path>"
            )
            yield text(x, y - 8, str(row.verdict), "dim mid")


def _told(step: int, words: str) -> str:
    kept = words[:160].replace("&", "&amp;").replace("<", "&lt;")
    return f"step {step}: {kept}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    order = parser.parse_args()
    with closing(Journal.open(order.run)) as journal:
        order.out.write_text(sheet(WIDTH, HEIGHT, drawn(journal)))


if __name__ == "__main__":
    main()
