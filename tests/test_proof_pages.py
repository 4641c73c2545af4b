"""The pages of results say what was measured and nothing else: each figure with its interval, and its word by it."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

PAGES = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks/proof_pages.py"), run_name="pages")


def against(name: str, ratio: float, width: float = 0.01) -> dict[str, Any]:
    return {"name": name, "ratio": ratio, "ratio_low": ratio - width, "ratio_high": ratio + width}


def measured(cublas: float, second: float, tuned: float = 1.3) -> dict[str, Any]:
    def row(name: str, ratio: float) -> dict[str, Any]:
        times = {"time_us": 100.0, "time_low_us": 99.0, "time_high_us": 101.0}
        rates = {"tflops": 700.0, "gbs": 2000.0, "roofline": 0.8}
        rivals = [against("cublas", ratio), against("seed_tuned", tuned)]
        return {
            "workload": name, **times, **rates, "parameters": {"BLOCK_M": 128}, "against": rivals,
            "skipped": {"compiled": "it compiles first"},
        }  # fmt: skip

    return {
        "device": "NVIDIA H200",
        "environment": {"versions": {"torch": "2.11.0", "triton": "3.6.0"}, "gpu": {"driver": "580"}, "ceilings": {}},
        "workloads": [row("4096", cublas), row("split_k", second)],
        "geomean": [against("cublas", (cublas * second) ** 0.5), against("seed_tuned", tuned)],
    }


def summary(**more: Any) -> dict[str, Any]:
    spent = {"steps": 30, "gpu_seconds": 90.0, "seconds": 120.0, "sessions": 2}
    usual = {
        "name": "matmul", "config": "configs/proof/matmul.yaml", "run": "proof-matmul-1", "steps": 30, "spent": spent,
        "best": "00014-2f48d091", "confirmed": True, "score": [0.9, 0.89, 0.91],
        "ancestry": [[0, 0.8, "seed", ""], [14, 0.9, "rules", "Take tiles in groups."]],
    }  # fmt: skip
    return usual | more


def cells(block: str) -> list[list[str]]:
    return [[c.strip() for c in line.strip("|").split("|")] for line in block.splitlines() if line.startswith("| ")][1:]


@pytest.mark.parametrize(
    ("ratio", "word"), [(1.05, "reached"), (0.90, "missed"), (1.005, "undecided"), (1.02, "reached")]
)
def test_the_whole_interval_decides_what_was_reached(ratio: float, word: str) -> None:
    first, *_ = cells(PAGES["readme"]([summary(bf16=measured(ratio, ratio))]))
    assert first[3] == f"{ratio:.3f} [{ratio - 0.01:.3f}, {ratio + 0.01:.3f}], {word}"
    assert first[5:] == ["1.30 ×", "30, 1.5"]


def test_what_falls_short_is_printed_as_it_is() -> None:
    mean, least = cells(PAGES["readme"]([summary(bf16=measured(1.2, 0.6), fp16=measured(1.1, 1.1))]))
    assert "missed" in mean[3]
    assert least[3] == "0.600 [0.590, 0.610], missed"
    assert mean[4].startswith("1.100")


def test_what_was_not_measured_is_called_so() -> None:
    rows = cells(PAGES["readme"]([summary(bf16={"skipped": "the time was up"})]))
    assert {r[3] for r in rows} == {"not measured"}
    page = PAGES["results"]([summary(bf16={"skipped": "the time was up"})])
    assert "bf16: the time was up" in page


def test_the_page_has_every_size_and_the_way_to_the_best() -> None:
    page = PAGES["results"]([summary(bf16=measured(1.2, 0.6))])
    for part in ("| 4096 | 100.00 µs |", "| split_k |", "× cuBLAS", "0.600 [0.590, 0.610]", "step 14, 0.900, by rules"):
        assert part in page
    assert "Left out: compiled: it compiles first." in page


def test_a_dense_cache_is_no_pair_and_its_interval_is_as_wide_as_both() -> None:
    dense = {"4096": {"time_us": 110.0, "time_low_us": 108.0, "time_high_us": 112.0}}
    figure = PAGES["on"](measured(1, 1), "dense", "4096", dense)
    assert (figure.value, figure.low, figure.high) == pytest.approx((1.1, 108 / 101, 112 / 99))


def test_a_later_lease_overrides_and_keeps_what_only_the_earlier_measured(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for place, row in (
        (first, summary(bf16=measured(1, 1), fp16=measured(1.1, 1.1))),
        (second, summary(bf16=measured(1.3, 1.3), fp16={"skipped": "the time was up"})),
    ):
        place.mkdir()
        (place / "summary.json").write_text(json.dumps([row, {"name": "attention", "skipped": "the time was up"}]))
    (row,) = PAGES["gathered"]([first, second])
    assert row["bf16"]["geomean"][0]["ratio"] == pytest.approx(1.3)
    assert row["fp16"]["geomean"][0]["ratio"] == pytest.approx(1.1)


def test_only_what_stands_between_the_marks_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
    for _ in range(2):
        PAGES["put"](page, "new")
        assert page.read_text() == "before\n<!-- results -->\nnew\n<!-- /results -->\nafter\n"
    page.write_text("no marks\n")
    with pytest.raises(SystemExit, match="results between them"):
        PAGES["put"](page, "new")
