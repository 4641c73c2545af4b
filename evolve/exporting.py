"""`evolve export` and `evolve refresh`: who is opened in which order. The room `export/` does the work.

Export: candidates from a journal, a draft of the package, the judge's confirmation on this machine's GPU, a fresh
process that uses the draft as a user would, the table from what it measured, and the folder in its place, whole or not
at all. Without a GPU nothing can be verified: the package says so and runs the library everywhere.
Refresh: the same from the package itself, with the judge's tuner in the journal's place.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import evolve
from evolve import wiring
from evolve.config import RunConfig, load_config
from evolve.errors import MachineryError, UsageError
from evolve.export import package, table, trial, winners
from evolve.export.package import Written
from evolve.export.signature import shown
from evolve.judge.gpu.facts import workload_to
from evolve.problem import Problem, Variant
from evolve.types import Json, Workload

RUNS = Path("runs")
TRIAL_SECONDS = 600.0
UNVERIFIED = "no GPU answered when it was exported, so nobody verified it"


@dataclass(frozen=True, kw_only=True)
class Order:
    targets: tuple[str, ...]
    to: Path | None = None
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a person should know at the end."""

    folder: Path
    name: str
    op: str
    rows: Sequence[Mapping[str, Json]]
    sentences: tuple[str, ...]
    import_seconds: float
    trial: Mapping[str, Json] = field(default_factory=dict)


def export(order: Order) -> Report:
    chosen = winners.of_run(order.targets, RUNS)
    config = load_config(chosen.folder / "config.yaml")
    problem = wiring.problem(config)
    winners.as_judged(chosen, problem)
    variant = wiring.variant(config, problem)
    name = package.checked_name(order.name, problem.entry)
    to = package.free_place(order.to or Path(name))
    kernels = {_module(i): w.source for i, w in enumerate(chosen.found)}
    written = Written(name=name, problem=problem, variant=variant, kernels=kernels)
    with ExitStack() as stack:
        parent = stack.enter_context(tempfile.TemporaryDirectory(prefix=".evolve-export-", dir=to.parent))
        draft = Path(parent) / name
        draft.mkdir()
        provenance = _provenance(chosen, config, written)
        dispatch = {**table.empty(name, written.signature, list(kernels)), "rows": _drafts(written, chosen)}
        package.write(draft, written, dispatch, provenance)
        tried = _tried(draft, written, [])
        _held(tried)
        provenance["trial"] = {k: v for k, v in tried.items() if k != "state"}
        package.refigure(draft, written, dispatch, provenance)
        package.install(draft, to)
    return Report(
        folder=to,
        name=name,
        op=problem.entry,
        rows=dispatch["rows"],
        sentences=_unverified(chosen, to),
        import_seconds=tried["import_seconds"],
        trial=tried,
    )


def _module(number: int) -> str:
    return f"kernels_{number}" if number else "kernels"


def _unverified(chosen: winners.Winners, to: Path) -> tuple[str, ...]:
    modelled = any(w.evaluation.modelled for w in chosen.found)
    times = "Its times are a model's, not measured ones. " if modelled else ""
    return (
        f'{times}No GPU answers here, so nothing was verified: every row of dispatch.json is "baseline" and the '
        f"library runs, until `evolve refresh {to}` on a GPU.",
    )


def _provenance(chosen: winners.Winners, config: RunConfig, written: Written) -> dict[str, Json]:
    timed = written.problem.of_role("time", written.variant)
    modelled = any(w.evaluation.modelled for w in chosen.found)
    return {
        "made_by": f"evolve {evolve.__version__}",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": chosen.folder.name,
        "problem": {"name": written.problem.name, "digest": written.problem.digest, "variant": written.variant.name},
        "workloads": [_own(w) for w in config.workloads and timed],
        "times": "modelled: no GPU ran these kernels in the run" if modelled else "measured",
        "candidates": {
            module: winners.judged(w, chosen.folder.name)
            for module, w in zip(written.kernels, chosen.found, strict=True)
        },
        "environment": {"run": _versions(chosen.environment), "export": wiring.environment()},
    }


def _versions(environment: Mapping[str, Json]) -> dict[str, Json]:
    """Of the run's environment what is no secret of its machine: not the calibration's samples, not the run's seeds."""
    return {
        k: environment[k] for k in ("python", "system", "versions", "backend", "target", "device") if k in environment
    }


def _own(workload: Workload) -> dict[str, Json]:
    return workload_to(workload)


def _drafts(written: Written, chosen: winners.Winners) -> list[dict[str, Json]]:
    """Rows that wait to be verified, under the device that the candidates were judged for."""
    triton = str((chosen.environment.get("versions") or {}).get("triton") or "unknown")
    signature, rows = written.signature, []
    timed = written.problem.of_role("time", written.variant)
    for module, winner in zip(written.kernels, chosen.found, strict=True):
        for workload in timed:
            rows.append(
                table.row(
                    signature,
                    shown(written.problem, workload),
                    device=str((winner.evaluation.evidence.get("environment") or {}).get("device") or "unknown"),
                    triton=".".join(triton.split(".")[:2]),
                    kernels=module,
                    tried=winners.parameters(winner.evaluation, workload, written.problem, written.variant),
                    why=UNVERIFIED,
                )
            )
    return rows


# --- The trial --------------------------------------------------------------------------------------------------------


def _tried(draft: Path, written: Written, candidates: Sequence[Mapping[str, Json]]) -> dict[str, Json]:
    """A fresh interpreter, with nothing of ours in it but the path to evolve."""
    answer = draft.parent / "answer.json"
    order = {
        "parent": str(draft.parent.resolve()),
        "name": written.name,
        "problem": str(Path(written.problem.path).resolve()),
        "variant": written.variant.name,
        "workloads": [_own(w) for w in _workloads(written.problem, written.variant)],
        "candidates": list(candidates),
        "answer": str(answer),
    }
    paper = draft.parent / "order.json"
    paper.write_text(json.dumps(order), encoding="utf-8")
    command = [sys.executable, trial.__file__, str(paper)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TRIAL_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise MachineryError(
            f"the package's trial took longer than {TRIAL_SECONDS:g} s; nothing is exported."
        ) from error
    found = json.loads(answer.read_text(encoding="utf-8")) if answer.is_file() else {}
    if done.returncode or found.get("state") != "done":
        raise MachineryError(f"the package does not survive its trial, so nothing is exported: {_tail(done.stderr)}")
    return dict(found)


def _tail(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return " | ".join(lines[-3:]) or "it ended without a word"


def _workloads(problem: Problem, variant: Variant) -> list[Workload]:
    return [w for role in ("check", "held_out", "time") for w in problem.of_role(role, variant)]


def _held(found: Mapping[str, Json]) -> None:
    from evolve.export.trying import wrong

    if sentences := wrong(found):
        raise UsageError(f"The export does not hold, and is refused: {'; '.join(sentences)}")
