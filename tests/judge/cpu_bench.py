"""A cpu judge for matrix products of two timed sizes, and candidates for it out of the packaged suite."""

from dataclasses import replace
from pathlib import Path

from evolve.judge.backends import Settings, open_backend
from evolve.judge.redteam import cases
from evolve.problem import load_problem, with_workloads
from evolve.types import Verdict, Workload

ROOT = Path(__file__).parents[2]
SEED = (ROOT / "seeds/matmul.py").read_text()
TIMED = (
    Workload(name="square", params={"M": 1024, "N": 1024, "K": 1024}),
    Workload(name="skinny", params={"M": 16, "N": 4096, "K": 4096}, mode="weights_cold"),
)


def matmul(timed=TIMED):
    return with_workloads(load_problem(ROOT / "evaluators/matmul.py"), timed)


def settings_for(folder, **more):
    problem = more.pop("problem", None) or matmul()
    usual = Settings(
        problem=problem,
        variant=problem.variant(more.pop("variant", "fp16")),
        backend="cpu",
        target="sm_90",
        cache=Path(folder) / "cache",
        width=2,
        timeout=60.0,
    )
    return replace(usual, **more)


def opened(folder, *, seed=SEED, **more):
    return open_backend(settings_for(folder, **more), seed=seed)


def source_of(name):
    return cases([name])[0].source


def swapped(*pairs):
    """The seed with texts replaced, each of which must be there."""
    text = SEED
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


FAILING = {
    Verdict.REJECTED: source_of("library_fallback"),
    Verdict.BUILD_ERROR: source_of("compile_error"),
    Verdict.RUNTIME_ERROR: swapped(("    M, K = a.shape", "    assert a.shape[0] > 10**6\n    M, K = a.shape")),
    Verdict.INCORRECT: swapped(("tl.store(c_ptrs, acc", "tl.store(c_ptrs, 1.01 * acc")),
}
ENDLESS = swapped(
    (
        "    acc = tl.zeros",
        "    left = pid * 0 + 1\n    while left > 0:\n        left = left + 1 - 1\n    acc = tl.zeros",
    )
)
