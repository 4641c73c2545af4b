"""The border: what a jail says a candidate would do, held against everything the judge knows by itself.

The text that comes in is untrusted, whatever wrote it. Out goes a plan whose every pointer lies in a tensor of this
workload, whose kernels were screened, and whose code holds no operation that an honest kernel does without. A claim is
never believed where it can be computed: sizes come from the problem, parameters from the source, types from the TTIR.
It does not compile, and it does not judge answers.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NoReturn

from evolve.errors import ProblemError
from evolve.judge.arguments import LaunchRules, Refused, itemsize, span
from evolve.judge.certificate import certificate
from evolve.judge.meta import without_data
from evolve.judge.plan import Launch, Lowered, Plan, Root, View
from evolve.judge.plan_json import PlanError, decode
from evolve.judge.stages import Gated, Point, Ruling, Screened, Target
from evolve.judge.vocabulary import Module, Unlisted, read_module
from evolve.problem import Problem, TensorSpec
from evolve.syntax import parse
from evolve.types import Scalar, Verdict, Workload, digest_of

MAX_LAUNCHES = 256
MAX_ROOTS = 128
# Scratch: split-K by four keeps four float32 copies of the answer, which is seven times what a product with a short K
# moves at all; small problems get a floor.
SCRATCH_FLOOR = 256 * 1024 * 1024
SCRATCH_TIMES = 8
SCRATCH_MOST = 16 * 1024**3


def gate(
    raw: str,
    *,
    screened: Screened,
    problem: Problem,
    points: Sequence[Point],
    target: Target,
    again: str | None = None,
) -> Gated:
    """`raw` and `again` are two lowerings of the same points, the second in another order; they must agree."""
    gated = examined(raw, screened, problem, points, target)
    if again is not None and examined(again, screened, problem, points, target).digest != gated.digest:
        refuse(
            "two lowerings of the same workloads in a different order gave different launches; the host function must "
            "depend on its arguments alone."
        )
    return gated


def refuse(feedback: str) -> NoReturn:
    raise Ruling(Verdict.REJECTED, feedback, stage="gate")


def examined(raw: str, screened: Screened, problem: Problem, points: Sequence[Point], target: Target) -> Gated:
    try:
        lowered = decode(raw)
        modules = {name: module(name, text, target) for name, text in lowered.modules.items()}
        plans = in_order(lowered.plans, points, screened)
        rules = LaunchRules(kernels=kernel_parameters(screened), modules=modules, target=target)
        for point, plan in zip(points, plans, strict=True):
            Inspection.of(problem, point.workload, plan).hold(rules)
        unused = set(modules) - {launch.ttir for plan in plans for launch in plan.launches}
        if unused:
            raise Refused(f"the module {min(unused)} belongs to no launch")
    except (PlanError, Refused) as error:
        refuse(f"{str(error).rstrip('.')}.")
    return Gated(
        lowered=Lowered(plans=plans, modules=lowered.modules),
        digest=behaviour(plans, modules, screened),
        certificate=certificate(modules[name].text for name in sorted(modules)),
    )


def module(name: str, text: str, target: Target) -> Module:
    if name != digest_of(text):
        raise Refused(f"the module {name[:40]!r} is not named by its own digest")
    try:
        return read_module(text, backend=target.backend)
    except Unlisted as error:
        raise Refused(f"the kernel's TTIR holds what no kernel needs: {error}") from error


def kernel_parameters(screened: Screened) -> Mapping[str, tuple[str, ...]]:
    found = _parameters(screened.source)
    return {name: found[name] for name in screened.kernels}


@lru_cache(maxsize=64)  # a tuner's points are one source, a hundred times over
def _parameters(source: str) -> Mapping[str, tuple[str, ...]]:
    functions = [node for node in parse(source).body if isinstance(node, ast.FunctionDef)]
    return {node.name: tuple(a.arg for a in node.args.args) for node in functions}


# --- Which plan belongs to which point --------------------------------------------------------------------------------


def in_order(plans: Sequence[Plan], points: Sequence[Point], screened: Screened) -> tuple[Plan, ...]:
    """One plan a point, in the order of the points, however the jail shuffled them."""
    if len(plans) != len(points):
        raise Refused(f"{len(plans)} plans for {len(points)} workloads; there is one each")
    waiting: dict[str, list[Plan]] = {}
    for plan in plans:
        waiting.setdefault(plan.workload, []).append(plan)
    found = []
    for point in points:
        check_parameters(point, screened)
        wanted = (named(point.parameters), named({**screened.defaults, **point.parameters}))
        same = [p for p in waiting.get(point.workload.name, ()) if named(dict(p.parameters)) in wanted]
        if not same:
            raise Refused(f"no plan for workload {point.workload.name!r} at {dict(point.parameters)}")
        waiting[point.workload.name].remove(same[0])
        found.append(same[0])
    return tuple(found)


def check_parameters(point: Point, screened: Screened) -> None:
    unknown = sorted(set(point.parameters) - set(screened.defaults) - set(screened.reserved))
    if unknown:
        raise Refused(f"the parameter {unknown[0]!r} is no tunable of the entry")


def named(parameters: Mapping[str, Scalar]) -> list[tuple[str, str]]:
    """By repr: 1, 1.0 and True are equal in Python and not in a kernel."""
    return sorted((name, repr(value)) for name, value in parameters.items())


# --- One plan against its workload ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """One plan, beside what the problem says of its workload."""

    plan: Plan
    workload: Workload
    inputs: Mapping[int, int]  # argument position -> bytes of its storage
    given: Mapping[int, TensorSpec]  # argument position -> the output that the caller provides
    names: tuple[str, ...]  # of the problem's arguments
    outputs: tuple[TensorSpec, ...]
    budget: int  # bytes of scratch

    @classmethod
    def of(cls, problem: Problem, workload: Workload, plan: Plan) -> Inspection:
        outputs = problem.outputs(workload)
        values = iter(without_data(problem, workload))
        inputs: dict[int, int] = {}
        given: dict[int, TensorSpec] = {}
        for position, argument in enumerate(problem.arguments):
            if argument.role == "out":
                given[position] = provided(problem, argument.name, outputs)
            else:
                value: Any = next(values)
                if hasattr(value, "untyped_storage"):
                    inputs[position] = value.untyped_storage().nbytes()
        moved = int(problem.bytes_moved(workload))
        budget = min(SCRATCH_MOST, max(SCRATCH_FLOOR, SCRATCH_TIMES * moved))
        return cls(
            plan=plan,
            workload=workload,
            inputs=inputs,
            given=given,
            names=tuple(argument.name for argument in problem.arguments),
            outputs=outputs,
            budget=budget,
        )

    def hold(self, rules: LaunchRules) -> None:
        try:
            roots = self.roots()
            self.launches(rules, roots)
            self.answers(roots)
        except Refused as error:
            raise Refused(f"workload {self.workload.name!r}: {error}") from error

    def roots(self) -> dict[str, Root]:
        roots = {root.name: root for root in self.plan.roots}
        if len(roots) != len(self.plan.roots) or len(roots) > MAX_ROOTS:
            raise Refused(f"{len(self.plan.roots)} tensors, some of one name or more than {MAX_ROOTS}")
        places = [root.argument for root in self.plan.roots if root.argument is not None]
        if len(places) != len(set(places)):
            raise Refused("two tensors claim the same argument")
        for root in self.plan.roots:
            self.root(root)
        made = sum(root.nbytes for root in self.plan.roots if root.kind != "input" and root.argument is None)
        scratch = made - sum(bytes_of(spec) for spec in self.outputs if spec.argument is None)
        if scratch > self.budget:
            raise Refused(
                f"{scratch:,} bytes of scratch; this workload may have {self.budget:,}. Split less, or reuse a buffer"
            )
        return roots

    def root(self, root: Root) -> None:
        match root.kind:
            case "input":
                size = self.inputs.get(-1 if root.argument is None else root.argument)
            case "output" if root.argument is not None:
                spec = self.given.get(root.argument)
                size = None if spec is None else bytes_of(spec)
            case _:
                size = root.nbytes if root.argument is None else None
        if size is None or size != root.nbytes or root.nbytes < 0:
            raise Refused(f"the {root.kind} {root.name!r} claims argument {root.argument} and {root.nbytes} bytes")
        if root.zeroed and (root.kind == "input" or root.argument is not None):
            raise Refused(f"{root.name!r} is the caller's and zeroed on the host; zero it in a kernel")

    def launches(self, rules: LaunchRules, roots: Mapping[str, Root]) -> None:
        if not self.plan.launches:
            raise Refused("no kernel is launched; the answer must come from a kernel")
        if len(self.plan.launches) > MAX_LAUNCHES:
            raise Refused(f"{len(self.plan.launches)} launches; at most {MAX_LAUNCHES} make up one call")
        for launch in self.plan.launches:
            rules.hold(launch, roots)

    def answers(self, roots: Mapping[str, Root]) -> None:
        if len(self.plan.outputs) != len(self.outputs):
            raise Refused(f"the entry returns {len(self.plan.outputs)} tensors; the problem has {len(self.outputs)}")
        touched = {view.root for launch in self.plan.launches for view in views(launch)}
        for spec, view in zip(self.outputs, self.plan.outputs, strict=True):
            self.answer(spec, view, roots, touched)
        returned = {view.root for view in self.plan.outputs}
        loose = [r.name for r in self.plan.roots if r.kind == "output" and r.name not in returned]
        if loose:
            raise Refused(f"{loose[0]!r} is called an output and is none")

    def answer(self, spec: TensorSpec, view: View, roots: Mapping[str, Root], touched: set[str]) -> None:
        root = roots.get(view.root)
        if root is None:
            raise Refused(f"output {spec.name!r} lies in {view.root[:40]!r}, which this plan does not have")
        if (view.shape, view.dtype) != (spec.shape, spec.dtype):
            raise Refused(
                f"output {spec.name!r} is {view.dtype} {list(view.shape)}; it must be {spec.dtype} {list(spec.shape)}"
            )
        span(view, root)
        wanted = spec.stride or contiguous(spec.shape)
        if any(n > 1 and a != b for n, a, b in zip(spec.shape, view.stride, wanted, strict=True)):
            raise Refused(f"output {spec.name!r} has strides {list(view.stride)}; they must be {list(wanted)}")
        if not self.belongs(spec, root):
            raise Refused(
                f"output {spec.name!r} lies in {root.kind} {root.name!r}; it must be "
                + (f"the argument {spec.argument!r}" if spec.argument else "a tensor that the entry allocates")
            )
        if root.nbytes and root.name not in touched:
            raise Refused(f"output {spec.name!r} is given to no kernel; launch the kernel that computes it")

    def belongs(self, spec: TensorSpec, root: Root) -> bool:
        """A returned tensor is new; what is written in place, or into the caller's buffer, lies there."""
        in_place = spec.argument is not None and spec not in self.given.values()
        if root.kind == "input":
            return in_place and root.argument is not None and self.names[root.argument] == spec.argument
        return root.kind == "output" and not in_place and (root.argument is None or self.given[root.argument] == spec)


