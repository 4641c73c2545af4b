"""Packages of kernels that write into their arguments: a rotary embedding with its cache."""

import importlib
import json
from pathlib import Path

import pytest
import torch

from evolve.problem import load_problem

from . import fake_cuda
from .conftest import fresh, make_run

PROBLEM = Path(__file__).parent / "rope_problem.py"
# It adds one to q and writes down that it ran: what was called twice is seen.
KERNELS = """import torch
from fake_cuda import jit


@jit
def add_kernel(q_ptr, n, BLOCK):
    at(q_ptr, n).add_(1)


def rope_and_cache(q, k, v, cos, sin, k_cache, v_cache, slots, *, BLOCK=64, num_warps=4):
    add_kernel[(1,)](q, q.numel(), BLOCK=BLOCK, num_warps=num_warps)
"""
WRITTEN = ("q", "k", "k_cache", "v_cache")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    from evolve import exporting

    folder = tmp_path_factory.mktemp("in_place")
    (folder / "seed.py").write_text(KERNELS)
    make_run(folder, "rope", path=PROBLEM, seed=folder / "seed.py")
    before = exporting.RUNS
    exporting.RUNS = folder / "runs"
    try:
        return exporting.export(exporting.Order(targets=("rope",), to=folder / "fast_rope", name="fast_rope"))
    finally:
        exporting.RUNS = before


@pytest.fixture
def rope(made, monkeypatch):
    monkeypatch.syspath_prepend(str(made.folder.parent))
    module = importlib.import_module("fast_rope")
    importlib.import_module("fast_rope._dispatch").KNOWN.clear()
    return module


def drawn(seed=1):
    problem = load_problem(PROBLEM)
    return problem, problem.make_inputs(problem.interpreted[0], "cpu", seed)


def held(call, seed=1):
    """A call on copies writes what the library writes, into the same arguments and no others, and returns nothing."""
    problem, arguments = drawn(seed)
    ours, theirs = ([a.clone() for a in arguments] for _ in range(2))
    assert call(*ours) is None
    problem.library(*theirs)
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y)


def test_what_is_written_is_declared(made, rope):
    schema = str(torch.ops.fast_rope.rope_and_cache.default._schema)
    assert schema == (
        "fast_rope::rope_and_cache(Tensor(a!) q, Tensor(b!) k, Tensor v, Tensor cos, Tensor sin, "
        "Tensor(c!) k_cache, Tensor(d!) v_cache, Tensor slots) -> ()"
    )
    call = json.loads((made.folder / "dispatch.json").read_text())["call"]
    assert call["results"] == list(WRITTEN)
    assert call["distinct"] == ["slots"]  # a test that gives one slot twice has two writers there
    assert all(not c["wrong"] for row in made.trial["workloads"].values() for c in row["cases"])
    assert "It writes into q, k, k_cache and v_cache." in (made.folder / "README.md").read_text()


def test_eager_operator_and_compiled_graph_write_the_same(rope):
    held(rope.rope_and_cache)
    held(rope.rope_and_cache, seed=2)  # known now
    held(torch.ops.fast_rope.rope_and_cache.default)
    torch._dynamo.reset()
    compiled = torch.compile(rope.rope_and_cache, fullgraph=True, backend="aot_eager")
    held(compiled)
    held(compiled, seed=3)

    def used_after(*arguments):
        rope.rope_and_cache(*arguments)
        return arguments[0] + 1  # of what was written, not of what was there before

    _, arguments = drawn()
    expected = used_after(*(a.clone() for a in arguments))
    torch.testing.assert_close(torch.compile(used_after, fullgraph=True, backend="aot_eager")(*arguments), expected)


def test_the_operator_is_registered_as_torch_wants_it(rope):
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(torch.ops.fast_rope.rope_and_cache.default, tuple(drawn()[1]), test_utils=tests)


def test_exported_programs_write_as_well(rope):
    class Model(torch.nn.Module):
        def forward(self, *arguments):
            rope.rope_and_cache(*arguments)
            return arguments[0] * 1

    problem, arguments = drawn()
    program = torch.export.export(Model(), tuple(a.clone() for a in arguments))
    ours, theirs = ([a.clone() for a in arguments] for _ in range(2))
    program.module()(*ours)
    problem.library(*theirs)
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y)


def test_autograd_is_told(rope):
    _, arguments = drawn()
    q = arguments[0]
    for call in (rope.rope_and_cache, torch.ops.fast_rope.rope_and_cache.default):
        weight = torch.ones_like(q, requires_grad=True)
        product = q * weight  # which keeps q for its backward
        call(*arguments)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.sum().backward()


