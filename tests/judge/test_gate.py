"""The gate: an honest plan passes; every claim in it, changed, is refused with a sentence that says which."""

import importlib.util
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.judge.gate import gate
from evolve.judge.plan import Descriptor, Launch, Lowered, Plan, Root, View
from evolve.judge.plan_json import encode
from evolve.judge.screen import screen
from evolve.judge.stages import Gated, Point, Ruling, Screened
from evolve.judge.targets import find
from evolve.problem import Argument, Baseline, Norm, Problem, TensorSpec, Variant
from evolve.types import Verdict, Workload, digest_of

torch = pytest.importorskip("torch")
pytest.importorskip("triton")


def kernels() -> ModuleType:
    name = "evolve_test_ttir_kernels"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("ttir_kernels.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


SOURCE = """
import torch
import triton
import triton.language as tl

TUNE = {"BLOCK": (16, 32)}


@triton.jit
def scale_kernel(x_ptr, y_ptr, n, factor, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n, other=0.0) * factor, mask=at < n)


@triton.jit
def host_desc(d, y_ptr, e, n, BLOCK: tl.constexpr):
    tl.store(y_ptr, n)


def scale(x, factor, *, BLOCK=16, num_warps=4):
    y = torch.empty_like(x)
    scale_kernel[(triton.cdiv(x.numel(), BLOCK),)](x, y, x.numel(), factor, BLOCK=BLOCK, num_warps=num_warps)
    return y
"""
TARGET = find("sm_90")
TTIR = kernels().ttir(kernels().scale_kernel, kernels().SCALE, hints={(0,): [["tt.divisibility", 16]]})
OTHER = kernels().ttir(kernels().scale_kernel, kernels().SCALE)
DESC = kernels().ttir(*kernels().KERNELS["host_desc"])


def make_inputs(workload: Workload, device: str, random_seed: int) -> tuple[object, ...]:
    return torch.empty((workload["M"], workload["N"]), dtype=torch.float32, device=device), 0.5


def problem(**more: object) -> Problem:
    fields = {
        "name": "scale",
        "entry": "scale",
        "arguments": (Argument(name="x"), Argument(name="factor", role="scalar")),
        "outputs": lambda w: (TensorSpec(name="y", shape=(w["M"], w["N"]), dtype="float32"),),
        "reference": lambda x, factor: x * factor,
        "make_inputs": make_inputs,
        "variants": (Variant(name="fp32", params={}, comparators={"y": Norm(strict=1e-6, at_most=1e-6)}),),
        "workloads": (),
        "interpreted": (),
        "baselines": (Baseline(name="eager", call=lambda x, factor: x * factor),),
        "bytes_moved": lambda w: 8.0 * w["M"] * w["N"],
    }
    return Problem(**{**fields, **more})  # type: ignore[arg-type]


SIZES = {"small": (4, 8), "large": (64, 32)}
POINTS = [
    Point(workload=Workload(name=name, params={"M": m, "N": n}), parameters={"BLOCK": 16, "num_warps": 4})
    for name, (m, n) in SIZES.items()
]


def honest(point: Point) -> Plan:
    m, n = point.workload["M"], point.workload["N"]
    x = View(root="in0", offset=0, shape=(m, n), stride=(n, 1), dtype="float32")
    y = replace(x, root="out0")
    launch = Launch(
        kernel="scale_kernel",
        grid=(m * n // 16, 1, 1),
        arguments=(("x_ptr", x), ("y_ptr", y), ("n", m * n), ("factor", 0.5)),
        signature=(("x_ptr", "*fp32"), ("y_ptr", "*fp32"), ("n", "i32"), ("factor", "fp32"), ("BLOCK", "constexpr")),
        constexprs=(("BLOCK", 16),),
        options=(("num_warps", 4), ("num_stages", 3), ("num_ctas", 1)),
        ttir=digest_of(TTIR),
    )
    roots = (
        Root(name="in0", kind="input", nbytes=4 * m * n, argument=0),
        Root(name="out0", kind="output", nbytes=4 * m * n),
    )
    return Plan(
        workload=point.workload.name,
        parameters=tuple(point.parameters.items()),
        roots=roots,
        launches=(launch,),
        outputs=(y,),
    )


def lowered(change: Callable[[Plan], Plan] = lambda plan: plan, **modules: str) -> Lowered:
    """Both plans, the first one changed."""
    first, second = map(honest, POINTS)
    return Lowered(plans=(change(first), second), modules={digest_of(TTIR): TTIR, **modules})


def gated(given: Lowered, *, source: str = SOURCE, of: Problem | None = None, again: str | None = None) -> Gated:
    screened = screen(source, entry="scale")
    return gate(encode(given), screened=screened, problem=of or problem(), points=POINTS, target=TARGET, again=again)


def refused(given: Lowered, **more: object) -> str:
    with pytest.raises(Ruling) as caught:
        gated(given, **more)  # type: ignore[arg-type]
    assert caught.value.verdict is Verdict.REJECTED
    assert caught.value.stage == "gate"
    assert caught.value.feedback.endswith(".")
    return caught.value.feedback


def launch(**changes: object) -> Callable[[Plan], Plan]:
    return lambda plan: replace(plan, launches=(replace(plan.launches[0], **changes),))  # type: ignore[arg-type]


def argument(name: str, value: object, kind: str | None = None) -> Callable[[Plan], Plan]:
    def change(plan: Plan) -> Plan:
        old = plan.launches[0]
        arguments = tuple((n, value if n == name else v) for n, v in old.arguments)
        signature = tuple((n, kind if kind and n == name else k) for n, k in old.signature)
        return launch(arguments=arguments, signature=signature)(plan)

    return change


def view(**changes: object) -> View:
    return replace(View(root="in0", offset=0, shape=(4, 8), stride=(8, 1), dtype="float32"), **changes)  # type: ignore[arg-type]


def root(index: int, **changes: object) -> Callable[[Plan], Plan]:
    def change(plan: Plan) -> Plan:
        changed = [replace(r, **changes) if i == index else r for i, r in enumerate(plan.roots)]  # type: ignore[arg-type]
        return replace(plan, roots=tuple(changed))

    return change


def added(*roots: Root) -> Callable[[Plan], Plan]:
    return lambda plan: replace(plan, roots=(*plan.roots, *roots))


def output(**changes: object) -> Callable[[Plan], Plan]:
    return lambda plan: replace(plan, outputs=(replace(plan.outputs[0], **changes),))  # type: ignore[arg-type]


def test_an_honest_plan_passes_in_the_order_of_the_points() -> None:
    found = gated(lowered())
    assert [p.workload for p in found.lowered.plans] == ["small", "large"]
    assert found.certificate["dots"] == []
    turned = lowered()
    turned = replace(turned, plans=tuple(reversed(turned.plans)))
    assert gated(turned) == found
    assert gated(lowered(), again=encode(turned)) == found


REFUSED = [
    (launch(kernel="evil"), "no screened kernel"),
    (launch(kernel="host_desc"), "the signature names"),
    (launch(grid=(0, 1, 1)), "the grid"),
    (launch(grid=(-1, 1, 1)), "the grid"),
    (launch(grid=(1, 65536, 1)), "the grid"),
    (launch(grid=(2**31 - 1, 65535, 65535)), "more than 2**32 programs"),
    (launch(options=(("num_warps", 3),)), "num_warps=3"),
    (launch(options=(("num_warps", 64),)), "num_warps=64"),
    (launch(options=(("num_stages", 99),)), "num_stages=99"),
    (launch(options=(("num_ctas", 3),)), "num_ctas=3"),
    (launch(options=(("maxnreg", 4),)), "maxnreg=4"),
    (launch(options=(("ir_override", 1),)), "ir_override"),
    (launch(options=(("num_warps", 4), ("num_warps", 8))), "a launch has"),
    (launch(ttir="0" * 16), "is not there"),
    (launch(arguments=()), "not those that its signature"),
    (launch(constexprs=()), "not those that its signature"),
    (launch(constexprs=(("BLOCK", 16), ("BLOCK", 32))), "not those that its signature"),
    (launch(signature=()), "the signature names"),
    (argument("x_ptr", view(root="in1")), "which this plan does not have"),
    (argument("x_ptr", view(offset=1)), "reaches byte 132 of 128"),
    (argument("x_ptr", view(offset=-1)), "negative"),
    (argument("x_ptr", view(stride=(-8, 1))), "negative"),
    (argument("x_ptr", view(stride=(9, 1))), "reaches byte"),
    (argument("x_ptr", view(stride=(8,))), "sizes and 1 strides"),
    (argument("x_ptr", view(shape=(2**62, 8))), "reaches byte"),
    (argument("x_ptr", view(dtype="float64"), "*fp64"), "reaches byte"),
    (argument("x_ptr", view(dtype="complex64")), "the dtype 'complex64'"),
    (argument("x_ptr", view(dtype="float16")), "typed '*fp32'"),
    (argument("x_ptr", view(dtype="int32"), "*i32"), "the TTIR takes !tt.ptr<f32>"),
    (argument("x_ptr", view(shape=(1,), stride=(1,), offset=1)), "claims a multiple of 16, the value is 4"),
    (argument("x_ptr", 4096, "i64"), "the TTIR takes !tt.ptr<f32>"),  # a number where a pointer is taken
    (argument("n", view(), "*fp32"), "the TTIR takes i32"),
    (argument("n", 2**31), "typed 'i32'"),
    (argument("n", 2**31, "i64"), "the TTIR takes i32"),
    (argument("n", True), "typed 'i32'"),
    (argument("n", 1.0), "typed 'i32'"),
    (argument("n", 3, "*fp32"), "typed '*fp32'"),
    (argument("n", 3, "i128"), "typed 'i128'"),
    (argument("factor", 3), "typed 'fp32'"),
    (argument("factor", 0.5, "i32"), "typed 'i32'"),
    (argument("factor", Descriptor(view=view(), block_shape=(4, 4)), "tensordesc<fp32[4,4]>"), "the TTIR takes f32"),
    (root(0, nbytes=1 << 40), "claims argument 0"),
    (root(0, nbytes=64), "claims argument 0"),
    (root(0, argument=1), "claims argument 1"),
    (root(0, argument=None), "claims argument None"),
    (root(0, zeroed=True), "zero it in a kernel"),
    (root(1, name="in0"), "of one name"),
    (root(1, argument=0), "the same argument"),
    (root(1, argument=1), "claims argument 1"),
    (root(1, nbytes=-4), "claims"),
    (root(1, nbytes=64), "reaches byte"),
    (root(1, nbytes=1 << 40), "bytes of scratch"),
    (root(1, kind="scratch"), "must be a tensor that the entry allocates"),
    (added(Root(name="s", kind="scratch", nbytes=1 << 40)), "bytes of scratch"),
    (added(Root(name="s", kind="scratch", nbytes=16, argument=0)), "the same argument"),
    (added(Root(name="s", kind="output", nbytes=16)), "is called an output and is none"),
    (added(*(Root(name=f"s{i}", kind="scratch", nbytes=1) for i in range(200))), "more than 128"),
    (lambda plan: replace(plan, launches=()), "no kernel is launched"),
    (lambda plan: replace(plan, launches=plan.launches * 300), "300 launches"),
    (lambda plan: replace(plan, outputs=()), "the problem has 1"),
    (output(root="in0"), "it must be a tensor that the entry allocates"),
    (output(root="nowhere"), "which this plan does not have"),
    (output(shape=(8, 4)), "it must be float32 [4, 8]"),
    (output(dtype="int32"), "it must be float32 [4, 8]"),
    (output(stride=(1, 4)), "they must be [8, 1]"),
    (output(offset=8), "reaches byte"),
    (argument("y_ptr", view()), "given to no kernel"),
    (lambda plan: replace(plan, workload="secret"), "no plan for workload 'small'"),
    (lambda plan: replace(plan, workload="large"), "no plan for workload 'small'"),
    (lambda plan: replace(plan, parameters=(("BLOCK", 32), ("num_warps", 4))), "no plan for workload 'small'"),
    (lambda plan: replace(plan, parameters=(("BLOCK", 16.0), ("num_warps", 4))), "no plan for workload 'small'"),
]


@pytest.mark.parametrize(("change", "said"), REFUSED, ids=range(len(REFUSED)))
def test_a_changed_claim_is_refused(change: Callable[[Plan], Plan], said: str) -> None:
    feedback = refused(lowered(change))
    assert said in feedback, feedback


def test_modules_are_what_they_are_called() -> None:
    assert "not named by its own digest" in refused(lowered(**{"0" * 16: TTIR}))
    assert "belongs to no launch" in refused(lowered(**{digest_of(OTHER): OTHER}))
    assert "tt.int_to_ptr" in refused(
        lowered(**{digest_of(forged): forged for forged in [TTIR.replace("arith.mulf", "tt.int_to_ptr")]})
    )
    wrong = TTIR.replace("@scale_kernel", "@other_kernel")
    feedback = refused(lowered(launch(ttir=digest_of(wrong)), **{digest_of(wrong): wrong}))
    assert "its TTIR defines 'other_kernel'" in feedback
    more = TTIR.replace("%factor: f32", "%factor: f32, %more: i64")
    assert "1 parameters more" in refused(lowered(launch(ttir=digest_of(more)), **{digest_of(more): more}))


def test_a_plan_a_point_no_more_no_less() -> None:
    both = lowered()
    assert "1 plans for 2 workloads" in refused(replace(both, plans=both.plans[:1]))
    assert "3 plans for 2 workloads" in refused(replace(both, plans=(*both.plans, both.plans[0])))


def test_a_plan_that_depends_on_the_order_is_refused() -> None:
    feedback = refused(lowered(), again=encode(lowered(launch(grid=(9, 1, 1)))))
    assert "in a different order gave different launches" in feedback


def test_parameters_are_the_entrys_own() -> None:
    screened = screen(SOURCE, entry="scale")
    strange = [replace(POINTS[0], parameters={"BLOCK": 16, "SPLIT": 2}), POINTS[1]]
    with pytest.raises(Ruling, match="no tunable of the entry"):
        gate(encode(lowered()), screened=screened, problem=problem(), points=strange, target=TARGET)


# --- Outputs that are the caller's ------------------------------------------------------------------------------------


def test_an_output_argument_may_be_given_or_returned() -> None:
    arguments = (*problem().arguments, Argument(name="y", role="out"))
    of = problem(
        arguments=arguments,
        outputs=lambda w: (TensorSpec(name="y", shape=(w["M"], w["N"]), dtype="float32", argument="y"),),
    )
    plans = tuple(root(1, argument=2)(honest(point)) for point in POINTS)
    assert gated(replace(lowered(), plans=plans), of=of)
    assert gated(lowered(), of=of)
    assert "zero it in a kernel" in refused(lowered(root(1, argument=2, zeroed=True)), of=of)
    assert "claims argument 2" in refused(lowered(root(1, argument=2, nbytes=256)), of=of)


def test_an_output_in_place_lies_in_its_argument() -> None:
    of = problem(
        arguments=(Argument(name="x", role="in_out"), Argument(name="factor", role="scalar")),
        outputs=lambda w: (TensorSpec(name="x", shape=(w["M"], w["N"]), dtype="float32", argument="x"),),
    )

    def in_place(plan: Plan) -> Plan:
        plan = argument("y_ptr", replace(plan.outputs[0], root="in0"))(plan)
        return output(root="in0")(replace(plan, roots=plan.roots[:1]))

    plans = tuple(in_place(honest(point)) for point in POINTS)
    assert gated(replace(lowered(), plans=plans), of=of)
    assert "it must be the argument 'x'" in refused(lowered(), of=of)


# --- Descriptors ------------------------------------------------------------------------------------------------------

TILE = View(root="s", offset=0, shape=(32, 32), stride=(32, 1), dtype="float16")


def described(**changes: object) -> Callable[[Plan], Plan]:
    """A second launch, whose first argument is a host-side descriptor over scratch."""
    good = Descriptor(view=TILE, block_shape=(16, 16))

    def change(plan: Plan) -> Plan:
        block = replace(good, **changes)  # type: ignore[arg-type]
        y = plan.outputs[0]
        second = Launch(
            kernel="host_desc",
            grid=(1, 1, 1),
            arguments=(("d", block), ("y_ptr", y), ("e", good), ("n", 3)),
            signature=(
                ("d", "tensordesc<fp16[16, 16]>"),
                ("y_ptr", "*fp32"),
                ("e", "tensordesc<fp16[16,16]>"),
                ("n", "i32"),
                ("BLOCK", "constexpr"),
            ),
            constexprs=(("BLOCK", 16),),
            options=(("num_warps", 4),),
            ttir=digest_of(DESC),
        )
        plan = added(Root(name="s", kind="scratch", nbytes=2048))(plan)
        return replace(plan, launches=(*plan.launches, second))

    return change


def test_a_host_descriptor_passes() -> None:
    assert gated(lowered(described(), **{digest_of(DESC): DESC}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"view": replace(TILE, offset=8)}, "reaches byte"),
        ({"view": replace(TILE, root="x")}, "does not have"),
        ({"view": replace(TILE, shape=(31, 31), offset=4)}, "multiples of 16 bytes"),
        ({"view": replace(TILE, shape=(16, 16), stride=(33, 1))}, "multiples of 16 bytes"),
        ({"view": replace(TILE, shape=(16, 16), stride=(1, 32))}, "multiples of 16 bytes"),
        ({"view": replace(TILE, dtype="bfloat16")}, "is typed"),
        ({"view": replace(TILE, shape=(32,), stride=(1,))}, "1 dimensions"),
        ({"view": replace(TILE, shape=(0, 32))}, "over sizes"),
        ({"block_shape": (16, 32)}, "is typed"),
        ({"block_shape": (16,)}, "is typed"),
        ({"padding": "ones"}, "padding is zero or nan"),
    ],
    ids=range(11),
)
def test_a_descriptor_keeps_the_hardwares_rules(changes: dict[str, object], said: str) -> None:
    feedback = refused(lowered(described(**changes), **{digest_of(DESC): DESC}))
    assert said in feedback, feedback


