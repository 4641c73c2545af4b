"""How much a run may use: steps, dollars, tokens, wall time, GPU seconds, and patience.

A fold over events, so a resumed run counts what was spent. What is in flight counts too, at the running mean of what
its kind has cost, so that eight asks at once do not overshoot by eight; what is paid for is always kept and judged.

Wall time is the sum of the run's sessions, each from its started or resumed note to its last event: whoever replays a
journal passes `at`, the time at which it was committed, and a session that was killed counts like any other. Live
events are taken at the clock's time, which must therefore be the journal's: seconds since 1970.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from evolve.types import Asked, Confirmed, Evaluation, Event, Judged, Noted, Replied


@dataclass
class Mean:
    """A running mean; of nothing it is 0."""

    count: int = 0
    total: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        self.total += value

    @property
    def value(self) -> float:
        return self.total / self.count if self.count else 0.0


@dataclass
class Costs:
    """Of one member's replies."""

    usd: Mean
    tokens: Mean


class Budget:
    def __init__(
        self,
        *,
        steps: int | None = None,
        usd: float | None = None,
        tokens: int | None = None,
        seconds: float | None = None,
        gpu_seconds: float | None = None,
        patience: int | None = None,  # steps without a better best
        threshold: float = 0.001,  # what counts as better, in score
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.limits: dict[str, float | None] = {
            "steps": steps, "usd": usd, "tokens": tokens, "seconds": seconds, "gpu_seconds": gpu_seconds,
            "patience": patience,
        }  # fmt: skip
        self.threshold = threshold
        self._clock = clock
        self._asked: dict[int, str] = {}  # step -> member, until it replies
        self._replied: set[int] = set()  # until judged
        self._begun = 0
        self._costs: dict[str, Costs] = {}
        self._gpu = Mean()  # a judged step
        self._confirming = 0.0  # GPU seconds of confirmations
        self._carried = 0.0  # wall time of earlier sessions
        self._session: float | None = None
        self._last = 0.0
        self._best: tuple[str, float, str] | None = None  # id, score, ranking key
        self._since_best = 0

    # --- The fold -------------------------------------------------------------------------------------------------

    def observe(self, event: Event, at: float | None = None) -> None:
        self._keep_time(event, self._clock() if at is None else at)
        match event:
            case Asked():
                # Asked again, after a crash or for something new: still one step.
                self._begun += event.step not in self._asked and event.step not in self._replied
                self._replied.discard(event.step)
                self._asked[event.step] = event.member
            case Replied():
                self._pay(event)
            case Judged():
                self._judged(event)
            case Confirmed():
                self._confirming += event.evaluation.seconds.get("gpu", 0.0)
                if self._best and self._best[0] == event.candidate_id:
                    self._best = (event.candidate_id, event.evaluation.score, self._best[2])
            case Noted():
                pass

    def _keep_time(self, event: Event, at: float) -> None:
        if isinstance(event, Noted) and event.what in ("started", "resumed"):
            if self._session is not None:
                self._carried += max(0.0, self._last - self._session)
            self._session = at
        self._last = max(self._last, at)

    def _pay(self, event: Replied) -> None:
        self._asked.pop(event.step, None)
        self._replied.add(event.step)
        own = self._costs.setdefault(event.reply.member, Costs(Mean(), Mean()))
        own.usd.add(event.reply.cost_usd)
        own.tokens.add(event.reply.tokens_in + event.reply.tokens_out)

    def _judged(self, event: Judged) -> None:
        known = event.step in self._asked or event.step in self._replied
        self._asked.pop(event.step, None)
        self._replied.discard(event.step)
        candidate, evaluation = event.candidate, event.evaluation
        if candidate is None or candidate.kind != "seed":
            self._begun += not known  # a step that someone proposed unasked
            self._since_best += 1
        self._gpu.add(evaluation.seconds.get("gpu", 0.0))
        if candidate is not None and evaluation.passed and self._better(evaluation):
            self._best = (candidate.id, evaluation.score, evaluation.ranking_key)
            self._since_best = 0

    def _better(self, evaluation: Evaluation) -> bool:
        if self._best is None or self._best[2] != evaluation.ranking_key:
            return True
        return evaluation.score > self._best[1] + self.threshold

    # --- What is used ---------------------------------------------------------------------------------------------

    @property
    def wall_seconds(self) -> float:
        now = 0.0 if self._session is None else max(0.0, self._clock() - self._session)
        return self._carried + now

    def used(self) -> Mapping[str, float]:
        """Spent, and expected of what is in flight."""
        open_steps = len(self._asked) + len(self._replied)
        return {
            "steps": float(self._begun),
            "usd": sum(c.usd.total + c.usd.value * n for c, n in self._in_flight()),
            "tokens": sum(c.tokens.total + c.tokens.value * n for c, n in self._in_flight()),
            "seconds": self.wall_seconds,
            "gpu_seconds": self._gpu.total + self._gpu.value * open_steps + self._confirming,
            "patience": float(self._since_best),
        }

    def _in_flight(self) -> list[tuple[Costs, int]]:
        """Each member's costs, with how many of its replies are awaited."""
        waiting = list(self._asked.values())
        return [(costs, waiting.count(member)) for member, costs in self._costs.items()]

    def spent(self) -> str | None:
        """Why no further step may begin, or None."""
        used = self.used()
        for name, limit in self.limits.items():
            if limit is not None and used[name] >= limit:
                return self._sentence(name, limit, used[name])
        return None

    def _sentence(self, name: str, limit: float, used: float) -> str:
        if name == "patience":
            return f"{limit:.0f} steps brought nothing better by more than {self.threshold:g}"
        flying = len(self._asked) + len(self._replied)
        expected = name in ("usd", "tokens", "gpu_seconds") and flying
        rest = f": {_amount(name, used)}, what {flying} in flight will cost included" if expected else ""
        return f"the budget of {_amount(name, limit)} is used up{rest}"

    def left(self) -> Mapping[str, str]:
        """What is left of each limit, for display."""
        used = self.used()
        return {
            _TITLES.get(name, name): _amount(name, max(0.0, limit - used[name])).removesuffix(f" {name}")
            for name, limit in self.limits.items()
            if limit is not None
        }


_TITLES = {"usd": "dollars", "seconds": "time", "gpu_seconds": "GPU time"}


def _amount(name: str, amount: float) -> str:
    match name:
        case "usd":
            return f"${amount:.2f}"
        case "seconds" | "gpu_seconds":
            return _time(amount) + (" of GPU time" if name == "gpu_seconds" else "")
        case _:
            return f"{amount:,.0f} {name}"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
