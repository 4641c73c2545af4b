"""What runs inside the actor of one GPU: the judge, opened there as it is opened on a machine of one's own.

The actor is Ray's; everything about a candidate happens in the judge's own processes below it: jail, builder, fork
server, standby. So a crash, a hang or a fault of the GPU is dealt with there, by the same code as locally. What is sent
to it are texts and figures; the problem's files travel as text, where the machine does not have the very same ones.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import evolve
from evolve.errors import MachineryError, UsageError
from evolve.executors.cluster_builds import ClusterCompilers
from evolve.executors.spread import take_short_turns
from evolve.judge import backends
from evolve.judge.backends import Opened, Settings
from evolve.judge.tune import Tuning
from evolve.problem import Problem, load_problem
from evolve.types import Evaluation, Job, Json, Workload

DEPTH = "a/b/c/d"  # below the folder of shipped files, so that a part's "../x.py" still lies inside


@dataclass(frozen=True, kw_only=True)
class Opening:
    """All that a judge needs to know, for a machine that may share no disk with ours."""

    path: str  # of the problem, absolute
    said: str  # as the configuration says it: what goes into the evidence
    files: Mapping[str, str]  # the problem and its parts, by their place relative to it
    digest: str
    workloads: tuple[Workload, ...]  # the user's own timing list may stand in for the problem's
    variant: str
    backend: str
    target: str
    timeout: float
    tuner: Tuning | None
    configurations: int
    seed: str | None
    evolve: str  # the driver's version


class Elsewhere:
    """In a backend's place where it is another process's."""

    def evaluate(self, job: Job) -> Evaluation:
        raise MachineryError("this judge is on another machine; ask its station.")

    def close(self) -> None:
        pass


class Judge:
    """The actor. `width` is its share of the machine's cores."""

    def __init__(self, opening: Opening, width: int) -> None:
        take_short_turns()
        self._opening, self._width = opening, width
        self._opened: Opened | None = None

    def kind(self) -> str:
        """What must be equal for two GPUs to share a calibration. It costs no GPU time."""
        _same_evolve(self._opening.evolve)
        if backends.gpu_present() and self._opening.backend in ("auto", "gpu"):
            from evolve.judge.gpu.nvml import Gpu, visible

            return "|".join([Gpu(visible(0)).device(), _version("torch"), _version("triton")])
        return "|".join(["no GPU", _version("torch"), _version("triton")])

    def open(self, kept: Sequence[Mapping[str, Json]]) -> Opened:
        """Calibrates where none of the kept ones is of this kind."""
        asked = self._opening
        problem = loaded(asked)
        settings = Settings(
            problem=problem,
            variant=problem.variant(asked.variant),
            backend=asked.backend,
            target=asked.target,
            cache=node_cache(),
            width=self._width,
            timeout=asked.timeout,
            tuner=asked.tuner,
            configurations=asked.configurations,
            compilers=ClusterCompilers,
        )
        first = kept[0] if kept else None
        self._opened = backends.open_all(settings, seed=asked.seed, calibration=first, others=kept[1:])[0]
        return replace(self._opened, backend=Elsewhere())

    def evaluate(self, job: Job) -> Evaluation:
        if self._opened is None:
            raise MachineryError("this judge was not opened.")
        found = self._opened.backend.evaluate(job)
        return replace(found, evidence=_as_said(found.evidence, self._opening))

    def close(self) -> None:
        if self._opened is not None:
            self._opened.backend.close()


def opening_of(settings: Settings, seed: str | None, evolve_version: str) -> Opening:
    """On the driver's side."""
    problem = settings.problem
    home = Path(problem.path).absolute()
    inside = [part for part in problem.parts if not Path(part).is_absolute()]
    files = {part: (home.parent / part).read_text(encoding="utf-8", errors="replace") for part in inside}
    return Opening(
        path=str(home),
        said=problem.path,
        files={home.name: home.read_text(encoding="utf-8"), **files},
        digest=problem.digest,
        workloads=problem.workloads,
        variant=settings.variant.name,
        backend=settings.backend,
        target=settings.target,
        timeout=settings.timeout,
        tuner=settings.tuner,
        configurations=settings.configurations,
        seed=seed,
        evolve=evolve_version,
    )


def loaded(asked: Opening) -> Problem:
    """From the same path where the file there is the same, as on a shared disk; otherwise from what was sent along."""
    return replace(_found(asked), workloads=asked.workloads)


def _found(asked: Opening) -> Problem:
    tries: tuple[Callable[[], Problem], ...] = (
        lambda: load_problem(asked.path),
        lambda: load_problem(_laid_out(asked)),
    )
    why = ""
    for attempt in tries:
        try:
            problem = attempt()
        except UsageError as error:
            why = str(error)
            continue
        if problem.digest == asked.digest:
            return problem
        why = f"its digest is {problem.digest} here and {asked.digest} where the run is written"
    raise MachineryError(
        f"{asked.said}: this machine ({os.uname().nodename}) cannot load the run's problem: {why}. Put the problem and "
        "what it imports on a disk that all machines share, or install it on each."
    )


def _laid_out(asked: Opening) -> Path:
    root = Path(tempfile.mkdtemp(prefix="evolve-problem-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    for name, text in asked.files.items():
        place = Path(os.path.normpath(root / DEPTH / name))
        if root not in place.parents:
            continue  # too far up to be sent; loading says what is missing
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    return root / DEPTH / Path(asked.path).name


def node_cache() -> Path:
    """This machine's own, even where homes are shared: a builder sweeps what another machine's builder is at."""
    return Path(tempfile.gettempdir()) / f"evolve-{os.getuid()}"


def _same_evolve(theirs: str) -> None:
    if theirs != evolve.__version__:
        raise MachineryError(
            f"{os.uname().nodename} has evolve {evolve.__version__}, the run is written by {theirs}; install the same."
        )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _as_said(evidence: Mapping[str, Json], asked: Opening) -> Mapping[str, Json]:
    """The command that judges it again names the problem as the user does, not by its place on this machine."""
    replay = evidence.get("replay")
    if not isinstance(replay, Mapping) or "problem" not in replay:
        return evidence
    there, said = str(replay["problem"]), asked.said
    command = str(replay.get("command", "")).replace(f"--problem {there} ", f"--problem {said} ")
    return {**evidence, "replay": {**replay, "problem": said, "command": command}}
