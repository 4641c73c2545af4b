"""The check under the interpreter: honest kernels pass, and each way of being wrong is said in its own words."""

import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evolve.errors import MachineryError
from evolve.judge import interpret
from evolve.judge.interpret import check
from evolve.judge.jail import Jail, Limits
from evolve.judge.screen import screen
from evolve.judge.stages import Ruling, Screened
from evolve.problem import Argument, Baseline, Exact, Norm, Problem, TensorSpec, Variant, load_problem
from evolve.types import Verdict, Workload

ROOT = Path(__file__).parents[2]
SEED = (ROOT / "seeds/matmul.py").read_text()
HEAD = """
import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice
"""


@pytest.fixture(scope="module")
def jail():
    with Jail(interpret=True, limits=Limits(wall_seconds=20, cpu_seconds=20)) as jail:
        yield jail


@pytest.fixture(scope="module")
def matmul():
    return load_problem(ROOT / "evaluators/matmul.py")


def judged(jail, matmul, text, variant="fp16", seeds=(1,)):
    return check(jail, screen(text, entry="matmul"), matmul, matmul.variant(variant), random_seeds=seeds)


def ruling(jail, problem, text, variant=None, entry=None, seeds=(1,)):
    asked = screen(text, entry=entry or problem.entry)
    with pytest.raises(Ruling) as caught:
        check(jail, asked, problem, problem.variant(variant), random_seeds=seeds)
    assert caught.value.stage == "check"
    return caught.value


@pytest.mark.parametrize("variant", ["fp16", "fp32", "tf32"])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_seed_passes(jail, matmul, variant, seed):
    errors, evidence = judged(jail, matmul, SEED, variant, (seed,))
    assert set(errors) == {w.name for w in matmul.interpreted}
    assert 0 <= max(errors.values()) <= 1
    assert evidence["checked_as"] == variant
    assert {row[1] for row in evidence["cases"]} == set(interpret.inputs.FAMILIES)
    # 128³ in tiles of 64×64×32, each operand read by two rows or columns of tiles: exactly that is counted.
    itemsize = 2 if variant == "fp16" else 4
    counted = evidence["counted"]["small_even"]
    assert counted["flops"] == 2 * 128**3
    assert counted["loaded_bytes"] == 2 * 2 * 128 * 128 * itemsize
    assert counted["stored_bytes"] == 128 * 128 * itemsize
    assert (counted["programs"], evidence["work_factor"]) == (4, 1.0)


def test_bf16_is_checked_as_its_stand_in_and_says_so(jail, matmul):
    _, evidence = judged(jail, matmul, SEED, "bf16")
    assert evidence["checked_as"] == "fp16"
    assert "bf16 was checked as fp16" in evidence["note"]


DOT = "acc = tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=ACC)"


def spoiled(old, new):
    assert old in SEED
    return SEED.replace(old, new)


K_MASK_A, K_MASK_B = " & (ks[None, :] < K - k)", "(ks[:, None] < K - k) & "


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (spoiled(DOT, "acc += tl.dot(a, b).to(tl.float16).to(tl.float32) * 0.5"), ("0.5 times",)),
        (
            spoiled(DOT, "acc = (acc + tl.dot(a, b)).to(tl.float16).to(tl.float32)").replace(
                "BLOCK_K=32", "BLOCK_K=16"
            ),
            ("float32",),
        ),
        (spoiled("range(0, K, BLOCK_K)", "range(0, K - BLOCK_K, BLOCK_K)"), ("error",)),
        (SEED.replace(K_MASK_A, "").replace(K_MASK_B, ""), ("NaN",)),
        (
            spoiled(", mask=(rows[:, None] < M) & (cols[None, :] < N))\n\n\ndef", ")\n\n\ndef"),
            ("writes outside its tensors", "mask"),
        ),
        (
            spoiled(
                "mask=(rows[:, None] < M) & (cols[None, :] < N))\n",
                "mask=(rows[:, None] < M - 8) & (cols[None, :] < N))\n",
            ),
            ("last 8 rows", "never stored"),
        ),
        (spoiled("    acc = tl.zeros", "    tl.store(a_ptr, 1.0)\n    acc = tl.zeros"), ("changes its input a",)),
        (spoiled("tl.store(c_ptrs, acc.to", "tl.store(c_ptrs, 0 * acc.to"), ("error", "zeros")),
        (
            spoiled(
                "tl.store(c_ptrs, acc.to(c_ptr.dtype.element_ty)",
                "tl.store(c_ptrs, tl.load(c_ptrs) + acc.to(tl.float16)",
            ),
            ("NaN", "differ", "error"),
        ),
    ],
)
@pytest.mark.parametrize("seed", [3, 4])
def test_a_wrong_kernel_is_told_what_is_wrong(jail, matmul, text, words, seed):
    caught = ruling(jail, matmul, text, "fp16", seeds=(seed,))
    assert caught.verdict is Verdict.INCORRECT
    assert caught.feedback.startswith("Workload small_")
    assert any(word in caught.feedback for word in words), caught.feedback


