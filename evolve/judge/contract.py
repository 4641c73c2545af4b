"""What a backend owes whoever asks it for verdicts, as tests. Make a subclass named Test..., say how to open one and
which candidates it can be tried with, and run pytest:

    class TestMine(BackendContract):
        passing = SEED
        failing = {Verdict.REJECTED: "import os", ...}

        @classmethod
        def open(cls, folder: Path) -> Backend:
            return MyBackend(cache=folder / "cache")

The loop relies on each of these. They say nothing about whether a score is true; `evolve redteam` asks more of that.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from evolve.errors import EvolveError, MachineryError
from evolve.judge import Backend
from evolve.types import Attempt, Candidate, Evaluation, Job, Verdict

SEEDS = (11, 22, 33)


def job_of(source: str, *, step: int = 1, **more: object) -> Job:
    candidate = Candidate(step=step, source=source, member="contract", kind="seed")
    return replace(Job(candidate=candidate, random_seeds=SEEDS), **more)  # type: ignore[arg-type]


def sound(evaluation: Evaluation, job: Job) -> Evaluation:
    """What holds of every evaluation, whatever its verdict."""
    assert isinstance(evaluation, Evaluation)
    assert evaluation.stage, "an evaluation names the stage that gave the verdict"
    assert evaluation.passed or evaluation.feedback.strip(), "whoever writes the next candidate is told why"
    json.dumps(evaluation.evidence, allow_nan=False)
    json.dumps([dict(evaluation.traits), list(evaluation.digests)], allow_nan=False)
    for name, seconds in evaluation.seconds.items():
        assert seconds >= 0, f"{name} took {seconds} s"
    if evaluation.passed:
        assert math.isfinite(evaluation.score)
        assert evaluation.score > 0
        assert evaluation.ranking_key, "a score without a ranking key could meet one that it may not be compared with"
        assert evaluation.digests, "without digests its twins would be judged again"
    else:
        assert evaluation.score == 0
        assert not evaluation.beats_incumbent
    return evaluation


class BackendContract:
    passing: ClassVar[str]  # a source that passes
    failing: ClassVar[Mapping[Verdict, str]] = {}  # sources that must fail, by what they must get
    echo: ClassVar[str] = ""  # `passing`, written in another way that changes nothing; empty: the same text
    agree = 0.0  # how far two scores of one candidate may lie apart, as a logarithm
    width = 3  # jobs at once
    patience = 60.0  # seconds for one verdict
    ends_in = 15.0  # seconds for `close` and for those who wait while it happens

    shared: ClassVar[Backend]
    _trace: ClassVar[Trace]

    @classmethod
    def open(cls, folder: Path) -> Backend:
        raise NotImplementedError("return the backend that is to be held to the contract; `folder` is for its files")

    @classmethod
    def setup_class(cls) -> None:
        cls._trace = Trace()
        cls.shared = cls.open(cls._trace.folder)

    @classmethod
    def teardown_class(cls) -> None:
        cls._trace.look()
        cls.shared.close()
        cls._trace.end()

    def judged(self, job: Job, backend: Backend | None = None) -> Evaluation:
        began = time.monotonic()
        evaluation = sound((backend or self.shared).evaluate(job), job)
        assert time.monotonic() - began < self.patience, "a verdict comes in its time"
        return evaluation

    def known(self, step: int = 1) -> dict[str, str]:
        """The digests of the passing candidate, judged at this step."""
        job = job_of(self.passing, step=step)
        return dict.fromkeys(self.judged(job).digests, job.candidate.id)

    # --- Verdicts -----------------------------------------------------------------------------------------------------

    def test_a_good_candidate_passes(self) -> None:
        evaluation = self.judged(job_of(self.passing))
        assert evaluation.verdict is Verdict.PASSED, evaluation.feedback

    def test_each_kind_of_failure_is_a_verdict(self) -> None:
        for verdict, source in self.failing.items():
            evaluation = self.judged(job_of(source))
            assert evaluation.verdict is verdict, f"{evaluation.verdict} for {verdict}: {evaluation.feedback}"

    def test_no_text_makes_it_raise(self) -> None:
        for text in ("", "\x00", "def f(:", "\ud800", "é" * 1000, "(" * 5000, "import os\n" * 1000):
            assert self.judged(job_of(text))

    def test_the_same_job_twice_is_the_same_verdict_and_score(self) -> None:
        for source in (self.passing, *self.failing.values()):
            first, second = (self.judged(job_of(source)) for _ in range(2))
            assert (first.verdict, first.stage, first.digests) == (second.verdict, second.stage, second.digests)
            assert first.ranking_key == second.ranking_key
            if first.passed:
                assert abs(math.log(first.score / second.score)) <= self.agree

    # --- Duplicates and confirmation ----------------------------------------------------------------------------------

    def test_what_was_judged_before_is_found_and_named(self) -> None:
        evaluation = self.judged(job_of(self.echo or self.passing, step=7, known=self.known()))
        assert evaluation.verdict is Verdict.DUPLICATE
        assert job_of(self.passing).candidate.id in evaluation.feedback

    def test_a_candidate_is_no_duplicate_of_itself(self) -> None:
        """A step that was pending when the run was killed is judged again."""
        assert self.judged(job_of(self.passing, known=self.known())).verdict is Verdict.PASSED

    def test_what_others_did_is_no_duplicate(self) -> None:
        other = {"ast:0123456789abcdef": "00009-01234567", "plan:0123456789abcdef": "00009-01234567"}
        assert self.judged(job_of(self.passing, known=other)).verdict is Verdict.PASSED

    def test_confirming_judges_again(self) -> None:
        evaluation = self.judged(job_of(self.passing, step=7, mode="confirm", known=self.known()))
        assert evaluation.verdict is Verdict.PASSED, evaluation.feedback

    def test_an_incumbent_must_be_beaten(self) -> None:
        evaluation = self.judged(job_of(self.passing))
        assert evaluation.beats_incumbent, "the first that passes has nobody to beat"
        faster = tuple(replace(m, ratio=m.ratio * 4, ratio_low=m.ratio_low * 4, ratio_high=m.ratio_high * 4,
                               time_us=m.time_us / 4) for m in evaluation.measurements)  # fmt: skip
        incumbent = Attempt(
            candidate=job_of(self.passing, step=3).candidate, evaluation=replace(evaluation, measurements=faster)
        )
        again = self.judged(job_of(self.passing, step=8, incumbent=incumbent))
        assert again.verdict is Verdict.PASSED, again.feedback
        assert not again.beats_incumbent

    # --- Several at once, and the end ---------------------------------------------------------------------------------

    def test_several_threads_at_once(self) -> None:
        asked = [(Verdict.PASSED, self.passing), *self.failing.items()] * 2
        with ThreadPoolExecutor(self.width) as pool:
            found = list(pool.map(lambda pair: self.judged(job_of(pair[1])), asked))
        assert [e.verdict for e in found] == [verdict for verdict, _ in asked]

    def test_closing_twice_and_asking_afterwards(self) -> None:
        with left_behind_nothing() as trace:
            backend = self.open(trace.folder)
            trace.look()
            backend.close()
            backend.close()
            came = _asked(backend, job_of(self.passing))
            assert isinstance(came, Evaluation | MachineryError), "a closed judge has no verdict, and says so"

    def test_closing_while_it_judges(self) -> None:
        with left_behind_nothing() as trace, ThreadPoolExecutor(self.width) as pool:
            backend = self.open(trace.folder)
            waiting = [pool.submit(_asked, backend, job_of(self.passing, step=s)) for s in range(self.width + 1)]
            time.sleep(0.2)
            trace.look()
            began = time.monotonic()
            backend.close()
            for future in waiting:
                came = future.result(timeout=self.patience)
                assert isinstance(came, Evaluation | MachineryError), f"{type(came).__name__}: {came}"
            assert time.monotonic() - began < self.ends_in


def _asked(backend: Backend, job: Job) -> Evaluation | EvolveError:
    try:
        return sound(backend.evaluate(job), job)
    except EvolveError as error:
        return error


# --- What is left behind ----------------------------------------------------------------------------------------------


class Trace:
    """Everything that was started and written since: a folder of its own for temporary files, and the processes that
    were seen below this one."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="evolve-contract-"))
        self._scratch = self.folder / "tmp"
        self._scratch.mkdir()
        self._before = set(descendants())
        self._seen: set[tuple[int, str]] = set()
        self._tempdir, tempfile.tempdir = tempfile.tempdir, str(self._scratch)
        self._threads = set(threading.enumerate())

    def look(self) -> None:
        self._seen |= set(descendants()) - self._before

    def end(self, seconds: float = 10.0) -> None:
        self.look()
        tempfile.tempdir = self._tempdir
        deadline = time.monotonic() + seconds
        while (left := [p for p in self._seen if started(p[0]) == p[1]]) and time.monotonic() < deadline:
            time.sleep(0.05)
        # torch makes the folder of its compiler's cache once a user, whatever it is used for
        rest = sorted(p.name for p in self._scratch.iterdir() if not p.name.startswith("torchinductor_"))
        shutil.rmtree(self.folder, ignore_errors=True)
        assert not left, f"processes outlive close(): {[(pid, _words(pid)) for pid, _ in left]}"
        assert not rest, f"temporary files outlive close(): {rest}"


@contextmanager
def left_behind_nothing() -> Iterator[Trace]:
    trace = Trace()
    yield trace
    trace.end()


def descendants() -> Iterator[tuple[int, str]]:
    """Every living process below this one: its number, and when it was started, since numbers come again."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (stat := _stat(int(entry))):
            children.setdefault(int(stat[1]), []).append(int(entry))
    waiting = list(children.get(os.getpid(), ()))
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, ())
        if when := started(pid):
            yield pid, when


def started(pid: int) -> str:
    """Empty where it has ended, waited for or not."""
    stat = _stat(pid)
    return "" if not stat or stat[0] in "ZX" else stat[19]


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name: state, parent, ..."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")[:120]
    except OSError:
        return "?"
