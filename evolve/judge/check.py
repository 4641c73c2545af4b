"""The stage "check" on a GPU: is the answer right, on every kind of inputs that brings out what sloppy kernels hide.

Small workloads get the whole battery, timed sizes two kinds of inputs, one of them drawn in secret; cheap ones first,
so that a wrong kernel costs little. Seeds come from a secret of the run: no candidate sees what another saw. What
happens in the GPU process is in `gpu.checking`; here is the order of things, and the words for whoever reads a failure.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from evolve.judge.gpu.facts import workload_to
from evolve.judge.gpu.session import Asked, Session
from evolve.judge.inputs import FAMILIES, SAID
from evolve.judge.plan import Lowered, Plan
from evolve.judge.plan_json import encode
from evolve.judge.stages import Built, Ruling
from evolve.problem import Problem, Variant
from evolve.types import Json, Verdict, Workload

STAGE = "check"
CANDIDATE_SECONDS = 1.0  # for one run of the plan, besides what the baseline's time grants
BASELINES = 1000.0  # a candidate this many times slower than the baseline has hung
OTHER_SECONDS = 120.0  # drawing inputs, the reference in float64, comparing: ours, and never quick enough to matter
HIDDEN = "It fails on a workload that is not shown. Make it right for every size, layout and alignment."


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """What calibration fixed for one workload."""

    name: str
    us: float
    calls: int


def plan_of(lowered: Lowered, workload: str) -> Plan | None:
    return next((p for p in lowered.plans if p.workload == workload), None)


def contestant(plan: Plan, built: Built) -> dict[str, Any]:
    """A plan and the builder's folders, one a launch: all that a GPU process gets to know of a candidate."""
    return {
        "plan": encode(Lowered(plans=(plan,), modules={})),
        "folders": [built.of(launch).path for launch in plan.launches],
    }


def seed_of(secret: bytes, *parts: str) -> int:
    return int.from_bytes(hashlib.sha256(b"\0".join([secret, *(p.encode() for p in parts)])).digest()[:6], "big")


def candidate_seconds(baseline: Baseline | None, runs: int = 1) -> float:
    return CANDIDATE_SECONDS + (runs * BASELINES * baseline.us / 1e6 if baseline else 0.0)


def families_of(workload: Workload, families: Sequence[str], rng: random.Random) -> list[str]:
    """Two kinds of inputs at timed sizes: the mixed one, which holds most of the others, and a secret one."""
    if workload.role != "time":
        return [*families, "changed"]
    others = [f for f in families if f not in ("mixed", "given")] or ["given"]
    return ["mixed", rng.choice(others)] if "mixed" in families else ["given", rng.choice(others)]


@dataclass(frozen=True, kw_only=True)
class Check:
    """What holds for every candidate of a run."""

    problem: Problem
    variant: Variant
    baselines: Mapping[str, Baseline]
    families: Sequence[str] = FAMILIES
    brief: Sequence[str] = ()  # instead of them at the sizes for checking, for one of whose kin all were tried

    def __call__(
        self,
        session: Session,
        lowered: Lowered,
        built: Built,
        workloads: Sequence[Workload],
        *,
        secret: bytes,
        chances: int = 2,
    ) -> tuple[dict[str, float], dict[str, Json]]:
        """Errors over bounds by workload, and the evidence; raises `Ruling` at the first workload that is wrong."""
        errors: dict[str, float] = {}
        evidence: dict[str, Any] = {}
        for workload in sorted(workloads, key=self._cost):
            plan = plan_of(lowered, workload.name)
            if plan is None:
                continue
            order = self._order(workload, contestant(plan, built), secret)
            found = session.attempt(partial(_asked, order), stage=STAGE, workload=workload, chances=chances)
            errors[workload.name] = max((c["worst"] for c in found["cases"]), default=0.0)
            evidence[workload.name] = found
            wrong = next((c for c in found["cases"] if c["wrong"]), None)
            if wrong is not None:
                raise self._incorrect(workload, wrong, errors, evidence)
        return errors, {**evidence, "faults": session.faults}

    def _cost(self, workload: Workload) -> tuple[int, float]:
        return (("check", "held_out", "time").index(workload.role), self.problem.bytes_moved(workload))

    def _order(self, workload: Workload, candidate: Mapping[str, Any], secret: bytes) -> dict[str, Any]:
        rng = random.Random(seed_of(secret, workload.name))
        baseline = self.baselines.get(workload.name)
        kinds = self.brief if self.brief and workload.role != "time" else self.families
        return {
            "op": "check",
            "workload": workload_to(workload),
            "variant": self.variant.name,
            "candidate": candidate,
            "baseline": baseline.name if baseline else None,
            "families": [[f, rng.getrandbits(47)] for f in families_of(workload, kinds, rng)],
            "random_seed": rng.getrandbits(47),
            "limits": {"candidate": candidate_seconds(baseline), "other": OTHER_SECONDS},
        }

    def _incorrect(
        self, workload: Workload, case: Mapping[str, Any], errors: Mapping[str, float], evidence: Mapping[str, Json]
    ) -> Ruling:
        said = SAID.get(case["family"], "inputs of which one element changed")
        sizes = ", ".join(f"{k}={v}" for k, v in workload.params.items())
        text = f'workload "{workload.name}" ({sizes}), {said}: {case["wrong"]}'
        feedback = HIDDEN if workload.role == "held_out" else text
        return Ruling(
            Verdict.INCORRECT, feedback, stage=STAGE, errors=errors, evidence={"check": evidence, "wrong": text}
        )


def _asked(order: Mapping[str, Any], worker: Asked) -> dict[str, Any]:
    return worker.ask(order, seconds=OTHER_SECONDS)
