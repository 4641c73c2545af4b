"""Lowering: what the host function did becomes a plan, and what it may not do is refused by name.

Sources here skip the screen on purpose: the jail must hold without it.
"""

import json
import os
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evolve.judge.jail import Jail, Limits
from evolve.judge.lower import lower
from evolve.judge.meta import without_data
from evolve.judge.plan import Descriptor, View
from evolve.judge.plan_json import decode
from evolve.judge.sass import code_digest
from evolve.judge.screen import screen
from evolve.judge.stages import Point, Ruling, Screened
from evolve.judge.targets import find
from evolve.problem import Argument, Baseline, Norm, Problem, TensorSpec, Variant, load_problem
from evolve.types import Verdict, Workload

ROOT = Path(__file__).parents[2]
HEAD = """
import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

@triton.jit
def copy(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n), mask=at < n)
"""


@pytest.fixture(scope="module")
def jail():
    with Jail(limits=Limits(wall_seconds=30, cpu_seconds=30, memory_bytes=2 << 30)) as jail:
        yield jail


def small(n=1000, dtype="float16", *, arguments=None, make=None, outputs=None):
    """y = f(x) on n elements, unless told otherwise."""
    norm = Norm(strict=1e-3, at_most=1e-3)
    return Problem(
        name="small",
        entry="f",
        arguments=arguments or (Argument(name="x"),),
        outputs=outputs or (lambda w: (TensorSpec(name="y", shape=(w["n"],), dtype=dtype),)),
        reference=lambda x: x,
        make_inputs=make
        or (lambda w, device, seed: (torch.empty(w["n"], dtype=getattr(torch, dtype), device=device),)),
        variants=(Variant(name="v", params={}, comparators={"y": norm}),),
        workloads=(Workload(name="w", params={"n": n}),),
        interpreted=(),
        baselines=(Baseline(name="b", call=lambda x: x),),
        bytes_moved=lambda w: 1.0,
    )


def source(body):
    return HEAD + textwrap.dedent(body)


def screened(text, entry="f", reserved=(), **defaults):
    kernels = ("copy",)
    return Screened(source=text, digest="", entry=entry, kernels=kernels, defaults=defaults, tune={}, reserved=reserved)


def lowered(jail, body, problem=None, points=None, target="sm_90", reserved=(), shuffle_seed=0, **more):
    problem = problem or small()
    points = points or [Point(workload=w, parameters={}) for w in problem.workloads]
    asked = screened(source(body), reserved=reserved)
    return decode(lower(jail, asked, problem, points, find(target), shuffle_seed=shuffle_seed, **more))


def ruling(jail, body, problem=None, **more):
    with pytest.raises(Ruling) as caught:
        lowered(jail, body, problem, **more)
    assert caught.value.stage == "lower"
    return caught.value


PLAIN = """
def f(x):
    y = torch.empty_like(x)
    copy[(triton.cdiv(x.numel(), 256),)](x, y, x.numel(), BLOCK=256)
    return y
"""


def test_a_plain_plan(jail):
    plan = lowered(jail, PLAIN).plans[0]
    (launch,) = plan.launches
    view = View(root="in0", offset=0, shape=(1000,), stride=(1,), dtype="float16")
    assert launch.grid == (4, 1, 1)
    assert launch.arguments == (("x_ptr", view), ("y_ptr", replace(view, root="out0")), ("n", 1000))
    assert launch.signature == (("x_ptr", "*fp16"), ("y_ptr", "*fp16"), ("n", "i32"), ("BLOCK", "constexpr"))
    assert launch.constexprs == (("BLOCK", 256),)
    assert launch.options == (("num_warps", 4), ("num_stages", 3), ("num_ctas", 1))
    assert plan.outputs == (replace(view, root="out0"),)
    assert [(r.name, r.kind, r.nbytes, r.argument, r.zeroed) for r in plan.roots] == [
        ("in0", "input", 2000, 0, False),
        ("out0", "output", 2000, None, False),
    ]


