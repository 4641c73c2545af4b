"""Judging on this machine's GPU: the same stages up to the build as without one, then real launches and real clocks.

This process never opens a CUDA context. What the driver tells without one (the model, its architecture) decides what is
built for; everything measured comes from the calibration, which a run keeps and a resumed run takes over.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.metadata import version

from evolve.errors import MachineryError
from evolve.judge.backends import Opened, Settings, prompt_facts
from evolve.judge.backends.assembly import Shop, open_shop
from evolve.judge.calibrate import calibrate
from evolve.judge.gpu.device import GpuDevice, open_pool
from evolve.judge.gpu.nvml import Gpu, usable, visible
from evolve.judge.gpu.pool import Pool
from evolve.judge.gpu.sitting import GpuClock
from evolve.judge.pipeline import Pipeline, Record
from evolve.judge.stages import Ready, Ruling, Target
from evolve.judge.targets import find
from evolve.types import Attempt, Job, Json, Workload

SWITCH_SECONDS = 0.001  # for which a thread that reads or gates may hold up the one that talks to a GPU process


def open_gpu(
    settings: Settings, calibration: Mapping[str, Json] | None, *, index: int = 0, shop: Shop | None = None
) -> Opened:
    """A calibration of another kind of GPU is not taken. `shop` is another GPU's of the same target."""
    sys.setswitchinterval(min(SWITCH_SECONDS, sys.getswitchinterval()))
    gpu = Gpu(visible(index))
    target = _target(gpu)
    pool = open_pool(settings.problem, settings.variant, index)
    try:
        kept = calibration if calibration and _is_of(calibration, gpu) else None
        return _opened(settings, target, pool, dict(kept or _calibrated(settings, pool, gpu)), index, shop)
    except BaseException:
        pool.close()
        raise


def open_gpus(settings: Settings, kept: Iterable[Mapping[str, Json]]) -> tuple[Opened, ...]:
    """All that this process may use. GPUs of one kind share a calibration, or their scores could have different
    baselines, and the jail and the builder, which are for the CPU's cores. One that does not open is left out.

    One after the other in the caller's thread, because a child process dies with the thread that made it."""
    opened, faults = list[Opened](), list[MachineryError]()
    calibrations, shops = list(kept), dict[str, Shop]()
    try:
        for index in range(usable()):
            gpu = Gpu(visible(index))
            name = (target := _target(gpu)).device
            shops[name] = shops.get(name) or open_shop(settings, target)
            known = next((each for each in calibrations if _is_of(each, gpu)), None)
            try:
                opened.append(open_gpu(settings, known, index=index, shop=shops[name]))
            except MachineryError as fault:
                faults.append(fault)
            else:
                calibrations.append(opened[-1].calibration)
        if not opened:
            raise faults[0]
    except BaseException:
        for made in opened:
            made.backend.close()
        for shop in shops.values():
            shop.close()
        raise
    left_out = tuple(f"a GPU is left out: {fault}" for fault in faults)
    return (replace(opened[0], warnings=(*opened[0].warnings, *left_out)), *opened[1:])


def _is_of(calibration: Mapping[str, Json], gpu: Gpu) -> bool:
    facts = calibration.get("gpu", {})
    same_torch = str(facts.get("torch", "")).split("+")[0] == version("torch").split("+")[0]
    return bool(facts.get("device") == gpu.device() and same_torch)


def as_judged(attempt: Attempt) -> Job:
    """Whatever was chosen for it then is what it is timed at beside a newcomer, and on held-out sizes too: without a
    plan for those nothing would ever be promoted over it. A resumed run on an H200 went that way for thirty steps."""
    return Job(candidate=attempt.candidate, mode="confirm", parameters=attempt.evaluation.parameters)


def _target(gpu: Gpu) -> Target:
    architecture = gpu.architecture()
    if architecture is None:
        raise MachineryError(
            f"GPU {gpu.name}: the driver does not say what it is; install nvidia-ml-py, or look with `nvidia-smi`."
        )
    return find(architecture, gpu.device())


def _calibrated(settings: Settings, pool: Pool, gpu: Gpu) -> Mapping[str, Json]:
    problem, variant = settings.problem, settings.variant
    with pool.quiet():
        return calibrate(pool, gpu, problem, variant, _workloads(settings))


def _workloads(settings: Settings) -> list[Workload]:
    problem, variant = settings.problem, settings.variant
    return [
        *problem.of_role("check", variant),
        *problem.of_role("time", variant),
        *problem.of_role("held_out", variant),
    ]


def _opened(
    settings: Settings, target: Target, pool: Pool, calibration: Mapping[str, Json], index: int, shop: Shop | None
) -> Opened:
    shop = shop or open_shop(settings, target)
    holder: list[Pipeline] = []

    def restore(attempt: Attempt) -> Ready | None:
        """The incumbent of a resumed run, built again: its binaries are in the cache as a rule."""
        try:
            return holder[0].prepare(as_judged(attempt), Record())
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
        environment={"backend": "gpu", "gpu": {**calibration["gpu"], "uuid": device.gpu.uuid}},
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
