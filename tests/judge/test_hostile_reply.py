"""The gate against forged replies of a jail: real ones, changed in their structure. What is let through must be as safe
as the original by a check of its own here; whatever else is a ruling, never another exception."""

import copy
import json
import sys
from math import prod
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evolve.judge.gate import gate
from evolve.judge.jail import Jail
from evolve.judge.lower import lower
from evolve.judge.screen import screen
from evolve.judge.stages import Point, Ruling
from evolve.judge.targets import find
from evolve.types import Verdict, digest_of

sys.path.insert(0, str(Path(__file__).parent))

from cpu_bench import matmul, source_of

TARGET = find("sm_90")
PROBLEM = matmul()
VARIANT = PROBLEM.variant("fp16")
WORKLOADS = [w for role in ("time", "check") for w in PROBLEM.of_role(role, VARIANT)][:4]
NAMES = ("plain", "split_k_atomics", "split_k_scratch", "host_descriptors", "padded", "output_parameter")
BYTES = {"float16": 2, "float32": 4, "int32": 4, "int64": 8, "uint8": 1, "bool": 1, "bfloat16": 2, "float64": 8}

HOSTILE = (
    *(0, 1, -1, 2, 16, 255, 4096, 2**31, 2**33, 2**62, -(2**63), 2**64 - 1, 0.5, True, False, None, "", "in0", "out0"),
    *("scratch0", "input", "output", "scratch", "float32", "float64", "int64", "i64", "*fp32", "*i64", "constexpr"),
    *("matmul_kernel", "num_warps", "ptx_options", "extern_libs", "ir_override", "nan", "../x", [], {}, [[]]),
)
WORDS = (
    *("tt.int_to_ptr", "tt.ptr_to_int", "tt.elementwise_inline_asm", "llvm.inline_asm", "tt.print", "llvm.call"),
    *("!llvm.ptr", "tt.func private @malloc(i64) -> i64", '"tt.load"', "builtin.unrealized_conversion_cast"),
    *("i64", "f32", "!tt.ptr<i64>", "!tt.ptr<!tt.ptr<f16>>", "%c", "#map", "gpu.launch", "module", "tt.bitcast"),
    *('libpath = "/tmp/x.bc"', "dlti.dl_spec", "llvm.mlir.global", "\\0", "{", "}", "tt.divisibility = 64 : i32"),
)
FORBIDDEN = ("int_to_ptr", "ptr_to_int", "inline_asm", "llvm.call", "llvm.mlir", "unrealized", "gpu.launch", "/tmp")


@pytest.fixture(scope="module")
def replies():
    """(screened, points, the jail's reply) of honest candidates."""
    found = []
    with Jail() as jail:
        for name in NAMES:
            screened = screen(source_of(name), entry="matmul")
            points = [Point(workload=w, parameters=screened.defaults) for w in WORKLOADS]
            raw = lower(jail, screened, PROBLEM, points, TARGET, shuffle_seed=1)
            gate(raw, screened=screened, problem=PROBLEM, points=points, target=TARGET)
            found.append((screened, points, json.loads(raw)))
    return found