def test_out_is_refused(rope):
    with pytest.raises(TypeError, match="expected 0 tensors as out, but got 1"):
        rope.rope_and_cache(*drawn()[1], out=torch.empty(1))


@pytest.fixture
def gpu(made, rope, monkeypatch):
    """On a GPU made of Python, with one row of the kernel that adds one."""
    state = fake_cuda.install(monkeypatch, rope)
    table = state.dispatch.TABLE
    row = {
        **table.rows[0],
        "device": fake_cuda.NAME,
        "triton": state.dispatch._choice.triton_version(),
        "verified": True,
    }
    monkeypatch.setattr(table, "rows", [{**row, "parameters": row["tried"] | {"BLOCK": 64}, "eager": "kernel"}])
    return state


def test_a_kernel_writes_once_a_call(gpu, rope):
    problem = load_problem(PROBLEM)
    arguments = problem.make_inputs(problem.workloads[0], "cpu", 1)
    q = arguments[0]
    weight = torch.ones_like(q, requires_grad=True)
    for _ in range(3):
        before, product = q.clone(), q * weight
        assert rope.rope_and_cache(*arguments) is None
        assert torch.equal(q, before.add(1))
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.sum().backward()
    assert [way for _, _, way in fake_cuda.LAUNCHES] == ["looked up", "replayed", "replayed"]
    before = q.clone()
    torch.ops.fast_rope.rope_and_cache(*arguments)
    assert torch.equal(q, before.add(1))


def test_a_launch_bound_row_is_warmed_up_on_copies(gpu, rope):
    gpu.dispatch.TABLE.rows[0]["eager"] = "baseline"
    problem = load_problem(PROBLEM)
    arguments = problem.make_inputs(problem.workloads[0], "cpu", 1)
    expected = [a.clone() for a in arguments]
    rope.rope_and_cache(*arguments)
    problem.library(*expected)
    for x, y in zip(arguments, expected, strict=True):
        torch.testing.assert_close(x, y)
    assert len(fake_cuda.LAUNCHES) == 1


@pytest.mark.slow
def test_an_adopted_kernel_runs_through_its_package_under_the_interpreter(tmp_path, monkeypatch):
    """The whole way: somebody's own kernel, `evolve init --kernel`, a package, and the kernel itself."""
    from evolve import exporting

    from ..adopt.test_four import adopt

    monkeypatch.chdir(tmp_path)
    status, said = adopt("rope", tmp_path)
    assert status == 0, said
    make_run(
        tmp_path, "rope", variant="fp16", path=tmp_path / "evaluators" / "rope.py", seed=tmp_path / "seeds" / "rope.py"
    )
    report = exporting.export(exporting.Order(targets=("rope",)))
    assert (report.folder / "own_rope_cache.py").is_file()
    shown = fresh(INTERPRETED.format(here=str(tmp_path)), tmp_path, TRITON_INTERPRET="1")
    assert shown.split() == ["forced,", "right"] * 2


INTERPRETED = """
import importlib, torch
import fast_rope_and_cache as module
from evolve.problem import load_problem
from evolve.export.trying import outputs_of
from evolve.judge.gpu import answers
table, dispatch = (importlib.import_module("fast_rope_and_cache." + n) for n in ("_table", "_dispatch"))
table.Table._place = lambda self, name, tensor, device: tensor.device
torch.cuda.get_device_name = lambda *_: "NVIDIA H200"
torch.cuda.current_device = lambda: None
torch.cuda.get_device_properties = lambda *_: type("P", (), dict(multi_processor_count=4))
dispatch._choice.FORCE = "kernel"
dispatch.TABLE.spec["closed"] = {{}}
problem = load_problem("{here}/fast_rope_and_cache/problem.py")
variant = problem.variant("fp16")
for workload in problem.small(variant)[:2]:
    arguments = problem.make_inputs(workload, "cpu", 5)
    assert dispatch.choose(arguments).why.startswith("forced")
    copies = [a.clone() for a in arguments]
    made = outputs_of(module.rope_and_cache(*copies), problem.outputs(workload), answers.named(problem, copies))
    held = answers.hold(problem, variant, workload, made, answers.reference_of(problem, workload, arguments), arguments,
                        family="given", baseline=lambda: None)
    assert not answers.wrong(held), answers.wrong(held)
    print("forced, right")
"""
