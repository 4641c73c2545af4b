"""What a candidate costs before it gets a GPU: seconds from source to prediction, by stage, on one core.

    python benchmarks/model/speed.py [--repeat 5]

Lower (jail), gate, build (ptxas and the disassembler), counts and prediction of one specialisation at a time, with one
slot and one worker, warmed up, nothing cached. Of several turns the quickest counts: it is nearest to what a core takes
that nobody else uses. Triton's own compile of the same TTIR, in a process that has it loaded, is timed right after each
and is the measure beside it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

import sources  # noqa: E402
from sources import Structure  # noqa: E402

from evolve.judge.build import Builder  # noqa: E402
from evolve.judge.jail import Jail  # noqa: E402
from evolve.judge.model import predict  # noqa: E402
from evolve.judge.points import Maker, Shot  # noqa: E402
from evolve.judge.stages import Point, Target  # noqa: E402
from evolve.judge.targets import find  # noqa: E402
from evolve.types import Scalar  # noqa: E402

WHOLE = 1.5  # seconds that a candidate may take
# Structure, workload, point; the first only warms up.
CASES: tuple[tuple[str, str, dict[str, Scalar]], ...] = (
    ("seed", "4096", {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 64, "num_warps": 4, "num_stages": 2}),
    ("seed", "4096", {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64, "num_warps": 8, "num_stages": 3}),
    ("seed", "skinny16", {"BLOCK_M": 16, "BLOCK_N": 64, "BLOCK_K": 128, "num_warps": 4, "num_stages": 4}),
    ("seed + tensor descriptors", "4096", {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64, "num_warps": 8}),
    ("seed + split-K", "split_k", {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64, "num_warps": 4}),
    ("two_loops", "4k_causal", {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 4, "num_stages": 3}),
    ("rows", "4096", {"ROWS": 1, "num_warps": 8}),
)
ALONE = """
import sys, time
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
target = GPUTarget("cuda", 90, 32)
for line in sys.stdin:
    path, warps, stages = line.split()
    began = time.perf_counter()
    triton.compile(path, target=target, options={"num_warps": int(warps), "num_stages": int(stages)})
    print(f"took {time.perf_counter() - began}", flush=True)
"""


def found(name: str, workload: str) -> Structure:
    return next(
        s
        for s in sources.structures()
        if s.name == name
        and workload in sources.WORKLOADS[s.problem]
        and (name != "rows" or s.problem == "layernorm_residual")
    )


class Bench:
    def __init__(self, target: Target, cache: Path) -> None:
        self.target, self.cache = target, cache
        self.jail = Jail(slots=1)
        self.builder = Builder(cache=cache, target=target, workers=1, timeout=60)
        fresh = {**os.environ, "TRITON_CACHE_DIR": str(cache / "alone"), "TRITON_ALWAYS_COMPILE": "1"}
        self.alone = subprocess.Popen(
            [sys.executable, "-c", ALONE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=fresh
        )

    def once(self, structure: Structure, point: Point, turn: int) -> tuple[float, float, float]:
        """Seconds for making it ready, for the prediction, and for Triton alone on its costliest module."""
        problem, _ = sources.problem_of(structure.problem)
        maker = Maker(problem=problem, target=self.target, jail=self.jail, builder=self.builder)
        began = time.perf_counter()
        (shot,) = maker.make(structure.screened, [point], shuffle_seed=turn)
        made = time.perf_counter()
        if not isinstance(shot, Shot):
            raise SystemExit(f"{structure.name}: {shot}")
        predict(shot.plan, shot.built, self.target, point.workload, problem)
        modelled = time.perf_counter()
        launches = {launch.ttir: dict(launch.options) for launch in shot.plan.launches}
        alone = sum(self._alone(shot.gated.lowered.modules[t], o) for t, o in launches.items())
        return made - began, modelled - made, alone

    def _alone(self, text: str, options: dict[str, int]) -> float:
        path = self.cache / "alone.ttir"
        path.write_text(text, encoding="utf-8")
        assert self.alone.stdin is not None
        assert self.alone.stdout is not None
        self.alone.stdin.write(f"{path} {options.get('num_warps', 4)} {options.get('num_stages', 3)}\n")
        self.alone.stdin.flush()
        for line in self.alone.stdout:
            if line.startswith("took "):
                return float(line.split()[1])
        raise SystemExit("triton.compile failed by itself")

    def close(self) -> None:
        self.alone.kill()
        self.alone.wait()
        self.builder.close()
        self.jail.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--target", default="sm_90")
    given = parser.parse_args()
    rows = []
    began = time.monotonic()
    for turn in range(given.repeat):
        with tempfile.TemporaryDirectory() as scratch, closing(Bench(find(given.target), Path(scratch))) as bench:
            for number, (name, workload, chosen) in enumerate(CASES):
                structure = found(name, workload)
                problem, variant = sources.problem_of(structure.problem)
                parameters = {**structure.screened.defaults, **chosen}
                point = Point(workload=problem.workload(workload, variant), parameters=parameters)
                spent = bench.once(structure, point, turn)
                if number:
                    rows.append((f"{structure.problem} {name} {workload}", *spent))
    print(f"{'seconds':<52} {'ready':>6} {'model':>6} {'whole':>6} {'triton alone':>13} {'ratio':>6}")
    for name in dict.fromkeys(row[0] for row in rows):
        ready, model, alone = (min(row[i] for row in rows if row[0] == name) for i in (1, 2, 3))
        whole = ready + model
        print(f"{name:<52} {ready:>6.2f} {model:>6.2f} {whole:>6.2f} {alone:>13.2f} {whole / alone:>6.1f}")
    names = {row[0] for row in rows}
    worst = max(min(row[1] + row[2] for row in rows if row[0] == name) for name in names)
    wall, load = time.monotonic() - began, os.getloadavg()[0]
    print(f"worst {worst:.2f} s, may be {WHOLE} s; {wall:.0f} s of wall clock, load {load:.1f}")


if __name__ == "__main__":
    main()
