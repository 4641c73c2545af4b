"""A problem that would let wrong answers pass is refused, and says which."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from evolve.judge.fitness import examine, unfit
from evolve.problem import Baseline, Norm, Problem, TensorSpec, load_problem

MATMUL = load_problem(Path(__file__).parents[2] / "evaluators/matmul.py")


@pytest.mark.parametrize("variant", [v.name for v in MATMUL.variants])
def test_our_own_problem_is_fit(variant: str) -> None:
    findings = list(examine(MATMUL, MATMUL.variant(variant)))
    assert {f.state for f in findings} == {"ok", "skipped"}  # a baseline that takes other dtypes says so
    tried = {f.what.split(" of ")[0] for f in findings if f.state == "ok"}
    exact = variant == "int8"
    assert tried >= {"baseline cublas_int8" if exact else "baseline cublas", "mutant zeros", "mutant lost tile"}
    assert exact or "mutant lower precision" in tried


def lax(strict: float, at_most: float) -> Problem:
    variant = replace(MATMUL.variant("fp16"), comparators={"c": Norm(strict=strict, at_most=at_most)})
    return replace(MATMUL, variants=(variant,))


def constant(workload: Any, device: str, random_seed: int) -> tuple[Any, ...]:
    return MATMUL.make_inputs(workload, device, 7)


def transposed_on_meta(workload: Any, device: str, random_seed: int) -> tuple[Any, ...]:
    a, b = MATMUL.make_inputs(workload, device, random_seed)
    return (a, b.T.contiguous().T) if device == "meta" else (a, b)


def wrong_outputs(workload: Any) -> tuple[TensorSpec, ...]:
    return (TensorSpec(name="c", shape=(workload["N"], workload["M"]), dtype=workload["dtype"]),)


BAD: dict[str, tuple[Callable[[], Problem], str]] = {
    "a bound that lower precision meets": (lambda: lax(0.1, 0.1), "mutant lower precision of c: c passes as right"),
    "a bound that zeros meet": (lambda: lax(2.0, 2.0), "mutant zeros of c: c passes as right when it is zero"),
    "a bound that nothing meets": (lambda: lax(1e-9, 1e-9), "baseline cublas: disagrees with the reference"),
    "a baseline of something else": (
        lambda: replace(MATMUL, baselines=(Baseline(name="other", call=lambda a, b: a @ b + 1),)),
        "baseline other: disagrees with the reference",
    ),
    "inputs that do not vary": (lambda: replace(MATMUL, make_inputs=constant), "two random seeds give the same a"),
    "an answer that forgets b": (
        lambda: replace(MATMUL, reference=lambda a, b: a @ torch.ones_like(b), baselines=()),
        "the answer does not depend on b",
    ),
    "other shapes on meta": (lambda: replace(MATMUL, make_inputs=transposed_on_meta), "make_inputs gives b"),
    "outputs that are not the reference's": (lambda: replace(MATMUL, outputs=wrong_outputs), "outputs() says c is"),
    "nothing small enough": (lambda: replace(MATMUL, interpreted=()), "no `interpreted` workloads"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_unfit_problem_is_refused_with_the_reason(name: str) -> None:
    make, says = BAD[name]
    problem = make()
    found = unfit(problem, problem.variants[-1] if len(problem.variants) == 1 else problem.variant("fp16"))
    assert found is not None
    assert says in found


def test_a_baseline_that_is_not_there_is_skipped_by_name() -> None:
    absent = Baseline(name="absent", call=torch.matmul, unavailable=lambda workload: "the library is not installed")
    findings = list(examine(replace(MATMUL, baselines=(absent,)), MATMUL.variant("fp16")))
    skipped = [f for f in findings if f.state == "skipped"]
    assert {f.sentence for f in skipped} == {"the library is not installed"}
    assert {f.what for f in skipped} == {"baseline absent"}


def test_what_is_examined_on_the_cpu_never_opens_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own context would stand on the GPU as a stranger's, and nothing would be promoted."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    touched = []
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: touched.append("a context"))

    def tried(workload: Any) -> str | None:
        if not torch.cuda.is_available():
            return "it needs a GPU"
        touched.append(workload.name)
        return None

    def moved(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a.to("cuda") @ b

    baselines = (Baseline(name="tried", call=torch.matmul, unavailable=tried), Baseline(name="moved", call=moved))
    findings = list(examine(replace(MATMUL, baselines=baselines), MATMUL.variant("fp16")))
    assert touched == []
    assert {(f.what, f.state) for f in findings if f.what.startswith("baseline")} == {
        ("baseline tried", "skipped"),
        ("baseline moved", "skipped"),
    }
    assert torch.cuda.is_available()


def test_an_input_may_be_without_effect_at_one_size() -> None:
    """A single key's answer does not depend on the query."""

    def reference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a @ (b if a.shape[0] > 33 else torch.ones_like(b))

    problem = replace(MATMUL, reference=reference, baselines=())
    assert not [f for f in examine(problem, MATMUL.variant("fp16")) if f.what == "inputs"]
