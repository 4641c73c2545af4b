"""Measures the cost model's data set: structures x parameters in six workloads, with the judge's own machinery.

    python benchmarks/model/collect.py --out DIR [--seconds 80] [--passes 3] [--points 6] [--stand-in]

Every point goes through screen, lower (jail), gate and build, on all cores; that takes about a minute on 16 of them.
Only then, when nothing is being built any more, all are timed by the tuner's quick clock in GPU processes under the
lease, in several passes in different orders, of which the median counts. (A first data set was timed while compilers
kept every core busy: graphs came late, and equal kernels were apart by factors of 2 to 5.) After `--seconds` of timing
nothing more is begun. Answers are not checked here: the model is asked for times alone.

`--stand-in` takes a clock that is the model itself with noise, for trying all of this without a GPU.
"""

from __future__ import annotations

import argparse
import os
import queue
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

import sources  # noqa: E402
from dataset import Sheet  # noqa: E402
from sources import Structure  # noqa: E402

from evolve.errors import MachineryError  # noqa: E402
from evolve.judge import sass  # noqa: E402
from evolve.judge.build import Builder  # noqa: E402
from evolve.judge.check import contestant  # noqa: E402
from evolve.judge.gpu.facts import workload_to  # noqa: E402
from evolve.judge.jail import Jail  # noqa: E402
from evolve.judge.model import predict  # noqa: E402
from evolve.judge.points import Maker, Shot  # noqa: E402
from evolve.judge.stages import Point, Target  # noqa: E402
from evolve.judge.targets import find  # noqa: E402

Row = Mapping[str, Any]
BATCH = 6  # points in one order to the GPU process
ANY = 1e9  # no point is so slow beside the best that one sample of it is enough
LIMITS = {"candidate": 8.0, "other": 120.0}


class Clock(Protocol):
    environment: Mapping[str, Any]

    def time(self, problem: str, shots: Sequence[Shot]) -> Iterator[tuple[Shot, Row]]:
        """Shots of one workload; a row has `us`, `ratio` and `samples`, or `why` not."""
        ...

    def close(self) -> None: ...


class GpuClock:
    """A GPU process for each problem. The first point of a workload is the anchor of all others."""

    def __init__(self, target: Target) -> None:
        from evolve.judge.gpu.device import open_pool
        from evolve.judge.gpu.nvml import Gpu, visible
        from evolve.judge.gpu.session import Session

        self.gpu = Gpu(visible(0))
        self._anchors: dict[tuple[str, str], Any] = {}
        self._pools = {name: open_pool(*sources.problem_of(name)) for name in sources.WORKLOADS}
        for pool in self._pools.values():
            pool.prepare()
        self._sessions = {name: Session(pool, baselines={}) for name, pool in self._pools.items()}
        self.environment: Mapping[str, Any] = {}

    def begin(self) -> None:
        from evolve.judge.gpu.pool import WorkerFault

        worker = self._sessions["matmul"].worker
        found: dict[str, Any] = {"gpu": {k: v for k, v in worker.opened.get("opened", {}).items() if k != "pid"}}
        found["driver"] = self.gpu.driver()
        try:
            found["ceilings"] = worker.ask({"op": "ceilings"}, seconds=60)["ceilings"]
        except WorkerFault as fault:
            found["ceilings"], found["ceilings_failed"] = {}, str(fault)
        self.environment = found

    def time(self, problem: str, shots: Sequence[Shot]) -> Iterator[tuple[Shot, Row]]:
        waiting = list(shots)
        while waiting:
            rows, lost = self._ask(problem, waiting)
            for row in rows:
                yield waiting.pop(0), row
            if waiting and (lost or not rows):
                yield waiting.pop(0), {"why": lost or "no time was given"}

    def _ask(self, problem: str, shots: Sequence[Shot]) -> tuple[Sequence[Row], str]:
        from evolve.judge.gpu.pool import WorkerFault

        workload = shots[0].point.workload
        key = (problem, workload.name)
        anchor = self._anchors.setdefault(key, contestant(shots[0].plan, shots[0].built))
        order = {
            "op": "quick",
            "workload": workload_to(workload),
            "anchor": anchor,
            "points": [contestant(s.plan, s.built) for s in shots],
            "calls": sources.WORKLOADS[problem][workload.name],
            "random_seed": 1,
            "best": ANY,
            "seconds": 60.0,
            "limits": LIMITS,
        }
        try:
            reply = self._sessions[problem].once(lambda w: w.ask(order, seconds=120.0), workload=workload)
        except MachineryError as error:
            return [], f"machinery: {str(error)[-300:]}"
        except WorkerFault as fault:
            done = fault.at.get("done") or []
            if not done and self._anchors[key] == contestant(shots[0].plan, shots[0].built):
                del self._anchors[key]  # a kernel that faults is nobody's anchor
            return done, f"{fault.kind}: {fault.text[-300:]}"
        return reply["rows"], ""

    def close(self) -> None:
        for session in self._sessions.values():
            session.close()
        for pool in self._pools.values():
            pool.close()


