"""Comparators: honest kernels pass on every family, sloppy ones fail, and the sentence says where."""

import math

import pytest
import torch

from evolve.judge.compare import accepted, compare, norm_error, untouched
from evolve.judge.inputs import FAMILIES, fill
from evolve.problem import Codes, Custom, Exact, Norm, Ties

NORMS = {
    torch.bfloat16: Norm(strict=2.5e-3, at_most=5e-3),
    torch.float16: Norm(strict=3.5e-4, at_most=8e-4),
    torch.float32: Norm(strict=2e-6, at_most=1e-5),
}


def operands(dtype, family, seed=0, m=200, n=168, k=512):
    rng = torch.Generator().manual_seed(seed)
    pair = (torch.randn(m, k, generator=rng).to(dtype), torch.randn(k, n, generator=rng).to(dtype))
    return fill(pair, ("value", "value"), family, seed)


def judged(out, a, b, family="given", norm=None):
    return compare("c", norm or NORMS[out.dtype], out, a.double() @ b.double(), family=family)


def tf32(x):
    return (x.view(torch.int32) + 0x1000 & ~0x1FFF).view(torch.float32)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("dtype", NORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_honest_kernel_passes(family, dtype, seed):
    a, b = operands(dtype, family, seed)
    finding = judged((a.float() @ b.float()).to(dtype), a, b, family)
    assert finding.ok, finding.sentence


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_accumulator_of_the_input_s_own_dtype_fails(dtype):
    a, b = operands(dtype, "given")
    total = torch.zeros(200, 168, dtype=dtype)
    for k in range(0, 512, 16):
        total += (a[:, k : k + 16].float() @ b[k : k + 16].float()).to(dtype)
    finding = judged(total, a, b)
    assert not finding.ok
    assert "float32" in finding.sentence


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_narrow_accumulator_cannot_hide_in_a_sum_that_cancels(dtype):
    a, b = operands(dtype, "cancellation", k=256)
    total = torch.zeros(200, 168, dtype=dtype)
    for k in range(0, 256, 64):
        total += (a[:, k : k + 64].float() @ b[k : k + 64].float()).to(dtype)
    finding = judged(total, a, b, "cancellation")
    assert finding.ratio > 3


@pytest.mark.parametrize(
    ("dtype", "narrow"),
    [
        (torch.bfloat16, lambda x: x.to(torch.float8_e4m3fn).to(x.dtype)),
        (torch.float16, lambda x: x.to(torch.bfloat16).to(x.dtype)),
        (torch.float32, tf32),
    ],
)
@pytest.mark.parametrize("family", ["given", "one_hot", "integers"])
def test_a_narrower_operand_fails(dtype, narrow, family):
    a, b = operands(dtype, family)
    finding = judged((narrow(a).float() @ narrow(b).float()).to(dtype), a, b, family)
    assert not finding.ok
    if family != "given":
        assert "bits of the significand" in finding.sentence


def test_tf32_is_inside_its_own_contract():
    for family in FAMILIES:
        rng = torch.Generator().manual_seed(0)
        pair = (torch.randn(200, 512, generator=rng), torch.randn(512, 168, generator=rng))
        a, b = fill(pair, ("value", "value"), family, 0, allows=frozenset({"tf32"}))
        finding = judged(tf32(a) @ tf32(b), a, b, family, Norm(strict=6e-4, at_most=1e-3))
        assert finding.ok, (family, finding.sentence)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_dropped_tail_fails_where_allclose_would_not(seed):
    a, b = torch.rand(64, 16384), torch.rand(16384, 64)
    out = a[:, :-32] @ b[:-32]
    assert torch.allclose(out, a @ b, rtol=1e-2)
    assert not judged(out, a, b).ok
    a, b = operands(torch.bfloat16, "last_tile", seed)
    finding = judged((a[:, :-32].float() @ b[:-32].float()).to(a.dtype), a, b, "last_tile")
    assert not finding.ok
    assert "zeros" in finding.sentence


def test_a_sloppy_tile_is_found_inside_a_good_tensor():
    a, b = operands(torch.bfloat16, "given", m=1024, n=1024)
    out = (a.float() @ b.float()).to(a.dtype)
    out[256:384, 512:640] = out[256:384, 512:640].to(torch.float8_e4m3fn).to(out.dtype)
    assert norm_error(out, a.double() @ b.double()) < 2 * 2.5e-3 * 2
    finding = judged(out, a, b)
    assert not finding.ok
    assert "rows 256-383, columns 512-639" in finding.where


def test_a_sloppy_row_is_found():
    a, b = operands(torch.bfloat16, "given", m=512, n=2048)
    out = (a.float() @ b.float()).to(a.dtype)
    out[77] *= 1.02
    finding = judged(out, a, b)
    assert not finding.ok
    assert "worst row: 77" in finding.where


def test_sloppiness_chosen_by_magnitude_is_found():
    a, b = operands(torch.bfloat16, "mixed", m=512)
    small = a.float().square().mean(1) < a.float().square().mean()
    out = (a.float() @ b.float()).to(a.dtype)
    out[small] = (a[small].to(torch.float8_e4m3fn).float() @ b.float()).to(a.dtype)
    assert not judged(out, a, b, "mixed").ok


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda c: c.index_fill_(0, torch.arange(192, 200), 0), "last 8 rows"),
        (lambda c: c.index_fill_(1, torch.arange(160, 168), 0), "last 8 columns"),
        (lambda c: c.zero_(), "all zeros"),
        (lambda c: c.mul_(0.5), "0.5 times"),
        (lambda c: c.index_fill_(0, torch.tensor([3]), math.nan), "NaN"),
        (lambda c: c.index_fill_(0, torch.tensor([3]), math.inf), "infinite"),
    ],
)
def test_the_sentence_says_what_is_wrong(spoil, word):
    a, b = operands(torch.float32, "given")
    finding = judged(spoil(a @ b), a, b)
    assert not finding.ok
    assert word in finding.sentence


