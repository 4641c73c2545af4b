"""The outside witnesses, played by scripts: what they find, what they miss, and that nobody waits for them too long."""

import os
import sys
import time
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)

import gpu_fakes  # noqa: E402

from evolve.judge.stages import Ruling  # noqa: E402
from evolve.judge.witnesses import counters, profile, sanitize  # noqa: E402
from evolve.problem import load_problem  # noqa: E402
from evolve.types import Verdict  # noqa: E402

NCU = """==PROF== Connected to process 1
"ID","Kernel Name","dram__throughput.avg.pct_of_peak_sustained_elapsed","gpu__time_duration.sum"
"","","%","nsecond"
"0","part_kernel","41.5","12,345.6"
"1","add_kernel","80","n/a"
"""


@pytest.fixture
def tool(tmp_path, monkeypatch):
    def install(name, script):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    return install


@pytest.fixture
def subject(tmp_path):
    problem = load_problem(Path(HERE) / "gpu_problem.py")
    workload = problem.workload("ragged", problem.variant(None))
    return (
        problem,
        workload,
        gpu_fakes.lowered_for([workload], "honest", tmp_path),
        gpu_fakes.built_for("honest", tmp_path),
    )


def test_without_tools_the_evidence_says_so(subject, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert "not installed" in sanitize(*subject, gpu="0")["sanitizer"]
    assert "not installed" in profile(*subject, gpu="0")["profile"]


def test_nothing_found_is_said_for_each_tool(subject, tool):
    tool("compute-sanitizer", "echo ran to its end")
    assert sanitize(*subject, gpu="0")["sanitizer"] == {
        "workload": "ragged",
        "memcheck": "nothing found",
        "racecheck": "nothing found",
    }


def test_an_error_is_a_verdict_in_its_own_words(subject, tool):
    tool("compute-sanitizer", "echo '========= Invalid __global__ write of size 4 bytes'; exit 86")
    with pytest.raises(Ruling) as caught:
        sanitize(*subject, gpu="0")
    assert caught.value.verdict is Verdict.RUNTIME_ERROR
    assert "Invalid __global__ write of size 4 bytes" in caught.value.feedback


def test_a_tool_that_cannot_run_here_blames_nobody(subject, tool):
    tool("compute-sanitizer", "echo Device not supported; exit 1")
    assert "Device not supported" in sanitize(*subject, gpu="0")["sanitizer"]["memcheck"]


def test_a_tool_that_does_not_end_is_ended(subject, tool):
    tool("compute-sanitizer", "sleep 60")
    began = time.monotonic()
    assert "not done" in sanitize(*subject, gpu="0", seconds=0.3)["sanitizer"]["memcheck"]
    assert time.monotonic() - began < 5


def test_counters_are_read_by_launch(subject, tool, tmp_path):
    (tmp_path / "said.csv").write_text(NCU)
    tool("ncu", f"cat {tmp_path / 'said.csv'}")
    found = profile(*subject, gpu="0")["profile"]
    assert found["launches"] == [
        {"kernel": "part_kernel", "dram_percent": 41.5, "duration": 12345.6},
        {"kernel": "add_kernel", "dram_percent": 80.0},
    ]


@pytest.mark.parametrize("text", ["", "nothing\n", '"a","b"\n', NCU[:60]])
def test_anything_else_gives_no_counters(text):
    assert counters(text) == []
