"""Judging on this machine's GPU: the same stages up to the build as without one, then real launches and real clocks.

This process never opens a CUDA context. What the driver tells without one (the model, its architecture) decides what is
built for; everything measured comes from the calibration, which a run keeps and a resumed run takes over.
"""

from __future__ import annotations

from collections.abc import Mapping

from evolve.errors import MachineryError
from evolve.judge.backends import Opened, Settings, prompt_facts
from evolve.judge.backends.assembly import open_shop
from evolve.judge.calibrate import calibrate
from evolve.judge.gpu.device import GpuDevice, open_pool
from evolve.judge.gpu.nvml import Gpu, visible
from evolve.judge.gpu.pool import Pool
from evolve.judge.gpu.sitting import GpuClock
from evolve.judge.pipeline import Pipeline, Record
from evolve.judge.stages import Ready, Ruling, Target
from evolve.judge.targets import find
from evolve.types import Attempt, Job, Json, Workload


def open_gpu(settings: Settings, calibration: Mapping[str, Json] | None, *, index: int = 0) -> Opened:
    gpu = Gpu(visible(index))
    target = _target(gpu)
    pool = open_pool(settings.problem, settings.variant, index)
    try:
        found = dict(calibration or _calibrated(settings, pool, gpu))
        return _opened(settings, target, pool, found, index)
    except BaseException:
        pool.close()
        raise


def _as_judged(attempt: Attempt) -> Job:
    """Whatever was chosen for it then is what it is timed at beside a newcomer."""
    return Job(candidate=attempt.candidate, parameters=attempt.evaluation.parameters)


def _target(gpu: Gpu) -> Target:
    architecture = gpu.architecture()
    if architecture is None:
        raise MachineryError(
            f"GPU {gpu.name}: the driver does not say what it is; install nvidia-ml-py, or look with `nvidia-smi`."
        )
    return find(architecture, gpu.device())


def _calibrated(settings: Settings, pool: Pool, gpu: Gpu) -> Mapping[str, Json]:
    problem, variant = settings.problem, settings.variant
    return calibrate(pool, gpu, problem, variant, _workloads(settings))


def _workloads(settings: Settings) -> list[Workload]:
    problem, variant = settings.problem, settings.variant
    return [
        *problem.of_role("check", variant),
        *problem.of_role("time", variant),
        *problem.of_role("held_out", variant),
    ]


def _opened(settings: Settings, target: Target, pool: Pool, calibration: Mapping[str, Json], index: int) -> Opened:
    shop = open_shop(settings, target)
    holder: list[Pipeline] = []

    def restore(attempt: Attempt) -> Ready | None:
        """The incumbent of a resumed run, built again: its binaries are in the cache as a rule."""
        try:
            return holder[0].prepare(_as_judged(attempt), Record())
        except Ruling:
            return None

    device = GpuDevice(
        problem=settings.problem,
        variant=settings.variant,
        target=target,
        calibration=calibration,
        gpu=index,
        pool=pool,
        restore=restore,
        configurations=settings.configurations,
    )
    pipeline = shop.pipeline(
        device,
        GpuClock(device),
        ranking_key=shop.ranking_key(device.ranking_key),
        environment={"backend": "gpu", "gpu": calibration["gpu"]},
        modelled_on=device.measured,
    )
    holder.append(pipeline)
    measured = device.measured
    return shop.opened(
        pipeline,
        device=target.device,
        calibration=calibration,
        facts=prompt_facts(measured, shop.versions, "measured by calibration where it could be"),
        warnings=tuple(
            f"also on this GPU: {name}; nothing is promoted while it is" for name in calibration["foreigners"]
        ),
    )
