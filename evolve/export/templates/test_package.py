"""The package as its users call it. Everything about the kernel needs a GPU that dispatch.json has rows for, and skips
by name elsewhere; what the library does is tested everywhere. Needs pytest, torch and triton only."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).resolve().parent


def beside():
    """bench.py of this folder, whichever others there are."""
    spec = importlib.util.spec_from_file_location(f"bench_of_{HERE.name}", HERE / "bench.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BENCH = beside()
answers, inputs = BENCH.answers, BENCH.inputs
MODULE, DISPATCH = BENCH.package()
FUNCTION = getattr(MODULE, DISPATCH.OP)
SPEC, ROWS = DISPATCH.TABLE.spec, DISPATCH.TABLE.rows
PROVENANCE = json.loads((HERE / "provenance.json").read_text(encoding="utf-8"))
GPU = torch.cuda.is_available()
PAIR = (torch.cuda.get_device_name(), DISPATCH._choice.triton_version()) if GPU else None
HERE_ROWS = [r for r in ROWS if (r["device"], r["triton"]) == PAIR and r["parameters"] != "baseline"]
needs_gpu = pytest.mark.skipif(not GPU, reason="no GPU here: the kernel cannot run")
needs_rows = pytest.mark.skipif(not HERE_ROWS, reason="no verified row for this device and Triton: evolve refresh .")
KERNEL_ROWS = pytest.mark.parametrize("row", HERE_ROWS or ROWS[:1], ids=lambda r: r["workload"])


def near(ours, theirs):
    """Within what the contract grants both of them, over the whole: each may be off by the bound."""
    assert len(ours) == len(theirs)
    for out, ref, bound in zip(ours, theirs, PROVENANCE["bounds"]):
        assert out.shape == ref.shape
        assert out.dtype == ref.dtype
        if bound is None:
            continue
        apart = (out.double() - ref.double()).norm() / ref.double().norm().clamp_min(1e-30)
        assert apart <= 2 * bound, f"{apart:.2e} apart; each may be {bound:.2e} off"


def test_it_needs_nothing_of_evolve():
    code = f"import sys; sys.path.insert(0, {str(HERE)!r}); import bench; bench.package(); " \
           "print([m for m in sys.modules if m.split('.')[0] == 'evolve'])"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_calls_that_nobody_verified_run_the_library():
    """A wrong number of dimensions is the library's to refuse, in its own words."""
    odd = [torch.zeros(()) if a["kind"] == "tensor" else 1 for a in SPEC["arguments"]]
    with pytest.raises(Exception) as theirs:  # noqa: PT011  whatever the library raises
        DISPATCH.LIBRARY(*odd)
    with pytest.raises(type(theirs.value)) as ours:
        FUNCTION(*odd)
    assert str(ours.value) == str(theirs.value)


@needs_rows
@needs_gpu
@KERNEL_ROWS
def test_the_kernel_agrees_with_the_library(row):
    arguments = inputs(SPEC, row)
    for _ in range(2):  # the first call records, the second replays
        near(answers(SPEC, FUNCTION, arguments), answers(SPEC, DISPATCH.LIBRARY, arguments))


@needs_rows
@needs_gpu
@KERNEL_ROWS
def test_in_a_cuda_graph(row):
    arguments = inputs(SPEC, row)
    expected = answers(SPEC, DISPATCH.LIBRARY, arguments)
    answers(SPEC, FUNCTION, arguments)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = answers(SPEC, FUNCTION, arguments)
    graph.replay()
    near(out, expected)


@needs_rows
@needs_gpu
@KERNEL_ROWS
def test_compiled_in_one_graph(row):
    torch._dynamo.reset()  # each row is a compilation of its own, and torch counts them
    arguments = inputs(SPEC, row)
    near(answers(SPEC, torch.compile(FUNCTION, fullgraph=True), arguments), answers(SPEC, DISPATCH.LIBRARY, arguments))


@needs_gpu
def test_the_operator_is_registered_as_torch_wants_it():
    if not ROWS:
        pytest.skip("dispatch.json has no rows")
    row = min(ROWS, key=lambda r: sum(r["sizes"].values()))
    torch.library.opcheck(DISPATCH.OPERATOR, tuple(inputs(SPEC, row)), test_utils=("test_schema", "test_faketensor"))
