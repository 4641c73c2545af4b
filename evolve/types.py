"""The nouns of evolve: what is proposed, judged and remembered.

Standard library only, frozen and keyword-only, so that every room can share them and none can change another's
facts. What they deliberately leave out: how anything is stored (journal), chosen (population) or measured (judge).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeAlias

Scalar: TypeAlias = bool | int | float | str
# What evidence may hold: anything that `json.dumps` writes. It is written once and read by people.
Json: TypeAlias = Any

Role = Literal["check", "time", "held_out"]
Mode = Literal["cold", "weights_cold", "hot"]

NOTHING: Mapping[str, Any] = MappingProxyType({})  # a default for functions; fields make their own dict


class Verdict(StrEnum):
    """What became of a step. Only PASSED breeds; the order is the order of the stages that say it."""

    NO_REPLY = "NO_REPLY"
    UNREADABLE = "UNREADABLE"
    DUPLICATE = "DUPLICATE"
    REJECTED = "REJECTED"
    BUILD_ERROR = "BUILD_ERROR"
    RUNTIME_ERROR = "RUNTIME_ERROR"
    TIMEOUT = "TIMEOUT"
    INCORRECT = "INCORRECT"
    IMPOSSIBLE = "IMPOSSIBLE"
    PASSED = "PASSED"


def digest_of(text: str) -> str:
    """The content's name: 16 hex digits are enough for billions of candidates."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """One set of sizes, dtype and flags, and what it is for."""

    name: str
    params: Mapping[str, Scalar]
    role: Role = "time"
    mode: Mode = "cold"
    weight: float = 1.0

    def __getitem__(self, key: str) -> Any:
        """`workload["M"]`: problems read their sizes this way."""
        return self.params[key]


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One source file that the judge can rule on, and where it came from."""

    step: int
    source: str
    member: str
    kind: str  # the edit kind: "seed", "rule", "diff", "rewrite", "crossover", "fix", "explore", "draft"
    parent_id: str | None = None
    inspiration_ids: tuple[str, ...] = ()
    island: int = 0
    generation: int = 0  # distance from the seed in the lineage, never the step
    hypothesis: str = ""
    prediction: str = ""  # which quantity should move, and by how much: held against what the judge finds
    matched: str = ""  # how the reply's edit was found in its parent: "exact", "white space", "fuzzy", "rewrite"
    digest: str = field(default="")

    def __post_init__(self) -> None:
        if not self.digest:
            object.__setattr__(self, "digest", digest_of(self.source))

    @property
    def id(self) -> str:
        return f"{self.step:05d}-{self.digest[:8]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One timed workload. `ratio` is baseline time over candidate time: above 1 is faster."""

    workload: str
    baseline: str
    time_us: float
    ratio: float
    ratio_low: float
    ratio_high: float
    weight: float = 1.0
    samples: int = 1
    parameters: Mapping[str, Scalar] = field(default_factory=dict)  # what the tuner chose
    eager_us: float | None = None
    modelled: bool = False  # never rank a modelled time beside a measured one
    quick: bool = False  # few samples, taken to see that it cannot win: the interval is wide and holds all the same

    def __post_init__(self) -> None:
        figures = (self.time_us, self.ratio, self.ratio_low, self.ratio_high)
        if not all(math.isfinite(f) and f > 0 for f in figures):
            raise ValueError(
                f"measurement of {self.workload}: times and ratios must be finite and positive, got {figures}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What the judge found, complete enough that nothing is left to doubt."""

    verdict: Verdict
    feedback: str = ""  # for the council: why, and what to do
    stage: str = ""  # the stage that gave the verdict
    measurements: tuple[Measurement, ...] = ()
    traits: Mapping[str, Scalar] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)  # workload -> worst error over its bound
    evidence: Mapping[str, Json] = field(default_factory=dict)
    digests: tuple[str, ...] = ()  # "ast:...", "plan:...", "sass:...": for finding the same candidate again
    ranking_key: str = ""  # scores of different keys are never compared
    seconds: Mapping[str, float] = field(default_factory=dict)  # by stage; "gpu" is time under the GPU's lease
    beats_incumbent: bool = False  # the judge's word that its interval clears the incumbent by more than noise

    def __post_init__(self) -> None:
        if (self.verdict is Verdict.PASSED) != bool(self.measurements):
            raise ValueError(f"{self.verdict}: a PASSED evaluation has measurements and no other verdict does")

    @property
    def passed(self) -> bool:
        return self.verdict is Verdict.PASSED

    @property
    def parameters(self) -> Mapping[str, Mapping[str, Scalar]]:
        """At what each workload was timed: what a confirmation judges again, and a child's tuner starts from."""
        return {m.workload: m.parameters for m in self.measurements if m.parameters}

    @property
    def modelled(self) -> bool:
        return any(m.modelled for m in self.measurements)

    @property
    def quick(self) -> bool:
        return any(m.quick for m in self.measurements)

    @property
    def score(self) -> float:
        """Weighted geometric-mean speed-up over the baseline; 0 unless PASSED. Defined here and nowhere else."""
        return self._mean([m.ratio for m in self.measurements])

    @property
    def score_low(self) -> float:
        """The score with every workload at its interval's lower end: a bound on the cautious side."""
        return self._mean([m.ratio_low for m in self.measurements])

    @property
    def score_high(self) -> float:
        return self._mean([m.ratio_high for m in self.measurements])

    def _mean(self, ratios: list[float]) -> float:
        total = sum(m.weight for m in self.measurements)
        if not ratios or total <= 0:
            return 0.0
        return math.exp(sum(m.weight * math.log(r) for m, r in zip(self.measurements, ratios, strict=True)) / total)


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """A candidate with its evaluation: what breeds, inspires, or warns."""

    candidate: Candidate
    evaluation: Evaluation

    @property
    def id(self) -> str:
        return self.candidate.id

    @property
    def score(self) -> float:
        return self.evaluation.score


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """What one step has to work with. No parent means: draft from the reference."""

    step: int
    island: int
    parent: Attempt | None = None
    inspirations: tuple[Attempt, ...] = ()
    failures: tuple[Attempt, ...] = ()  # recent failed children of the parent
    lessons: tuple[str, ...] = ()
    ranking_key: str = ""  # for which it was drawn; empty: the run's own

    def asked(self, member: str, prompt: Prompt) -> Asked:
        """What goes on record of it: lessons stand in the prompt."""
        return Asked(
            step=self.step,
            member=member,
            prompt=prompt,
            island=self.island,
            parent_id=self.parent.id if self.parent else None,
            inspiration_ids=tuple(i.id for i in self.inspirations),
            failure_ids=tuple(f.id for f in self.failures),
            ranking_key=self.ranking_key,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    system: str
    user: str
    kind: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """A member's answer. Empty text is NO_REPLY, and `finish_reason` says why."""

    member: str
    text: str
    model: str = ""
    hypothesis: str = ""
    finish_reason: str = "stop"
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One order to the judge. `known` maps digests of judged candidates to their ids."""

    candidate: Candidate
    incumbent: Attempt | None = None
    parent: Evaluation | None = None
    mode: Literal["judge", "confirm"] = "judge"
    known: Mapping[str, str] = field(default_factory=dict)
    random_seeds: tuple[int, ...] = ()
    # Where it is to be judged, if that can be had: scores of different keys are never compared. Empty: anywhere.
    ranking_key: str = ""
    incumbents: Mapping[str, Attempt] = field(default_factory=dict)  # by ranking key; whoever judges takes its own
    peers: int = 1  # GPUs of its kind in this run: each counts what it timed itself, and luck grows with all of it
    # By workload: a candidate that was judged before is judged at these again, and no tuner chooses others.
    parameters: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)


# --- What happened, in commit order. The journal is the list of these, and every state is a fold over it. -----------


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A member was given a prompt. Committed before the member sees it."""

    step: int
    member: str
    prompt: Prompt
    island: int = 0
    parent_id: str | None = None
    inspiration_ids: tuple[str, ...] = ()
    failure_ids: tuple[str, ...] = ()
    ranking_key: str = ""  # where its candidate is to be judged; empty: by the run's own kind of GPU


@dataclass(frozen=True, kw_only=True, slots=True)
class Replied:
    """A member answered, or failed to. What it cost is spent from here on."""

    step: int
    reply: Reply


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A step has its verdict. NO_REPLY and UNREADABLE have no candidate."""

    step: int
    evaluation: Evaluation
    candidate: Candidate | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Confirmed:
    """A would-be best was measured again, fresh; this figure replaces the first."""

    step: int
    candidate_id: str
    evaluation: Evaluation


@dataclass(frozen=True, kw_only=True, slots=True)
class Noted:
    """Anything else worth remembering: started, resumed, interrupted, finished, a member resting, a warning."""

    what: str
    text: str
    data: Mapping[str, Json] = field(default_factory=dict)
    step: int | None = None


Event: TypeAlias = Asked | Replied | Judged | Confirmed | Noted


# --- Seams: chosen in YAML by short name or `package.module:Name`. Each has a fake and a contract suite. ------------


class Member(Protocol):
    """Who proposes. `ask` returns a reply even when it fails (empty text, `finish_reason` says why); it raises
    `MemberUnavailable` only when asking was pointless, so that the council asks another. It must bear cancellation
    at any await, and several asks at once. One with something to let go at a run's end has an `async def close()`."""

    @property
    def name(self) -> str: ...

    async def ask(self, draw: Draw, prompt: Prompt) -> Reply: ...


class Executor(Protocol):
    """Where judging happens. `evaluate` never raises for a candidate's fault; `MachineryError` means that the judge
    itself broke and the candidate has no verdict yet. `close` leaves no process behind and may be called twice."""

    async def evaluate(self, job: Job) -> Evaluation: ...

    def close(self) -> None: ...
