"""What a rule promises to do to the machine code, seen in the machine code: built for sm_90 without a GPU."""

import random

import pytest
import torch
from build import Built, build
from candidates import OTHERS, PRODUCTS

from evolve.rules import RULES, Applied, Context, apply
from evolve.types import Workload

WORKLOADS = (Workload(name="w", params={"M": 4096, "N": 4096, "K": 4096, "dtype": "float16"}),)
SLOWLY = [pytest.param(name, marks=pytest.mark.slow) for name in ("axes", "grouped")]  # the seed stands for them
BY_NAME = {rule.name: rule for rule in RULES}


def context(number: int = 0) -> Context:
    return Context(random=random.Random(number), workloads=WORKLOADS, triton="3.7.1")


def meta(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.float16, device="meta")


def one(source: str, entry: str, a: torch.Tensor, b: torch.Tensor, **tunables: int) -> Built:
    (launch,) = build(source, entry, a, b, **tunables)
    return launch


def moved(name: str, source: str, number: int = 0) -> Applied:
    found = apply(BY_NAME[name], source, context(number))
    assert isinstance(found, Applied), found
    return found


@pytest.mark.parametrize(
    "kernel", ["seed", "axes", *(pytest.param(k, marks=pytest.mark.slow) for k in ("inline", "grouped"))]
)
def test_descriptors_bring_tma_where_tensors_allow_it(kernel):
    source, entry, _ = PRODUCTS[kernel]
    found = moved("tensor descriptors", source)
    assert found.signature == {"UTMALDG": ">0", "LDGSTS": "=0"}
    assert not one(source, entry, meta(512, 512), meta(512, 512)).meets(found.signature)
    built = one(found.source, entry, meta(512, 512), meta(512, 512))
    assert built.meets(found.signature)
    assert built.counts["UTMASTG"] > 0
    assert built.counts["HGMMA"] > 0
    assert built.spills_bytes == 0


def test_descriptors_take_columns_of_b_and_leave_odd_sizes_to_pointers():
    source, entry, _ = PRODUCTS["seed"]
    found = moved("tensor descriptors", source)
    assert one(found.source, entry, meta(512, 640), meta(384, 640).T).meets(found.signature)
    odd = one(found.source, entry, meta(333, 191), meta(191, 257))
    assert odd.counts["UTMALDG"] == 0
    assert odd.counts["LDG"] > 0
    assert one(found.source, entry, meta(640, 512).T, meta(640, 512)).counts["UTMALDG"] == 0  # a by columns


@pytest.mark.parametrize("kernel", ["seed", *SLOWLY])
def test_proposed_parameters_build_without_spills_and_fit_the_chip(kernel):
    source, entry, _ = PRODUCTS[kernel]
    seen = set()
    for number in range(12):
        found = moved("parameters", source, number)
        if found.source not in seen:
            seen.add(found.source)
            built = one(found.source, entry, meta(4096, 4096), meta(4096, 4096))
            assert built.shared_bytes <= 232_448
            assert built.meets(found.signature), found.hypothesis
            assert built.spills_bytes == 0, found.hypothesis
    assert len(seen) > 2


def test_the_same_programs_in_another_order_are_launched():
    source, entry, _ = PRODUCTS["seed"]
    before = one(source, entry, meta(512, 512), meta(512, 512))
    for number in range(6):
        after = one(moved("program order", source, number).source, entry, meta(512, 512), meta(512, 512))
        assert after.grid == before.grid


@pytest.mark.parametrize("kernel", ["seed", *SLOWLY])
def test_even_k_takes_comparisons_out_of_the_loop(kernel):
    source, entry, _ = PRODUCTS[kernel]
    found = moved("EVEN_K", source)
    before, after = (one(s, entry, meta(512, 512), meta(512, 512)) for s in (source, found.source))
    assert after.counts.total() < before.counts.total()
    assert after.counts["LDGSTS"] >= before.counts["LDGSTS"] > 0
    odd = [one(s, entry, meta(333, 191), meta(191, 257)).counts for s in (source, found.source)]
    assert odd[0] == odd[1]


def test_a_persistent_grid_has_a_program_for_each_sm_at_most():
    source, entry, _ = PRODUCTS["seed"]
    found = moved("persistent grid", source)
    assert one(found.source, entry, meta(4096, 4096), meta(4096, 4096)).grid == (132,)
    assert one(found.source, entry, meta(4096, 4096), meta(4096, 4096), NUM_SMS=78).grid == (78,)
    assert one(found.source, entry, meta(64, 512), meta(512, 64)).grid == (1,)


def test_moves_add_up_to_what_an_engineer_would_write():
    source, entry, _ = PRODUCTS["seed"]
    for name in ("tensor descriptors", "program order", "persistent grid"):
        source = moved(name, source, 1).source
    shape = {"BLOCK_M": 128, "BLOCK_N": 256, "BLOCK_K": 64, "num_warps": 8, "num_stages": 3}
    built = one(source, entry, meta(4096, 4096), meta(4096, 4096), **shape)
    assert built.grid == (132,)
    assert built.meets({"UTMALDG": ">0", "UTMASTG": ">0", "HGMMA": ">0", "LDGSTS": "=0"})
    assert built.spills_bytes == 0
    assert built.shared_bytes <= 232_448


LARGE = {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64, "num_warps": 4, "num_stages": 3}