def provided(problem: Problem, name: str, outputs: Sequence[TensorSpec]) -> TensorSpec:
    for spec in outputs:
        if name in (spec.argument, spec.name):
            return spec
    raise ProblemError(f"{problem.path or problem.name}: argument {name!r} has role out and is no output's argument.")


def bytes_of(spec: TensorSpec) -> int:
    """The storage from the first to the last element."""
    if 0 in spec.shape:
        return 0
    stride = spec.stride or contiguous(spec.shape)
    return (1 + sum((n - 1) * s for n, s in zip(spec.shape, stride, strict=True))) * itemsize(spec.dtype)


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    stride, step = [], 1
    for n in reversed(shape):
        stride.append(step)
        step *= max(n, 1)
    return tuple(reversed(stride))


def views(launch: Launch) -> list[View]:
    given = (value for _, value in launch.arguments)
    return [v if isinstance(v, View) else v.view for v in given if not isinstance(v, bool | int | float)]


# --- What makes two candidates the same -------------------------------------------------------------------------------


def behaviour(plans: Sequence[Plan], modules: Mapping[str, Module], screened: Screened) -> str:
    """The digest of everything that will happen, without the names it happens under."""
    rows = []
    for plan in plans:
        place = {root.name: number for number, root in enumerate(plan.roots)}
        roots = [(root.kind, root.nbytes, root.argument, root.zeroed) for root in plan.roots]
        launches = [
            (modules[x.ttir].canonical, x.grid, sorted(x.options), [placed(value, place) for _, value in x.arguments])
            for x in plan.launches
        ]
        rows.append((plan.workload, roots, launches, [placed(view, place) for view in plan.outputs]))
    tune = sorted((name, list(values)) for name, values in screened.tune.items())
    return digest_of(json.dumps([rows, tune, named(screened.defaults)], sort_keys=True, default=repr))


def placed(value: Any, place: Mapping[str, int]) -> str:
    if isinstance(value, View):
        return repr((place[value.root], replace(value, root="")))
    view = getattr(value, "view", None)
    return repr(value) if view is None else repr((placed(view, place), value.block_shape, value.padding))
