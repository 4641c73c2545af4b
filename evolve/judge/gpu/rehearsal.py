"""A plan with every buffer and no launch: for walking the worker's ways once, before it counts."""

from __future__ import annotations

import torch

from evolve.judge.gpu.launch import ITEMSIZE
from evolve.judge.plan import Plan, Root, View
from evolve.problem import Problem, TensorSpec
from evolve.types import Workload


def empty_plan(problem: Problem, workload: Workload) -> Plan:
    made = problem.make_inputs(workload, "meta", 0)
    given = [(i, a) for i, a in enumerate(problem.arguments) if a.role != "out"]
    roots, names = [], {}
    for (position, argument), tensor in zip(given, made, strict=True):
        if isinstance(tensor, torch.Tensor):
            names[argument.name] = f"in{position}"
            nbytes = tensor.untyped_storage().nbytes()
            roots.append(Root(name=f"in{position}", kind="input", nbytes=nbytes, argument=position))
    outputs = []
    for number, spec in enumerate(problem.outputs(workload)):
        root = names.get(spec.argument or "", f"out{number}")
        view = _view(root, spec)
        if root not in names.values():
            extent = sum((n - 1) * s for n, s in zip(view.shape, view.stride, strict=True)) + 1
            roots.append(Root(name=root, kind="output", nbytes=extent * ITEMSIZE[spec.dtype]))
        outputs.append(view)
    return Plan(workload=workload.name, parameters=(), roots=tuple(roots), launches=(), outputs=tuple(outputs))


def _view(root: str, spec: TensorSpec) -> View:
    stride = spec.stride if spec.stride is not None else tuple(torch.empty(spec.shape, device="meta").stride())
    return View(root=root, offset=0, shape=spec.shape, stride=stride, dtype=spec.dtype)