class StandIn:
    """The model with noise: for the way through, never for a fit."""

    def __init__(self, target: Target) -> None:
        self._target, self._rng = target, random.Random(0)
        self.environment = {"gpu": {"device": "stand-in: the model itself with noise"}, "ceilings": {}}

    def begin(self) -> None: ...

    def time(self, problem: str, shots: Sequence[Shot]) -> Iterator[tuple[Shot, Row]]:
        loaded, _ = sources.problem_of(problem)
        for shot in shots:
            us = predict(shot.plan, shot.built, self._target, shot.point.workload, loaded).time_us
            us *= self._rng.lognormvariate(0, 0.1)
            yield shot, {"us": us, "ratio": us / 100, "samples": 3}

    def close(self) -> None: ...


# --- Making points ready ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Task:
    """Some points of one structure."""

    structure: Structure
    points: Sequence[Point]


def tasks(count: int) -> list[Task]:
    """Every structure with its first points, then every structure with its next; seeds come first."""
    turns: list[list[Task]] = [[], []]
    per = {"matmul": count, "attention": 2 * count, "layernorm_residual": 3 * count}
    for structure in sources.structures():
        found: list[list[Point]] = [[], []]
        for workload in sources.workloads_of(structure.problem):
            for n, chosen in enumerate(sources.points(structure, workload.name, per[structure.problem])):
                parameters = {**structure.screened.defaults, **chosen}
                found[n >= per[structure.problem] // 2].append(Point(workload=workload, parameters=parameters))
        for turn, these in zip(turns, found, strict=True):
            turn.append(Task(structure=structure, points=these))
    return [task for turn in turns for task in sorted(turn, key=lambda t: t.structure.name != "seed")]


class Producer:
    """Makes tasks ready on all cores; what is ready waits in `ready` as (structure, shot), None at the end."""

    def __init__(self, todo: Sequence[Task], target: Target, cache: Path, deadline: float) -> None:
        cores = os.cpu_count() or 2
        self._todo, self._target, self._deadline = todo, target, deadline
        self.jail = Jail(slots=max(1, cores // 3))
        self.builder = Builder(cache=cache, target=target, workers=cores, timeout=30)
        self.ready: queue.Queue[tuple[Structure, Shot] | None] = queue.Queue()
        self.failed: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        try:
            with ThreadPoolExecutor(max(2, (os.cpu_count() or 2) // 2)) as threads:
                list(threads.map(self._make, self._todo))
        finally:
            self.ready.put(None)

    def _late(self) -> bool:
        return time.monotonic() > self._deadline

    def _make(self, task: Task) -> None:
        if self._late():
            return
        problem, _ = sources.problem_of(task.structure.problem)
        maker = Maker(problem=problem, target=self._target, jail=self.jail, builder=self.builder, over=self._late)
        try:
            made = maker.make(task.structure.screened, task.points)
        except MachineryError as error:
            made = [str(error)] * len(task.points)
        for point, shot in zip(task.points, made, strict=True):
            if isinstance(shot, Shot):
                self.ready.put((task.structure, shot))
            else:
                self.failed.append(_failure(task.structure, point, shot))

    def close(self) -> None:
        self.builder.close()
        self.jail.close()


def _failure(structure: Structure, point: Point, why: str) -> dict[str, Any]:
    where = {"problem": structure.problem, "workload": point.workload.name, "structure": structure.name}
    return {**where, "parameters": dict(point.parameters), "why": why[:200]}


# --- Timing what is ready ---------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Trial:
    """One point and what each pass said of it."""

    structure: Structure
    shot: Shot
    rows: list[Row]
    why: str = ""


def trials_of(producer: Producer) -> list[Trial]:
    """Everything that builds, each machine code once, when the last of it is built."""
    found: dict[str, Trial] = {}
    while (ready := producer.ready.get()) is not None:
        structure, shot = ready
        found.setdefault(
            f"{structure.problem}{shot.workload}{shot.twin}", Trial(structure=structure, shot=shot, rows=[])
        )
    # Seeds first: a workload's first point is the anchor of its others.
    return sorted(found.values(), key=lambda t: t.structure.name != "seed")


def through(trials: Sequence[Trial], clock: Clock, deadline: float, passes: int) -> int:
    """Whole passes over all points, each in an order of its own; how many were made."""
    rng = random.Random(1)
    for number in range(passes):
        waiting: dict[tuple[str, str], list[Trial]] = {}
        order = list(trials) if number == 0 else rng.sample(trials, len(trials))
        for trial in order:
            if not trial.why:
                waiting.setdefault((trial.structure.problem, trial.shot.workload), []).append(trial)
        while any(waiting.values()):
            if time.monotonic() > deadline:
                return number
            key = max(waiting, key=lambda k: len(waiting[k]))
            batch, waiting[key] = waiting[key][:BATCH], waiting[key][BATCH:]
            owners = {id(trial.shot): trial for trial in batch}
            for shot, row in clock.time(key[0], [trial.shot for trial in batch]):
                if "us" in row:
                    owners[id(shot)].rows.append(row)
                else:
                    owners[id(shot)].why = str(row.get("why"))
    return passes


def settle(trials: Sequence[Trial], sheet: Sheet) -> None:
    """The median over the passes, and how far they were apart."""
    for trial in trials:
        structure = trial.structure
        if trial.why or not trial.rows:
            sheet.failed.append(_failure(structure, trial.shot.point, trial.why or "the time was up"))
            continue
        rows = sorted(trial.rows, key=lambda row: row["us"])
        middle = rows[(len(rows) - 1) // 2]
        spread = rows[-1]["us"] / rows[0]["us"] - 1
        sheet.add(structure.problem, structure.name, trial.shot, {**middle, "samples": len(rows), "spread": spread})
        sheet.sources[f"{structure.problem}/{structure.name}"] = structure.source


# --- What the machine code holds, loop by loop ------------------------------------------------------------------------


def loops_of(path: str) -> list[dict[str, Any]]:
    """Every loop's instructions with their modifiers where those tell, and the whole kernel's first."""
    cubin = Path(path) / "kernel.cubin"
    nvdisasm = sass.tool("nvdisasm")
    if nvdisasm is None or not cubin.is_file():
        return []
    done = subprocess.run([nvdisasm, "-c", cubin], capture_output=True, text=True, timeout=60, check=False)
    rows = list(sass._instructions(done.stdout))
    spans = [(0, 1 << 40), *sorted(set(sass._inside_loops(done.stdout)))]
    return [{"span": [low, min(high, rows[-1][0] if rows else 0)], **_inside(rows, low, high)} for low, high in spans]


def _inside(rows: Sequence[tuple[int, str, str]], low: int, high: int) -> dict[str, Any]:
    telling = ("HGMMA", "HMMA", "LDGSTS", "LDG", "STG", "MUFU", "UTMALDG", "LDS", "STS", "RED", "REDG", "ATOMG")
    counts = Counter(
        f"{opcode}{modifiers}" if opcode in telling else opcode for at, opcode, modifiers in rows if low <= at <= high
    )
    return {"instructions": dict(counts)}


# --- The whole --------------------------------------------------------------------------------------------------------


@contextmanager
def leased(clock: Any) -> Iterator[None]:
    if not isinstance(clock, GpuClock):
        yield
        return
    from evolve.judge.gpu.lease import lease

    with lease(clock.gpu.uuid, label="cost model data"):
        yield


def collect(out: Path, chosen: argparse.Namespace, target: Target, cache: Path) -> Sheet:
    began = time.monotonic()
    sheet = Sheet({"versions": {n: version(n) for n in ("torch", "triton")}, "stand_in": chosen.stand_in})
    producer = Producer(tasks(chosen.points), target, cache, began + chosen.build_seconds)
    with closing(producer):
        producer.start()
        clock: Any = StandIn(target) if chosen.stand_in else GpuClock(target)
        with closing(clock):
            trials = trials_of(producer)
            sheet.environment["build_seconds"] = round(time.monotonic() - began, 1)
            print(f"{len(trials)} points built in {sheet.environment['build_seconds']} s", flush=True)
            with leased(clock):
                held = time.monotonic()
                clock.begin()
                sheet.environment["passes"] = through(trials, clock, held + chosen.seconds, chosen.passes)
                sheet.environment["seconds"] = round(time.monotonic() - held, 1)
            sheet.environment |= clock.environment
        sheet.failed += producer.failed
        settle(trials, sheet)
        sheet.write(out)
        with ThreadPoolExecutor(os.cpu_count() or 2) as threads:
            loops = dict(zip(sheet.paths, threads.map(loops_of, sheet.paths.values()), strict=True))
        sheet.write(out, loops)
    return sheet


def table(sheet: Sheet) -> str:
    lines = [f"{'workload':<28} {'points':>6} {'structures':>10} {'fastest':>9} {'slowest':>9} us"]
    keys = sorted({(r["problem"], r["workload"]) for r in sheet.rows})
    for problem, workload in keys:
        rows = [r for r in sheet.rows if (r["problem"], r["workload"]) == (problem, workload)]
        times, names = [r["time_us"] for r in rows], {r["structure"] for r in rows}
        lines.append(
            f"{problem + '/' + workload:<28} {len(rows):>6} {len(names):>10} {min(times):>9.1f} {max(times):>9.1f}"
        )
    failed = Counter(f"{f['structure']}: {f['why'][:90]}" for f in sheet.failed)
    lines += [f"{n:>4} failed: {what}" for what, n in failed.most_common(12)]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=80.0, help="of timing, under the GPU's lease")
    parser.add_argument("--passes", type=int, default=3, help="over all points; the median counts")
    parser.add_argument("--build-seconds", type=float, default=150.0, help="after that no point is begun")
    parser.add_argument("--points", type=int, default=6, help="of a structure in each matmul workload")
    parser.add_argument("--target", default="sm_90")
    parser.add_argument("--stand-in", action="store_true")
    parser.add_argument("--cache", type=Path, help="keep what is built here between calls")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    out = chosen.out / "h200.json"
    with tempfile.TemporaryDirectory() as scratch:
        sheet = collect(out, chosen, find(chosen.target), chosen.cache or Path(scratch) / "build")
    print(table(sheet))
    print(f"{len(sheet.rows)} points in {sheet.environment['seconds']} s -> {out} ({out.stat().st_size >> 10} KiB)")


if __name__ == "__main__":
    main()
