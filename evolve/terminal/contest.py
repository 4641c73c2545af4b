"""A comparison for a person: `evolve bench`. A workload as it comes, a line a contestant, then means and limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from evolve.terminal import words

Data = Mapping[str, Any]
SHADES = {"passed": "green", "failed": "bold red", "inconclusive": "yellow"}


def workload(row: Data, console: Console, candidate: str) -> None:
    sizes = "  ".join(f"{k}={v}" for k, v in row["params"].items())
    head = Text(f"\n{words.line(row['workload'])}", style="bold").append(f"  {sizes}  {row['mode']}", style="dim")
    console.print(head, soft_wrap=True)
    console.print(_own(row, candidate), soft_wrap=True)
    for other in sorted(row["against"], key=lambda o: o["time_us"]):
        console.print(_other(row, other), soft_wrap=True)
    for foreigner in row["foreigners"]:
        console.print(Text(f"  also on this GPU: {foreigner}", style="yellow"), soft_wrap=True)


def _own(row: Data, candidate: str) -> Text:
    line = _line(words.line(candidate), row, row, "bold")
    if row["modelled"]:
        return line.append("(modelled)", style="yellow")
    half = (row["time_high_us"] / row["time_low_us"] - 1) / 2
    return line.append(f"± {half:.1%} over {row['blocks']} blocks", style="dim")


def _other(row: Data, other: Data) -> Text:
    low, high = other["ratio_low"], other["ratio_high"]
    shade = "green" if low > 1 else "red" if high < 1 else "yellow"
    line = _line(other["name"], row, other, "").append(f"{other['ratio']:.3f} ×", style=shade)
    return line if row["modelled"] else line.append(f"  {words.interval(low, high)}")


def _line(name: str, row: Data, figures: Data, style: str) -> Text:
    bound = row["roof"]["bound"]
    rate = f"{figures['tflops']:.1f} TFLOP/s" if bound == "compute" else f"{figures['gbs']:.0f} GB/s"
    line = Text("  ").append(f"{name:<24} ", style=style).append(f"{words.microseconds(figures['time_us']):>12}")
    return line.append(f"{rate:>16}").append(f"{figures['roofline']:>6.0%} of the roof  ", style="dim")


def summary(data: Data, console: Console) -> None:
    """What holds over all workloads, who was left out and why, and what each limit says."""
    if data["geomean"]:
        console.print(Text("\ngeometric mean of their times over the candidate's", style="bold"))
    modelled = any(row["modelled"] for row in data["workloads"])
    for row in data["geomean"]:
        interval = " (modelled)" if modelled else f"  {words.interval(row['ratio_low'], row['ratio_high'])}"
        share = f"  over {row['workloads']} of {len(data['workloads'])}" * (row["workloads"] < len(data["workloads"]))
        console.print(Text(f"  {row['name']:<24} {row['ratio']:>7.3f} ×{interval}").append(share, style="dim"))
    for line in left_out(data):
        console.print(Text(f"  {line}", style="yellow"), soft_wrap=True)
    console.print(Text(f"\non {surroundings(data)}", style="dim"), soft_wrap=True)
    for gate in data["gates"]:
        text = Text("  ").append(f"{gate['word']:<13}", style=SHADES[gate["word"]])
        console.print(text.append(f"{gate['limit']} {gate['least']:g}  {gate['what']}: {gate['why']}"), soft_wrap=True)
    if data["gates"]:
        console.print(Text(f"{data['outcome']}", style=SHADES[data["outcome"]]))


def left_out(data: Data) -> Iterable[str]:
    """A line a reason; the workloads are named only where there are others."""
    rows: Sequence[Data] = data["workloads"]
    places: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, why in row["skipped"].items():
            places.setdefault((name, why), []).append(row["workload"])
    alike: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (name, why), where in places.items():
        alike.setdefault((why, tuple(where)), []).append(name)
    for (why, places_of), names in alike.items():
        on = "" if len(places_of) == len(rows) else f" on {', '.join(places_of)}"
        yield f"skipped: {', '.join(names)}{on}: {words.line(why, 300)}"
    for name, why in data["left_out"].items():
        yield f"skipped: workload {name}: {words.line(why, 300)}"


def surroundings(data: Data) -> str:
    """What a number has to name: GPU, versions, clocks."""
    known = data["environment"]
    versions = known["versions"]
    parts = [data["device"], *(f"{name} {versions[name]}" for name in ("torch", "triton", "evolve"))]
    gpu = known["gpu"]
    parts += [f"{name} {gpu[name]}" for name in ("driver", "cuda") if gpu.get(name)]
    clocks = [row["clock"] for row in data["workloads"] if row["clock"]]
    if clocks:
        mhz, watts = ([c[key] for c in clocks] for key in ("sm_mhz", "power_watts"))
        parts.append(f"SM at {min(mhz)} to {max(mhz)} MHz, {min(watts):.0f} to {max(watts):.0f} W (read, not set)")
    return ", ".join(parts)
