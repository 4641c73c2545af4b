"""The replies that `throughput.py` gives to every engine: many different matmul kernels, a few that hang or crash.

    python benchmarks/replies.py 160        records them anew in benchmarks/throughput_parts/replies.json.gz

Honest ones are the kernels of the recorded run and what the rewrite rules make of them, in one or more moves, at tiles
that a person would write; all pass the screen and none is another one's twin in words. One in twenty never ends on the
device, one in twenty leaves its buffers. Each says in its first line which of the trace it is. Nothing here is timed.
"""

from __future__ import annotations

import ast
import gzip
import json
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[1]
RECORDED = ROOT / "benchmarks/throughput_parts/replies.json.gz"
sys.path.insert(0, str(ROOT))

Kind = Literal["honest", "hang", "crash"]
BEGIN, END = "# EVOLVE-BLOCK-START", "# EVOLVE-BLOCK-END"
MARK = re.compile(r"^# trace (\d+) (honest|hang|crash)$", re.MULTILINE)
EVERY = 20  # one of so many hangs, and one crashes
EARLIEST = 5  # no fault before: every engine gets to work first
TILES = (
    *((64, 64, 64, 4, 3), (128, 64, 64, 4, 3), (64, 128, 64, 4, 4), (128, 128, 64, 8, 3), (128, 128, 32, 4, 4)),
    *((128, 256, 64, 8, 3), (64, 256, 64, 4, 4), (64, 64, 128, 4, 3), (32, 64, 128, 4, 4), (16, 64, 128, 4, 5)),
)
NAMES = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps", "num_stages")


@dataclass(frozen=True)
class Reply:
    number: int
    kind: Kind
    source: str

    @property
    def text(self) -> str:
        return f"Hypothesis: number {self.number} of the trace.\n```python\n{self.source}\n```"


def load() -> list[Reply]:
    """Those that were recorded."""
    made = []
    for source in json.loads(gzip.decompress(RECORDED.read_bytes())):
        found = which(source)
        assert found is not None
        made.append(Reply(*found, source))
    return made


def trace(count: int, random_seed: int = 1) -> list[Reply]:
    rng = random.Random(random_seed)
    sources = honest(count, rng)
    seed = (ROOT / "seeds/matmul.py").read_text(encoding="utf-8")
    kinds: list[Kind] = ["honest"] * len(sources)
    faulty = rng.sample(range(EARLIEST, len(kinds)), 2 * (len(kinds) // EVERY))
    for place, number in enumerate(faulty):
        kinds[number] = "crash" if place % 2 else "hang"
    made = []
    for number, kind in enumerate(kinds):
        source = sources[number] if kind == "honest" else spoilt(seed, kind, number)
        made.append(Reply(number, kind, marked(source, number, kind)))
    return made


def marked(source: str, number: int, kind: Kind) -> str:
    head, begin, rest = source.partition(BEGIN)
    return f"{head}{begin}\n# trace {number} {kind}{rest}"


def which(source: str) -> tuple[int, Kind] | None:
    found = MARK.search(source)
    return (int(found[1]), found[2]) if found else None  # type: ignore[return-value]


def spoilt(seed: str, kind: Kind, number: int) -> str:
    """Each a little different, so that no engine may call it known: the number becomes part of what is computed."""
    if kind == "hang":
        loop = f"    while tl.load(a_ptr).to(tl.float32) < 1e{30 + number % 8}:\n        acc += {number}.0\n"
        return seed.replace("    for k in range(0, K, BLOCK_K):\n", f"{loop}    for k in range(0, K, BLOCK_K):\n", 1)
    nothing = "tl.zeros((BLOCK_M,), dtype=c_ptr.dtype.element_ty)"
    far = f"    tl.store(c_ptr + M * N + rows * {8_000_000 + number}, {nothing})\n"
    kernel, sign, host = seed.partition("\n\ndef matmul(")
    return f"{kernel}{far}{sign}{host}"


# --- honest kernels ---------------------------------------------------------------------------------------------------


def honest(count: int, rng: random.Random) -> list[str]:
    """`count` of them, each once by its syntax tree."""
    found: dict[str, str] = {}
    queue = recorded()
    for source in queue:
        _keep(found, source)
    for source in _moved(queue, rng):
        if len(found) >= 2 * count:
            break
        _keep(found, source)
    chosen = list(found.values())
    rng.shuffle(chosen)
    if len(chosen) < count:
        raise SystemExit(f"only {len(chosen)} different kernels were found; ask for fewer than {count}.")
    return chosen[:count]


def recorded() -> list[str]:
    """The kernels of the recorded run, the seed first."""
    from evolve.journal import Journal
    from evolve.types import Judged

    with Journal.open(ROOT / "runs/h200-matmul") as journal:
        events = [logged.event for logged in journal.events()]
    return [e.candidate.source for e in events if isinstance(e, Judged) and e.candidate and e.evaluation.passed]


def _moved(sources: list[str], rng: random.Random) -> Iterator[str]:
    from evolve.problem import load_problem
    from evolve.rules import RULES, Applied, Context, apply

    problem = load_problem(ROOT / "evaluators/matmul.py")
    workloads = tuple(problem.of_role("time", problem.variant("bf16")))
    pool = list(sources)
    for _ in range(40 * len(pool)):
        source = at_tiles(rng.choice(pool), rng.choice(TILES))
        rule = rng.choice(RULES)
        made = apply(rule, source, Context(random=rng, workloads=workloads, triton="3.6.0", tuned=True))
        if isinstance(made, Applied):
            pool.append(made.source)
            yield made.source
        yield source


def at_tiles(source: str, tiles: tuple[int, ...]) -> str:
    """With other defaults: without a tuner these are what is judged."""
    head, sign, rest = source.rpartition("\ndef matmul(")
    line, colon, body = rest.partition("):\n")
    for name, value in zip(NAMES, tiles, strict=True):
        line = re.sub(rf"\b{name}=\d+", f"{name}={value}", line)
    return f"{head}{sign}{line}{colon}{body}"


def _keep(found: dict[str, str], source: str) -> None:
    from evolve.judge.screen import screen
    from evolve.judge.stages import Ruling

    try:
        screened = screen(source, entry="matmul")
        found.setdefault(screened.digest, source)
    except (Ruling, SyntaxError):
        return


def check(replies: list[Reply]) -> None:
    """Every reply is a file, and says which it is."""
    for reply in replies:
        ast.parse(reply.source)
        assert which(reply.source) == (reply.number, reply.kind)


if __name__ == "__main__":
    made = trace(int(sys.argv[1]) if len(sys.argv) > 1 else 160)
    check(made)
    RECORDED.write_bytes(gzip.compress(json.dumps([r.source for r in made]).encode(), 9, mtime=0))
    print(len(made), {kind: sum(r.kind == kind for r in made) for kind in ("honest", "hang", "crash")})
