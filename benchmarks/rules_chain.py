"""Applies named chains of rules to the seeds and writes the kernels: what rules alone make of them, in one go.

    python benchmarks/rules_chain.py --out kernels            every chain; prints what was applied
    python benchmarks/rules_chain.py matmul --out kernels     one
    python benchmarks/rules_chain.py --steps --out kernels    each step of each chain as a file of its own
    python benchmarks/rules_chain.py --out kernels --judge    and judges each last one, on the GPU where there is one

A move is named by its rule; after a colon stands a word of its hypothesis, where a rule knows several. No time is
taken here: `--judge` calls `evolve judge`, with a tuner where the backend has one.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import triton

from evolve.problem import load_problem
from evolve.rules import RULES, Applied, Context, apply

ROOT = Path(__file__).parents[1]
DRAWS = 60  # of a rule's moves, before its word is given up

CHAINS: dict[str, tuple[str, ...]] = {
    "matmul": (
        "alignment",
        "wider space",
        "tensor descriptors",
        "program order: in groups",
        "persistent grid",
        "flattened loops",
        "epilogue subtiling",
        "split-K",
        "warp specialization",
    ),
    "matmul_gelu": (
        "alignment",
        "wider space",
        "tensor descriptors",
        "program order: in groups",
        "persistent grid",
        "flattened loops",
        "epilogue subtiling",
        "warp specialization",
    ),
    "layernorm_residual": (
        "alignment",
        "rows per program",
        "unmasked rows",
        "streaming loads",
        "persistent grid",
        "loads before the loop",
        "pipelining depth",
    ),
    "paged_decode": ("wider space", "split keys", "scale in the exponent"),
    "attention": (
        "tensor descriptors",
        "descriptors from the host",
        "scale in the exponent",
        "masked blocks apart",
        "heaviest first",
        "settled masks",
        "register cap",
        "operand in registers",
        "warp specialization",
        "bounded scores",
        "lazy rescale",
    ),
}


def context(problem: str, number: int, version: str) -> Context:
    found = load_problem(ROOT / "evaluators" / f"{problem}.py")
    timed = found.of_role("time", found.variant(None))
    return Context(random=random.Random(number), workloads=timed, triton=version, tuned=True)


def moved(problem: str, source: str, move: str, version: str = triton.__version__) -> Applied | str:
    """The rule's move on the source, of several the first whose hypothesis has the word; or why there is none."""
    name, _, word = (part.strip() for part in move.partition(":"))
    rule = next(rule for rule in RULES if rule.name == name)
    for number in range(DRAWS):
        found = apply(rule, source, context(problem, number, version))
        if not isinstance(found, Applied):
            return found.reason
        if word in found.hypothesis:
            return found
    return f"no move of {DRAWS} says so."


def chain(problem: str, version: str = triton.__version__) -> Iterator[tuple[str, str, str]]:
    """(move, source, why not) of every step, the seed first. A move that does not apply leaves the source as it was."""
    source = (ROOT / "seeds" / f"{problem}.py").read_text(encoding="utf-8")
    yield "seed", source, ""
    for move in CHAINS[problem]:
        found = moved(problem, source, move, version)
        if isinstance(found, Applied):
            source = found.source
            yield move, source, ""
        else:
            yield move, source, found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="*", default=list(CHAINS), help="of " + ", ".join(CHAINS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", action="store_true", help="every step as a file")
    parser.add_argument("--triton", default=triton.__version__, help="the version that rules write for")
    parser.add_argument("--judge", action="store_true", help="judge the last of each chain")
    order = parser.parse_args()
    order.out.mkdir(parents=True, exist_ok=True)
    status = 0
    for problem in order.problems:
        last = order.out / f"{problem}.py"
        for number, (move, source, why) in enumerate(chain(problem, order.triton)):
            print(f"{problem} {number}: {move}{f' (left out: {why})' if why else ''}", flush=True)
            last.write_text(source, encoding="utf-8")
            if order.steps and not why:
                (order.out / f"{problem}_{number}.py").write_text(source, encoding="utf-8")
        if order.judge:
            judged = [str(last), "--problem", f"evaluators/{problem}.py"]
            status |= subprocess.run([sys.executable, "-m", "evolve", "judge", *judged], cwd=ROOT).returncode
    return status


if __name__ == "__main__":
    raise SystemExit(main())
