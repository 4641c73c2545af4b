"""All GPUs of a machine: which of them are used, and what those of one kind share."""

from dataclasses import replace
from importlib.metadata import version
from types import SimpleNamespace

import pytest

from evolve.errors import MachineryError
from evolve.judge.backends import gpu as gpus
from evolve.judge.backends.gpu import as_judged
from evolve.judge.confirm import roles
from evolve.judge.gpu import nvml
from evolve.judge.verdicts import duplicate_of
from evolve.types import Attempt, Candidate, Evaluation, Verdict

H200, A100 = ("NVIDIA H200", "sm_90"), ("NVIDIA A100-SXM4-80GB", "sm_80")


@pytest.mark.parametrize(
    ("listed", "used"),
    [(None, 4), ("0,2", 2), ("GPU-abc", 1), ("", 0), ("-1", 0), ("3, 1,0", 3), ("1,9,2", 1), ("NoDevFiles", 0)],
)
def test_the_users_list_is_read_as_cuda_reads_it(listed, used, monkeypatch):
    monkeypatch.setattr(nvml, "count", lambda: 4)
    assert nvml.usable({} if listed is None else {"CUDA_VISIBLE_DEVICES": listed}) == used


class Closing:
    def __init__(self, log, name):
        self.log, self.name = log, name

    def close(self):
        self.log.append(self.name)


@pytest.fixture
def machine(monkeypatch):
    """A machine of made-up GPUs; what is opened, calibrated and closed is written down."""
    made = SimpleNamespace(chips=[], calibrated=[], shops=[], closed=[], broken=())

    class Chip:
        def __init__(self, name):
            self.index, self.name, self.uuid = int(name), name, f"GPU-{name}"

        def device(self):
            return made.chips[self.index][0]

        def architecture(self):
            return made.chips[self.index][1]

    def calibrated(settings, pool, chip):
        if chip.index in made.broken:
            raise MachineryError(f"GPU {chip.index} is held by somebody")
        made.calibrated.append(chip.index)
        return {"gpu": {"device": chip.device(), "torch": version("torch"), "uuid": chip.uuid}, "by": chip.index}

    def opened(settings, target, pool, calibration, index, shop):
        made.shops.append(shop)
        backend = Closing(made.closed, f"backend {index}")
        return gpus.Opened(backend=backend, device=target.device, ranking_key=target.device, calibration=calibration)

    monkeypatch.setattr(gpus, "usable", lambda: len(made.chips))
    monkeypatch.setattr(gpus, "visible", str)
    monkeypatch.setattr(gpus, "Gpu", Chip)
    monkeypatch.setattr(gpus, "open_pool", lambda problem, variant, index: Closing(made.closed, f"pool {index}"))
    monkeypatch.setattr(gpus, "open_shop", lambda settings, target: Closing(made.closed, f"shop {target.device}"))
    monkeypatch.setattr(gpus, "_calibrated", calibrated)
    monkeypatch.setattr(gpus, "_opened", opened)
    return made


SETTINGS = SimpleNamespace(problem=None, variant=None)


def test_gpus_of_one_kind_share_calibration_jail_and_builder(machine):
    machine.chips = [H200, H200, A100, H200]
    found = gpus.open_gpus(SETTINGS, [])
    assert [o.device for o in found] == [chip[0] for chip in machine.chips]
    assert machine.calibrated == [0, 2]
    assert [o.calibration["by"] for o in found] == [0, 0, 2, 0]
    assert [machine.shops[i] is machine.shops[0] for i in range(4)] == [True, True, False, True]


def test_a_resumed_run_takes_each_kinds_own_calibration_and_no_others(machine):
    machine.chips = [H200, A100]
    kept = [
        {"gpu": {"device": A100[0], "torch": version("torch")}, "by": "record"},
        {"gpu": {"device": H200[0], "torch": "1.0"}, "by": "another torch"},
    ]
    found = gpus.open_gpus(SETTINGS, kept)
    assert [o.calibration["by"] for o in found] == [0, "record"]


def test_one_that_does_not_open_is_left_out_and_said_and_none_at_all_is_an_error(machine):
    machine.chips, machine.broken = [H200, H200, H200], (0, 2)
    found = gpus.open_gpus(SETTINGS, [])
    assert [o.calibration["by"] for o in found] == [1, 1], "with its kind's calibration the third could be opened"
    assert "GPU 0 is held" in found[0].warnings[0]
    machine.broken, machine.closed[:] = (0, 1, 2), []
    with pytest.raises(MachineryError, match="GPU 0 is held"):
        gpus.open_gpus(SETTINGS, [])
    assert {"pool 0", "pool 1", "pool 2", "shop NVIDIA H200"} <= set(machine.closed)


def test_the_incumbent_of_a_resumed_run_is_built_for_the_sizes_that_decide_on_promotion() -> None:
    """Whoever would be promoted over it is timed beside it on held-out sizes as well."""
    candidate = Candidate(step=5, source="x = 1\n", member="m", kind="diff")
    job = as_judged(Attempt(candidate=candidate, evaluation=Evaluation(verdict=Verdict.REJECTED)))
    assert "held_out" in roles(job)
    assert duplicate_of([candidate.digest], replace(job, known={candidate.digest: "00001-00000000"})) is None
