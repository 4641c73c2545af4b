"""What is concluded from running original and reference: on plain torch functions here, and once in a real child."""

from __future__ import annotations

import ast
import itertools
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from triton.compiler.errors import CompilationError

from evolve.adopt import own, sizes
from evolve.adopt.child import bounds, roles, workloads
from evolve.adopt.child.running import Runner
from evolve.adopt.child.words import Refused
from evolve.adopt.child.workloads import Smaller
from evolve.adopt.child.workloads import given as workloads_of
from evolve.adopt.observe import Named, observe
from evolve.adopt.shapes import Run, fitted
from evolve.errors import AdoptError
from evolve.types import Workload

KERNELS = Path(__file__).parent / "kernels"


def file(make_inputs, **more):
    made = ModuleType("theirs")
    made.make_inputs = make_inputs
    made.WORKLOADS = [{"rows": 4096, "hidden": 512}]
    for name, value in more.items():
        setattr(made, name, value)
    return made


def concluded(original, reference, make_inputs):
    theirs = file(make_inputs)
    runner = Runner(theirs, original, reference, "cpu")
    smaller = Smaller(runner, {})
    smaller.find(workloads_of(theirs)[0])
    rows, fixed = roles.arguments(smaller.trials, runner)
    outputs = roles.outputs(smaller.trials, rows)
    bounds.comparators(smaller.trials, outputs, rows, interpreted=True, dots=False)
    return {r["name"]: r["role"] for r in rows}, outputs, fixed, rows


def random(w, device, seed, *more):
    torch.manual_seed(seed)
    return (torch.randn(w["rows"], w["hidden"], device=device), *more)


def test_returned():
    found, outputs, _, _ = concluded(
        lambda x, factor: (x * factor, x.sum(-1)),
        lambda x, factor: (x * factor, x.sum(-1)),
        lambda w, device, seed: random(w, device, seed, 0.5),
    )
    assert found == {"x": "value", "factor": "scalar"}
    assert [(o["shape"], o["source"]) for o in outputs] == [
        ("tuple(x.shape)", ["result", 0]),
        ("(x.shape[0],)", ["result", 1]),
    ]


def test_an_output_buffer_is_told_from_an_argument_in_place():
    def original(out, x, acc):
        out.copy_(x * 2)
        acc.add_(x)

    found, outputs, _, _ = concluded(
        original,
        lambda x, acc: (x * 2, acc + x),
        lambda w, device, seed: (
            torch.empty(w.rows, w.hidden, device=device),
            *random(w, device, seed),
            *random(w, device, seed + 9),
        ),
    )
    assert found == {"out": "out", "x": "value", "acc": "in_out"}
    assert [(o["name"], o["source"]) for o in outputs] == [("out", ["result", 0]), ("acc", ["result", 1])]


def test_results_in_another_order_are_paired_by_what_they_hold():
    _, outputs, _, _ = concluded(
        lambda x: (x * 2, x * 3), lambda x: (x * 3, x * 2), lambda w, device, seed: random(w, device, seed)
    )
    assert [o["source"] for o in outputs] == [["result", 1], ["result", 0]]


def test_a_reference_that_works_in_place_too():
    def original(x):
        x.mul_(2)

    found, outputs, _, _ = concluded(original, original, lambda w, device, seed: random(w, device, seed))
    assert found == {"x": "in_out"}
    assert outputs[0]["source"] == ["argument", "x"]


def test_constants_and_tables_are_told_from_data():
    def make(w, device, seed):
        table = torch.arange(w.hidden, device=device).float()
        ids = torch.zeros(w.rows, dtype=torch.int32, device=device)
        return random(w, device, seed, torch.ones(w.hidden, device=device), table, ids)

    _, _, _, rows = concluded(
        lambda x, weight, table, ids: x * weight + table + ids[:, None],
        lambda x, weight, table, ids: x * weight + table + ids[:, None],
        make,
    )
    assert [(r["role"], r["varied"]) for r in rows] == [
        ("value", False),
        ("value", True),
        ("index", False),
        ("index", False),
    ]


