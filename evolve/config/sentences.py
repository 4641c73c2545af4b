"""What is wrong with a configuration, said so that it can be mended: the place, what was given, what was expected.

pydantic finds the faults; its own words are for programmers, and it does not know the line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from evolve.config.nodes import Node, Place, at, said
from evolve.config.tree import MEMBER_KEYS, NOT_KEYS, OPTIONS, MemberConfig, RunConfig

_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "mapping_type": "keys with values",
    "dict_type": "keys with values",
    "scalar": "a number, text, true or false",
    "finite_number": "a number that is finite",
}


_BRANCHES = ("bool", "int", "float", "str")


def unknown_key(origin: str, key: str, section: str, known: Iterable[str]) -> str:
    inside = f" in {section}" if section else ""
    return f'{origin}: unknown key "{key}"{inside}{nearest(key, known) or elsewhere(key)}'


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about a word that is not known: the nearest, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else ""


def elsewhere(key: str) -> str:
    """The right key in the wrong section is the other common slip."""
    for field in fields(RunConfig):
        section = _plain_type(get_type_hints(RunConfig)[field.name])
        if is_dataclass(section) and key in {f.name for f in fields(section)}:
            return f'; it belongs into {field.name}: write "{field.name}.{key}".'
    return "; remove it; configs/ shows the usual keys, `evolve run --dry-run` all of them."


def of_faults(error: ValidationError, root: Node, section: Place = ()) -> list[str]:
    """A sentence a fault; a union reports one a branch."""
    found: dict[Place, str] = {}
    for detail in error.errors(include_url=False):
        place = _within(root, (*section, *detail["loc"]))
        if place in found and detail["loc"][-1] in _BRANCHES:
            detail["type"] = "scalar"
            found[place] = _sentence(detail, place, root)
        found.setdefault(place, _sentence(detail, place, root))
    return list(found.values())


def _within(root: Node, place: Place) -> Place:
    """The part of a place that the file has: pydantic adds branches of unions and "[key]". A missing key stays."""
    kept: Place = ()
    for key in place:
        if at(root, (*kept, key)) is None:
            return (*kept, key) if key == place[-1] and key not in ("[key]", *_BRANCHES) else kept
        kept = (*kept, key)
    return kept


def _sentence(detail: ErrorDetails, place: Place, root: Node) -> str:
    node = at(root, place)
    origin = node.origin if node else (at(root, place[:-1]) or root).origin
    key, section = ".".join(map(str, place)), ".".join(map(str, place[:-1]))
    kind = detail["type"]
    if kind == "unexpected_keyword_argument":
        return unknown_key(origin, str(place[-1]), section, keys_of(root, place[:-1]))
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{origin}: {section or 'the file'} has no `{place[-1]}`, which it needs{_such_as(str(place[-1]))}."
    given = said(node) if node else "nothing"
    return f"{origin}: {key}: expected {_expected(detail)}, got {given}{_advice(detail, node)}"


def _expected(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _TYPES:
        return _TYPES[kind]
    if kind == "literal_error":
        return f"one of {str(context['expected']).replace(' or ', ', ').replace(chr(39), '')}"
    bounds = {
        "greater_than_equal": ("ge", "at least"),
        "less_than_equal": ("le", "at most"),
        "greater_than": ("gt", "more than"),
    }
    if kind in bounds:
        name, words = bounds[kind]
        return f"{words} {context[name]:g}"
    if kind == "too_short":
        return f"a list of at least {context['min_length']}"
    if kind == "string_too_short":
        return "some text"
    if kind == "dataclass_type":
        return "a section of keys with values"
    return detail["msg"][0].lower() + detail["msg"][1:]


def _advice(detail: ErrorDetails, node: Node | None) -> str:
    kind = detail["type"]
    if kind == "string_type" and node is not None and not isinstance(node.value, dict | list | None):
        return "; put it in quotes."
    if kind in ("int_type", "float_type") and node is not None and isinstance(node.value, str):
        return "; write the number without quotes or a unit."
    if kind == "tuple_type":
        return "; write [one, two], or one a line, each after a dash."
    if kind == "literal_error" and node is not None and isinstance(node.value, str):
        words = str(detail["ctx"]["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
        return nearest(node.value, words) or "."
    return "."


def _such_as(key: str) -> str:
    examples = {
        "problem": "`problem: evaluators/matmul.py`",
        "member": "`member: openai`",
        "model": "`model: gpt-5`",
        "command": "`command: [claude, -p]`",
        "replies": "`replies: [...]`",
        "run": "`run: runs/quickstart-001`",
        "params": "`params: {M: 4096, N: 4096, K: 4096}`",
        "name": "`name: large`",
    }
    return f", for example {examples[key]}" if key in examples else ""


def keys_of(root: Node, place: Place) -> Sequence[str]:
    """The keys that may stand at a place."""
    kind: Any = RunConfig
    for i, key in enumerate(place):
        if isinstance(key, int):
            continue  # an entry of a list is of the list's kind
        if kind is MemberConfig:
            kind = _options_type(root, place[:i])
        kind = _plain_type(get_type_hints(kind).get(key)) if is_dataclass(kind) else None
    if kind is MemberConfig:
        options = _options_type(root, place)
        return [*MEMBER_KEYS, *(f.name for f in fields(options))] if options else [*MEMBER_KEYS]
    return [f.name for f in fields(kind) if f.name not in NOT_KEYS] if is_dataclass(kind) else []


def _options_type(root: Node, place: Place) -> Any:
    node = at(root, (*place, "member"))
    return OPTIONS.get(node.value) if node is not None and isinstance(node.value, str) else None


def _plain_type(hint: Any) -> Any:
    """The dataclass inside `X | None`, `tuple[X, ...]` or `Annotated[X, ...]`, or the hint itself."""
    if is_dataclass(hint):
        return hint
    return next((found for part in get_args(hint) if is_dataclass(found := _plain_type(part))), hint)


def one_of(node: Node, key: str, known: Iterable[str], also: str = "") -> str:
    known = list(known)
    advice = nearest(str(node.value), known) or "."
    return f"{node.origin}: {key}: expected one of {', '.join(known)}{also}, got {said(node)}{advice}"
