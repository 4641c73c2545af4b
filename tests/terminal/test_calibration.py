"""What `evolve doctor --gpu` prints, on a calibration recorded on an H200 (torch 2.11, Triton 3.6)."""

import io
import json
from pathlib import Path

from rich.console import Console

from evolve.terminal import calibration

RECORDED = json.loads((Path(__file__).parents[1] / "data/calibration_h200.json").read_text())


def printed(**changes: object) -> str:
    console = Console(file=io.StringIO(), width=120)
    calibration.show("bf16", {**RECORDED, **changes}, console, first=True)
    return console.file.getvalue()


def test_device_ceilings_errors_and_unrest_are_shown() -> None:
    text = printed()
    parts = ("NVIDIA H200", "memory_gbs", "bfloat16 7", "skinny16", "cublas", "1.7e-03", "0.66", "A/A spread", " W, ")
    for part in parts:
        assert part in text, part
    assert "GPU-0" not in text, "a GPU's serial number is nobody's business"


def test_strangers_and_untried_versions_are_named() -> None:
    text = printed(foreigners=["process 77 (python)"], warnings=["triton 9.9 was never tried"])
    assert "process 77 (python)" in text
    assert "never tried" in text


def test_a_workload_without_a_baseline_is_said() -> None:
    rows = {"odd": {"baseline": None, "us": None, "calls": 1, "rows": [], "others": {}}}
    assert "none" in printed(workloads=rows)
