"""Families of inputs: what they touch, what they keep, what they are."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.judge.inputs import EXACT, FAMILIES, LOGITS, fill, significand_bits

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def pair(dtype, m=96, n=80, k=64, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return (torch.randn(m, k, generator=rng).to(dtype), torch.randn(k, n, generator=rng).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", [*FAMILIES, *LOGITS])
def test_every_family_is_finite_and_the_same_for_the_same_seed(family, dtype):
    first = fill(pair(dtype), ("value", "value"), family, 7)
    again = fill(pair(dtype), ("value", "value"), family, 7)
    other = fill(pair(dtype), ("value", "value"), family, 8)
    assert all(torch.isfinite(t).all() for t in first)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    if family not in ("given", *LOGITS):
        assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_only_floating_values_are_touched_and_in_place(family):
    ids = torch.arange(12)
    both = torch.randn(4, 4)
    table = torch.randn(4, 4).expand(3, 4, 4)
    given = [ids.clone(), both.clone(), table.clone()[0]]
    value = torch.randn(8, 8)
    address = value.data_ptr()
    out = fill((ids, both, 3, value, table), ("index", "in_out", "scalar", "value", "value"), family, 1)
    assert torch.equal(out[0], given[0])
    assert torch.equal(out[1], given[1])
    assert out[2] == 3
    assert out[3].data_ptr() == address
    assert torch.equal(out[4][0], given[2])  # an expanded tensor has several elements in one place


def test_strides_and_shared_storage_stay():
    packed = torch.randn(64, 3, 32)
    q, k = packed[:, 0], packed[:, 1]
    middle = packed[:, 2].clone()
    fill((q, k.T), ("value", "value"), "mixed", 3)
    assert q.stride() == (96, 1)
    assert torch.equal(packed[:, 2], middle)
    assert torch.equal(packed[:, 0], q)


def test_the_problem_s_scale_is_kept():
    weights = torch.randn(64, 64) * 0.02
    fill((weights,), ("value",), "uniform", 0)
    assert 0.9 < float(weights.std()) / (0.02 / 3**0.5) < 1.1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", sorted(EXACT))
@pytest.mark.parametrize("seed", range(4))
def test_exact_families_give_answers_that_need_no_rounding(family, dtype, seed):
    a, b = fill(pair(dtype), ("value", "value"), family, seed)
    product = a.double() @ b.double()
    assert torch.equal(product.to(dtype).double(), product)
    bits = significand_bits(dtype)
    largest = product.abs().max()
    assert 2 ** (bits - 1) <= largest < 2**bits
    assert bool((product % 2 == 1).any()) or bool((product % 2 == -1).any())


def test_integers_tell_the_narrower_type():
    for dtype, narrow in ((torch.bfloat16, torch.float8_e4m3fn), (torch.float16, torch.bfloat16)):
        a, b = fill(pair(dtype), ("value", "value"), "one_hot", 0)
        assert not torch.equal(a.double() @ b.to(narrow).double(), a.double() @ b.double())


@pytest.mark.parametrize(
    ("dtype", "allows", "bits"),
    [
        (torch.bfloat16, (), 8),
        (torch.float16, (), 11),
        (torch.float32, (), 24),
        (torch.float32, ("tf32",), 11),
        (torch.float32, ("bf16x3",), 16),
        (torch.float8_e4m3fn, (), 4),
    ],
)
def test_significand_bits(dtype, allows, bits):
    assert significand_bits(dtype, frozenset(allows)) == bits


def test_last_tile_is_the_tail_of_the_summed_dimension_of_either_operand():
    a, b = fill(pair(torch.float32), ("value", "value"), "last_tile", 0)
    assert not a[:, :-32].any()
    assert a[:, -32:].any()
    assert b[:32].any()
    a, b = fill(pair(torch.float32), ("value", "value"), "last_tile", 1)
    assert not b[:-32].any()
    assert a[:, :32].any()


def test_cancellation_makes_the_answer_small():
    a, b = fill(pair(torch.float32, k=512), ("value", "value"), "cancellation", 0)
    terms = a.abs() @ b.abs()
    plain = pair(torch.float32, k=512)
    usual = (plain[0] @ plain[1]).norm() / (plain[0].abs() @ plain[1].abs()).norm()
    assert (a @ b).norm() / terms.norm() < 0.3 * usual


def test_mixed_has_several_magnitudes_in_one_tensor():
    (x,) = fill((torch.randn(256, 256),), ("value",), "mixed", 0)
    sizes = x.reshape(16, 16, 4, 64).square().mean((1, 3)).sqrt()
    assert float(sizes.max() / sizes.min()) > 50


def test_logit_families_scale_the_first_two():
    q, k, v = torch.randn(8, 8), torch.randn(8, 8), torch.randn(8, 8)
    given = [t.clone() for t in (q, k, v)]
    fill((q, k, v), ("value",) * 3, "extreme", 0)
    assert torch.allclose(q, given[0] * 12)
    assert torch.allclose(k, given[1] * 12)
    assert torch.equal(v, given[2])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=0, max_size=4),
    st.sampled_from((*FAMILIES, *LOGITS)),
    st.sampled_from([*DTYPES, torch.float8_e4m3fn, torch.float8_e5m2, torch.float64]),
    st.integers(0, 2**40),
)
def test_any_shape_is_filled(shape, family, dtype, seed):
    first, second = torch.ones(shape).to(dtype), torch.ones(shape).to(dtype)
    fill((first, second), ("value", "value"), family, seed)
    assert not torch.isnan(first.float()).any()
    assert not torch.isnan(second.float()).any()
