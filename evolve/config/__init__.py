"""RunConfig: one strict YAML file a run, a superset of OpenEvolve's keys.

`tree.py` has every key with its default, `text.py` reads YAML, `openevolve.py` knows the other vocabulary,
`sentences.py` and `contradictions.py` say what is wrong, `load.py` puts them in order, `dump.py` writes. What a key
does is told where it is used; whether a problem, a GPU or a member can be had is not asked here.
"""

from evolve.config.dump import dump, flat, plain
from evolve.config.load import load_config, parse_config
from evolve.config.tree import (
    OPTIONS,
    BudgetConfig,
    CommandOptions,
    ConcurrencyConfig,
    DatabaseConfig,
    EvaluatorConfig,
    MailboxOptions,
    MemberConfig,
    OpenAIOptions,
    Price,
    PromptConfig,
    RayConfig,
    ReplayOptions,
    RulesOptions,
    RunConfig,
    ScriptedOptions,
    TunerConfig,
)

__all__ = [
    "OPTIONS",
    "BudgetConfig",
    "CommandOptions",
    "ConcurrencyConfig",
    "DatabaseConfig",
    "EvaluatorConfig",
    "MailboxOptions",
    "MemberConfig",
    "OpenAIOptions",
    "Price",
    "PromptConfig",
    "RayConfig",
    "ReplayOptions",
    "RulesOptions",
    "RunConfig",
    "ScriptedOptions",
    "TunerConfig",
    "dump",
    "flat",
    "load_config",
    "parse_config",
    "plain",
]
