"""Launch plans without a jail, for benchmarks and tests of the stages behind the gate.

A kernel and the arguments of one launch become what `lower` would hand on: a plan and TTIR text, specialised as
Triton's own runtime does it (divisibility by 16, an integer 1 as a constant). It trusts the kernel, which the judge
never may; nothing of the product imports it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from evolve.judge.plan import Argument, Descriptor, Launch, Lowered, Plan, Root, View
from evolve.judge.stages import Target
from evolve.types import digest_of

TYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "int32": "i32"}
SIZES = {"bfloat16": 2, "float16": 2, "float32": 4, "int32": 4}


def module(path: str | Path) -> ModuleType:
    """A kernel file, by its path."""
    name = f"lowering_{digest_of(str(path))}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def tensor(root: str, shape: Sequence[int], stride: Sequence[int] | None = None, dtype: str = "bfloat16") -> View:
    steps, step = [], 1
    for size in reversed(shape):
        steps.insert(0, step)
        step *= size
    return View(root=root, offset=0, shape=tuple(shape), stride=tuple(stride or steps), dtype=dtype)


def type_of(value: Argument) -> str:
    if isinstance(value, Descriptor):
        return f"tensordesc<{TYPES[value.view.dtype]}{list(value.block_shape)}>".replace(" ", "")
    if isinstance(value, View):
        return f"*{TYPES[value.dtype]}"
    return "i1" if isinstance(value, bool) else "i32" if isinstance(value, int) else "fp32"


def ttir(
    kernel: Any, arguments: Mapping[str, Any], target: Target, options: Mapping[str, int]
) -> tuple[str, list[str]]:
    """The module's text, and the names of the arguments that stay arguments."""
    from triton._C.libtriton import ir
    from triton.backends.compiler import GPUTarget
    from triton.compiler.compiler import ASTSource, make_backend

    signature, constants, attributes = {}, {}, {}
    for position, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        if parameter.is_constexpr or (type(value) is int and value == 1):
            signature[parameter.name] = "constexpr"
            constants[(position,)] = value
            continue
        signature[parameter.name] = type_of(value)
        if isinstance(value, View) or (type(value) is int and value % 16 == 0):
            attributes[(position,)] = [["tt.divisibility", 16]]
    chip = GPUTarget(target.backend, target.arch, target.warp_size)
    backend = make_backend(chip)
    chosen = backend.parse_options(dict(options))
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    source = ASTSource(kernel, signature, constants, attributes)
    made = source.make_ir(chip, chosen, backend.get_codegen_implementation(chosen), backend.get_module_map(), context)
    stages: dict[str, Any] = {}
    backend.add_stages(stages, chosen, source.language)
    return stages["ttir"](made, {}).str_nodebug(), [name for name, kind in signature.items() if kind != "constexpr"]


def launch(
    kernel: Any, grid: Sequence[int], arguments: Mapping[str, Any], target: Target, options: Mapping[str, int]
) -> tuple[Launch, str]:
    text, names = ttir(kernel, arguments, target, options)
    kept = tuple((name, arguments[name]) for name in names)
    x, y, z = (*grid, 1, 1)[:3]
    made = Launch(
        kernel=kernel.__name__,
        grid=(x, y, z),
        arguments=kept,
        signature=tuple((name, type_of(value)) for name, value in kept),
        constexprs=tuple((name, arguments[name]) for name in arguments if name not in names),
        options=tuple(sorted(options.items())),
        ttir=digest_of(text),
    )
    return made, text


def plan(
    workload: str, launches: Sequence[tuple[Launch, str]], outputs: Sequence[View], *, zeroed: bool = False
) -> Lowered:
    """A plan with the roots that its launches name: "in..." are inputs, "out..." outputs, the rest scratch."""
    views = [v.view if isinstance(v, Descriptor) else v for made, _ in launches for _, v in made.arguments]
    sizes: dict[str, int] = {}
    for view in views:
        if isinstance(view, View):
            last = sum((n - 1) * s for n, s in zip(view.shape, view.stride, strict=True)) + 1
            sizes[view.root] = max(sizes.get(view.root, 0), last * SIZES[view.dtype])
    kinds = {"in": "input", "ou": "output"}
    roots = tuple(
        Root(name=n, kind=kinds.get(n[:2], "scratch"), nbytes=size, zeroed=zeroed and not n.startswith("in"))  # type: ignore[arg-type]
        for n, size in sizes.items()
    )
    made = Plan(
        workload=workload, parameters=(), roots=roots, launches=tuple(x for x, _ in launches), outputs=tuple(outputs)
    )
    return Lowered(plans=(made,), modules={x.ttir: text for x, text in launches})