def test_the_seed_on_all_workloads_whatever_the_order(jail):
    problem = load_problem(ROOT / "evaluators/matmul.py")
    seed = screen((ROOT / "seeds/matmul.py").read_text(), entry="matmul")
    variant = problem.variant("bf16")
    points = [Point(workload=w, parameters=seed.defaults) for w in problem.of_role("time", variant)]
    texts = {lower(jail, seed, problem, points, find("sm_90"), shuffle_seed=s) for s in range(3)}
    assert len(texts) == 1
    found = decode(texts.pop())
    assert [p.workload for p in found.plans] == [p.workload.name for p in points]
    # Sizes are divisible by 16, which is one specialisation; b column-major is another, M = 1 a third, ragged a fourth.
    assert len(found.modules) == 4


@pytest.mark.parametrize(("value", "kind"), [("1", "constexpr"), ("2**31", "i64"), ("7", "i32"), ("0", "i32")])
def test_integers_are_specialised_like_the_runtime_does(jail, value, kind):
    body = f"""
    def f(x):
        y = torch.empty_like(x)
        copy[(1,)](x, y, {value}, BLOCK=256)
        return y
    """
    (launch,) = lowered(jail, body).plans[0].launches
    assert dict(launch.signature)["n"] == kind
    assert dict(launch.constexprs).get("n", "none") == (1 if kind == "constexpr" else "none")


def test_other_scalars(jail):
    body = """
    @triton.jit
    def k(y_ptr, a, b, c, d: tl.constexpr, T: tl.constexpr):
        if c is None:
            tl.store(y_ptr, (a + b).to(T) + d)

    def f(x):
        y = torch.empty_like(x)
        k[(1,)](y, 1.5, True, None, "bank" == "bank", tl.float16)
        return y
    """
    (launch,) = lowered(jail, body).plans[0].launches
    assert dict(launch.signature) == {
        "y_ptr": "*fp16",
        "a": "fp32",
        "b": "u1",
        "c": "constexpr",
        "d": "constexpr",
        "T": "constexpr",
    }
    assert dict(launch.arguments)["a"] == 1.5
    assert dict(launch.arguments)["b"] is True
    assert dict(launch.constexprs) == {"c": None, "d": True, "T": "fp16"}


def test_offsets_count_for_alignment_and_stand_in_the_plan(jail):
    body = """
    def f(x):
        y = torch.empty_like(x)
        copy[(1,)](x[8:], y, 8, BLOCK=256)
        copy[(1,)](x[3:], y, 8, BLOCK=256)
        return y
    """
    found = lowered(jail, body)
    first, second = found.plans[0].launches
    assert first.arguments[0][1].offset == 8
    assert second.arguments[0][1].offset == 3
    aligned, odd = (found.modules[x.ttir].splitlines()[1].split("%arg1")[0] for x in (first, second))
    assert "tt.divisibility" in aligned
    assert "tt.divisibility" not in odd


def test_scratch_zeros_views_and_several_launches(jail):
    body = """
    def f(x):
        n = x.shape[0]
        s = torch.zeros((2, n), device=x.device, dtype=torch.float32)
        t = x.new_empty((n,))
        torch.empty((n,), device=x.device)
        y = torch.zeros_like(x)
        copy[lambda META: (triton.cdiv(n, META["BLOCK"]), 2)](x, s[1], n, BLOCK=128, num_warps=8, maxnreg=64)
        copy[(1, 1, 1)](s.view(-1)[n:], t, n, 1024)
        copy[(1,)](t, y, n, BLOCK=1024, num_stages=1)
        return y
    """
    plan = lowered(jail, body).plans[0]
    assert [(r.name, r.kind, r.nbytes, r.zeroed) for r in plan.roots] == [
        ("in0", "input", 2000, False),
        ("scratch0", "scratch", 8000, True),
        ("scratch1", "scratch", 2000, False),
        ("out0", "output", 2000, True),
    ]
    first, second, _ = plan.launches
    assert first.grid == (8, 2, 1)
    assert dict(first.options) == {"num_warps": 8, "num_stages": 3, "num_ctas": 1, "maxnreg": 64}
    assert first.arguments[1][1] == View(root="scratch0", offset=1000, shape=(1000,), stride=(1,), dtype="float32")
    assert second.arguments[0][1].offset == 1000


