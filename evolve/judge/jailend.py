"""What the end of a jailed child means: its answer, or a verdict in a sentence.

Everything read here was written by the child or about it, and none of it is trusted: a forged record can only name
verdicts that put the candidate out.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evolve.judge.stages import Ruling
from evolve.types import Verdict

TAIL = 2000
BLAMABLE = {v.value: v for v in (Verdict.REJECTED, Verdict.BUILD_ERROR, Verdict.RUNTIME_ERROR)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one run may take."""

    memory_bytes: int = 4 << 30  # added to the address space of the preloaded libraries
    cpu_seconds: int = 60
    wall_seconds: float = 60.0
    file_bytes: int = 64 << 20
    processes: int = 64  # threads count; processes are not allowed at all
    reply_bytes: int = 64 << 20


def rule(answer: bytes, said: str, ended: Mapping[str, Any], stage: str, limits: Limits) -> str:
    """What the child's end means."""
    if ended["why"] == "wall":
        raise Ruling(Verdict.TIMEOUT, f"Not done after {limits.wall_seconds:g} s.{_tail(said)}", stage=stage)
    if ended["why"] == "reply" or len(answer) > limits.reply_bytes:
        feedback = f"The answer is longer than {limits.reply_bytes} bytes: make fewer or smaller kernels."
        raise Ruling(Verdict.RUNTIME_ERROR, feedback, stage=stage)
    if ended["exit"] == -signal.SIGKILL and ended["cpu"] >= limits.cpu_seconds:
        raise Ruling(Verdict.TIMEOUT, f"Not done after {limits.cpu_seconds} s of CPU time.{_tail(said)}", stage=stage)
    if ended["exit"] != 0:
        raise Ruling(Verdict.RUNTIME_ERROR, f"{_death(ended['exit'], limits)}{_tail(said)}", stage=stage)
    return _opened(answer, said, stage)


def _death(code: int, limits: Limits) -> str:
    if code >= 0:
        return f"The process left with exit code {code} and no answer."
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    memory = f"; {limits.memory_bytes / 2**30:.3g} GiB of memory were allowed" if code == -signal.SIGKILL else ""
    return f"The process was ended by {name}{memory}."


def _opened(answer: bytes, said: str, stage: str) -> str:
    """The answer's text without its envelope. Exit code 0 without the final record is a failure too."""
    try:
        record = json.loads(answer)
        kind, content = next(iter(record.items()))
    except (ValueError, StopIteration, AttributeError, RecursionError) as error:
        feedback = f"The process ended without an answer.{_tail(said)}"
        raise Ruling(Verdict.RUNTIME_ERROR, feedback, stage=stage) from error
    if kind == "answer":
        return json.dumps(content)
    told = content if isinstance(content, dict) else {}
    verdict = BLAMABLE.get(str(told.get("verdict")), Verdict.RUNTIME_ERROR)
    evidence = {k: str(told.get(k, ""))[-3 * TAIL :] for k in ("type", "trace")} | {"said": said[-TAIL:]}
    raise Ruling(verdict, str(told.get("text", ""))[-3 * TAIL :], stage=stage, evidence=evidence)


def _tail(said: str) -> str:
    said = said.strip()
    return f" Its last words:\n{said[-TAIL:]}" if said else ""
