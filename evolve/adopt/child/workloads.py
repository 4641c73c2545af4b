"""The user's sizes, in whatever form her file has them, and smaller ones that original and reference both can do."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from evolve.adopt import own, sizes
from evolve.adopt.child.roles import apart
from evolve.adopt.child.running import Runner
from evolve.adopt.child.words import Refused, Trial
from evolve.types import Json, Scalar, Workload

KEYS = ("role", "mode", "weight")


def given(file: ModuleType) -> list[Workload]:
    """WORKLOADS as Workloads, as a dict by name, as a list of dicts; or, with get_inputs, the file's own constants."""
    found = getattr(file, "WORKLOADS", None)
    if found is None and hasattr(file, "get_inputs") and not hasattr(file, "make_inputs"):
        return [Workload(name="given", params=constants(file))]
    if not found or not hasattr(file, "make_inputs"):
        raise Refused(
            "the reference's file needs WORKLOADS and make_inputs(workload, device, random_seed), or get_inputs()."
        )
    rows = found.items() if isinstance(found, Mapping) else ((None, w) for w in found)
    workloads = [_workload(name, row) for name, row in rows]
    if not any(w.role == "time" for w in workloads):
        raise Refused('no workload of WORKLOADS has role "time"; there would be nothing to measure.')
    return workloads


def _workload(name: str | None, row: Any) -> Workload:
    if isinstance(row, Workload):
        return row
    if not isinstance(row, Mapping):
        raise Refused(f"WORKLOADS holds a {type(row).__name__}; write dicts of sizes, such as dict(rows=4096).")
    known = {k: row[k] for k in KEYS if k in row and k in ("role", "mode", "weight")}
    params = {k: v for k, v in row.items() if k not in (*known, "name", "params")} | dict(row.get("params", {}))
    odd = [k for k, v in params.items() if not isinstance(v, bool | int | float | str)]
    if odd:
        raise Refused(f"WORKLOADS: {odd[0]} is a {type(params[odd[0]]).__name__}; sizes are numbers, flags and words.")
    called = name or row.get("name") or "_".join(str(v) for v in params.values())
    return Workload(name=str(called), params=params, **known)


def constants(file: ModuleType) -> dict[str, Scalar]:
    """The numbers at module level that get_inputs (and get_init_inputs) read."""
    read: set[str] = set()
    for name in ("get_inputs", "get_init_inputs"):
        if hasattr(file, name):
            tree = ast.parse(textwrap.dedent(inspect.getsource(getattr(file, name))))
            read |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    values = {n: getattr(file, n) for n in sorted(read) if hasattr(file, n)}
    return {n: v for n, v in values.items() if isinstance(v, bool | int | float)}


# --- Smaller ones -----------------------------------------------------------------------------------------------------


class Smaller:
    """Tries sizes and keeps those on which the original runs and agrees with the reference."""

    def __init__(self, runner: Runner, floats: Mapping[str, Scalar]) -> None:
        self.runner, self.floats = runner, floats
        self.trials: list[Trial] = []
        self.odd: list[str] = []  # parameters that may be odd
        self.notes: list[str] = []

    def find(self, timed: Workload) -> None:
        params: Mapping[str, Scalar] = sizes.fewer(timed.params)
        first = self._tried("small", sizes.small(params))
        if isinstance(first, str):
            params = timed.params
            first = self._tried("small", sizes.small(params))
        if isinstance(first, str):
            raise Refused(f"the original does not run: {first}")
        if (two := sizes.two(params)) != dict(params):  # one of each would hide what is a product of two sizes
            self._tried("small_two", sizes.small(two))
        for name in sizes.large(params):
            found = self._tried(f"small_odd_{name}", sizes.small_odd(params, [name]))
            if isinstance(found, str):
                self.notes.append(f"{name} is kept even: {found}")
            else:
                self.odd.append(name)
        for name, smaller in sizes.narrow(params):
            found = self._tried(f"small_{name}", smaller)
            if isinstance(found, str):
                self.notes.append(f"{name}={smaller[name]} is left out: {found}")

    def _tried(self, name: str, params: Mapping[str, Scalar]) -> Trial | str:
        trial = self.attempt(name, params)
        if isinstance(trial, Trial):
            self.trials.append(trial)
        return trial

    def attempt(self, name: str, params: Mapping[str, Scalar]) -> Trial | str:
        """Both on these sizes, or why not. A refusal is one only before anything has run."""
        workload = Workload(name=name, params={**self.floats, **params}, role="check")
        try:
            trial = self.runner.run(workload)
        except Refused as refused:
            if not self.trials:
                raise
            return str(refused)
        except (Exception, SystemExit) as error:  # the user's own code and Triton may raise anything
            return _told(error)
        if self.trials and (said := _disagrees(trial)):
            return said
        return trial


def _told(error: BaseException) -> str:
    """One line. Triton points at a call with a caret and keeps what is wrong there in the error that caused it."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    said = [line.strip() for line in str(cause).splitlines() if line.strip(" ^~")]
    return f"{type(cause).__name__}{': ' + said[-1] if said else ''}"


def _disagrees(trial: Trial) -> str:
    """A size that the original was not made for gives nonsense rather than an error. Shapes alone pair them here."""
    mine = [t for t in (*trial.returned, *trial.changed.values()) if not isinstance(t, str)]
    theirs = [*trial.results, *trial.written.values()]
    for tensor in mine:
        if tensor.is_floating_point() and tensor.dtype.itemsize > 1:
            same = [apart(tensor, r) for r in theirs if r.shape == tensor.shape]
            if not same or not min(same) < 0.05:
                return f"there it differs from the reference by {min(same, default=float('inf')):.2g} of the norm"
    return ""


def derived(timed: Sequence[Workload], odd: list[str]) -> Iterator[Workload]:
    """For a GPU: sizes to check on, and sizes that no candidate hears of."""
    first = timed[0]
    yield Workload(name="check_odd", params=sizes.check(first.params, odd), role="check")
    yield Workload(name="check_even", params=sizes.check(first.params, []), role="check")
    yield Workload(name="held_near", params=sizes.held_out(first.params, odd), role="held_out")


def rows(workloads: Sequence[Workload]) -> list[Json]:
    return [
        {
            "name": w.name,
            "params": {k: v for k, v in w.params.items() if k != own.FLOATS},
            "role": w.role,
            "mode": w.mode,
            "weight": w.weight,
        }
        for w in workloads
    ]