def test_outputs_as_parameters(jail):
    body = """
    def f(x, y):
        copy[(4,)](x, y, x.numel(), BLOCK=256)
    """
    plan = lowered(jail, body).plans[0]
    assert plan.outputs[0].root == "out0"
    assert plan.roots[1].argument is None
    declared = small(arguments=(Argument(name="x"), Argument(name="y", role="out")))
    assert lowered(jail, body, declared).plans[0].roots[1].argument == 1


@pytest.mark.parametrize("returned", ["", "return x"])
def test_in_place(jail, returned):
    problem = small(
        arguments=(Argument(name="x", role="in_out"),),
        outputs=lambda w: (TensorSpec(name="y", shape=(w["n"],), dtype="float16", argument="x"),),
    )
    body = f"""
    def f(x):
        copy[(4,)](x, x, x.numel(), BLOCK=256)
        {returned}
    """
    plan = lowered(jail, body, problem).plans[0]
    assert [r.name for r in plan.roots] == ["in0"]
    assert plan.outputs[0].root == "in0"


def test_arguments_that_share_a_storage(jail):
    def make(w, device, seed):
        packed = torch.empty((w["n"], 2), dtype=torch.float16, device=device)
        return packed[:, 0], packed[:, 1]

    problem = small(arguments=(Argument(name="a"), Argument(name="b")), make=make)
    body = """
    def f(a, b):
        y = torch.empty(a.shape, dtype=a.dtype, device=a.device)
        copy[(1,)](b, y, b.stride(0), BLOCK=256)
        return y
    """
    plan = lowered(jail, body, problem).plans[0]
    view = plan.launches[0].arguments[0][1]
    assert (view.root, view.offset, view.stride) == ("in0", 1, (2,))
    assert plan.roots[0].nbytes == 4000


MATRIX = {
    "make": lambda w, device, seed: (torch.empty(64, 64, dtype=torch.float16, device=device),),
    "outputs": lambda w: (TensorSpec(name="y", shape=(64, 64), dtype="float16"),),
}
HOST_DESCRIPTOR = """
@triton.jit
def k(x, y_ptr, BLOCK: tl.constexpr):
    tile = x.load([tl.program_id(0) * BLOCK, 0])
    at = tl.arange(0, BLOCK)
    tl.store(y_ptr + at[:, None] * 64 + at[None, :], tile)

def f(x):
    y = torch.empty_like(x)
    d = TensorDescriptor.from_tensor(x, [32, 32])
    k[(2,)](d, y, BLOCK=32)
    return y
"""
DEVICE_DESCRIPTOR = """
@triton.jit
def k(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    x = tl.make_tensor_descriptor(x_ptr, shape=[n, n], strides=[n, 1], block_shape=[BLOCK, BLOCK])
    y = tl.make_tensor_descriptor(y_ptr, shape=[n, n], strides=[n, 1], block_shape=[BLOCK, BLOCK])
    y.store([tl.program_id(0) * BLOCK, 0], x.load([tl.program_id(0) * BLOCK, 0]))

def f(x):
    y = torch.empty_like(x)
    k[(2,)](x, y, 64, BLOCK=32)
    return y
"""


def test_host_descriptors(jail):
    (launch,) = lowered(jail, HOST_DESCRIPTOR, small(**MATRIX)).plans[0].launches
    view = View(root="in0", offset=0, shape=(64, 64), stride=(64, 1), dtype="float16")
    assert launch.arguments[0] == ("x", Descriptor(view=view, block_shape=(32, 32), padding="zero"))
    assert launch.signature[0][1].replace(" ", "") == "tensordesc<fp16[32,32]>"


@pytest.mark.parametrize(("target", "descriptors"), [("sm_90", True), ("sm_80", False), ("gfx942", False)])
def test_device_descriptors_are_lowered_as_the_target_does(jail, target, descriptors):
    found = lowered(jail, DEVICE_DESCRIPTOR, small(**MATRIX), target=target)
    (text,) = found.modules.values()
    assert ("tt.make_tensor_descriptor" in text) is descriptors


