"""What a rule promises to do to the machine code, seen in the machine code: built for sm_90 without a GPU."""

import random

import pytest
import torch
from build import Built, build
from candidates import PRODUCTS

from evolve.rules import RULES, Applied, Context, apply
from evolve.types import Workload

WORKLOADS = (Workload(name="w", params={"M": 4096, "N": 4096, "K": 4096, "dtype": "float16"}),)
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


@pytest.mark.parametrize("kernel", PRODUCTS)
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


@pytest.mark.parametrize("kernel", ["seed", "axes", "grouped"])
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


@pytest.mark.parametrize("kernel", ["seed", "axes", "grouped"])
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