def test_a_transpose_is_recognised():
    a, b = operands(torch.float32, "given", m=168)
    assert "transpose" in judged((a @ b).T.contiguous(), a, b).sentence


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constants_fail(value):
    a, b = operands(torch.bfloat16, "given")
    assert not judged(torch.full((200, 168), value, dtype=torch.bfloat16), a, b).ok


def test_nan_is_no_wildcard_and_the_reference_s_own_is_matched():
    ref = torch.randn(64, 64, dtype=torch.float64)
    ref[3, 4], ref[5, 6] = math.nan, 1e6
    out = ref.to(torch.float16)
    assert compare("c", NORMS[torch.float16], out, ref).ok  # 1e6 is infinite in float16, on both sides
    out[3, 4] = 0.0
    assert not compare("c", NORMS[torch.float16], out, ref).ok


@pytest.mark.parametrize("shape", [(), (1,), (7,), (1, 5), (5, 1), (3, 2, 40), (2, 130, 130), (1000,)])
def test_any_shape_is_compared(shape):
    ref = torch.randn(shape, dtype=torch.float64)
    norm = Norm(strict=2e-6, at_most=1e-5)
    assert compare("c", norm, ref.float(), ref).ok
    assert not compare("c", norm, ref.float() * 1.001, ref).ok


def test_a_zero_reference_asks_for_zero():
    ref = torch.zeros(64, 64, dtype=torch.float64)
    norm = NORMS[torch.float32]
    assert compare("c", norm, torch.zeros(64, 64), ref).ok
    assert not compare("c", norm, torch.full((64, 64), 1e-6), ref).ok


def test_accepted_is_bounded_on_both_sides():
    norm = Norm(strict=2e-3, at_most=5e-3)
    assert accepted(norm) == 2e-3
    assert accepted(norm, baseline_error=1e-3) == 2e-3
    assert accepted(norm, baseline_error=2e-3) == pytest.approx(3e-3)
    assert accepted(norm, baseline_error=1.0) == 5e-3
    assert accepted(norm, baseline_error=math.nan) == 2e-3
    assert accepted(norm, baseline_error=1e-2, family="cancellation") == pytest.approx(1.5e-2)
    assert accepted(norm, baseline_error=1e-2, family="cancellation", dtype=torch.bfloat16) == 5e-3