def ordinary(monkeypatch, tmp_path, text, kernel, signature, constexprs, divisible, options):
    """The way of `triton.compile(ASTSource(...))`, and the same from lowered text: machine code of both."""
    import importlib.util

    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "ordinary.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("ordinary", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    attributes = {(list(signature).index(n),): [["tt.divisibility", 16]] for n in divisible}
    made = ASTSource(getattr(module, kernel), signature, constexprs, attributes)
    return triton.compile(made, target=GPUTarget("cuda", 90, 32), options=options)


def from_text(tmp_path, text, options):
    import triton
    from triton.backends.compiler import GPUTarget

    (tmp_path / "k.ttir").write_text(text)
    return triton.compile(str(tmp_path / "k.ttir"), target=GPUTarget("cuda", 90, 32), options=options)


def digest(tmp_path, compiled):
    (tmp_path / "x.cubin").write_bytes(compiled.asm["cubin"])
    return code_digest(tmp_path / "x.cubin")


def test_the_text_compiles_to_the_machine_code_of_the_ordinary_way(jail, monkeypatch, tmp_path):
    problem = load_problem(ROOT / "evaluators/matmul.py")
    text = (ROOT / "seeds/matmul.py").read_text()
    seed = screen(text, entry="matmul")
    workload = problem.workload("4096", problem.variant("fp16"))
    found = decode(
        lower(jail, seed, problem, [Point(workload=workload, parameters=seed.defaults)], find("sm_90"), shuffle_seed=0)
    )
    names = ["a_ptr", "b_ptr", "c_ptr", "M", "N", "K", "stride_am", "stride_ak", "stride_bk", "stride_bn", "stride_cm"]
    names += ["stride_cn", "BLOCK_M", "BLOCK_N", "BLOCK_K", "PRECISION"]
    ones = {"stride_ak": 1, "stride_bn": 1, "stride_cn": 1}
    constexprs = {**ones, "BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "PRECISION": "ieee"}
    kinds = {n: "constexpr" if n in constexprs else "*fp16" if "ptr" in n else "i32" for n in names}
    divisible = [n for n in names if n not in constexprs]
    options = {"num_warps": 4, "num_stages": 2}
    usual = ordinary(monkeypatch, tmp_path, text, "matmul_kernel", kinds, constexprs, divisible, options)
    (launch,) = found.plans[0].launches
    ours = from_text(tmp_path, found.modules[launch.ttir], dict(launch.options))
    assert digest(tmp_path, ours) == digest(tmp_path, usual)
    assert ours.metadata.shared == usual.metadata.shared


def test_so_it_does_with_device_descriptors(jail, monkeypatch, tmp_path):
    found = lowered(jail, DEVICE_DESCRIPTOR, small(**MATRIX))
    kinds = {"x_ptr": "*fp16", "y_ptr": "*fp16", "n": "i32", "BLOCK": "constexpr"}
    text, divisible = source(DEVICE_DESCRIPTOR), ["x_ptr", "y_ptr", "n"]
    usual = ordinary(monkeypatch, tmp_path, text, "k", kinds, {"BLOCK": 32}, divisible, {"num_warps": 4})
    (launch,) = found.plans[0].launches
    ours = from_text(tmp_path, found.modules[launch.ttir], dict(launch.options))
    assert digest(tmp_path, ours) == digest(tmp_path, usual)


def test_comments_and_layout_leave_no_trace(jail):
    moved = "\n# a comment\n" + PLAIN.replace("    y =", "\n    # why\n    y =")
    assert lowered(jail, PLAIN) == lowered(jail, moved)


def test_many_points_share_modules(jail):
    body = """
    def f(x, *, BLOCK=256, num_warps=4, num_stages=3):
        y = torch.empty_like(x)
        copy[(4,)](x, y, x.numel(), BLOCK=BLOCK, num_warps=num_warps, num_stages=num_stages)
        return y
    """
    problem = small()
    points = [
        Point(workload=problem.workloads[0], parameters={"BLOCK": b, "num_warps": w, "num_stages": s})
        for b in (128, 256)
        for w in (2, 4, 8)
        for s in (1, 2, 3, 4)
    ]
    found = lowered(jail, body, problem, points)
    assert len(found.plans) == 24
    assert len(found.modules) == 2
    assert [dict(p.parameters) for p in found.plans] == [dict(p.parameters) for p in points]


def test_a_failing_point_can_be_left_out(jail):
    body = """
    def f(x, *, BLOCK=256):
        y = torch.empty_like(x)
        copy[(4,)](x, y, x.numel(), BLOCK=BLOCK)
        return y
    """
    problem = small()
    points = [Point(workload=problem.workloads[0], parameters={"BLOCK": b}) for b in (128, 100, 256)]
    found = lowered(jail, body, problem, points, skip_failures=True)
    assert [dict(p.parameters)["BLOCK"] for p in found.plans] == [128, 256]
    caught = ruling(jail, body, problem, points=points)
    assert caught.verdict is Verdict.BUILD_ERROR
    assert "power of 2" in caught.feedback


def test_the_number_of_multiprocessors_is_filled_in_and_not_shown(jail):
    body = """
    def f(x, *, NUM_SMS=1):
        y = torch.empty_like(x)
        copy[(NUM_SMS,)](x, y, x.numel(), BLOCK=256)
        return y
    """
    plan = lowered(jail, body, reserved=("NUM_SMS",)).plans[0]
    assert plan.launches[0].grid == (find("sm_90").sms, 1, 1)
    assert plan.parameters == ()


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("y = torch.mm(x[None], x[:, None])", "aten.mm computes: the host may allocate, view and launch"),
        ("y = x + 1", "aten.add computes"),
        ("y = x.clone()", "aten.clone copies"),
        ("y = x[::2].contiguous()", "aten.clone copies"),
        ("y = x.view(10, 100).t().reshape(-1)", "aten.clone copies"),
        ("y = x.float()", "aten._to_copy copies"),
        ("y = torch.empty_like(x).copy_(x)", "aten.copy_ copies"),
        ("y = torch.full((1000,), 0.5, device=x.device)", "aten.full computes"),
        ("y = torch.randn(1000, device=x.device)", "aten.randn computes"),
        ("y = torch.empty(1000)", "write device=a.device"),
        ("y = torch.empty(1000, device='cpu')", "write device=a.device"),
        ("y = torch.empty_like(x); copy[(1,)](x, y, 3, BLOCK=16, launch_pdl=True)", "launch_pdl"),
        ("y = torch.empty_like(x); copy[(1,)](x, y, 3, BLOCK=16, num_warps=True)", "not an integer"),
        ("y = torch.empty_like(x); copy[(1,)](x, y, (3, 4), BLOCK=16)", "one by one"),
    ],
)
def test_what_the_host_may_not_do(jail, line, word):
    caught = ruling(jail, f"def f(x):\n    {line}\n    return y\n")
    assert caught.verdict is Verdict.REJECTED
    assert word in caught.feedback
    assert "Workload w" in caught.feedback


