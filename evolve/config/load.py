"""A configuration from its file.

The order matters: the file, then `--set`, then OpenEvolve's keys into ours, then types, then what no type can say.
Paths are looked for in the current folder first, then beside the file and in the two folders above it, so that a config
finds the repository's problems from anywhere, and a run folder's copy of it still does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from evolve.config.contradictions import contradictions
from evolve.config.nodes import Node, Place, at, put
from evolve.config.openevolve import fold
from evolve.config.sentences import of_faults, one_of, unknown_key
from evolve.config.text import read_file, read_override, read_text
from evolve.config.tree import (
    BACKENDS,
    EDIT_KINDS,
    EXECUTORS,
    MEMBER_KEYS,
    NOT_KEYS,
    OPENAI_API,
    OPTIONS,
    RunConfig,
)
from evolve.errors import ConfigError

_CANDIDATE = re.compile(r"[^:\s]+:[^:\s]+")
_CLASS = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def load_config(path: str | Path, overrides: Sequence[str] = (), *, check_files: bool = True) -> RunConfig:
    """The configuration in a YAML file with `--set` overrides, or ConfigError with a sentence for each fault.

    `check_files=False` is for whoever only looks at a run, perhaps on a machine without its problem."""
    return _finish(read_file(Path(path)), str(path), overrides, check_files)


def parse_config(text: str, name: str, overrides: Sequence[str] = (), *, check_files: bool = True) -> RunConfig:
    """The same from text; `name` is what errors call it."""
    return _finish(read_text(text, name), name, overrides, check_files)


# --- From the file to the tree ----------------------------------------------------------------------------------------


def _finish(root: Node, source: str, overrides: Sequence[str], check_files: bool) -> RunConfig:
    for text in overrides:
        place, node = read_override(text)
        root = put(root, place, node, f"--set {text}")
    for key in NOT_KEYS:
        if (taken := at(root, (key,))) is not None:
            raise ConfigError(unknown_key(taken.origin, key, "", ()))
    root, warnings = fold(root)
    root = _normal(root)
    _raise(_words(root))
    config = _typed(root)
    config = replace(config, source=source, origins=_origins(root), warnings=tuple(warnings))
    _raise(contradictions(config, root))
    return _with_paths(config, check_files)


def _raise(faults: Sequence[str]) -> None:
    if faults:
        raise ConfigError("\n".join(faults))


def _origins(root: Node) -> dict[str, str]:
    return {".".join(map(str, place)): node.origin for place, node in root.walk() if place}


def _normal(root: Node) -> Node:
    """Short forms written out: one seed for a list of one, a list of kinds for equal weights; and members get names."""
    seeds = at(root, ("seeds",))
    if seeds is not None:
        value = [] if seeds.value is None else [seeds] if isinstance(seeds.value, str) else seeds.value
        root = put(root, ("seeds",), replace(seeds, value=value), "seeds")
    for key in ("workloads", "council", "budget", "concurrency", "evaluator", "database", "prompt", "tuner", "ray"):
        empty = at(root, (key,))
        if empty is not None and empty.value is None:  # `prompt:` with all of its keys commented out
            root = replace(root, value={k: v for k, v in root.value.items() if k != key})
    council = at(root, ("council",))
    if council is None or not isinstance(council.value, list):
        return root
    members = [_normal_member(m) for m in council.value]
    return put(root, ("council",), replace(council, value=_named(members)), "council")


def _normal_member(member: Node) -> Node:
    if isinstance(member.value, str):  # `council: [rules]`
        return replace(member, value={"member": member})
    kinds = at(member, ("kinds",))
    if kinds is not None and isinstance(kinds.value, list) and all(isinstance(k.value, str) for k in kinds.value):
        weights = {k.value: Node(value=1.0, origin=k.origin) for k in kinds.value}
        member = put(member, ("kinds",), replace(kinds, value=weights), "kinds")
    base, variable = at(member, ("api_base",)), at(member, ("api_key_env",))
    at_openai = base is None or base.value == OPENAI_API
    kind = at(member, ("member",))
    if kind is not None and kind.value == "openai" and variable is None and at_openai:
        member = put(member, ("api_key_env",), Node(value="OPENAI_API_KEY", origin="default"), "api_key_env")
    return member


def _named(members: list[Node]) -> list[Node]:
    """Each member with a name; one that is made up never meets another."""
    taken = {node.value for m in members if (node := at(m, ("name",))) and isinstance(node.value, str)}
    named = []
    for member in members:
        given = at(member, ("name",))
        if isinstance(member.value, dict) and (given is None or given.value is None):
            name = wanted = _made_up(member)
            number = 1
            while name in taken:
                number += 1
                name = f"{wanted}-{number}"
            taken.add(name)
            member = put(member, ("name",), Node(value=name, origin="default"), "name")
        named.append(member)
    return named


def _made_up(member: Node) -> str:
    kind, model, command = (at(member, (k,)) for k in ("member", "model", "command"))
    source: Any = kind.value if kind else "member"
    if model is not None and isinstance(model.value, str):
        source = model.value.rsplit("/", 1)[-1]
    elif command is not None and isinstance(command.value, list) and command.value:
        source = os.path.basename(str(command.value[0].value))
    elif isinstance(source, str) and ":" in source:
        source = source.rsplit(":", 1)[-1]
    return re.sub(r"[^\w.:@+-]+", "-", str(source))[:60].strip("-") or "member"


def _words(root: Node) -> list[str]:
    """Keys whose value is one of a few words, or a class of the user's own."""
    faults = []
    custom = ", or package.module:Name"
    places: list[tuple[Place, tuple[str, ...], str]] = [
        (("backend",), BACKENDS, custom),
        (("executor",), EXECUTORS, custom),
        (("prompt", "kinds"), EDIT_KINDS, ""),
    ]
    council = at(root, ("council",))
    for i in range(len(council.value) if council is not None and isinstance(council.value, list) else 0):
        places.append((("council", i, "member"), tuple(OPTIONS), custom))
        places.append((("council", i, "kinds"), EDIT_KINDS, ""))
    for place, known, also in places:
        node = at(root, place)
        key = ".".join(map(str, place))
        if node is not None and isinstance(node.value, dict):
            faults += [unknown_key(v.origin, k, key, known) for k, v in node.value.items() if k not in known]
        elif node is not None and isinstance(node.value, str) and node.value not in known:
            faults += [] if also and _CLASS.fullmatch(node.value) else [one_of(node, key, known, also)]
    return faults


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _typed(root: Node) -> RunConfig:
    data, faults = root.plain(), []
    council = data.get("council")
    for i, member in enumerate(council if isinstance(council, list) else ()):
        if not isinstance(member, dict):
            continue
        options = {k: member.pop(k) for k in list(member) if k not in MEMBER_KEYS}
        kind: Any = OPTIONS.get(member["member"]) if isinstance(member.get("member"), str) else None
        if "member" not in member:
            nodes = root.value["council"].value[i].value
            faults += [unknown_key(nodes[k].origin, k, f"council.{i}", MEMBER_KEYS) for k in options]
        try:
            member["options"] = _adapter(kind).validate_python(options) if kind else options
        except ValidationError as error:
            faults += of_faults(error, root, ("council", i))
    try:
        config: RunConfig = _adapter(RunConfig).validate_python(data)
    except ValidationError as error:
        faults += of_faults(error, root)
    _raise(faults)
    return config