def described() -> tuple[str, str]:
    source, entry, _ = PRODUCTS["seed"]
    return moved("tensor descriptors", source).source, entry


def test_warps_specialize_on_descriptors_and_nowhere_else():
    source, entry = described()
    for first in ([], ["persistent grid"]):
        for name in first:
            source = moved(name, source).source
        found = moved("warp specialization", source)
        built = one(found.source, entry, meta(4096, 4096), meta(4096, 4096), **LARGE)
        assert built.meets(found.signature)
        assert built.spills_bytes == 0
        odd = one(found.source, entry, meta(333, 191), meta(191, 257), BLOCK_M=64, BLOCK_N=64, num_warps=4)
        assert odd.counts["USETMAXREG"] == 0
    plain = apply(BY_NAME["warp specialization"], PRODUCTS["seed"][0], context())
    assert "with pointers the compiler crashes" in getattr(plain, "reason", "")


def test_warp_specialization_asks_for_four_warps():
    source = described()[0]
    found = moved("warp specialization", source.replace("num_warps=4", "num_warps=8"))
    assert "num_warps=4" in found.source
    tall = source.replace("BLOCK_N=64", "BLOCK_N=256")
    assert "64×256" in getattr(apply(BY_NAME["warp specialization"], tall, context()), "reason", "")


def test_a_tile_that_leaves_in_halves_takes_less_shared_memory():
    source, entry = described()
    source = moved("persistent grid", source).source
    found = moved("epilogue subtiling", source)
    before, after = (one(s, entry, meta(4096, 4096), meta(4096, 4096), **LARGE) for s in (source, found.source))
    assert after.meets(found.signature)
    assert after.shared_bytes < before.shared_bytes


@pytest.mark.parametrize("kernel", ["axes", "grouped"])
def test_masks_in_the_place_of_modulo_cost_fewer_instructions(kernel):
    source, entry, _ = PRODUCTS[kernel]
    found = moved("modulo removal", source)
    before, after = (one(s, entry, meta(512, 512), meta(512, 512)) for s in (source, found.source))
    assert after.counts.total() < before.counts.total()
    assert after.counts["LDGSTS"] >= before.counts["LDGSTS"] > 0


@pytest.mark.parametrize("kernel", ["seed", *SLOWLY])
def test_k_is_split_only_where_sms_would_idle(kernel):
    source, entry, tunables = PRODUCTS[kernel]
    none = Context(random=random.Random(0))
    found = apply(BY_NAME["split-K"], source, none)
    assert isinstance(found, Applied)
    large = dict(zip(tunables, (128, 128, 64), strict=True))
    product, total = build(found.source, entry, meta(512, 16384), meta(16384, 512), **large)
    assert product.grid[-1] == 8
    assert product.counts["HGMMA"] > 0
    assert total.grid == (256,)
    (alone,) = build(found.source, entry, meta(4096, 4096), meta(4096, 4096), **large)
    assert alone.grid[-1] == 1
    (before,) = build(source, entry, meta(4096, 4096), meta(4096, 4096), **large)
    assert alone.counts["LDGSTS"] == before.counts["LDGSTS"] > 0
    assert "more tiles than the chip has SMs" in getattr(apply(BY_NAME["split-K"], source, context()), "reason", "")


def test_rows_that_stream_are_copied_ahead():
    source, entry = OTHERS["softmax"]
    source = moved("persistent grid", source).source
    rows = meta(4096, 1024)
    found = moved("pipelining depth", source)
    (before,), (after,) = build(source, entry, rows), build(found.source, entry, rows)
    assert not before.meets(found.signature)
    assert after.meets(found.signature)


def test_undo_leads_back_to_the_same_machine_code():
    source, entry, _ = PRODUCTS["seed"]
    before = one(source, entry, meta(512, 512), meta(512, 512))
    text = moved(
        "EVEN_K", moved("pipelining depth", source.replace("num_stages=num_stages", "num_stages=3")).source
    ).source
    for _ in range(2):
        text = moved("undo", text).source
    assert apply(BY_NAME["undo"], text, context()) == apply(BY_NAME["undo"], source, context())
    assert one(text, entry, meta(512, 512), meta(512, 512), num_stages=3) is not None
    described = moved("tensor descriptors", source).source
    back = moved("undo", described).source
    assert "USE_DESC" not in back
    (alone,) = build(back, entry, meta(512, 512), meta(512, 512))
    assert alone.counts == before.counts


def test_powers_of_two_cost_fewer_instructions():
    source, entry = OTHERS["attention"]
    found = moved("exp2", source)
    assert "tl.exp(" not in found.source
    heads = meta(8, 1024, 64)
    (before,), (after,) = (build(s, entry, heads, heads, heads) for s in (source, found.source))
    assert after.counts["FMUL"] < before.counts["FMUL"]
    assert after.counts["MUFU"] == before.counts["MUFU"]


def test_scores_that_leave_the_kernel_keep_their_base():
    source = OTHERS["attention"][0]
    logged = source.replace("acc = acc / total[:, None]", "acc = acc / total[:, None] + 0 * tl.log(total)[:, None]")
    assert "logarithms" in getattr(apply(BY_NAME["exp2"], logged, context()), "reason", "")
    biased = source.replace("* scale\n", "* scale + 1.0\n")
    assert "does more to the scores" in getattr(apply(BY_NAME["exp2"], biased, context()), "reason", "")
