"""The evaluator that `throughput.py` gives to `openevolve-run`: one of three ways to judge, and a line for each call.

THROUGHPUT_WAY is `plain` (in this process), `fresh` (a new interpreter a candidate, killed when it is late) or `ours`
(our judge behind `evaluate`). THROUGHPUT_LOG is the file that a line is written to when a call begins and when it ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE), str(HERE.parent)]

import plain_judge  # noqa: E402
import replies  # noqa: E402

WAY = os.environ["THROUGHPUT_WAY"]
SECONDS = float(os.environ["THROUGHPUT_TIMEOUT"])


def told(**row: Any) -> None:
    with open(os.environ["THROUGHPUT_LOG"], "a", encoding="utf-8") as file:
        file.write(json.dumps({"at": time.time(), **row}) + "\n")


def fresh(path: str) -> tuple[float, str]:
    command = [sys.executable, str(HERE / "plain_judge.py"), path]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            said, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return 0.0, "timeout"
    if process.returncode:
        return 0.0, f"ended with {process.returncode}"
    found = json.loads(said.decode().strip().splitlines()[-1])
    return found["score"], found["why"]


def plain(path: str) -> tuple[float, str]:
    try:
        return plain_judge.judge(path), ""
    except Exception as error:
        return 0.0, f"{type(error).__name__}: {error}"[:300]


def ours(path: str) -> tuple[float, str]:
    found = judge_of_ours()(path)
    score, said = float(found.metrics["combined_score"]), found.artifacts
    return score, "" if score else f"{said.get('verdict')}: {said.get('feedback', '')}"[:300]


_ours: list[Any] = []


def judge_of_ours() -> Any:
    if not _ours:
        from evolve.interop.evaluate import evaluator

        backend = "fake" if os.environ.get("THROUGHPUT_FAKE") else "gpu"
        _ours.append(evaluator(os.environ["THROUGHPUT_PROBLEM"], variant="bf16", backend=backend))
    return _ours[0]


def evaluate(program_path: str) -> dict[str, float]:
    number = replies.which(Path(program_path).read_text(encoding="utf-8"))
    who = {"number": number[0], "kind": number[1]} if number else {"number": -1, "kind": "seed"}
    told(did="began", **who)
    score, why = {"plain": plain, "fresh": fresh, "ours": ours}[WAY](program_path)
    told(did="ended", **who, score=score, why=why)
    return {"combined_score": score}
