"""The measured points as one JSON file: rows that people read, and one packed text with all that a prediction needs.

    {"environment", "ceilings", "rows": [{workload, structure, parameters, time_us, ...}], "packed": "<base64 of xz>"}

The packed part holds sources, launch plans, TTIR and what the built kernels cost, so that the model, its counts
included, can be changed and fitted again on a machine without a GPU and without building anything.
"""

from __future__ import annotations

import base64
import json
import lzma
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evolve.judge.plan import Lowered, Plan
from evolve.judge.plan_json import decode, encode
from evolve.judge.points import Shot
from evolve.judge.sass import WORKS, innermost
from evolve.judge.stages import Binary, Built
from evolve.types import Scalar

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One point. `time_us` is the quick clock's: its ratio to the anchor times what the anchor took at first."""

    problem: str
    workload: str
    structure: str
    parameters: Mapping[str, Scalar]
    time_us: float
    ratio: float
    samples: int
    spread: float  # between the passes over all points, as a part of the shortest time
    plan: Plan
    binaries: tuple[Binary, ...]  # one a launch
    ttir: Mapping[str, str]

    @property
    def built(self) -> Built:
        pairs = zip(self.plan.launches, self.binaries, strict=True)
        return Built(binaries={(x.ttir, x.options): binary for x, binary in pairs})

    @property
    def key(self) -> str:
        return f"{self.problem}/{self.workload}"


class Sheet:
    """Rows as they come; `write` may be called at any time."""

    def __init__(self, environment: Mapping[str, Any]) -> None:
        self.environment = dict(environment)
        self.rows: list[dict[str, Any]] = []
        self.failed: list[dict[str, Any]] = []
        self._plans: list[Any] = []
        self._modules: dict[str, str] = {}
        self._binaries: dict[str, dict[str, Any]] = {}
        self.sources: dict[str, str] = {}
        self.paths: dict[str, str] = {}

    def add(self, problem: str, structure: str, shot: Shot, outcome: Mapping[str, Any]) -> None:
        self._modules.update(shot.gated.lowered.modules)
        binaries = [shot.built.of(launch) for launch in shot.plan.launches]
        for binary in binaries:
            kept = asdict(binary)
            self.paths[binary.key] = kept.pop("path")
            self._binaries[binary.key] = kept
        self._plans.append(json.loads(encode(Lowered(plans=(shot.plan,), modules={}))))
        self.rows.append(
            {
                "problem": problem,
                "workload": shot.workload,
                "structure": structure,
                "parameters": dict(shot.point.parameters),
                "time_us": round(float(outcome["us"]), 3),
                "ratio": round(float(outcome["ratio"]), 5),
                "samples": outcome["samples"],
                "spread": round(float(outcome.get("spread", 0.0)), 4),
                "binaries": [binary.key for binary in binaries],
            }
        )

    def write(self, path: Path, loops: Mapping[str, Any] | None = None) -> None:
        binaries = {k: {**b, "loops": (loops or {}).get(k)} for k, b in self._binaries.items()}
        bulk = {"sources": self.sources, "plans": self._plans, "modules": self._modules, "binaries": binaries}
        packed = lzma.compress(json.dumps(bulk, separators=(",", ":")).encode(), preset=6)
        head = {"schema": SCHEMA, **self.environment, "failed": self.failed}
        text = [f'"{name}": {json.dumps(value)}' for name, value in head.items()]
        rows = ",\n".join(json.dumps(row) for row in self.rows)
        text += [f'"rows": [\n{rows}\n]', f'"packed": "{base64.b64encode(packed).decode()}"']
        path.write_text("{" + ",\n".join(text) + "}\n", encoding="utf-8")


def bulk_of(data: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(lzma.decompress(base64.b64decode(data["packed"])))  # type: ignore[no-any-return]


def load(path: Path) -> tuple[dict[str, Any], list[Measured]]:
    """What stands beside the rows, and the rows with their plans and kernels."""
    data = json.loads(path.read_text(encoding="utf-8"))
    bulk = bulk_of(data)
    fields = {name for name in Binary.__dataclass_fields__ if name != "path"}
    made = {
        key: Binary(path="", **{name: _whole(kept) if name == "instructions" else kept[name] for name in fields})
        for key, kept in bulk["binaries"].items()
    }
    rows = []
    for row, plan in zip(data["rows"], bulk["plans"], strict=True):
        (decoded,) = decode(json.dumps(plan)).plans
        rows.append(
            Measured(
                problem=row["problem"],
                workload=row["workload"],
                structure=row["structure"],
                parameters=row["parameters"],
                time_us=row["time_us"],
                ratio=row["ratio"],
                samples=row["samples"],
                spread=row.get("spread", 0.0),
                plan=decoded,
                binaries=tuple(made[key] for key in row["binaries"]),
                ttir={x.ttir: bulk["modules"][x.ttir] for x in decoded.launches},
            )
        )
    return {k: v for k, v in data.items() if k not in ("rows", "packed")}, rows


def _whole(kept: Mapping[str, Any]) -> dict[str, int]:
    """Counts of the innermost loops, which were not among a binary's facts when the first points were taken."""
    instructions: dict[str, int] = dict(kept["instructions"])
    loops = kept.get("loops") or []
    if "loops@inner" in instructions or len(loops) < 2:
        return instructions
    by_span = {(x["span"][0], x["span"][1]): x["instructions"] for x in loops[1:]}
    working = {s: c for s, c in by_span.items() if any(WORKS.match(opcode) for opcode in c)}
    busy = innermost(working, [s[0] for s in working])
    instructions["total@inner"] = sum(sum(by_span[s].values()) for s in busy)
    if mma := sum(n for s in busy for opcode, n in by_span[s].items() if "MMA" in opcode):
        instructions["mma@inner"] = mma
    return instructions | ({"loops@inner": len(busy)} if busy else {})
