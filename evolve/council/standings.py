"""What became of each member's candidates: a fold over events, for the board, the bandit and the warnings.

A candidate improved if even the lower end of its interval lies above what its parent had: a gain within the noise is
none. Nothing here depends on a prompt's or a reply's text, which a replay leaves unread.
"""

from __future__ import annotations

from dataclasses import dataclass

from evolve.council.weights import Weights
from evolve.types import Asked, Candidate, Confirmed, Evaluation, Event, Judged, Noted, Replied, Verdict

ALL_IN_VAIN = 8  # replies, every one of them unreadable or empty, before it is said
DROUGHT = 20  # steps without a PASSED before it is said; then again when it has doubled


@dataclass
class Standing:
    """One member's account."""

    asked: int = 0
    replied: int = 0
    empty: int = 0
    unreadable: int = 0
    passed: int = 0
    improved: int = 0
    cost_usd: float = 0.0
    tokens: int = 0
    gpu_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Open:
    """A step whose verdict is out."""

    member: str
    kind: str
    cost_usd: float = 0.0


class Standings:
    def __init__(self, weights: Weights, seats: frozenset[str]) -> None:
        self.of: dict[str, Standing] = {}
        self._weights = weights
        self._seats = seats
        self._open: dict[int, _Open] = {}
        # Of every PASSED candidate: which of them will be a parent, only the population knows. 0.2 kB each.
        self._scores: dict[str, tuple[float, str]] = {}
        self._dry = 0
        self._warnings: dict[str, None] = {}

    def observe(self, event: Event) -> None:
        match event:
            case Asked():
                self._asked(event)
            case Replied():
                self._replied(event)
            case Judged():
                self._judged(event)
            case Confirmed():
                self._score(event.candidate_id, event.evaluation)
            case Noted():
                self._warnings.pop(event.text, None)  # a replay comes upon what was said the first time

    def warnings(self) -> list[str]:
        said, self._warnings = list(self._warnings), {}
        return said

    def _standing(self, member: str) -> Standing:
        return self.of.setdefault(member, Standing())

    def _asked(self, event: Asked) -> None:
        if event.step not in self._open:  # a step that is asked again after a crash is still one step
            self._standing(event.member).asked += 1
        self._open[event.step] = _Open(member=event.member, kind=event.prompt.kind)

    def _replied(self, event: Replied) -> None:
        reply, asked = event.reply, self._open.get(event.step)
        own = self._standing(reply.member)
        if asked and asked.member != reply.member:
            self._standing(asked.member).asked -= 1
            own.asked += 1
        own.replied += 1
        own.cost_usd += reply.cost_usd
        own.tokens += reply.tokens_in + reply.tokens_out
        kind = asked.kind if asked else ""
        self._open[event.step] = _Open(member=reply.member, kind=kind, cost_usd=reply.cost_usd)

    def _judged(self, event: Judged) -> None:
        candidate, evaluation = event.candidate, event.evaluation
        opened = self._open.pop(event.step, None)
        improved = candidate is not None and self._improved(candidate, evaluation)
        gpu = evaluation.seconds.get("gpu", 0.0)
        if opened and opened.member in self._seats:
            self._weights.learn(opened.member, opened.kind, improved=improved, usd=opened.cost_usd, gpu_seconds=gpu)
        member = opened.member if opened else candidate.member if candidate and candidate.kind != "seed" else None
        if member is not None:
            own = self._standing(member)
            own.passed += evaluation.passed
            own.improved += improved
            own.gpu_seconds += gpu
            own.unreadable += evaluation.verdict is Verdict.UNREADABLE
            own.empty += evaluation.verdict is Verdict.NO_REPLY
            self._warn_of_member(member, own)
        if candidate is not None:
            self._score(candidate.id, evaluation)
        self._warn_of_drought(evaluation)

    def _improved(self, candidate: Candidate, evaluation: Evaluation) -> bool:
        if not evaluation.passed:
            return False
        score, key = self._scores.get(candidate.parent_id or "", (0.0, evaluation.ranking_key))
        return key == evaluation.ranking_key and evaluation.score_low > score

    def _score(self, name: str, evaluation: Evaluation) -> None:
        if evaluation.passed:
            self._scores[name] = (evaluation.score, evaluation.ranking_key)
        else:
            self._scores.pop(name, None)

    def _warn_of_member(self, name: str, own: Standing) -> None:
        if own.replied < ALL_IN_VAIN or own.replied & (own.replied - 1):  # at 8, 16, 32, ...
            return
        if own.unreadable == own.replied:
            self._warnings[
                f'All {own.replied} replies of member "{name}" were UNREADABLE: look at one with `evolve show`; the '
                "model may not follow the format asked for, or be cut off by max_tokens."
            ] = None
        elif own.empty == own.replied:
            self._warnings[
                f'Member "{name}" was asked {own.replied} times and never gave a reply: `evolve show` has its reasons, '
                "`evolve doctor` looks at keys and addresses."
            ] = None

    def _warn_of_drought(self, evaluation: Evaluation) -> None:
        self._dry = 0 if evaluation.passed else self._dry + 1
        times, rest = divmod(self._dry, DROUGHT)
        if self._dry and not rest and not times & (times - 1):  # at 20, 40, 80, ...
            self._warnings[
                f"{self._dry} steps without a PASSED: the feedback of the last ones, in `evolve show --log`, says what "
                "stops them."
            ] = None
