"""`evolve pack`: a run as something to keep or to send, whole or slim.

A packed run is an ordinary run: `show` and `dashboard` open it, and its events come in the same order, with the same
times, sources, scores and lineage. A slim one leaves out the evidence of everybody who is not an ancestor of the best;
what is left of theirs is how to judge them again.

It never changes the run that it packs, and it never passes the run's secret on: whoever knows it could foresee what
candidates of a resumed run are checked on. A copy gets a secret of its own.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from evolve import lineage
from evolve.errors import UsageError
from evolve.journal import Journal
from evolve.journal_disk import on_disk
from evolve.journal_turns import Logged
from evolve.runs import writer_of
from evolve.types import Confirmed, Evaluation, Json, Judged

KEPT = ("replay", "ruling", "slim")  # of the evidence of those who did not lead to the best
SLIM = "Packed slim: full evidence is kept for the best and its ancestors. The replay command judges this one again."


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    folder: Path
    events: int
    steps: int
    whole: int  # candidates with their full evidence
    bytes_before: int
    bytes_after: int
    still_written: bool  # the original goes on: the copy ends where it stood

    def sentence(self) -> str:
        went_on = " The run is still being written; the copy ends where it stood." if self.still_written else ""
        return (
            f"{self.folder}: {self.steps} steps, full evidence for {self.whole}; "
            f"{self.bytes_before / 1e6:.1f} MB became {self.bytes_after / 1e6:.1f} MB.{went_on}"
        )


def pack(run: Path, to: Path, *, slim: bool) -> Packed:
    """Copy the run to the folder `to`, which must not exist. It appears whole or not at all."""
    if to.resolve() == run.resolve():
        raise UsageError(f"{to}: that is the run itself; name another folder with --to.")
    with closing(Journal.open(run)) as journal:
        last = journal.last_seq()  # what is committed after this moment is left to the next packing
        kept = _ancestors(journal) if slim else None
        environment = {**journal.environment, "secret": secrets.token_hex(16)}
        made = Journal.create(to, config_text=journal.config_text, environment=environment, meta=journal.meta)
        try:
            with closing(made):
                made.append_all(_events(journal, last, kept))
                steps = made.last_step() + 1
            if (run / "best.py").is_file():
                with on_disk(to):
                    shutil.copyfile(run / "best.py", to / "best.py")
        except BaseException:
            shutil.rmtree(to, ignore_errors=True)
            raise
        whole = steps if kept is None else len(kept)
    return Packed(
        folder=to,
        events=last,
        steps=steps,
        whole=whole,
        bytes_before=_size(run),
        bytes_after=_size(to),
        still_written=writer_of(run) is not None,
    )


def _ancestors(journal: Journal) -> set[str]:
    best = lineage.best(journal)
    if best is None or best.candidate_id is None:
        return set()
    return {row.candidate_id for row in lineage.ancestors(journal, best.candidate_id) if row.candidate_id}


def _events(journal: Journal, last: int, kept: set[str] | None) -> Iterator[Logged]:
    for logged in journal.events():
        if logged.seq > last:
            return
        yield logged if kept is None else _slimmed(logged, kept)


def _slimmed(logged: Logged, kept: set[str]) -> Logged:
    event = logged.event
    match event:
        case Judged(candidate=candidate) if candidate is not None and candidate.id not in kept:
            return replace(logged, event=replace(event, evaluation=_bare(event.evaluation)))
        case Confirmed(candidate_id=name) if name not in kept:
            return replace(logged, event=replace(event, evaluation=_bare(event.evaluation)))
    return logged


def _bare(evaluation: Evaluation) -> Evaluation:
    left: Mapping[str, Json] = {**evaluation.evidence, "slim": SLIM}
    return replace(evaluation, evidence={name: left[name] for name in KEPT if name in left})


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
