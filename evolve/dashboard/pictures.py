"""Small pictures as SVG: sparklines, bars, intervals, the roofline. What has to be read to a digit is uPlot's.

They are drawn here because they then need no script, print, and stand in a saved file as they are. Colours come from
the style sheet by class, so both themes and paper work. No picture carries a text from outside unescaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape


def _svg(width: float, height: float, body: str, label: str, kind: str = "") -> Markup:
    return Markup(
        f'<svg class="pic {kind}" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img"'
        f' aria-label="{escape(label)}">{body}</svg>'
    )


def spark(values: Sequence[float], width: int = 120, height: int = 24) -> Markup:
    """The best over the steps."""
    if len(values) < 2:
        return Markup("")
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    step = width / (len(values) - 1)
    points = [(i * step, height - 2 - (height - 4) * (v - low) / span) for i, v in enumerate(values)]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    x, y = points[-1]
    body = f'<path class="line" d="{path}"/><circle class="dot" cx="{x - 2:.1f}" cy="{y:.1f}" r="2"/>'
    return _svg(width, height, body, f"best score from {values[0]:.3f} to {values[-1]:.3f}", "spark")


def bar(share: float, width: int = 160, height: int = 8, kind: str = "") -> Markup:
    full = max(0.0, min(1.0, share))
    body = f'<rect class="track" width="{width}" height="{height}" rx="2"/>'
    body += (
        f'<rect class="fill {kind}" width="{max(full * width, 1.0 if share > 0 else 0):.1f}" height="{height}" rx="2"/>'
    )
    return _svg(width, height, body, f"{100 * share:.0f} %", "gauge")


def parts(counts: Sequence[tuple[str, int]], width: int = 160, height: int = 8) -> Markup:
    """One bar of several verdicts."""
    whole = sum(n for _, n in counts) or 1
    x, body = 0.0, ""
    for name, n in counts:
        wide = n / whole * width
        body += f'<rect class="v-{escape(name)}" x="{x:.2f}" width="{wide:.2f}" height="{height}"/>'
        x += wide
    return _svg(width, height, body, ", ".join(f"{n} {name}" for name, n in counts), "parts")


class Scale:
    """A logarithmic axis; with one value, or all alike, it still has a width."""

    def __init__(self, values: Sequence[float], start: float, end: float, pad: float = 0.06) -> None:
        good = [v for v in values if math.isfinite(v) and v > 0] or [1.0]
        low, high = math.log(min(good)), math.log(max(good))
        room = max((high - low) * pad, 0.02)
        self.low, self.high, self.start, self.end = low - room, high + room, start, end

    def __call__(self, value: float) -> float:
        place = (math.log(max(value, 1e-300)) - self.low) / (self.high - self.low)
        return self.start + (self.end - self.start) * max(-0.05, min(1.05, place))

    def ticks(self, most: int = 6) -> list[float]:
        low, high = math.exp(self.low), math.exp(self.high)
        for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), tuple(1 + i / 10 for i in range(90))):
            found = [
                s * 10.0**e
                for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
                for s in steps
                if low <= s * 10.0**e <= high
            ]
            if len(found) >= 3:
                return found[:: max(1, math.ceil(len(found) / most))]
        return [low, high]


def interval(low: float, value: float, high: float, scale: Scale, width: int = 150, height: int = 16) -> Markup:
    """A ratio with its interval, on a scale that the whole table shares; the hairline is 1."""
    middle = height / 2
    x0, x, x1, one = scale(low), scale(value), scale(high), scale(1.0)
    kind = "good" if low > 1 else "bad" if high < 1 else "dull"
    body = f'<line class="one" x1="{one:.1f}" x2="{one:.1f}" y1="0" y2="{height}"/>' if 0 <= one <= width else ""
    body += (
        f'<rect class="mark {kind}" x="{x0:.1f}" y="{middle - 3}" width="{max(1.0, x1 - x0):.1f}" height="6" rx="1"/>'
    )
    body += f'<circle class="mark {kind}" cx="{x:.1f}" cy="{middle}" r="3"/>'
    return _svg(width, height, body, f"{value:.3f}, from {low:.3f} to {high:.3f}", "interval")


def rise(before: float | None, after: float, scale: Scale, width: int = 180, height: int = 14) -> Markup:
    """A step of the waterfall: from the parent's score to this one's."""
    start = scale(before) if before else scale.start
    end = scale(after)
    kind = "good" if not before or after >= before else "bad"
    left, wide = min(start, end), max(1.5, abs(end - start))
    one = scale(1.0)
    body = f'<line class="one" x1="{one:.1f}" x2="{one:.1f}" y1="0" y2="{height}"/>' if 0 <= one <= width else ""
    if before is None:
        wide = max(1.5, end - scale.start)
        body += f'<rect class="fill base" x="{scale.start:.1f}" y="3" width="{wide:.1f}" height="8"/>'
    else:
        body += f'<line class="track" x1="{scale.start:.1f}" x2="{left:.1f}" y1="7" y2="7"/>'
        body += f'<rect class="fill {kind}" x="{left:.1f}" y="3" width="{wide:.1f}" height="8"/>'
    return _svg(width, height, body, f"from {before or 0:.3f} to {after:.3f}", "rise")


# --- The roofline ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One kernel on one workload: FLOPs a byte, and TFLOP/s."""

    who: str  # here, parent, seed, best, baseline
    what: str
    x: float
    y: float


