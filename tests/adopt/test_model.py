"""`evolve init NAME --model model.py`: a KernelBench file as a problem that begins without a seed."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console

from evolve import newproblem, runner
from evolve.adopt.model import name_of
from evolve.adopt.owned import Model
from evolve.config import load_config
from evolve.errors import AdoptError
from evolve.judge.fitness import unfit
from evolve.problem import load_problem
from evolve.types import Workload

MODEL = Path(__file__).parent / "kernels" / "model.py"
SMALL = """
import torch
import torch.nn as nn

class Model(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return torch.relu(x) * self.weight

rows = 4096
dim = 1024

def get_inputs():
    return [torch.randn(rows, dim)]

def get_init_inputs():
    return [dim]
"""
DRAFT = """```python
import torch
import triton
import triton.language as tl

# EVOLVE-BLOCK-START
@triton.jit
def relu_kernel(x_ptr, weight_ptr, y_ptr, dim, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    row = tl.program_id(0) * dim
    x = tl.load(x_ptr + row + i, mask=i < dim, other=0.0)
    weight = tl.load(weight_ptr + i, mask=i < dim, other=0.0)
    tl.store(y_ptr + row + i, tl.maximum(x, 0.0) * weight, mask=i < dim)


def scaled_relu(x, weight):
    y = torch.empty_like(x)
    relu_kernel[(x.shape[0],)](x, weight, y, x.shape[1], BLOCK=triton.next_power_of_2(x.shape[1]))
    return y
# EVOLVE-BLOCK-END
```"""


def test_weights_are_arguments_and_take_the_place_of_the_modules_own():
    model = Model(str(MODEL), MODEL.name)
    sizes = {"batch_size": 3, "in_features": 4, "out_features": 5, "scaling_factor": 0.5}
    w = Workload(name="w", params=sizes)
    x, weight, bias, norm, shift = model.arguments(w, "cpu", 1)
    assert (x.shape, weight.shape, norm.shape) == ((3, 4), (5, 4), (5,))
    assert model.outputs(w)[0].shape == (3, 5)
    assert torch.equal(model(x, weight, bias, norm * 0, shift), torch.zeros(3, 5))
    assert model(*(v.double() for v in (x, weight, bias, norm, shift))).dtype is torch.float64
    assert model.arguments(w, "meta", 1)[0].is_meta


def test_names_of_weights_can_be_bound():
    assert name_of("blocks.0.weight", "net") == "blocks_0_weight"
    assert name_of("input", "net") == "input_"


@pytest.mark.slow
def test_it_starts_without_a_seed_and_the_first_draft_is_judged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text(SMALL)
    order = newproblem.Order(name="scaled_relu", model=Path("model.py"))
    assert newproblem.make(order, Console(file=io.StringIO())) == 0
    assert not Path("seeds").exists()
    problem = load_problem("evaluators/scaled_relu.py")
    assert [(a.name, a.role) for a in problem.arguments] == [("x", "value"), ("weight", "value")]
    assert unfit(problem, problem.variants[0]) is None
    config = yaml.safe_load(Path("configs/scaled_relu.yaml").read_text())
    assert load_config(Path("configs/scaled_relu.yaml"), ()).seeds == ()
    config |= {"council": [{"member": "scripted", "replies": [DRAFT]}], "budget": {"steps": 1}, "backend": "cpu"}
    Path("configs/drafted.yaml").write_text(yaml.safe_dump(config))
    assert runner.run(runner.Order(config=Path("configs/drafted.yaml"))) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1\n", "has no Model; a KernelBench file has Model, get_inputs and get_init_inputs"),
        (SMALL.replace("[torch.randn(rows, dim)]", "[[torch.randn(rows, dim)]]"), "x is a list"),
    ],
)
def test_a_file_that_is_none_is_refused_with_the_reason(source, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text(source)
    with pytest.raises(AdoptError, match=said):
        newproblem.make(newproblem.Order(name="mine", model=Path("model.py")), Console(file=io.StringIO()))
    assert [p.name for p in Path().iterdir()] == ["model.py"]