# --- The digest -------------------------------------------------------------------------------------------------------


def digest(change: Callable[[Plan], Plan] = lambda plan: plan, source: str = SOURCE) -> str:
    return gated(lowered(change), source=source).digest


def test_the_digest_names_behaviour_and_not_names() -> None:
    plain = digest()
    renamed = replace(lowered(), modules={})
    text = TTIR.replace("%x_ptr", "%input").replace("loc(#loc1)", "loc(unknown)")
    assert text != TTIR
    plans = tuple(launch(ttir=digest_of(text))(plan) for plan in renamed.plans)
    assert gated(Lowered(plans=plans, modules={digest_of(text): text})).digest == plain


@pytest.mark.parametrize(
    "change",
    [
        launch(grid=(9, 1, 1)),
        launch(options=(("num_warps", 8), ("num_stages", 3), ("num_ctas", 1))),
        argument("n", 16),
        argument("factor", 0.25),
        root(1, zeroed=True),
        added(Root(name="s", kind="scratch", nbytes=64)),
        lambda plan: replace(plan, launches=plan.launches * 2),
    ],
    ids=range(7),
)
def test_the_digest_sees_what_is_launched(change: Callable[[Plan], Plan]) -> None:
    assert digest(change) != digest()


def test_the_digest_sees_what_may_be_tuned() -> None:
    assert digest(source=SOURCE.replace("(16, 32)", "(16, 32, 64)")) != digest()