def test_the_sentence_names_workload_family_place_and_bound(jail, matmul):
    caught = ruling(jail, matmul, spoiled(DOT, f"{DOT} * 1.01"), "fp16")
    for word in ("M=", "dtype=float16", "inputs", "against", "× the bound", "Worst tile: rows", "worst row"):
        assert word in caught.feedback


def test_what_the_host_may_not_do_is_refused_here_too(jail, matmul):
    text = "import torch\ndef matmul(a, b):\n    return torch.matmul(a, b)\n"
    asked = Screened(source=text, digest="", entry="matmul", kernels=(), defaults={}, tune={})
    with pytest.raises(Ruling) as caught:
        check(jail, asked, matmul, matmul.variant("fp16"), random_seeds=(1,))
    assert caught.value.verdict is Verdict.REJECTED
    assert "aten.mm computes" in caught.value.feedback


def test_an_answer_from_memory_is_found(jail, matmul):
    """No screened source can do this; the check does not rely on that."""
    text = "import torch\nKEPT = {}\n" + SEED.replace("import torch\n", "").replace(
        "    return c\n", "    return KEPT.setdefault((tuple(a.shape), b.stride()), c)\n"
    )
    asked = replace(screen(SEED, entry="matmul"), source=text)
    with pytest.raises(Ruling) as caught:
        check(jail, asked, matmul, matmul.variant("fp16"), random_seeds=(1,))
    assert caught.value.verdict is Verdict.INCORRECT


def test_hanging_and_crashing(matmul):
    with Jail(interpret=True, limits=Limits(wall_seconds=2)) as jail:
        loop = spoiled("    acc = tl.zeros", "    while M > 0:\n        M = M + 0\n    acc = tl.zeros")
        assert ruling(jail, matmul, loop, "fp16").verdict is Verdict.TIMEOUT
        wild = spoiled("tl.store(c_ptrs, acc", "tl.store(c_ptrs + 1000000000000, acc")
        caught = ruling(jail, matmul, wild, "fp16")
        assert caught.verdict is Verdict.RUNTIME_ERROR
        assert "SIGSEGV" in caught.feedback


def test_libdevice_is_refused_by_name(jail, matmul):
    text = spoiled("tl.store(c_ptrs, acc", "acc = libdevice.tanh(acc)\n    tl.store(c_ptrs, acc").replace(
        "import triton.language as tl", "import triton.language as tl\nfrom triton.language.extra import libdevice"
    )
    caught = ruling(jail, matmul, text, "fp16")
    assert caught.verdict is Verdict.REJECTED
    assert "libdevice.tanh" in caught.feedback


def test_an_error_inside_a_kernel_is_told(jail, matmul):
    caught = ruling(jail, matmul, spoiled(DOT, DOT.replace("a, b", "a, a")), "fp16")
    assert caught.verdict is Verdict.RUNTIME_ERROR
    assert "matmul_kernel" in caught.feedback


@pytest.mark.parametrize(
    ("triton", "numpy", "bad"), [("3.6.0", "2.4.1", True), ("3.6.0", "2.3.9", False), ("3.7.1", "2.5.0", False)]
)
def test_triton_3_6_with_new_numpy_is_machinery(monkeypatch, triton, numpy, bad):
    monkeypatch.setattr(interpret, "version", {"triton": triton, "numpy": numpy}.__getitem__)
    if bad:
        with pytest.raises(MachineryError, match="numpy"):
            interpret.usable()
    else:
        interpret.usable()


# --- Other shapes of problem ----------------------------------------------------------------------------------------


def problem_of(entry, arguments, outputs, reference, make, comparators, repeat=0.0):
    return Problem(
        name=entry,
        entry=entry,
        arguments=arguments,
        outputs=outputs,
        reference=reference,
        make_inputs=make,
        variants=(Variant(name="v", params={}, comparators=comparators, repeat=repeat),),
        workloads=(Workload(name="w", params={"n": 1000}),),
        interpreted=(Workload(name="s", params={"n": 200}), Workload(name="odd", params={"n": 77})),
        baselines=(Baseline(name="b", call=reference),),
        bytes_moved=lambda w: 1.0,
    )


def source(body):
    return HEAD + textwrap.dedent(body)


NORM = Norm(strict=1e-6, at_most=1e-5)


def randn(w, device, seed):
    return torch.randn(w["n"], generator=torch.Generator("cpu").manual_seed(seed), device="cpu").to(device)


