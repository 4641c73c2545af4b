"""What the council is told about speed."""

import pytest

from evolve.judge.advice import Change
from evolve.judge.feedback import known_cliffs, same_as, speed_feedback
from evolve.judge.model import Prediction
from evolve.types import Measurement

FOUND = {
    "target": "sm_90",
    "tensor_path": "wgmma",
    "structure": "plain",
    "footprint": "medium",
    "kernel": "matmul_kernel",
    "launches": 1,
    "registers": 202,
    "spills_bytes": 0,
    "shared_bytes": 147456,
    "threads": 256,
    "programs": 512,
    "blocks_per_sm": 1,
    "occupancy": 0.125,
    "limited_by": "registers",
    "waves": 3.879,
    "tile": "128x256x64",
    "synchronous_loads_in_loop": 0,
    "wgmma_serialized": False,
    "n_HGMMA": 4,
    "n_LDGSTS": 36,
    "n_total": 856,
}


def measured(**changes):
    figures = {"time_us": 200.0, "ratio": 0.86, "ratio_low": 0.858, "ratio_high": 0.862}
    return Measurement(workload="4096", baseline="cublas", **{**figures, **changes})


def predicted(**changes):
    figures = {"time_us": 213.0, "bound": "compute", "roofline": 0.65, "terms": {"compute": 180.0}}
    return Prediction(**{**figures, **changes})


def test_a_measured_workload_has_time_ratio_roofline_and_bound():
    text = speed_feedback((measured(),), {"4096": predicted()}, FOUND, {})
    line = text.splitlines()[0]
    assert line == (
        "4096: 200 us measured, 0.860x (0.858 to 0.862) against cublas; 69% of the roofline, bound by arithmetic "
        "(modelled: tensor cores 180 us)."
    )


def test_a_modelled_time_says_so():
    text = speed_feedback((measured(modelled=True, ratio_low=0.86, ratio_high=0.86),), {}, FOUND, {})
    assert text.startswith("4096: 200 us modelled, 0.860x against cublas.")


def test_facts_stand_against_the_parents():
    parent = {**FOUND, "registers": 128, "n_HGMMA": 0, "n_HMMA": 64, "occupancy": 0.25}
    text = speed_feedback((measured(),), {}, FOUND, parent)
    assert "registers a thread 128 → 202" in text
    assert "HGMMA 0 → 4" in text
    assert "HMMA 64 → 0" in text
    assert "occupancy 0.25 → 0.125" in text
    assert "LDGSTS" not in text  # unchanged
    assert "shared memory 147456 B" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"spills_bytes": 800, "threads": 128}, "800 B of spills a thread: 8 warps for 128×256"),
        ({"synchronous_loads_in_loop": 2}, "One operand is loaded synchronously: K is not known"),
        ({"n_LDGSTS": 0}, "No copy is asynchronous"),
        (
            {"n_HGMMA": 0, "n_HMMA": 8, "tile": "32x64x64"},
            "No WGMMA, only HMMA at about 60 % of the rate: BLOCK_M is under",
        ),
        ({"wgmma_serialized": True}, "serialized for want of registers"),
    ],
)
def test_cliffs_are_recognised(change, said):
    found = {**FOUND, **change}
    assert said in speed_feedback((measured(),), {}, found, {})
    assert len(known_cliffs(found)) == 1
    assert known_cliffs(FOUND) == []


def test_hmma_is_no_cliff_on_a_chip_without_wgmma():
    assert known_cliffs({**FOUND, "target": "sm_80", "n_HGMMA": 0, "n_HMMA": 8}) == []


def test_without_counts_nothing_is_guessed():
    bare = {name: value for name, value in FOUND.items() if not name.startswith("n_")}
    assert known_cliffs(bare) == []


def test_advice_is_said_once_with_its_workloads():
    sentence = "16 programs for 132 SMs: smaller tiles, or split the reduction."
    both = {"a": predicted(helps=(Change(sentence=sentence, saves=0.3),))}
    both["b"] = predicted(helps=(Change(sentence=sentence, saves=0.2),))
    text = speed_feedback((measured(),), both, FOUND, {})
    assert text.count(sentence) == 1
    assert f"{sentence} (modelled: a −30%, b −20%)" in text


def test_a_cliff_that_the_model_weighed_is_said_once():
    spilled = {**FOUND, "spills_bytes": 800, "threads": 128}
    (sentence,) = known_cliffs(spilled)
    text = speed_feedback(
        (measured(),), {"4096": predicted(helps=(Change(sentence=sentence, saves=0.6),))}, spilled, {}
    )
    assert text.count(sentence) == 1
    assert f"{sentence} (modelled: 4096 −60%)" in text


def test_terms_are_named_and_the_largest_come_first():
    terms = {"compute": 180.0, "l2": 90.0, "latency": 120.0, "launch": 1.0}
    text = speed_feedback((measured(),), {"4096": predicted(terms=terms)}, FOUND, {})
    assert "modelled: tensor cores 180 us, waiting 120 us, l2 90 us" in text


def test_a_duplicate_names_its_twin_and_whether_the_change_was_undone():
    undone = same_as("00042-1a2b3c4d", "machine code", "00042-1a2b3c4d")
    met = same_as("00042-1a2b3c4d", "machine code", "00041-1a2b3c4d")
    assert "parent 00042-1a2b3c4d" in undone
    assert "took no effect" in undone
    assert "same machine code as 00042-1a2b3c4d" in met
    assert "took no effect" not in met


def test_it_bears_nothing_known():
    assert speed_feedback((), {}, {}, {}) == ""
    assert "launches" not in speed_feedback((measured(),), {}, {"launches": 0}, {})
