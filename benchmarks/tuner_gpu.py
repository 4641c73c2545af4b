"""The tuner against `@triton.autotune` on a GPU: the same kernels over the same spaces, and what each found and took.

    python benchmarks/tuner_gpu.py --out DIR --seconds 170 [--only attention] [--spaces]

Kernels are the shipped plain seeds, spaces have 72 points: tiles, warps, stages. Autotune is used as people use it:
every point by `do_bench` at its defaults, in the call that needs it. Its compiles are made ahead here, side by side,
to its favour and to spare the machine; its wall seconds are given with and without what they would take in a row. What
each of them chose is measured once more, interleaved on the same buffers in one process, by neither's own clock.

Parts: compile (while the first judge is opened), matmul, attention, and with `--spaces` whole spaces by
benchmarks/model/spaces.py. Each may fail alone; results go to DIR/tuner_gpu.json as they come, every point that
autotune timed among them, and to DIR/spaces.json: benchmarks/tuner_replay.py asks them again without a GPU. A table is
printed last and kept beside it. Everything else (logs, caches) lies in a temporary folder; the ends of logs are in the
JSON. Without a GPU `--rehearse` walks the way with the model's times and leaves autotune out.

    python benchmarks/tuner_gpu.py --out DIR --only attention --spaces --seconds 170     the attention part, then spaces
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from attempts import attempted

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

SPACES: dict[str, dict[str, tuple[int, ...]]] = {
    "matmul": {
        "BLOCK_M": (16, 64, 128),
        "BLOCK_N": (64, 128, 256),
        "BLOCK_K": (64, 128),
        "num_warps": (4, 8),
        "num_stages": (3, 4),
    },
    "attention": {
        "BLOCK_M": (32, 64, 128),
        "BLOCK_N": (32, 64, 128),
        "num_warps": (4, 8),
        "num_stages": (2, 3, 4, 5),
    },
}
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "matmul": {
        "square": {"M": 4096, "N": 4096, "K": 4096},
        "skinny": {"M": 16, "N": 4096, "K": 4096},
        "deep": {"M": 512, "N": 512, "K": 16384},
    },
    "attention": {"causal": {"B": 4, "H": 32, "HK": 32, "S": 4096, "D": 128, "causal": True}},
}
MODES = {"skinny": "weights_cold"}
ROUNDS = 60  # of the last comparison
GOAL = 0.25  # of autotune's GPU seconds


def points(problem: str) -> list[dict[str, int]]:
    space = SPACES[problem]
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]


# --- Autotune, in processes of its own --------------------------------------------------------------------------------


def theirs_source(problem: str) -> str:
    """The seed's kernel under the decorator that a user would write."""
    text = (ROOT / "seeds" / f"{problem}.py").read_text()
    kernel = text[text.index("@triton.jit") : text.index(f"\n\ndef {problem}(")]
    configs = [
        f"    triton.Config({ {k: v for k, v in p.items() if k.startswith('BLOCK')} }, "
        f"num_warps={p['num_warps']}, num_stages={p['num_stages']}),"
        for p in points(problem)
    ]
    key = ["M", "N", "K"] if problem == "matmul" else ["S", "H"]
    return "\n".join(
        [
            "import time",
            "import torch\nimport triton\nimport triton.language as tl",
            "SPENT = [0.0]",
            "def bench(call, quantiles):",
            "    began = time.perf_counter()",
            "    try:",
            "        return triton.testing.do_bench(call, quantiles=quantiles)",
            "    finally:",
            "        torch.cuda.synchronize()",
            "        SPENT[0] += time.perf_counter() - began",
            "CONFIGS = [",
            *configs,
            "]",
            "RAW = triton.jit",
            f"@triton.autotune(configs=CONFIGS, key={key!r}, do_bench=bench)",
            kernel,
        ]
    )


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def matmul_call(size: Mapping[str, Any]) -> tuple[Callable[[Any], tuple[int, ...]], list[Any], dict[str, Any]]:
    import torch
    import triton

    m, n, k = size["M"], size["N"], size["K"]
    a, b = (torch.randn(shape, device="cuda").bfloat16() for shape in ((m, k), (k, n)))
    c = torch.empty((m, n), device="cuda", dtype=torch.bfloat16)
    strides = [*a.stride(), *b.stride(), *c.stride()]
    return (
        lambda meta: (triton.cdiv(m, meta["BLOCK_M"]) * triton.cdiv(n, meta["BLOCK_N"]),),
        [a, b, c, m, n, k, *strides],
        {"PRECISION": "ieee"},
    )


