"""Four files as people write them, unedited: each is adopted, judged and tuned, in the very way a user does it."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from evolve import checking, judging, newproblem
from evolve.judge.screen import screen
from evolve.problem import load_problem

KERNELS = Path(__file__).parent / "kernels"
FOUR = {
    "moe": ("moe_gating.py:topk_gating", "moe_gating_ref.py:reference"),
    "norm": ("rmsnorm_fp8.py:rms_norm_dynamic_per_token_quant", "rmsnorm_fp8_ref.py:reference"),
    "swa": ("swa_attention.py:sliding_attention", "swa_attention_ref.py:attention"),
    "rope": ("rope_cache.py:rope_and_cache", "rope_cache_ref.py:rope_and_cache"),
}
ROLES = {
    "moe": {"gating_output": "value", "topk": "scalar"},
    "norm": {"input_": "value", "weight": "value", "out": "out", "scales": "out"},
    "swa": {"q": "value", "k": "value", "v": "value", "window": "scalar", "softcap": "scalar"},
    "rope": {
        "q": "in_out",
        "k": "in_out",
        "v": "value",
        "cos": "index",
        "sin": "index",
        "k_cache": "in_out",
        "v_cache": "in_out",
        "slots": "index",
    },
}
TUNES = {
    "moe": {"num_warps"},
    "norm": {"num_warps"},
    "swa": {"BLOCK_M", "BLOCK_N", "num_stages", "num_warps"},
    "rope": {"HEADS_PER_STEP", "num_warps"},
}


def adopt(name, folder):
    for file in KERNELS.glob("*.py"):
        shutil.copy(file, folder)
    kernel, reference = FOUR[name]
    out = io.StringIO()
    status = newproblem.make(
        newproblem.Order(name=name, kernel=kernel, reference=reference), Console(file=out, width=200)
    )
    return status, out.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUR)
def test_adopted_judged_and_tuned(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = {f.name: f.read_bytes() for f in KERNELS.glob("*.py")}
    status, said = adopt(name, tmp_path)
    assert status == 0, said
    assert "The seed passes" in said
    problem = load_problem(f"evaluators/{name}.py")
    assert {a.name: a.role for a in problem.arguments} == ROLES[name]
    screened = screen(Path(f"seeds/{name}.py").read_text(), entry=problem.entry)
    assert set(screened.tune) == TUNES[name]
    assert all(set(start) <= set(screened.defaults) for start in problem.starts)
    order = judging.Order(target=f"seeds/{name}.py", problem=f"evaluators/{name}.py", backend="cpu", tuned=True)
    evaluation = judging.judge(order).evaluation
    assert evaluation.passed, evaluation.feedback
    assert all(set(m.parameters) >= TUNES[name] for m in evaluation.measurements)
    assert {f.name: f.read_bytes() for f in tmp_path.glob("*.py")} == before  # theirs are as they were


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUR)
def test_the_problem_is_fit_for_use(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    adopt(name, tmp_path)
    found = [f for _, f in checking.check(f"evaluators/{name}.py", variant=None, backend="cpu")]
    assert not [f for f in found if f.state == "wrong"]
