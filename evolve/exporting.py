"""`evolve export` and `evolve refresh`: who is opened in which order. The room `export/` does the work.

Export: candidates from a journal, a draft of the package, the judge's confirmation on this machine's GPU, a fresh
process that uses the draft as a user would, the table from what it measured, and the folder in its place, whole or not
at all. Without a GPU nothing can be verified: the package says so and runs the library everywhere.
Refresh: the same from the package itself, with the judge's tuner in the journal's place.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import evolve
from evolve import wiring
from evolve.config import RunConfig, load_config
from evolve.errors import UsageError
from evolve.export import holding, package, table, winners
from evolve.export.package import Written
from evolve.export.verifying import Bench, FreshProcess
from evolve.judge.backends import gpu_present
from evolve.judge.gpu.facts import workload_to
from evolve.judge.gpu.nvml import Gpu, visible
from evolve.types import Executor, Json

RUNS = Path("runs")
Say = Callable[[str], None]  # where things are, for whoever waits
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


def export(order: Order, say: Say = lambda _: None) -> Report:
    chosen = winners.of_run(order.targets, RUNS)
    config = load_config(chosen.folder / "config.yaml")
    problem = wiring.problem(config)
    winners.as_judged(chosen, problem)
    name = package.checked_name(order.name, problem.entry)
    to = package.free_place(order.to or Path(name))
    kernels = {(f"kernels_{i}" if i else "kernels"): w.source for i, w in enumerate(chosen.found)}
    written = Written(name=name, problem=problem, variant=wiring.variant(config, problem), kernels=kernels)
    dispatch = {**table.empty(name, written.signature, list(kernels)), "rows": _drafts(written, chosen)}
    provenance = _provenance(chosen, config, written)
    with ExitStack() as stack:
        draft = _draft(stack, to.parent, name)
        package.write(draft, written, dispatch, provenance)
        if gpu_present():
            by_id = dict(zip(kernels, chosen.found, strict=True))
            opener = _opener(config, written, _calibration(chosen.environment))
            bench = Bench(open=opener, written=written, draft=draft, say=say)
            modelled = [n for n, w in by_id.items() if w.evaluation.modelled]  # a model's choice is only a start
            own = chosen.found[0].evaluation.ranking_key
            foreign = [n for n, w in by_id.items() if w.evaluation.ranking_key != own]
            verified = bench.verify(
                {n: w.evaluation.parameters for n, w in by_id.items()}, tune=modelled, foreign=foreign
            )
            _refuse(verified.refusals)
            provenance["candidates"] |= {
                name: {
                    **winners.judged(replace(by_id[name], evaluation=judged, confirmed=True), chosen.name),
                    "in_run": winners.measured(by_id[name].evaluation),
                }
                for name, judged in verified.evaluations.items()
            }
            # Rows of other kinds of GPU that the run had stay, and wait there for `evolve refresh`.
            waiting = [row for row in dispatch["rows"] if row["kernels"] in foreign]
            dispatch = table.merged({**dispatch, "rows": waiting}, verified.rows)
            dispatch["autocast"] = verified.trial["autocast"]
            trial, sentences = verified.trial, verified.sentences
        else:
            say("Trying the package in a fresh process")
            with closing(FreshProcess()) as fresh:
                trial = fresh.run(draft, written, [])
            _refuse(holding.wrong(trial))
            sentences = (
                _unverified(chosen, to),
                *([f"The library: {trial['library']}."] if "library" in trial else []),
            )
        provenance["trial"] = _kept(trial)
        package.refigure(draft, written, dispatch, provenance)
        package.install(draft, to)
    return _report(to, written, dispatch["rows"], sentences, trial)


def refresh(folder: Path, say: Say = lambda _: None) -> Report:
    """Rows for this device and Triton, in the place of those that were there for them."""
    dispatch = table.read(folder)
    if not gpu_present():
        raise UsageError(
            f"{folder}: no NVIDIA GPU answers here, and a package is verified on the GPU that is to run it. Until then "
            "it runs the library."
        )
    if not wiring.writable(folder):
        raise UsageError(f"{folder}: cannot be written; refresh a copy, or run as its owner.")
    written, provenance, config = _again(folder, dispatch)
    with ExitStack() as stack:
        draft = _draft(stack, folder.resolve().parent, written.name)
        package.write(draft, written, dispatch, provenance)
        bench = Bench(open=_opener(config, written), written=written, draft=draft, say=say)
        led = {row["kernels"] for row in dispatch["rows"] if row["device"] == Gpu(visible(0)).device()}
        foreign = [name for name in written.kernels if led and name not in led]
        verified = bench.verify(_before(dispatch, written), tune=list(written.kernels), foreign=foreign)
        merged = table.merged(table.read(folder), verified.rows)
        if "autocast" in verified.trial:
            merged["autocast"] = verified.trial["autocast"]
        provenance.setdefault("refreshed", []).append(
            {
                "at": _now(),
                "environment": wiring.environment(),
                "measurements": {n: winners.measured(e) for n, e in verified.evaluations.items()},
                "refusals": list(verified.refusals),
                "trial": _kept(verified.trial),
            }
        )
        package.refigure(folder, written, merged, provenance)
    sentences = (*verified.sentences, *(f"It does not hold here, so the library runs: {r}" for r in verified.refusals))
    return _report(folder, written, verified.rows, sentences, verified.trial)


def _opener(
    config: RunConfig, written: Written, calibration: Mapping[str, Json] | None = None
) -> Callable[[], Executor]:
    """The judge with its tuner: whoever confirms chooses nothing, so that only what is to be tuned is."""
    own = replace(config, backend="gpu", executor="local", tuner=replace(config.tuner, enabled=True))
    return lambda: wiring.open_single(own, written.problem, None, calibration=calibration).executor


def _calibration(environment: Mapping[str, Json]) -> Mapping[str, Json] | None:
    """The run's, if it was made on this very GPU with this torch: as a run that is resumed takes it over."""
    found: Mapping[str, Json] = environment.get("calibration") or {}
    gpu = found.get("gpu") or {}
    here = str(wiring.environment()["versions"]["torch"])
    same = gpu.get("uuid") == Gpu(visible(0)).uuid and str(gpu.get("torch")).split("+")[0] == here.split("+")[0]
    return found if same and not found.get("foreigners") else None


