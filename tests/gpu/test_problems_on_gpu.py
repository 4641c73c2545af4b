"""The shipped problems on a real GPU: each fit for use in bf16, its seed right, and a comparison that knows its order.

About 15 s a problem, most of it calibration; with EVOLVE_GPU_VARIANTS=all every variant.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from evolve import checking
from evolve.judge.gpu.nvml import count
from evolve.problem import load_problem

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(count() == 0, reason="no NVIDIA GPU answers here")]
ROOT = Path(__file__).parent.parent.parent
NAMES = ("matmul", "attention", "paged_decode", "layernorm_residual", "matmul_gelu")
EVERY = os.environ.get("EVOLVE_GPU_VARIANTS") == "all"
CASES = [
    (name, variant.name)
    for name in NAMES
    for variant in load_problem(ROOT / f"evaluators/{name}.py").variants
    if EVERY or variant.name == "bf16"
]


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_the_problem_is_fit_for_use_and_its_seed_passes(name, variant):
    findings = [f for _, f in checking.check(str(ROOT / f"evaluators/{name}.py"), variant=variant, backend="gpu")]
    for found in findings:
        if found.state != "ok" or not found.what.startswith("mutant"):
            print(f"{found.state:<8} {found.what:<40} {found.workload:<16} {found.sentence}")
    assert [f.sentence for f in findings if f.state == "wrong"] == []
    here = [f for f in findings if f.what.endswith("on the GPU")]
    assert any(f.what.startswith("baseline") and f.state == "ok" for f in here)
    assert any(f.what.startswith("mutant") and f.state == "ok" for f in here)
    assert all(len(f.sentence) > 10 for f in findings if f.state == "skipped")


def test_a_comparison_puts_a_compiler_before_eager_and_says_what_it_left_out():
    """Layer norm: torch.compile reads once what eager reads twice, on every card that there is."""
    command = [sys.executable, "-m", "evolve", "bench", "seeds/layernorm_residual.py", "--json", "--workload", "4096"]
    command += ["--problem", "evaluators/layernorm_residual.py", "--variant", "bf16", "--min-roofline", "0.05"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-2000:])
    data = json.loads(done.stdout)
    (row,) = data["workloads"]
    print(
        {o["name"]: (round(o["time_us"], 1), o["ratio_low"], o["ratio_high"]) for o in row["against"]}, row["skipped"]
    )
    us = {o["name"]: o["time_us"] for o in row["against"]}
    assert us["compiled"] < us["eager"]
    assert row["skipped"] == {"seed": "it is the candidate itself"}
    assert 0.05 < row["roofline"] < 1.1
    assert not row["modelled"]
    assert all(o["ratio_low"] <= o["ratio"] <= o["ratio_high"] for o in row["against"])
