"""`evolve bench` on a GPU made of Python: real jails, builder and processes, from the file to the exit status."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)

from test_device import CALIBRATION, TARGET  # noqa: E402
from test_tune_on_gpu import NUMBER, source_of  # noqa: E402

from evolve import benching, judging, wiring  # noqa: E402
from evolve.judge.backends import Opened, Settings  # noqa: E402
from evolve.judge.backends.assembly import open_shop  # noqa: E402
from evolve.judge.gpu import device as device_module  # noqa: E402
from evolve.judge.gpu.device import GpuDevice, open_pool  # noqa: E402
from evolve.judge.gpu.sitting import GpuClock  # noqa: E402
from evolve.problem import load_problem  # noqa: E402
from evolve.terminal import contest as page  # noqa: E402

PROBLEM = str(Path(HERE) / "gpu_problem.py")


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_module, "predict", lambda *a: SimpleNamespace(evidence=dict))
        patch.setattr(device_module, "traits", lambda *a: {"tensor_path": "none"})
        patch.setattr(device_module, "speed_feedback", lambda *a: "it ran")
        for number, name in enumerate(("bit_slower", "drops_tail"), start=50):
            patch.setitem(NUMBER, name, number)
        patch.setattr(judging, "plain_seed", lambda config, problem: source_of(["bit_slower"]))
        patch.setenv("PYTHONPATH", os.pathsep.join([HERE, str(Path(HERE).parent.parent)]))
        problem = load_problem(PROBLEM)
        settings = Settings(
            problem=problem,
            variant=problem.variant(None),
            backend="gpu",
            target="sm_90",
            cache=tmp_path_factory.mktemp("cache"),
            width=2,
            timeout=60.0,
        )
        pool = open_pool(problem, settings.variant, entry="gpu_fakes:host_worker")
        device = GpuDevice(problem=problem, variant=settings.variant, target=TARGET, calibration=CALIBRATION, pool=pool)
        made = open_shop(settings, TARGET).pipeline(device, GpuClock(device), ranking_key="fake", environment={})
        kept = SimpleNamespace(close=made.close)
        made.close = lambda: None  # one for all tests, though each of them closes what it opened
        patch.setattr(
            wiring,
            "open_backend",
            lambda *a, **k: Opened(backend=made, device="Python", ranking_key="fake", calibration=CALIBRATION),
        )
        yield made
        kept.close()


def bench(tmp_path, kernel, **more):
    file = tmp_path / "candidate.py"
    file.write_text(source_of([kernel]))
    rows = []
    made = benching.bench(benching.Order(target=str(file), problem=PROBLEM, backend="gpu", **more), rows.append)
    return made, rows


def test_a_faster_kernel_is_shown_beside_everyone_and_holds_its_limit(backend, tmp_path):
    made, rows = bench(tmp_path, "quick", fail_under=1.2, min_roofline=1e-9)
    assert (made.status, made.data["outcome"]) == (0, "passed")
    assert [row["workload"] for row in rows] == ["square", "wide"]
    for row in made.data["workloads"]:
        ratios = {o["name"]: o["ratio"] for o in row["against"]}
        assert ratios == pytest.approx({"library": 1 / 0.8, "seed": 1.05 / 0.8}, rel=0.01)
        assert row["fastest"] == "library"
        assert row["skipped"] == {"absent": "it was never installed"}
        assert not row["modelled"]
    assert {g["what"] for g in made.data["gates"]} == {
        "square, over library",
        "wide, over library",
        "geometric mean",
        "square",
        "wide",
    }
    assert "torch" in page.surroundings(made.data)


@pytest.mark.slow
def test_a_slower_one_fails_beside_those_that_were_named(backend, tmp_path):
    made, _ = bench(tmp_path, "far_slower", fail_under=0.95, against=("library",))
    assert made.status == 1
    assert {g["word"] for g in made.data["gates"]} == {"failed"}
    assert all(o["name"] == "library" for row in made.data["workloads"] for o in row["against"])


@pytest.mark.slow
def test_a_wrong_one_gets_no_number(backend, tmp_path):
    made, rows = bench(tmp_path, "drops_tail", fail_under=0.5)
    assert made.status == 1
    assert not made.evaluation.passed
    assert rows == []
    assert made.data == {}


@pytest.mark.slow
def test_strangers_on_the_gpu_make_every_limit_inconclusive(backend, tmp_path, monkeypatch):
    monkeypatch.setattr(backend.device.gpu, "foreigners", lambda ours: ("process 7 (python)",))
    made, _ = bench(tmp_path, "far_slower", fail_under=0.95, workloads=("square",))
    assert made.status == 3
    assert "process 7" in made.data["gates"][0]["why"]
    assert replace(made, data={**made.data, "outcome": "passed"}).status == 0