def attention_call(size: Mapping[str, Any]) -> tuple[Callable[[Any], tuple[int, ...]], list[Any], dict[str, Any]]:
    import torch
    import triton

    b, h, hk, s, d = (size[name] for name in ("B", "H", "HK", "S", "D"))
    q, k, v = (torch.randn((b, heads, s, d), device="cuda").bfloat16() for heads in (h, hk, hk))
    return (
        lambda meta: (triton.cdiv(s, meta["BLOCK_M"]), h, b),
        [q, k, v, torch.empty_like(q), s, h, hk, math.log2(math.e) * d**-0.5],
        {"CAUSAL": size["causal"], "D": d},
    )


CALLS = {"matmul": matmul_call, "attention": attention_call}


def theirs(problem: str, out: Path) -> None:
    """In a process of its own: the first call of each size tunes."""
    import torch

    module = load(out / f"theirs_{problem}.py")
    kernel = getattr(module, f"{problem}_kernel")
    found = {}
    for name, size in SIZES[problem].items():
        grid, arguments, more = CALLS[problem](size)
        torch.cuda.synchronize()
        module.SPENT[0] = 0.0
        began = time.perf_counter()
        kernel[grid](*arguments, **more)
        torch.cuda.synchronize()
        wall = time.perf_counter() - began
        best = kernel.best_config
        timings = [t[0] if isinstance(t, list | tuple) else t for t in kernel.configs_timings.values()]
        found[name] = {
            "best": {**best.kwargs, "num_warps": best.num_warps, "num_stages": best.num_stages},
            "gpu_seconds": module.SPENT[0],
            "wall_seconds": wall,
            "its_own_us": 1e3 * min(timings),
            "failed": sum(not math.isfinite(t) for t in timings),
            "table": [
                [
                    {**c.kwargs, "num_warps": c.num_warps, "num_stages": c.num_stages},
                    1e3 * t if math.isfinite(t) else None,
                ]
                for c, t in zip(kernel.configs_timings, timings, strict=True)
            ],
        }
        (out / f"theirs_{problem}.json").write_text(json.dumps(found, indent=1))


def compile_slice(problem: str, out: Path, number: int, of: int) -> None:
    """Every `of`-th point of every size into Triton's cache; seconds are written down."""
    import torch
    from triton.runtime.jit import MockTensor

    kernel = getattr(load(out / f"theirs_{problem}.py"), f"{problem}_kernel").fn
    began = time.perf_counter()
    for size in SIZES[problem].values():
        grid, arguments, more = CALLS[problem](size)
        mocked = [MockTensor(x.dtype, list(x.shape)) if isinstance(x, torch.Tensor) else x for x in arguments]
        for point in points(problem)[number::of]:
            try:
                kernel.warmup(*mocked, grid=grid(point), **point, **more)
            except Exception as error:  # what does not compile is autotune's to find out
                print(f"{problem} {point}: {type(error).__name__}", flush=True)
    (out / f"compiled_{problem}_{number}.txt").write_text(str(time.perf_counter() - began))


def own(*arguments: str, out: Path, log: str) -> subprocess.Popen[bytes]:
    cache = {"TRITON_CACHE_DIR": str(out.resolve() / "triton_cache")}
    with open(out / f"{log}.log", "wb") as file:
        command = [sys.executable, str(Path(__file__).resolve()), "--out", str(out), *arguments]
        return subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **cache})


