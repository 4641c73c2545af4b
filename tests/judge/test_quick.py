"""Quick times and duels in a GPU process, on a device made of Python."""

import sys
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)

import gpu_fakes  # noqa: E402

from evolve.judge.check import contestant  # noqa: E402
from evolve.judge.gpu import quick as module  # noqa: E402
from evolve.judge.gpu.facts import workload_to  # noqa: E402
from evolve.judge.gpu.pool import WorkerFault  # noqa: E402
from evolve.problem import load_problem  # noqa: E402

PROBLEM = load_problem(Path(HERE) / "gpu_problem.py")
VARIANT = PROBLEM.variant(None)
SQUARE_US = 262.0


@pytest.fixture
def worker():
    gpu_fakes.STASH.clear()
    gpu_fakes.CLOCK.noise = 0.001
    opening = {"op": "open", "problem": str(Path(HERE) / "gpu_problem.py"), "variant": VARIANT.name, "rehearse": None}
    return gpu_fakes.LocalPool(opening).take()


@pytest.fixture
def order(tmp_path):
    def made(*names, op="quick", workload="square", **more):
        sizes = PROBLEM.workload(workload, VARIANT)
        told = [
            contestant(gpu_fakes.plan_for(sizes, name, folder=tmp_path), gpu_fakes.built_for(name, tmp_path))
            for name in ("honest", *names)
        ]
        usual = {"calls": 2, "random_seed": 3, "best": 1.0, "seconds": 60.0, "rounds": 12}
        return {"op": op, "workload": workload_to(sizes), "anchor": told[0], "points": told[1:], **usual, **more}

    return made


def test_leaders_get_samples_between_the_anchors_and_the_slow_get_one_call(worker, order):
    found = worker.ask(order("honest", "quick", "bit_slower", "far_slower"), seconds=1)
    assert found["anchor_us"] == pytest.approx(SQUARE_US, rel=0.01)
    rows = dict(zip(("honest", "quick", "bit_slower", "far_slower"), found["rows"], strict=True))
    assert {n: r["ratio"] for n, r in rows.items()} == pytest.approx(
        {"honest": 1.0, "quick": 0.8, "bit_slower": 1.05, "far_slower": 5.0}, rel=0.01
    )
    assert {n: r["samples"] for n, r in rows.items()} == {"honest": 3, "quick": 3, "bit_slower": 3, "far_slower": 1}
    assert all(r["us"] == pytest.approx(r["ratio"] * found["anchor_us"]) for r in rows.values())


def test_what_was_best_before_decides_who_is_slow(worker, order):
    (row,) = worker.ask(order("honest", best=0.5), seconds=1)["rows"]
    assert row["samples"] == 1


def test_a_clock_that_drifts_between_points_decides_nothing(worker, order, monkeypatch):
    """The chip slows down by a third while points are timed; the last are not taken for slow ones."""
    run, level = gpu_fakes.CLOCK.run, [1.0]

    def slowing(us):
        level[0] = min(1.5, level[0] * 1.002)
        run(us * level[0])

    monkeypatch.setattr(gpu_fakes.CLOCK, "run", slowing)
    monkeypatch.setattr(module, "SLOWER", 9.0)
    found = worker.ask(order(*["honest"] * 20, "quick"), seconds=1)
    assert level[0] > 1.3
    assert all(row["ratio"] == pytest.approx(1.0, abs=0.02) for row in found["rows"][:-1])
    assert found["rows"][-1]["ratio"] == pytest.approx(0.8, abs=0.02)


def test_a_point_that_does_not_load_or_fit_is_out_and_the_next_is_timed(worker, order):
    found = worker.ask(order("asks_for_too_much", "quick"), seconds=1)
    assert "out of memory" in found["rows"][0]["why"]
    assert found["rows"][1]["ratio"] == pytest.approx(0.8, rel=0.01)


def test_a_fault_names_its_point_and_what_was_found_before(worker, order):
    with pytest.raises(WorkerFault) as caught:
        worker.ask(order("quick", "leaves_its_buffer", "honest"), seconds=1)
    assert caught.value.in_candidate
    assert caught.value.at["point"] == 1
    assert [round(row["ratio"], 2) for row in caught.value.at["done"]] == [0.8]
    assert "done" not in caught.value.evidence()["at"]


def test_seconds_end_an_order_with_the_rows_that_there_are(worker, order):
    assert worker.ask(order("quick", "honest", seconds=-1.0), seconds=1)["rows"] == []


def test_a_duel_samples_everyone_in_every_round(worker, order):
    found = worker.ask(order("quick", "bit_slower", op="duel"), seconds=1)
    assert len(found["rounds"]) == 12
    for anchor, fast, slow in found["rounds"]:
        assert fast / anchor == pytest.approx(0.8, rel=0.01)
        assert slow / anchor == pytest.approx(1.05, rel=0.01)


def test_buffers_are_kept_between_orders_as_far_as_they_may_be_and_given_back_at_the_end(worker, order, monkeypatch):
    desk = worker._worker.desk
    worker.ask(order("quick"), seconds=1)
    first = desk._open["square"]
    worker.ask(order("quick"), seconds=1)
    assert desk._open["square"] is first
    monkeypatch.setattr(module, "KEEP_BYTES", first.nbytes)
    worker.ask(order("quick", workload="wide"), seconds=1)
    assert "square" not in desk._open
    worker.ask({"op": "end"}, seconds=1)
    assert not desk._open
