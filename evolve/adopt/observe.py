"""Asks the child: what the two functions do, as JSON. See `child/`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolve.errors import AdoptError
from evolve.judge.interpret import usable
from evolve.types import Json

CHILD = "evolve.adopt.child.observing"
SECONDS = 540.0
TAIL = 2000  # characters of a crash


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """FILE:FUNCTION as the user gave it."""

    path: Path
    function: str

    @classmethod
    def of(cls, text: str, option: str) -> Named:
        path, _, function = text.rpartition(":")
        if not path or not function:
            raise AdoptError(f"{option} {text}: expected FILE:FUNCTION, such as my.py:fn.")
        if not Path(path).is_file():
            raise AdoptError(f"{option} {text}: no file {path}; expected FILE:FUNCTION, such as my.py:fn.")
        return cls(path=Path(path), function=function)

    def __str__(self) -> str:
        return f"{self.path}:{self.function}"


def observe(kernel: Named, reference: Named, *, gpu: bool, target: str = "sm_90") -> dict[str, Json]:
    order = {
        "kernel": str(kernel.path.resolve()),
        "function": kernel.function,
        "reference": str(reference.path.resolve()),
        "reference_function": reference.function,
        "device": "cuda" if gpu else "cpu",
        "target": target,
    }
    return ask(CHILD, order, str(kernel), interpret=not gpu)


def ask(child: str, order: Any, what: str, *, interpret: bool) -> dict[str, Json]:
    """A child's answer; a refusal and a crash become the same kind of sentence."""
    if interpret:
        usable()
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("TRITON_INTERPRET", None)
    if interpret:
        environment["TRITON_INTERPRET"] = "1"
    with tempfile.TemporaryDirectory(prefix="evolve-init-") as folder:
        answer = Path(folder) / "answer.json"
        try:
            ran = subprocess.run(
                [sys.executable, "-m", child, str(answer)],
                input=json.dumps(order),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=SECONDS,
                env=environment,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise AdoptError(
                f"{what}: original and reference did not end within {SECONDS:.0f} s; give smaller WORKLOADS."
            ) from None
        if not answer.is_file():
            raise AdoptError(f"{what}: the process that ran it died (status {ran.returncode}):\n{ran.stderr[-TAIL:]}")
        found: dict[str, Json] = json.loads(answer.read_text(encoding="utf-8"))
    if "refused" in found:
        raise AdoptError(f"{what} cannot be adopted: {found['refused']}")
    return found
