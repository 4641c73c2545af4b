"""Where float32 itself cannot hold an answer, a kernel need not; where it can, nothing is forgiven."""

import torch

from evolve.judge.compare import compare
from evolve.judge.gpu import answers
from evolve.problem import load_problem
from evolve.types import Workload

PROBLEM = load_problem("evaluators/attention.py")
VARIANT = PROBLEM.variant("bf16")
SIZES = {"B": 2, "H": 4, "HK": 2, "S": 777, "D": 128, "causal": True, "dtype": "bfloat16"}
WORKLOAD = Workload(name="ties", params=SIZES, role="check")


def attention(q, k, v, relative):
    """As kernels do it, but for a relative error of `relative` in each logit."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, 1).float() for x in (k, v))
    logits = q.float() @ k.mT
    rng = torch.Generator().manual_seed(5)
    logits *= 1 + relative * (2 * torch.rand(logits.shape, generator=rng) - 1)
    at = torch.arange(logits.shape[-1])
    logits = (logits * q.shape[-1] ** -0.5).masked_fill(at[None] > at[:, None], -1e38)
    p = torch.exp(logits - logits.amax(-1, keepdim=True))
    return (p.to(q.dtype).float() @ v / p.sum(-1, keepdim=True)).to(q.dtype)


def test_a_near_tie_of_huge_logits_is_no_mistake_and_coarse_logits_are():
    made = answers.draw(PROBLEM, VARIANT, WORKLOAD, "log_uniform", "cpu", 2)
    reference = answers.reference_of(PROBLEM, WORKLOAD, made)

    def held(relative):
        out = (attention(*made[:3], relative),)
        found = answers.hold(
            PROBLEM, VARIANT, WORKLOAD, out, reference, made, family="log_uniform", baseline=lambda: None
        )
        return out[0], answers.worst(found)

    near, ratio = held(2.0**-18)  # an eighth of what tf32 loses in a product, some units of float32 in a sum
    name = PROBLEM.outputs(WORKLOAD)[0].name
    assert compare(name, VARIANT.comparators[name], near, reference[0], family="log_uniform").ratio > 1
    assert ratio <= 1
    assert held(2.0**-14)[1] > 4


def test_well_conditioned_answers_are_held_as_before():
    made = answers.draw(PROBLEM, VARIANT, WORKLOAD, "given", "cpu", 1)
    reference = answers.reference_of(PROBLEM, WORKLOAD, made)
    moved = answers.shaken(PROBLEM, WORKLOAD, made)
    name = PROBLEM.outputs(WORKLOAD)[0].name
    wrong = attention(*made[:3], 0.0) * 1.02
    strict = compare(name, VARIANT.comparators[name], wrong, reference[0])
    forgiving = compare(name, VARIANT.comparators[name], wrong, reference[0], shaken=moved[0])
    assert not strict.ok
    assert not forgiving.ok
    assert forgiving.ratio > 0.98 * strict.ratio