def roofline(marks: Sequence[Mark], tflops: float, gbs: float, width: int = 620, height: int = 300) -> Markup:
    """What the chip allows at each intensity, and where the kernels stand under it. Both axes are logarithmic."""
    ridge = tflops * 1e3 / gbs
    x = Scale([m.x for m in marks] + [ridge / 4, ridge * 4], 56, width - 16)
    y = Scale([m.y for m in marks] + [tflops, tflops / 20], height - 40, 14)
    body: str = "".join(_grid(x, y, width, height))
    left, right = math.exp(x.low), math.exp(x.high)
    floor = math.exp(y.low)
    start = max(left, floor * 1e3 / gbs)
    path = f"M{x(start):.1f} {y(start * gbs / 1e3):.1f}L{x(ridge):.1f} {y(tflops):.1f}L{x(right):.1f} {y(tflops):.1f}"
    body += f'<path class="roof" d="{path}"/>'
    body += _text("note", x(right) - 4, y(tflops) - 5, f"{tflops:,.0f} TFLOP/s", "end")
    middle = math.sqrt(start * ridge)
    body += _text("note", x(middle) + 8, y(middle * gbs / 1e3) + 12, f"{gbs:,.0f} GB/s", "start")
    body += "".join(_stems(marks, x, y))
    for mark in marks:
        told = str(escape(f"{mark.what}, {mark.who}: {mark.y:.4g} TFLOP/s at {mark.x:.4g} FLOP a byte"))
        radius = 4.5 if mark.who == "here" else 3.5
        body += f'<circle class="who-{escape(mark.who)}" cx="{x(mark.x):.1f}" cy="{y(mark.y):.1f}" r="{radius}">'
        body += f"<title>{told}</title></circle>"
    told = "; ".join(f"{m.what} {m.who} {m.y:.3g} TFLOP/s" for m in marks[:40])
    return _svg(width, height, body, f"roofline: {told}", "roofline")


def _text(kind: str, x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _grid(x: Scale, y: Scale, width: int, height: int) -> list[str]:
    found = []
    for tick in x.ticks(7):
        at = x(tick)
        found.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="14" y2="{height - 40}"/>')
        found.append(_text("tick", at, height - 25, f"{tick:,.4g}"))
    for tick in y.ticks(6):
        at = y(tick)
        found.append(f'<line class="grid" x1="56" x2="{width - 16}" y1="{at:.1f}" y2="{at:.1f}"/>')
        found.append(_text("tick", 50, at + 4, f"{tick:,.4g}", "end"))
    found.append(_text("axis", (40 + width) / 2, height - 6, "FLOP a byte"))
    upright = f'transform="translate(12 {(height - 26) / 2}) rotate(-90)"'
    found.append(f'<text class="axis" {upright} text-anchor="middle">TFLOP/s</text>')
    return found


def _stems(marks: Sequence[Mark], x: Scale, y: Scale) -> list[str]:
    """A line through all kernels of one workload, and its name under the lowest."""
    found: list[str] = []
    taken: list[tuple[float, float]] = []
    for what in dict.fromkeys(m.what for m in marks):
        mine = [m for m in marks if m.what == what]
        at, low, high = x(mine[0].x), max(y(m.y) for m in mine), min(y(m.y) for m in mine)
        found.append(f'<line class="stem" x1="{at:.1f}" x2="{at:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
        place = low + 16
        while any(abs(at - other) < 60 and abs(place - above) < 12 for other, above in taken):
            place += 12
        taken.append((at, place))
        found.append(_text("note", at, place, what[:24]))
    return found
