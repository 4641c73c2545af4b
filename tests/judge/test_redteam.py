"""The red-team suite: its files say what they must get, its runner holds a judge to it, and the early stages obey."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from evolve.errors import UsageError
from evolve.judge import interpret
from evolve.judge.gate import gate
from evolve.judge.jail import Jail, Limits
from evolve.judge.lower import lower
from evolve.judge.redteam import Case, cases, held, run
from evolve.judge.screen import screen
from evolve.judge.stages import Point, Ruling
from evolve.judge.targets import find
from evolve.problem import Problem, Variant, bind, load_problem
from evolve.types import Evaluation, Job, Measurement, Verdict

MATMUL = Path(__file__).parents[2] / "evaluators" / "matmul.py"
SUITE = cases()
ATTACKS = [case for case in SUITE if case.kind == "attack"]
HONEST = [case for case in SUITE if case.kind == "honest"]
EARLY = [case for case in ATTACKS if case.stage == "screen"]
ENDLESS = ("compile_bomb_unroll", "host_loop")
MEASURED = Measurement(workload="w", baseline="b", time_us=1.0, ratio=1.0, ratio_low=1.0, ratio_high=1.0)


def named(case: Case) -> str:
    return case.name


def problem_of(case: Case) -> tuple[Problem, Variant]:
    problem = load_problem(case.problem or MATMUL)
    return problem, problem.variant(case.variant)


def test_the_suite_is_large_and_its_headers_are_complete() -> None:
    assert len(ATTACKS) >= 45
    assert len(HONEST) >= 10
    assert len({case.name for case in SUITE}) == len(SUITE)
    for case in SUITE:
        assert case.what, case.name
        assert (case.expect == (Verdict.PASSED,)) == (case.kind == "honest"), case.name
        assert problem_of(case), case.name


@pytest.mark.parametrize("case", EARLY, ids=named)
def test_the_screen_refuses_for_the_right_reason(case: Case) -> None:
    with pytest.raises(Ruling) as caught:
        screen(case.candidate.source, entry=problem_of(case)[0].entry)
    row = held(case, evaluation_of(caught.value))
    assert row.right, row


@pytest.mark.parametrize("case", [c for c in SUITE if c not in EARLY and c.expect != (Verdict.REJECTED,)], ids=named)
def test_what_others_must_catch_passes_the_screen(case: Case) -> None:
    """Else the later stages would never be tried."""
    assert screen(case.candidate.source, entry=problem_of(case)[0].entry)


# --- Before a device: screen, lower in a jail, gate -------------------------------------------------------------------


@pytest.fixture(scope="module")
def jail() -> Iterator[Jail]:
    made = Jail(slots=1, limits=Limits(wall_seconds=60.0, cpu_seconds=60))
    yield made
    made.close()


def evaluation_of(ruling: Ruling) -> Evaluation:
    return Evaluation(verdict=ruling.verdict, feedback=ruling.feedback, stage=ruling.stage)


def before_a_device(jail: Jail, case: Case) -> Evaluation:
    problem, variant = problem_of(case)
    target = find("sm_90")
    try:
        screened = screen(case.candidate.source, entry=problem.entry)
        workloads = [bind(w, variant) for w in problem.workloads if w.role != "held_out"]
        points = [Point(workload=w, parameters=screened.defaults) for w in workloads]
        raw = lower(jail, screened, problem, points, target, shuffle_seed=1)
        gate(raw, screened=screened, problem=problem, points=points, target=target)
    except Ruling as ruling:
        return evaluation_of(ruling)
    return Evaluation(verdict=Verdict.PASSED, measurements=(MEASURED,))


@pytest.mark.slow  # the whole judge is put to these in test_redteam_whole
@pytest.mark.parametrize("case", HONEST, ids=named)
def test_no_honest_control_is_refused_before_a_device(jail: Jail, case: Case) -> None:
    assert held(case, before_a_device(jail, case)).right


@pytest.mark.slow  # the whole judge is put to these in test_redteam_whole
@pytest.mark.parametrize("case", [c for c in ATTACKS if c.stage in ("lower", "gate") or not c.stage], ids=named)
def test_lowering_and_gate_refuse_for_the_right_reason(jail: Jail, case: Case) -> None:
    if case.name in ENDLESS:
        pytest.skip("takes as long as it may; see the slow test")
    row = held(case, before_a_device(jail, case))
    assert row.right, row


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDLESS)
def test_what_never_ends_is_ended(jail: Jail, name: str) -> None:
    (case,) = cases([name])
    assert held(case, before_a_device(jail, case)).right


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in ATTACKS if c.stage == "check"], ids=named)
def test_wrong_answers_get_as_far_as_a_device(jail: Jail, case: Case) -> None:
    """They must fail for what they compute, not for how they are written."""
    evaluation = before_a_device(jail, case)
    assert evaluation.passed, evaluation.feedback


# --- The check, as far as Triton's interpreter can make it -----------------------------------------------------------


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Jail]:
    made = Jail(slots=1, interpret=True)
    yield made
    made.close()


CHECKED = [c for c in SUITE if not c.needs_gpu and (c.kind == "honest" or c.stage == "check")]


@pytest.mark.slow  # the whole judge is put to these in test_redteam_whole
@pytest.mark.parametrize("case", CHECKED, ids=named)
def test_answers_are_told_apart_without_a_gpu(interpreter: Jail, case: Case) -> None:
    problem, variant = problem_of(case)
    screened = screen(case.candidate.source, entry=problem.entry)
    evaluation = said(Verdict.PASSED)
    try:
        interpret.check(interpreter, screened, problem, variant, random_seeds=(1, 2, 3))
    except Ruling as ruling:
        evaluation = evaluation_of(ruling)
    row = held(case, evaluation)
    assert row.right, row


# --- The runner -------------------------------------------------------------------------------------------------------


def said(verdict: Verdict, feedback: str = "", stage: str = "") -> Evaluation:
    measurements = (MEASURED,) if verdict is Verdict.PASSED else ()
    return Evaluation(verdict=verdict, feedback=feedback, stage=stage, measurements=measurements)


def test_verdict_stage_and_reason_must_all_be_right() -> None:
    (case,) = cases(["library_fallback"])
    assert case.expected == "REJECTED at screen"
    good = said(Verdict.REJECTED, "line 3: `torch.matmul` is not on the list.\nmore", "screen")
    row = held(case, good)
    assert row.right
    assert row.reason == "line 3: `torch.matmul` is not on the list."
    assert row.got == "REJECTED at screen"
    for wrong in (
        said(Verdict.PASSED),
        said(Verdict.INCORRECT, "torch.matmul", "screen"),
        said(Verdict.REJECTED, "torch.matmul", "gate"),
        said(Verdict.REJECTED, "the file does not parse", "screen"),
    ):
        assert held(case, wrong).right is False


def test_each_problem_and_variant_has_one_judge_and_gpu_cases_are_skipped() -> None:
    opened: list[tuple[str | None, str | None]] = []
    lock = threading.Lock()

    def judge(problem: str | None, variant: str | None):
        with lock:
            opened.append((problem, variant))

        def evaluate(job: Job) -> Evaluation:
            assert job.candidate.member == "redteam"
            assert job.random_seeds == (1, 2, 3)
            return said(Verdict.PASSED)

        return evaluate

    rows = list(run(cases(), judge, has_gpu=False))
    assert len(rows) == len(SUITE)
    assert len(opened) == len(set(opened))
    assert (None, None) in opened
    assert any(problem and problem.endswith("scale_rows.py") for problem, _ in opened)
    assert {row.got for row in rows if row.case.needs_gpu} == {"skipped"}
    assert all(row.right is (row.case.kind == "honest") for row in rows if not row.case.needs_gpu)


def test_an_unknown_case_is_a_sentence() -> None:
    with pytest.raises(UsageError, match="no case 'x'; the suite has"):
        cases(["x"])
