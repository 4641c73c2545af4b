"""An exported package as a comparison sees it: its kernels, the problem it was judged by, and its table of parameters.

It reads three files and imports nothing of them. Writing packages is `export/`'s affair, refreshing them too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evolve.errors import UsageError
from evolve.types import Scalar

PROBLEM, TABLE = "problem.py", "dispatch.json"


@dataclass(frozen=True, kw_only=True)
class Module:
    kernels: Path
    problem: Path
    variant: str | None = None
    parameters: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)  # by workload


def module_in(target: str) -> Module | None:
    """None where `target` is no such folder. Of several kernels the one that serves most rows stands for the module."""
    folder = Path(target)
    table = folder / TABLE
    if not table.is_file():
        return None
    try:
        whole = json.loads(table.read_text(encoding="utf-8"))
        rows = [_row(r) for r in whole["rows"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{table}: not a table that `evolve export` writes ({error}); export the package anew."
        ) from error
    served = Counter(name for _, name, _ in rows)
    name = served.most_common(1)[0][0] if served else "kernels"
    parameters = {workload: chosen for workload, file, chosen in rows if file == name}
    return Module(
        kernels=_there(folder / f"{Path(name).stem}.py"),
        problem=_there(folder / PROBLEM),
        variant=whole.get("variant"),
        parameters=parameters,
    )


def _row(row: Mapping[str, Any]) -> tuple[str, str, Mapping[str, Scalar]]:
    """Where the table says "baseline", what was tried: the comparison is with the kernel."""
    chosen = row["parameters"] if isinstance(row["parameters"], dict) else row.get("tried") or {}
    return str(row["workload"]), str(row.get("kernels") or "kernels"), chosen


def _there(file: Path) -> Path:
    if not file.is_file():
        raise UsageError(f"{file}: no such file, and a package of `evolve export` has one; export it anew.")
    return file
