"""Prompts carry what is needed, drop the least useful first, and never what must stay hidden."""

from dataclasses import replace
from pathlib import Path

import pytest

from evolve.errors import ConfigError
from evolve.problem import load_problem
from evolve.prompts.render import KINDS, TEMPLATES, Briefing, Renderer
from evolve.types import Attempt, Candidate, Draw, Evaluation, Measurement, Verdict

PROBLEM = load_problem(Path(__file__).parents[2] / "evaluators/matmul.py")
VARIANT = PROBLEM.variant("bf16")


def briefing() -> Briefing:
    return Briefing(
        problem=PROBLEM,
        variant=VARIANT,
        workloads=PROBLEM.of_role("time", VARIANT),
        facts=("An H200 has 132 multiprocessors.",),
    )


def attempt(step: int, source: str, *, passed: bool = True, feedback: str = "") -> Attempt:
    measured = Measurement(workload="4096", baseline="cublas", time_us=200, ratio=0.8, ratio_low=0.79, ratio_high=0.81)
    evaluation = (
        Evaluation(verdict=Verdict.PASSED, measurements=(measured,), feedback=feedback, traits={"registers": 168})
        if passed
        else Evaluation(verdict=Verdict.BUILD_ERROR, feedback=feedback)
    )
    return Attempt(candidate=Candidate(step=step, source=source, member="m", kind="diff"), evaluation=evaluation)


def draw() -> Draw:
    return Draw(
        step=7,
        island=0,
        parent=attempt(1, "PARENT = 1\n"),
        inspirations=(attempt(2, "INSPIRES = 1\n"), attempt(3, "ALSO = 1\n")),
        failures=(attempt(4, "FAILED = 1\n", passed=False, feedback="x" * 9000 + "error: the end"),),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_words_and_no_open_place(kind: str) -> None:
    prompt = Renderer(briefing=briefing())(draw(), kind)
    assert prompt.kind == kind
    assert prompt.user
    assert "$" not in prompt.system + prompt.user


def test_a_prompt_carries_what_an_engineer_needs() -> None:
    prompt = Renderer(briefing=briefing())(draw(), "diff")
    for text in (
        "PARENT = 1",
        "INSPIRES = 1",
        "0.800 x cublas [0.790, 0.810]",
        "registers=168",
        "132 multi",
        "4096",
        "BUILD_ERROR",
    ):
        assert text in prompt.user
    assert "matmul(a, b)" in prompt.system
    assert "<<<<<<< SEARCH" in prompt.user


def test_errors_keep_their_tail() -> None:
    assert "error: the end" in Renderer(briefing=briefing())(draw(), "diff").user


def test_fix_shows_the_failed_child_and_not_its_parents_source() -> None:
    user = Renderer(briefing=briefing())(draw(), "fix").user
    assert "FAILED = 1" in user
    assert "PARENT = 1" not in user


def test_held_out_workloads_never_reach_a_prompt() -> None:
    hidden = [w for w in PROBLEM.workloads if w.role == "held_out"]
    assert hidden
    for kind in KINDS:
        prompt = Renderer(briefing=briefing())(draw(), kind)
        for workload in hidden:
            assert workload.name not in prompt.user
            assert f"N={workload['N']}, K={workload['K']}" not in prompt.user


def test_a_confirmed_parents_held_out_times_stay_hidden() -> None:
    confirmed = attempt(1, "PARENT = 1\n")
    hidden = Measurement(
        workload="held_wide", baseline="cublas", time_us=5, ratio=1, ratio_low=1, ratio_high=1, weight=0.0
    )
    shown = confirmed.evaluation.measurements
    evaluation = replace(confirmed.evaluation, measurements=(*shown, hidden))
    assert evaluation.score == confirmed.evaluation.score, "a score is over what everyone is timed on"
    user = Renderer(briefing=briefing())(replace(draw(), parent=replace(confirmed, evaluation=evaluation)), "diff").user
    assert "held_wide" not in user
    assert "0.800 x cublas" in user


def test_the_least_useful_goes_first_and_the_task_never() -> None:
    full = Renderer(briefing=briefing())(draw(), "diff").user
    for longest in range(len(full), 0, -200):
        user = Renderer(briefing=briefing(), longest=longest)(draw(), "diff").user
        assert "PARENT = 1" in user
        assert "## Answer" in user
        if "ALSO = 1" in user:
            assert "INSPIRES = 1" in user, "the second inspiration outlived the first"
    assert "INSPIRES" not in user


def test_own_templates_replace_the_shipped_ones(tmp_path: Path) -> None:
    (tmp_path / "diff.txt").write_text("Be bold.")
    user = Renderer(briefing=briefing(), template_dir=tmp_path)(draw(), "diff").user
    assert "Be bold." in user
    assert "SEARCH" in user, "what is not replaced is the shipped text"
    with pytest.raises(ConfigError, match="no folder"):
        Renderer(briefing=briefing(), template_dir=tmp_path / "none")


def test_braces_and_dollars_in_sources_are_left_alone() -> None:
    odd = replace(draw(), parent=attempt(1, "x = {'$a': 1}  # ${b} {c}\n"))
    assert "x = {'$a': 1}  # ${b} {c}" in Renderer(briefing=briefing())(odd, "diff").user


def test_every_template_is_used() -> None:
    used = {f"{kind}.txt" for kind in KINDS} | {"system.txt", "contract.txt", "answer_diff.txt", "answer_rewrite.txt"}
    assert {p.name for p in TEMPLATES.glob("*.txt")} == used
