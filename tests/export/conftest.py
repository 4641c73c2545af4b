"""A journal with one passed candidate of a shipped problem, as a run without a GPU leaves it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from evolve.journal import Journal
from evolve.problem import load_problem
from evolve.types import Asked, Candidate, Evaluation, Judged, Measurement, Prompt, Verdict

ROOT = Path(__file__).parent.parent.parent
PROBLEMS = ("matmul", "attention", "paged_decode", "layernorm_residual", "matmul_gelu")


def make_run(folder, name, *, variant=None, verdict=Verdict.PASSED, path=None, seed=None, candidates=1, modelled=True):
    """`runs/<name>` in the folder; its problem is the shipped one's file, if no other is given. Candidates differ in a
    comment."""
    path, seed = path or ROOT / "evaluators" / f"{name}.py", seed or ROOT / "seeds" / f"{name}.py"
    problem = load_problem(path)
    source = seed.read_text()
    timed = problem.of_role("time", problem.variant(variant))
    measured = tuple(
        Measurement(
            workload=w.name,
            baseline="seed (modelled)",
            time_us=10.0,
            ratio=1.5,
            ratio_low=1.5,
            ratio_high=1.5,
            parameters={"num_warps": 8},
            modelled=modelled,
        )
        for w in timed
    )
    seeds = [str(seed)]
    text = {
        "problem": str(path),
        "backend": "cpu",
        "seeds": seeds,
        "budget": {"steps": 1},
        **({"variant": variant} if variant else {}),
    }
    run = folder / "runs" / name
    meta = {"problem": name, "problem_digest": problem.digest, "ranking_key": "modelled|sm_90"}
    environment = {"versions": {"triton": "3.7.1", "torch": "2.13.0"}, "secret": "not to be shown"}
    with Journal.create(run, config_text=yaml.safe_dump(text), environment=environment, meta=meta) as journal:
        evaluation = Evaluation(
            verdict=verdict,
            feedback="" if verdict is Verdict.PASSED else "wrong",
            stage="time",
            measurements=measured if verdict is Verdict.PASSED else (),
            ranking_key="modelled|sm_90",
            evidence={"environment": {"device": "NVIDIA H200"}, "certificate": [{"op": "tt.dot"}]},
        )
        for step in range(candidates):
            text = source + "# another\n" * step
            candidate = Candidate(step=step, source=text, member="seed", kind="seed")
            journal.append(Asked(step=step, member="seed", prompt=Prompt(system="", user="", kind="seed")))
            journal.append(Judged(step=step, candidate=candidate, evaluation=evaluation))
    return run


@pytest.fixture(scope="session")
def package(tmp_path_factory):
    """A matmul package that was exported without a GPU, and what was reported."""
    from evolve import exporting

    folder = tmp_path_factory.mktemp("export")
    make_run(folder, "matmul", variant="fp16")
    before = exporting.RUNS
    exporting.RUNS = folder / "runs"
    try:
        report = exporting.export(exporting.Order(targets=("matmul",), to=folder / "fast_matmul"))
    finally:
        exporting.RUNS = before
    return report


@pytest.fixture
def imported(package, monkeypatch):
    """The package's module, as a user imports it."""
    import importlib

    monkeypatch.syspath_prepend(str(package.folder.parent))
    return importlib.import_module(package.name)


def fresh(code, folder, **environment):
    """A process that knows the folder of packages and nothing of evolve."""
    import os
    import subprocess

    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), **environment},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
