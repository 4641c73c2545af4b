"""The member that needs no network: it rewrites the parent by one rule a step.

Rules have an order to begin with, what an engineer would try first; what ails the parent, by the judge's own words,
moves remedies to the front, and what became of each rule's candidates moves it up or down. Mostly the first that has a
new move is taken, so that a known good chain needs no luck; one step in five is a bandit's, so that no order is for
ever. Which of a rule's moves is chance from `(random_seed, step)`. It learns only from events, so that a resumed run
chooses as an uninterrupted one would. It does not combine rules in one step: one move a step makes a verdict a lesson.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial

from evolve.rules import RULES, Applied, Context, Rule, apply
from evolve.rules.ails import ails, urgency
from evolve.syntax import undisturbed
from evolve.types import Attempt, Confirmed, Draw, Event, Judged, Prompt, Replied, Reply, Scalar, Workload, digest_of

EXPLORES = 0.2  # of all steps, by Thompson sampling
KEPT = 0.25  # of a loss: the child is as good as its parent, and may be what the next move needs
TRIES = 12  # draws of a rule's own moves before the next rule has its turn
BETTER = 1.005  # a gain smaller than this is noise


class RulesMember:
    """`observe` is a fold over the run's events; `ask` reads what it has gathered."""

    def __init__(
        self,
        *,
        workloads: Sequence[Workload] = (),
        target: str = "sm_90",
        triton: str = "",
        random_seed: int = 0,
        name: str = "rules",
        rules: Sequence[Rule] = RULES,
        allows: frozenset[str] = frozenset(),
        repeat: float = 0.0,
        tuned: bool = False,
    ) -> None:
        self._workloads = tuple(workloads)
        self._target, self._triton, self._random_seed = target, triton, random_seed
        self._name, self._rules = name, tuple(rules)
        self._allows, self._repeat, self._tuned = allows, repeat, tuned
        self._known: set[str] = set()  # digests of sources that were proposed or judged, by anyone
        self._scores: dict[str, float] = {}
        self._rule_at: dict[int, str] = {}  # step -> rule, while its verdict is out
        self._wins: dict[str, float] = {}
        self._losses: dict[str, float] = {}

    @property
    def name(self) -> str:
        return self._name

    async def ask(self, draw: Draw, prompt: Prompt) -> Reply:
        if draw.parent is None:
            return self._nothing("there is no parent to rewrite, and rules cannot draft")
        rng = random.Random(f"{self._random_seed}:{draw.step}")
        reasons = []
        for rule in self._order(rng, ails(draw.parent.evaluation)):
            found = self._move(rule, draw.parent, rng)
            if isinstance(found, Applied):
                self._known.add(digest_of(found.source))
                return self._reply(rule, found)
            reasons.append(f"{rule.name}: {found}")
        return self._nothing(f"no rule has a new move for {draw.parent.id}. {' '.join(reasons)}".rstrip("."))

    def observe(self, event: Event) -> None:
        # By the model's name, not by the text: a replay leaves the texts of replies unread.
        if isinstance(event, Replied) and event.reply.member == self._name and event.reply.model:
            self._rule_at[event.step] = event.reply.model
        elif isinstance(event, Judged):
            self._judged(event)
        elif isinstance(event, Confirmed):
            self._scores[event.candidate_id] = event.evaluation.score

    def _judged(self, event: Judged) -> None:
        candidate, rule = event.candidate, self._rule_at.pop(event.step, None)
        if candidate is None:
            return
        self._known.add(candidate.digest)
        score = event.evaluation.score
        self._scores[candidate.id] = score
        if rule is None:
            return
        before = self._scores.get(candidate.parent_id or "", 0.0)
        if event.evaluation.passed and score > before * BETTER:
            self._wins[rule] = self._wins.get(rule, 0.0) + 1.0
        else:
            kept = event.evaluation.passed and score * BETTER > before
            self._losses[rule] = self._losses.get(rule, 0.0) + (KEPT if kept else 1.0)

    def _order(self, rng: random.Random, ailing: frozenset[str]) -> list[Rule]:
        """The best first: by what is expected of each, or, one step in five, by a draw from what it may be worth."""
        explores = rng.random() < EXPLORES

        def worth(rule: Rule) -> float:
            wins, losses = self._wins.get(rule.name, 0.0), self._losses.get(rule.name, 0.0)
            share = rng.betavariate(1 + wins, 1 + losses) if explores else (1 + wins) / (1 + wins + losses)
            return rule.weight * urgency(rule, ailing) * share

        drawn = [(worth(rule), -place) for place, rule in enumerate(self._rules)]
        return [self._rules[-place] for _, place in sorted(drawn, reverse=True)]

    def _move(self, rule: Rule, parent: Attempt, rng: random.Random) -> Applied | str:
        context = Context(
            random=rng,
            workloads=self._workloads,
            target=self._target,
            triton=self._triton,
            traits=parent.evaluation.traits,
            parameters=_best_parameters(parent),
            allows=self._allows,
            repeat=self._repeat,
            tuned=self._tuned or "tune" in parent.evaluation.evidence,
        )
        seen: list[str] = []
        while len(seen) < TRIES and (len(seen) < 3 or len(set(seen)) > 1):  # three alike: it knows one move only
            found = undisturbed(partial(apply, rule, parent.candidate.source, context))
            if not isinstance(found, Applied):
                return found.reason
            seen.append(digest_of(found.source))
            if seen[-1] not in self._known:
                return found
        return "Its moves were proposed before."

    def _reply(self, rule: Rule, found: Applied) -> Reply:
        expected = "; ".join(f"{op} {bound}" for op, bound in found.signature.items())
        lines = [f"Hypothesis: {found.hypothesis}", *([f"Prediction: {expected}; faster"] if expected else [])]
        return Reply(
            member=self._name,
            model=rule.name,
            text="\n".join([*lines, "", "```python", found.source.rstrip("\n"), "```", ""]),
            hypothesis=found.hypothesis,
        )

    def _nothing(self, why: str) -> Reply:
        return Reply(member=self._name, text="", finish_reason=why)


def _best_parameters(parent: Attempt) -> dict[str, Scalar]:
    """What the tuner chose where it counts most: the heaviest workload, of those the longest."""
    tuned = [m for m in parent.evaluation.measurements if m.parameters]
    return dict(max(tuned, key=lambda m: (m.weight, m.time_us)).parameters) if tuned else {}
