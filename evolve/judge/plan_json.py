"""`Lowered` as JSON: what crosses the border between the jail and the judge.

One object a dataclass with exactly its fields by name (those with a default may be left out), arrays for tuples, pairs
as arrays of two. Reading is strict and bounded: unknown or repeated keys, wrong types (True is no integer, 1 is no
float), numbers beyond 64 bits and deep nesting are refused with their place. It says nothing about sense: whether a
view fits its storage or a kernel exists is for `gate.py`.
"""

from __future__ import annotations

import functools
import json
import types
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from evolve.judge.plan import Lowered

MAX_CHARS = 64 * 1024 * 1024
MAX_ITEMS = 20_000  # in one array or object
MAX_NAME = 1_000  # characters of any text but a module's
MAX_MODULE = 4 * 1024 * 1024


class PlanError(ValueError):
    """The text is not the JSON of a `Lowered`; the message says where."""


def encode(lowered: Lowered) -> str:
    return json.dumps(asdict(lowered), separators=(",", ":"))


def decode(text: str) -> Lowered:
    if len(text) > MAX_CHARS:
        raise PlanError(f"{len(text)} characters of JSON; at most {MAX_CHARS} are read.")
    try:
        raw = json.loads(text, object_pairs_hook=_unique)
    except RecursionError as error:
        raise PlanError("JSON nested too deeply.") from error
    except ValueError as error:
        raise PlanError(f"not JSON: {error}") from error
    lowered = _read(Lowered, raw, "plan")
    assert isinstance(lowered, Lowered)
    return lowered


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise PlanError("an object names a key twice.")
    return found


def _read(kind: Any, raw: Any, where: str) -> Any:
    """`raw` as `kind`, where kind is a dataclass, a scalar type or one of the few generics that plan.py uses."""
    origin = get_origin(kind)
    if is_dataclass(kind):
        return _object(kind, raw, where)
    if origin is tuple:
        return _tuple(get_args(kind), raw, where)
    if origin in (Union, types.UnionType):
        return _union(get_args(kind), raw, where)
    if origin is Literal:
        if isinstance(raw, str) and raw in get_args(kind):
            return raw
        raise PlanError(f"{where}: {_shown(raw)} is none of {', '.join(map(repr, get_args(kind)))}.")
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _modules(raw, where)
    return _scalar(kind, raw, where)


def _object(kind: Any, raw: Any, where: str) -> Any:
    if not isinstance(raw, dict):
        raise PlanError(f"{where}: {_shown(raw)} is no {kind.__name__} object.")
    hints = _hints(kind)
    known = {f.name: f for f in fields(kind)}
    unknown = sorted(set(raw) - set(known))
    missing = sorted(n for n, f in known.items() if n not in raw and f.default is MISSING)
    if unknown or missing:
        wrong = f"unknown key {unknown[0][:80]!r}" if unknown else f"no key {missing[0]!r}"
        raise PlanError(f"{where}: {wrong}; a {kind.__name__} has {', '.join(known)}.")
    return kind(**{name: _read(hints[name], value, f"{where}.{name}") for name, value in raw.items()})


@functools.cache
def _hints(kind: type) -> Mapping[str, Any]:
    return get_type_hints(kind)


def _tuple(kinds: tuple[Any, ...], raw: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(raw, list):
        raise PlanError(f"{where}: {_shown(raw)} is no array.")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        if len(raw) > MAX_ITEMS:
            raise PlanError(f"{where}: {len(raw)} items; at most {MAX_ITEMS} are read.")
        return tuple(_read(kinds[0], item, f"{where}[{i}]") for i, item in enumerate(raw))
    if len(raw) != len(kinds):
        raise PlanError(f"{where}: {len(raw)} items where {len(kinds)} belong.")
    return tuple(_read(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, raw, strict=True)))


def _union(kinds: tuple[Any, ...], raw: Any, where: str) -> Any:
    """A View has a root and a Descriptor a view; everything else in a union is told apart by its JSON type."""
    if isinstance(raw, dict):
        for kind in kinds:
            if is_dataclass(kind) and all(f.name in raw for f in fields(kind) if f.default is MISSING):
                return _read(kind, raw, where)
    elif raw is None and type(None) in kinds:
        return None
    elif type(raw) in kinds:
        return _scalar(type(raw), raw, where)
    raise PlanError(f"{where}: {_shown(raw)} is none of {', '.join(getattr(k, '__name__', str(k)) for k in kinds)}.")


def _modules(raw: Any, where: str) -> dict[str, str]:
    if not isinstance(raw, dict) or len(raw) > MAX_ITEMS:
        raise PlanError(f"{where}: {_shown(raw)} is no object of texts.")
    for name, text in raw.items():
        _scalar(str, name, where)
        if not isinstance(text, str) or len(text) > MAX_MODULE or not _clean(text):
            raise PlanError(f"{where}: module {name!r} is no text of at most {MAX_MODULE} characters.")
    return raw


def _scalar(kind: Any, raw: Any, where: str) -> Any:
    if type(raw) is not kind:
        raise PlanError(f"{where}: {_shown(raw)} is no {kind.__name__}.")
    if kind is int and not -(1 << 63) <= raw < 1 << 64:
        raise PlanError(f"{where}: a number of more than 64 bits.")
    if kind is str and (len(raw) > MAX_NAME or not _clean(raw)):
        raise PlanError(f"{where}: {_shown(raw)} is too long or is no text.")
    return raw


def _clean(text: str) -> bool:
    """No lone surrogates: they could be neither hashed nor written."""
    return not any("\ud800" <= char <= "\udfff" for char in text) if not text.isascii() else True


def _shown(raw: Any) -> str:
    text = repr(raw) if not isinstance(raw, dict | list) else f"{type(raw).__name__} of {len(raw)}"
    return text if len(text) <= 80 else text[:77] + "..."
