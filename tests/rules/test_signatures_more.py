"""The moves of attention, decoding and rows, and those that a contract must allow, seen in machine code for sm_90."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from build import build
from candidates import OTHERS

from evolve.rules import RULES, Applied, Context, apply
from evolve.types import Workload

ROOT = Path(__file__).parents[2]
BY_NAME = {rule.name: rule for rule in RULES}
USUAL = Context(random=random.Random(0), triton="3.7.1")


def seed(name: str) -> str:
    return (ROOT / "seeds" / f"{name}.py").read_text(encoding="utf-8")


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def moved(source: str, *names: str, context: Context = USUAL) -> str:
    return chain(source, *names, context=context).source


def chain(source: str, *names: str, context: Context = USUAL) -> Applied:
    assert names
    for name in names:
        found = apply(BY_NAME[name], source, replace(context, random=random.Random(0)))
        assert isinstance(found, Applied), (name, found)
        source = found.source
    return found


def declined(source: str, name: str, context: Context = USUAL) -> str:
    found = apply(BY_NAME[name], source, context)
    return getattr(found, "reason", "")


def attention(source: str, causal: bool = True, **tunables: object):
    q = meta(4, 32, 4096, 128)
    point = {"BLOCK_M": 128, "BLOCK_N": 128, "num_warps": 8, "num_stages": 3} | tunables
    (built,) = build(source, "attention", q, q, q, causal, **point)
    return built


def test_attention_from_the_seed_to_specialized_warps():
    plain = attention(seed("attention"))
    described = chain(seed("attention"), "tensor descriptors")
    built = attention(described.source)
    assert built.meets(described.signature)
    assert built.counts["LDGSTS"] == 0
    assert built.registers < plain.registers
    scaled = chain(described.source, "scale in the exponent")
    after = attention(scaled.source)
    assert after.meets(scaled.signature)
    assert after.counts["FMUL"] < built.counts["FMUL"]
    assert after.counts.total() < built.counts.total()
    apart = moved(scaled.source, "masked blocks apart", "heaviest first")
    both = attention(apart)
    assert both.counts["HGMMA"] == 2 * after.counts["HGMMA"]
    assert both.counts["FSEL"] == after.counts["FSEL"]  # the loop that most blocks take has none
    assert attention(apart, MASKS_APART=False).counts["HGMMA"] == after.counts["HGMMA"]
    special = chain(apart, "warp specialization")
    built = attention(special.source, num_warps=4, num_stages=2)
    assert built.meets(special.signature)
    assert built.spills_bytes == 0


def test_a_scale_that_may_be_negative_stays_before_the_maximum():
    source = seed("attention").replace("1.4426950408889634 * D**-0.5", "1.4426950408889634 * D")
    assert "above zero" in declined(source, "scale in the exponent")
    assert "several tl.dot" in declined(seed("matmul"), "masked blocks apart")
    assert "longer for later programs" in declined(seed("matmul"), "heaviest first")


@pytest.mark.slow
def test_keys_are_split_and_merged():
    found = chain(seed("paged_decode"), "wider space", "split keys")
    table, lengths = meta(8, 128, dtype=torch.int32), meta(8, dtype=torch.int32)
    inputs = (meta(8, 32, 128), meta(1024, 64, 8, 128), meta(1024, 64, 8, 128), table, lengths)
    product, merge = build(found.source, "paged_decode", *inputs)
    assert product.grid == (8, 8, 8)
    assert product.spills_bytes == 0
    assert merge.grid == (8 * 32,)
    (deep, _), (flat, _) = (build(found.source, "paged_decode", *inputs, num_stages=n) for n in (7, 3))
    assert deep.shared_bytes > 2 * flat.shared_bytes  # the pages are copied further ahead
    (alone,) = build(found.source, "paged_decode", *inputs, SPLIT_KEYS=1)
    assert alone.grid == (8, 8, 1)
    assert "without a key for some row" in declined(seed("attention"), "split keys")


@pytest.mark.slow
def test_rows_lose_masks_stream_and_are_copied_ahead():
    def rows(source: str, width: int = 4096):
        x, w = meta(2048, width), meta(width)
        (built,) = build(source, "layernorm_residual", x, x, w, w, 1e-5, False, num_warps=8)
        return built

    source = seed("layernorm_residual")
    plain = rows(source)
    source = moved(source, "unmasked rows")
    assert rows(source).counts["FSEL"] < plain.counts["FSEL"]
    assert rows(source, 5120).counts["FSEL"] > 0
    source = moved(source, "streaming loads", "persistent grid", "loads before the loop")
    assert rows(source).grid == (4 * 132,)
    found = chain(source, "pipelining depth")
    built = rows(found.source)
    assert built.meets(found.signature)
    assert built.spills_bytes == 0


def test_multiples_of_eight_keep_wide_copies():
    point = {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64, "num_warps": 4, "num_stages": 3}
    inputs = (meta(2040, 3080), meta(3080, 1992))
    (before,) = build(seed("matmul"), "matmul", *inputs, **point)
    (after,) = build(moved(seed("matmul"), "alignment"), "matmul", *inputs, **point)
    assert before.counts["LDGSTS"] == 0
    assert after.counts["LDGSTS"] > 0
    assert after.spills_bytes == 0


@pytest.mark.slow
def test_loops_are_flattened_and_tiles_leave_in_parts():
    source = moved(seed("matmul"), "tensor descriptors", "persistent grid", "flattened loops", "epilogue subtiling")
    point = {"BLOCK_M": 128, "BLOCK_N": 256, "BLOCK_K": 64, "num_warps": 8, "num_stages": 3}

    def product(**tunables: object):
        (built,) = build(source, "matmul", meta(4096, 4096), meta(4096, 4096), **(point | tunables))
        return built

    whole, halves, quarters = (product(EPILOGUE_SUBTILES=n) for n in (1, 2, 4))
    assert whole.shared_bytes > halves.shared_bytes > quarters.shared_bytes
    assert product(FLATTEN=False).counts["UTMASTG"] < halves.counts["UTMASTG"]
    assert product(num_stages=4).shared_bytes <= 232_448
    assert all(built.spills_bytes == 0 for built in (whole, halves, quarters))
    assert "loop over tiles" in declined(seed("matmul"), "flattened loops")


FLOAT = (Workload(name="w", params={"M": 512, "N": 512, "K": 16384, "dtype": "float32"}),)


def test_only_a_contract_that_allows_it_changes_precision_or_adds_in_any_order():
    source, usual = seed("matmul"), replace(USUAL, workloads=FLOAT)
    assert "allows no other precision" in declined(source, "precision", usual)
    assert "same bits" in declined(source, "split-K by atomics", usual)
    eased = replace(usual, allows=frozenset({"tf32"}), repeat=1e-6)
    inputs = (meta(512, 16384, dtype=torch.float32), meta(16384, 512, dtype=torch.float32))
    found = chain(source, "precision", context=eased)
    (built,) = build(found.source, "matmul", *inputs, BLOCK_M=64, BLOCK_N=64)
    assert built.meets(found.signature)
    (added,) = build(moved(source, "split-K by atomics", context=eased), "matmul", *inputs)
    assert added.grid == (64, 8)
    assert added.counts["RED"] + added.counts["REDG"] + added.counts["ATOMG"] > 0
    whole = replace(usual, workloads=(replace(FLOAT[0], params={**FLOAT[0].params, "dtype": "int8"}),))
    assert "not exact for sums of integers" in declined(source, "split-K", whole)


@pytest.mark.parametrize("version", ["3.6.0", "3.7.1"])
def test_the_chains_apply_whole_on_both_versions(version):
    import sys

    sys.path.insert(0, str(ROOT / "benchmarks"))
    from rules_chain import CHAINS, chain

    for problem in CHAINS:
        left_out = [(move, why) for move, _, why in chain(problem, version) if why]
        assert left_out == []


@pytest.mark.slow
def test_two_blocks_share_an_sm_under_a_cap_of_registers():
    source = moved(seed("attention"), "tensor descriptors", "scale in the exponent", "masked blocks apart")
    found = chain(source, "register cap")
    point = {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 8, "num_stages": 2}
    capped, free = (attention(found.source, REGISTERS=n, **point) for n in (128, 0))
    assert free.registers > 128
    assert capped.registers <= 128
    assert capped.spills_bytes == 0
    assert 2 * (capped.shared_bytes + 1024) <= 233_472  # and 1 KiB for each block that the driver keeps
    assert "states its registers" in declined(found.source, "register cap")
    assert "second block could hide" in declined(seed("matmul"), "register cap")


def test_the_host_describes_what_streams_and_programs_make_no_descriptor():
    described = moved(seed("attention"), "tensor descriptors")
    found = chain(described, "descriptors from the host", "masked blocks apart", "warp specialization")
    source = found.source
    assert source.count("TensorDescriptor.from_tensor(") == 2
    assert "OWN_DESC=USE_DESC and WARP_SPECIALIZE" in source  # the block of queries, and only there
    assert source.index("# EVOLVE-BLOCK-START") < source.index("import TensorDescriptor")
    assert "makes no descriptor" in declined(source, "descriptors from the host")
    assert "makes no descriptor" in declined(seed("attention"), "descriptors from the host")
    assert "several tl.dot" in declined(seed("matmul"), "descriptors from the host")


def test_queries_stay_in_registers_and_leave_room_for_a_third_block():
    source = moved(
        seed("attention"), "tensor descriptors", "scale in the exponent", "masked blocks apart", "register cap"
    )
    found = chain(source, "operand in registers")
    point = {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 4, "num_stages": 2, "REGISTERS": 168}
    kept, read = (attention(found.source, Q_IN_REGISTERS=x, **point) for x in (True, False))
    assert read.shared_bytes - kept.shared_bytes >= 64 * 128 * 2  # the block of queries
    assert 3 * (kept.shared_bytes + 1024) <= 233_472 < 3 * (read.shared_bytes + 1024)
    assert kept.registers <= 168
    assert kept.spills_bytes == 0
    assert kept.counts["HGMMA"] == read.counts["HGMMA"]
    assert "num_stages=2" in found.source
    assert "one statement" in declined(found.source, "operand in registers")
    assert "several tl.dot" in declined(seed("matmul"), "operand in registers")


@pytest.mark.slow
def test_sums_are_rescaled_in_a_branch_unless_warps_are_specialized():
    source = moved(seed("attention"), "tensor descriptors", "scale in the exponent", "lazy rescale")
    lazy, always = (attention(source, LAZY_RESCALE=x) for x in (True, False))
    assert lazy.counts["BRA"] > always.counts["BRA"]
    assert lazy.spills_bytes == 0
    special = moved(source, "warp specialization")
    built = attention(special, num_warps=4, num_stages=2)
    assert built.counts["USETMAXREG"] > 0
    assert "must already" in declined(special, "lazy rescale")
    other = seed("attention").replace("total = total * shrink + tl.sum(p, axis=1)", "total = total + tl.sum(p, axis=1)")
    assert "shrunk" in declined(other, "lazy rescale")


@pytest.mark.slow
def test_several_rows_are_one_tile_and_one_row_is_as_it_was():
    def rows(source: str, count: int = 2048, width: int = 1024, **tunables: object):
        x, w = meta(count, width), meta(width)
        (built,) = build(source, "layernorm_residual", x, x, w, w, 1e-5, False, num_warps=4, **tunables)
        return built

    source = moved(seed("layernorm_residual"), "rows per program", "unmasked rows")
    plain, alone, four = rows(seed("layernorm_residual")), rows(source, ROWS=1), rows(source, ROWS=4)
    assert (plain.grid, alone.grid, four.grid) == ((2048,), (2048,), (512,))
    assert alone.counts["LDG"] <= plain.counts["LDG"]
    assert alone.counts["FSEL"] <= plain.counts["FSEL"]
    assert four.counts["LDG"] > alone.counts["LDG"]  # more is under way at once
    assert four.spills_bytes == 0
    assert rows(source, count=2046, ROWS=4).grid == (512,)
    assert rows(source, width=16384, ROWS=4).grid == (2048,)  # such a tile would spill
    assert "one tl.program_id(0)" in declined(seed("paged_decode"), "rows per program")
    turned = seed("layernorm_residual").replace("tl.sum(total, axis=0)", "tl.cumsum(total, axis=0)")
    assert "does not know" in declined(turned, "rows per program")


@pytest.mark.parametrize(
    "name", ["twice_flat", *(pytest.param(f"twice_{n}", marks=pytest.mark.slow) for n in ("rows", "tiles"))]
)
def test_a_second_kernel_goes_into_the_epilogue(name):
    source, entry = OTHERS[name]
    inputs = (meta(512, 512), meta(512, 512), meta(512))
    assert len(build(source, entry, *inputs)) == 2
    found = chain(source, "fused epilogue")
    (built,) = build(found.source, entry, *inputs)
    assert built.counts["HGMMA"] > 0
    assert built.counts["MUFU"] > 0
    assert built.spills_bytes == 0
    assert "finish" not in found.source
    assert "makes 1 launches" in declined(found.source, "fused epilogue")


def test_a_second_kernel_that_does_more_stays():
    source, _ = OTHERS["twice_rows"]
    summed = source.replace("gelu(z).to(", "(z / tl.sum(z, axis=0)).to(")
    assert "tl.sum" in declined(summed, "fused epilogue")
    kept = source.replace("return out", "return out, product")
    assert "more than the second kernel" in declined(kept, "fused epilogue")
    other = source.replace("out = torch.empty((M, N)", "out = torch.empty((N, M)")
    assert "shape of the product" in declined(other, "fused epilogue")
    shorter, _ = OTHERS["twice_flat"]
    assert "another number" in declined(shorter.replace("product.numel(), N,", "product.numel(), K,"), "fused epilogue")


@pytest.mark.slow
def test_what_is_not_split_is_what_it_was():
    """Where tiles fill the chip, or K is short, a candidate that could split K launches what its parent launched."""
    source, skinny = seed("matmul"), (Workload(name="w", params={"M": 512, "N": 512, "K": 16384}),)
    split = moved(source, "split-K", context=replace(USUAL, workloads=skinny))
    point = {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64, "num_warps": 8, "num_stages": 3}
    for m, n, k, launches in ((1536, 5120, 2560, 1), (512, 512, 512, 1), (512, 512, 16384, 2)):
        inputs = (meta(m, k), meta(k, n))
        (before,), after = (build(x, "matmul", *inputs, **point) for x in (source, split))
        assert len(after) == launches
        assert after[0].grid == (*before.grid, 1) if launches == 1 else after[0].grid[1] > 1
        if launches == 1:
            assert after[0].counts["HGMMA"] == before.counts["HGMMA"]
            assert abs(after[0].counts.total() - before.counts.total()) < 40


def test_a_persistent_grid_that_is_off_costs_nothing():
    """At one tile a program neither loop nor flattening is left, and K may be split besides."""
    skinny = replace(USUAL, tuned=True, workloads=(Workload(name="w", params={"M": 512, "N": 512, "K": 16384}),))
    plain = moved(seed("matmul"), "tensor descriptors", "alignment", context=skinny)
    several = moved(plain, "persistent grid", "flattened loops", "split-K", context=skinny)
    inputs = (meta(512, 16384), meta(16384, 512))
    point = {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 128, "num_warps": 4, "num_stages": 5}
    (before,) = build(plain, "matmul", *inputs, **point)
    (after,) = build(several, "matmul", *inputs, **point, SPLIT_K=1)
    assert after.grid == (*before.grid, 1)
    assert after.counts["HGMMA"] == before.counts["HGMMA"]
    assert abs(after.counts.total() - before.counts.total()) < 40
    split, _ = build(several, "matmul", *inputs, **point, SPLIT_K=8)
    assert split.grid == (64, 8)
    assert abs(split.counts.total() - before.counts.total()) < 40
    (large,) = build(several, "matmul", meta(4096, 4096), meta(4096, 4096), **point)
    assert large.grid == (132, 1)


def test_masks_that_the_host_settles_and_bounds_that_cost_less():
    """In one loop for all blocks, where warps are specialized: the ends are gone, the diagonal costs half."""
    source = moved(seed("attention"), "tensor descriptors", "scale in the exponent", "warp specialization")
    point = {"num_warps": 4, "num_stages": 2}
    settled = moved(source, "settled masks")
    before, after = attention(source, causal=False, **point), attention(settled, causal=False, **point)
    assert before.counts["FSEL"] - after.counts["FSEL"] >= 120  # for each score of both consumers
    assert after.counts["USETMAXREG"] > 0
    ragged = meta(4, 32, 4001, 128)
    (odd,) = build(settled, "attention", ragged, ragged, ragged, False, BLOCK_M=128, BLOCK_N=128, **point)
    assert odd.counts["FSEL"] >= before.counts["FSEL"]
    bounded = moved(settled, "bounded scores")
    before, after = attention(settled, **point), attention(bounded, **point)
    assert before.counts["FSEL"] - after.counts["FSEL"] >= 120
    assert after.counts["ISETP"] < before.counts["ISETP"]
    assert after.counts["FMNMX"] > before.counts["FMNMX"]
    assert after.spills_bytes == 0
    assert "already" in declined(bounded, "bounded scores")
    assert "bounds its scores" in declined(moved(seed("attention"), "bounded scores"), "masked blocks apart")
    assert "several tl.dot" in declined(seed("matmul"), "settled masks")
