"""What both backends are made of, whatever checks and times: a jail, a builder, and a pipeline around a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version

from evolve.judge.backends import Opened, Settings, jail_warnings, timed_names, version_warnings
from evolve.judge.build import Builder
from evolve.judge.confirm import KNOWN
from evolve.judge.jail import Jail, Limits
from evolve.judge.pipeline import Device, Pipeline
from evolve.judge.stages import Target
from evolve.judge.tuning import KernelTuner
from evolve.judge.tuning_clock import Clock
from evolve.types import Json, Role


@dataclass(frozen=True, kw_only=True)
class Shop:
    """Where candidates are lowered and built; opened before the device is, because a device may want to build."""

    settings: Settings
    target: Target
    jail: Jail
    builder: Builder
    versions: Mapping[str, str]

    def close(self) -> None:
        self.builder.close()
        self.jail.close()

    def ranking_key(self, *first: str) -> str:
        return "|".join([*first, *timed_names(self.settings)])

    def pipeline(
        self,
        device: Device,
        clock: Clock,
        *,
        ranking_key: str,
        environment: Mapping[str, Json],
        builds: tuple[Role, ...] = KNOWN,
        modelled_on: Target | None = None,
    ) -> Pipeline:
        pipeline = Pipeline(
            problem=self.settings.problem,
            variant=self.settings.variant,
            target=self.target,
            jail=self.jail,
            builder=self.builder,
            device=device,
            ranking_key=ranking_key,
            environment={
                "target": self.target.name,
                "device": self.target.device,
                "protections": list(self.jail.protections),
                **self.versions,
                **environment,
            },
            builds=builds,
            modelled_on=modelled_on,
        )
        if self.settings.tuner:
            pipeline.tune = KernelTuner(
                problem=self.settings.problem,
                variant=self.settings.variant,
                target=self.target,
                jail=self.jail,
                builder=self.builder,
                clock=clock,
                tuning=self.settings.tuner,
                width=self.settings.width,
            )
        return pipeline

    def opened(
        self,
        pipeline: Pipeline,
        *,
        device: str,
        calibration: Mapping[str, Json],
        facts: tuple[str, ...],
        warnings: tuple[str, ...],
    ) -> Opened:
        return Opened(
            backend=pipeline,
            device=device,
            ranking_key=pipeline.ranking_key,
            calibration=calibration,
            environment=pipeline.environment,
            facts=facts,
            warnings=(
                *warnings,
                *version_warnings(self.versions),
                *jail_warnings(self.jail.protections, self.jail.reason),
            ),
        )


def open_shop(settings: Settings, target: Target, limits: Limits | None = None) -> Shop:
    return Shop(
        settings=settings,
        target=target,
        jail=Jail(slots=settings.width, limits=limits),
        builder=Builder(
            cache=settings.cache / "build",
            target=target,
            workers=settings.width,
            timeout=min(60.0, settings.timeout),
            compilers=settings.compilers,
        ),
        versions={name: version(name) for name in ("torch", "triton")},
    )
