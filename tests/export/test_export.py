"""`evolve export` on a machine without a GPU: what is written, what is said, what is refused."""

import json
import shutil

import pytest

from evolve import exporting
from evolve.errors import MachineryError, UsageError
from evolve.export import package as writing
from evolve.types import Verdict

from .conftest import PROBLEMS, fresh, make_run

LISTED = ("__init__.py", "kernels.py", "dispatch.json", "provenance.json", "problem.py")
LISTED += ("test_fast_matmul.py", "bench.py", "README.md", "pyproject.toml")


def test_the_folder_is_as_promised(package):
    assert not [name for name in LISTED if not (package.folder / name).is_file()]
    assert sorted(p.name for p in package.folder.parent.iterdir()) == ["fast_matmul", "runs"]
    assert package.import_seconds < 0.2


def test_modelled_times_are_called_so_everywhere(package):
    table = json.loads((package.folder / "dispatch.json").read_text())
    assert {row["parameters"] for row in table["rows"]} == {"baseline"}
    assert not any(row["verified"] for row in table["rows"])
    assert json.loads((package.folder / "provenance.json").read_text())["times"].startswith("modelled")
    assert "a model's" in (package.folder / "README.md").read_text()
    assert any("a model's" in s and "evolve refresh" in s for s in package.sentences)


def test_measured_times_are_called_so_though_nobody_verified_the_package(runs):
    make_run(runs, "matmul", variant="fp16", modelled=False)
    report = exporting.export(exporting.Order(targets=("matmul",)))
    text = (report.folder / "README.md").read_text()
    assert "a model's" not in text + " ".join(report.sentences)
    assert "Nothing yet of this package" in text
    assert "- 4096: 10.00 µs, 1.500 [1.500, 1.500] × seed (modelled)" in text


def test_it_carries_evidence_and_no_secrets(package):
    text = (package.folder / "provenance.json").read_text()
    found = json.loads(text)["candidates"]["kernels"]
    assert found["certificate"] == [{"op": "tt.dot"}]
    assert found["lineage"][0]["id"] == found["candidate"]
    assert {m["ratio"][0] for m in found["measurements"]} == {1.5}
    assert "not to be shown" not in text
    assert "/" not in json.dumps(json.loads(text)["environment"])


def test_it_needs_nothing_of_evolve(package):
    code = "import sys, fast_matmul; print([m for m in sys.modules if m.startswith(('evolve', 'triton'))])"
    assert fresh(code, package.folder.parent).strip() == "[]"  # triton comes with the first kernel


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(said, *targets, **more):
    with pytest.raises(UsageError, match=said):
        exporting.export(exporting.Order(targets=targets, **more))


def test_refusals_say_what_to_do_and_leave_nothing(runs):
    run = make_run(runs, "matmul", variant="fp16")
    (runs / "taken").mkdir()
    refused("exists already", "matmul", to=runs / "taken")
    refused("no folder", "matmul", to=runs / "no" / "where")
    refused("expected a lower-case Python name", "matmul", name="Fast-Matmul")
    refused("names something else", "matmul", name="torch")
    shutil.move(run, runs / "runs" / "old")
    make_run(runs, "matmul", variant="fp16", verdict=Verdict.INCORRECT)
    refused("only what PASSED", "matmul:0")
    refused("of one run", "old", "matmul:0")
    assert sorted(p.name for p in runs.iterdir()) == ["runs", "taken"]


def test_another_problem_file_than_was_judged_is_refused(runs, monkeypatch):
    make_run(runs, "matmul", variant="fp16")
    monkeypatch.setattr(exporting.wiring, "problem", lambda config: _changed(config))
    refused("has changed since", "matmul")


def _changed(config):
    from dataclasses import replace

    from evolve.problem import load_problem

    return replace(load_problem(config.problem), digest="0123")


def test_a_package_that_fails_its_trial_is_not_exported(runs, monkeypatch):
    make_run(runs, "matmul", variant="fp16")
    own = writing._template
    broken = "raise RuntimeError('broken on purpose')\n"
    monkeypatch.setattr(writing, "_template", lambda n: broken if n == "_table.py" else own(n))
    with pytest.raises(MachineryError, match="broken on purpose"):
        exporting.export(exporting.Order(targets=("matmul",)))
    assert sorted(p.name for p in runs.iterdir()) == ["runs"]


def test_a_library_that_answers_wrongly_is_refused(runs, monkeypatch):
    make_run(runs, "matmul", variant="fp16")
    monkeypatch.setattr(writing, "library_source", lambda path: _zeros())
    refused("does not hold", "matmul")


