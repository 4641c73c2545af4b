"""A YAML value that knows where it comes from, so that every later sentence can say it.

Moving, adding and dropping keys happens here on such values, and nodes are never changed in place. No key's meaning is
known here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from evolve.errors import ConfigError

Key: TypeAlias = str | int
Place: TypeAlias = tuple[Key, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A value and where it comes from: "configs/x.yaml:3", "--set", or either of them by an OpenEvolve key."""

    value: Any  # None, bool, int, float, str, dict[str, Node] or list[Node]
    origin: str

    def plain(self) -> Any:
        if isinstance(self.value, dict):
            return {k: v.plain() for k, v in self.value.items()}
        if isinstance(self.value, list):
            return [v.plain() for v in self.value]
        return self.value

    def walk(self, place: Place = ()) -> Iterator[tuple[Place, Node]]:
        yield place, self
        children: Any = ()
        if isinstance(self.value, dict):
            children = self.value.items()
        elif isinstance(self.value, list):
            children = enumerate(self.value)
        for key, child in children:
            yield from child.walk((*place, key))


def at(root: Node, place: Place) -> Node | None:
    for key in place:
        value = root.value
        inside = key in value if isinstance(value, dict) else isinstance(value, list) and key in range(len(value))
        if not inside:
            return None
        root = value[key]
    return root


def without(root: Node, place: Place) -> Node:
    """The tree without the key at `place`, which must be there."""
    key, rest = place[0], place[1:]
    if isinstance(root.value, list):
        assert isinstance(key, int)
        return replace(root, value=[without(v, rest) if i == key else v for i, v in enumerate(root.value)])
    keys = dict(root.value)
    below = keys.pop(key)
    return replace(root, value={**keys, key: without(below, rest)} if rest else keys)


def put(root: Node, place: Place, node: Node, asked: str) -> Node:
    """The tree with `node` at `place`; sections on the way are made. `asked` opens the sentence if it cannot be."""
    if not place:
        return node
    key, rest = place[0], place[1:]
    empty = Node(value=None, origin=node.origin)
    if isinstance(root.value, list):
        if not isinstance(key, int) or key > len(root.value):
            raise ConfigError(
                f'{asked}: the list has {len(root.value)} entries; expected its number from 0, got "{key}".'
            )
        entries = [*root.value]
        entries[key : key + 1] = [put(entries[key] if key < len(entries) else empty, rest, node, asked)]
        return replace(root, value=entries)
    if root.value is not None and not isinstance(root.value, dict):
        raise ConfigError(f'{asked}: "{key}" would stand inside {said(root)} ({root.origin}), which has no keys.')
    keys = dict(root.value or {})
    keys[str(key)] = put(keys.get(str(key), empty), rest, node, asked)
    return replace(root, value=keys)


def said(given: Any) -> str:
    """A value as a sentence names it."""
    value = given.plain() if isinstance(given, Node) else given
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value) if math.isfinite(value) and abs(value) < 1e15 else f"{float(value):g}"
    if isinstance(value, str):
        return f'the text "{value[:60]}{"…" if len(value) > 60 else ""}"' if value else "an empty text"
    kind = "a list" if isinstance(value, list | tuple) else "a section of keys"
    return f"{kind} ({len(value)})" if value else f"an empty {kind.removeprefix('a ')}"
