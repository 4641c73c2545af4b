"""Axes, lines and words for the pictures of docs/: plain SVG, in the reader's own fonts, light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
text{font:12px ui-monospace,monospace;fill:#24292f}.dim{fill:#6e7781}.h{font-weight:bold}.end{text-anchor:end}
.mid{text-anchor:middle}.frame{stroke:#d0d7de;fill:none}.grid{stroke:#d0d7de;stroke-width:.5}
.a{stroke:#0969da;fill:none;stroke-width:2}.b{stroke:#bf8700;fill:none;stroke-width:2}.thin{stroke-width:1;opacity:.55}
.dot-a{fill:#0969da}.dot-b{fill:#bf8700}.text-a{fill:#0969da}.text-b{fill:#9a6700}
.edge{stroke:#afb8c1;stroke-width:1;fill:none}.way{stroke:#2da44e;stroke-width:2.5;fill:none}
.passed{fill:#8c959f}.best{fill:#2da44e}.out{stroke:#cf222e;stroke-width:1.5}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.dim{fill:#8d96a0}.frame,.grid{stroke:#30363d}.edge{stroke:#484f58}
.text-a{fill:#58a6ff}.text-b{fill:#d29922}.a{stroke:#58a6ff}.b{stroke:#d29922}.dot-a{fill:#58a6ff}.dot-b{fill:#d29922}}
"""


@dataclass(frozen=True, kw_only=True)
class Axes:
    """A panel: what is on its axes, and where it stands on the sheet."""

    left: float
    top: float
    width: float
    height: float
    xs: tuple[float, float]
    ys: tuple[float, float]

    def x(self, value: float) -> float:
        low, high = self.xs
        return self.left + self.width * (value - low) / ((high - low) or 1.0)

    def y(self, value: float) -> float:
        low, high = self.ys
        return self.top + self.height * (1 - (value - low) / ((high - low) or 1.0))

    def frame(self, below: str, beside: str) -> Iterable[str]:
        right, bottom = self.left + self.width, self.top + self.height
        for value in ticks(*self.ys):
            y = self.y(value)
            yield f'<line class="grid" x1="{self.left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield text(self.left - 6, y + 4, f"{value:.2f}", "dim end")
        for value in ticks(*self.xs):
            yield text(self.x(value), bottom + 16, f"{value:g}", "dim mid")
        yield f'<rect class="frame" x="{self.left}" y="{self.top}" width="{self.width}" height="{self.height}"/>'
        yield text(self.left + self.width / 2, bottom + 34, below, "dim mid")
        yield text(self.left, self.top - 8, beside, "dim")

    def stairs(self, points: Sequence[tuple[float, float]], end: float, style: str) -> str:
        """A level that lasts until the next."""
        path = [f"M{self.x(points[0][0]):.1f} {self.y(points[0][1]):.1f}"]
        for x, y in points[1:]:
            path += [f"H{self.x(x):.1f}", f"V{self.y(y):.1f}"]
        return f'<path class="{style}" d="{"".join(path)}H{self.x(end):.1f}"/>'


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers between the ends."""
    step = next((s * 10**e for e in range(-4, 7) for s in (1, 2, 5) if (high - low) / (s * 10**e) <= about), high - low)
    first = -(-low // step)
    return [round((first + n) * step, 9) for n in range(about + 2) if (first + n) * step <= high + 1e-9]


def text(x: float, y: float, words: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}">{escape(words)}</text>'


def sheet(width: float, height: float, parts: Iterable[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}">'
    return "\n".join([head, f"<style>{STYLE}</style>", *parts, "</svg>"]) + "\n"
