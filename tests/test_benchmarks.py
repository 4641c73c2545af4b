"""Benchmarks that anyone can run must run; what they print is nobody's test."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize(
    ("name", "arguments", "prints"),
    [
        ("loop.py", ["--steps", "60", "--resume-steps", "60"], "ms a step, overall"),
        ("judge.py", ["--help"], "--parts"),
    ],
)
def test_it_runs(name: str, arguments: list[str], prints: str) -> None:
    command = [sys.executable, str(BENCHMARKS / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert prints in done.stdout
