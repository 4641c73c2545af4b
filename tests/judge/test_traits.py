"""Traits: the cell that a built plan falls in, and the facts beside it."""

from dataclasses import replace

import pytest

from evolve.judge.plan import Root
from evolve.judge.targets import find
from evolve.judge.traits import footprint, traits
from evolve.problem import AXES

GROUP = ("GROUP_M", 8)


@pytest.fixture(scope="session")
def traits_of(sanity, builder, sm_90):
    def run(kernel, tile, warps, stages, own=None, size=(4096, 4096, 4096), change=lambda plan: plan):
        shape = sanity.Shape(kernel=kernel, tile=tile, warps=warps, stages=stages, own=own)
        workload = sanity.Workload(name="w", params={**dict(zip("MNK", size, strict=True)), "dtype": "bfloat16"})
        low = sanity.lowered(shape, workload, sm_90)
        return traits(change(low.plans[0]), builder.build(low), sm_90)

    return run


@pytest.mark.parametrize(
    ("kernel", "tile", "warps", "stages", "own", "cell"),
    [
        ("seed", (64, 64, 32), 4, 2, None, ("wgmma", "plain", "tiny")),
        ("seed", (32, 64, 64), 4, 4, None, ("mma", "plain", "small")),
        ("grouped", (128, 128, 64), 4, 4, GROUP, ("wgmma", "plain", "medium")),
        ("described", (128, 256, 64), 8, 3, GROUP, ("wgmma+descriptors", "plain", "medium")),
        ("persistent", (128, 256, 64), 8, 3, ("NUM_SMS", 132), ("wgmma+descriptors", "persistent", "large")),
        ("split", (128, 128, 64), 4, 4, ("SPLIT", 8), ("wgmma", "split", "medium")),
    ],
)
def test_structures_fall_in_their_cells(traits_of, kernel, tile, warps, stages, own, cell):
    found = traits_of(kernel, tile, warps, stages, own)
    assert (found["tensor_path"], found["structure"], found["footprint"]) == cell
    assert all(found[axis] in AXES[axis] for axis in AXES)


def test_facts_are_the_built_kernels(traits_of, sm_90):
    found = traits_of("grouped", (128, 128, 64), 4, 4, GROUP)
    assert found["programs"] == 1024
    assert found["shared_bytes"] == 131072
    assert found["threads"] == 128
    assert found["blocks_per_sm"] == 1
    assert found["limited_by"] == "shared memory"
    assert found["waves"] == pytest.approx(1024 / 132, abs=0.01)
    assert found["tile"] == "128x128x64"
    assert found["async_copies"]
    assert found["n_HGMMA"] > 0
    assert found["launches"] == 1


def test_many_launches_are_several_unless_they_meet_in_scratch(traits_of):
    several = traits_of("seed", (64, 64, 32), 4, 2, change=lambda p: replace(p, launches=p.launches * 2))
    assert (several["structure"], several["launches"]) == ("several", 2)
    scratch = Root(name="scratch0", kind="scratch", nbytes=4 * 4 * 4096 * 4096)
    parts = traits_of(
        "seed", (64, 64, 32), 4, 2, change=lambda p: replace(p, launches=p.launches * 2, roots=(*p.roots, scratch))
    )
    assert parts["structure"] == "split"


def test_a_loop_over_k_that_starts_at_the_program_is_not_persistent(traits_of):
    # Split-K's loop starts at its program's part too, and here its grid is a multiple of the SM count by chance.
    found = traits_of("split", (64, 64, 64), 4, 4, ("SPLIT", 33), size=(128, 128, 33 * 64 * 4))
    assert found["programs"] % 132 == 0
    assert found["structure"] == "split"


def test_footprints_are_the_problems_classes():
    sizes = (0, 32 * 1024 - 1, 32 * 1024, 96 * 1024, 164 * 1024, 227 * 1024)
    assert [footprint(n) for n in sizes] == ["tiny", "tiny", "small", "medium", "large", "large"]


def test_no_launch_has_no_cell(traits_of, sm_90):
    assert traits_of("seed", (64, 64, 32), 4, 2, change=lambda p: replace(p, launches=())) == {"launches": 0}
    assert find("sm_90") == sm_90