# --- Paths ------------------------------------------------------------------------------------------------------------


def _with_paths(config: RunConfig, check: bool) -> RunConfig:
    """The files that it names, found. A seed of the form RUN:ID is no file, and stays."""
    faults: list[str] = []

    def found(key: str, text: str, kind: str, is_there: Callable[[str], bool]) -> str:
        path = _find(text, config.source, is_there)
        if path is None and check:
            advice = f"; looked here, beside {config.source} and above it" if not os.path.isabs(text) else ""
            faults.append(f"{config.origins.get(key, config.source)}: {key}: {text}: no such {kind}{advice}.")
        return path or text

    seeds = tuple(
        s if _CANDIDATE.fullmatch(s) and not os.path.isfile(s) else found("seeds", s, "file", os.path.isfile)
        for s in config.seeds
    )
    problem = found("problem", config.problem, "file", os.path.isfile)
    folder = config.prompt.template_dir
    templates = found("prompt.template_dir", folder, "folder", os.path.isdir) if folder else None
    _raise(faults)
    return replace(config, problem=problem, seeds=seeds, prompt=replace(config.prompt, template_dir=templates))


def _find(text: str, source: str, is_there: Callable[[str], bool]) -> str | None:
    path = os.path.expanduser(text)
    if is_there(path):
        return path
    if os.path.isabs(path):
        return None
    folder = os.path.dirname(os.path.abspath(source))
    for _ in range(3):
        if is_there(near := os.path.join(folder, path)):
            short = os.path.relpath(near)
            return near if short.startswith("..") else short
        folder = os.path.dirname(folder)
    return None
