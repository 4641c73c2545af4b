"""How close is close enough: a comparator for each output, and the kinds of inputs that the original itself passes.

The bound follows from the output's type and from what the original was seen to do, never beyond a ceiling: above it
original and reference do not compute the same, and nothing is adopted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from evolve.adopt import own
from evolve.adopt.child.roles import right_of, tensor_of
from evolve.adopt.child.running import Runner
from evolve.adopt.child.words import Call, Refused, Trial
from evolve.judge import inputs
from evolve.judge.compare import compare, norm_error
from evolve.problem import Codes, Custom, Exact, Norm
from evolve.types import Json

Bounds = tuple[float, float, float]
# dtype -> (strict, at most, ceiling): what rounding alone costs, twice that, and where it is another contract.
HALF: dict[str, Bounds] = {"float16": (4e-4, 8e-4, 4e-3), "bfloat16": (3.2e-3, 6e-3, 2e-2)}
FULL: dict[str, Bounds] = {"float32": (4e-6, 1e-5, 5e-5), "float64": (1e-12, 1e-11, 1e-9)}
UNSEEN = (1e-5, 2e-5, 5e-5)  # float32 that only the interpreter has computed so far
TF32 = (1e-3, 1.2e-3, 2e-3)  # float32 through tensor cores
ROUNDED_INSIDE = (2e-3, 4e-3, 2e-2)  # a float32 output of half-precision arithmetic
SUBNORMALS = 8
SECONDS = 15.0  # for more than one size of each kind of inputs
ROOM = 1.6  # over the worst error that the original was seen to make


def comparators(
    trials: Sequence[Trial], outputs: Sequence[Json], rows: Sequence[Json], *, interpreted: bool, dots: bool
) -> None:
    """Writes `comparator` into each output. What a GPU does otherwise than the interpreter is granted unseen: float32
    products in tf32 (`dots`), approximate exponentials; and the interpreter flushes float8's subnormals."""
    half = any(
        isinstance(v, torch.Tensor) and v.dtype in (torch.float16, torch.bfloat16) for v in trials[0].given.values()
    )
    for output in outputs:
        output["comparator"] = _comparator(output, trials, rows, _classes(output, half, interpreted, dots))
        if interpreted and output["dtype"].startswith("float8"):
            output["comparator"]["within"] = SUBNORMALS


def _classes(output: Json, half: bool, interpreted: bool, dots: bool) -> list[Bounds]:
    """The contracts that an output's type may stand for, the strictest first."""
    name = output["dtype"]
    if name in HALF:
        return [HALF[name]]
    first = UNSEEN if interpreted and name == "float32" else FULL.get(name, FULL["float64"])
    if half:
        return [first, ROUNDED_INSIDE]
    if dots and name == "float32":
        return [TF32] if interpreted else [first, TF32]
    return [first]


def _comparator(output: Json, trials: Sequence[Trial], rows: Sequence[Json], classes: Sequence[Bounds]) -> Json:
    sample = tensor_of(output, trials[0])
    if sample.dtype.itemsize == 1 and sample.dtype is not torch.bool:
        return {"kind": "codes", "within": 1}
    if not sample.is_floating_point():
        return _chosen(output, trials, rows)
    worst = max(norm_error(tensor_of(output, t), right_of(output, t).to(torch.float64)) for t in trials)
    for bounds in classes:
        strict, at_most, ceiling = bounds
        if worst <= ceiling:
            bound = max(strict, _nice(ROOM * worst))
            found = {"kind": "norm", "strict": bound, "at_most": max(at_most, _nice(1.5 * bound)), "seen": worst}
            return {**found, "tf32": bounds is TF32, "rounded_inside": bounds is ROUNDED_INSIDE}
    raise Refused(
        f"original and reference disagree: {output['name']} is off by {worst:.2g} of its norm, and {output['dtype']} "
        f"explains {classes[-1][2]:.0e} at most. One of the two is wrong; nothing can be judged by them."
    )


def _nice(value: float) -> float:
    return float(f"{value:.1e}")


def _chosen(output: Json, trials: Sequence[Trial], rows: Sequence[Json]) -> Json:
    """Indices of a selection, or numbers that must be met exactly."""
    sources = [r["name"] for r in rows if r["role"] == "value" and r["tensor"]]
    for name in sources:
        if all(_selects(tensor_of(output, t), t.given[name]) for t in trials):
            return {"kind": "selection", "of": name, "softmax": False}
    equal = all(torch.equal(tensor_of(output, t).to(torch.int64), right_of(output, t).to(torch.int64)) for t in trials)
    if not equal:
        raise Refused(
            f"original and reference disagree: {output['name']} is of whole numbers, and they differ. If it holds "
            "indices of something else than one argument's largest, adopt the kernel with outputs that can be compared."
        )
    return {"kind": "exact"}


