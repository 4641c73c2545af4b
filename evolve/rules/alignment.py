"""Sizes and strides that are multiples of 8 and not of 16, which Triton by itself takes for anything at all.

Only what divides by 16 is known to be aligned; with 1992 columns of bf16 every element would be loaded alone, though
rows start at multiples of 16 bytes. The host says in one number which of the kernel's sizes are multiples of 8, and the
kernel writes them so that the compiler sees it: `n // 8 * 8`.
"""

from __future__ import annotations

import re

import libcst as cst

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.edits import Edits
from evolve.rules.source import Kernel, Launch, Source, first_line, lines_of
from evolve.rules.symbols import atom

REASON = (
    "Tell the compiler which sizes and strides are multiples of 8: rows that start at multiples of 16 bytes are then "
    "copied 16 bytes at a time, also where the size does not divide by 16."
)
MOST = 16  # sizes of one kernel
SIZE = re.compile(r"[\w.]+\.(stride\(-?\d+\)|shape\[-?\d+\]|size\(-?\d+\)|numel\(\))")


def rewrite(source: Source, context: Context) -> Applied:
    if "// 8 * 8" in source.text:
        raise No("The kernels are told their alignment already.")
    reasons = []
    for kernel in source.kernels.values():
        try:
            return _told(source, kernel)
        except No as no:
            reasons.append(str(no))
    raise No(reasons[0] if reasons else "There is no kernel.")


def _told(source: Source, kernel: Kernel) -> Applied:
    launch = source.launch_of(kernel)
    code = source.code(kernel.node)
    sizes = [(name, text) for name, text in launch.arguments.items() if _size(source, kernel, launch, name, text, code)]
    if not sizes:
        raise No(f"{kernel.name} is given no size or stride whose alignment would matter.")
    bits = source.fresh("ALIGNED")
    lines, terms = [], []
    for i, (name, text) in enumerate(sizes[:MOST]):
        lines += [f"if {bits} & {1 << i}:", f"    {name} = {name} // 8 * 8"]
        terms.append(f"({atom(text)} % 8 == 0)" + (f" * {1 << i}" if i else ""))
    note = "# Multiples of 8 stay what they are, and the compiler sees that they are."
    edits = Edits(source)
    edits.constexpr(kernel, launch, bits, bits, "0")
    edits.before(launch.statement, f"{bits} = (\n    " + "\n    + ".join(terms) + "\n)\n")
    edits.before(first_line(kernel), note + "\n" + "\n".join(lines) + "\n")
    return Applied(source=edits.result(), hypothesis=REASON)


def _size(source: Source, kernel: Kernel, launch: Launch, name: str, text: str, code: str) -> bool:
    """A run-time number that the host reads from a tensor's shape or strides, and that goes into an address or mask."""
    if name not in kernel.params or name in kernel.constexprs:
        return False
    used = rf"(<=?|\*|\+|,)\s*{name}\b|\b{name}\s*[-*+)\]]"
    return bool(SIZE.fullmatch(text) or text in _shapes(source)) and re.search(used, code) is not None


def _shapes(source: Source) -> set[str]:
    """Names that the entry reads from a shape: `M, K = a.shape`, `N = b.shape[1]`."""
    found: set[str] = set()
    for line in lines_of(source.entry.body):
        if not isinstance(line, cst.SimpleStatementLine):
            continue
        for small in line.body:
            if isinstance(small, cst.Assign) and len(small.targets) == 1:
                value, target = source.code(small.value), small.targets[0].target
                if re.fullmatch(r"\w+\.shape", value) and isinstance(target, cst.Tuple):
                    found |= {source.code(e.value) for e in target.elements}
                elif isinstance(target, cst.Name) and SIZE.fullmatch(value):
                    found.add(target.value)
                elif isinstance(target, cst.Tuple) and isinstance(small.value, cst.Tuple):
                    pairs = zip(target.elements, small.value.elements, strict=False)
                    found |= {source.code(t.value) for t, v in pairs if SIZE.fullmatch(source.code(v.value))}
    return found


RULE = Rule(
    name="alignment",
    reason=REASON,
    rewrite=rewrite,
    weight=2.1,
    helps=frozenset({"latency", "masks", "memory"}),
)
