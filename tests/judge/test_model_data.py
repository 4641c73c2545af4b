"""The data set's collector: what one point costs the others, and what the file keeps."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from evolve.judge.gpu.pool import WorkerFault

HERE = Path(__file__).parents[2] / "benchmarks" / "model"


@pytest.fixture(scope="module")
def collecting():
    pytest.importorskip("triton")
    sys.path.insert(0, str(HERE))
    try:
        yield importlib.import_module("collect"), importlib.import_module("sources")
    finally:
        sys.path.remove(str(HERE))


class Worker:
    """Faults at the point whose name says so; what was found before it is not lost."""

    def once(self, deed, *, workload):
        return deed(self)

    def ask(self, order, *, seconds):
        rows = []
        for name in order["points"]:
            if name == "bad":
                raise WorkerFault("cuda", "illegal access", {"phase": "candidate", "point": len(rows), "done": rows})
            rows.append({"us": 1.0, "ratio": 1.0, "samples": 3, "of": name})
        return {"rows": rows}


def test_a_point_that_faults_costs_only_itself(collecting, monkeypatch):
    collect, _ = collecting
    monkeypatch.setattr(collect, "contestant", lambda plan, built: plan)
    monkeypatch.setattr(collect, "workload_to", lambda workload: {})
    clock = object.__new__(collect.GpuClock)
    clock._anchors, clock._sessions = {}, {"matmul": Worker()}
    workload = SimpleNamespace(name="4096")
    names = ["a", "bad", "c", "bad", "d"]
    point = SimpleNamespace(workload=workload)
    shots = [SimpleNamespace(plan=name, built=None, point=point) for name in names]
    found = list(clock.time("matmul", shots))
    assert [shot.plan for shot, _ in found] == ["a", "bad", "c", "bad", "d"]
    assert ["us" in row for _, row in found] == [True, False, True, False, True]
    assert clock._anchors == {("matmul", "4096"): "a"}


def test_there_are_points_enough(collecting):
    _, sources = collecting
    made = list(sources.structures())
    for problem, workloads in sources.WORKLOADS.items():
        names = [s for s in made if s.problem == problem]
        assert len(names) >= {"matmul": 8, "attention": 5, "layernorm_residual": 5}[problem]
        for workload in workloads:
            points = [sources.points(s, workload, 18) for s in names]
            assert sum(map(len, points)) >= 60
            assert all(len({repr(p) for p in each}) == len(each) for each in points)


@pytest.fixture(scope="module")
def measured(collecting):
    """Two workloads of the committed data set, predicted with the constants that ship."""
    fit, dataset = importlib.import_module("fit"), importlib.import_module("dataset")
    head, rows = dataset.load(fit.DATA)
    target = fit.target_of(head)
    chosen = [row for row in rows if row.key in ("matmul/4096", "attention/1k_d64")]
    points = fit.points_of(fit.fit_for_use(chosen, target, 0.15), target)
    return fit, rows, points, target


def test_the_data_set_holds_enough_and_needs_nothing_built(measured):
    _, rows, _, _ = measured
    for key in {row.key for row in rows}:
        own = [row for row in rows if row.key == key]
        least = 8 if key.startswith("matmul") else 5
        assert len(own) >= 60
        assert len({row.structure for row in own}) >= least
    assert len({row.key for row in rows}) == 6


def test_what_ships_orders_what_was_measured(measured):
    fit, _, points, target = measured
    c = fit.constants()
    found = fit.figures(points, {n: p.predicted_us(target, c) for n, p in enumerate(points)})
    assert found["matmul/4096"]["spearman"] >= 0.85
    assert found["attention/1k_d64"]["spearman"] >= 0.75
    assert all(row["rank_of_the_best"] <= fit.TOP for row in found.values())


def test_a_fit_finds_constants_again(measured):
    """Times made by the model with other constants: the fit comes back to them, as far as the points tell."""
    fit, _, points, target = measured
    truth = fit.replace(fit.constants(), wgmma=0.9, latency_us=1.1)
    some = points[::6]
    made = [fit.replace(p, row=fit.replace(p.row, time_us=p.predicted_us(target, truth))) for p in some]
    found = fit.fit(made, target, fit.constants(), names=("wgmma", "latency_us"))
    assert found.wgmma == pytest.approx(truth.wgmma, rel=0.03)
    assert found.latency_us == pytest.approx(truth.latency_us, rel=0.1)