class Compiling:
    """Every point of the chosen problems, in processes side by side, while something else is done here."""

    def __init__(self, problems: Sequence[str], out: Path) -> None:
        workers = max(1, min(12, (os.cpu_count() or 2) - 2))
        self._out, self._problems, self._began = out, problems, time.monotonic()
        self._children = [
            own("--compile", problem, str(number), str(workers), out=out, log=f"compile_{problem}_{number}")
            for problem in problems
            for number in range(workers)
        ]

    def wait(self, left: float) -> dict[str, Any]:
        """What is not done by then is left to autotune, and counted against nobody."""
        ends, late = time.monotonic() + left, 0
        for child in self._children:
            try:
                child.wait(max(0.1, ends - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                late += 1
        taken = {p: sum(float(f.read_text()) for f in self._out.glob(f"compiled_{p}_*.txt")) for p in self._problems}
        wall = time.monotonic() - self._began
        return {"wall_seconds": wall, "cpu_seconds": taken, "processes": len(self._children), "late": late}


# --- Ours -------------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Ours:
    """An opened judge for one problem, and the seed over the same space as its candidate."""

    problem_name: str
    backend: str
    width: int

    def __post_init__(self) -> None:
        from evolve.judge.backends import Settings, open_backend
        from evolve.judge.pipeline import Record
        from evolve.judge.tune import Tuning
        from evolve.problem import load_problem, with_workloads
        from evolve.types import Candidate, Job, Workload

        sizes = SIZES[self.problem_name].items()
        timed = tuple(Workload(name=n, params=p, mode=MODES.get(n, "cold")) for n, p in sizes)  # type: ignore[arg-type]
        problem = with_workloads(load_problem(ROOT / "evaluators" / f"{self.problem_name}.py"), timed)
        cache = Path.home() / ".cache" / "evolve-tuner-benchmark"
        cache.mkdir(parents=True, exist_ok=True)
        settings = Settings(
            problem=problem,
            variant=problem.variant("bf16"),
            backend=self.backend,
            target="sm_90",
            cache=cache,
            width=self.width,
            timeout=60.0,
            tuner=Tuning(points=40 if self.backend == "gpu" else 6, seconds=90.0, gpu_seconds=10.0),
        )
        text = (ROOT / "seeds" / f"{self.problem_name}.py").read_text()
        head, rest = text[: text.index("TUNE = {")], text[text.index("@triton.jit") :]
        self.source = f"{head}TUNE = {SPACES[self.problem_name]!r}\n\n\n{rest}"
        self.opened = open_backend(settings, seed=self.source)
        self.pipeline: Any = self.opened.backend
        self.job = Job(
            candidate=Candidate(step=0, source=self.source, member="benchmark", kind="seed"), random_seeds=(1, 2, 3)
        )
        self.ready = self.pipeline.prepare(self.job, Record())

    def tuned(self) -> dict[str, Any]:
        self.pipeline.jail.start()
        self.pipeline.device.check(self.ready)
        began = time.monotonic()
        self.result = self.pipeline.tune(self.ready)
        kept = self.result.tuning
        wall = time.monotonic() - began
        return {"wall_seconds": wall, "evidence": kept}

    def compared(self, chosen: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
        """What autotune chose against what the tuner chose: above 1 the tuner's is faster."""
        from evolve.judge.gpu import sitting as module
        from evolve.judge.points import Maker, Shot
        from evolve.judge.stages import Point

        module.ROUNDS = ROUNDS
        pipeline, settings = self.pipeline, self.pipeline.tune
        maker = Maker(
            problem=pipeline.problem,
            target=pipeline.target,
            jail=pipeline.jail,
            builder=pipeline.builder,
            width=self.width,
        )
        wanted = [
            Point(
                workload=pipeline.problem.workload(name, pipeline.variant),
                parameters={**self.ready.parameters[name], **point},
            )
            for name, point in chosen.items()
        ]
        shots = [s for s in maker.make(self.ready.screened, wanted) if isinstance(s, Shot)]
        pipeline.device.leave(self.job)  # a fresh process, so that the tuner's choice is the anchor
        sitting = settings.clock.begin(self.result, settings.tuning, maker)
        gains = sitting.gains(shots)
        found = {}
        for shot in shots:
            if id(shot) in gains:  # a gain of autotune's over ours; turned around
                g = gains[id(shot)]
                found[shot.workload] = {
                    "ratio": math.exp(-g.median),
                    "low": math.exp(-g.high),
                    "high": math.exp(-g.low),
                }
        return found

    def close(self) -> None:
        self.pipeline.device.leave(self.job)
        self.pipeline.close()


def held_together(ours: Ours, theirs: Path) -> dict[str, Any]:
    """What came of autotune, as far as it came; what it lacks must not cost what we have."""
    if not theirs.exists():
        return {"failed": "autotune gave nothing; its log says why"}
    found = {"theirs": json.loads(theirs.read_text())}
    best = {name: row["best"] for name, row in found["theirs"].items()}
    return found | attempted(lambda: {"compared": ours.compared(best)})


def spaces(out: Path, work: Path, left: float) -> dict[str, Any]:
    """Every point of seven structures, about a minute on 16 cores; in a process of its own, because it opens judges."""
    seconds = max(5.0, min(30.0, left / 4))
    build = max(10.0, min(80.0, left - seconds - 15))
    script = [str(ROOT / "benchmarks" / "model" / "spaces.py"), "--out", str(out), "--seconds", f"{seconds:.0f}"]
    with open(work / "spaces.log", "wb") as log:
        child = subprocess.Popen(
            [sys.executable, *script, "--build-seconds", f"{build:.0f}"], stdout=log, stderr=subprocess.STDOUT
        )
        try:
            child.wait(max(5.0, left - 5))
        except subprocess.TimeoutExpired:
            child.terminate()
            child.wait(10)
            return {"failed": "the time was up"}
    return {"status": child.returncode}


def judge_for(problem: str, *, rehearse: bool) -> tuple[Ours, float]:
    began = time.monotonic()
    ours = Ours(problem_name=problem, backend="cpu" if rehearse else "gpu", width=max(1, min(16, os.cpu_count() or 1)))
    return ours, time.monotonic() - began


def part(
    problem: str, out: Path, given: argparse.Namespace, left: Callable[[], float], opened: dict[str, tuple[Ours, float]]
) -> dict[str, Any]:
    ours, seconds = opened.pop(problem, None) or judge_for(problem, rehearse=given.rehearse)
    found: dict[str, Any] = {"opening_seconds": seconds}
    try:
        found["ours"] = ours.tuned()
        if not given.rehearse:
            child = own("--theirs", problem, out=out, log=f"theirs_{problem}")
            try:
                child.wait(max(5.0, left() - 10))
            except subprocess.TimeoutExpired:
                child.kill()
            found |= held_together(ours, out / f"theirs_{problem}.json")
    finally:
        ours.close()
    return found


# --- The table --------------------------------------------------------------------------------------------------------


def table(results: Mapping[str, Any]) -> str:
    head = f"{'':<20} {'autotune / ours':>22} {'GPU s: ours':>12} {'theirs':>8} {'share':>7} {'points':>7}  chosen"
    lines = [head]
    for problem, part_ in results.items():
        if problem not in SPACES or "ours" not in part_:
            continue
        evidence = part_["ours"]["evidence"]
        for name in evidence["workloads"]:
            row = evidence["workloads"][name]
            mine = evidence.get("gpu_seconds", {}).get("workloads", {}).get(name, math.nan)
            other = part_.get("theirs", {}).get(name, {}).get("gpu_seconds", math.nan)
            ratio = part_.get("compared", {}).get(name)
            shown = f"{ratio['ratio']:.4f} [{ratio['low']:.3f}, {ratio['high']:.3f}]" if ratio else "-"
            chosen = {k: v for k, v in row["chosen"].items() if k in SPACES[problem]}
            share = mine / other
            lines.append(
                f"{problem + ' ' + name:<20} {shown:>22} {mine:>12.2f} {other:>8.2f} {share:>7.0%} "
                f"{len(row['tried']):>7}  {chosen}"
            )
        taken = evidence.get("gpu_seconds", {}).get("taken", math.nan)
        walls = [r["wall_seconds"] for r in part_.get("theirs", {}).values()]
        compiling = results.get("compile", {}).get("cpu_seconds", {}).get(problem, math.nan)
        lines.append(
            f"{problem}: under the lease {taken:.2f} s, wall {part_['ours']['wall_seconds']:.1f} s; autotune wall "
            f"{sum(walls):.1f} s with everything compiled before, {sum(walls) + compiling:.1f} s without"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=170.0)
    parser.add_argument("--only", choices=list(SPACES), action="append", help="one of the problems; may be repeated")
    parser.add_argument("--spaces", action="store_true", help="last, time the whole spaces of seven structures")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--theirs", choices=list(SPACES))
    parser.add_argument("--compile", nargs=3)
    given = parser.parse_args()
    out: Path = given.out
    out.mkdir(parents=True, exist_ok=True)
    if given.theirs:
        theirs(given.theirs, out)
        return
    if given.compile:
        problem, number, of = given.compile
        compile_slice(problem, out, int(number), int(of))
        return
    ends = time.monotonic() + given.seconds
    results: dict[str, Any] = {}
    work = Path(tempfile.mkdtemp(prefix="evolve-tuner-gpu-"))
    problems = given.only or list(SPACES)
    for problem in problems:
        (work / f"theirs_{problem}.py").write_text(theirs_source(problem))
    opened: dict[str, tuple[Ours, float]] = {}

    def left() -> float:
        return ends - time.monotonic()

    def compiled() -> dict[str, Any]:
        """The first judge is opened meanwhile: it waits for the GPU and for imports more than for a core."""
        compiling = Compiling(problems, work)
        try:
            opened[problems[0]] = judge_for(problems[0], rehearse=False)
        finally:
            found = compiling.wait(max(5.0, min(60.0, 0.5 * left())))
        return found

    parts: dict[str, Callable[[], Any]] = {} if given.rehearse else {"compile": compiled}
    parts |= {p: partial(part, p, work, given, left, opened) for p in problems}
    if given.spaces:
        parts["spaces"] = lambda: spaces(out, work, left())
    for name, deed in parts.items():
        if left() < 15:
            results[name] = {"skipped": "no time was left"}
            continue
        began = time.monotonic()
        results[name] = attempted(deed)
        print(results[name].get("failed", ""), end="", flush=True)
        print(f"{name}: {time.monotonic() - began:.1f} s", flush=True)
        results["logs"] = {log.name: log.read_text(errors="replace")[-2000:] for log in work.glob("*.log")}
        results["logs"] = {name: text for name, text in results["logs"].items() if text.strip()}
        (out / "tuner_gpu.json").write_text(json.dumps(results, indent=1, default=str))
    (out / "tuner_gpu.txt").write_text(table(results) + "\n")
    print(table(results), flush=True)


if __name__ == "__main__":
    main()