def test_what_is_no_tensor_and_no_number_is_fixed():
    _, _, fixed, _ = concluded(
        lambda x, dtype, mode: (2 * x).to(dtype),
        lambda x, dtype, mode: 2 * x,
        lambda w, device, seed: random(w, device, seed, torch.float32, "silu"),
    )
    assert fixed == {"dtype": "torch.float32", "mode": "'silu'"}


def test_indices_of_a_selection():
    _, outputs, _, _ = concluded(
        lambda x, k: x.topk(k),
        lambda x, k: x.topk(k),
        lambda w, device, seed: random(w, device, seed, 4),
    )
    assert outputs[1]["comparator"] == {"kind": "selection", "of": "x", "softmax": False}


@pytest.mark.parametrize(
    ("original", "reference", "said"),
    [
        (lambda x: x * 2, lambda x: x * 3, "original and reference disagree on workload small"),
        (lambda x: x * 1.001, lambda x: x, "original and reference disagree: out is off by 0.001"),
        (lambda x: {"y": x * 2}, lambda x: x * 2, "returns a dict"),
        (lambda x: x.sum(), lambda x: x * 2, "the reference has no answer to it"),
        (lambda x: None, lambda x: x, "returns no tensor and writes to none"),
        (lambda x, y: x + y, lambda x: x, "gets nothing from make_inputs"),
        (lambda x: x + 1, lambda x: x @ x, "the reference fails: RuntimeError"),
    ],
)
def test_refused_with_the_reason(original, reference, said):
    with pytest.raises((Refused, AdoptError), match=said):
        concluded(original, reference, lambda w, device, seed: random(w, device, seed))


# --- Sizes and shapes ------------------------------------------------------------------------------------------------

PARAMS = st.dictionaries(
    st.sampled_from(["batch", "heads", "seq", "dim", "window"]), st.integers(1, 1 << 20), min_size=1
)


@given(PARAMS)
@settings(deadline=None, max_examples=60)
def test_smaller_sizes_are_small_and_keep_their_order(params):
    made = sizes.small(params)
    assert made.keys() == params.keys()
    assert all(made[n] <= 32 * 16 for n in sizes.large(params))
    names = sizes.large(params)
    assert all(made[a] >= made[b] for a, b in itertools.pairwise(names))
    assert all(sizes.small_odd(params, [n])[n] % 2 for n in names)


@given(st.lists(st.tuples(st.integers(1, 99), st.integers(1, 99), st.integers(1, 9)), min_size=2, max_size=4))
@settings(deadline=None, max_examples=60)
def test_a_fitted_shape_is_right_on_what_it_was_fitted_to(rows):
    runs = [Run(shapes={"x": (a, b), "w": (b,)}, numbers={"k": k}, output=(a, k, b * k)) for a, b, k in rows]
    text = fitted(runs)
    assert text is not None
    for run in runs:
        names = {n: type("T", (), {"shape": s}) for n, s in run.shapes.items()}
        assert eval(text, {**names, **run.numbers}) == run.output


# --- Inputs wherever they are asked for ------------------------------------------------------------------------------


def test_inputs_on_meta_where_a_generator_is_asked_for():
    def make(w, device, seed):
        rng = torch.Generator(device=device).manual_seed(seed)
        return torch.randn(w["rows"], 8, generator=rng, device=device).t()

    w = Workload(name="w", params={"rows": 6})
    made = own.inputs(file(make), ["x"], w, "meta", 1)["x"]
    real = own.inputs(file(make), ["x"], w, "cpu", 1)["x"]
    assert made.is_meta
    assert (made.shape, made.stride(), made.dtype) == (real.shape, real.stride(), real.dtype)