def test_cuda_by_name_means_where_the_inputs_are(jail):
    body = PLAIN.replace("empty_like(x)", "empty(1000, device='cuda', dtype=torch.float16)")
    assert lowered(jail, body) == lowered(jail, PLAIN)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            "def f(x):\n    assert x.numel() % 7 == 0, 'seven'\n    return x\n",
            ("AssertionError: seven", "assert x.numel()"),
        ),
        ("def f(x):\n    raise ValueError('no such shape')\n", ("ValueError: no such shape",)),
        ("def f(x):\n    return x.shape[5]\n", ("IndexError", "x.shape[5]")),
        ("def f(x):\n    pass\n", ("returns 0 outputs",)),
        ("def f(x):\n    return 3\n", ("int", "expected a tensor")),
        ("def f(x):\n    return torch.empty(7, device=x.device)\n", ("float32[7]", "float16[1000]")),
        ("def g(x):\n    return x\n", ("no function f()",)),
        ("y = 1 // 0\ndef f(x):\n    return x\n", ("ZeroDivisionError",)),
        ("def f(x):\n    copy[(1,)](x, x)\n    return x\n", ("copy() missing 2 required", "'n'")),
        ("def f(x):\n    copy[1](x, x, 3, 16)\n    return x\n", ("grid is 1",)),
        ("def f(x):\n    copy[(1, 2, 3, 4)](x, x, 3, 16)\n    return x\n", ("grid is (1, 2, 3, 4)",)),
        ("import ctypes\ndef f(x):\n    ctypes.string_at(0)\n", ("SIGSEGV",)),
        ("def f(x):\n    y = [bytearray(1 << 28) for _ in range(99)]\n", ("MemoryError",)),
        ("import os\ndef f(x):\n    os._exit(0)\n", ("without an answer",)),
    ],
)
def test_what_the_host_gets_wrong(jail, body, words):
    caught = ruling(jail, body)
    assert caught.verdict is Verdict.RUNTIME_ERROR
    for word in words:
        assert word in caught.feedback


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        ("tl.store(y_ptr, no_such_name)", ("no_such_name is not defined", "tl.store(y_ptr, no_such_name)")),
        ("tl.store(y_ptr, tl.zeros((3,), tl.float32))", ("power of 2",)),
        ("tl.static_assert(False, 'told you')", ("told you",)),
        ("tl.store(y_ptr, helper(n))", ("helper", "shape mismatch|ncompatible|cannot|type")),
        ("tl.load(n)", ("tl.load(n)",)),
    ],
)
def test_what_triton_refuses(jail, kernel, words):
    body = f"""
@triton.jit
def helper(n):
    return tl.arange(0, 16)[:, None] + tl.arange(0, 32)

@triton.jit
def k(y_ptr, n):
    {kernel}

def f(x):
    y = torch.empty_like(x)
    k[(1,)](y, 5)
    return y
"""
    caught = ruling(jail, body)
    assert caught.verdict is Verdict.BUILD_ERROR
    assert "kernel k" in caught.feedback
    for word in words:
        assert any(w in caught.feedback for w in word.split("|")), caught.feedback