IN_PLACE = problem_of(
    "bump",
    (Argument(name="x", role="in_out"), Argument(name="at", role="index"), Argument(name="by", role="scalar")),
    lambda w: (TensorSpec(name="x", shape=(w["n"],), dtype="float32", argument="x"),),
    lambda x, at, by: x.index_add_(0, at, torch.full_like(at, by, dtype=x.dtype)),
    lambda w, device, seed: (randn(w, device, seed), torch.arange(0, w["n"], 3, device=device), 2.5),
    {"x": NORM},
)
BUMP = """
@triton.jit
def bump_kernel(x_ptr, at_ptr, by, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    at = tl.load(at_ptr + i, mask=i < n, other=0)
    tl.store(x_ptr + at, tl.load(x_ptr + at, mask=i < n) + by, mask=i < n)

def bump(x, at, by, *, BLOCK=64):
    bump_kernel[(triton.cdiv(at.numel(), BLOCK),)](x, at, by, at.numel(), BLOCK=BLOCK)
"""


def test_in_place_arguments(jail):
    errors, _ = check(jail, screen(source(BUMP), entry="bump"), IN_PLACE, IN_PLACE.variants[0], random_seeds=(1,))
    assert max(errors.values()) <= 1


def test_what_an_in_place_kernel_must_leave_alone(jail):
    careless = BUMP.replace(
        "+ by, mask=i < n)", "+ by, mask=i < n)\n    tl.store(x_ptr + 1, tl.load(x_ptr + 1) * 1.0000002)"
    )
    caught = ruling(jail, IN_PLACE, source(careless))
    assert caught.verdict is Verdict.INCORRECT
    assert "leaves these elements as they were" in caught.feedback


def test_an_index_argument_must_not_be_changed(jail):
    caught = ruling(
        jail, IN_PLACE, source(BUMP.replace("    at = tl.load", "    tl.store(at_ptr + 1, 0)\n    at = tl.load"))
    )
    assert "changes its input at" in caught.feedback


TWO = problem_of(
    "stats",
    (Argument(name="x"),),
    lambda w: (
        TensorSpec(name="double", shape=(w["n"],), dtype="float32"),
        TensorSpec(name="positive", shape=(w["n"],), dtype="int32"),
    ),
    lambda x: (2 * x, (x > 0).int()),
    lambda w, device, seed: (randn(w, device, seed),),
    {"double": NORM, "positive": Exact()},
)
STATS = """
@triton.jit
def scale(x_ptr, s_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(s_ptr + i, tl.load(x_ptr + i, mask=i < n) * 2, mask=i < n)

@triton.jit
def finish(s_ptr, d_ptr, p_ptr, n, BLOCK: tl.constexpr):
    for start in range(tl.program_id(0) * BLOCK, n, tl.num_programs(0) * BLOCK):
        i = start + tl.arange(0, BLOCK)
        s = tl.load(s_ptr + i, mask=i < n)
        tl.store(d_ptr + i, s, mask=i < n)
        tl.store(p_ptr + i, (s > 0).to(tl.int32), mask=i < n)
"""
RETURNED = """
def stats(x, *, BLOCK=32, NUM_SMS=1):
    n = x.numel()
    s = torch.zeros((2, n), device=x.device, dtype=torch.float32)
    d = torch.empty_like(x)
    p = torch.empty((n,), device=x.device, dtype=torch.int32)
    scale[(triton.cdiv(n, BLOCK),)](x, s[1], n, BLOCK=BLOCK, num_warps=1)
    finish[(NUM_SMS,)](s[1], d, p, n, BLOCK=BLOCK)
    return d, p
"""
GIVEN = """
def stats(x, d, p, *, BLOCK=32):
    n = x.numel()
    s = torch.empty((n,), device=x.device, dtype=torch.float32)
    scale[(triton.cdiv(n, BLOCK),)](x, s, n, BLOCK=BLOCK)
    finish[(3,)](s, d, p, n, BLOCK=BLOCK)
"""


@pytest.mark.parametrize("host", [RETURNED, GIVEN])
def test_scratch_several_launches_and_outputs_either_way(jail, host):
    asked = screen(source(STATS + host), entry="stats")
    errors, _ = check(jail, asked, TWO, TWO.variants[0], random_seeds=(2,))
    assert max(errors.values()) <= 1


def test_an_exact_output_must_be_exact(jail):
    caught = ruling(jail, TWO, source(STATS.replace("(s > 0)", "(s > 0.1)") + RETURNED))
    assert caught.verdict is Verdict.INCORRECT
    assert "positive: every element must equal" in caught.feedback


def test_a_write_before_the_beginning_is_found(jail):
    caught = ruling(
        jail,
        TWO,
        source(
            STATS.replace("tl.store(d_ptr + i, s", "tl.store(d_ptr - 1, 0.0)\n        tl.store(d_ptr + i, s") + RETURNED
        ),
    )
    assert "4 bytes before its beginning" in caught.feedback
