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
