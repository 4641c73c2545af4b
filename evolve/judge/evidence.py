"""What is kept of a judgement for whoever doubts it: source, plans and builds by their digests, how to run it again.

Evidence is JSON that people read in a year; nothing here decides anything, and none of it reaches a prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from math import isfinite
from pathlib import Path

from evolve.judge.build import Builder
from evolve.judge.stages import Binary, Built, Gated, Screened
from evolve.problem import Problem, Variant
from evolve.types import Job, Json

LOG_TAIL = 2000
STAGING = re.compile(r"/[^\s\"']*/staging/[^\s\"'/]+/")


def of_job(job: Job, problem: Problem, variant: Variant) -> Json:
    """With these seeds the same inputs are drawn and the same orders shuffled: `evolve judge RUN:ID` takes them from
    here."""
    seeds = ",".join(map(str, job.random_seeds))
    command = f"evolve judge FILE --problem {problem.path} --variant {variant.name}"
    chosen = {"parameters": {name: dict(row) for name, row in job.parameters.items()}} if job.parameters else {}
    return {
        **chosen,
        "mode": job.mode,
        "random_seeds": list(job.random_seeds),
        "problem": problem.path,
        "problem_digest": problem.digest,
        "variant": variant.name,
        "command": f"{command} --random-seeds {seeds}" if seeds else command,
    }


def of_source(job: Job, screened: Screened) -> Json:
    return {
        "digest": job.candidate.digest,
        "screened": screened.digest,
        "kernels": list(screened.kernels),
        "tunables": dict(screened.defaults),
    }


def of_plan(gated: Gated) -> Json:
    """What would be launched, workload by workload, and the names of the TTIR it is made of."""
    plans = json.loads(json.dumps([asdict(plan) for plan in gated.lowered.plans]))  # tuples are lists from here on
    return {
        "digest": gated.digest,
        "ttir": {name: {"characters": len(text)} for name, text in gated.lowered.modules.items()},
        "workloads": {plan.pop("workload"): plan for plan in plans},
    }


def of_build(built: Built, builder: Builder, *, assembly: bool) -> Json:
    """Of a would-be best the compiler's own words are kept too: what it became, for whoever asks in a year."""
    kernels = {}
    for (ttir, options), binary in built.binaries.items():
        kernels[binary.key] = {
            "kernel": binary.name,
            "ttir": ttir,
            "options": dict(options),
            "sass": binary.sass,
            "registers": binary.registers,
            "spills_bytes": binary.spills_bytes,
            "shared_bytes": binary.shared_bytes,
            "instructions": dict(binary.instructions),
            "log": binary.log[-LOG_TAIL:],
        }
        if assembly:
            kernels[binary.key] |= {kind: _assembly(binary, kind) for kind in ("ttgir", "ptx")}
    return {"kernels": kernels, "seconds": round(built.seconds, 3), "notes": list(builder.notes)}


def finite(value: Json) -> Json:
    """JSON has no infinity, and an error may well be infinite: such a number becomes its word."""
    if isinstance(value, Mapping):
        return {str(key): finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def _assembly(binary: Binary, kind: str) -> str | None:
    file = Path(binary.path) / f"kernel.{kind}"
    return nameless(file.read_text(encoding="utf-8", errors="replace")) if file.is_file() else None


def nameless(text: str) -> str:
    """Without the folder that the compiler happened to work in: it names a machine and its user, and a run is sent."""
    return STAGING.sub("", text)
