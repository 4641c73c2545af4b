"""RunConfig: every key of a run's YAML with its type, its bounds and its default, in one tree.

Where OpenEvolve 0.4 has a key for the same thing, the key has its name and place (`openevolve.py` lists the rest).
How a file becomes this tree is `load.py`'s affair, and what a key sets in motion is told where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import ConfigDict, Strict

from evolve.types import Workload

# Strict, because pydantic would otherwise read `true` as 1 and "7" as 7, and a slip in the YAML would pass in silence.
Whole: TypeAlias = Annotated[int, Strict()]
Count: TypeAlias = Annotated[int, Strict(), Ge(1)]
Number: TypeAlias = Annotated[float, Strict(), Gt(0)]
Amount: TypeAlias = Annotated[float, Strict(), Ge(0)]
Share: TypeAlias = Annotated[float, Strict(), Ge(0), Le(1)]
Flag: TypeAlias = Annotated[bool, Strict()]
Text: TypeAlias = Annotated[str, MinLen(1)]

OPENAI_API = "https://api.openai.com/v1"
EDIT_KINDS = ("diff", "rewrite", "crossover", "fix", "explore", "draft", "rule")
TARGETS = ("sm_80", "sm_89", "sm_90", "sm_100", "gfx942")
BACKENDS = ("auto", "gpu", "cpu", "fake")
EXECUTORS = ("local", "ray")


# Unknown keys are refused, and no number is infinite.
FORBID = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    usd_per_million_in: Amount
    usd_per_million_out: Amount


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenAIOptions:
    """Any OpenAI-compatible endpoint."""

    __pydantic_config__: ClassVar[ConfigDict] = FORBID
    model: Text
    api_base: Text = OPENAI_API
    # The environment variable that holds the key; the key itself is never written down. Filled in with
    # OPENAI_API_KEY at OpenAI's own address only, so that the key is never sent to another host unasked.
    api_key_env: Text | None = None
    temperature: Amount | None = None  # None: the endpoint's own default; reasoning models refuse any other
    top_p: Share | None = None
    max_tokens: Count = 16384  # a whole file, and the thoughts of a reasoning model before it
    reasoning_effort: Text | None = None
    extra_body: Mapping[str, Any] = field(default_factory=dict)  # sent along as it is
    timeout: Number = 300.0  # seconds of wall clock for one call, its retries included
    retries: Annotated[int, Strict(), Ge(0)] = 3
    retry_delay: Amount = 2.0  # seconds before the first retry; doubled each time, unless the server says when
    price: Price | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandOptions:
    """A program per prompt: prompt on its standard input, reply on its standard output."""

    __pydantic_config__: ClassVar[ConfigDict] = FORBID
    command: Annotated[tuple[Text, ...], MinLen(1)]
    timeout: Number = 900.0  # seconds; then it is killed with its children
    environment: tuple[Text, ...] = ()  # names of variables that it gets beside PATH, HOME and the like
    usd_per_call: Amount | None = None  # what a call is charged; a budget in dollars needs it, 0 where it is free


@dataclass(frozen=True, kw_only=True, slots=True)
class MailboxOptions:
    """Each prompt is a file in the run's folder; whoever wants writes the reply beside it."""

    __pydantic_config__: ClassVar[ConfigDict] = FORBID
    timeout: Number | None = None  # seconds to wait for a reply; None: for ever, the others go on meanwhile


@dataclass(frozen=True, kw_only=True, slots=True)
class RulesOptions:
    """Rewrite rules: no key, no network, no cost."""

    __pydantic_config__: ClassVar[ConfigDict] = FORBID
    rules: tuple[Text, ...] = ()  # the names of those to use; empty: all


@dataclass(frozen=True, kw_only=True, slots=True)
class ScriptedOptions:
    """Prepared replies, in order."""

    __pydantic_config__: ClassVar[ConfigDict] = FORBID
    replies: Annotated[tuple[str, ...], MinLen(1)]
    seconds: Amount = 0.0  # that each takes
    cost_usd: Amount = 0.0  # that each is said to cost
    tokens: Annotated[int, Strict(), Ge(0)] = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayOptions:
    """The replies of an earlier run, for nothing."""

    __pydantic_config__: ClassVar[ConfigDict] = FORBID
    run: Text


Options: TypeAlias = (
    OpenAIOptions | CommandOptions | MailboxOptions | RulesOptions | ScriptedOptions | ReplayOptions | Mapping[str, Any]
)