def _selects(ids: torch.Tensor, source: torch.Tensor) -> bool:
    """Whether these are the places of the largest along the source's last dimension."""
    if source.ndim != ids.ndim or source.shape[:-1] != ids.shape[:-1] or source.shape[-1] < ids.shape[-1]:
        return False
    wide = ids.to(torch.int64)
    if ids.numel() == 0 or bool(((wide < 0) | (wide >= source.shape[-1])).any()):
        return False
    picked = source.gather(-1, wide).sort(-1, descending=True).values
    return torch.equal(picked, source.topk(ids.shape[-1], dim=-1).values)


# --- Kinds of inputs --------------------------------------------------------------------------------------------------


def families(
    runner: Runner, trials: Sequence[Trial], outputs: Sequence[Json], rows: Sequence[Json]
) -> tuple[list[str], dict[str, str]]:
    """Those that the original passes under these comparators, and why the others are left out. Indices that were
    selected by probabilities tie where those underflow: if that is what fails, probabilities are compared."""
    passed, failed = _survived(runner, trials, outputs, rows)
    chosen = [o["comparator"] for o in outputs if o["comparator"]["kind"] == "selection"]
    if failed and chosen:
        for comparator in chosen:
            comparator["softmax"] = True
        again = _survived(runner, trials, outputs, rows)
        if len(again[1]) < len(failed):
            return again
        for comparator in chosen:
            comparator["softmax"] = False
    return passed, failed


def _survived(
    runner: Runner, trials: Sequence[Trial], outputs: Sequence[Json], rows: Sequence[Json]
) -> tuple[list[str], dict[str, str]]:
    passed, failed, began = ["given"], {}, time.monotonic()
    for family in _all(rows):
        if family == "given":
            continue
        reason = ""
        for number, trial in enumerate(trials):
            if number and time.monotonic() - began > SECONDS:
                break
            try:
                reason = reason or _fails(runner, trial, outputs, rows, family, 11 + number)
            except (RuntimeError, AssertionError, ValueError) as error:
                reason = f"it raises {type(error).__name__}"
        if reason:
            failed[family] = reason
        else:
            passed.append(family)
    return passed, failed


def _all(rows: Sequence[Json]) -> tuple[str, ...]:
    names = [r["name"] for r in rows if r["role"] == "value" and r["tensor"]][:2]
    logits = len(names) == 2 and names[0].startswith("q") and names[1].startswith("k")
    return (*inputs.FAMILIES, *(inputs.LOGITS if logits else ()))


def _fails(
    runner: Runner, trial: Trial, outputs: Sequence[Json], rows: Sequence[Json], family: str, random_seed: int
) -> str:
    names = [r["name"] for r in rows if r["role"] != "out"]
    roles = [r["role"] for r in rows if r["role"] != "out"]
    given = runner.given(trial.workload, random_seed)
    for number, row in enumerate(r for r in rows if r.get("varied")):
        given[row["name"]] = own.vary(given[row["name"]], random_seed + number)
    filled = inputs.fill([given[n] for n in names], roles, family, random_seed)
    given.update(zip(names, filled, strict=True))
    again = _Given(runner, given).run(trial)
    references = {o["name"]: right_of(o, again).to(torch.float64) for o in outputs}
    for output in outputs:
        finding = compare(
            output["name"],
            comparator_of(output["comparator"], names),
            tensor_of(output, again),
            right_of(output, again) if output["comparator"]["kind"] != "norm" else references[output["name"]],
            family=family,
            inputs=filled,
            references=references,
        )
        if not finding.ok:
            return finding.sentence
    return ""


def comparator_of(told: Mapping[str, Any], names: Sequence[str]) -> Any:
    match told["kind"]:
        case "norm":
            return Norm(strict=told["strict"], at_most=told["at_most"])
        case "codes":
            return Codes(within=told["within"])
        case "selection":
            return Custom(error=own.selection(names.index(told["of"]), softmax=told["softmax"]))
    return Exact()


class _Given(Runner):
    """A runner on arguments that are there already."""

    def __init__(self, runner: Runner, given: Mapping[str, Any]) -> None:
        super().__init__(runner.file, runner.original, runner.reference, runner.device)
        self.call: Call | None = runner.call
        self._own = dict(given)

    def run(self, trial: Trial, random_seed: int = 1) -> Trial:  # type: ignore[override]
        results, written, narrow = self.right(self._own)
        full = {**{n: v for n, v in trial.given.items() if n not in self._own}, **self._own}
        before = {n: v.clone() if isinstance(v, torch.Tensor) else v for n, v in full.items()}
        returned, changed = self.ours(full, trial.workload)
        return Trial(
            workload=trial.workload,
            given=before,
            returned=returned,
            changed=changed,
            kept={},
            results=results,
            written=written,
            narrow=narrow,
        )
