"""TTIR of honest kernels passes, whatever they use; text that an attacker could write does not."""

import importlib.util
import re
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.judge.certificate import certificate, explain
from evolve.judge.vocabulary import Unlisted, read_module
from evolve.problem import Norm, Variant

pytest.importorskip("triton")


def kernels() -> ModuleType:
    """By path: the test folder is no package, and Triton wants the kernels' file."""
    name = "evolve_test_ttir_kernels"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("ttir_kernels.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("passes", [False, True], ids=["front end", "ttir"])
@pytest.mark.parametrize("name", sorted(kernels().KERNELS))
def test_honest_kernels_pass(name: str, passes: bool) -> None:
    function, signature = kernels().KERNELS[name]
    text = kernels().ttir(function, signature, passes=passes)
    module = read_module(text, backend="cuda")
    assert module.kernel == name
    assert "loc" not in module.canonical
    assert all("tt." in p.type or p.type in ("i32", "i64", "f32") for p in module.parameters)


SCALE = kernels().ttir(kernels().scale_kernel, kernels().SCALE, hints={(0,): [["tt.divisibility", 16]]})


def test_the_module_is_read() -> None:
    module = read_module(SCALE, backend="cuda")
    assert [p.type for p in module.parameters] == ["!tt.ptr<f32>", "!tt.ptr<f32>", "i32", "f32"]
    assert [p.divisibility for p in module.parameters] == [16, 1, 1, 1]


def test_names_places_and_layout_do_not_make_another_kernel() -> None:
    renamed = SCALE.replace("%x_ptr", "%input").replace("scale_kernel", "fast").replace("loc(#loc1)", "loc(unknown)")
    assert renamed != SCALE
    assert read_module(renamed, backend="cuda").canonical == read_module(SCALE, backend="cuda").canonical
    other = SCALE.replace("arith.mulf", "arith.addf")
    assert read_module(other, backend="cuda").canonical != read_module(SCALE, backend="cuda").canonical


LINE = next(line for line in SCALE.splitlines() if "arith.mulf" in line)
VALUE = LINE.split("=")[0].strip()


def with_line(line: str) -> str:
    """The module with one more line before its product."""
    return SCALE.replace(LINE, f"    {line}\n{LINE}")


FORGED = [
    with_line("%e = tt.int_to_ptr %n : i32 -> !tt.ptr<f32>"),
    with_line('%e = "tt.int_to_ptr"(%n) : (i32) -> !tt.ptr<f32>'),
    with_line("%e = int_to_ptr %n : i32 -> !tt.ptr<f32>"),
    with_line("%e =\n tt.int_to_ptr\n %n : i32 -> !tt.ptr<f32>"),
    with_line("%e = tt.ptr_to_int %x_ptr : !tt.ptr<f32> -> i64"),
    with_line("%e = tt.bitcast %n : i64 -> !tt.ptr<f32>"),
    with_line("%e = tt.bitcast %x_ptr : !tt.ptr<f32> -> i64"),
    with_line("%e = tt.bitcast %x_ptr : !tt.ptr<f32> -> !tt.ptr<i64>"),
    with_line("%e = tt.bitcast %x_ptr : !tt.ptr<i8> -> !tt.ptr<i1>"),
    with_line("%e = tt.bitcast %x_ptr : !tt.ptr<i64> -> !tt.ptr<!tt.ptr<f32>>"),
    with_line("%e = tt.bitcast %x_ptr : tensor<16x!tt.ptr<f32>> -> tensor<16x!tt.ptr<f64>>"),
    with_line("%e = tt.bitcast %x_ptr : !tt.ptr<f32> ->\n i64"),
    with_line("%e = arith.bitcast %x_ptr : !tt.ptr<f32> to i64"),
    with_line("%e = tt.load %x_ptr : !tt.ptr<tensor<16x!tt.ptr<f32>>>"),
    with_line("%e = tt.load %x_ptr : !tt.ptr<f32, 3>"),
    with_line('%e = tt.elementwise_inline_asm "mov" {} %n : i32 -> i32'),
    with_line('%e = tt.extern_elementwise %n {libname = "", libpath = "/tmp/x.bc", pure = true, symbol = "__nv_x"}'),
    with_line('%e = tt.extern_elementwise %n {libname = "", libpath = "__nv_x", pure = true, symbol = "__nv_x"}'),
    with_line('%e = tt.extern_elementwise %n {libname = "", pure = true, symbol = "__nv_x"} : (i32) -> i32'),
    with_line('%e = tt.extern_elementwise %n {libname = "", libpath = "", pure = true, symbol = "malloc"}'),
    with_line('%e = tt.extern_elementwise %n {libname = "", libpath = "", pure = true, symbol = ""} : (i32) -> i32'),
    with_line('tt.print "x" {hex = false} : %n : i32'),
    with_line('tt.assert %n, "x" : i1'),
    with_line("%e = llvm.inttoptr %n : i64 to !llvm.ptr"),
    with_line('llvm.inline_asm "trap", "" : () -> ()'),
    with_line("%e = nvvm.read.ptx.sreg.tid.x : i32"),
    with_line("%e = builtin.unrealized_conversion_cast %n : i32 to !tt.ptr<f32>"),
    with_line("tt.call @printf(%n) : (i32) -> ()"),
    with_line("%e = arith.constant dense_resource<x> : tensor<16xi32>"),
    with_line('%e = arith.constant dense<"0x0000"> : tensor<16xi32>'),
    SCALE.replace("module {", "module attributes {ttg.maxnreg = 3 : i32} {"),
    SCALE.replace("module {", "module attributes {noinline = false} {"),
    SCALE.replace("module {", "module @x {"),
    SCALE + "\nmodule {\n}\n",
    SCALE.replace("tt.func public", "tt.func private"),
    SCALE.replace(
        "tt.return", "tt.return\n }\n tt.func private @malloc(%a: i64) -> !tt.ptr<i8>\n tt.func private @g() {"
    ),
    SCALE.replace("tt.return", "tt.return\n }\n tt.func public @g() {\n tt.return"),
    SCALE.replace("tt.return", "tt.return\n }\n tt.func private @scale_kernel() {\n tt.return"),
    SCALE.replace("{noinline = false}", '{noinline = false, passthrough = ["x"]}'),
    SCALE.replace("{noinline = false}", "{noinline = false, step = 1}"),
    SCALE + "\n{-# external_resources: {} #-}\n",
    "!alias = !tt.ptr<f32>\n" + SCALE,
    "#alias = dense<1>\n" + SCALE,
    SCALE.replace("%n: i32", "%n: !llvm.ptr"),
    SCALE.replace("%n: i32", "%n: i32 {llvm.byval = i32}"),
    SCALE[: SCALE.index("tt.return")],
    SCALE.replace("tt.return", "tt.return ^"),
    SCALE.replace("arith.mulf", "arith.mulf\x00"),
    "",
]


@pytest.mark.parametrize("text", FORGED, ids=range(len(FORGED)))
def test_forged_text_is_refused(text: str) -> None:
    assert text != SCALE
    with pytest.raises(Unlisted):
        read_module(text, backend="cuda")


HIDDEN = [
    'loc("%e = tt.int_to_ptr %n : i32 -> !tt.ptr<f32>")',  # truly a location: nothing in it is an operation
    "// %e = tt.int_to_ptr %n : i32 -> !tt.ptr<f32>",
]


@pytest.mark.parametrize("dressing", HIDDEN)
def test_what_only_looks_like_an_operation_is_not_one(dressing: str) -> None:
    assert read_module(SCALE.replace("tt.return", f"tt.return {dressing}\n"), backend="cuda")


UNHIDDEN = [
    '{libname = "loc(", pure = int_to_ptr, libpath = ")"}',  # a string that opens what looks like a location
    '{libname = "//"} %e = tt.int_to_ptr %n : i32 -> !tt.ptr<f32>',
    'loc("x\\"") %e = tt.int_to_ptr %n : i32 -> !tt.ptr<f32> loc("")',
    'loc(fused<"x">[unknown]) tt.int_to_ptr',
    '"// " tt.int_to_ptr',
]


@pytest.mark.parametrize("dressing", UNHIDDEN)
def test_nothing_hides_in_dressing(dressing: str) -> None:
    with pytest.raises(Unlisted):
        read_module(SCALE.replace("tt.return", f"tt.return {dressing}\n"), backend="cuda")


def test_honest_casts_of_pointers_pass() -> None:
    for cast in (
        "!tt.ptr<i1> -> !tt.ptr<i8>",
        "!tt.ptr<f32> -> !tt.ptr<i32>",
        "tensor<16x!tt.ptr<i1>> -> tensor<16x!tt.ptr<i8>>",
    ):
        assert read_module(with_line(f"%e = tt.bitcast %x_ptr : {cast}"), backend="cuda")


@given(st.text(max_size=300))
@settings(deadline=None)
def test_any_text_is_answered(text: str) -> None:
    with pytest.raises(Unlisted):
        read_module(text, backend="cuda")


@given(st.data())
@settings(deadline=None, max_examples=100)
def test_any_damage_is_answered(data: st.DataObject) -> None:
    tokens = re.findall(r"\s+|[\w.%@#!]+|.", SCALE)
    for _ in range(data.draw(st.integers(1, 3))):
        tokens[data.draw(st.integers(0, len(tokens) - 1))] = data.draw(
            st.sampled_from(["", "{", "}", '"', "tt.call", "@g", "<"])
        )
    with suppress(Unlisted):  # nothing else may be raised
        assert read_module("".join(tokens), backend="cuda").kernel


def variant(dtype: str, *allows: str) -> Variant:
    bound = Norm(strict=1e-3, at_most=1e-3)
    return Variant(name="v", params={"dtype": dtype}, comparators={"y": bound}, allows=frozenset(allows))


def test_the_certificate_lists_what_touches_precision() -> None:
    function, signature = kernels().KERNELS["dots"]
    found = certificate([read_module(kernels().ttir(function, signature), backend="cuda").text])
    rows = {(d["left"], d["accumulator"], d["inputPrecision"]): d for d in found["dots"] if d["operation"] == "tt.dot"}
    assert rows["f32", "f32", "ieee"]["count"] == 2
    assert rows["f32", "f32", "tf32x3"]["maxNumImpreciseAcc"] == "0"
    assert any(d["left"] == "f8E5M2" and d["maxNumImpreciseAcc"] == "32" for d in found["dots"])
    assert {"operation": "tt.dot_scaled", "left": "bf16", "right": "e2m1"}.items() <= found["dots"][-2].items()
    assert {"operation": "arith.truncf", "from": "f32", "to": "f16", "count": 1} in found["narrowed"]
    said = explain(found, variant("float32"))
    for words in (
        "multiplies f16 where the variant's data is f32",
        "accumulates in f16",
        "f32 as bf16x3",
        "imprecisely, 32",
    ):
        assert words in said
    assert "f32 as tf32x3" not in explain(found, variant("float32", "tf32x3"))


def test_an_honest_kernel_has_nothing_to_explain() -> None:
    found = certificate([read_module(SCALE, backend="cuda").text])
    assert explain(found, variant("float32")) == ""


CUT = """%a = tt.bitcast %x : tensor<16xf32> -> tensor<16xi32>
%b = arith.truncf %y : tensor<16x16xf32> to tensor<16x16xbf16>
%c = arith.extf %b : tensor<16x16xbf16> to tensor<16x16xf32>
%d = arith.trunci %n : i64 to i32
"""


def test_cut_bits_and_narrow_sums_are_named() -> None:
    found = certificate([CUT, CUT])
    assert found["reinterpreted"] == [{"operation": "tt.bitcast", "from": "f32", "to": "i32", "count": 2}]
    assert found["narrowed_and_widened"] == [{"through": "bf16", "count": 2}]
    said = explain(found, variant("bfloat16"))
    assert "read as integers" in said
    assert "rounded to bf16 and widened again" in said
    assert "values are rounded to bf16 (" not in said  # which is what the variant's output asks for
