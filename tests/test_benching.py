"""The comparison's word: limits against intervals, who is meant by a name, and the whole of it without a GPU."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolve.benching import chosen
from evolve.benching_rows import gate, gates, geomeans, outcome, row_of
from evolve.errors import UsageError
from evolve.exported import module_in
from evolve.judge.contest import Beside, Contest
from evolve.judge.roofline import Roof
from evolve.judge.statistics import Interval
from evolve.problem import load_problem
from evolve.terminal import contest_picture
from evolve.types import Workload

ROOT = Path(__file__).parent.parent
ATTENTION = ROOT / "evaluators/attention.py"


def spans(low: float, high: float) -> Interval:
    return Interval(median=math.log((low * high) ** 0.5), low=math.log(low), high=math.log(high), blocks=12)


def contest(name: str = "w", own: tuple[float, float] = (99, 101), **more: Any) -> Contest:
    ratios = more.pop("ratios", {"lib": (1.1, 1.2)})
    return Contest(
        workload=Workload(name=name, params={"M": 1}),
        own=spans(*own),
        beside=tuple(Beside(name=n, time_us=100.0, ratio=spans(*r)) for n, r in ratios.items()),
        skipped=more.pop("skipped", {}),
        roof=Roof(us=80.0, bound="memory", nbytes=1e6, flops=1e6, gbs=4000.0, tflops=800.0),
        **more,
    )


# --- Limits -----------------------------------------------------------------------------------------------------------


@given(st.floats(0.1, 10), st.floats(1.0, 2.0), st.floats(0.1, 10))
def test_a_limit_fails_only_where_the_whole_interval_lies_below(low: float, width: float, least: float) -> None:
    found = gate("w", "--fail-under", least, spans(low, low * width), "")
    low, high = found["low"], found["high"]
    word = "failed" if high < least else "passed" if low >= least else "inconclusive"
    assert found["word"] == word


@pytest.mark.parametrize(
    ("ratio", "more", "word"),
    [
        ((0.90, 0.94), {}, "failed"),
        ((0.96, 0.98), {}, "passed"),
        ((0.94, 0.96), {}, "inconclusive"),
        ((0.90, 0.94), {"modelled": True}, "inconclusive"),
        ((0.96, 0.98), {"modelled": True}, "inconclusive"),
        ((0.90, 0.94), {"foreigners": ("process 7",)}, "inconclusive"),
        ((0.90, 0.94), {"discarded": 0.5}, "inconclusive"),
    ],
)
def test_the_word_on_a_speed_up(ratio: tuple[float, float], more: dict[str, Any], word: str) -> None:
    found = gates([contest(ratios={"lib": ratio}, **more)], ["lib"], fail_under=0.95, min_roofline=None)
    assert [g["word"] for g in found] == [word]
    assert len(found[0]["why"]) > 10


def test_the_fastest_of_those_named_counts_and_one_bad_workload_is_enough() -> None:
    found = [
        contest("good", ratios={"lib": (1.3, 1.4), "other": (2, 3), "seed": (0.5, 0.6)}),
        contest("bad", ratios={"lib": (1.5, 1.6), "other": (0.8, 0.9), "seed": (3, 4)}),
    ]
    words = {g["what"]: g["word"] for g in gates(found, ["lib", "other"], fail_under=0.95, min_roofline=None)}
    assert words == {"good, over lib": "passed", "bad, over other": "failed", "geometric mean": "passed"}
    means = {m["name"]: m for m in geomeans(found, ["lib", "other"])}
    assert means["lib"]["workloads"] == 2
    assert means["the fastest of each"]["ratio"] == pytest.approx((1.3 * 1.4 * 0.8 * 0.9) ** 0.25)
    assert means["lib"]["ratio_low"] < means["lib"]["ratio"] < means["lib"]["ratio_high"]


def test_nothing_to_compare_with_is_no_pass() -> None:
    found = gates([contest(ratios={})], ["lib"], fail_under=0.95, min_roofline=None)
    assert outcome(found) == "inconclusive"
    assert outcome([]) == "passed"


@pytest.mark.parametrize(("least", "word"), [(0.7, "passed"), (0.8, "inconclusive"), (0.9, "failed")])
def test_the_share_of_the_roofline_has_the_time_s_interval(least: float, word: str) -> None:
    (found,) = gates([contest()], [], fail_under=None, min_roofline=least)
    assert found["word"] == word
    assert found["low"] == pytest.approx(80 / 101)
    assert found["high"] == pytest.approx(80 / 99)


# --- Names ------------------------------------------------------------------------------------------------------------


def test_a_word_stands_for_every_name_that_has_it() -> None:
    problem = load_problem(ROOT / "evaluators/attention.py")
    assert chosen(problem, ["cudnn"]) == (["sdpa_cudnn"], False)
    assert chosen(problem, ["flash", "seed", "sdpa_flash"]) == (["sdpa_flash", "flash_attention_3"], True)
    assert chosen(problem, [])[1]
    with pytest.raises(UsageError, match='did you mean "flashinfer"') as caught:
        chosen(problem, ["flashinfre"])
    assert "sdpa_cudnn" in str(caught.value)


def test_a_folder_that_is_no_package_is_not_taken_for_one(tmp_path: Path) -> None:
    assert module_in(str(tmp_path)) is None
    (tmp_path / "dispatch.json").write_text("[]")
    with pytest.raises(UsageError, match=r"dispatch.json: not a table that"):
        module_in(str(tmp_path))
    (tmp_path / "dispatch.json").write_text('{"rows": []}')
    with pytest.raises(UsageError, match=r"kernels.py: no such file"):
        module_in(str(tmp_path))


# --- The whole --------------------------------------------------------------------------------------------------------


def package(folder: Path) -> Path:
    """As `evolve export` writes one, as far as a comparison reads it."""
    folder.mkdir()
    (folder / "kernels.py").write_text((ROOT / "seeds/layernorm_residual.py").read_text())
    (folder / "problem.py").write_text((ROOT / "evaluators/layernorm_residual.py").read_text())
    here, there = {"kernels": "kernels", "device": "A"}, {"kernels": "kernels", "device": "B"}
    rows = [
        {"workload": "mine", "parameters": {"num_warps": 8}, **here},
        {"workload": "mine", "parameters": {"num_warps": 16}, **there},
        {"workload": "1024", "parameters": "baseline", "tried": {"num_warps": 2}, **there},
    ]
    (folder / "dispatch.json").write_text(json.dumps({"rows": rows, "variant": "fp16"}))
    sizes = {"mine": (512, 2048), "1024": (16384, 1024)}
    usual = {"role": "time", "mode": "cold", "weight": 1.0}
    timed = [
        {"name": n, "params": {"rows": r, "hidden": h, "return_sum": False}, **usual} for n, (r, h) in sizes.items()
    ]
    timed.append({"name": "wrong", "params": {"rows": 4}, **usual})
    (folder / "provenance.json").write_text(json.dumps({"workloads": timed}))
    return folder


def test_without_a_gpu_a_package_is_compared_by_the_model_and_no_limit_decides(place: Any) -> None:
    folder = package(place.folder / "fast")
    (place.folder / "seeds").mkdir()
    (place.folder / "seeds" / "layernorm_residual.py").write_text((ROOT / "seeds/layernorm_residual.py").read_text())
    words = ["--fail-under", "0.9", "--backend", "cpu"]
    words += ["--min-roofline", "0.1", "--picture", "x.svg", "--json"]
    done = place.evolve("bench", folder, *words)
    data = json.loads(done.out)
    assert done.status == 3
    assert data["outcome"] == "inconclusive"
    assert {row["workload"]: row["parameters"] for row in data["workloads"]} == {
        "mine": {"num_warps": 16},
        "1024": {"num_warps": 2},
    }
    assert data["variant"] == "fp16"
    assert data["left_out"] == {"wrong": "make_inputs refuses its sizes: KeyError: 'hidden'"}
    assert module_in(str(folder), "A").parameters["mine"] == {"num_warps": 8}  # type: ignore[union-attr]
    for row in data["workloads"]:
        assert row["modelled"]
        assert "no GPU" in row["skipped"]["eager"]
        assert 0 < row["roofline"] <= 1
    assert data["environment"]["versions"]["triton"]
    drawn = ElementTree.fromstring((place.folder / "x.svg").read_text())
    text = " ".join(node.text or "" for node in drawn.iter())
    assert "modelled" in text
    assert "mine" in text


def test_the_table_and_the_picture_say_what_the_rows_say(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    from evolve.terminal import contest as page

    rows = [contest("<one>", skipped={"fa3": "not installed"}), contest("two", ratios={"lib": (0.5, 0.6)})]
    data = {
        "candidate": "c",
        "problem": "p",
        "variant": "v",
        "device": "GPU",
        "left_out": {"three": "too little GPU memory"},
        "environment": {"versions": {"torch": "1", "triton": "2", "evolve": "3"}, "gpu": {"driver": "580"}},
        "workloads": [row_of(c, ["lib"]) for c in rows],
        "geomean": geomeans(rows, ["lib"]),
        "gates": gates(rows, ["lib"], fail_under=0.95, min_roofline=None),
        "outcome": "failed",
    }
    console = Console(width=160)
    for row in data["workloads"]:
        page.workload(row, console, "candidate")
    page.summary(data, console)
    said = capsys.readouterr().out
    for part in ("1.149 ×", "[1.100, 1.200]", "0.548 ×", "skipped: fa3 on <one>: not installed", "three", "driver 580"):
        assert part in said
    drawn = ElementTree.fromstring(contest_picture.draw(data))
    assert "1.149 × [1.100, 1.200]" in [node.text for node in drawn.iter()]


@pytest.mark.slow
def test_the_seed_is_tuned_as_long_as_the_candidate(place: Any) -> None:
    (place.folder / "evaluators").mkdir()
    (place.folder / "seeds").mkdir()
    for name in ("evaluators/layernorm_residual.py", "seeds/layernorm_residual.py"):
        (place.folder / name).write_text((ROOT / name).read_text())
    other = (ROOT / "seeds/layernorm_residual.py").read_text().replace("num_warps=4", "num_warps=32")
    (place.folder / "mine.py").write_text(other)
    words = ["-p", "evaluators/layernorm_residual.py", "--workload", "1024", "--backend", "cpu", "--tune", "20"]
    data = json.loads(place.evolve("bench", "mine.py", *words, "--json").out)
    (row,) = data["workloads"]
    beside = {b["name"]: b["ratio"] for b in row["against"]}
    assert row["parameters"]["num_warps"] < 32
    assert beside["seed"] >= beside["seed_tuned"] == pytest.approx(1.0, abs=0.02)


@pytest.mark.slow
def test_a_wrong_kernel_gets_no_number(place: Any) -> None:
    source = (ROOT / "seeds/layernorm_residual.py").read_text().replace("variance + eps", "variance + 0.01")
    (place.folder / "wrong.py").write_text(source)
    done = place.evolve("bench", "wrong.py", "-p", ROOT / "evaluators/layernorm_residual.py", "--backend", "cpu")
    assert done.status == 1
    assert "INCORRECT" in done.out
    assert "µs" not in done.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["seed.py"], ["say which problem"]),
        (["nothing.py", "-p", "p.py"], ["no such file"]),
        (
            ["seed.py", "-p", ROOT / "evaluators/attention.py", "--against", "cublas"],
            ["no such baseline", "sdpa_cudnn"],
        ),
        (["seed.py", "-p", ROOT / "evaluators/attention.py", "--workload", "5k"], ["no such workload", "4k_causal"]),
        (["seed.py", "-p", ROOT / "evaluators/attention.py", "--backend", "fake"], ["no built kernels"]),
    ],
)
def test_a_mistake_gets_a_sentence(place: Any, words: list[Any], told: list[str]) -> None:
    (place.folder / "seed.py").write_text("x = 1\n")
    sentence = place.evolve("bench", *words).sentence
    for part in told:
        assert part in sentence
