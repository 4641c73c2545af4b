"""What the cost model says of known matmul kernels, beside what is measured on an H200 (cuBLAS in bf16 graphs; the
best Triton tutorial kernel, fp16, called in a row). Needs no GPU: `python benchmarks/model_sanity.py [--cache DIR]`.

Read it for the order and for the distance: a column of the model's best should stand near the tutorial's best.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import lowering  # noqa: E402
import matmul_kernels  # noqa: E402

from evolve.judge.build import Builder  # noqa: E402
from evolve.judge.model import Prediction, predict  # noqa: E402
from evolve.judge.plan import Lowered  # noqa: E402
from evolve.judge.stages import Ruling, Target  # noqa: E402
from evolve.judge.targets import find  # noqa: E402
from evolve.problem import bind, load_problem  # noqa: E402
from evolve.types import Workload  # noqa: E402

# M, N, K: cuBLAS TFLOP/s, the tutorial's best TFLOP/s (0: not measured)
PEERS = {
    (1024, 1024, 1024): (332, 183),
    (4096, 4096, 4096): (799, 672),
    (8192, 8192, 8192): (709, 668),
    (8192, 8192, 512): (571, 568),
    (4096, 14336, 4096): (753, 651),
    (16, 4096, 4096): (36.5, 16.8),
    (512, 512, 16384): (436, 99),
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A structure with its numbers: BLOCK_M, BLOCK_N, BLOCK_K, warps, stages, and the structure's own."""

    kernel: str
    tile: tuple[int, int, int]
    warps: int
    stages: int
    own: tuple[str, int] | None = None

    def __str__(self) -> str:
        own = f" {self.own[0]}={self.own[1]}" if self.own else ""
        return f"{self.kernel:<10} {'x'.join(map(str, self.tile)):<11} {self.warps}w {self.stages}s{own}"


GROUPED = ("GROUP_M", 8)
SHAPES = (
    Shape(kernel="seed", tile=(64, 64, 32), warps=4, stages=2),
    Shape(kernel="seed", tile=(32, 64, 64), warps=4, stages=4),
    Shape(kernel="seed", tile=(16, 64, 128), warps=4, stages=4),
    Shape(kernel="seed", tile=(64, 64, 64), warps=4, stages=5),
    Shape(kernel="grouped", tile=(64, 64, 64), warps=4, stages=5, own=GROUPED),
    Shape(kernel="grouped", tile=(128, 128, 64), warps=4, stages=1, own=GROUPED),
    Shape(kernel="grouped", tile=(128, 128, 64), warps=4, stages=4, own=("GROUP_M", 1)),
    Shape(kernel="grouped", tile=(128, 128, 64), warps=4, stages=4, own=GROUPED),
    Shape(kernel="grouped", tile=(128, 128, 64), warps=8, stages=4, own=GROUPED),
    Shape(kernel="grouped", tile=(128, 256, 64), warps=4, stages=3, own=GROUPED),
    Shape(kernel="grouped", tile=(128, 256, 64), warps=8, stages=3, own=GROUPED),
    Shape(kernel="described", tile=(128, 128, 64), warps=4, stages=4, own=GROUPED),
    Shape(kernel="described", tile=(128, 256, 64), warps=8, stages=3, own=GROUPED),
    Shape(kernel="persistent", tile=(128, 256, 64), warps=8, stages=3, own=("NUM_SMS", 132)),
    Shape(kernel="split", tile=(16, 64, 128), warps=4, stages=4, own=("SPLIT", 4)),
    Shape(kernel="split", tile=(128, 128, 64), warps=4, stages=4, own=("SPLIT", 8)),
)


def lowered(shape: Shape, workload: Workload, target: Target) -> Lowered:
    m, n, k = workload["M"], workload["N"], workload["K"]
    kernel: Any = getattr(matmul_kernels, shape.kernel, None) or _seed().matmul_kernel
    tiles = -(-m // shape.tile[0]) * -(-n // shape.tile[1])
    atomic = shape.kernel == "split"
    a, b = lowering.tensor("in0", (m, k)), lowering.tensor("in1", (k, n))
    c = lowering.tensor("out0", (m, n), dtype="float32" if atomic else "bfloat16")
    values = [a, b, c, m, n, k, k, 1, n, 1, n, 1, *shape.tile, *([shape.own[1]] if shape.own else [])]
    values += ["ieee"] if shape.kernel == "seed" else []
    grid = {"persistent": (min(tiles, target.sms),), "split": (tiles, shape.own[1] if shape.own else 1)}
    made = lowering.launch(
        kernel,
        grid.get(shape.kernel, (tiles,)),
        dict(zip((p.name for p in kernel.params), values, strict=True)),
        target,
        {"num_warps": shape.warps, "num_stages": shape.stages},
    )
    return lowering.plan(workload.name, [made], [c], zeroed=atomic)


def _seed() -> Any:
    return lowering.module(HERE.parent / "seeds" / "matmul.py")


def predictions(builder: Builder, target: Target, workload: Workload) -> Iterator[tuple[Shape, Prediction | Ruling]]:
    problem = load_problem(HERE.parent / "evaluators" / "matmul.py")
    for shape in SHAPES:
        low = lowered(shape, workload, target)
        try:
            built = builder.build(low)
        except Ruling as ruling:
            yield shape, ruling
            continue
        yield shape, predict(low.plans[0], built, target, workload, problem)


def report(builder: Builder, target: Target) -> None:
    problem = load_problem(HERE.parent / "evaluators" / "matmul.py")
    for (m, n, k), (cublas, tutorial) in PEERS.items():
        name = f"{m},{n},{k}"
        workload = bind(Workload(name=name, params={"M": m, "N": n, "K": k}), problem.variant("bf16"))
        flops = 2e-6 * m * n * k
        print(f"\n{name}: cuBLAS {cublas} TFLOP/s ({flops / cublas:.1f} us), tutorial {tutorial}")
        rows = [(p.time_us, s, p) for s, p in predictions(builder, target, workload) if isinstance(p, Prediction)]
        for time_us, shape, p in sorted(rows, key=lambda row: row[0]):
            terms = " ".join(f"{t}={v:.1f}" for t, v in p.terms.items() if v > 0.05)
            print(f"  {shape!s:<44} {time_us:9.1f} us {flops / time_us:6.1f} {p.bound:<8} {p.roofline:4.2f}  {terms}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, help="keep what is built here between calls")
    parser.add_argument("--target", default="sm_90")
    chosen = parser.parse_args()
    target = find(chosen.target)
    print(f"modelled for {target.device}; times are not measurements")
    with tempfile.TemporaryDirectory() as scratch:
        builder = Builder(cache=chosen.cache or Path(scratch) / "cache", target=target, workers=2, timeout=60)
        try:
            report(builder, target)
        finally:
            builder.close()


if __name__ == "__main__":
    main()
