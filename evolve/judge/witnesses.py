"""Outside witnesses for what is confirmed on a GPU, where they are installed and allowed.

compute-sanitizer looks for accesses out of bounds and for races, Nsight Compute reads counters, so that a hypothesis
can be held against them. They slow a process down a hundredfold, so they see few launches, and never the clock. Where
they cannot run, the evidence says why; what they do not find is no proof of anything.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evolve.judge.check import contestant, plan_of
from evolve.judge.gpu.facts import workload_to
from evolve.judge.gpu.pool import surroundings
from evolve.judge.plan import Lowered
from evolve.judge.stages import Built, Ruling
from evolve.problem import Problem
from evolve.types import Json, Verdict, Workload

STAGE = "confirm"
SECONDS = 120.0
FOUND = 86  # the exit code that the sanitizer is asked for when it finds something
TOOLS = ("memcheck", "racecheck")
COUNTERS = {
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "sm_percent",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "dram_percent",
    "lts__t_sector_hit_rate.pct": "l2_hit_percent",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "occupancy_percent",
    "sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active": "tensor_percent",
    "gpu__time_duration.sum": "duration",
}


def sanitize(
    problem: Problem, workload: Workload, lowered: Lowered, built: Built, *, gpu: str, seconds: float = SECONDS
) -> dict[str, Json]:
    """What compute-sanitizer says of one small workload; raises `Ruling` if it finds an error in it."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return {"sanitizer": "not run: compute-sanitizer is not installed"}
    said: dict[str, Json] = {"workload": workload.name}
    for check in TOOLS:
        command = [tool, "--tool", check, "--error-exitcode", str(FOUND), "--print-limit", "3"]
        ended = _alone(command, problem, workload, lowered, built, gpu, seconds)
        said[check] = _word(ended, seconds)
        if ended is not None and ended.returncode == FOUND:
            raise Ruling(
                Verdict.RUNTIME_ERROR,
                f'compute-sanitizer ({check}) on workload "{workload.name}": {_gist(ended.stdout)}',
                stage=STAGE,
                evidence={"sanitizer": {**said, "log": ended.stdout[-4000:]}},
            )
    return {"sanitizer": said}


def profile(
    problem: Problem, workload: Workload, lowered: Lowered, built: Built, *, gpu: str, seconds: float = SECONDS
) -> dict[str, Json]:
    """Counters of each launch of one workload, by Nsight Compute. Clocks are left as they are."""
    tool = shutil.which("ncu")
    plan = plan_of(lowered, workload.name)
    if tool is None or plan is None:
        return {"profile": "not measured: ncu is not installed" if tool is None else "not measured: no plan"}
    names = "|".join(sorted({built.of(launch).name for launch in plan.launches}))
    command = [tool, "--clock-control", "none", "--csv", "--page", "raw", "--kernel-name", f"regex:^({names})$"]
    command += ["--launch-count", str(len(plan.launches)), "--metrics", ",".join(COUNTERS)]
    ended = _alone(command, problem, workload, lowered, built, gpu, seconds)
    if ended is None or ended.returncode != 0:
        return {"profile": f"not measured: {_word(ended, seconds)}"}
    return {"profile": {"workload": workload.name, "launches": counters(ended.stdout)}}


def counters(text: str) -> list[dict[str, Json]]:
    """One object a launch from ncu's raw page: names, then units, then values."""
    lines = [line for line in text.splitlines() if line.startswith('"')]
    rows = list(csv.DictReader(io.StringIO("\n".join(lines))))
    return [_launch(row) for row in rows[1:]]  # the first row holds the units


def _launch(row: Mapping[str, str]) -> dict[str, Json]:
    found: dict[str, Json] = {"kernel": row.get("Kernel Name", "")}
    for counter, name in COUNTERS.items():
        try:
            found[name] = float(row[counter].replace(",", ""))
        except (KeyError, ValueError):
            continue  # a counter that this chip or this permission does not give
    return found


def _alone(
    command: Sequence[str],
    problem: Problem,
    workload: Workload,
    lowered: Lowered,
    built: Built,
    gpu: str,
    seconds: float,
) -> subprocess.CompletedProcess[str] | None:
    """None where its time was up. The tool and all it started go then."""
    plan = plan_of(lowered, workload.name)
    assert plan is not None, f"no plan for {workload.name}"
    order = {"problem": problem.path, "workload": workload_to(workload), "candidate": contestant(plan, built)}
    environment = surroundings({"CUDA_VISIBLE_DEVICES": gpu, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})
    with tempfile.TemporaryDirectory(prefix="evolve-confirm-") as folder:
        path = Path(folder) / "order.json"
        path.write_text(json.dumps(order), encoding="utf-8")
        process = subprocess.Popen(
            [*command, sys.executable, "-m", "evolve.judge.gpu.alone", str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**environment, "TMPDIR": folder},
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.communicate()
            return None
    return subprocess.CompletedProcess(command, process.returncode, said, "")


def _word(ended: subprocess.CompletedProcess[str] | None, seconds: float) -> str:
    if ended is None:
        return f"not done after {seconds:g} s"
    if ended.returncode == 0 and "ran to its end" in ended.stdout:
        return "nothing found"
    if ended.returncode == FOUND:
        return "errors found"
    return f"it could not run here: {ended.stdout.strip()[-300:]}"


def _gist(text: str) -> str:
    """The first report's own words, without addresses and stack frames of ours."""
    lines = [line.lstrip("= ").strip() for line in text.splitlines() if line.startswith("=========")]
    telling: list[Any] = [x for x in lines if x and not x.startswith(("COMPUTE-SANITIZER", "Saved host", "Host Frame"))]
    return "; ".join(telling[:4])[:600] or "errors found"
