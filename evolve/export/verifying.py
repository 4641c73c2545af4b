"""Verifying a draft: the judge confirms its candidates on this GPU, then a fresh process uses it as a user would.

The judge's processes are gone before the trial begins, and the trial holds the GPU's lease: its times are a quiet
machine's. What comes of it are rows for the table and, where something does not hold, sentences that refuse it. Who
opens the judge is not its affair.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import evolve
from evolve.errors import MachineryError
from evolve.export import holding, table, trial, winners
from evolve.export.package import Written
from evolve.judge.gpu.facts import workload_to
from evolve.judge.gpu.lease import lease
from evolve.judge.gpu.nvml import Gpu, visible
from evolve.types import Candidate, Evaluation, Executor, Job, Json, Measurement, Scalar, Verdict

TRIAL_SECONDS = 900.0
Parameters = Mapping[str, Mapping[str, Scalar]]  # by workload


@dataclass(frozen=True, kw_only=True)
class Verified:
    evaluations: Mapping[str, Evaluation]  # the judge's word, by kernels module
    trial: Mapping[str, Json]
    rows: list[dict[str, Json]]
    refusals: tuple[str, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        """What the trial showed, for a person."""
        if not self.trial:
            return ()
        kernel = [r for r in self.trial["workloads"].values() if r["runs"] == "kernel"]
        cases = sum(len(r["cases"]) for r in kernel)
        shown = f"In a fresh process {cases} answers were right on {len(kernel)} workloads"
        return (f"{shown}, and every launch was the judged plan's.",) if not self.refusals else ()


@dataclass(frozen=True, kw_only=True)
class Bench:
    open: Callable[[], Executor]  # the judge on this machine's GPU
    written: Written
    draft: Path

    def verify(self, parameters: Mapping[str, Parameters], *, tune: Sequence[str] = ()) -> Verified:
        """`parameters` by kernels module: what each is confirmed at, or, of those in `tune`, searched from."""
        with closing(self.open()) as executor:
            found = {n: self._judged(executor, n, parameters.get(n, {}), n in tune) for n in self.written.kernels}
        bad = {n: e for n, e in found.items() if not e.passed}
        if bad:
            said = tuple(f"{n}: {e.verdict} in {e.stage}: {_why(e)}" for n, e in bad.items())
            rows = self._rows(found, {}, *self._here(), said[0])
            return Verified(evaluations=found, trial={}, rows=rows, refusals=said)
        tried_ = tried(self.draft, self.written, [self._order(n, e) for n, e in found.items()], gpu=True)
        refusals = tuple(holding.against(tried_, found))
        rows = self._rows(found, tried_["candidates"], tried_["device"], tried_["triton"], "; ".join(refusals))
        return Verified(evaluations=found, trial=tried_, rows=rows, refusals=refusals)

    # --- the judge ---

    def _judged(self, executor: Executor, name: str, parameters: Parameters, tune: bool) -> Evaluation:
        candidate = Candidate(step=0, source=self.written.kernels[name], member="export", kind="seed")
        if tune:
            job = Job(candidate=candidate, random_seeds=_seeds(), parent=_as_parent(parameters))
            tuned = asyncio.run(executor.evaluate(job))
            if not tuned.passed:
                return tuned
            parameters = tuned.parameters
        job = Job(
            candidate=candidate,
            random_seeds=_seeds(),
            mode="confirm",
            parameters=self.written.signature.filled(parameters),
        )
        return asyncio.run(executor.evaluate(job))

    def _order(self, name: str, evaluation: Evaluation) -> dict[str, Json]:
        """What the trial is told of a candidate."""
        return {
            "kernels": name,
            "rows": self._drafts(name, evaluation, "this one", "this one", "on trial"),
            "plans": evaluation.evidence["plan"]["workloads"],
            "baselines": {m.workload: m.baseline for m in evaluation.measurements},
        }

    # --- rows ---

    def _drafts(self, name: str, evaluation: Evaluation, device: str, triton: str, why: str) -> list[dict[str, Json]]:
        w = self.written
        return [
            table.row(
                w.signature,
                one,
                device=device,
                triton=triton,
                kernels=name,
                tried=winners.parameters(evaluation, one.workload, w.problem, w.variant),
                why=why,
            )
            for one in w.signature.all
            if one.workload.role != "check"
        ]

    def _rows(
        self, found: Mapping[str, Evaluation], rows: Mapping[str, Json], device: str, triton: str, refused: str
    ) -> list[dict[str, Json]]:
        """Of several candidates the fastest a workload. Where something does not hold every row is the library's."""
        made = []
        for name, evaluation in found.items():
            for draft in self._drafts(name, evaluation, device, triton, f"refused: {refused}"):
                trial_row = rows.get(name, {}).get(draft["workload"], {})
                if refused or "measured" not in trial_row:
                    why = draft["why"] if refused else str(trial_row.get("why", "not measured"))
                    made.append({**draft, "verified": True, "why": why})
                else:
                    made.append(table.decided(draft, trial_row["measured"]))
        return table.best(made)

    @staticmethod
    def _here() -> tuple[str, str]:
        from importlib.metadata import version

        return Gpu(visible(0)).device(), ".".join(version("triton").split(".")[:2])


def _why(evaluation: Evaluation) -> str:
    return str(evaluation.evidence.get("ruling") or evaluation.feedback)


def _seeds() -> tuple[int, ...]:
    return tuple(secrets.randbits(47) for _ in range(3))


def _as_parent(parameters: Parameters) -> Evaluation | None:
    """A tuner begins with what the parent was timed at."""
    measured = tuple(
        Measurement(
            workload=name, baseline="before", time_us=1.0, ratio=1.0, ratio_low=1.0, ratio_high=1.0, parameters=chosen
        )
        for name, chosen in parameters.items()
    )
    return Evaluation(verdict=Verdict.PASSED, measurements=measured) if measured else None


# --- The trial --------------------------------------------------------------------------------------------------------


def tried(
    draft: Path, written: Written, candidates: Sequence[Mapping[str, Json]], *, gpu: bool = False
) -> dict[str, Json]:
    """A fresh interpreter that is told where the package lies, and answers with what it found."""
    answer, paper = draft.parent / "answer.json", draft.parent / "order.json"
    order = {
        "parent": str(draft.parent.resolve()),
        "name": written.name,
        "problem": str(Path(written.problem.path).resolve()),
        "variant": written.variant.name,
        "workloads": [workload_to(one.workload) for one in written.signature.all],
        "candidates": list(candidates),
        "answer": str(answer),
        "evolve": str(Path(evolve.__file__).resolve().parent.parent),
    }
    paper.write_text(json.dumps(order), encoding="utf-8")
    quiet: AbstractContextManager[Any] = lease(Gpu(visible(0)).uuid, label="evolve export") if gpu else nullcontext()
    with quiet:
        done = _run([sys.executable, trial.__file__, str(paper)])
    found = json.loads(answer.read_text(encoding="utf-8")) if answer.is_file() else {}
    if done.returncode or found.get("state") != "done":
        raise MachineryError(f"the package does not survive its trial, so nothing is exported: {_tail(done.stderr)}")
    return dict(found)


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TRIAL_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise MachineryError(f"the package's trial took over {TRIAL_SECONDS:g} s; nothing is exported.") from error


def _tail(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return " | ".join(lines[-3:]) or "it ended without a word"