def _report(
    to: Path, written: Written, rows: Sequence[Mapping[str, Json]], sentences: Sequence[str], trial: Mapping[str, Json]
) -> Report:
    return Report(
        folder=to,
        name=written.name,
        op=written.problem.entry,
        rows=rows,
        sentences=tuple(sentences),
        import_seconds=float(trial.get("import_seconds", 0.0)),
        trial=trial,
    )


def _draft(stack: ExitStack, beside: Path, name: str) -> Path:
    parent = stack.enter_context(tempfile.TemporaryDirectory(prefix=".evolve-export-", dir=beside))
    draft = Path(parent) / name
    draft.mkdir()
    return draft


def _refuse(sentences: Sequence[str]) -> None:
    if sentences:
        raise UsageError(f"The export does not hold, and is refused: {'; '.join(sentences)}.")


def _kept(trial: Mapping[str, Json]) -> dict[str, Json]:
    return {k: v for k, v in trial.items() if k not in ("state", "candidates")}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


# --- Of a run ---------------------------------------------------------------------------------------------------------


def _unverified(chosen: winners.Winners, to: Path) -> str:
    modelled = any(w.evaluation.modelled for w in chosen.found)
    times = "Its times are a model's, not measured ones. " if modelled else ""
    return (
        f'{times}No GPU answers here, so nothing was verified: every row of dispatch.json is "baseline" and the '
        f"library runs, until `evolve refresh {to}` on a GPU."
    )


def _provenance(chosen: winners.Winners, config: RunConfig, written: Written) -> dict[str, Json]:
    timed = written.problem.of_role("time", written.variant)
    modelled = any(w.evaluation.modelled for w in chosen.found)
    return {
        "made_by": f"evolve {evolve.__version__}",
        "at": _now(),
        "run": chosen.name,
        "problem": {"name": written.problem.name, "digest": written.problem.digest, "variant": written.variant.name},
        "workloads": [workload_to(w) for w in timed] if config.workloads else [],
        "times": "modelled: no GPU ran these kernels in the run" if modelled else "measured",
        "candidates": {
            module: winners.judged(w, chosen.name) for module, w in zip(written.kernels, chosen.found, strict=True)
        },
        "environment": {"run": _versions(chosen.environment), "export": wiring.environment()},
    }


def _versions(environment: Mapping[str, Json]) -> dict[str, Json]:
    """Of the run's environment what is no secret of its machine: not the calibration's samples, not the run's seeds."""
    kept = ("python", "system", "versions", "backend", "target", "device")
    return {k: environment[k] for k in kept if k in environment}


def _drafts(written: Written, chosen: winners.Winners) -> list[dict[str, Json]]:
    """Rows that wait to be verified, under the device that the candidates were judged for."""
    triton = str((chosen.environment.get("versions") or {}).get("triton") or "unknown")
    return [
        table.row(
            written.signature,
            one,
            device=str((winner.evaluation.evidence.get("environment") or {}).get("device") or "unknown"),
            triton=".".join(triton.split(".")[:2]),
            kernels=module,
            tried=winners.parameters(winner.evaluation, one.workload, written.problem, written.variant),
            why=UNVERIFIED,
        )
        for module, winner in zip(written.kernels, chosen.found, strict=True)
        for one in written.signature.all
        if one.workload.role == "time"
    ]


# --- Of a package -----------------------------------------------------------------------------------------------------


def _again(folder: Path, dispatch: Mapping[str, Json]) -> tuple[Written, dict[str, Json], RunConfig]:
    """What the package was made of, from its own files."""
    provenance = package.provenance_of(folder)
    workloads = tuple(map(package.workload_from, provenance["workloads"]))
    config = RunConfig(
        problem=str(folder / "problem.py"),
        variant=str(dispatch["variant"]),
        workloads=workloads,
        backend="gpu",
        source=str(folder),
    )
    problem = wiring.problem(config)
    kernels = {name: package.kernel_of(folder, name) for name in dispatch["kernels"]}
    written = Written(
        name=str(dispatch["name"]), problem=problem, variant=wiring.variant(config, problem), kernels=kernels
    )
    return written, provenance, config


def _before(dispatch: Mapping[str, Json], written: Written) -> dict[str, Mapping[str, Mapping[str, Json]]]:
    """What other devices' rows say, for the tuner to begin with."""
    return {
        name: {row["workload"]: row["tried"] for row in dispatch["rows"] if row["kernels"] == name}
        for name in written.kernels
    }
