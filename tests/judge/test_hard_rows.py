"""A row that is hard for the baseline is hard: there a kernel may be off as it is, and nowhere else."""

import torch

from evolve.judge.gpu import answers
from evolve.problem import load_problem
from evolve.types import Workload

PROBLEM = load_problem("evaluators/attention.py")
VARIANT = PROBLEM.variant("bf16")
SIZES = {"B": 1, "H": 2, "HK": 2, "S": 256, "D": 64, "causal": False, "dtype": "bfloat16"}
WORKLOAD = Workload(name="hard", params=SIZES, role="check")
HARD, FIRST, SECOND = 77, 10, 200


def made():
    """Row 77 sees two keys alone, nearly equally, whose values nearly cancel in their one large coordinate."""
    q, k, v, causal = answers.draw(PROBLEM, VARIANT, WORKLOAD, "given", "cpu", 3)
    q[:, :, HARD] = 0
    q[..., 0] = -64  # nobody else sees them
    q[:, :, HARD, 0] = 64
    k[..., 0] = 0
    v *= 16
    v[:, :, [FIRST, SECOND]] /= 16
    k[:, :, FIRST, 0], k[:, :, SECOND, 0] = 10, 9.9375
    v[:, :, FIRST, 5], v[:, :, SECOND, 5] = 256, -420
    return q, k, v, causal


def attention(q, k, v, blocks):
    """The weights are rounded to bfloat16 against the maximum that is known in each block, as kernels do."""
    scores = (q.float() @ k.float().mT) * q.shape[-1] ** -0.5
    peak = torch.full(scores.shape[:-1], float("-inf"))
    total, out = torch.zeros_like(peak), torch.zeros(q.shape)
    for columns in blocks:
        part = scores[..., columns]
        higher = torch.maximum(peak, part.amax(-1))
        weights, shrink = torch.exp(part - higher[..., None]), torch.exp(peak - higher)
        total = total * shrink + weights.sum(-1)
        out = out * shrink[..., None] + weights.to(q.dtype).float() @ v[:, :, columns].float()
        peak = higher
    return (out / total[..., None]).to(q.dtype)


def rounded_at_the_end(q, k, v):
    """Another right one, whose weights are rounded when their sum is known."""
    weights = torch.softmax((q.float() @ k.float().mT) * q.shape[-1] ** -0.5, -1)
    return (weights.to(q.dtype).float() @ v.float()).to(q.dtype)


def held(out, arguments, baseline):
    reference = answers.reference_of(PROBLEM, WORKLOAD, arguments)
    return answers.worst(
        answers.hold(PROBLEM, VARIANT, WORKLOAD, (out,), reference, arguments, family="given", baseline=baseline)
    )


def test_a_kernel_is_not_refused_for_a_row_that_the_baseline_misses_as_well():
    arguments = made()
    q, k, v, _ = arguments
    kernel = attention(q, k, v, [slice(0, 128), slice(128, 256)])
    assert held(kernel, arguments, lambda: None) > 1
    assert held(kernel, arguments, lambda: (rounded_at_the_end(q, k, v),)) <= 1


def test_the_same_error_in_an_easy_row_is_a_mistake():
    arguments = made()
    q, k, v, _ = arguments
    kernel = attention(q, k, v, [slice(0, 128), slice(128, 256)])
    kernel[:, :, HARD + 1] *= 1.06
    assert held(kernel, arguments, lambda: (rounded_at_the_end(q, k, v),)) > 1


def test_the_hard_row_itself_may_not_be_wrong_by_more():
    arguments = made()
    q, k, v, _ = arguments
    kernel = attention(q, k, v, [slice(0, 128), slice(128, 256)])
    kernel[:, :, HARD] = 0
    assert held(kernel, arguments, lambda: (rounded_at_the_end(q, k, v),)) > 1
