"""Benchmarks that anyone can run must run; what they print is nobody's test."""

import json
import runpy
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evolve.config import load_config
from evolve.journal import Journal
from evolve.judge.screen import screen
from evolve.problem import load_problem

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize(
    ("name", "arguments", "prints"),
    [
        ("loop.py", ["--steps", "60", "--resume-steps", "60"], "ms a step, overall"),
        ("judge.py", ["--help"], "--parts"),
        ("scale.py", ["--help"], "--seconds"),
        ("throughput.py", ["--help"], "--seconds"),
        ("tuner.py", ["--seeds", "1", "--budget", "12"], "tuner, priors"),
        ("tuner_replay.py", ["--seeds", "1"], "at most 2% off"),
    ],
)
def test_it_runs(name: str, arguments: list[str], prints: str) -> None:
    command = [sys.executable, str(BENCHMARKS / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert prints in done.stdout


def test_the_trace_is_what_it_says() -> None:
    """Honest kernels are many and different, one in twenty hangs, one crashes, and the screen lets all of them by."""
    found = runpy.run_path(str(BENCHMARKS / "replies.py"))
    made, kinds = found["load"](), Counter(reply.kind for reply in found["load"]())
    assert kinds == {"honest": 144, "hang": 8, "crash": 8}
    assert all(reply.kind == "honest" for reply in made[: found["EARLIEST"]])
    found["check"](made)
    assert len({screen(reply.source, entry="matmul").digest for reply in made[::4]}) == len(made[::4])


@pytest.mark.slow
def test_engines_are_compared_where_there_is_no_gpu(tmp_path: Path) -> None:
    """Real engines, played judging: ours and a fresh interpreter lose nothing, one poisoned process loses the rest."""
    command = [sys.executable, str(BENCHMARKS / "throughput.py"), "--out", str(tmp_path), "--seconds", "5", "--fake"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = {row["engine"]: row for row in json.loads((tmp_path / "throughput.json").read_text())["engines"]}
    assert all("failed" not in row for row in rows.values())
    assert all(row["verdicts"] > 5 for row in rows.values())
    assert rows["ours"]["lost"] == rows["fresh"]["lost"] == rows["behind"]["lost"] == 0
    assert rows["plain"]["honest_told_of_a_fault"] > 0
    assert not [p for p in Path("/proc").glob("[0-9]*/environ") if _marked(p)], "nothing of it lives on"


def _marked(environ: Path) -> bool:
    try:
        return b"EVOLVE_THROUGHPUT=" in environ.read_bytes()
    except OSError:
        return False


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


def test_replies_to_another_run_come_in_as_candidates_proposed_by_hand(place: Any) -> None:
    """With what they predicted, and as children of the seed: nothing but the run's own judge makes them the best."""
    assert place.evolve("run", "-c", place.config(steps=2)).status == 0
    run, reply = Path("runs/fake-001"), Path("00042.reply.md")
    reply.write_text(
        "---\nmodel: me\n---\nHypothesis: larger tiles.\nPrediction: fake -10 %\n\n"
        "```python\n# fake: score=7.000\nx = 31\n```\n"
    )
    runpy.run_path(str(BENCHMARKS / "proof.py"))["propose"](run, [reply])
    assert place.evolve("run", "-c", "fake.yaml", "--resume", "--set", "budget.steps=4").status == 0
    with Journal.open(run) as journal:
        best = journal.attempt(journal.resolve("best")).candidate
        assert (best.member, best.hypothesis, best.prediction) == ("claude", "larger tiles.", "fake -10 %")
        assert best.parent_id == journal.resolve("0")