def test_inputs_of_a_file_that_names_its_device():
    made = own.inputs(
        file(lambda w, device, seed: torch.ones(w.rows, device="cuda").cuda()),
        ["x"],
        Workload(name="w", params={"rows": 3}),
        "cpu",
        1,
    )
    assert made["x"].device.type == "cpu"


def test_kernelbench_constants_are_sizes():
    bench = ModuleType("bench")
    exec("import torch\nrows = 7\ndef get_inputs():\n    return [torch.rand(rows, 2)]", bench.__dict__)
    made = own.inputs(bench, ["x"], Workload(name="w", params={"rows": 3}), "cpu", 1)
    assert made["x"].shape == (3, 2)
    assert bench.rows == 7


def test_a_process_keeps_its_random_state():
    before = torch.random.get_rng_state()
    own.inputs(
        file(lambda w, d, s: random(w, d, s)), ["x"], Workload(name="w", params={"rows": 2, "hidden": 2}), "cpu", 1
    )
    assert torch.equal(before, torch.random.get_rng_state())


# --- The child -------------------------------------------------------------------------------------------------------


def test_a_real_file_in_a_real_child():
    kernel = Named(path=KERNELS / "rmsnorm_fp8.py", function="rms_norm_dynamic_per_token_quant")
    found = observe(kernel, Named(path=KERNELS / "rmsnorm_fp8_ref.py", function="reference"), gpu=False)
    assert {a["name"]: a["role"] for a in found["arguments"]} == {
        "out": "out",
        "input": "value",
        "weight": "value",
        "scales": "out",
    }
    assert [o["comparator"]["kind"] for o in found["outputs"]] == ["codes", "norm"]
    assert found["floats"] == "float16"  # in bfloat16's place, which the interpreter computes wrongly
    assert len(found["kernels"]["_rms_norm_fp8_fwd"]["configs"]) == 3
    assert json.dumps(found)


@pytest.mark.parametrize(
    ("text", "said"), [("my.py", "expected FILE:FUNCTION"), ("nowhere.py:fn", "no file nowhere.py")]
)
def test_names_that_name_nothing(text, said):
    with pytest.raises(AdoptError, match=said):
        Named.of(text, "--kernel")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "function", "said"),
    [
        ("import nothing_like_this\n", "fn", r"my.py:1: does not load: ModuleNotFoundError"),
        ("def other():\n    pass\n", "fn", "there is no fn; it has other"),
        ("import triton\n@triton.jit\ndef fn(x):\n    pass\n", "fn", "fn is a kernel; name the function that launches"),
        ("def fn(*args):\n    pass\n", "fn", r"takes \*args or \*\*kwargs"),
        ("import os\nos._exit(3)\n", "fn", r"the process that ran it died \(status 3\)"),
    ],
)
def test_a_file_that_cannot_be_run_is_refused_with_the_reason(source, function, said, tmp_path):
    (tmp_path / "my.py").write_text(source)
    (tmp_path / "ref.py").write_text(
        "import torch\nWORKLOADS = [dict(n=256)]\n"
        "def make_inputs(w, device, seed):\n    return torch.ones(w['n'], device=device)\n"
        "def reference(x):\n    return x\n"
    )
    with pytest.raises(AdoptError, match=said):
        observe(
            Named(path=tmp_path / "my.py", function=function),
            Named(path=tmp_path / "ref.py", function="reference"),
            gpu=False,
        )


def test_a_kernel_that_does_not_compile_is_refused_with_what_is_wrong_in_it():
    """Triton's outer error ends in a caret; the sentence stands in the error that caused it."""
    call = ast.parse("f(x)").body[0]
    inner = CompilationError("f(x)", call, "NameError('Cannot access global variable LOG2E')")
    outer = CompilationError("f(x)", call, None)
    outer.__cause__ = inner
    assert workloads._told(outer) == "CompilationError: NameError('Cannot access global variable LOG2E')"
    assert workloads._told(ValueError("")) == "ValueError"
