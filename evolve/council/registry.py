"""From a member's name in YAML to its seat: a short name, or `package.module:Name`.

A factory is called with its options as keywords, its `name`, and of what the run knows (`workloads`, `folder`, ...)
whatever it has a parameter for. So a member of one's own is a class with the parameters that it needs and no more.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from evolve.council.command import CommandMember
from evolve.council.council import RULE, Seat
from evolve.council.mailbox import MailboxMember
from evolve.council.openai import OpenAIMember
from evolve.council.replay import ReplayMember
from evolve.council.scripted import ScriptedMember
from evolve.council.weights import Kinds
from evolve.errors import ConfigError
from evolve.types import NOTHING, Member, Workload

Factory = Callable[..., Member]


def rules(
    *,
    name: str,
    rules: Sequence[str] = (),
    workloads: Sequence[Workload] = (),
    target: str = "sm_90",
    triton: str = "",
    random_seed: int = 0,
    allows: frozenset[str] = frozenset(),
    repeat: float = 0.0,
    tuned: bool = False,
) -> Member:
    from evolve.council.rules import RulesMember  # brings libcst, which only a run with rules needs
    from evolve.rules import RULES

    known = {rule.name: rule for rule in RULES}
    for rule in rules:
        if rule not in known:
            raise ConfigError(f'council: member "{name}": no rule "{rule}"{_nearest(rule, known)}')
    chosen = [known[rule] for rule in rules] or list(RULES)
    return RulesMember(
        name=name,
        rules=chosen,
        workloads=workloads,
        target=target,
        triton=triton,
        random_seed=random_seed,
        allows=allows,
        repeat=repeat,
        tuned=tuned,
    )


def replay(*, name: str, run: str) -> Member:
    return ReplayMember.of_run(run, name=name)


SHIPPED: Mapping[str, Factory] = {
    "rules": rules,
    "openai": OpenAIMember,
    "command": CommandMember,
    "mailbox": MailboxMember,
    "scripted": ScriptedMember,
    "replay": replay,
}


def seat(
    member: str,
    *,
    name: str,
    weight: float = 1.0,
    kinds: Kinds = NOTHING,  # empty: what its like is asked for
    options: Any = NOTHING,  # a mapping, or a dataclass of options
    usual: Kinds = NOTHING,  # of members that read a prompt; empty: the council's own
    knows: Mapping[str, Any] = NOTHING,  # what the run knows: workloads, target, triton, random_seed, folder, slots
) -> Seat:
    """The member in its place. `usual` and `knows` are the run's, everything else its own."""
    made = make(member, name=name, options=options, knows=knows)
    chosen = kinds or getattr(made, "kinds", None) or ({RULE: 1.0} if member == "rules" else usual)
    return Seat(name=name, member=made, weight=weight, **({"kinds": dict(chosen)} if chosen else {}))


def make(member: str, *, name: str, options: Any = NOTHING, knows: Mapping[str, Any] = NOTHING) -> Member:
    factory = find(member)
    given = {f.name: getattr(options, f.name) for f in fields(options)} if is_dataclass(options) else dict(options)
    accepted = inspect.signature(factory).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    for option in given:
        if option not in accepted and not open_ended:
            raise ConfigError(f'council: member "{name}": unknown option "{option}"{_nearest(option, accepted)}')
    given |= {key: value for key, value in knows.items() if key in accepted and key not in given}
    for parameter in accepted.values():
        required = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL,
        )  # fmt: skip
        if required and parameter.name not in given and parameter.name != "name":
            raise ConfigError(f'council: member "{name}" ({member}) needs `{parameter.name}:`, which is not given.')
    if "name" in accepted or open_ended:
        given["name"] = name
    made = factory(**given)
    if not callable(getattr(made, "ask", None)):
        raise ConfigError(
            f'council: "{member}" made a {type(made).__name__}, which has no `ask`; see evolve.types.Member.'
        )
    return made


def find(member: str) -> Factory:
    if member in SHIPPED:
        return SHIPPED[member]
    module, colon, attribute = member.partition(":")
    if not colon:
        near = _nearest(member, SHIPPED)
        raise ConfigError(f'council: no member "{member}"{near} One of your own is named as package.module:Name.')
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise ConfigError(f'council: member "{member}": {module} cannot be imported: {error}.') from error
    except AttributeError as error:
        raise ConfigError(f'council: member "{member}": {error}; expected package.module:Name.') from error
    if not callable(found):
        raise ConfigError(f'council: member "{member}" is {found!r}; expected a class or a function.')
    factory: Factory = found
    return factory


def _nearest(given: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.6)
    return f'; did you mean "{near[0]}"?' if near else f"; expected one of {_listed(known)}."


def _listed(known: Mapping[str, Any]) -> str:
    return ", ".join(known)
