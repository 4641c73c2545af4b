"""What a call of the exported function looks like, read off the problem's own workloads.

A problem makes inputs from sizes; a package gets tensors. The way back is found by looking at all workloads at once:
two dimensions that are equal in every one of them are one size, and must be equal in a call; a size that divides
another in every one of them must divide it; a size that was only ever a power of two is taken at seen values only.
Relations that hold by chance cost nothing but a call of the library. Nothing is computed: inputs are made on "meta".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from evolve.errors import ProblemError
from evolve.judge.untouched import untouched_gpu
from evolve.problem import Argument, Problem, TensorSpec, Variant
from evolve.tuner import distance
from evolve.types import Json, Scalar, Workload

KINDS = {bool: "bool", int: "int", float: "float", str: "str"}
MOST_ELEMENTS = 2**31 - 1  # kernels index with 32 bits unless they were verified on more


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """One workload as a call: what each argument is."""

    workload: Workload
    tensors: Mapping[str, tuple[tuple[int, ...], tuple[int, ...], str]]  # shape, stride, dtype
    scalars: Mapping[str, Scalar]
    outputs: tuple[TensorSpec, ...]

    @property
    def flags(self) -> dict[str, Scalar]:
        return {n: v for n, v in self.scalars.items() if isinstance(v, bool | str)}

    @property
    def dtypes(self) -> list[str]:
        return [dtype for _, _, dtype in self.tensors.values()]

    @property
    def layout(self) -> list[str]:
        return [order_of(shape, stride) for shape, stride, _ in self.tensors.values()]


def shown(problem: Problem, workload: Workload) -> Shown:
    given = [a for a in problem.arguments if a.role != "out"]
    made = problem.make_inputs(workload, "meta", 0)
    pairs = list(zip(given, made, strict=True))
    return Shown(
        workload=workload,
        tensors={a.name: _facts(v) for a, v in pairs if a.role != "scalar"},
        scalars={a.name: v for a, v in pairs if a.role == "scalar"},
        outputs=problem.outputs(workload),
    )


def _facts(value: Any) -> tuple[tuple[int, ...], tuple[int, ...], str]:
    return tuple(value.shape), tuple(value.stride()), str(value.dtype).removeprefix("torch.")


def order_of(shape: Sequence[int], stride: Sequence[int]) -> str:
    """The dimensions in the order in which they lie in memory, those of size 1 among them."""
    return "".join(str(d) for d in sorted(range(len(shape)), key=lambda d: (-stride[d], d)))


def alike(call: Shown, row: Shown) -> bool:
    """Whether the table takes a row for a call whatever their sizes are: dtypes, flags, and layouts but for dimensions
    of size 1."""
    layouts = zip(call.tensors.values(), call.layout, row.layout, strict=True)
    fit = all(_within([d for d in own if shape[int(d)] > 1], theirs) for (shape, _, _), own, theirs in layouts)
    return fit and (call.dtypes, call.flags) == (row.dtypes, row.flags)


def _within(few: Sequence[str], many: str) -> bool:
    rest = iter(many)
    return all(d in rest for d in few)


class Signature:
    """Of one problem in one variant. `spec` is what dispatch.json says of calls."""

    def __init__(self, problem: Problem, variant: Variant) -> None:
        self.problem, self.variant = problem, variant
        roles = ("check", "time", "held_out")
        self.all = [shown(problem, w) for role in roles for w in problem.of_role(role, variant)]  # type: ignore[arg-type]
        if not self.all[0].tensors:
            raise ProblemError(f"{problem.path}: no argument is a tensor; there is nothing to dispatch on.")
        self.dims = self._named()

    def sizes(self, one: Shown) -> dict[str, int]:
        """What `nearest` compares."""
        found: dict[str, int] = {n: v for n, v in one.scalars.items() if isinstance(v, int) and not isinstance(v, bool)}
        for name, (shape, _, _) in one.tensors.items():
            found.update(zip(self.dims[name], shape, strict=True))
        return found

    def _named(self) -> dict[str, list[str]]:
        """Each dimension by a workload's parameter that it always equals, else by its place; equal ones alike."""
        names: dict[tuple[int, ...], str] = {}
        params = [n for n, v in self.all[0].workload.params.items() if isinstance(v, int) and not isinstance(v, bool)]
        for param in params:
            names.setdefault(tuple(int(s.workload.params.get(param, -1)) for s in self.all), param)
        dims: dict[str, list[str]] = {}
        for argument, (shape, _, _) in self.all[0].tensors.items():
            ranks = {len(s.tensors[argument][0]) for s in self.all}
            if len(ranks) > 1:
                raise ProblemError(f"{self.problem.path}: {argument} has {sorted(ranks)} dimensions in turn; export "
                                   "needs one number.")  # fmt: skip
            columns = [tuple(s.tensors[argument][0][d] for s in self.all) for d in range(len(shape))]
            dims[argument] = [names.setdefault(c, f"{argument}.{d}") for d, c in enumerate(columns)]
        return dims

    def filled(self, parameters: Mapping[str, Mapping[str, Scalar]]) -> dict[str, Mapping[str, Scalar]]:
        """Parameters for every workload, by the table's own rule: what is not given takes the nearest row's, held-out
        workloads first, since they become rows. So the judge confirms what the package will run."""
        found = {n: dict(p) for n, p in parameters.items()}
        rows = [s for s in self.all if s.workload.role == "time" and s.workload.name in found]
        for role in ("held_out", "check"):
            for one in (s for s in self.all if s.workload.role == role and s.workload.name not in found):
                near = min(
                    (r for r in rows if alike(one, r)),
                    key=lambda r: distance(self.sizes(r), self.sizes(one)),
                    default=None,
                )
                if near is not None:
                    found[one.workload.name] = found[near.workload.name]
            rows += [s for s in self.all if s.workload.role == role == "held_out" and s.workload.name in found]
        return dict(found)

    def spec(self) -> dict[str, Json]:
        rows = [self.sizes(s) for s in self.all]
        named = [n for n in rows[0] if "." not in n]
        return {
            "op": self.problem.entry,
            "direct": self._direct(),
            "schema": self._schema(),
            "returns": self._returns(),
            "arguments": [{"name": a.name, "kind": self._kind(a)} for a in self._given()],
            "dims": self.dims,
            "dtypes": _distinct(s.dtypes for s in self.all),
            "closed": {n: sorted({r[n] for r in rows}) for n in rows[0] if not _free([r[n] for r in rows])},
            "divides": [[p, w] for p in named for w in named if p != w and _divides([(r[p], r[w]) for r in rows])],
            "outputs": self._outputs(),
            "results": self._results(),
            "distinct": self._distinct(),
            "largest_output": self._largest(),
        }

    def most_elements(self) -> int:
        return max([MOST_ELEMENTS, *(_count(shape) for s in self.all for shape, _, _ in s.tensors.values())])

    def _direct(self) -> str:
        """A function of torch's that is, as it stands, a baseline of every workload: calling it spares the package what
        the problem's own function around it costs."""
        workloads = [s.workload for s in self.all]
        with untouched_gpu():
            for baseline in self.problem.baselines:
                name = getattr(baseline.call, "__name__", "")
                if getattr(torch, name, None) is baseline.call and not any(map(baseline.unavailable, workloads)):
                    return name
        return ""

    # --- the operator ---

    def _given(self) -> list[Argument]:
        return [a for a in self.problem.arguments if a.role != "out"]

    def _kind(self, argument: Argument) -> str:
        if argument.role != "scalar":
            return "tensor"
        value = self.all[0].scalars[argument.name]
        return "flag" if isinstance(value, bool | str) else "size" if isinstance(value, int) else "number"

    def _schema(self) -> str:
        written = {spec.argument for s in self.all for spec in s.outputs} & {a.name for a in self._given()}
        marks = iter("abcdefgh")
        return ", ".join(
            f"{KINDS[type(self.all[0].scalars[a.name])]} {a.name}"
            if a.role == "scalar"
            else f"Tensor({next(marks)}!) {a.name}"
            if a.name in written
            else f"Tensor {a.name}"
            for a in self._given()
        )

    def _returns(self) -> str:
        """An operator always returns the same number of tensors; a function may not, and then it is a list."""
        given = {a.name for a in self._given()}
        counts = {sum(spec.argument not in given for spec in s.outputs) for s in self.all}
        if counts == {0}:
            return "()"
        if counts == {1}:
            return "Tensor"
        return "Tensor[]"

    # --- the outputs ---

    def _loose(self, one: Shown) -> list[TensorSpec]:
        given = {a.name for a in self._given()}
        return [spec for spec in one.outputs if spec.argument not in given]

    def _outputs(self) -> list[dict[str, Json]]:
        """By flags: each output's sizes by name, or a number that never changes. Outputs that are not dense and
        row-major have no rule: there the library is asked on fake tensors."""
        found = []
        for flags in _distinct(s.flags for s in self.all):
            same = [s for s in self.all if s.flags == flags]
            if any(spec.stride is not None for s in same for spec in s.outputs):
                continue
            columns = [self._loose(s) for s in same]
            rules = [self._rule(same, [c[i] for c in columns]) for i in range(len(columns[0]))]
            if all(r is not None for r in rules):
                found.append({"flags": flags, "outputs": rules})
        return found

    def _rule(self, same: list[Shown], specs: list[TensorSpec]) -> dict[str, Json] | None:
        sizes = [self.sizes(s) for s in same]
        shape: list[Json] = []
        for d in range(len(specs[0].shape)):
            column = [spec.shape[d] for spec in specs]
            name = next((n for n in sizes[0] if [s[n] for s in sizes] == column), None)
            if name is None and len(set(column)) > 1:
                return None
            shape.append(column[0] if name is None else name)
        return {"name": specs[0].name, "shape": shape, "dtype": specs[0].dtype}

    def _results(self) -> list[str | None]:
        """By output: the argument that it is written into, or None for what the function returns."""
        given = {a.name for a in self._given()}
        found = _distinct([spec.argument if spec.argument in given else None for spec in s.outputs] for s in self.all)
        if len(found) > 1 and any(name for results in found for name in results):
            raise ProblemError(f"{self.problem.path}: which arguments are written in place differs from workload to "
                               "workload; export needs one answer.")  # fmt: skip
        return list(found[0])

    def _distinct(self) -> list[str]:
        """Arguments of whole numbers that name a place each, negative ones apart: a test that gave one place twice
        would have two writers there."""
        small = self.problem.small(self.variant)
        made = [dict(zip(self._given(), self.problem.make_inputs(w, "cpu", 1), strict=True)) for w in small]
        return [
            a.name for a in self._given() if a.role == "index" and made and all(_places(values[a]) for values in made)
        ]

    def _largest(self) -> list[str]:
        """The sizes whose product bounds every output."""
        rules = [o for group in self._outputs() for o in group["outputs"]]
        return max(([n for n in o["shape"] if isinstance(n, str)] for o in rules), key=len, default=[])


def _places(value: Any) -> bool:
    if value.is_floating_point():
        return False
    used = value[value >= 0]
    return bool(used.unique().numel() == used.numel() > 1)


def _free(values: Sequence[int]) -> bool:
    """Whether a size was tried at values that nobody would have chosen for a tile."""
    return any(v & (v - 1) for v in values)


def _divides(pairs: Sequence[tuple[int, int]]) -> bool:
    return all(p and w % p == 0 for p, w in pairs) and any(p > 1 for p, _ in pairs)


def _distinct(values: Iterator[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _count(shape: Sequence[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def name_of(wanted: str) -> str:
    """A name that Python and a registry take."""
    return re.sub(r"\W+", "_", wanted).strip("_").lower()
