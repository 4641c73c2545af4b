"""What `evolve judge` and `evolve redteam` print, for a person and for a program."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from evolve.terminal import report
from evolve.types import Candidate, Evaluation, Measurement, Verdict

CANDIDATE = Candidate(step=0, source="x = 1\n", member="you", kind="seed")


def measured(name: str, *, modelled: bool = True, **parameters: int) -> Measurement:
    return Measurement(
        workload=name, baseline="cuBLAS", time_us=80.0, ratio=1.25, ratio_low=1.2, ratio_high=1.3, modelled=modelled,
        parameters=parameters,
    )  # fmt: skip


def passed(*measurements: Measurement) -> Evaluation:
    return Evaluation(
        verdict=Verdict.PASSED, stage="time", measurements=measurements, errors={"small": 0.5, "odd": 0.625},
        seconds={"screen": 0.01, "check": 2.0}, evidence={"plan": {"grid": [1, 2]}}, feedback="Bound by memory.",
    )  # fmt: skip


def shown(capsys: Any, evaluation: Evaluation, **options: Any) -> str:
    report.show(CANDIDATE, evaluation, "a device", **{"as_json": False, **options})
    printed: str = capsys.readouterr().out
    return printed


def test_a_modelled_time_is_called_so_and_has_no_interval(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, passed(measured("4096", BLOCK=64), measured("8192", BLOCK=64)))
    assert "score    1.250 (modelled)" in text
    assert "time (modelled)" in text
    assert "interval" not in text
    assert text.count("BLOCK=64") == 1, "what is the same everywhere is said once"
    assert "worst is 0.62 of its bound, on odd" in text
    assert "Bound by memory." in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_measured_time_has_an_interval_and_parameters_of_each_workload(capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = passed(measured("4096", modelled=False, BLOCK=64), measured("8192", modelled=False, BLOCK=128))
    text = shown(capsys, evaluation)
    assert "modelled" not in text
    assert "score    1.250 [1.200, 1.300]" in text
    assert "BLOCK=64" in text
    assert "BLOCK=128" in text


def test_a_failure_says_where_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "row 3 is wrong \x1b[2J[bold]not markup[/bold]"
    text = shown(capsys, Evaluation(verdict=Verdict.INCORRECT, stage="check", feedback=evil))
    assert "verdict  INCORRECT  in check" in text
    assert "row 3 is wrong ␛[2J[bold]not markup[/bold]" in text
    assert "score" not in text


def test_json_is_one_object_with_everything(capsys: pytest.CaptureFixture[str]) -> None:
    odd = Evaluation(verdict=Verdict.REJECTED, stage="screen", feedback="\udcff\n" * 50 + "long " * 100)
    for evaluation in (passed(measured("4096", BLOCK=64)), odd):
        made = json.loads(shown(capsys, evaluation, as_json=True))
        assert made["verdict"] == evaluation.verdict
        assert made["candidate"] == CANDIDATE.id
        assert made["feedback"] == evaluation.feedback
        assert made["modelled"] is evaluation.modelled
        assert made["score"] == evaluation.score
    assert json.loads(shown(capsys, passed(measured("4096", BLOCK=64)), as_json=True))["measurements"] == [
        {"workload": "4096", "baseline": "cuBLAS", "time_us": 80.0, "ratio": 1.25, "ratio_low": 1.2, "ratio_high": 1.3,
         "weight": 1.0, "samples": 1, "parameters": {"BLOCK": 64}, "eager_us": None, "modelled": True, "quick": False}
    ]  # fmt: skip


def row(name: str, right: bool | None) -> Any:
    case = SimpleNamespace(name=name, kind="attack", what=f"{name} does [this]", expected="REJECTED")
    return SimpleNamespace(case=case, got="PASSED" if right is False else "REJECTED", reason="a reason", right=right)


def test_redteam_counts_and_names_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert not report.redteam(iter([row("one", True), row("two", False), row("three", None)]), as_json=False)
    text = capsys.readouterr().out
    assert "1 ruled on rightly, 1 wrongly, 1 skipped." in text
    assert "expected REJECTED, got PASSED" in text
    assert "two: two does [this]" in text
    assert report.redteam(iter([row("one", True), row("three", None)]), as_json=True)
    assert [r["right"] for r in json.loads(capsys.readouterr().out)] == [True, None]
