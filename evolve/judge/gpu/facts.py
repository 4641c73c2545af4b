"""What a worker says of the device and of the baselines on it, and workloads as the messages carry them."""

from __future__ import annotations

import json
import os
import platform
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from evolve.judge.gpu import answers, ceilings
from evolve.judge.gpu.engine import Engine
from evolve.judge.gpu.memory import Memory
from evolve.judge.gpu.place import Placed
from evolve.problem import Baseline, Problem, Variant
from evolve.types import Workload

# What libraries and compilers raise that do not take a case.
REFUSALS = (RuntimeError, TypeError, ValueError, AttributeError, AssertionError, ImportError, OSError)
LOST = ("CUDA error", "illegal memory access")  # what leaves the context unusable


@dataclass(frozen=True, kw_only=True)
class Question:
    """Inputs and the right answer to them, the same for every baseline of a workload."""

    made: tuple[Any, ...]
    reference: tuple[torch.Tensor, ...]


def question_of(engine: Engine, problem: Problem, workload: Workload, random_seed: int) -> Question:
    made = problem.make_inputs(workload, engine.device, random_seed)
    return Question(made=made, reference=answers.reference_of(problem, workload, made))


def survey(
    engine: Engine,
    problem: Problem,
    baseline: Baseline,
    workload: Workload,
    variant: Variant,
    order: Mapping[str, Any],
    question: Callable[[], Question],
) -> dict[str, Any]:
    """Why a baseline cannot run on this workload, or its error and its time a call. What a library refuses (a dtype
    that this GPU does not have) is a reason, too; too little memory is one only where the order is `lenient`."""
    if baseline.compiles and not order.get("compiles"):
        return {"unavailable": "it compiles at its first call"}
    if why_not := baseline.unavailable(workload):
        return {"unavailable": why_not}
    timed = bool(order.get("timed"))
    try:
        return about(engine, problem, baseline, workload, variant, question(), timed=timed)
    except REFUSALS as error:
        if fatal(error) or ("out of memory" in str(error) and not order.get("lenient")):
            raise
        text = str(error) or type(error).__name__
        return {"unavailable": f"it fails on this workload: {text.strip().splitlines()[0][:300]}"}


def fatal(error: BaseException) -> bool:
    """Whether the context is lost with it."""
    return type(error).__name__ == "AcceleratorError" or any(word in str(error) for word in LOST)


def about(
    engine: Engine,
    problem: Problem,
    baseline: Baseline,
    workload: Workload,
    variant: Variant,
    question: Question,
    *,
    timed: bool,
) -> dict[str, Any]:
    """A baseline's error and its time a call."""
    memory = Memory(engine.device, engine.pages, random.Random(0))
    try:
        copies = Placed(memory, problem, workload, question.made).arguments
        outputs = answers.call(problem, workload, baseline, copies)
        # Held against the contract's ceiling, not the strict bound: what rounding adds up to over a long sum is no
        # library's fault (cuBLAS in fp32 at K = 14336: 2.1e-6 on an H200).
        found = answers.hold(
            problem,
            variant,
            workload,
            outputs or (),
            question.reference,
            question.made,
            family=answers.PLAIN,
            baseline=partial(tuple, outputs or ()),
        )
        us = ceilings.call_us(engine, baseline, copies) if timed else None
        nbytes = memory.nbytes + sum(o.nbytes for o in outputs or ())
        del copies, outputs
    finally:
        engine.synchronize()
        memory.free()
    return {"rows": [answers.to_json(f) for f in found], "us": us, "bytes": nbytes}


def workload_of(data: Mapping[str, Any]) -> Workload:
    return Workload(
        name=data["name"], params=data["params"], role=data["role"], mode=data["mode"], weight=data["weight"]
    )


def workload_to(workload: Workload) -> dict[str, Any]:
    return {
        "name": workload.name,
        "params": dict(workload.params),
        "role": workload.role,
        "mode": workload.mode,
        "weight": workload.weight,
    }


def free_bytes(engine: Engine) -> int | None:
    return int(torch.cuda.mem_get_info()[0]) if engine.device == "cuda" else None


def surroundings(engine: Engine) -> dict[str, Any]:
    """What a result has to name."""
    found: dict[str, Any] = {"pid": os.getpid(), "python": platform.python_version(), "torch": torch.__version__}
    if engine.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "device": properties.name,
            "capability": [properties.major, properties.minor],
            "sms": properties.multi_processor_count,
            "l2_bytes": int(properties.L2_cache_size),
            "memory_bytes": int(properties.total_memory),
            "free_bytes": free_bytes(engine),
            "cuda": torch.version.cuda,
            "uuid": f"GPU-{properties.uuid}" if hasattr(properties, "uuid") else None,
        }
    found["guards"] = Memory(engine.device, engine.pages, random.Random()).kind
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]
