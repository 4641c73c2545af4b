"""`evaluate(program_path)`: OpenEvolve's contract for an evaluator, answered by our judge.

    from evolve.interop.evaluate import evaluator
    evaluate = evaluator(__file__)

in a problem's file is all that `openevolve-run SEED FILE` needs. The candidate is judged in the judge's own killable
processes, so OpenEvolve's timeout should lie above ours. One judge is opened at the first call and serves every call
of the process, from whatever thread, until the process ends. Nothing heavy is imported before that: a problem's file is
also read by processes that never evaluate. It keeps no record of what it judged and no incumbent; `evolve run` does.
"""

from __future__ import annotations

import json
import logging
import multiprocessing.util
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from evolve.errors import MachineryError
from evolve.loop import seeds_of
from evolve.problem import AXES
from evolve.types import Candidate, Evaluation, Job, Scalar

if TYPE_CHECKING:
    from openevolve.evaluation_result import EvaluationResult

    from evolve.judge import Backend

Evaluate: TypeAlias = Callable[[str], "EvaluationResult"]
LOG = logging.getLogger("evolve.interop")
MOST_TEXT = 8000  # of one artifact; OpenEvolve shows artifacts in prompts


def evaluator(problem: str, *, variant: str | None = None, backend: str = "auto") -> Evaluate:
    """An `evaluate` for the problem in the file `problem`: in its first variant, on a GPU where there is one."""
    bench = _Bench(path=str(Path(problem).absolute()), variant=variant, backend=backend)

    def evaluate(program_path: str) -> EvaluationResult:
        try:
            evaluation = bench.judge(Path(program_path))
        except MachineryError as error:
            LOG.error("no verdict on %s: %s", program_path, error)
            return _unjudged(error, bench.axes)
        return result_of(evaluation, bench.axes)

    return evaluate


def result_of(evaluation: Evaluation, axes: Mapping[str, tuple[str, ...]]) -> EvaluationResult:
    """Every axis is always there, counted from 1; a failure is 0.0 throughout. OpenEvolve ranks by `combined_score`."""
    from openevolve.evaluation_result import EvaluationResult

    score = evaluation.score
    metrics = {"combined_score": score, "score_low": evaluation.score_low}
    traits = evaluation.traits if evaluation.passed else {}
    metrics |= {axis: _place(traits.get(axis), labels) for axis, labels in axes.items()}
    return EvaluationResult(metrics=metrics, artifacts=artifacts(evaluation))


def _unjudged(error: MachineryError, axes: Mapping[str, tuple[str, ...]]) -> EvaluationResult:
    """OpenEvolve knows no "again later": it gets a zero, and the reason for whoever reads on."""
    from openevolve.evaluation_result import EvaluationResult

    metrics = dict.fromkeys(("combined_score", "score_low", *axes), 0.0)
    return EvaluationResult(metrics=metrics, artifacts={"verdict": "none: the judge itself failed", "why": str(error)})


def _place(label: Scalar | None, labels: tuple[str, ...]) -> float:
    return float(labels.index(label) + 1) if isinstance(label, str) and label in labels else 0.0


def artifacts(evaluation: Evaluation) -> dict[str, str | bytes]:
    """What the next prompt may show: the verdict, why, and how long each workload took."""
    told: dict[str, str | bytes] = {"verdict": evaluation.verdict.value, "stage": evaluation.stage}
    if evaluation.feedback:
        told["feedback"] = evaluation.feedback[-MOST_TEXT:]
    rows = [
        f"{m.workload}: {m.time_us:.2f} µs, {m.ratio:.3f} × {m.baseline}" + (" (modelled)" if m.modelled else "")
        for m in evaluation.measurements
    ]
    if rows:
        told["times"] = "\n".join(rows)
    if evaluation.traits:
        told["traits"] = json.dumps(dict(evaluation.traits))[:MOST_TEXT]
    return told


@dataclass(kw_only=True)
class _Bench:
    """A judge for one problem, opened when first asked. Several processes may each have one; the GPU's lease and the
    builder's cache are shared between them."""

    path: str
    variant: str | None
    backend: str

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._opened: Backend | None = None
        self.axes: Mapping[str, tuple[str, ...]] = AXES

    def judge(self, file: Path) -> Evaluation:
        """Twice if the machinery fails the first time: with a new judge, for the old one may be what is broken."""
        source = file.read_bytes().decode("utf-8", "surrogateescape")
        candidate = Candidate(step=0, source=source, member="openevolve", kind="seed")
        job = Job(candidate=candidate, random_seeds=seeds_of(secrets.token_hex(8), candidate.id))
        backend = self._backend()
        try:
            return backend.evaluate(job)
        except MachineryError as error:
            LOG.error("the judge failed and is opened anew: %s", error)
            self._close(backend)
            return self._backend().evaluate(job)

    def _backend(self) -> Backend:
        with self._lock:
            if self._opened is None:
                self._opened = self._open()
                # Also runs where a process of a pool ends, which knows no `atexit`.
                multiprocessing.util.Finalize(self._opened, self._opened.close, exitpriority=10)
            return self._opened

    def _open(self) -> Backend:
        from evolve import judging, wiring
        from evolve.config import RunConfig

        config = RunConfig(problem=self.path, variant=self.variant, backend=self.backend, source=self.path)
        problem = wiring.problem(config)
        self.axes = problem.axes
        opened = wiring.open_backend(config, problem, judging.plain_seed(config, problem))
        LOG.info("judging %s on %s", self.path, opened.device)
        return opened.backend

    def _close(self, backend: Backend) -> None:
        with self._lock:
            if self._opened is backend:
                self._opened = None
                backend.close()