# --- Anything at all --------------------------------------------------------------------------------------------------

SCREENED: Screened = screen(SOURCE, entry="scale")
RAW = json.loads(encode(lowered()))
ODD = st.sampled_from([None, True, -1, 0, 2**63, 1.5, "", "in0", "x" * 50, [], {}, [[]], "float32", "*fp32"])


def places(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, part in inner for p in places(part, (*path, key)))]


@given(st.lists(st.tuples(st.sampled_from(places(RAW)[1:]), ODD), min_size=1, max_size=3))
@settings(deadline=None, max_examples=150)
def test_any_damage_is_answered(damage: list[tuple[tuple[object, ...], object]]) -> None:
    raw = json.loads(json.dumps(RAW))
    for path, odd in damage:
        with suppress(KeyError, IndexError, TypeError):
            where = raw
            for key in path[:-1]:
                where = where[key]
            where[path[-1]] = odd
    with suppress(Ruling):  # nothing else may be raised
        gate(json.dumps(raw), screened=SCREENED, problem=problem(), points=POINTS, target=TARGET)


@given(st.text(max_size=100))
@settings(deadline=None, max_examples=50)
def test_any_text_is_answered(text: str) -> None:
    with pytest.raises(Ruling):
        gate(text, screened=SCREENED, problem=problem(), points=POINTS, target=TARGET)
