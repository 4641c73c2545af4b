"""What calibration measured of a GPU, for a person: `evolve doctor --gpu`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def show(variant: str, calibration: Mapping[str, Any], console: Console, *, first: bool) -> None:
    if first:
        _gpu(calibration, console)
    console.print(Text(f"\nVariant {variant}: baselines and how restless a kernel is against itself", style="bold"))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("workload", "baseline", "µs", "calls a sample", "error", "of its bound", "A/A spread"):
        table.add_column(title, justify="left" if title in ("workload", "baseline") else "right")
    for name, row in calibration["workloads"].items():
        errors = row["rows"]
        table.add_row(
            name,
            row["baseline"] or "none",
            f"{row['us']:.2f}" if row["us"] else "",
            str(row["calls"]),
            f"{max((r['error'] for r in errors), default=math.nan):.1e}",
            f"{max((r['ratio'] for r in errors), default=math.nan):.2f}",
            f"{row['aa']['spread']:.2%}" if row.get("aa") else "",
        )
    console.print(table)


def _gpu(calibration: Mapping[str, Any], console: Console) -> None:
    facts = ", ".join(f"{k} {v}" for k, v in calibration["gpu"].items() if k != "uuid")
    console.print(Text(f"\nGPU: {facts}", style="bold"), soft_wrap=True)
    for name, value in calibration["ceilings"].items():
        shown = ", ".join(f"{k} {v:.4g}" for k, v in value.items()) if isinstance(value, Mapping) else f"{value}"
        console.print(Text(f"  {name:<12} {shown}"), soft_wrap=True)
    for when, reading in calibration["clocks"].items():
        console.print(Text(f"  clocks {when:<6} {_clocks(reading)}"), soft_wrap=True)
    for foreigner in calibration["foreigners"]:
        console.print(Text(f"  also on this GPU: {foreigner}; nothing is promoted meanwhile", style="yellow"))
    for warning in calibration["warnings"]:
        console.print(Text(f"  warning: {warning}", style="yellow"), soft_wrap=True)


def _clocks(reading: Mapping[str, Any] | None) -> str:
    if not reading:
        return "not readable here"
    return (
        f"SM {reading['sm_mhz']} MHz, memory {reading['memory_mhz']} MHz, {reading['power_watts']:.0f} W, "
        f"{reading['celsius']} °C"
    )
