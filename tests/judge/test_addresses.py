"""Which bytes a program touches: computed from TTIR text, held against arithmetic done by hand."""

import math

import numpy as np
import pytest

from evolve.judge.addresses import shaped, touched
from evolve.judge.counter import count
from evolve.judge.plan import Launch, View
from evolve.judge.ttir import Op, parse

ROWS = """module { tt.func public @k(%p: !tt.ptr<bf16>, %stride: i32, %n: i32) {
  %c16 = arith.constant 16 : i32
  %pid = tt.get_program_id x : i32
  %first = arith.muli %pid, %c16 : i32
  %r = tt.make_range {end = 16 : i32, start = 0 : i32} : tensor<16xi32>
  %s = tt.splat %first : i32 -> tensor<16xi32>
  %rows = arith.addi %s, %r : tensor<16xi32>
  %c = tt.make_range {end = 32 : i32, start = 0 : i32} : tensor<32xi32>
  %re = tt.expand_dims %rows {axis = 1 : i32} : tensor<16xi32> -> tensor<16x1xi32>
  %st = tt.splat %stride : i32 -> tensor<16x1xi32>
  %off = arith.muli %re, %st : tensor<16x1xi32>
  %ps = tt.splat %p : !tt.ptr<bf16> -> tensor<16x1x!tt.ptr<bf16>>
  %pr = tt.addptr %ps, %off : tensor<16x1x!tt.ptr<bf16>>, tensor<16x1xi32>
  %pb = tt.broadcast %pr : tensor<16x1x!tt.ptr<bf16>> -> tensor<16x32x!tt.ptr<bf16>>
  %ce = tt.expand_dims %c {axis = 0 : i32} : tensor<32xi32> -> tensor<1x32xi32>
  %cb = tt.broadcast %ce : tensor<1x32xi32> -> tensor<16x32xi32>
  %at = tt.addptr %pb, %cb : tensor<16x32x!tt.ptr<bf16>>, tensor<16x32xi32>
  %ns = tt.splat %n : i32 -> tensor<1x32xi32>
  %in = arith.cmpi slt, %ce, %ns : tensor<1x32xi32>
  %m = tt.broadcast %in : tensor<1x32xi1> -> tensor<16x32xi1>
  %v = tt.load %at, %m : tensor<16x32x!tt.ptr<bf16>>
  tt.store %at, %v, %m : tensor<16x32x!tt.ptr<bf16>>
  tt.return } }"""


def launch(stride, n):
    view = View(root="in0", offset=0, shape=(1 << 20,), stride=(1,), dtype="bfloat16")
    return Launch(
        kernel="k",
        grid=(64, 1, 1),
        arguments=(("p", view), ("stride", stride), ("n", n)),
        signature=(("p", "*bf16"), ("stride", "i32"), ("n", "i32")),
        constexprs=(),
        options=(("num_warps", 4), ("num_stages", 3)),
        ttir="0" * 16,
    )


@pytest.mark.parametrize(
    ("stride", "n", "run", "sectors"),
    [
        (4096, 32, 64, 16 * 64),  # rows far apart: a run is one row of 32 elements
        (32, 32, 16 * 64, 16 * 64),  # rows that follow each other: the tile is one run
        (4096, 8, 16, 16 * 32),  # what a mask leaves out is not moved, but sectors are whole
        (40, 32, 64, 1248),  # runs that begin amid a sector
    ],
)
def test_runs_and_sectors_are_those_of_the_layout(stride, n, run, sectors):
    load, store = count(parse(ROWS), launch(stride, n), resident=64).moves
    assert (load.run_bytes, store.run_bytes) == (run, run)
    assert load.sector_bytes == store.sector_bytes
    middle = 32 * 16  # the program that is looked at stands in the middle of the wave
    bytes_touched = {(row * stride + c) * 2 // 32 for row in range(middle, middle + 16) for c in range(min(n, 32))}
    assert load.sector_bytes == 32 * len(bytes_touched)
    assert load.sector_bytes == pytest.approx(sectors, rel=0.1)


def test_nothing_is_touched_under_a_mask_of_zeros():
    found = touched(np.arange(64).reshape(8, 8), np.zeros((8, 8), dtype=np.int64), 4)
    assert (found.active, found.sector_bytes) == (0.0, 0.0)


def test_a_gather_is_unknown_and_counts_as_its_tile():
    text = ROWS.replace(
        "%at = tt.addptr %pb, %cb", "%g = tt.load %pb : tensor<16x32x!tt.ptr<bf16>>\n  %at = tt.addptr %pb, %g"
    )
    moves = count(parse(text), launch(4096, 32), resident=64).moves
    assert moves[-1].sector_bytes == 0.0
    assert moves[-1].moved_bytes == 16 * 32 * 2


def test_a_persistent_loop_over_uneven_work_is_counted_in_the_mean():
    """An inner loop is as long as the tile it is at: looking at the first tile alone would say twice as much."""
    text = """module { tt.func public @k(%p: !tt.ptr<f32>, %n: i32) {
      %c0 = arith.constant 0 : i32
      %c1 = arith.constant 1 : i32
      %c4 = arith.constant 4 : i32
      %pid = tt.get_program_id x : i32
      scf.for %tile = %pid to %n step %c4  : i32 {
        %hi = arith.subi %n, %tile : i32
        scf.for %i = %c0 to %hi step %c1  : i32 {
          %s = tt.splat %p : !tt.ptr<f32> -> tensor<64x!tt.ptr<f32>>
          %v = tt.load %s : tensor<64x!tt.ptr<f32>>
        }
      }
      tt.return } }"""
    made = launch(1, 1)
    view = made.arguments[0][1]
    arguments = (("p", view), ("n", 400))
    found = count(
        parse(text),
        Launch(**{**{f: getattr(made, f) for f in Launch.__slots__}, "grid": (4, 1, 1), "arguments": arguments}),
        resident=4,
    )
    exact = sum(400 - tile for tile in range(400)) / 4
    assert found.iterations == pytest.approx(exact, rel=0.25)
    assert found.entered == pytest.approx(100, rel=0.05)
    assert math.isfinite(found.longest)


def test_shapes_that_do_not_go_together_are_unknown_and_no_error():
    """A causal attention kernel of a real run: what was known by the name was another block's."""
    op = Op(name="tt.broadcast", results=("r",), operands=("x",), text="", types="tensor<64x1xi32>")
    assert shaped(op, [np.zeros((64, 128))]) is None
    assert shaped(op, [np.ones((1, 1))]).shape == (64, 1)
