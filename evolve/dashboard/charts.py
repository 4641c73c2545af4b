"""What a chart on a page is given: columns that share one x, and how each of them is drawn.

The same words stand in charts.js. A column is thinned here, not there: what the eye cannot tell apart is not sent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np

Style: TypeAlias = Literal["line", "step", "points", "marks", "area", "edge"]
Figures: TypeAlias = "Sequence[float] | np.ndarray[Any, Any]"
Spec: TypeAlias = dict[str, Any]
DIGITS = 5


def chart(*, x: str, y: str, height: int = 240, **more: Any) -> Spec:
    """An empty chart: `x` and `y` are what stands at its axes. `lines` are levels, `cursor` names a synced group."""
    return {"x": x, "y": y, "height": height, "columns": [], **more}


def add(spec: Spec, label: str, xs: Figures, ys: Figures, style: Style, tone: str, **more: Any) -> None:
    """One more column; its own x may differ from the others', `aligned` brings them together."""
    spec["columns"].append({"label": label, "xs": list(xs), "ys": list(ys), "style": style, "tone": tone, **more})


def aligned(spec: Spec) -> Spec:
    """One x for all, with gaps where a column has no value."""
    columns = spec.pop("columns")
    xs = sorted({x for column in columns for x in column["xs"]})
    places = {x: i for i, x in enumerate(xs)}
    data: list[list[Any]] = [[_short(x) for x in xs]]
    series = []
    for column in columns:
        values: list[Any] = [None] * len(xs)
        for x, y in zip(column.pop("xs"), column.pop("ys"), strict=True):
            values[places[x]] = _short(y)
        data.append(values)
        series.append(column)
    return {**spec, "data": data, "series": series}


def _short(value: float) -> float | None:
    number = float(value)
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() else float(f"{number:.{DIGITS + 1}g}" if abs(number) < 1e5 else number)


def held(xs: Figures, ys: Figures, end: float) -> tuple[list[float], list[float]]:
    """A level that lasts until the end, as a step line needs it."""
    if not len(xs):
        return [], []
    return [*map(float, xs), float(end)], [*map(float, ys), float(ys[-1])]


def stacked(
    spec: Spec, names: Sequence[str], xs: Sequence[float], rows: Mapping[str, Sequence[float]], tones: Mapping[str, str]
) -> None:
    """Areas on top of each other, the first name lowest. Each carries its own amount for the legend."""
    ends = [-0.5, *xs]  # a bin is drawn from where the one before it ends
    total = [0.0] * len(ends)
    for name in names:
        own = [rows[name][0], *rows[name]]
        total = [a + b for a, b in zip(total, own, strict=True)]
        add(spec, name, ends, total, "area", tones[name], own=[_short(v) for v in own])
    spec["columns"].reverse()  # the highest is painted first
