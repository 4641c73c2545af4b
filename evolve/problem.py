"""What to compute, what counts as correct, and what must be beaten.

A problem is a Python file with `PROBLEM = Problem(...)`. It holds functions, so it is loaded by path in each process
and never pickled. This module knows no torch: a problem's own functions import it. How an answer is compared and how
a time is taken is the judge's affair; here stand only the declarations.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from evolve.errors import ProblemError
from evolve.types import Role, Scalar, Workload, digest_of

# value: floating data, the only thing stress touches. index: block tables, ids. scalar: a plain number or flag.
# in_out: read and written in place. out: a buffer that the caller provides and the kernel fills.
ArgumentRole = Literal["value", "index", "scalar", "in_out", "out"]

Tensor: TypeAlias = Any  # torch.Tensor, which this module must not import


@dataclass(frozen=True, kw_only=True, slots=True)
class Argument:
    name: str
    role: ArgumentRole = "value"


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """One output: its shape and dtype ("bfloat16"), and its stride if it is not contiguous.
    An output that is written into an `in_out` or `out` argument carries that argument's name."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    stride: tuple[int, ...] | None = None
    argument: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Norm:
    """‖out − ref‖ / ‖ref‖ over the tensor, and at most four times the bound per row and per 128×128 tile. Accepted is
    min(at_most, max(strict, 1.5 × the trusted baseline's error on the same inputs))."""

    strict: float
    at_most: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Exact:
    """Every element equal, bit for bit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ties:
    """Indices of a selection (top-k): another index is right where the selected values tie. `values` names the output
    that holds the selected values."""

    values: str
    tolerance: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Codes:
    """Quantised codes: each within `within` steps of the reference's."""

    within: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Custom:
    """The problem's own: `error(out, ref, inputs)` over its bound; above 1 is wrong."""

    error: Callable[[Tensor, Tensor, Sequence[Any]], float]


Comparator: TypeAlias = Norm | Exact | Ties | Codes | Custom


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One dtype with one precision contract. A run evolves one variant; scores of variants never mix.

    `params` are merged into every workload's (so `workload["dtype"]` is there). `stand_in` names the variant that is
    checked in this one's place where it cannot run: the Triton interpreter computes bf16 wrongly and in silence."""

    name: str
    params: Mapping[str, Scalar]
    comparators: Mapping[str, Comparator]  # by output name
    stand_in: str | None = None
    allows: frozenset[str] = frozenset()  # precision edits inside the contract: "tf32", "bf16x3", ...
    # What the same launch run twice may differ by (norm); 0 asks for equal bits. Split-K with atomics needs some.
    repeat: float = 0.0


def everywhere(workload: Workload) -> str | None:
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """What must be beaten. `call` takes the problem's arguments; `unavailable` says why it cannot run here, or None.

    `compiles` says that its first call takes seconds (torch.compile). Every candidate has a GPU process of its own, and
    the baseline runs beside it there, so that one is no judge's baseline: it is measured where one process compares."""

    name: str
    call: Callable[..., Any]
    unavailable: Callable[[Workload], str | None] = everywhere
    compiles: bool = False


# The three axes of the population's cells; a problem may name others. Values are traits of the built kernel.
AXES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "tensor_path": ("none", "mma", "mma+descriptors", "wgmma", "wgmma+descriptors"),
        "structure": ("plain", "persistent", "split", "several"),
        "footprint": ("tiny", "small", "medium", "large"),  # shared memory: <32, <96, <164 KiB, and above
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """See the fields; `docs/your-own-kernel.md` walks through them.

    `make_inputs(workload, device, random_seed)` returns the arguments in order, without those of role `out`, and must
    work on device "meta". `reference(*arguments)` gets them in float64 where they are `value` or `in_out`, and returns
    the outputs in the order of `outputs(workload)`. `interpreted` are small stand-ins for machines without a GPU."""

    name: str
    entry: str
    arguments: tuple[Argument, ...]
    outputs: Callable[[Workload], tuple[TensorSpec, ...]]
    reference: Callable[..., Any]
    make_inputs: Callable[[Workload, str, int], tuple[Any, ...]]
    variants: tuple[Variant, ...]
    workloads: tuple[Workload, ...]
    interpreted: tuple[Workload, ...]
    baselines: tuple[Baseline, ...]
    bytes_moved: Callable[[Workload], float]  # what must move at least once
    flops: Callable[[Workload], float] | None = None
    # The kinds of inputs that candidates are checked on, of those in evolve.judge.inputs; empty: all that fit.
    families: tuple[str, ...] = ()
    axes: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: AXES)
    # What people call today, with torch alone: what an exported package falls back on, and whose errors, dtypes and
    # gradients it keeps. None: the first baseline's call. Export takes its source out of this file.
    library: Callable[..., Any] | None = None
    # `gradient(grad, *arguments)`, with a tuple of grads where there are several outputs: a gradient or None for each
    # argument. None: an exported package differentiates through `library`.
    gradient: Callable[..., Any] | None = None
    # Where the tuner begins, before its own ideas: an adopted kernel's autotune configurations, say.
    starts: tuple[Mapping[str, Scalar], ...] = ()
    # Other files that this one loads, relative to it: what they say counts into the digest.
    parts: tuple[str, ...] = ()
    notes: str = ""  # for the prompt, as an expert would brief a colleague
    path: str = ""  # filled in by load_problem
    digest: str = ""

    def variant(self, name: str | None) -> Variant:
        if not name:
            return self.variants[0]
        for variant in self.variants:
            if variant.name == name:
                return variant
        known = ", ".join(v.name for v in self.variants)
        raise ProblemError(f'{self.path or self.name}: no variant "{name}"; it has {known}.')

    def of_role(self, role: Role, variant: Variant) -> tuple[Workload, ...]:
        return tuple(bind(w, variant) for w in self.workloads if w.role == role)

    @property
    def fallback(self) -> Callable[..., Any]:
        return self.library or self.baselines[0].call

    def small(self, variant: Variant) -> tuple[Workload, ...]:
        """The interpreted stand-ins, in the variant that the interpreter can compute."""
        chosen = self.variant(variant.stand_in) if variant.stand_in else variant
        return tuple(bind(w, chosen) for w in self.interpreted)

    def workload(self, name: str, variant: Variant) -> Workload:
        for workload in (*self.workloads, *self.interpreted):
            if workload.name == name:
                return bind(workload, variant)
        known = ", ".join(w.name for w in self.workloads)
        raise ProblemError(f'{self.path or self.name}: no workload "{name}"; it has {known}.')


