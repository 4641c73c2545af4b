"""A comparison as one SVG file: each ratio with its interval, and the roofline with the kernels under it.

Drawn by hand, because the chart libraries that we ship draw in a browser, and a CI job has none. It shows what the
table shows, and no figure that is not in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

Data = Mapping[str, Any]
ROW, TOP, LEFT, BARS, ROOF_HEIGHT = 18, 56, 230, 360, 300
STYLE = """
text{font:12px ui-monospace,monospace;fill:#24292f}.dim{fill:#6e7781}.h{font-weight:bold}
.frame{stroke:#d0d7de;fill:none}.one{stroke:#6e7781;stroke-dasharray:3 3}
.roof{stroke:#24292f;fill:none;stroke-width:1.5}
.faster{fill:#2da44e;stroke:#2da44e}.slower{fill:#cf222e;stroke:#cf222e}.same{fill:#bf8700;stroke:#bf8700}
.bar{opacity:.35}.range{stroke-width:2}.candidate{fill:#0969da}.other{fill:#8c959f}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.dim{fill:#8d96a0}.frame{stroke:#30363d}.roof{stroke:#e6edf3}}
"""


def draw(data: Data) -> str:
    rows = list(_ratios(data))
    bars = TOP + ROW * len(rows) + 30
    height = bars + 40 + ROOF_HEIGHT + 40
    width = LEFT + BARS + 190
    title = f"{data['candidate']} on {data['problem']}, {data['variant']}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<style>{STYLE}</style>",
        _text(12, 20, title, "h"),
        _text(12, 38, data["device"], "dim"),
        *_bars(rows, modelled=any(row["modelled"] for row in data["workloads"])),
        *_roofline(data["workloads"], top=bars + 40, width=width),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" text-anchor="{anchor}">{escape(text)}</text>'


# --- Ratios ---------------------------------------------------------------------------------------------------------


def _ratios(data: Data) -> Iterator[tuple[str, Data]]:
    for row in data["workloads"]:
        yield from ((f"{row['workload']} / {other['name']}", other) for other in row["against"])
    yield from ((f"mean / {row['name']}", row) for row in data["geomean"])


def _bars(rows: Sequence[tuple[str, Data]], *, modelled: bool) -> Iterator[str]:
    """On a logarithmic scale, on which twice as fast and half as fast are equally far from 1."""
    reach = max([abs(math.log(edge)) for _, r in rows for edge in (r["ratio_low"], r["ratio_high"])] + [math.log(1.2)])

    def at(ratio: float) -> float:
        return LEFT + BARS / 2 * (1 + math.log(ratio) / reach)

    bottom = TOP + ROW * len(rows)
    yield f'<rect x="{LEFT}" y="{TOP}" width="{BARS}" height="{bottom - TOP}" class="frame"/>'
    yield f'<line x1="{at(1)}" x2="{at(1)}" y1="{TOP}" y2="{bottom}" class="one"/>'
    for n, (name, row) in enumerate(rows):
        y = TOP + ROW * (n + 0.5)
        low, high = row["ratio_low"], row["ratio_high"]
        style = "faster" if low > 1 else "slower" if high < 1 else "same"
        first, last = sorted((at(1), at(row["ratio"])))
        yield _text(LEFT - 8, y + 4, name, anchor="end")
        yield f'<rect x="{first:.1f}" y="{y - 5:.1f}" width="{last - first:.1f}" height="10" class="{style} bar"/>'
        yield f'<line x1="{at(low):.1f}" x2="{at(high):.1f}" y1="{y:.1f}" y2="{y:.1f}" class="{style} range"/>'
        yield f'<circle cx="{at(row["ratio"]):.1f}" cy="{y:.1f}" r="3" class="{style}"/>'
        span = "(modelled)" if modelled else f"[{low:.3f}, {high:.3f}]"
        yield _text(LEFT + BARS + 8, y + 4, f"{row['ratio']:.3f} × {span}")
    for ratio in (math.exp(-reach), 1.0, math.exp(reach)):
        yield _text(at(ratio), bottom + 16, f"{ratio:.2g} ×", "dim", "middle")


# --- Roofline -------------------------------------------------------------------------------------------------------


def _roofline(rows: Sequence[Data], *, top: float, width: float) -> Iterator[str]:
    """Operations a byte against operations a second, both logarithmic; nothing where a problem counts none."""
    rows = [row for row in rows if row["roof"]["intensity"] > 0]
    if not rows:
        return
    points = [(row["roof"]["intensity"], f["tflops"]) for row in rows for f in (row, *row["against"])]
    ridges = {(row["roof"]["gbs"], row["roof"]["tflops"]) for row in rows}
    corners = [tflops * 1e3 / gbs for gbs, tflops in ridges]
    low, high = min([x for x, _ in points] + corners) / 2, max([x for x, _ in points] + corners) * 2
    bottom, peak = min(y for _, y in points) / 2, max([y for _, y in points] + [t for _, t in ridges]) * 1.3
    bottom = min(bottom, peak / 10)
    left, right = 70.0, width - 30.0

    def x(value: float) -> float:
        return left + (right - left) * math.log(value / low) / math.log(high / low)

    def y(value: float) -> float:
        clipped = min(max(value, bottom), peak)
        return top + ROOF_HEIGHT * (1 - math.log(clipped / bottom) / math.log(peak / bottom))

    yield _text(12, top - 12, "roofline: TFLOP/s over FLOP per byte that must move; grey: the others", "h")
    yield f'<rect x="{left}" y="{top}" width="{right - left}" height="{ROOF_HEIGHT}" class="frame"/>'
    for gbs, tflops in sorted(ridges):
        first = max(low, bottom * 1e3 / gbs)
        line = [(first, first * gbs / 1e3), (tflops * 1e3 / gbs, tflops), (high, tflops)]
        yield f'<polyline points="{" ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line)}" class="roof"/>'
        yield _text(right - 6, y(tflops) - 5, f"{tflops:.0f} TFLOP/s, {gbs:.0f} GB/s", "dim", "end")
    for row in rows:
        at = row["roof"]["intensity"]
        for other in row["against"]:
            yield f'<circle cx="{x(at):.1f}" cy="{y(other["tflops"]):.1f}" r="3" class="other"/>'
        yield f'<circle cx="{x(at):.1f}" cy="{y(row["tflops"]):.1f}" r="4.5" class="candidate"/>'
        yield _text(x(at) + 7, y(row["tflops"]) + 4, row["workload"], "dim")
    for value in (low, math.sqrt(low * high), high):
        yield _text(x(value), top + ROOF_HEIGHT + 16, f"{value:.4g}", "dim", "middle")
    for value in (bottom, peak):
        yield _text(left - 6, y(value) + 4, f"{value:.4g}", "dim", "end")
