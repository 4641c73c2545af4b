"""The form of what a plan launches: its products, loops and ways to memory, without any size.

Two candidates of one form at the same parameters differ in what suits their sizes as little as a kernel and its copy;
another form (descriptors, specialized warps, a second loop, parts of a sum) may want other tiles. It is read from TTIR,
so that neither names nor comments count, and it says nothing about speed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from evolve.judge.plan import Plan
from evolve.judge.stages import Built

COUNTED = {
    "product": re.compile(r"\btt\.dot\b"),
    "loop": re.compile(r"\bscf\.(?:for|while)\b"),
    "atomic": re.compile(r"\btt\.(?:atomic|descriptor_reduce)"),
}
SEEN = {
    "descriptors": re.compile(r"\btt\.descriptor_(?:load|gather)"),
    "specialized warps": re.compile(r"\btt\.warp_specialize\b"),
    "softmax": re.compile(r"\bmath\.exp"),
}


def form_of(plan: Plan, built: Built) -> str:
    """Of all its launches in order, as a person would say it; empty where the TTIR is not at hand."""
    files = [Path(built.of(launch).path) / "kernel.ttir" for launch in plan.launches]
    if not all(file.is_file() for file in files):
        return ""
    return form(file.read_text(encoding="utf-8") for file in files)


def form(texts: Iterable[str]) -> str:
    return "; ".join(_said(text) for text in texts)


def _said(text: str) -> str:
    counts = {name: len(pattern.findall(text)) for name, pattern in COUNTED.items()}
    said = [f"{n} {name}{'s' if n > 1 else ''}" for name, n in counts.items() if n]
    return ", ".join([*said, *(name for name in SEEN if sees(text, name))]) or "no loop"


def sees(text: str, what: str) -> bool:
    return bool(SEEN[what].search(text))


def texts_of(plan: Plan, modules: Mapping[str, str]) -> Sequence[str]:
    return [modules[launch.ttir] for launch in plan.launches if launch.ttir in modules]


def chained(texts: Iterable[str]) -> bool:
    """Products of products, with a softmax between."""
    return any(len(COUNTED["product"].findall(text)) > 1 and sees(text, "softmax") for text in texts)
