"""The notebook: predictions are read leniently and held strictly, and lessons are figures of the journal."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolve.experiments import notebook, of_line
from evolve.experiments_claims import claims
from evolve.experiments_held import COUNTED, Outcome, held, overall
from evolve.experiments_lessons import LONGEST, MOST, lessons
from evolve.journal import Journal
from evolve.judge import traits as judged
from evolve.judge.feedback import same_as
from evolve.sentences import sentence
from evolve.types import Candidate, Confirmed, Evaluation, Judged, Measurement, Verdict

WORKLOADS = ("square", "skinny", "4096")
BEFORE = {
    "registers": 168, "spills_bytes": 64, "shared_bytes": 147456, "occupancy": 0.125, "n_total": 900, "n_LDGSTS": 12,
    "tensor_path": "hmma",
}  # fmt: skip
AFTER = {**BEFORE, "registers": 120, "spills_bytes": 0, "n_LDGSTS": 0, "n_UTMALDG": 4, "tensor_path": "wgmma"}
AFTER["n_total"] = 850
del AFTER["n_LDGSTS"]


def evaluation(ratio: float = 1.0, traits=BEFORE, *, width: float = 0.002, key: str = "k", **more) -> Evaluation:
    measurements = tuple(
        Measurement(
            workload=name, baseline="cublas", time_us=100 / times, ratio=times, ratio_low=times * (1 - width),
            ratio_high=times * (1 + width),
        )
        for name, times in (("square", ratio), ("skinny", 1.0))
    )  # fmt: skip
    return Evaluation(verdict=Verdict.PASSED, measurements=measurements, traits=traits, ranking_key=key, **more)


def outcome(prediction: str, parent: Evaluation | None, child: Evaluation, **counters) -> Outcome:
    return overall(held(claims(prediction, WORKLOADS), parent, child, counters))


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("registers 168 -> 120; LDGSTS = 0; UTMALDG appears; time of square -8 %", Outcome.CONFIRMED),
        ("`registers` fall below 128 and spills vanish, square 5% faster", Outcome.CONFIRMED),
        ("registers drop by 40; shared memory unchanged; faster", Outcome.CONFIRMED),
        ("fewer instructions; square: 100 us → 92 us", Outcome.CONFIRMED),
        ("tensor_path = wgmma, score +5 %", Outcome.CONFIRMED),
        ("square < 95 us", Outcome.CONFIRMED),
        ("skinny unchanged", Outcome.CONFIRMED),
        ("", Outcome.CONFIRMED),  # nothing but "faster"
        ("registers 168 -> 40; faster", Outcome.REFUTED),  # less than half of it came
        ("registers < 100", Outcome.REFUTED),
        ("registers rise to 200", Outcome.REFUTED),
        ("square 40 % faster", Outcome.REFUTED),
        ("time of square rises by 5 %", Outcome.REFUTED),
        ("occupancy rises to 0.25", Outcome.WITHOUT_EFFECT),
        ("shared memory 147,456 -> 98304 B", Outcome.WITHOUT_EFFECT),
        ("skinny 10 % faster", Outcome.WITHOUT_EFFECT),
        ("DRAM traffic falls by 30 %", Outcome.NOT_MEASURED),
        ("tensor pipe utilisation rises", Outcome.NOT_MEASURED),
        ("n_HFMA2 falls", Outcome.NOT_MEASURED),  # counted by nobody
    ],
)
def test_what_came_of_a_prediction(prediction: str, expected: Outcome) -> None:
    assert outcome(prediction, evaluation(), evaluation(1.09, AFTER)) is expected


def test_a_counter_that_was_read_decides() -> None:
    pair = evaluation(), evaluation(1.09, AFTER)
    read = {"tensor_percent": 71.0, "before:tensor_percent": 55.0}
    assert outcome("tensor pipe utilisation rises by 10", *pair, **read) is Outcome.CONFIRMED
    assert outcome("tensor pipe utilisation falls", *pair, **read) is Outcome.REFUTED


def test_within_the_interval_is_without_effect_and_slower_refutes() -> None:
    assert outcome("", evaluation(width=0.03), evaluation(1.04, width=0.03)) is Outcome.WITHOUT_EFFECT
    assert outcome("", evaluation(), evaluation(1.004)) is Outcome.WITHOUT_EFFECT, "smaller than anyone can tell"
    assert outcome("", evaluation(1.1), evaluation(1.0)) is Outcome.REFUTED


def test_what_does_not_compare_was_not_measured() -> None:
    assert outcome("", None, evaluation()) is Outcome.NOT_MEASURED
    assert outcome("", evaluation(key="another GPU"), evaluation(2.0)) is Outcome.NOT_MEASURED
    assert outcome("registers < 130", None, evaluation(traits=AFTER)) is Outcome.NOT_MEASURED, "its time was not"
    assert outcome("UTMALDG > 0", evaluation(traits={}), evaluation(2.0, {})) is Outcome.NOT_MEASURED


def test_prose_and_assignments_predict_nothing() -> None:
    for text in ("The loop gets better.", "I use BLOCK_M=64 with GROUP_M = 8.", "TMA is faster than pointers, surely?"):
        assert [c for c in claims(text, WORKLOADS) if c.quantity not in ("time",)] == []


def test_it_counts_what_the_judge_counts() -> None:
    assert COUNTED == judged.COUNTED


@given(st.text(max_size=400), st.sampled_from([*WORKLOADS, "time", "registers 12 ->", "< 5 %", "−3", "HGMMA", ""]))
def test_any_text_is_read(text: str, word: str) -> None:
    found = held(claims(text + word + text, WORKLOADS), evaluation(), evaluation(1.1, AFTER))
    assert isinstance(overall(found), Outcome)


# --- Of a run -------------------------------------------------------------------------------------------------------


@pytest.fixture
def journal(tmp_path):
    with Journal.create(tmp_path / "run", config_text="", meta={"workloads": WORKLOADS}) as made:
        yield made


def plant(journal, step, found, parent=None, *, idea="", prediction="", member="gpt", confirm=None):
    candidate = Candidate(
        step=step, source=f"x = {step}\n", member=member if parent else "seed", kind="diff" if parent else "seed",
        parent_id=parent and parent.id, hypothesis=idea, prediction=prediction,
    )  # fmt: skip
    journal.append(Judged(step=step, candidate=candidate, evaluation=found))
    if confirm:
        journal.append(Confirmed(step=step, candidate_id=candidate.id, evaluation=confirm))
    return candidate


def failed(verdict: Verdict = Verdict.BUILD_ERROR, why: str = "ptxas: out of registers") -> Evaluation:
    return Evaluation(verdict=verdict, feedback=why, stage="build")


@pytest.fixture
def run(journal):
    beats = {"beats_incumbent": True}
    seed = plant(journal, 0, evaluation(), confirm=evaluation(**beats))
    idea = "Descriptors spare the registers that addresses take."
    better = plant(
        journal, 1, evaluation(1.2, AFTER), seed, idea=idea, prediction="registers < 130; square −15 %",
        confirm=evaluation(1.19, AFTER, **beats),
    )  # fmt: skip
    plant(journal, 2, evaluation(0.9, AFTER), seed, idea="Unroll by 2 so that loads overlap.", prediction="faster")
    plant(journal, 3, failed(), seed, idea="Warp specialization hides the loads.", prediction="square -20 %")
    plant(journal, 4, failed(), better, idea="Warp specialization hides the loads!", prediction="square -20 %")
    plant(journal, 5, failed(Verdict.DUPLICATE, "same machine code"), better, idea="Hint that strides divide by 16.")
    plant(journal, 6, replace(evaluation(1.19, BEFORE)), better, idea="Hold fewer pointers.", prediction="LDGSTS > 5")
    return seed, better


def test_a_source_that_was_there_before_is_no_experiment(journal, run) -> None:
    twin = replace(failed(Verdict.DUPLICATE, "The same as 00001."), stage="reply")
    plant(journal, 7, twin, run[1], idea="Something that was said before.")
    assert notebook(journal)[-1].outcome is Outcome.NOT_MEASURED
    assert not any("said before" in lesson for lesson in lessons(journal, run[1].id))


def test_what_another_line_had_come_to_is_no_sign_that_the_change_was_undone(journal, run) -> None:
    seed, better = run
    for step, twin in ((7, seed), (8, better)):
        why = same_as(twin.id, "launch plan", better.id)
        plant(journal, step, failed(Verdict.DUPLICATE, why), better, idea=f"Descriptors, {step}.")
    assert [e.outcome for e in notebook(journal)[-2:]] == [Outcome.NOT_MEASURED, Outcome.WITHOUT_EFFECT]


def test_the_notebook_sets_each_outcome_against_its_prediction(journal, run) -> None:
    found = notebook(journal)
    assert [(e.row.step, e.outcome) for e in found] == [
        (1, Outcome.CONFIRMED), (2, Outcome.REFUTED), (3, Outcome.NOT_MEASURED), (4, Outcome.NOT_MEASURED),
        (5, Outcome.WITHOUT_EFFECT), (6, Outcome.WITHOUT_EFFECT),
    ]  # fmt: skip
    assert found[0].line == (
        "Descriptors spare the registers that addresses take. → registers < 130; square −15 % → confirmed: "
        "registers 168 → 120, square −16.0 %"
    )
    assert found[2].line.endswith("→ square -20 % → not measured: BUILD_ERROR: ptxas: out of registers")
    assert notebook(journal, count=2) == found[-2:], "the last ones, each with its parent, which is not among them"
    assert [e.row.step for e in of_line(journal, run[1].id)] == [0, 1]


def test_lessons_are_short_say_what_paid_and_are_the_same_each_time(journal, run) -> None:
    told = lessons(journal, run[1].id)
    assert told == lessons(journal, run[1].id)
    assert len(told) <= MOST
    assert all(len(lesson) <= LONGEST for lesson in told)
    for part in (
        "Tried on this very candidate: Hint that strides divide by 16: changed nothing.",
        "Paid: Descriptors spare the registers that addresses take: 1.09 times as fast as its parent, on the way to",
        "Did not pay: Unroll by 2 so that loads overlap: 5.4 % slower than its parent",
        "BUILD_ERROR 2 times: Warp specialization hides the loads",
    ):
        assert any(lesson.startswith(part) for lesson in told), told
    assert len(lessons(journal, run[1].id, count=2)) == 2


def test_a_long_run_has_no_longer_list(journal, run) -> None:
    for step in range(7, 60):
        plant(
            journal, step, evaluation(1 + step / 100, AFTER), run[0], idea=f"Idea {step} of its own " + "x" * step * 9
        )
    told = lessons(journal, run[0].id)
    assert len(told) <= MOST
    assert max(map(len, told)) <= LONGEST


def test_a_run_without_experiments_teaches_nothing(journal) -> None:
    assert lessons(journal) == ()
    plant(journal, 0, evaluation())
    assert lessons(journal) == ()


def test_a_confirmed_candidate_that_is_not_promoted_is_told_why() -> None:
    """Its score may be the highest of the run: held-out sizes are not in it."""
    event = Confirmed(step=21, candidate_id="00021-7099e356", evaluation=evaluation(1.2, beats_incumbent=False))
    assert "held-out ones included" in sentence(event)
    for why, told in (
        ("the gain's lower end -3.00% against 1.20%", "1.20%, held-out sizes included"),
        ("other processes are on the GPU: python3", "GPU: python3"),
    ):
        kept = replace(event.evaluation, evidence={"time": {"promotion": {"why": why}}})
        assert sentence(replace(event, evaluation=kept)).endswith(told)
