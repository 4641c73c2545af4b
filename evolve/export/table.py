"""dispatch.json: rows by device and Triton, merged at one stroke.

A row says for one measured workload whether the kernel runs there, and with which parameters. It says "baseline" where
the kernel was not faster with its whole interval, and where nobody verified it on this device under this Triton.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evolve.errors import UsageError
from evolve.export.signature import Shown, Signature
from evolve.types import Json, Scalar

SCHEMA = 2  # it grows whenever the files of a package and its table change together
ALIGNMENT = 16
# How far from a measured workload its row still holds, in doublings over all sizes: each of three by 2.5, or one by 16.
REACH = 4.0
BASELINE = "baseline"
FILE = "dispatch.json"


def empty(name: str, signature: Signature, kernels: Sequence[str]) -> dict[str, Json]:
    return {
        "schema": SCHEMA,
        "name": name,
        "variant": signature.variant.name,
        "kernels": list(kernels),
        "call": signature.spec(),
        "alignment": ALIGNMENT,
        "most_elements": signature.most_elements(),
        "reach": REACH,
        "autocast": [],
        "rows": [],
    }


def row(
    signature: Signature, one: Shown, *, device: str, triton: str, kernels: str, tried: Mapping[str, Scalar], why: str
) -> dict[str, Json]:
    """Of a workload that nobody verified yet."""
    return {
        "device": device,
        "triton": triton,
        "dtypes": one.dtypes,
        "layout": one.layout,
        "flags": one.flags,
        "sizes": signature.sizes(one),
        "workload": one.workload.name,
        "kernels": kernels,
        "parameters": BASELINE,
        "tried": dict(tried),
        "eager": BASELINE,
        "verified": False,
        "why": why,
    }


def decided(draft: Mapping[str, Json], measured: Mapping[str, Json]) -> dict[str, Json]:
    """The row with what its trial found: the kernel where all of the interval is above 1, in a graph and outside."""
    ratio, eager = measured["ratio"], measured["eager"]
    faster, worth = ratio["low"] > 1.0, eager["ratio"]["low"] > 1.0
    figures = f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}] × the library"
    why = f"{figures} on this device" if faster else f"not faster: {figures}"
    if faster and not worth:
        times = f"{eager['kernel_us']:.1f} against {eager['library_us']:.1f} µs"
        why += f"; outside of a CUDA graph the library runs, for the launch is not worth it ({times})"
    return {
        **draft,
        "parameters": dict(draft["tried"]) if faster else BASELINE,
        "eager": "kernel" if faster and worth else BASELINE,
        "verified": True,
        "why": why,
        "measured": dict(measured),
    }


def best(rows: Iterable[Mapping[str, Json]]) -> list[dict[str, Json]]:
    """Of several candidates' rows on one workload the fastest verified one."""
    found: dict[tuple[Any, ...], dict[str, Json]] = {}
    for each in rows:
        key = (*pair(each), each["workload"])
        if key not in found or _speed(each) > _speed(found[key]):
            found[key] = dict(each)
    return list(found.values())


def _speed(each: Mapping[str, Json]) -> tuple[bool, float]:
    return each["parameters"] != BASELINE, each.get("measured", {}).get("ratio", {}).get("median", 0.0)


def pair(each: Mapping[str, Json]) -> tuple[str, str]:
    return str(each["device"]), str(each["triton"])


def merged(table: Mapping[str, Json], rows: Sequence[Mapping[str, Json]]) -> dict[str, Json]:
    """Rows of the devices and Tritons that are new here take the place of those that were there; others stay."""
    new = {pair(each) for each in rows}
    kept = [each for each in table["rows"] if pair(each) not in new]
    return {**table, "rows": [*kept, *rows]}


def read(folder: Path) -> dict[str, Json]:
    file = folder / FILE
    try:
        table: dict[str, Json] = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{folder}: no package that `evolve export` wrote: {file} {error.strerror}.") from error
    except ValueError as error:
        raise UsageError(f"{file}: is not JSON ({error}); export the package anew.") from error
    if not isinstance(table, dict) or table.get("schema") != SCHEMA or "rows" not in table:
        raise UsageError(f"{file}: schema {SCHEMA} is what this evolve reads; export the package anew.")
    return table


def write(path: Path, value: Json) -> None:
    """Whole or not at all: whoever imports the package meanwhile reads the old file or the new one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
