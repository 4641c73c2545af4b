"""Builds a candidate's launches for a chip that need not be there, so that signatures can be seen in SASS.

Test-only: the candidate is imported here, in the open. The judge never does that.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

BIN = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
TYPES = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int32: "*i32"}
OPTIONS = ("num_warps", "num_stages", "num_ctas", "maxnreg")


@dataclass(frozen=True, kw_only=True)
class Built:
    kernel: str
    grid: tuple[int, ...]
    counts: Counter[str]  # SASS opcodes, by the word before the first dot
    shared_bytes: int
    registers: int
    spills_bytes: int

    def meets(self, signature: Mapping[str, str]) -> bool:
        return all(_holds(self.counts[op], bound) for op, bound in signature.items())


def _holds(count: int, bound: str) -> bool:
    wanted = int(bound[1:])
    return count > wanted if bound[0] == ">" else count == wanted


def load(source: str) -> Any:
    with tempfile.NamedTemporaryFile("w", suffix=".py", delete=False) as file:
        file.write(source)
    spec = importlib.util.spec_from_file_location(f"candidate_{abs(hash(source))}", file.name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(source: str, entry: str, *inputs: Any, **tunables: Any) -> list[Built]:
    """Every launch that `entry` makes on meta tensors, compiled for sm_90."""
    launches: list[tuple[JITFunction, tuple[int, ...], dict[str, Any]]] = []

    def record(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        bound = dict(zip(self.arg_names, args, strict=False)) | kwargs
        shape = grid(bound) if callable(grid) else grid
        launches.append((self, tuple(shape), bound))

    original, JITFunction.run = JITFunction.run, record
    try:
        getattr(load(source), entry)(*inputs, **tunables)
    finally:
        JITFunction.run = original
    return [_compile(*launch) for launch in launches]


def _compile(kernel: JITFunction, grid: tuple[int, ...], bound: dict[str, Any]) -> Built:
    signature, constants, attributes = {}, {}, {}
    for i, parameter in enumerate(kernel.params):
        value = bound.get(parameter.name, parameter.default)
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1):
            signature[parameter.name], constants[(i,)] = "constexpr", value
            continue
        signature[parameter.name] = _type_of(value)
        if isinstance(value, torch.Tensor) or (type(value) is int and value % 16 == 0):
            attributes[(i,)] = [["tt.divisibility", 16]]
    options = {name: bound[name] for name in OPTIONS if name in bound}
    source = ASTSource(kernel, signature, constants, attributes)
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    counts, registers, spills = _disassemble(built.asm["cubin"])
    return Built(
        kernel=kernel.__name__,
        grid=grid,
        counts=counts,
        shared_bytes=built.metadata.shared,
        registers=registers,
        spills_bytes=spills,
    )


def _type_of(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return TYPES[value.dtype]
    return {bool: "u1", int: "i32", float: "fp32"}[type(value)]


@cache
def _disassemble(cubin: bytes) -> tuple[Counter[str], int, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = _run("nvdisasm", "-c", file.name)
        usage = _run("cuobjdump", "-res-usage", file.name)
    counts = Counter(re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]+)", text, re.M))
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, usage
    return counts, int(found[1]), int(found[2])


def _run(tool: str, *arguments: str) -> str:
    return subprocess.run([BIN / tool, *arguments], check=True, capture_output=True, text=True).stdout