def _zeros():
    from evolve.export.source import Taken

    return Taken(text="import torch\n\ndef library(a, b):\n    return torch.matmul(a, b) * 0\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_shipped_problem_exports_and_falls_back_in_every_way(name, runs):
    make_run(runs, name, variant="fp16")
    report = exporting.export(exporting.Order(targets=(name,)))
    assert (report.folder / "kernels.py").is_file()
    assert all(not case["wrong"] for row in report.trial["workloads"].values() for case in row["cases"])
    assert fresh(WAYS.format(name=name), runs).strip().endswith("done")


WAYS = """
import importlib, torch
from evolve.problem import load_problem
module, dispatch = importlib.import_module("fast_{name}"), importlib.import_module("fast_{name}._dispatch")
problem = load_problem("fast_{name}/problem.py")
call = getattr(module, problem.entry)
listed = lambda made: list(made) if isinstance(made, (tuple, list)) else [made]

class Model(torch.nn.Module):
    def forward(self, *arguments):
        return call(*arguments)

def compiled(*arguments):
    torch._dynamo.reset()
    return torch.compile(call, fullgraph=True, backend="aot_eager")(*arguments)

def into(*arguments):
    made = listed(dispatch.LIBRARY(*arguments))
    outs = tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in made)
    return call(*arguments, out=outs[0] if len(outs) == 1 else outs)

for workload in problem.small(problem.variant("fp16")):
    arguments = problem.make_inputs(workload, "cpu", 1)
    expected = dispatch.LIBRARY(*arguments)
    ways = (call, compiled, into, lambda *a: torch.export.export(Model(), a).module()(*a))
    for way in ways:
        made = way(*arguments)
        assert type(made) is type(expected), (way, type(made))
        for ours, theirs in zip(listed(made), listed(expected), strict=True):
            torch.testing.assert_close(ours, theirs)
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(dispatch.OPERATOR, tuple(arguments), test_utils=tests)
    for way in (call, compiled, dispatch.OPERATOR):
        floating = lambda a: isinstance(a, torch.Tensor) and a.is_floating_point()
        given = [a.clone().requires_grad_() if floating(a) else a for a in arguments]
        sum(t.float().sum() for t in listed(way(*given))).backward()
        assert all(a.grad is not None for a in given if floating(a)), way

def targets(*arguments):
    from torch._dynamo.backends.common import aot_autograd

    found = []
    def look(graph, inputs):
        found.extend(str(n.target) for n in graph.graph.nodes if n.op == "call_function")
        return graph.forward
    torch._dynamo.reset()
    torch.compile(call, fullgraph=True, backend=aot_autograd(fw_compiler=look))(*arguments)
    return found

with torch.no_grad():
    ours = [t for t in targets(*arguments) if t.startswith("fast_")]
assert bool(ours) is (dispatch.GRADIENT is not None), ours  # fixed sizes and no kernel: the library's own operations
print("done")
"""


def test_it_may_be_renamed_and_be_a_part_of_another_package(package, tmp_path):
    """Vendored, as people do it: the operator's name follows, the switch is called by the last part of it."""
    for place in (tmp_path / "quick_matmul", tmp_path / "project" / "kernels" / "fast_matmul"):
        shutil.copytree(package.folder, place, ignore=shutil.ignore_patterns("__pycache__"))
    code = """
import torch, fast_matmul, quick_matmul
from project.kernels import fast_matmul as own
a, b = torch.randn(3, 4), torch.randn(4, 5)
ops = torch.ops.fast_matmul.matmul, torch.ops.quick_matmul.matmul, torch.ops.project_kernels_fast_matmul.matmul
for call in (fast_matmul.matmul, quick_matmul.matmul, own.matmul, *ops):
    assert torch.equal(call(a, b), a @ b)
print(own._dispatch._choice.FORCE, repr(quick_matmul._dispatch._choice.FORCE))
"""
    path = f"{package.folder.parent}:{tmp_path}"
    assert fresh(code, tmp_path, PYTHONPATH=path, FAST_MATMUL_FORCE="baseline").split() == ["baseline", "''"]


@pytest.mark.slow
def test_its_tests_run_as_a_ci_job_runs_them(package, tmp_path):
    """`pytest kernels`, from above, with two packages in it: what needs a GPU skips by name."""
    for name in ("fast_matmul", "quick_matmul"):
        shutil.copytree(package.folder, tmp_path / "kernels" / name, ignore=shutil.ignore_patterns("__pycache__"))
    table = tmp_path / "kernels" / "quick_matmul" / "dispatch.json"
    table.write_text(table.read_text().replace('"name": "fast_matmul"', '"name": "quick_matmul"'))
    code = "import pytest; raise SystemExit(pytest.main(['-rs', '-p', 'no:cacheprovider', 'kernels']))"
    said = fresh(code, tmp_path, PYTHONPATH="")
    assert "4 passed, 8 skipped" in said
    assert "no GPU here: the kernel cannot run" in said