OPTIONS: Mapping[str, type[Any]] = {
    "openai": OpenAIOptions,
    "command": CommandOptions,
    "mailbox": MailboxOptions,
    "rules": RulesOptions,
    "scripted": ScriptedOptions,
    "replay": ReplayOptions,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class MemberConfig:
    """One member of the council. In YAML its options stand beside the other keys."""

    member: Text  # one of OPTIONS, or `package.module:Name`, which is called with its options as keywords
    name: Text  # what candidates call it; made from member or model when not given
    weight: Amount = 1.0
    kinds: Mapping[str, Amount] = field(default_factory=dict)  # edit kind -> weight; empty: prompt.kinds
    options: Any = field(default_factory=RulesOptions)  # an `Options`, checked by its own type


MEMBER_KEYS = ("member", "name", "weight", "kinds")  # the rest of a member's keys are its options


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetConfig:
    """A run stops at the first limit reached. A loaded configuration has at least one."""

    steps: Count | None = None
    usd: Number | None = None
    tokens: Count | None = None
    seconds: Number | None = None  # of wall clock; `hours` in YAML is the same in hours
    gpu_seconds: Number | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ConcurrencyConfig:
    replies: Count = 8  # calls to members at once
    cpu: Count | None = None  # processes that lower and build; None: one a core
    # Steps at once; None: as many as cpu, at most 4 of it, and the replies beside them if members take time. 1 makes a
    # run repeatable to the event.
    steps: Count | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluatorConfig:
    timeout: Number = 300.0  # seconds of wall clock for all of one candidate's judgement


@dataclass(frozen=True, kw_only=True, slots=True)
class DatabaseConfig:
    """The population."""

    population_size: Annotated[int, Strict(), Ge(1), Le(1000)] = 1000  # live candidates; beyond, asking gets slow
    archive_size: Count = 100
    num_islands: Count = 5
    exploration_ratio: Share = 0.2  # draws a parent at random,
    exploitation_ratio: Share = 0.7  # from the archive; what is left of 1 by score
    elite_selection_ratio: Share = 0.1  # of the inspirations
    migration_interval: Count = 50  # generations
    migration_rate: Share = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptConfig:
    template_dir: str | None = None  # a template in it replaces the shipped one of the same name
    max_chars: Annotated[int, Strict(), Ge(4000)] = 60_000  # of the user's part; the least useful goes first
    num_top_programs: Annotated[int, Strict(), Ge(0)] = 1  # inspirations by score
    num_diverse_programs: Annotated[int, Strict(), Ge(0)] = 2  # inspirations from other cells
    kinds: Mapping[str, Amount] = field(
        default_factory=lambda: {"diff": 5.0, "rewrite": 2.0, "crossover": 1.0, "fix": 1.0, "explore": 1.0}
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TunerConfig:
    # auto: with a GPU, where points are built while others use it. Without one every point is a build and no more, so
    # that tuning every candidate takes longer than all the rest of a run.
    enabled: Flag | Literal["auto"] = False
    points: Count = 40  # at most, a workload of one candidate
    seconds: Number = 60.0  # at most, all workloads of one candidate; a run repeats to the event only below it
    gpu_seconds: Number = 4.0  # at most under the GPU's lease, all workloads of one candidate


@dataclass(frozen=True, kw_only=True, slots=True)
class RayConfig:
    address: Text | None = None  # "auto", host:port; None: a Ray of its own on this machine


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    __pydantic_config__: ClassVar[ConfigDict] = FORBID

    problem: Text  # a Python file with PROBLEM in it
    variant: Text | None = None  # None: the problem's first
    workloads: tuple[Workload, ...] = ()  # the user's own timing list in the problem's place
    seeds: tuple[Text, ...] = ()  # files, or RUN:ID; empty: the council drafts from the reference
    strategy: Literal["evolution", "best_of_n"] = "evolution"
    random_seed: Whole = 42
    backend: Text = "auto"  # auto: the GPU if there is one. Or `package.module:Name`
    executor: Text = "local"  # or ray, or `package.module:Name`
    target: Literal["sm_80", "sm_89", "sm_90", "sm_100", "gfx942"] = "sm_90"  # what the cpu backend builds for
    council: tuple[MemberConfig, ...] = (MemberConfig(member="rules", name="rules"),)
    weights: Literal["fixed", "adaptive"] = "fixed"
    # While nobody who reads a prompt can be asked: wait until one comes back, or let rules take the step.
    when_resting: Literal["wait", "rules"] = "wait"
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    early_stopping_patience: Count | None = None  # steps without a better best, after which a run ends
    convergence_threshold: Amount = 0.001  # what counts as better, in score
    concurrency: ConcurrencyConfig = field(default_factory=ConcurrencyConfig)
    evaluator: EvaluatorConfig = field(default_factory=EvaluatorConfig)
    database: DatabaseConfig = field(default_factory=DatabaseConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    tuner: TunerConfig = field(default_factory=TunerConfig)
    ray: RayConfig = field(default_factory=RayConfig)

    # How it came to be: not keys of the YAML, and no part of what a configuration equals.
    source: str = field(default="", compare=False)
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)  # dotted key -> origin
    warnings: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @property
    def name(self) -> str:
        """What its runs are called: `runs/<name>-NNN`."""
        return PurePath(self.source).stem or "run"


NOT_KEYS = ("source", "origins", "warnings")
