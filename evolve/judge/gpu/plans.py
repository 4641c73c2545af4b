"""Launch plans as JSON, on the way to a GPU process. They were gated before; reading them here stays strict anyway."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from evolve.judge.plan import Argument, Descriptor, Launch, Plan, Root, View


def plan_to_json(plan: Plan) -> dict[str, Any]:
    return {
        "workload": plan.workload,
        "parameters": [list(p) for p in plan.parameters],
        "roots": [asdict(r) for r in plan.roots],
        "launches": [_launch_to_json(x) for x in plan.launches],
        "outputs": [asdict(v) for v in plan.outputs],
    }


def plan_from_json(data: dict[str, Any]) -> Plan:
    return Plan(
        workload=data["workload"],
        parameters=tuple((k, v) for k, v in data["parameters"]),
        roots=tuple(Root(**r) for r in data["roots"]),
        launches=tuple(_launch_from_json(x) for x in data["launches"]),
        outputs=tuple(_view(v) for v in data["outputs"]),
    )


def _launch_to_json(launch: Launch) -> dict[str, Any]:
    return {**asdict(launch), "arguments": [[name, _argument_to_json(a)] for name, a in launch.arguments]}


def _argument_to_json(argument: Argument) -> Any:
    return asdict(argument) if isinstance(argument, (View, Descriptor)) else argument


def _launch_from_json(data: dict[str, Any]) -> Launch:
    return Launch(
        kernel=data["kernel"],
        grid=tuple(data["grid"]),
        arguments=tuple((name, _argument(a)) for name, a in data["arguments"]),
        signature=tuple((k, v) for k, v in data["signature"]),
        constexprs=tuple((k, v) for k, v in data["constexprs"]),
        options=tuple((k, v) for k, v in data["options"]),
        ttir=data["ttir"],
    )


def _argument(data: Any) -> Argument:
    if not isinstance(data, dict):
        return data  # type: ignore[no-any-return]
    if "view" in data:
        return Descriptor(
            view=_view(data["view"]), block_shape=tuple(data["block_shape"]), padding=str(data["padding"])
        )
    return _view(data)


def _view(data: dict[str, Any]) -> View:
    return View(
        root=data["root"],
        offset=data["offset"],
        shape=tuple(data["shape"]),
        stride=tuple(data["stride"]),
        dtype=data["dtype"],
    )