def places(value, path=()):
    """Where something can be changed: every leaf and every container but the texts of modules."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if path[:1] != ("modules",):
            yield from places(inner, (*path, key))


def at(value, path):
    for key in path:
        value = value[key]
    return value


def changed(data, reply):
    """One to three changes of structure: values put elsewhere, left out, doubled, exchanged; words put into TTIR, its
    name made right again, as a forger would."""
    made = copy.deepcopy(reply)
    for _ in range(data.draw(st.integers(1, 3))):
        if data.draw(st.integers(0, 3)) == 0:
            reword(data, made)
            continue
        every = [p for p in places(made) if p]
        path = data.draw(st.sampled_from(every))
        holder, key = at(made, path[:-1]), path[-1]
        match data.draw(st.sampled_from(("set", "near", "drop", "double", "exchange"))):
            case "set":
                holder[key] = copy.deepcopy(data.draw(st.sampled_from(HOSTILE)))
            case "near" if type(holder[key]) is int:
                holder[key] += data.draw(st.sampled_from((-1, 1, 16, -16, 4096, holder[key])))
            case "drop":
                del holder[key]
            case "double" if isinstance(holder, list):
                holder.insert(key, copy.deepcopy(holder[key]))
            case _:
                other = data.draw(st.sampled_from([p for p in every if p[-1] == key]))
                holder[key] = copy.deepcopy(at(made, other))
    return made


def reword(data, made):
    modules = made.get("modules")
    if not isinstance(modules, dict) or not modules:
        return
    name = data.draw(st.sampled_from(sorted(modules)))
    words = modules[name].split(" ")
    spot = data.draw(st.integers(0, len(words) - 1))
    if data.draw(st.booleans()):
        words[spot] = data.draw(st.sampled_from(WORDS))
    else:
        words[spot] = words[data.draw(st.integers(0, len(words) - 1))]
    text = " ".join(words)
    del modules[name]
    modules[digest_of(text)] = text
    for launch in launches_in(made.get("plans")):
        if launch.get("ttir") == name:
            launch["ttir"] = digest_of(text)


def launches_in(value):
    """Every object that names its TTIR, wherever the damage has put it."""
    if isinstance(value, dict) and "ttir" in value:
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from launches_in(inner)


def safe(gated, screened, points):
    """What must hold of every plan that is launched beside a GPU, written down a second time."""
    assert [p.workload for p in gated.lowered.plans] == [p.workload.name for p in points]
    for plan, point in zip(gated.lowered.plans, points, strict=True):
        given = PROBLEM.make_inputs(point.workload, "meta", 0)
        sizes = {i: t.untyped_storage().nbytes() for i, t in enumerate(given)}
        (answer,) = PROBLEM.outputs(point.workload)
        roots = {r.name: r for r in plan.roots}
        assert len(roots) == len(plan.roots)
        for root in plan.roots:
            if root.kind == "input":
                assert sizes[root.argument] == root.nbytes
            assert 0 <= root.nbytes < 1 << 36
        assert plan.launches
        written = set()
        for launch in plan.launches:
            assert launch.kernel in screened.kernels
            assert set(dict(launch.options)) <= {"num_warps", "num_stages", "num_ctas", "maxnreg"}
            assert all(type(v) is int and 0 <= v < 256 for _, v in launch.options)
            assert min(launch.grid) >= 1
            assert prod(launch.grid) <= 1 << 32
            text = gated.lowered.modules[launch.ttir]
            assert digest_of(text) == launch.ttir
            assert not [word for word in FORBIDDEN if word in text]
            for _, value in launch.arguments:
                view = getattr(value, "view", value)
                if isinstance(view, bool | int | float):
                    continue
                within(view, roots)
                written.add(view.root)
        (out,) = plan.outputs
        within(out, roots)
        assert (out.shape, out.dtype) == (answer.shape, answer.dtype)
        assert out.root in written
        assert roots[out.root].kind == "output"


def within(view, roots):
    assert view.offset >= 0
    assert min((*view.shape, *view.stride), default=0) >= 0
    if 0 not in view.shape:
        last = view.offset + sum((n - 1) * s for n, s in zip(view.shape, view.stride, strict=True))
        assert (last + 1) * BYTES[view.dtype] <= roots[view.root].nbytes


def tried(reply, screened, points):
    try:
        gated = gate(json.dumps(reply), screened=screened, problem=PROBLEM, points=points, target=TARGET)
    except Ruling as caught:
        ruling = caught
    else:
        safe(gated, screened, points)
        return "let through"
    assert (ruling.verdict, ruling.stage) == (Verdict.REJECTED, "gate")
    assert 10 < len(ruling.feedback) < 4000
    return "refused"


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_forged_reply_is_refused_or_harmless(replies, data):
    screened, points, reply = replies[data.draw(st.integers(0, len(replies) - 1))]
    tried(changed(data, reply), screened, points)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_ten_thousand_forged_replies_are_refused_or_harmless(replies, data):
    screened, points, reply = replies[data.draw(st.integers(0, len(replies) - 1))]
    tried(changed(data, reply), screened, points)


def test_what_is_not_changed_is_let_through(replies):
    for screened, points, reply in replies:
        assert tried(reply, screened, points) == "let through"


def test_another_candidates_reply_is_refused(replies):
    """A kernel that was never screened."""
    for screened, points, _ in replies:
        for other, _, reply in replies:
            if set(other.kernels) - set(screened.kernels):
                assert tried(reply, screened, points) == "refused"
