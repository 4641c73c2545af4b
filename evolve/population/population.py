"""The population as a fold over the journal's events, and the draws that come of it.

`observe` is the only door; `ask` changes nothing and derives its randomness from (random_seed, step). So replaying a
journal gives the same population, and the same draws under any hash seed. A replay may leave sources, prompts and
evidence unread: nothing here depends on them, and where two scores are equal the source is looked up.

What it deliberately leaves out: lineage and sources (the journal has them; here are ids and small facts), and whether
a gain is real (the judge says so in `beats_incumbent`).
"""

from __future__ import annotations

import math
import random
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

from evolve.errors import ConfigError
from evolve.population.cells import Cells, Entry, Selection
from evolve.types import Attempt, Candidate, Confirmed, Draw, Evaluation, Event, Judged, Verdict

CACHED = 128  # attempts at hand; a draw takes up to seven, and the same ones come again
PARENTS = 2000  # whose failures are remembered: more than can be alive
# A failure says something about a source. A duplicate says nothing new, and the others have no source.
FAILURES = frozenset(Verdict) - {Verdict.PASSED, Verdict.DUPLICATE, Verdict.NO_REPLY, Verdict.UNREADABLE}


class Population:
    """`attempt` loads a candidate from the journal with its latest figure. `axes` are the problem's."""

    def __init__(
        self,
        *,
        axes: Mapping[str, tuple[str, ...]],
        islands: int,
        random_seed: int,
        attempt: Callable[[str], Attempt],
        strategy: Literal["evolution", "best_of_n"] = "evolution",
        ranking_key: str = "",  # empty: that of the first PASSED candidate
        selection: Selection | None = None,
    ) -> None:
        if islands < 1:
            raise ConfigError(f"database.num_islands is {islands}; expected at least 1.")
        self.random_seed = random_seed
        self.strategy = strategy
        self.ranking_key = ranking_key
        self.selection = selection or Selection()
        self.islands = islands
        self._cells = Cells(axes, islands, self.selection, self._shorter)
        self._attempt = attempt
        self._attempts: OrderedDict[str, Attempt] = OrderedDict()
        self._failures: OrderedDict[str, deque[str]] = OrderedDict()
        self._known: dict[str, str] = {}
        self._confirmed: dict[str, float] = {}
        self._best: Attempt | None = None
        self._founder: str | None = None  # the first PASSED without a parent: what best_of_n goes from
        self._modelled: bool | None = None
        self._left_out: Counter[str] = Counter()
        self._turns = 0

    # --- What the loop asks ---------------------------------------------------------------------------------------

    def ask(self, step: int) -> Draw:
        island = step % self.islands
        if self.strategy == "best_of_n":
            return Draw(step=step, island=island, parent=self._load(self._founder) if self._founder else None)
        rng = random.Random(f"{self.random_seed}/{step}")
        found = self._cells.parent(island, rng)
        if found is None:
            return Draw(step=step, island=island)
        parent, at = found
        return Draw(
            step=step,
            island=island,
            parent=self._load(parent),
            inspirations=tuple(self._load(i) for i in self._cells.inspire(parent, at, rng)),
            failures=tuple(self._load(i) for i in self._failures.get(parent, ())),
        )

    def contends(self, evaluation: Evaluation, candidate: Candidate | None = None) -> bool:
        """Whether this would be the best, were it to hold. At equal score the shorter source wins."""
        if not self._comparable(evaluation):
            return False
        best = self._best
        if best is None or evaluation.score != best.score:
            return best is None or evaluation.score > best.score
        return candidate is not None and len(candidate.source) < len(best.candidate.source)

    @property
    def best(self) -> Attempt | None:
        """The best that was confirmed. A first figure is no best: it won a draw among many, noise included."""
        return self._best

    @property
    def unconfirmed_best(self) -> Attempt | None:
        """Who leads on a first figure, if anyone is ahead of `best` on one."""
        waiting = [entry for _, _, entry in self._cells.owners() if entry.id not in self._confirmed]
        top = max(waiting, key=lambda e: (e.score, -e.step), default=None)
        if top is None or (self._best and top.score <= self._best.score):
            return None
        return self._load(top.id)

    @property
    def known(self) -> Mapping[str, str]:
        """Digests of everything judged -> the candidate that had each first. Not a copy: look, don't touch."""
        return self._known

    # --- What a display asks --------------------------------------------------------------------------------------

    def cells(self) -> dict[int, dict[tuple[str, ...], tuple[str, float]]]:
        """Island -> labels of the cell -> its owner and the owner's score."""
        shown: dict[int, dict[tuple[str, ...], tuple[str, float]]] = {i: {} for i in range(self.islands)}
        for island, key, owner in sorted(self._cells.owners()):
            shown[island][self._cells.labels(key)] = (owner.id, owner.score)
        return shown

    def elites(self) -> tuple[str, ...]:
        """Every owner of a cell, best first."""
        owners = sorted((owner for _, _, owner in self._cells.owners()), key=lambda e: (-e.score, e.step))
        return tuple(dict.fromkeys(e.id for e in owners))

    def __len__(self) -> int:
        return len(self._cells)

    def left_out(self) -> str | None:
        """A sentence on PASSED candidates that are not ranked here, if there are any."""
        if not self._left_out:
            return None
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self._left_out.items()))
        ours = _label(bool(self._modelled), self.ranking_key)
        return f"Not ranked, for scores of different keys are never compared: {reasons} (this run ranks {ours})."

    # --- The fold -------------------------------------------------------------------------------------------------

    def observe(self, event: Event) -> None:
        if isinstance(event, Judged):
            self._judged(event)
        elif isinstance(event, Confirmed):
            self._reconsider(event)

    def _judged(self, event: Judged) -> None:
        candidate, evaluation = event.candidate, event.evaluation
        if candidate is not None:
            name = candidate.id
            for digest in (candidate.digest, *evaluation.digests):
                self._known.setdefault(digest, name)
            if evaluation.passed:
                self._take_in(candidate, evaluation)
            elif evaluation.verdict in FAILURES and candidate.parent_id:
                self._remember_failure(candidate.parent_id, name)
        self._turns += 1
        if self._turns % (self.selection.migration_interval * self.islands) == 0:
            self._cells.migrate()

    def _take_in(self, candidate: Candidate, evaluation: Evaluation) -> None:
        """A child goes to the island it was drawn for, a seed to every one, a draft to its own and all empty ones."""
        if not self._admits(evaluation):
            return
        entry = self._entry(candidate, evaluation)
        goes_to = [entry.home]
        if candidate.parent_id is None:
            self._founder = self._founder or entry.id
            founds = candidate.kind == "seed"
            goes_to = [i for i in range(self.islands) if founds or i == entry.home or not self._cells.inhabited(i)]
        key = self._cells.key(evaluation.traits)
        for island in goes_to:
            self._cells.enter(entry, island, key)

    def _entry(self, candidate: Candidate, evaluation: Evaluation) -> Entry:
        return Entry(candidate.id, evaluation.score, candidate.step, candidate.island % self.islands)

    def _reconsider(self, event: Confirmed) -> None:
        """The fresh figure replaces the first, wherever the candidate stands; without one it stands nowhere."""
        name, evaluation = event.candidate_id, event.evaluation
        if evaluation.passed and not self._admits(evaluation):
            return
        self._attempts.pop(name, None)
        fresh = self._load(name)
        if fresh.score != evaluation.score:  # the journal may know a later figure already; the fold is not there yet
            fresh = replace(fresh, evaluation=evaluation)
        stood = self._cells.where(name)
        for island in stood:
            self._cells.leave(name, island)
        if evaluation.passed:
            entry, key = self._entry(fresh.candidate, evaluation), self._cells.key(evaluation.traits)
            for island in stood or (entry.home,):
                self._cells.enter(entry, island, key)
            self._confirmed[name] = evaluation.score
        else:
            self._confirmed.pop(name, None)
            if fresh.candidate.parent_id:
                self._remember_failure(fresh.candidate.parent_id, name)
        self._crown(fresh)

    def _crown(self, fresh: Attempt) -> None:
        """A confirmed candidate is the best if it is ahead by more than noise, which the judge alone can tell. If the
        best itself was measured again and has fallen behind, the highest confirmed figure takes its place."""
        best, evaluation = self._best, fresh.evaluation
        if best is not None and best.id != fresh.id:
            ahead = evaluation.beats_incumbent or evaluation.score == best.score
            if ahead and self.contends(evaluation, fresh.candidate):
                self._best = fresh
            return
        top = max(self._confirmed.values(), default=None)
        if top is None:
            self._best = None
        elif self._confirmed.get(fresh.id) == top:
            self._best = fresh
        else:
            self._best = self._load(next(n for n, score in self._confirmed.items() if score == top))

    def _remember_failure(self, parent: str, name: str) -> None:
        latest = self._failures.setdefault(parent, deque(maxlen=self.selection.failures))
        latest.append(name)
        self._failures.move_to_end(parent)
        if len(self._failures) > PARENTS:
            self._failures.popitem(last=False)

    # --- What may be compared -------------------------------------------------------------------------------------

    def _admits(self, evaluation: Evaluation) -> bool:
        if self._modelled is None and self._comparable(evaluation):
            self.ranking_key, self._modelled = evaluation.ranking_key, evaluation.modelled
        if self._comparable(evaluation):
            return True
        finite = math.isfinite(evaluation.score)
        what = f"of {_label(evaluation.modelled, evaluation.ranking_key)}" if finite else "without a finite score"
        self._left_out[what] += 1
        return False

    def _comparable(self, evaluation: Evaluation) -> bool:
        """A NaN would hold its cell for ever, and a modelled time must not win over a measured one."""
        if not evaluation.passed or not math.isfinite(evaluation.score):
            return False
        if self._modelled is None and not self.ranking_key:
            return True
        return evaluation.ranking_key == self.ranking_key and self._modelled in (None, evaluation.modelled)

    # --- The journal, by id ---------------------------------------------------------------------------------------

    def _shorter(self, one: str, other: str) -> bool:
        return len(self._load(one).candidate.source) < len(self._load(other).candidate.source)

    def attempt(self, name: str) -> Attempt:
        return self._load(name)

    def _load(self, name: str) -> Attempt:
        found = self._attempts.get(name)
        if found is None:
            found = self._attempts[name] = self._attempt(name)
            if len(self._attempts) > CACHED:
                self._attempts.popitem(last=False)
        self._attempts.move_to_end(name)
        return found


def _label(modelled: bool, key: str) -> str:
    return f"{'modelled' if modelled else 'measured'} {key or '(no key)'}"
