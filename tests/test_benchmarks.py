"""Benchmarks that anyone can run must run; what they print is nobody's test."""

import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from evolve.config import load_config
from evolve.problem import load_problem

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize(
    ("name", "arguments", "prints"),
    [
        ("loop.py", ["--steps", "60", "--resume-steps", "60"], "ms a step, overall"),
        ("judge.py", ["--help"], "--parts"),
        ("scale.py", ["--help"], "--seconds"),
        ("tuner.py", ["--seeds", "1", "--budget", "12"], "tuner, priors"),
        ("tuner_replay.py", ["--seeds", "1"], "at most 2% off"),
    ],
)
def test_it_runs(name: str, arguments: list[str], prints: str) -> None:
    command = [sys.executable, str(BENCHMARKS / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert prints in done.stdout


def test_a_search_and_its_table_mean_the_same_by_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was chosen for a size in the search is what the table's size of that name starts from."""
    monkeypatch.chdir(BENCHMARKS.parent)
    tables = runpy.run_path(str(BENCHMARKS / "proof.py"))["TABLES"]
    configs = {p.stem for p in Path("configs/proof").glob("*.yaml")}
    assert set(tables) <= configs
    for name, table in tables.items():
        known = {w.name: w for w in load_problem(table.problem).workloads if w.role == "time"}
        assert set(table.workloads) <= set(known)
        searched = load_config(f"configs/proof/{name}.yaml").workloads
        assert [replace(w, weight=1.0) for w in searched] == [known[w.name] for w in searched]
