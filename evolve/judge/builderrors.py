"""A compiler's failure in a sentence: what happened, at which line, what to do. Knows texts only, runs nothing."""

from __future__ import annotations

import re
import signal

from evolve.judge.stages import Ruling
from evolve.types import Json, Verdict

TAIL = 4000
# `loc("file":35:12): error: ...` and `file:35:12: error: ...` of MLIR; the line is the candidate's.
DIAGNOSTIC = re.compile(r'^(?:loc\()?"?([^\s":]+)"?:(\d+):\d+\)?: error: (.+)$', re.MULTILINE)
GENERIC = "Failures have been detected"  # follows the true reason
FATAL = (
    (re.compile(r"^ptxas(?:-blackwell)?\s.*?(?:fatal|error)\s*:\s*(.+)$", re.MULTILINE), "assembler"),
    (re.compile(r"^LLVM ERROR: (.+)$", re.MULTILINE), "compiler"),
    (re.compile(r"Pipeline failed while executing \[`(\w+)`", re.MULTILINE), "compiler's pass"),
)
OURS = "kernel.ttir"  # what the compiler calls the text where the text names no source
# Our own frames, the command lines of this machine, and blank lines in rows.
NOISE = (
    re.compile(r"^Traceback .*\n(?:^[ \t].*\n)*", re.MULTILINE),
    re.compile(r"^(?:Repro command:|subprocess\.CalledProcessError:|During handling of).*\n?", re.MULTILINE),
    re.compile(
        r"^(?:#\w+ = .*\n)*^module .*?^#-\}\n", re.MULTILINE | re.DOTALL
    ),  # the pass's whole input, for its makers
    re.compile(r"^module .*\n\s*\^\n|^.*reproducer generated at.*\n?", re.MULTILINE),
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
    """What happened and the candidate's line, 0 if the compiler named none."""
    said = [found for found in DIAGNOSTIC.finditer(log) if not found[3].startswith(GENERIC)]
    said.sort(key=lambda found: found[1] == OURS)  # one that knows the candidate's line comes first
    if said:
        line = 0 if said[0][1] == OURS else int(said[0][2])
        return f"the compiler refused it: {said[0][3].strip().rstrip('.')}.", line
    for pattern, who in FATAL:
        if fatal := pattern.search(log):
            return f"the {who} refused it: {fatal[1].strip().rstrip('.')}.", 0
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