def test_compiling_for_ever_is_cut_off():
    body = """
    @triton.jit
    def k(y_ptr):
        for i in tl.static_range(0, 100000000):
            tl.store(y_ptr + i, i)

    def f(x):
        y = torch.empty_like(x)
        k[(1,)](y)
        return y
    """
    with Jail(limits=Limits(wall_seconds=1.0)) as jail:
        caught = ruling(jail, body)
    assert caught.verdict is Verdict.TIMEOUT
    assert "1 s" in caught.feedback


def test_an_entry_that_remembers_shows_in_another_order(jail):
    """The gate compares two lowerings in different order; here is what it would see."""
    body = """
    SEEN = []

    def f(x):
        SEEN.append(x.numel())
        y = torch.empty_like(x)
        copy[(len(SEEN),)](x, y, x.numel(), BLOCK=256)
        return y
    """
    problem = small()
    problem = replace(problem, workloads=tuple(Workload(name=f"w{i}", params={"n": 64 * i}) for i in range(1, 6)))
    assert lowered(jail, body, problem, shuffle_seed=0) != lowered(jail, body, problem, shuffle_seed=1)


def test_one_candidate_leaves_nothing_for_the_next(jail):
    poisoned = source(PLAIN) + "\nimport triton.language\ntriton.language.load = None\ntorch.empty_like = None\n"
    with pytest.raises(Ruling):
        lower(
            jail,
            screened(poisoned),
            small(),
            [Point(workload=small().workloads[0], parameters={})],
            find("sm_90"),
            shuffle_seed=0,
        )
    assert lowered(jail, PLAIN).plans


def test_the_answer_is_plain_json(jail):
    problem = small()
    points = [Point(workload=problem.workloads[0], parameters={})]
    raw = lower(jail, screened(source(PLAIN)), problem, points, find("sm_90"), shuffle_seed=0)
    assert set(json.loads(raw)) == {"plans", "modules"}
    assert str(ROOT) not in raw
    assert os.sep + "scratch" not in raw


def test_arguments_without_data_are_made_once_for_each_size_and_problem():
    made = []

    def make(workload, device, random_seed):
        made.append(workload.name)
        return (torch.empty(workload["n"], device=device),)

    one, other = replace(small(), make_inputs=make), replace(small(), make_inputs=lambda *a: make(*a))
    first, same, larger = (Workload(name="w", params={"n": n}) for n in (3, 3, 4))
    assert without_data(one, first) is without_data(one, same)
    assert [t.shape for t in without_data(one, larger)] == [(4,)], "a workload of that name, and another size"
    assert without_data(other, first) is not without_data(one, first)
    assert len(made) == 3
