"""Which composition of rules is best on which workload: each is made from the plain seed, tuned and timed on the GPU.

    python benchmarks/rules_gpu.py --out DIR --seconds 100 --problem attention [--tune-points 40] [--also kernels/*.py]

A composition is a list of moves as in `rules_chain.py`, applied in order; one that does not apply ends in a note, not
in an error. Each result is judged as in a run: checked, tuned (from the best table so far, so that the later ones
begin where the earlier ones ended), timed in pairs against the libraries. Preparation runs side by side; the GPU is
used by one at a time. At the end the best are confirmed, which times the held-out sizes as well: what a rule costs
there is the other half of the answer. `--also` takes files written by hand.

Everything goes to DIR/rules_PROBLEM.json as it comes. With `--rehearse` times are the model's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import triton
from attempts import attempted
from rules_chain import ROOT, moved

from evolve.rules import Applied
from evolve.types import Candidate, Evaluation, Job, Workload

SIZES: dict[str, tuple[tuple[str, dict[str, Any], str], ...]] = {
    "attention": (
        ("4k_causal", {"B": 4, "H": 32, "HK": 32, "S": 4096, "D": 128, "causal": True}, "cold"),
        ("2k_d64_causal", {"B": 8, "H": 32, "HK": 32, "S": 2048, "D": 64, "causal": True}, "cold"),
        ("4k", {"B": 4, "H": 32, "HK": 32, "S": 4096, "D": 128, "causal": False}, "cold"),
    ),
    "matmul": (
        ("square_4096", {"M": 4096, "N": 4096, "K": 4096}, "cold"),
        ("square_8192", {"M": 8192, "N": 8192, "K": 8192}, "cold"),
        ("skinny_16", {"M": 16, "N": 4096, "K": 4096}, "cold"),
        ("deep_16384", {"M": 512, "N": 512, "K": 16384}, "cold"),
    ),
}
D, X, M, H, W, R, E, B, Q, L, N = (
    "tensor descriptors",
    "scale in the exponent",
    "masked blocks apart",
    "heaviest first",
    "warp specialization",
    "register cap",
    "settled masks",
    "bounded scores",
    "operand in registers",
    "lazy rescale",
    "descriptors from the host",
)
A, S, G, P, F, T = (
    "alignment",
    "split-K",
    "program order: in groups",
    "persistent grid",
    "flattened loops",
    "epilogue subtiling",
)
COMPOSITIONS: dict[str, tuple[tuple[str, ...], ...]] = {
    "attention": (
        (D, N, X, M, H, R, E),
        (D, N, X, H, W, E, B),
        (D, N, X, M, H, R, Q, E, L),
        (D, X, H, W, E, B),
        (D, X, M, H, R, Q, E),
        (D, X, M, H, R, Q, W, E, B),
        (D, X, M, H, R),
        (X, M, H, R, Q),
        (D, X, H, W),
        (X, M, H, R),
        (),
    ),
    "matmul": (
        (A, D, G, P, F, S),
        (A, D, G, P, F, T, S),
        (A, D, G, P, F, S, W),
        (A, D, G, S),
        (A, D, G),
        (A, G, S),
        (),
    ),
    "matmul_gelu": ((A, D, G), (A, D, G, P, F), (A, D, G, P, F, T), (A, D, G, W), ()),
    "layernorm_residual": (
        (A, "rows per program", "unmasked rows", "streaming loads", P, "loads before the loop"),
        (A, "rows per program", "unmasked rows", "streaming loads"),
        (A, "unmasked rows", "streaming loads"),
        (A, "unmasked rows", "streaming loads", P, "loads before the loop"),
        (A, "unmasked rows", P, "loads before the loop", "pipelining depth"),
        ("streaming loads",),
        (),
    ),
    "paged_decode": (("wider space", "split keys", X), ("split keys",), (X,), ()),
}
CONFIRMED = 2  # of the best
LAST = 14.0  # seconds before the end in which nothing new is begun
CONFIRMING = 9.0  # seconds that one confirmation may take


@dataclass(kw_only=True)
class Row:
    """One composition and what came of it."""

    name: str
    source: str
    moves: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    found: dict[str, Any] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    confirmed: dict[str, Any] | None = None

    def written(self) -> dict[str, Any]:
        own = {k: v for k, v in vars(self).items() if k not in ("evaluation", "found")}
        return {**own, **self.found}


def rows(problem: str, also: Sequence[Path], version: str) -> Iterator[Row]:
    """What was written by hand first, because it is there for a reason; two lists that come to one source are one."""
    yield from (Row(name=path.stem, source=path.read_text(encoding="utf-8")) for path in also)
    seen: set[str] = set()
    for moves in COMPOSITIONS[problem]:
        row = Row(name="", source=(ROOT / "seeds" / f"{problem}.py").read_text(encoding="utf-8"))
        for move in moves:
            found = moved(problem, row.source, move, version)
            if isinstance(found, Applied):
                row.source = found.source
                row.moves.append(move)
            else:
                row.left_out[move] = found
        row.name = " + ".join(row.moves) or "seed"
        if row.source not in seen:
            seen.add(row.source)
            yield row


def described(evaluation: Evaluation) -> dict[str, Any]:
    tune = evaluation.evidence.get("tune") or {}
    rows = (tune.get("workloads") or {}).items()
    tried = {name: {"tried": row.get("tried"), "paired": row.get("paired")} for name, row in rows}
    return {
        "verdict": str(evaluation.verdict),
        "stage": evaluation.stage,
        "score": evaluation.score,
        "measurements": [asdict(m) for m in evaluation.measurements],
        "traits": dict(evaluation.traits),
        "seconds": dict(evaluation.seconds),
        "feedback": evaluation.feedback[-1500:],
        "ruling": str(evaluation.evidence.get("ruling", ""))[-1500:],
        "tune_ended": tune.get("ended"),
        "tried": tried,
        "checks": tune.get("checks"),
    }


def opened(given: argparse.Namespace) -> Any:
    from evolve.judge.backends import Settings, open_backend
    from evolve.judge.tune import Tuning
    from evolve.problem import load_problem, with_workloads

    problem = load_problem(ROOT / "evaluators" / f"{given.problem}.py")
    if given.problem in SIZES:
        timed = [Workload(name=n, params=p, mode=mode) for n, p, mode in SIZES[given.problem]]  # type: ignore[arg-type]
        problem = with_workloads(problem, tuple(timed))
    cache = Path.home() / ".cache" / "evolve-rules-benchmark"
    cache.mkdir(parents=True, exist_ok=True)
    settings = Settings(
        problem=problem,
        variant=problem.variant(given.variant),
        backend="cpu" if given.rehearse else "gpu",
        target="sm_90",
        cache=cache,
        width=max(1, min(14, (os.cpu_count() or 2) - 1)),
        timeout=90.0,
        tuner=Tuning(points=given.tune_points, seconds=40.0, gpu_seconds=given.gpu_seconds),
    )
    return open_backend(settings, seed=(ROOT / "seeds" / f"{given.problem}.py").read_text(encoding="utf-8"))


@dataclass(kw_only=True)
class Bench:
    backend: Any
    ends: float
    file: Path
    facts: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    def left(self) -> float:
        return self.ends - time.monotonic()

    def best(self) -> list[Row]:
        passed = [row for row in self.rows if row.evaluation is not None and row.evaluation.passed]
        return sorted(passed, key=lambda row: -row.evaluation.score if row.evaluation else 0.0)

    def judge(self, number: int, row: Row) -> None:
        """In a thread of its own; whatever goes wrong costs this row only."""
        best = self.best()
        candidate = Candidate(step=number, source=row.source, member="benchmark", kind="rule")
        job = Job(candidate=candidate, parent=best[0].evaluation if best else None, random_seeds=(1, 2, 3))

        def judged() -> dict[str, Any]:
            row.evaluation = self.backend.evaluate(job)
            return described(row.evaluation)

        row.found = attempted(judged)

    def all(self, wanted: Iterator[Row], width: int) -> None:
        running: dict[Future[None], Row] = {}
        with ThreadPoolExecutor(width) as pool:
            while True:
                while len(running) < width and self.left() > LAST + CONFIRMING * CONFIRMED:
                    row = next(wanted, None)
                    if row is None:
                        break
                    running[pool.submit(self.judge, len(self.rows) + len(running), row)] = row
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    self.kept(running.pop(future))

    def kept(self, row: Row) -> None:
        self.rows.append(row)
        self.write()
        print(line(row), flush=True)

    def confirm(self) -> None:
        for number, row in enumerate(self.best()[:CONFIRMED]):
            if self.left() < CONFIRMING or row.evaluation is None:
                return
            candidate = Candidate(step=1000 + number, source=row.source, member="benchmark", kind="rule")
            job = Job(candidate=candidate, mode="confirm", parameters=row.evaluation.parameters, random_seeds=(4, 5, 6))
            row.confirmed = attempted(partial(self._confirmed, job))
            self.write()

    def _confirmed(self, job: Job) -> dict[str, Any]:
        evaluation = self.backend.evaluate(job)
        return described(evaluation) | {"time": evaluation.evidence.get("time")}

    def write(self) -> None:
        whole = {**self.facts, "rows": [row.written() for row in self.rows]}
        self.file.write_text(json.dumps(whole, indent=1, default=str))


def line(row: Row) -> str:
    head = f"{row.found.get('score', 0.0):6.3f} {row.name}"
    if row.evaluation is None or not row.evaluation.passed:
        return f"{head}: {row.found.get('verdict', 'failed')} {row.found.get('ruling', '')[:200]}"
    each = [
        f"    {m.workload:16} {m.time_us:9.2f} us  {m.ratio:.3f} [{m.ratio_low:.3f}, {m.ratio_high:.3f}] x {m.baseline}"
        f"  {dict(m.parameters)}"
        for m in row.evaluation.measurements
    ]
    return "\n".join([f"{head}  (gpu {row.found['seconds'].get('gpu', 0.0):.1f} s)", *each])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=100.0)
    parser.add_argument("--problem", choices=list(COMPOSITIONS), default="attention")
    parser.add_argument("--variant")
    parser.add_argument("--tune-points", type=int, default=40)
    parser.add_argument("--gpu-seconds", type=float, default=3.0, help="that tuning of one candidate may take")
    parser.add_argument("--width", type=int, default=3, help="candidates in work at once; one of them has the GPU")
    parser.add_argument("--also", type=Path, nargs="*", default=[])
    parser.add_argument("--triton", default=triton.__version__, help="the version that rules write for")
    parser.add_argument("--rehearse", action="store_true")
    given = parser.parse_args()
    began = time.monotonic()
    given.out.mkdir(parents=True, exist_ok=True)
    made = opened(given)
    facts = {"problem": given.problem, "device": made.device, "opening_seconds": time.monotonic() - began}
    bench = Bench(
        backend=made.backend,
        ends=began + given.seconds,
        file=given.out / f"rules_{given.problem}.json",
        facts=facts,
    )
    try:
        bench.all(rows(given.problem, given.also, given.triton), given.width)
        bench.confirm()
    finally:
        made.backend.close()
    print("\nBy score:")
    for row in bench.best():
        print(line(row) + (" (confirmed below)" if row.confirmed else ""), flush=True)


if __name__ == "__main__":
    main()
