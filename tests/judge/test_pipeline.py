"""The whole way of a candidate on a machine without a GPU: what is kept, what is told, what is called the same."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from evolve.errors import UsageError
from evolve.journal import Journal
from evolve.judge.backends import Opened
from evolve.judge.confirm import HIDDEN
from evolve.judge.contract import SEEDS, job_of
from evolve.judging import seeds_in
from evolve.types import Asked, Judged, Prompt, Replied, Reply, Verdict

sys.path.insert(0, str(Path(__file__).parent))

from cpu_bench import SEED, TIMED, matmul, opened, source_of, swapped

STAGES = ("screen", "lower", "gate", "build", "check", "tune", "time")


@pytest.fixture(scope="module")
def cpu(tmp_path_factory):
    made: Opened = opened(tmp_path_factory.mktemp("cpu"))
    yield made.backend
    made.backend.close()


@pytest.fixture(scope="module")
def passed(cpu):
    found = cpu.evaluate(job_of(SEED))
    assert found.verdict is Verdict.PASSED, found.feedback
    return found


# --- Evidence ---------------------------------------------------------------------------------------------------------


def test_nothing_is_missing_from_the_evidence(cpu, passed):
    kept = passed.evidence
    plan, build = kept["plan"], kept["build"]
    assert kept["source"]["digest"] == job_of(SEED).candidate.digest
    assert f"ast:{kept['source']['screened']}" in passed.digests
    assert f"plan:{plan['digest']}" in passed.digests
    names = {w.name for role in ("check", "time") for w in cpu.problem.of_role(role, cpu.variant)}
    assert set(plan["workloads"]) == names
    for row in plan["workloads"].values():
        (launch,) = row["launches"]
        assert launch["kernel"] == "matmul_kernel"
        assert launch["ttir"] in plan["ttir"]
        assert len(launch["grid"]) == 3
        assert {root["name"] for root in row["roots"]} == {"in0", "in1", "out0"}
    assert {k["ttir"] for k in build["kernels"].values()} <= set(plan["ttir"])
    for kernel in build["kernels"].values():
        assert kernel["sass"]
        assert kernel["instructions"]["total"] > 0
        assert "log" in kernel
    (dot,) = kept["certificate"]["dots"]
    assert (dot["left"], dot["accumulator"]) == ("f16", "f32")
    assert {row[0] for row in kept["check"]["cases"]} == {w.name for w in cpu.problem.interpreted}
    assert all(0 <= error <= bound for *_, error, bound in kept["check"]["cases"])
    assert {name for name in kept["time"] if name in {w.name for w in TIMED}} == {w.name for w in TIMED}
    assert all(kept["time"][w.name]["modelled"] and 0 < kept["time"][w.name]["roofline"] <= 1 for w in TIMED)
    assert set(passed.seconds) == set(STAGES)
    assert set(passed.errors) == {w.name for w in cpu.problem.interpreted}


def test_the_environment_says_what_protected_and_what_was_not_looked_at(passed):
    kept = passed.evidence["environment"]
    assert kept["backend"] == "cpu"
    assert kept["target"] == "sm_90"
    assert kept["torch"]
    assert kept["triton"]
    assert "rlimits" in kept["protections"]
    assert "never run" in " ".join(kept["not_covered"])


def test_the_replay_command_is_this_judgement(cpu, passed):
    kept = passed.evidence["replay"]
    assert kept["random_seeds"] == list(SEEDS)
    assert kept["mode"] == "judge"
    words = kept["command"].split()
    assert words[:3] == ["evolve", "judge", "FILE"]
    assert seeds_in(words[words.index("--random-seeds") + 1]) == SEEDS
    again = cpu.evaluate(job_of(SEED, step=5))
    assert again.evidence["check"] == passed.evidence["check"]
    other = cpu.evaluate(replace(job_of(SEED), random_seeds=(4, 5, 6)))
    assert other.evidence["check"] != passed.evidence["check"], "other seeds, other inputs"


def test_seeds_that_are_no_numbers_are_a_sentence():
    assert seeds_in("") == ()
    assert seeds_in("1, 2,3") == (1, 2, 3)
    with pytest.raises(UsageError, match="whole numbers"):
        seeds_in("1,x")


def test_what_failed_keeps_what_was_known_before(cpu):
    found = cpu.evaluate(job_of(swapped(("tl.store(c_ptrs, acc", "tl.store(c_ptrs, 1.01 * acc"))))
    assert found.verdict is Verdict.INCORRECT
    assert found.stage == "check"
    assert {"plan", "build", "certificate", "environment", "replay", "cases"} <= set(found.evidence)
    assert found.evidence["ruling"] == found.feedback
    assert max(found.errors.values(), default=2.0) > 0
    assert set(found.seconds) == set(STAGES[:5])
    assert len(found.digests) == 3


def test_an_evaluation_goes_through_the_journal_unchanged(cpu, passed, tmp_path):
    failed = cpu.evaluate(job_of(source_of("compile_error")))
    confirmed = cpu.evaluate(job_of(SEED, mode="confirm"))
    with Journal.create(tmp_path / "run", config_text="") as journal:
        for step, evaluation in enumerate((passed, failed, confirmed)):
            candidate = job_of(SEED + "\n" * step, step=step).candidate
            journal.append(Asked(step=step, member="seed", prompt=Prompt(system="", user="", kind="seed")))
            journal.append(Replied(step=step, reply=Reply(member="seed", text=candidate.source)))
            journal.append(Judged(step=step, candidate=candidate, evaluation=evaluation))
            assert journal.attempt(candidate.id).evaluation == evaluation


# --- Feedback ---------------------------------------------------------------------------------------------------------


def test_a_change_without_effect_is_named_by_what_stayed_the_same(cpu, passed):
    first = job_of(SEED)
    known = dict.fromkeys(passed.digests, first.candidate.id)
    for text, stage, same in (
        (SEED + "\n# another comment\n", "screen", "source"),
        (SEED.replace("tiles_n", "columns_of_tiles"), "gate", "launch plan"),
        (swapped(("    acc = tl.zeros", "    K = K + 0 * M\n    acc = tl.zeros")), "build", "machine code"),
    ):
        found = cpu.evaluate(job_of(text, step=8, known=known))
        assert found.verdict is Verdict.DUPLICATE, (stage, found.feedback)
        assert found.stage in (stage, "gate"), found.feedback
        assert first.candidate.id in found.feedback
        if found.stage == stage:
            assert f"same {same} as {first.candidate.id}" in found.feedback


def test_what_is_slow_is_told_with_its_bound_and_against_its_parent(cpu, passed):
    child = swapped(("BLOCK_M=64", "BLOCK_M=128"), ("BLOCK_N=64", "BLOCK_N=128"))
    found = cpu.evaluate(job_of(child, step=2, parent=passed))
    assert found.verdict is Verdict.PASSED, found.feedback
    for word in (
        "square:",
        "skinny:",
        "modelled",
        "of the roofline, bound by",
        "registers a thread",
        "→",
        "tile 128x128",
    ):
        assert word in found.feedback, word


def test_a_refusal_of_the_compiler_has_the_candidates_line(cpu):
    found = cpu.evaluate(job_of(swapped(("tl.dot(a, b,", "tl.dot(a, a,"))))
    assert found.verdict is Verdict.BUILD_ERROR
    assert "tl.dot(a, a" in found.feedback


# --- Confirmation -----------------------------------------------------------------------------------------------------

# Right for every size that is shown, and refused for one that is not.
ONLY_SHOWN = swapped(
    ("    M, K = a.shape", "    M, K = a.shape\n    assert K != 3080 and K != 2560, f'{M} x {K} is odd'")
)


def test_confirm_takes_in_the_held_out_workloads(cpu):
    found = cpu.evaluate(job_of(SEED, mode="confirm"))
    assert found.verdict is Verdict.PASSED
    assert found.stage == "confirm"
    hidden = {w.name for w in cpu.problem.of_role("held_out", cpu.variant)}
    assert hidden
    assert hidden <= set(found.evidence["plan"]["workloads"])
    assert {"ttgir", "ptx"} <= set(next(iter(found.evidence["build"]["kernels"].values())))
    assert not any(name in found.feedback for name in hidden)


def test_a_held_out_failure_is_one_fixed_sentence_and_the_truth_is_kept(cpu):
    assert cpu.evaluate(job_of(ONLY_SHOWN)).verdict is Verdict.PASSED
    found = cpu.evaluate(job_of(ONLY_SHOWN, mode="confirm"))
    assert found.verdict is Verdict.RUNTIME_ERROR
    assert found.feedback == HIDDEN
    assert "is odd" in found.evidence["ruling"]
    assert "held_" in found.evidence["ruling"]


def test_no_hidden_size_is_in_anything_that_a_prompt_shows(cpu):
    sizes = {str(v) for w in cpu.problem.of_role("held_out", cpu.variant) for v in w.params.values()}
    sizes -= {str(v) for r in ("check", "time") for w in cpu.problem.of_role(r, cpu.variant) for v in w.params.values()}
    for source in (SEED, ONLY_SHOWN):
        for mode in ("judge", "confirm"):
            found = cpu.evaluate(job_of(source, mode=mode))
            shown = json.dumps([found.feedback, dict(found.traits), [m.workload for m in found.measurements]])
            assert not [s for s in sizes if len(s) > 2 and s in shown]


# --- Other chips ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["sm_80", "sm_89", "sm_100", "gfx942"])
def test_other_chips_are_built_for_and_modelled(tmp_path, target):
    made = opened(tmp_path, target=target)
    try:
        found = made.backend.evaluate(job_of(SEED))
        assert found.verdict is Verdict.PASSED, found.feedback
        assert found.traits["target"] == target
        assert target in made.ranking_key
        unjudged = target == "gfx942"
        for text in (found.feedback, str(made.warnings), str(made.facts), str(found.evidence["environment"])):
            assert ("never judged" in text) == unjudged
        assert found.evidence["environment"]["judged"] is not unjudged
    finally:
        made.backend.close()


def test_bf16_is_checked_as_fp16_and_says_so(tmp_path):
    made = opened(tmp_path, variant="bf16")
    try:
        found = made.backend.evaluate(job_of(SEED))
        assert found.verdict is Verdict.PASSED, found.feedback
        assert found.evidence["check"]["checked_as"] == "fp16"
        assert "bf16 was checked as fp16" in found.evidence["check"]["note"]
    finally:
        made.backend.close()


def test_what_a_score_means_is_in_its_ranking_key(tmp_path):
    keys = set()
    for more in ({}, {"problem": matmul(TIMED[:1])}):
        made = opened(tmp_path, seed=None, **more)
        made.backend.close()
        keys.add(made.ranking_key)
        assert matmul().digest in made.ranking_key
        assert "modelled" in made.ranking_key
    assert len(keys) == 2


# --- What the model may not be told -----------------------------------------------------------------------------------


def test_an_honest_kernel_is_seen_to_do_the_whole_work(passed):
    for workload in TIMED:
        assert passed.evidence["time"][workload.name]["share_of_the_work"]["part"] >= 0.99


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("range(0, K, BLOCK_K)", "range(0, K if K < 1000 else K // 2, BLOCK_K)"),
        ("range(0, K, BLOCK_K)", "range(0, K, BLOCK_K * (1 + (M + N) // 4096 + M // 1024))"),
        ("    grid = (", "    if K > 1000:\n        N = N // 2\n    grid = ("),
    ],
)
def test_work_that_is_skipped_at_timed_sizes_is_impossible(cpu, old, new):
    found = cpu.evaluate(job_of(swapped((old, new))))
    assert found.verdict is Verdict.IMPOSSIBLE, (found.verdict, found.score, found.feedback)
    assert "of the work" in found.feedback or "that the answer takes" in found.feedback
    assert found.evidence["time"]


def test_work_that_cannot_be_counted_is_not_for_free(cpu, passed):
    """A loop whose length hangs on data would count as one turn."""
    hidden = swapped(
        (
            "    for k in range(0, K, BLOCK_K):",
            "    for k in range(0, K + (tl.load(a_ptr) > 1e30).to(tl.int32), BLOCK_K):",
        )
    )
    found = cpu.evaluate(job_of(hidden))
    assert found.verdict is Verdict.PASSED, found.feedback
    assert any("depends on data" in note for note in found.evidence["time"]["square"]["notes"])
    assert found.score < 1.1


# --- Made for the sizes that are timed --------------------------------------------------------------------------------


def test_an_ordinary_kernel_is_launched_alike_around_the_timed_sizes(passed):
    assert passed.traits["specialised"] is False
    near = passed.evidence["neighbours"]
    assert set(near) == {w.name for w in TIMED}
    assert all(row["differs"] == "" for row in near.values())
    assert near["skinny"]["sizes"]["M"] == 16
    assert near["skinny"]["sizes"]["N"] < 4096
    assert near["skinny"]["sizes"]["N"] % 256 == 0


@pytest.mark.parametrize(
    "change",
    [
        ("    grid = (", "    BLOCK_N = 128 if M == 1024 else BLOCK_N\n    grid = ("),
        ("    grid = (", "    num_warps = 8 if K == 4096 else num_warps\n    grid = ("),
        ("    grid = (", "    assert K < 3000 or K == 4096\n    grid = ("),
    ],
)
def test_a_kernel_made_for_one_size_is_called_specialised(cpu, change):
    found = cpu.evaluate(job_of(swapped(change)))
    assert found.verdict is Verdict.PASSED, found.feedback
    assert found.traits["specialised"] is True
    assert any(row["differs"] for row in found.evidence["neighbours"].values())
