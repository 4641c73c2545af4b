"""The judge's own figures on a GPU: false winners, slowdowns seen, seconds under the lease, repeatability, a storm.

    python benchmarks/judge.py --out DIR [--parts cpu,facts,processes,calibrate,tests,good,wrong,aa,slower,repeat,storm]

Each part is a process of its own with its own time limit; one that breaks costs only itself. Everything goes to DIR as
JSON and logs, and a short table is printed last. Calibration is made once and shared. It sets nothing on the GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import judge_sources as sources  # noqa: E402

from evolve.judge.statistics import median  # noqa: E402
from evolve.problem import load_problem  # noqa: E402
from evolve.types import Attempt, Candidate, Job  # noqa: E402

CACHE = Path(tempfile.gettempdir()) / "evolve-judge-benchmark"


class Bench:
    """An opened GPU backend, with the calibration of an earlier part if there is one."""

    def __init__(self, out: Path) -> None:
        from evolve.judge.backends import Settings
        from evolve.judge.backends.gpu import open_gpu

        self.out = out
        self.problem = load_problem(ROOT / "benchmarks" / "judge_problem.py")
        self.variant = self.problem.variant("bf16")
        CACHE.mkdir(parents=True, exist_ok=True)
        kept = out / "calibration.json"
        calibration = json.loads(kept.read_text()) if kept.exists() else None
        settings = Settings(
            problem=self.problem,
            variant=self.variant,
            backend="gpu",
            target="sm_90",
            cache=CACHE,
            width=max(2, min(8, (os.cpu_count() or 2) // 2)),
            timeout=60.0,
        )
        began = time.perf_counter()
        self.opened = open_gpu(settings, calibration)
        self.opening_seconds = time.perf_counter() - began
        self.calibration: dict[str, Any] = dict(self.opened.calibration)
        if calibration is None:
            kept.write_text(json.dumps(self.calibration, indent=1))
        self.pipeline: Any = self.opened.backend
        self.device: Any = self.pipeline.device

    def evaluate(self, source: str, step: int, **more: Any) -> Any:
        candidate = Candidate(step=step, source=source, member="benchmark", kind="seed")
        return self.pipeline.evaluate(Job(candidate=candidate, **more))

    def ready(self, source: str, step: int = 1) -> Any:
        from evolve.judge.pipeline import Record

        candidate = Candidate(step=step, source=source, member="benchmark", kind="seed")
        return self.pipeline.prepare(Job(candidate=candidate), Record())


@contextlib.contextmanager
def bench(out: Path) -> Iterator[Bench]:
    made = Bench(out)
    try:
        yield made
    finally:
        made.pipeline.close()


# --- parts ----------------------------------------------------------------------------------------------------------


def facts(out: Path, size: float) -> dict[str, Any]:
    """The machine, and what the questions asked during timing cost."""
    from evolve.judge.gpu.nvml import Gpu, visible

    gpu = Gpu(visible(0))
    began = time.perf_counter()
    for _ in range(50):
        gpu.slowed()
    asked = (time.perf_counter() - began) / 50
    with contextlib.suppress(OSError):
        smi = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False).stdout
        (out / "nvidia-smi.txt").write_text(smi)
    reading = gpu.read()
    return {
        "device": gpu.device(),
        "uuid": gpu.uuid,
        "free_gib": round((gpu.free_bytes() or 0) / 2**30, 1),
        "reading": reading.evidence() if reading else None,
        "slowed_us": round(asked * 1e6, 1),
        "foreigners": gpu.foreigners(set()),
    }


def processes(out: Path, size: float) -> dict[str, Any]:
    """How long a worker takes to open, and where the time goes; how fast a standby is taken and dropped."""
    from evolve.judge.gpu.device import open_pool

    problem = load_problem(ROOT / "benchmarks" / "judge_problem.py")
    began = time.perf_counter()
    pool = open_pool(problem, problem.variant("bf16"))
    try:
        first = pool.take()
        cold = time.perf_counter() - began
        began = time.perf_counter()
        second = pool.take()
        warm = time.perf_counter() - began
        pool.prepare()
        time.sleep(3)
        began = time.perf_counter()
        third = pool.take()
        standby = time.perf_counter() - began
        began = time.perf_counter()
        third.drop()
        dropped = time.perf_counter() - began
        probe = second.ask({"op": "probe"}, seconds=60)
        began = time.perf_counter()
        second.kill()
        killed = time.perf_counter() - began
        return {
            "first_seconds": round(cold, 3),
            "fork_seconds": round(warm, 3),
            "standby_seconds": round(standby, 4),
            "drop_seconds": round(dropped, 4),
            "kill_seconds": round(killed, 3),
            "phases": first.opened.get("seconds"),
            "guards": first.opened.get("opened", {}).get("guards"),
            "probe": probe,
        }
    finally:
        pool.close()


def tests(out: Path, size: float) -> dict[str, Any]:
    """tests/gpu under pytest; needs nothing but pytest itself."""
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(ROOT), "-p", "no:cacheprovider"]
    command += ["--import-mode=importlib", "-q", "-rA", "--tb=short", "--durations=0", str(ROOT / "tests" / "gpu")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, env=_environment())
    (out / "tests.log").write_text(done.stdout + done.stderr)
    last = [
        line for line in done.stdout.splitlines() if line.startswith(("PASSED", "FAILED", "ERROR")) or " in " in line
    ]
    return {"rc": done.returncode, "lines": last[-60:]}


def calibrate(out: Path, size: float) -> dict[str, Any]:
    from evolve.judge.calibrate import table

    with bench(out) as made:
        print(table(made.calibration))
        print(json.dumps(made.calibration["ceilings"]))
        return {
            "seconds": made.calibration["seconds"],
            "opening_seconds": round(made.opening_seconds, 2),
            "ceilings": made.calibration["ceilings"],
            "gpu": made.calibration["gpu"],
            "clocks": made.calibration["clocks"],
            "table": table(made.calibration).splitlines(),
            "warnings": made.calibration["warnings"],
        }


def good(out: Path, size: float) -> dict[str, Any]:
    """Honest candidates and the seed, each against the best so far: verdicts, scores, seconds under the lease."""
    rows: list[dict[str, Any]] = []
    with bench(out) as made:
        best: Attempt | None = None
        everything = {"seed": (ROOT / "seeds" / "matmul.py").read_text(), **sources.GOOD}
        everything |= {f"variant {i}": s for i, s in enumerate(sources.variants(int(8 * size)))}
        for step, (name, source) in enumerate(everything.items()):
            time.sleep(1.0)  # so that the standby is warm, as it is while other candidates are lowered and built
            found = made.evaluate(source, step, incumbent=best)
            rows.append({"name": name, **_summary(found)})
            print(json.dumps(rows[-1]))
            (out / f"evaluation-{step:02d}.json").write_text(json.dumps(_dump(found), indent=1))
            if found.passed and found.beats_incumbent:
                best = Attempt(
                    candidate=Candidate(step=step, source=source, member="benchmark", kind="seed"), evaluation=found
                )
    leases = [r["lease"] for r in rows if r["verdict"] == "PASSED" and r["lease"]]
    overheads = [r["overhead"] for r in rows if r["verdict"] == "PASSED"]
    return {
        "passed": sum(r["verdict"] == "PASSED" for r in rows),
        "of": len(rows),
        "lease_median_seconds": round(median(leases), 3) if leases else None,
        "lease_worst_seconds": round(max(leases), 3) if leases else None,
        "overhead_median": round(median(overheads), 3) if overheads else None,
        "rows": rows,
    }


def wrong(out: Path, size: float) -> dict[str, Any]:
    rows = []
    with bench(out) as made:
        for step, (name, source) in enumerate(sources.WRONG.items()):
            time.sleep(1.0)
            found = made.evaluate(source, step)
            rows.append({"name": name, **_summary(found), "feedback": found.feedback[:400]})
            print(json.dumps(rows[-1]))
    leases = [r["lease"] for r in rows if r["lease"]]
    return {"lease_median_seconds": round(median(leases), 3), "lease_worst_seconds": max(leases), "rows": rows}


def aa(out: Path, size: float) -> dict[str, Any]:
    """The same kernel against itself, one workload (4096³)."""
    with bench(out) as made:
        same = made.ready(sources.GOOD["grouped 128x256"])
        rows = [_decide(made, same, same, number) for number in range(int(200 * size))]
    return {"decisions": len(rows), **_counted(rows)}


def slower(out: Path, size: float) -> dict[str, Any]:
    """Kernels made 2 % and 5 % slower by a second launch that burns time."""
    with bench(out) as made:
        base = made.ready(sources.GOOD["grouped 128x256"])
        points = {}
        for rounds in (500, 4000):
            row = _decide(made, made.ready(sources.slowed(rounds), 2), base, 1)
            points[rounds] = math.exp(-row["median"]) - 1
        slope = (points[4000] - points[500]) / 3500
        found: dict[str, Any] = {"calibration": points}
        for share in (0.02, 0.05):
            rounds = max(1, round(500 + (share - points[500]) / slope))
            burnt = made.ready(sources.slowed(rounds), 3)
            rows = [_decide(made, burnt, base, number) for number in range(int(100 * size))]
            really = median([math.exp(-r["median"]) - 1 for r in rows])
            found[f"{share:.0%}"] = {
                "rounds": rounds,
                "really": round(really, 4),
                "decisions": len(rows),
                **_counted(rows),
            }
            print(share, json.dumps(found[f"{share:.0%}"]))
    return found


def repeat(out: Path, size: float) -> dict[str, Any]:
    """The same candidate judged twice: how far its scores lie apart."""
    gaps, leases = [], []
    with bench(out) as made:
        names = list(sources.GOOD)
        for trial in range(int(20 * size)):
            source = sources.GOOD[names[trial % 2]]
            pair = [made.evaluate(source, 2 * trial + i) for i in (0, 1)]
            if not all(p.passed for p in pair):
                gaps.append(math.inf)
                continue
            gaps.append(abs(math.log(pair[0].score / pair[1].score)))
            leases += [p.seconds.get("gpu", 0.0) for p in pair]
            print(trial, [round(p.score, 4) for p in pair], [round(p.seconds.get("gpu", 0), 2) for p in pair])
            for one, other in zip(pair[0].measurements, pair[1].measurements, strict=True):
                gap = one.ratio / other.ratio - 1
                widths = [(m.ratio_high - m.ratio_low) / 2 / m.ratio for m in (one, other)]
                print(f"   {one.workload:<10} {gap:+.3%}, half-widths {widths[0]:.3%} {widths[1]:.3%}")
    within = sum(g <= 0.01 for g in gaps)
    return {
        "trials": len(gaps),
        "within_1_percent": within,
        "worst": f"{max(gaps):.3%}",
        "lease_median_seconds": round(median(leases), 3),
    }


def storm(out: Path, size: float) -> dict[str, Any]:
    """Candidates that hang, fault, compile for ever, ask for everything and answer wrongly, among honest ones."""
    from evolve.judge.gpu.nvml import Gpu, visible
    from evolve.judge.redteam import cases

    each = max(1, int(10 * size))
    bad = {
        "hangs": (sources.HANGS, {"TIMEOUT"}),
        "leaves its buffer": (sources.LEAVES_ITS_BUFFER, {"RUNTIME_ERROR"}),
        "compiles for ever": (sources.COMPILES_FOR_EVER, {"TIMEOUT", "RUNTIME_ERROR", "BUILD_ERROR"}),
        "asks for everything": (sources.GREEDY, {"REJECTED"}),
    }
    for case in cases(("memory_bomb", "segfault_lowering")):
        bad[case.name] = (case.source, {str(verdict) for verdict in case.expect})
    orders = [(name, source, right) for name, (source, right) in bad.items() for _ in range(each)]
    orders += [("honest", s, {"PASSED"}) for s in sources.variants(4 * each)]
    mixed = [orders[i * 37 % len(orders)] for i in range(len(orders))] if len(orders) % 37 else orders
    gpu = Gpu(visible(0))
    before = gpu.free_bytes()
    with bench(out) as made, ThreadPoolExecutor(6) as threads:
        began = time.monotonic()
        rows = list(threads.map(lambda x: _storm_one(made, *x), [(i, *o) for i, o in enumerate(mixed)]))
        seconds = time.monotonic() - began
    time.sleep(3)
    after = gpu.free_bytes()
    wrong_rows = [r for r in rows if not r["right"]]
    for row in wrong_rows[:10]:
        print(json.dumps(row))
    return {
        "candidates": len(rows),
        "right": len(rows) - len(wrong_rows),
        "verdicts": {k: dict(v) for k, v in _by_kind(rows).items()},
        "seconds": round(seconds, 1),
        "longest": round(max(r["seconds"] for r in rows), 1),
        "free_memory_lost_mib": ((before or 0) - (after or 0)) >> 20,
        "processes_left": _left(),
        "wrong": wrong_rows[:10],
    }


# --- helpers --------------------------------------------------------------------------------------------------------


def _storm_one(made: Bench, step: int, name: str, source: str, right: set[str]) -> dict[str, Any]:
    from evolve.errors import EvolveError

    began = time.monotonic()
    try:
        found = made.evaluate(source, step)
        verdict, said = str(found.verdict), found.feedback[:200]
    except EvolveError as error:
        verdict, said = type(error).__name__, str(error)[:300]
    seconds = time.monotonic() - began
    return {"kind": name, "verdict": verdict, "right": verdict in right, "seconds": seconds, "said": said}


def _by_kind(rows: list[dict[str, Any]]) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for row in rows:
        found.setdefault(row["kind"], Counter())[row["verdict"]] += 1
    return found


def _left() -> list[str]:
    """Workers carry their name; none may be there any more."""
    names = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if path.read_text().strip() == "evolve-gpu":
                names.append(path.parent.name)
    return names


def _decide(made: Bench, candidate: Any, incumbent: Any, number: int) -> dict[str, Any]:
    """One decision of the timing stage alone, under the lease, in a worker that is kept over many."""
    from evolve.judge.gpu.lease import lease
    from evolve.judge.gpu.session import Session
    from evolve.judge.sampling import Rival
    from evolve.judge.statistics import Block, interval

    if not hasattr(made, "session"):
        made.session = Session(made.device.pool, baselines={})  # type: ignore[attr-defined]
        _ = made.session.worker  # type: ignore[attr-defined]
    workload = made.problem.workload("4096", made.variant)
    with lease(made.device.gpu.uuid, seconds=60) as held:
        result = made.device._timer()(
            made.session,  # type: ignore[attr-defined]
            candidate.gated.lowered,
            candidate.built,
            [workload],
            rival=Rival(id="itself", lowered=incumbent.gated.lowered, built=incumbent.built),
            parameters={},
            configurations=100,
            secret=f"decision {number}".encode(),
        )
        seconds = held.seconds
    kept = result.evidence["4096"]
    blocks = [Block(order=b["order"], times_us=tuple(b["times_us"])) for b in kept["blocks"]]
    against = interval([b.log_ratio("I") for b in blocks])
    spent = sum(sum(b.times_us) for b in blocks) * kept["calls"] / 1e6
    return {
        "call": kept["decision"]["call"],
        "promoted": result.beats_incumbent,
        "blocks": len(blocks),
        "median": against.median,
        "half_width": against.half_width,
        "seconds": seconds,
        "kernel_seconds": spent,
        "phases": kept["seconds"],
    }


def _counted(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "calls": dict(Counter(r["call"] for r in rows)),
        "promoted": sum(r["promoted"] for r in rows),
        "blocks_median": median([r["blocks"] for r in rows]),
        "seconds_median": round(median([r["seconds"] for r in rows]), 4),
        "kernel_seconds_median": round(median([r["kernel_seconds"] for r in rows]), 4),
        "median_of_medians": f"{median([r['median'] for r in rows]):.4%}",
        "worst_median": f"{max(abs(r['median']) for r in rows):.4%}",
        "half_width_median": f"{median([r['half_width'] for r in rows]):.4%}",
        "phases": {k: round(median([r["phases"].get(k, 0.0) for r in rows]), 4) for k in rows[0]["phases"]},
    }


# Phases in which the device works, whoever's kernels they are; the rest of the lease is overhead.
_WORK = ("candidate", "incumbent", "baseline", "reference", "compare", "inputs")


def _summary(found: Any) -> dict[str, Any]:
    lease = found.seconds.get("gpu", 0.0)
    phases: Counter[str] = Counter()
    blocks = 0
    kernels = 0.0
    for stage in ("check", "time"):
        for row in found.evidence.get(stage, {}).values():
            if isinstance(row, dict) and isinstance(row.get("seconds"), dict):
                for name, seconds in row["seconds"].items():
                    phases[f"{stage}.{name}"] += seconds
            if isinstance(row, dict) and "blocks" in row:
                blocks += len(row["blocks"])
                kernels += sum(sum(b["times_us"]) for b in row["blocks"]) * row["calls"] / 1e6
    work = sum(s for n, s in phases.items() if n.partition(".")[2] in _WORK)
    return {
        "verdict": str(found.verdict),
        "score": round(found.score, 4),
        "promoted": found.beats_incumbent,
        "lease": round(lease, 3),
        "overhead": round((lease - work) / work, 3) if work else 0.0,
        "timed_kernel_seconds": round(kernels, 3),
        "blocks": blocks,
        "seconds": {k: round(v, 3) for k, v in found.seconds.items()},
        "phases": {k: round(v, 3) for k, v in phases.items()},
        "us": {
            m.workload: [round(m.time_us, 2), round(m.ratio, 4), round(m.ratio_high / m.ratio_low - 1, 4)]
            for m in found.measurements
        },
        "worst_error": round(max(found.errors.values(), default=0.0), 3),
        "why": found.feedback[:300] if str(found.verdict) != "PASSED" else "",
    }


def _dump(found: Any) -> dict[str, Any]:
    return {
        "verdict": str(found.verdict),
        "feedback": found.feedback,
        "evidence": found.evidence,
        "errors": dict(found.errors),
    }


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def cpu(out: Path, size: float) -> dict[str, Any]:
    """The same candidates without a GPU, one after another with nothing in the cache: wall seconds, so one core's at
    most where the machine is idle, and how many distinct specialisations each was built in."""
    from evolve.judge.backends import Settings, open_backend

    problem = load_problem(ROOT / "benchmarks" / "judge_problem.py")
    seed = (ROOT / "seeds" / "matmul.py").read_text()
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        settings = Settings(
            problem=problem,
            variant=problem.variant("fp16"),
            backend="cpu",
            target="sm_90",
            cache=Path(cache),
            width=1,
            timeout=60.0,
        )
        opened = open_backend(settings, seed=seed)
        try:
            for step, source in enumerate([seed, *sources.variants(int(20 * size))]):
                candidate = Candidate(step=step, source=source, member="benchmark", kind="seed")
                began = time.perf_counter()
                found = opened.backend.evaluate(Job(candidate=candidate, random_seeds=(step, 2, 3)))
                kernels = len(found.evidence.get("build", {}).get("kernels", {}))
                rows.append((str(found.verdict), time.perf_counter() - began, max(1, kernels), dict(found.seconds)))
        finally:
            opened.backend.close()
    judged = rows[1:]  # the first one pays for imports that a run pays once
    return {
        "verdicts": dict(Counter(r[0] for r in judged)),
        "seconds_median": round(median([r[1] for r in judged]), 3),
        "seconds_worst": round(max(r[1] for r in judged), 3),
        "seconds_a_specialisation": round(median([r[1] / r[2] for r in judged]), 3),
        "stages": {k: round(median([r[3].get(k, 0.0) for r in judged]), 3) for k in judged[0][3]},
    }


Part = Callable[[Path, float], dict[str, Any]]
PARTS: dict[str, tuple[Part, int]] = {
    "cpu": (cpu, 300),
    "facts": (facts, 60),
    "processes": (processes, 120),
    "calibrate": (calibrate, 180),
    "tests": (tests, 300),
    "good": (good, 240),
    "wrong": (wrong, 120),
    "aa": (aa, 240),
    "slower": (slower, 240),
    "repeat": (repeat, 300),
    "storm": (storm, 580),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "judge-benchmark")))
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--size", type=float, default=1.0, help="1 is what is promised; 0.1 a tenth of it")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.part:
        result = PARTS[given.part][0](given.out, given.size)
        (given.out / f"{given.part}.json").write_text(json.dumps(result, indent=1))
        return
    for name in given.parts.split(","):
        _run(name, given.out, given.size)
    print_table(given.out, given.parts.split(","))


def _run(name: str, out: Path, size: float) -> None:
    (out / f"{name}.json").unlink(missing_ok=True)
    command = [sys.executable, __file__, "--part", name, "--out", str(out), "--size", str(size)]
    began = time.monotonic()
    with (out / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=_environment(), start_new_session=True
        )
        try:
            code: int | str = process.wait(PARTS[name][1])
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            code = f"stopped after {PARTS[name][1]} s"
    print(f"{name}: {code}, {time.monotonic() - began:.1f} s", flush=True)


def print_table(out: Path, names: list[str]) -> None:
    print("\n=== results")
    for name in names:
        path = out / f"{name}.json"
        if path.exists():
            print(f"--- {name}\n{_short(json.loads(path.read_text()))}")
        else:
            log = out / f"{name}.log"
            print(f"--- {name}: no result; its log ends:\n{log.read_text()[-1500:] if log.exists() else ''}")


def _short(found: dict[str, Any]) -> str:
    lines = []
    for key, value in found.items():
        if key == "rows":
            for row in value:
                lines.append("  " + json.dumps({k: v for k, v in row.items() if k not in ("phases", "seconds")})[:420])
        elif isinstance(value, list):
            lines += [f"  {x}" for x in value]
        else:
            lines.append(f"  {key}: {json.dumps(value)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
