"""`evolve init NAME`: what it writes runs at once, and nothing is ever overwritten."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from evolve import checking, newproblem
from evolve.adopt.place import free
from evolve.config import load_config
from evolve.errors import UsageError
from evolve.judge.screen import screen
from evolve.problem import load_problem


def init(name, **more):
    return newproblem.make(newproblem.Order(name=name, **more), Console(file=io.StringIO()))


def test_what_it_writes_is_fit_for_use_and_its_seed_passes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert init("my_norm") == 0
    found = [f for _, f in checking.check("evaluators/my_norm.py", variant="bf16", backend="cpu")]
    assert not [f for f in found if f.state == "wrong"]
    assert "seed" in [f.what for f in found if f.state == "ok"]


def test_the_configuration_names_what_was_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    init("my_norm")
    config = load_config(Path("configs/my_norm.yaml"), ())
    problem = load_problem(config.problem)
    assert problem.variant(config.variant).name == "bf16"
    assert screen(Path(config.seeds[0]).read_text(), entry=problem.entry).tune


def test_every_field_of_the_problem_has_its_comment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    init("my_norm")
    lines = Path("configs/my_norm.yaml").read_text().splitlines()
    keys = [i for i, line in enumerate(lines) if line[0] not in "# "]
    assert all(lines[i - 1].startswith("#") for i in keys if not lines[i].startswith("target"))


def test_nothing_is_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    Path("configs/my_norm.yaml").write_text("mine")
    with pytest.raises(UsageError, match=r"configs/my_norm.yaml: there already"):
        init("my_norm")
    assert [p for p in Path().rglob("*") if p.is_file()] == [Path("configs/my_norm.yaml")]
    assert Path("configs/my_norm.yaml").read_text() == "mine"


@pytest.mark.parametrize("name", ["My-Norm", "class", "torch", "", "a b", "../x", "1st", "ü"])
def test_a_name_that_would_not_do_as_a_function_is_refused(name):
    with pytest.raises(UsageError, match="does not do as a problem's name"):
        free(name)


@pytest.mark.parametrize(
    ("more", "said"),
    [({"kernel": "a.py:f"}, "go together"), ({"model": Path("m.py"), "kernel": "a.py:f"}, "leave the others out")],
)
def test_options_that_do_not_go_together(more, said):
    with pytest.raises(UsageError, match=said):
        init("my_norm", **more)
