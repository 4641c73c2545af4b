"""The library's call, taken out of a problem's file: torch alone, the same answers, evolve refused by name."""

import re
import subprocess
import sys

import pytest
import torch

from evolve.errors import ProblemError
from evolve.export.source import library_source
from evolve.problem import load_problem

from .conftest import PROBLEMS, ROOT

HEAD = "import torch\nfrom evolve.problem import Problem, Baseline\nfrom evolve.types import Workload\n"


@pytest.mark.parametrize("name", PROBLEMS)
def test_it_answers_as_the_problem_says(name, tmp_path):
    problem = load_problem(ROOT / "evaluators" / f"{name}.py")
    text = library_source(ROOT / "evaluators" / f"{name}.py").text
    assert not re.search(r"^\s*(from|import) evolve", text, re.MULTILINE)
    space = {}
    exec(compile(text, "baseline.py", "exec", dont_inherit=True), space)
    for workload in problem.small(problem.variant("fp16")):
        arguments = problem.make_inputs(workload, "cpu", 3)
        ours, theirs = space["library"](*arguments), problem.fallback(*arguments)
        for a, b in zip(*((x if isinstance(x, tuple) else (x,)) for x in (ours, theirs)), strict=True):
            assert torch.equal(a, b)


def test_a_gradient_is_taken_along():
    assert library_source(ROOT / "evaluators" / "matmul.py").has_gradient
    assert not library_source(ROOT / "evaluators" / "attention.py").has_gradient


def written(tmp_path, body):
    path = tmp_path / "problem.py"
    path.write_text(HEAD + body)
    return path


def test_what_it_uses_comes_along_and_nothing_else(tmp_path):
    body = (
        "import math\nfrom functools import cache\nSCALE = 2.0\nOTHER = 1\n\n"
        "@cache\ndef factor(n: int):\n    return SCALE * n\n\n"
        "def unused(w: Workload):\n    return w\n\n"
        "def double(call):\n    def run(x):\n        return call(x) * factor(1)\n    return run\n\n"
        "def rounded(x, w: Workload = None):\n    return torch.round(x)\n\n"
        "BASE = (Baseline(name='a', call=double(rounded)),)\nPROBLEM = Problem(name='p', baselines=BASE)\n"
    )
    taken = library_source(written(tmp_path, body)).text
    assert "library = double(rounded)" in taken
    assert "OTHER" not in taken
    assert "unused" not in taken
    assert "import math" not in taken
    out = tmp_path / "baseline.py"
    out.write_text(taken)
    code = "import torch, baseline; print(baseline.library(torch.tensor([1.4])).item())"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2.0"


def test_a_module_beside_the_problem_comes_along(tmp_path):
    (tmp_path / "ref.py").write_text("def right(x):\n    return x\n")
    path = written(tmp_path, "from ref import right as correct\nPROBLEM = Problem(library=correct, baselines=())\n")
    taken = library_source(path)
    assert "from .ref import right as correct" in taken.text
    assert taken.files == {"ref.py": "def right(x):\n    return x\n"}


def test_an_adopted_kernel_comes_along_and_is_imported_late(tmp_path):
    """As `evolve init --kernel` writes it."""
    (tmp_path / "mine.py").write_text("import triton_that_is_not_there\n\ndef fast(*, x):\n    return x\n")
    (tmp_path / "ref.py").write_text("def right(x):\n    return x + 1\n")
    (tmp_path / "evaluators").mkdir()
    body = (
        "from typing import Any\nfrom evolve.adopt import own\n"
        "FILE, REFERENCE = own.load(__file__, '../ref.py:right')\n"
        "ORIGINAL = own.Original(__file__, '../mine.py:fast')\n\n"
        "def original(x: Any) -> Any:\n    return REFERENCE(x) if x > 1 else ORIGINAL(x=x)\n\n"
        "PROBLEM = Problem(name='p', baselines=(Baseline(name='original', call=original),))\n"
    )
    taken = library_source(written(tmp_path / "evaluators", body))
    assert set(taken.files) == {"own_mine.py", "own_ref.py"}
    package = tmp_path / "package"
    package.mkdir()
    for name, text in {**taken.files, "baseline.py": taken.text, "__init__.py": ""}.items():
        (package / name).write_text(text)
    code = "from package import baseline; print(baseline.library(2)); baseline.library(1)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "3"
    assert "triton_that_is_not_there" in done.stderr


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def lib(x):\n    return Workload(x)\n\nPROBLEM = Problem(library=lib)\n", "may not import evolve"),
        ("PROBLEM = Problem(baselines=())\n", "declare `library=`"),
        ("PROBLEM = Problem(baselines=[b for b in ()])\n", "declare `library=`"),
        ("MADE = Problem()\nPROBLEM = MADE\n", "not written as Problem"),
    ],
)
def test_what_cannot_be_taken_is_said(body, said, tmp_path):
    with pytest.raises(ProblemError, match=said):
        library_source(written(tmp_path, body))
