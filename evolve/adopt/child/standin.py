"""What stands in for a GPU where there is none: enough for a file to be imported and its host code to be run.

Kernels run under Triton's interpreter on CPU tensors. The chip that is asked about is the one that candidates are built
for. Checks of a tensor's device are answered as a GPU would. What is computed is nobody's invention: only the questions
about the machine are answered here.
"""

from __future__ import annotations

import ast
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import triton

from evolve.judge.stages import Target


class _Answers(ast.NodeTransformer):
    """`x.is_cuda` is True and `x.device.type` is "cuda"; lines stay where they were."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        device = isinstance(node.value, ast.Attribute) and node.value.attr == "device"
        if isinstance(node.ctx, ast.Load) and (node.attr == "is_cuda" or (node.attr == "type" and device)):
            return ast.copy_location(ast.Constant(True if node.attr == "is_cuda" else "cuda"), node)
        return node


def module(path: Path, name: str) -> ModuleType:
    """Like an import, but with those answers."""
    made = ModuleType(name)
    made.__file__ = str(path)
    sys.modules[name] = made
    tree = _Answers().visit(ast.parse(path.read_text(encoding="utf-8")))
    exec(compile(tree, str(path), "exec", dont_inherit=True), made.__dict__)
    return made


def install(target: Target) -> None:
    capability = divmod(int(target.arch), 10) if isinstance(target.arch, int) else (9, 4)
    facts = SimpleNamespace(
        name=target.device,
        multi_processor_count=target.sms,
        major=capability[0],
        minor=capability[1],
        total_memory=80 << 30,
        warp_size=target.warp_size,
        shared_memory_per_multiprocessor=target.shared_bytes + 1024,
        max_threads_per_multi_processor=target.threads,
        L2_cache_size=target.l2_bytes,
    )
    answers: dict[str, Any] = {
        "get_device_properties": lambda device=None: facts,
        "get_device_capability": lambda device=None: capability,
        "get_device_name": lambda device=None: target.device,
        "current_device": lambda: 0,
        "device_count": lambda: 1,
        "is_available": lambda: True,
        "synchronize": lambda device=None: None,
        "device": lambda device=None: nullcontext(),
        "device_of": lambda tensor=None: nullcontext(),
        "set_device": lambda device=None: None,
        "is_bf16_supported": lambda *a, **k: True,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    triton.runtime.driver.set_active(_driver(target))


def _driver(target: Target) -> Any:
    properties = {
        "multiprocessor_count": target.sms,
        "max_shared_mem": target.shared_bytes,
        "warpSize": target.warp_size,
        "max_num_regs": target.registers,
    }
    return SimpleNamespace(
        get_current_device=lambda: 0,
        get_current_target=lambda: SimpleNamespace(
            backend=target.backend, arch=target.arch, warp_size=target.warp_size
        ),
        get_active_torch_device=lambda: torch.device("cpu"),
        get_current_stream=lambda device=None: 0,
        get_device_interface=lambda: torch.cuda,
        get_benchmarker=lambda: None,
        utils=SimpleNamespace(get_device_properties=lambda device=None: properties),
    )
