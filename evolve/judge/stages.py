"""What the judge's stages hand to each other, and how one of them ends the way of a candidate.

A stage is a plain function that returns what the next one needs or raises `Ruling`. Only `pipeline.py` catches it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from evolve.judge.plan import Launch, Lowered, Plan
from evolve.types import NOTHING, Job, Json, Measurement, Scalar, Verdict, Workload, digest_of


class Ruling(Exception):
    """A verdict other than PASSED. `feedback` is read by whoever writes the next candidate: what, where, what to do."""

    def __init__(
        self,
        verdict: Verdict,
        feedback: str,
        *,
        stage: str,
        evidence: Mapping[str, Json] = NOTHING,
        errors: Mapping[str, float] = NOTHING,
    ) -> None:
        super().__init__(feedback)
        self.verdict = verdict
        self.feedback = feedback
        self.stage = stage
        self.evidence = evidence
        self.errors = errors


@dataclass(frozen=True, kw_only=True, slots=True)
class Screened:
    """A source that passed the screen. `source` is `ast.unparse` of the screened tree: only this goes on, never the
    file's bytes, so that an encoding trick has nowhere to hide."""

    source: str
    digest: str  # of the tree, so that comments and layout do not count
    entry: str
    kernels: tuple[str, ...]
    defaults: Mapping[str, Scalar]  # the entry's keyword-only parameters, without NUM_SMS
    tune: Mapping[str, tuple[Scalar, ...]]
    reserved: tuple[str, ...] = ()  # ("NUM_SMS",) where the entry takes it
    tuned: tuple[tuple[Mapping[str, Scalar], Mapping[str, Scalar]], ...] = ()  # sizes, and what was chosen for them


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One thing to lower: a workload at a choice of the tunables."""

    workload: Workload
    parameters: Mapping[str, Scalar]


@dataclass(frozen=True, kw_only=True, slots=True)
class Gated:
    """Plans that were held against the schema and TTIR that was held against the allow-list. `digest` names the whole
    behaviour (TTIR, grid, scalars, options, scratch, `TUNE`); `certificate` lists every operation that may round."""

    lowered: Lowered
    digest: str
    certificate: Json


@dataclass(frozen=True, kw_only=True, slots=True)
class Binary:
    """One built kernel: where its files lie in the builder's own cache, and what they cost on the chip."""

    key: str  # digest of TTIR text, options, target, triton version
    path: str  # folder of the trusted cache: cubin, metadata, launcher
    name: str
    sass: str  # digest of the machine code without addresses and symbol names; of the AMDGPU text for gfx
    registers: int
    spills_bytes: int
    shared_bytes: int
    threads: int
    instructions: Mapping[str, int]  # counts of telling opcodes: HGMMA, HMMA, LDGSTS, UTMALDG, LDL, STL, ...
    log: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """Every distinct kernel of the plans, by (ttir digest, options) of the launch."""

    binaries: Mapping[tuple[str, tuple[tuple[str, int], ...]], Binary]
    seconds: float = 0.0

    def of(self, launch: Launch) -> Binary:
        return self.binaries[(launch.ttir, launch.options)]

    def digest(self, plans: tuple[Plan, ...]) -> str:
        rows = [(p.workload, p.parameters, [(self.of(x).sass, x.grid, x.options) for x in p.launches]) for p in plans]
        return digest_of(repr(sorted(rows, key=repr)))


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A candidate that is built, with all that the device needs to check and time it."""

    job: Job
    screened: Screened
    gated: Gated
    built: Built
    parameters: Mapping[str, Mapping[str, Scalar]]  # by workload
    tuning: Mapping[str, Json] = field(default_factory=dict)  # the tuner's evidence, if one was at work
    promise: float = 1.0  # its time over its parent's, both by the model: whoever promises most gets the GPU first


@dataclass(frozen=True, kw_only=True)
class Checked:
    errors: Mapping[str, float]
    evidence: Mapping[str, Json]


@dataclass(frozen=True, kw_only=True)
class Timed:
    measurements: tuple[Measurement, ...]
    beats_incumbent: bool
    feedback: str = ""
    traits: Mapping[str, Scalar] = field(default_factory=dict)
    evidence: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A chip to build for. Ceilings are the data sheet's until calibration replaces them by measured ones."""

    name: str  # "sm_90"
    device: str  # "NVIDIA H200"
    backend: str  # "cuda" or "hip"
    arch: int | str
    warp_size: int
    sms: int
    shared_bytes: int  # most that one block may take
    registers: int  # of one SM
    threads: int  # most resident on one SM
    blocks: int  # most resident on one SM
    l2_bytes: int
    memory_gbs: float
    l2_gbs: float
    tflops: Mapping[str, float]  # dense tensor rate by operand dtype; "float32" is the CUDA cores' rate
    launch_us: float
    judged: bool = True  # False: builds here, and no candidate was ever run on one
    measured: bool = False  # the ceilings are a calibration's, not the data sheet's
