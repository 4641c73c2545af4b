"""Verifying a draft: the judge confirms its candidates on this GPU, then a fresh process uses it as a user would.

The judge's processes are gone before the trial begins, and the trial holds the GPU's lease: its times are a quiet
machine's. What comes of it are rows for the table and, where something does not hold, sentences that refuse it. Who
opens the judge is not its affair.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

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


def _unheard(_: str) -> None:
    """Nobody waits for a sentence."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    open: Callable[[], Executor]  # the judge on this machine's GPU
    written: Written
    draft: Path
    say: Callable[[str], None] = _unheard

    def verify(
        self, parameters: Mapping[str, Parameters], *, tune: Sequence[str] = (), foreign: Sequence[str] = ()
    ) -> Verified:
        """`parameters` by kernels module: what each is confirmed at, or, of those in `tune`, searched from. Those in
        `foreign` lead on other kinds of GPU and need not hold on this one."""
        with closing(FreshProcess()) as fresh:
            return self._verified(fresh, parameters, tune, foreign)

    def _verified(
        self, fresh: FreshProcess, parameters: Mapping[str, Parameters], tune: Sequence[str], foreign: Sequence[str]
    ) -> Verified:
        self.say("Starting the judge")
        with closing(self.open()) as executor:
            found = {n: self._judged(executor, n, parameters.get(n, {}), n in tune) for n in self.written.kernels}
        if any(e.passed for e in found.values()):
            found = {n: e for n, e in found.items() if e.passed or n not in foreign}
        bad = {n: e for n, e in found.items() if not e.passed}
        if bad:
            said = tuple(f"{n}: {e.verdict} in {e.stage}: {_why(e)}" for n, e in bad.items())
            rows = self._rows(found, {}, *self._here(), said[0])
            return Verified(evaluations=found, trial={}, rows=rows, refusals=said)
        orders = [self._order(n, e) for n, e in found.items()]
        shown = fresh.run(self.draft, self.written, orders, gpu=True, say=self.say)
        refusals = tuple(holding.against(shown, found))
        rows = self._rows(found, shown["candidates"], shown["device"], shown["triton"], "; ".join(refusals))
        return Verified(evaluations=found, trial=shown, rows=rows, refusals=refusals)

    # --- the judge ---

    def _judged(self, executor: Executor, name: str, parameters: Parameters, tune: bool) -> Evaluation:
        candidate = Candidate(step=0, source=self.written.kernels[name], member="export", kind="seed")
        if tune:
            self.say(f"Searching the parameters of {name}")
            job = Job(candidate=candidate, random_seeds=_seeds(), parent=_as_parent(parameters))
            tuned = asyncio.run(executor.evaluate(job))
            if not tuned.passed:
                return tuned
            parameters = tuned.parameters
        self.say(f"Confirming {name}")
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


class FreshProcess:
    """The trial's interpreter: started early, since torch takes seconds to import, and told later what to try."""

    def __init__(self) -> None:
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  until close()
        command = [sys.executable, trial.__file__, str(os.getpid())]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._said}
        self._process = subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload]

    def close(self) -> None:
        self._process.kill()
        with self._process, self._said:
            pass

    def run(
        self,
        draft: Path,
        written: Written,
        candidates: Sequence[Mapping[str, Json]],
        *,
        gpu: bool = False,
        say: Callable[[str], None] = _unheard,
    ) -> dict[str, Json]:
        answer = draft.parent / "answer.json"
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
        with lease(Gpu(visible(0)).uuid, label="evolve export") if gpu else nullcontext():
            status = self._heard(json.dumps(order), say)
        found = json.loads(answer.read_text(encoding="utf-8")) if answer.is_file() else {}
        if status or found.get("state") != "done":
            raise MachineryError(f"the package does not survive its trial, so nothing is exported: {self._tail()}")
        return dict(found)

    def _heard(self, order: str, say: Callable[[str], None]) -> int:
        """Its exit status. What it says meanwhile goes to a person."""
        overdue = threading.Event()

        def end() -> None:
            overdue.set()
            self._process.kill()

        late = threading.Timer(TRIAL_SECONDS, end)
        late.start()
        try:
            with suppress(BrokenPipeError):  # it is dead; its last words say of what
                self._process.stdin.write(f"{order}\n")
                self._process.stdin.close()
            for line in self._process.stdout:
                say(line.strip())
            status = int(self._process.wait())
        finally:
            late.cancel()
        if overdue.is_set():
            raise MachineryError(f"the package's trial took over {TRIAL_SECONDS:g} s; nothing is exported.")
        return status

    def _tail(self) -> str:
        self._said.seek(0)
        lines = [line for line in self._said.read().strip().splitlines() if line.strip()]
        return " | ".join(lines[-3:]) or "it ended without a word"