def bind(workload: Workload, variant: Variant) -> Workload:
    """The workload in the variant's dtype. The workload's own params win, so that it may pin one."""
    return replace(workload, params={**variant.params, **workload.params})


def with_workloads(problem: Problem, timed: Sequence[Workload]) -> Problem:
    """The user's own timing list in the problem's place; check and held-out workloads stay."""
    kept = tuple(w for w in problem.workloads if w.role != "time")
    return replace(problem, workloads=(*timed, *kept)) if timed else problem


def load_problem(path: str | Path) -> Problem:
    """Import an evaluator file by its path and return its PROBLEM, checked as far as that goes without running it."""
    file = Path(path)
    if not file.is_file():
        raise ProblemError(f"{path}: no such file; `problem` names a Python file with PROBLEM = Problem(...) in it.")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProblemError(f"{path}: cannot be read: {error}; `problem` names a Python file in UTF-8.") from error
    name = f"evolve_problem_{digest_of(str(file.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a user's file may raise anything; the sentence names it and goes on up
        sys.modules.pop(name, None)
        line = _line_in(error, file)
        raise ProblemError(f"{path}{line}: does not load: {type(error).__name__}: {error}.") from error
    problem = getattr(module, "PROBLEM", None)
    if not isinstance(problem, Problem):
        found = "has no PROBLEM" if problem is None else f"PROBLEM is a {type(problem).__name__}"
        raise ProblemError(f"{path}: {found}; write PROBLEM = Problem(...), with `from evolve.problem import Problem`.")
    problem = replace(problem, path=str(path), digest=digest_of("\0".join([text, *_parts(problem, file)])))
    _check(problem)
    return problem


def _parts(problem: Problem, file: Path) -> list[str]:
    return [(file.parent / part).read_text(encoding="utf-8", errors="replace") for part in problem.parts]


def _line_in(error: BaseException, file: Path) -> str:
    if isinstance(error, SyntaxError):
        return f":{error.lineno}"
    trace, line = error.__traceback__, ""
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename) == file.absolute():  # the import machinery makes it absolute
            line = f":{trace.tb_lineno}"
        trace = trace.tb_next
    return line


def _check(problem: Problem) -> None:
    where = problem.path or problem.name
    if not problem.variants:
        raise ProblemError(f"{where}: no variants; give at least one Variant(name=..., params=..., comparators=...).")
    if not any(w.role == "time" for w in problem.workloads):
        raise ProblemError(f'{where}: no workload has role "time"; there would be nothing to score.')
    names = [w.name for w in (*problem.workloads, *problem.interpreted)]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ProblemError(f"{where}: workload {twice[0]!r} is named twice; names are keys and must differ.")
    for workload in problem.workloads:
        if not (math.isfinite(workload.weight) and workload.weight > 0):
            raise ProblemError(f"{where}: workload {workload.name!r} has weight {workload.weight}; expected above 0.")
    for variant in problem.variants:
        if variant.stand_in:
            problem.variant(variant.stand_in)
        outputs = {spec.name for spec in problem.outputs(bind(problem.workloads[0], variant))}
        missing = outputs - set(variant.comparators)
        if missing:
            raise ProblemError(
                f'{where}: variant "{variant.name}" has no comparator for output {sorted(missing)[0]!r}.'
            )
