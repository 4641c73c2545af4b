"""A RunConfig back into text: the YAML that a run keeps, and the rows that a dry run shows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any

import yaml

from evolve.config.text import scalar
from evolve.config.tree import MEMBER_KEYS, NOT_KEYS, MemberConfig, RunConfig


def dump(config: RunConfig) -> str:
    """Every key as YAML. Loading it gives an equal RunConfig, whatever the defaults of a later version."""
    return yaml.dump(plain(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def plain(config: RunConfig) -> dict[str, Any]:
    """The configuration as the YAML would hold it, with every default."""
    return {k: v for k, v in _plain(config).items() if k not in NOT_KEYS}


def flat(config: RunConfig) -> Iterator[tuple[str, Any, str]]:
    """Every key, dotted, with value and origin."""
    for key, value in _leaves((), plain(config)):
        yield key, value, config.origins.get(key, "default")


def _plain(value: Any) -> Any:
    if isinstance(value, MemberConfig):
        own = {k: _plain(getattr(value, k)) for k in MEMBER_KEYS}
        return own | _plain(value.options)
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def _leaves(place: tuple[str, ...], value: Any) -> Iterator[tuple[str, Any]]:
    """Lists of plain values are one leaf; lists of sections are not."""
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from _leaves((*place, str(key)), child)
    elif isinstance(value, list) and any(isinstance(v, dict) for v in value):
        for i, child in enumerate(value):
            yield from _leaves((*place, str(i)), child)
    else:
        yield ".".join(place), value


class _Dumper(yaml.SafeDumper):
    """Text that our reader would take for a number, a flag or nothing is quoted; anchors are never written."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if isinstance(scalar(text), str) else "'"
    style = style if text.isprintable() else '"'  # PyYAML writes some line ends bare that it reads as spaces
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _number(dumper: yaml.SafeDumper, number: float) -> yaml.ScalarNode:
    assert math.isfinite(number)
    text = repr(number)
    return dumper.represent_scalar("tag:yaml.org,2002:float", text if "." in text else text.replace("e", ".0e"))


_Dumper.add_representer(str, _text)
_Dumper.add_representer(float, _number)