def test_a_wrong_shape_is_said():
    finding = compare("c", NORMS[torch.float32], torch.zeros(3), torch.zeros(4))
    assert not finding.ok
    assert "shape" in finding.sentence


def test_exact():
    ref = torch.arange(12).reshape(3, 4)
    assert compare("i", Exact(), ref.clone(), ref).ok
    out = ref.clone()
    out[1, 2] += 1
    finding = compare("i", Exact(), out, ref)
    assert not finding.ok
    assert "[1, 2]" in finding.sentence


def test_ties():
    x = torch.tensor([[1.0, 3.0, 3.0, 2.0, 3.0]])
    values = torch.tensor([[3.0, 3.0]], dtype=torch.float64)
    ref = torch.tensor([[1, 2]])

    def ok(*indices):
        out = torch.tensor([indices])
        return compare("i", Ties(values="v"), out, ref, inputs=(x,), references={"v": values}).ok

    assert ok(1, 2)
    assert ok(4, 2)
    assert not ok(1, 1)
    assert not ok(1, 3)
    assert not ok(1, 7)
    assert not ok(-1, 1)


def test_codes():
    ref = torch.tensor([-3, 0, 5], dtype=torch.int8)
    assert compare("q", Codes(within=1), ref + torch.tensor([1, -1, 0], dtype=torch.int8), ref).ok
    assert not compare("q", Codes(within=1), ref + torch.tensor([0, 2, 0], dtype=torch.int8), ref).ok
    values = torch.tensor([-1.0, 0.0, 1.0, 2.0], dtype=torch.float64)
    codes = values.to(torch.float8_e4m3fn)
    step = torch.tensor([-1.125, 2.0**-9, 1.125, 2.25]).to(torch.float8_e4m3fn)
    assert compare("q", Codes(within=1), codes, values).ok
    assert compare("q", Codes(within=1), step, values).ok
    assert not compare("q", Codes(within=1), (step.float() * 1.25).to(torch.float8_e4m3fn), values).ok


def test_custom():
    measure = Custom(error=lambda out, ref, inputs: float((out - ref).abs().max()) / inputs[0])
    ref = torch.zeros(3)
    assert compare("c", measure, ref + 0.5, ref, inputs=(1.0,)).ok
    assert not compare("c", measure, ref + 1.5, ref, inputs=(1.0,)).ok
    assert not compare("c", measure, ref + math.nan, ref, inputs=(1.0,)).ok


def test_untouched_regions_stay_bit_identical():
    before = torch.randn(8, 8).to(torch.bfloat16)
    ref = before.double()
    ref[2] = 7.0
    after = before.clone()
    after[2] = 7.0
    assert untouched("kv", before, after, ref).ok
    after[5, 1] *= 1.01
    finding = untouched("kv", before, after, ref)
    assert not finding.ok
    assert "[5, 1]" in finding.sentence


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_answer_that_is_rounded_once_is_never_wrong(dtype: torch.dtype) -> None:
    """A few outliers that carry the norm round to nearly half a unit each; found as an honest kernel called wrong."""
    bounds = {torch.float16: Norm(strict=3.5e-4, at_most=8e-4), torch.bfloat16: Norm(strict=2.5e-3, at_most=5e-3)}
    half_unit = torch.finfo(dtype).eps / 2
    ref = torch.randn(64, 80, dtype=torch.float64)
    ref[::16, ::16] = 4096 * (1 + half_unit * 0.98)
    found = compare("c", bounds[dtype], ref.to(dtype), ref, family="planted")
    assert found.ok, found.sentence
    assert not compare("c", bounds[dtype], (ref * (1 + 4 * half_unit)).to(dtype), ref, family="planted").ok
