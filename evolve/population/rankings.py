"""One population for each ranking key: GPUs of different kinds search side by side and never share a ranking.

The run's own key comes first, and where there is no other this is that population and nothing more. A step belongs to
the key that it was drawn for, as often as there are GPUs of it; what it was judged on decides where its candidate
stands. What leads in one ranking is measured again for the others (`migrants`), as a step of its own, because a score
says nothing elsewhere.

It knows which GPUs are there by what it is told (`present`), and deliberately not what a GPU is.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace

from evolve.population.population import Population
from evolve.types import Attempt, Confirmed, Draw, Evaluation, Event, Judged

FOUNDERS = 4  # of the elites elsewhere, for a ranking in which nobody stands yet


class Rankings:
    def __init__(self, make: Callable[[str], Population], home: str) -> None:
        self.home = make(home)
        self.home_key = home
        self.present: Mapping[str, int] = {}  # GPUs at work, by ranking key
        self._make = make
        self._of = {home: self.home}
        self._ahead: dict[str, str] = {}  # would-be bests of other keys: a confirmation belongs to the same one
        self._tried: defaultdict[str, set[str]] = defaultdict(set)  # sources that were sent there, by key

    def of(self, key: str) -> Population:
        if not key:
            return self.home
        if key not in self._of:
            self._of[key] = self._make(key)
        return self._of[key]

    # --- What the loop asks -------------------------------------------------------------------------------------------

    def ask(self, step: int) -> Draw:
        key = self._turn(step)
        draw = self.of(key).ask(step)
        return draw if key == self.home_key else replace(draw, ranking_key=key)

    def _turn(self, step: int) -> str:
        """Whose turn it is: a draw among the keys that somebody stands in, weighed by their GPUs."""
        weights = {
            k: n for k, n in sorted(self.present.items()) if k == self.home_key or (k in self._of and self.of(k))
        }
        if set(weights) <= {self.home_key}:
            return self.home_key
        rng = random.Random(f"{self.home.random_seed}/{step}/ranking")
        return rng.choices(list(weights), list(weights.values()))[0]

    def contends(self, evaluation: Evaluation) -> bool:
        return self.of(evaluation.ranking_key).contends(evaluation)

    @property
    def best(self) -> Attempt | None:
        return self.home.best

    @property
    def known(self) -> Mapping[str, str]:
        return self.home.known

    @property
    def bests(self) -> Mapping[str, Attempt]:
        """By ranking key; for whoever judges."""
        return {key: each.best for key, each in self._of.items() if each.best}

    def migrants(self) -> list[tuple[str, Attempt]]:
        """What is to be measured again, and for which key: the best of each other ranking once, and for a key that
        nobody stands in some elites of the run's own."""
        found = []
        for key in sorted(self.present):
            own = self.of(key)
            leaders = [each.best for other, each in self._of.items() if other != key and each.best]
            if not own and key != self.home_key:
                leaders += [self.home.attempt(name) for name in self.home.elites()[:FOUNDERS]]
            for leader in leaders:
                digest = leader.candidate.digest
                if digest not in own.known and digest not in self._tried[key]:
                    self._tried[key].add(digest)
                    found.append((key, leader))
        return found

    # --- The fold -----------------------------------------------------------------------------------------------------

    def observe(self, event: Event) -> None:
        if isinstance(event, Judged):
            found = event.evaluation
            if event.candidate and found.beats_incumbent and found.ranking_key not in ("", self.home_key):
                self._ahead[event.candidate.id] = found.ranking_key
            self.of(found.ranking_key).observe(event)
        elif isinstance(event, Confirmed):
            self.of(self._ahead.get(event.candidate_id) or event.evaluation.ranking_key).observe(event)
