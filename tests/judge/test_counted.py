"""What the interpreter counts, and what a factor from small sizes does to a modelled time."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolve.judge.counted import MOST, told, work_factor
from evolve.judge.model import predict
from evolve.judge.plan import Launch, Plan, Root, View
from evolve.judge.stages import Binary, Built
from evolve.problem import load_problem
from evolve.types import Workload


@pytest.fixture(scope="module")
def problem(sanity):
    return load_problem(sanity.HERE.parent / "evaluators" / "matmul.py")


def sized(n):
    return Workload(name=str(n), params={"M": n, "N": n, "K": n, "dtype": "float16"})


def test_the_smallest_factor_counts(problem):
    counted = [(sized(128), {"flops": 3 * 2.0 * 128**3}), (sized(96), {"flops": 9 * 2.0 * 96**3})]
    assert work_factor(problem, counted) == pytest.approx(3.0)
    assert work_factor(problem, [(sized(128), {"flops": 2.0 * 128**3 / 4})]) == 1.0  # less than all is no credit
    assert work_factor(problem, []) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=60), inner, max_size=12),
    max_leaves=8,
)


@given(claim=JSON)
def test_a_claim_from_the_jail_is_bounded(problem, claim):
    counts = told(claim)
    assert len(counts) <= 8
    assert all(0 <= value < float("inf") for value in counts.values())
    factor = work_factor(problem, [(sized(64), counts)])
    assert factor is None or 1.0 <= factor <= MOST


DATA = """module { tt.func public @k(%p: !tt.ptr<f16>, %n: !tt.ptr<i32>) {
  %c0 = arith.constant 0 : i32
  %c1 = arith.constant 1 : i32
  %len = tt.load %n : !tt.ptr<i32>
  scf.for %i = %c0 to %len step %c1  : i32 {
    %s = tt.splat %p : !tt.ptr<f16> -> tensor<64x!tt.ptr<f16>>
    %v = tt.load %s : tensor<64x!tt.ptr<f16>>
  }
  tt.return } }"""


def test_what_hangs_on_data_is_modelled_by_what_was_counted(problem, tmp_path, sm_90):
    (tmp_path / "kernel.ttir").write_text(DATA)
    view = View(root="in0", offset=0, shape=(64,), stride=(1,), dtype="float16")
    options = (("num_warps", 4), ("num_stages", 3))
    launch = Launch(
        kernel="k",
        grid=(132, 1, 1),
        arguments=(("p", view), ("n", replace(view, dtype="int32"))),
        signature=(("p", "*fp16"), ("n", "*i32")),
        constexprs=(),
        options=options,
        ttir="0" * 16,
    )
    root = Root(name="in0", kind="input", nbytes=128, argument=0)
    plan = Plan(workload="w", parameters=(), roots=(root,), launches=(launch,), outputs=())
    binary = Binary(
        key="k",
        path=str(tmp_path),
        name="k",
        sass="",
        registers=32,
        spills_bytes=0,
        shared_bytes=0,
        threads=128,
        instructions={},
    )
    built = Built(binaries={(launch.ttir, options): binary})
    once, thrice = (predict(plan, built, sm_90, sized(1024), problem, counted=f) for f in (1.0, 3.0))
    assert "depends on data" in once.notes[0]
    assert thrice.time_us == pytest.approx(3 * once.time_us)
