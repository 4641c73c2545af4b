"""What a kernel does to precision, read off its TTIR: which dots, which narrowings, which reinterpreted bits.

A certificate explains an error that was measured; it refuses nothing. `explain` says in a sentence where the kernels
leave the variant's contract, so that "error 3.5e-3 over bound 2.5e-3" comes with "the accumulator is bf16".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from evolve.problem import Variant
from evolve.types import Json

BARE = r"(?<![\w.$%@#!^-])"
TYPE = r"(?:tensor<(?:\d+x)*)?(!?[\w.]+)"
DOT = re.compile(
    rf"{BARE}tt\.dot (?P<given>[^:\n]*?)(?:, inputPrecision = (?P<precision>\w+))?"
    r"(?: \{maxNumImpreciseAcc = (?P<imprecise>\d+)[^}\n]*\})? : "
    rf"{TYPE}[^*\n]*\* {TYPE}[^>\n]*> -> {TYPE}"
)
SCALED = re.compile(rf"{BARE}tt\.dot_scaled [^\n]*?lhs = (\w+) rhs = (\w+)[^\n]*-> tensor<(?:\d+x)*(\w+)>")
NARROW = re.compile(
    rf"{BARE}(arith\.truncf|arith\.trunci|tt\.fp_to_fp) [^:\n]*(?:\{{[^}}\n]*\}} )?: {TYPE}>? (?:to|->) {TYPE}"
)
BITS = re.compile(rf"{BARE}((?:tt|arith)\.bitcast) [^:\n]* : {TYPE}>? (?:to|->) {TYPE}")

CUT = re.compile(
    rf"(%[\w$.-]+) = (?:arith\.truncf|tt\.fp_to_fp) [^:\n]*(?:\{{[^}}\n]*\}} )?: {TYPE}>? (?:to|->) {TYPE}"
)
WIDENED = re.compile(rf"{BARE}arith\.extf (%[\w$.-]+) ")

WIDTH = {"f64": 64, "f32": 32, "f16": 16, "bf16": 16}  # what is left are the fp8 kinds
LONG = {"float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16"}


def certificate(texts: Iterable[str]) -> dict[str, Json]:
    """Counts over the distinct modules, texts without locations."""
    dots: Counter[tuple[str, ...]] = Counter()
    narrowed: Counter[tuple[str, ...]] = Counter()
    bits: Counter[tuple[str, ...]] = Counter()
    cut: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        for found in DOT.finditer(text):
            left, right, acc = found.groups()[3:6]
            dots["tt.dot", left, right, acc, found["precision"] or "ieee", found["imprecise"] or "0"] += 1
        for left, right, acc in SCALED.findall(text):
            dots["tt.dot_scaled", left, right, acc, "ieee", "0"] += 1
        narrowed.update(NARROW.findall(text))
        bits.update(BITS.findall(text))
        widened = set(WIDENED.findall(text))
        cut.update((to,) for value, _, to in CUT.findall(text) if value in widened)
    names = ("operation", "left", "right", "accumulator", "inputPrecision", "maxNumImpreciseAcc")
    return {
        "dots": rows(dots, names),
        "narrowed": rows(narrowed, ("operation", "from", "to")),
        "reinterpreted": rows(bits, ("operation", "from", "to")),
        "narrowed_and_widened": rows(cut, ("through",)),
    }


def rows(counted: Counter[tuple[str, ...]], names: tuple[str, ...]) -> list[dict[str, Json]]:
    return [{**dict(zip(names, key, strict=True)), "count": count} for key, count in sorted(counted.items())]


def explain(found: Mapping[str, Json], variant: Variant) -> str:
    """What differs from the variant's contract, or "" where nothing telling does."""
    dtype = LONG.get(str(variant.params.get("dtype", "")), "")
    said = [*dots_said(found["dots"], dtype, variant), *casts_said(found, dtype)]
    return " ".join(dict.fromkeys(said))


def dots_said(dots: Iterable[Mapping[str, Json]], dtype: str, variant: Variant) -> Iterable[str]:
    for dot in dots:
        operands, how = {dot["left"], dot["right"]}, str(dot["inputPrecision"])
        narrow = sorted(name for name in operands if width(name) < WIDTH.get(dtype, 0) and name not in variant.allows)
        if narrow:
            yield f"{dot['operation']} multiplies {narrow[0]} where the variant's data is {dtype}."
        if dot["accumulator"] in ("f16", "bf16"):
            yield f"{dot['operation']} accumulates in {dot['accumulator']}; accumulate in tl.float32."
        if operands == {"f32"} == {dtype} and how != "ieee" and how not in variant.allows:
            yield (
                f"{dot['operation']} multiplies f32 as {how}, which this variant does not allow; write "
                'input_precision="ieee". (The compiler makes such a dot of tl.sum(x[:, :, None] * y) too.)'
            )
        if int(dot["maxNumImpreciseAcc"]) > 0 and any(width(name) == 8 for name in operands):
            times = int(dot["maxNumImpreciseAcc"])
            yield f"fp8 products are added up imprecisely, {times if times < 1 << 20 else 'all of them'} at a time."


def casts_said(found: Mapping[str, Json], dtype: str) -> Iterable[str]:
    wanted = WIDTH.get(dtype, 0)
    for cast in found["narrowed"]:
        target = str(cast["to"])
        if cast["operation"] != "arith.trunci" and width(target) < wanted:
            yield f"values are rounded to {target} ({cast['operation']}) where the variant's data is {dtype}."
    for trip in found["narrowed_and_widened"]:
        yield f"values are rounded to {trip['through']} and widened again; a sum that does so each turn loses digits."
    floats = [c for c in found["reinterpreted"] if c["from"] in WIDTH and str(c["to"]).startswith("i")]
    if floats:
        yield "floating-point bits are read as integers (tt.bitcast); cutting them off rounds without saying so."


def width(name: object) -> int:
    """Bits of a floating type; integers and pointers count as wide, they round nothing."""
    text = str(name)
    if text in WIDTH:
        return WIDTH[text]
    return 8 if text.startswith(("f8", "e")) else 128
