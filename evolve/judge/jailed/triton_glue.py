"""Everything that depends on Triton's inner workings, so that a new version is met in one file. Tried with 3.6 and 3.7.

The binder and the specialisation are Triton's own: what the runtime would compile for these arguments is what is
lowered, divisibility, integers equal to 1 and all. A tensor on "meta" answers `data_ptr()` with its offset in bytes,
and a real allocation is aligned to more than 16, so that the answer on divisibility is the real one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget, Language
from triton.compiler.compiler import ASTSource, make_backend
from triton.compiler.errors import CompilationError
from triton.runtime.jit import JITFunction, create_function_from_signature
from triton.tools.tensor_descriptor import TensorDescriptor

__all__ = ["Bound", "CompilationError", "JITFunction", "Lowering", "TensorDescriptor"]


@dataclass(frozen=True, kw_only=True)
class Bound:
    """One launch's arguments as the runtime sees them: by name, with Triton's type and specialisation of each."""

    values: Mapping[str, Any]
    kinds: tuple[Any, ...]  # "*bf16", "i32", "constexpr", ... in the kernel's order; a tuple where a tuple was passed
    hints: tuple[Any, ...]  # "D" where divisible by 16; nothing for constexprs


class Lowering:
    """From a bound launch to TTIR for one target."""

    def __init__(self, backend: str, arch: int | str, warp_size: int) -> None:
        self.target = GPUTarget(backend, arch, warp_size)
        self.backend = make_backend(self.target)
        self._binders: dict[int, Any] = {}

    def bind(self, kernel: JITFunction, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Bound:
        binder = self._binders.get(id(kernel))
        if binder is None:
            binder = create_function_from_signature(kernel.signature, kernel.params, self.backend)
            self._binders[id(kernel)] = binder
        values, found, _ = binder(*args, **kwargs)
        kinds = tuple(kind for kind, _ in found)
        hints = tuple("" if kind == "constexpr" else hint for kind, hint in found)
        return Bound(values=values, kinds=kinds, hints=hints)

    def options(self, given: Mapping[str, int]) -> Any:
        """The target's options with its defaults filled in."""
        return self.backend.parse_options(dict(given))

    def ttir(self, kernel: JITFunction, bound: Bound, options: Any) -> str:
        """The text from which `triton.compile("k.ttir")` goes on. For an IR file it leaves out the passes of that very
        stage, so they have run here: inlining, and for chips before Hopper descriptors turned into pointers.

        Without source locations: they hold paths, and two candidates that differ in comments are the same kernel."""
        names = [p.name for p in kernel.params]
        constants = {(i,): bound.values[n] for i, n in enumerate(names) if bound.kinds[i] == "constexpr"}
        attributes = {(i,): self.backend.parse_attr(h) for i, h in enumerate(bound.hints) if isinstance(h, str)}
        source = ASTSource(kernel, dict(zip(names, bound.kinds, strict=True)), constants, attributes)
        context = ir.context()
        ir.load_dialects(context)
        self.backend.load_dialects(context)
        functions = self.backend.get_codegen_implementation(options)
        module = source.make_ir(self.target, options, functions, self.backend.get_module_map(), context)
        stages: dict[str, Any] = {}
        self.backend.add_stages(stages, options, Language.TRITON)
        return str(stages["ttir"](module, {}).str_nodebug())
