"""YAML text, and `--set a.b=c`, into plain values that know their line.

PyYAML reads the grammar; what a bare word means is decided here, because YAML 1.1 reads `1e-3` as text, `1:30` as
ninety, `010` as eight and a date as a date. Duplicate keys, unknown tags, anchors that contain themselves and oversized
files are refused; PyYAML lets all of them pass. No key's meaning is known here.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from evolve.config.nodes import Node, Place, said
from evolve.errors import ConfigError

LONGEST_FILE = 1_000_000  # bytes
MOST_NODES = 20_000  # anchors multiply: nine lines of YAML can ask for a billion values
DEEPEST = 30

_WORDS = {
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
    **dict.fromkeys(("", "~", "null"), None),
}
_WHOLE = re.compile(r"[-+]?[0-9][0-9_]*")
_REAL = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?")
_TAGS = {f"tag:yaml.org,2002:{t}" for t in ("str", "int", "float", "bool", "null", "timestamp", "seq", "map", "value")}


def read_file(path: Path) -> Node:
    """The file's top-level mapping."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise ConfigError(f"{path}: {what}; expected a YAML file such as configs/quickstart.yaml.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; make it readable, or name another.") from error
    if len(data) > LONGEST_FILE:
        raise ConfigError(
            f"{path}: {len(data)} bytes; a configuration has at most {LONGEST_FILE}. Is it the right file?"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: is not UTF-8 text; save it as UTF-8.") from error
    return read_text(text, str(path))


def read_text(text: str, name: str) -> Node:
    node = _read(text, name)
    if node is None or node.value is None:
        raise ConfigError(f"{name}: is empty; expected at least `problem: evaluators/matmul.py` and a budget.")
    if not isinstance(node.value, dict):
        raise ConfigError(
            f"{node.origin}: expected keys with values (`problem: evaluators/matmul.py`), got {said(node)}."
        )
    return node


def _read(text: str, name: str) -> Node | None:
    loader: Any = None
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        return _Reader(name).node(root, 0) if root else None
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_grammar(error, text, name)) from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise ConfigError(
            f"{name}:{line}: a character that YAML does not allow (code {error.character}); remove it."
        ) from error
    except RecursionError as error:
        raise ConfigError(f"{name}: is nested too deeply; a configuration needs a few levels.") from error
    except (ValueError, OverflowError, IndexError) as error:  # PyYAML's scanner lets these out of escapes and %YAML
        raise ConfigError(f"{name}: is not YAML: {error}; look for a stray backslash or percent sign.") from error
    finally:
        if loader is not None:
            loader.dispose()


def _grammar(error: yaml.MarkedYAMLError, text: str, name: str) -> str:
    mark = error.problem_mark or error.context_mark
    line = mark.line if mark else 0
    lines = text.splitlines() or [""]
    shown = lines[min(line, len(lines) - 1)]
    if "\t" in shown[: len(shown) - len(shown.lstrip())] or "'\\t'" in str(error.problem):
        return f"{name}:{line + 1}: a tab where YAML wants spaces; replace it by spaces."
    if "single document" in str(error.context):
        return f"{name}:{line + 1}: a second document begins (`---`); a configuration is one document."
    why = error.problem or error.context or "it cannot be read"
    return f"{name}:{line + 1}: is not YAML: {why}; look at this line and the one before it."


class _Reader:
    """PyYAML's nodes into ours. A class only for the count of nodes and the file's name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0

    def node(self, node: Any, depth: int) -> Node:
        self.count += 1
        origin = f"{self.name}:{node.start_mark.line + 1}" if self.name != "--set" else self.name
        if depth > DEEPEST:
            raise ConfigError(
                f"{origin}: nested {DEEPEST} levels deep (or an anchor that contains itself); flatten it."
            )
        if self.count > MOST_NODES:
            raise ConfigError(
                f"{origin}: more than {MOST_NODES} values, anchors counted as often as used; write fewer."
            )
        if node.tag not in _TAGS:
            raise ConfigError(f"{origin}: unknown tag {node.tag.replace('tag:yaml.org,2002:', '!!')!r}; remove it.")
        if isinstance(node, yaml.MappingNode):
            return Node(value=self._mapping(node, origin, depth), origin=origin)
        if isinstance(node, yaml.SequenceNode):
            return Node(value=[self.node(child, depth + 1) for child in node.value], origin=origin)
        return Node(value=self._scalar(node, origin), origin=origin)

    def _mapping(self, node: Any, origin: str, depth: int) -> dict[str, Node]:
        found: dict[str, Node] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise ConfigError(f"{origin}: `<<` is not supported; write the keys out.")
            key = self.node(key_node, depth + 1)
            name = key.value
            if isinstance(name, bool | int | float) and isinstance(key_node, yaml.ScalarNode):
                name = key_node.value  # `on:` is a key, whatever YAML 1.1 thinks
            if not isinstance(name, str) or not name:
                raise ConfigError(f"{key.origin}: expected a word as key, got {said(key)}.")
            if name in found:
                raise ConfigError(
                    f'{key.origin}: key "{name}" stands twice, first at {found[name].origin}; remove one.'
                )
            found[name] = self.node(value_node, depth + 1)
        return found

    def _scalar(self, node: Any, origin: str) -> Any:
        value = node.value if node.style else scalar(node.value)  # quotes, | and > make text
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(
                f"{origin}: {node.value[:60]}: expected a number that is finite; leave the key out for no limit."
            )
        if isinstance(value, str) and not value.isprintable() and any("\ud800" <= c <= "\udfff" for c in value):
            raise ConfigError(f"{origin}: text with half a surrogate pair; write the character itself.")
        return value


def scalar(text: str) -> bool | int | float | str | None:
    """What a bare word means."""
    word = text.lower()
    if word in _WORDS:
        return _WORDS[word]
    if len(text) > 60:
        return text
    if _WHOLE.fullmatch(text):
        return int(text.replace("_", ""))
    if word.lstrip("+-") in (".inf", ".nan"):
        return float(word.replace(".", ""))
    if _REAL.fullmatch(text):
        number = float(text.replace("_", ""))
        # 1e6 is the whole number that it looks like; 1e-3 and 2.0 are not whole in the writer's mind
        return int(number) if "." not in text and number.is_integer() and abs(number) < 2**53 else number
    return text


def read_override(text: str) -> tuple[Place, Node]:
    """`a.b.0=value`: the value in YAML, so that numbers, [lists] and {mappings} mean what they mean in the file."""
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(p.strip() for p in parts):
        raise ConfigError(f"--set {text}: expected KEY=VALUE, for example --set budget.steps=100.")
    node = _read(value, "--set") or Node(value=None, origin="--set")
    return tuple(int(p) if p.isdecimal() else p.strip() for p in parts), node
