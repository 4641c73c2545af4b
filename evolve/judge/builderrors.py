"""A compiler's failure in a sentence: what happened, at which line, what to do. Knows texts only, runs nothing."""

from __future__ import annotations

import re
import signal

from evolve.judge.stages import Ruling
from evolve.types import Json, Verdict

TAIL = 4000
# `loc("file":35:12): error: ...` and `file:35:12: error: ...` of MLIR; the line is the candidate's.
DIAGNOSTIC = re.compile(r'^(?:loc\()?"?([^\s":]+)"?:(\d+):\d+\)?: error: (.+)$', re.MULTILINE)
OURS = "kernel.ttir"  # what the compiler calls the text where the text names no source
# Our own frames, the command lines of this machine, and blank lines in rows.
NOISE = (
    re.compile(r"^Traceback .*\n(?:^[ \t].*\n)*", re.MULTILINE),
    re.compile(r"^(?:Repro command:|subprocess\.CalledProcessError:|During handling of).*\n?", re.MULTILINE),
    re.compile(r"^\s*\n", re.MULTILINE),
)
SPECIALIZED = "tt.warp_specialize"


def explain(*, kernel: str, log: str, limit: float | None, code: int, ttir: str) -> Ruling:
    """`limit` where it was stopped for taking that long, else the exit code (negative: the signal)."""
    tail = _tail(log)
    evidence: dict[str, Json] = {"kernel": kernel, "log": tail}
    if limit is not None:
        said = (
            f"building {kernel} took longer than {limit:g} s and was stopped. Smaller tiles, fewer stages and less "
            "unrolling (tl.static_range, loop_unroll_factor) compile faster."
        )
        return Ruling(Verdict.TIMEOUT, said, stage="build", evidence={**evidence, "limit_seconds": limit})
    what, line = _what(log, code)
    if line:
        evidence["line"] = line
    where = f", line {line}" if line else ""
    said = f"{kernel}{where}: {what}{_hint(log, code, ttir)}"
    if tail:
        said += f"\n{tail}"
    return Ruling(Verdict.BUILD_ERROR, said, stage="build", evidence=evidence)


def _what(log: str, code: int) -> tuple[str, int]:
    found = DIAGNOSTIC.search(log)
    if found:
        return f"the compiler refused it: {found[3].strip().rstrip('.')}.", 0 if found[1] == OURS else int(found[2])
    if fatal := re.search(r"^ptxas(?:-blackwell)?\s*.*?(?:fatal|error)\s*:\s*(.+)$", log, re.MULTILINE):
        return f"the assembler refused it: {fatal[1].strip().rstrip('.')}.", 0
    if code < 0:
        return f"the compiler crashed ({_signal(-code)}); the source is legal and the compiler is not up to it.", 0
    if "MemoryError" in log or "bad_alloc" in log:
        return "the compiler ran out of memory; smaller tiles or less unrolling.", 0
    last = [line for line in log.strip().splitlines() if re.match(r"\w[\w.]*(Error|Exception)\b", line)]
    return f"the compiler failed: {last[-1] if last else f'exit code {code}'}.", 0


def _hint(log: str, code: int, ttir: str) -> str:
    if SPECIALIZED in ttir and ("PassManager::run failed" in log or code < 0):
        return (
            " The kernel asks for warp_specialize, which crashes this compiler with pointer loads, with two loops, or "
            "with an epilogue in parts: use descriptor loads, 4 warps and one loop, or leave it out."
        )
    if "maxnreg" in log or "register" in log:
        return " Tensor-core instructions fix how many registers a thread needs: raise or drop maxnreg, or more warps."
    return ""


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _tail(log: str) -> str:
    """The end, where compilers say what hurt."""
    for noise in NOISE:
        log = noise.sub("", log)
    text = log.strip()
    return text if len(text) <= TAIL else "...\n" + text[-TAIL:]
