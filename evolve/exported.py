"""An exported package as a comparison sees it: its kernels, the problem it was judged by, the workloads that it was
measured on, and its table of parameters.

It reads four files and imports nothing of them. Writing packages is `export/`'s affair, refreshing them too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evolve.errors import UsageError
from evolve.types import Scalar, Workload

PROBLEM, TABLE, PROVENANCE = "problem.py", "dispatch.json", "provenance.json"


@dataclass(frozen=True, kw_only=True)
class Module:
    kernels: Path
    problem: Path
    variant: str | None = None
    workloads: tuple[Workload, ...] = ()  # those timed; empty: the problem's own
    parameters: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)  # by workload


def module_in(target: str, device: str | None = None) -> Module | None:
    """None where `target` is no such folder. Of several kernels the one that serves most rows stands for the module;
    rows of `device` go before those of other ones."""
    folder = Path(target)
    if not (folder / TABLE).is_file():
        return None
    table, provenance = _read(folder / TABLE), _read(folder / PROVENANCE)
    try:
        rows = [_row(r) for r in sorted(table["rows"], key=lambda r: r.get("device") == device)]
        workloads = tuple(Workload(**w) for w in provenance.get("workloads", ()) if w["role"] == "time")
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{folder}: its tables are not those that `evolve export` writes ({error}); export it anew."
        ) from error
    served = Counter(name for _, name, _ in rows)
    name = served.most_common(1)[0][0] if served else "kernels"
    return Module(
        kernels=_there(folder / f"{Path(name).stem}.py"),
        problem=_there(folder / PROBLEM),
        variant=table.get("variant"),
        workloads=workloads,
        parameters={workload: chosen for workload, file, chosen in rows if file == name},
    )


def _read(file: Path) -> Mapping[str, Any]:
    """Nothing, where there is none: a package may do without its provenance."""
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: cannot be read ({error}); export the package anew.") from error
    if not isinstance(found, dict):
        raise UsageError(f"{file}: not a table that `evolve export` writes; export the package anew.")
    return found


def _row(row: Mapping[str, Any]) -> tuple[str, str, Mapping[str, Scalar]]:
    """Where the table says "baseline", what was tried: the comparison is with the kernel."""
    chosen = row["parameters"] if isinstance(row["parameters"], dict) else row.get("tried") or {}
    return str(row["workload"]), str(row.get("kernels") or "kernels"), chosen


def _there(file: Path) -> Path:
    if not file.is_file():
        raise UsageError(f"{file}: no such file, and a package of `evolve export` has one; export it anew.")
    return file
