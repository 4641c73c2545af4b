"""The first cost model: what a launch plan would take on a chip, from counts and ceilings, without running anything.

    counts     of the TTIR with the launch's own arguments (counts.py): FLOPs, bytes, iterations, panels shared
    ceilings   of the target: tensor rate by instruction, L2, memory, shared memory, float32 units
    structure  how many blocks share an SM, how the last wave fills, how far loads run ahead, what spills cost

A handful of constants stand below with where they come from; none was fitted to more than the peers' table it is
compared with in `benchmarks/model_sanity.py`. It is for ordering and for advice: a modelled time is always called so
and never ranked beside a measured one. Not modelled: bank conflicts, clocks under power, contention for L2 slices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import ceil, isfinite
from pathlib import Path
from typing import Literal, TypeAlias

from evolve.judge.advice import advise
from evolve.judge.counts import ATOMIC, Counts, Dot, count, view_of
from evolve.judge.occupancy import Occupancy, occupancy
from evolve.judge.plan import Launch, Plan, Root
from evolve.judge.share import ALL, Share, share_of
from evolve.judge.stages import Binary, Built, Target
from evolve.judge.targets import clock_ghz, lanes
from evolve.judge.ttir import Function, parse
from evolve.problem import Problem
from evolve.types import Json, Workload

Bound: TypeAlias = Literal["compute", "memory", "latency", "launch"]

# Long matmuls run at 700-800 of the 989 TFLOP/s of the data sheet: power lowers the clock (cuBLAS, H200).
SUSTAINED = 0.84
# What older instructions reach of the rate: HMMA on Hopper feeds its tensor cores from registers.
MMA_ON_WGMMA_CHIP = 0.62
MMA = 0.88
WGMMA = 0.97
DESCRIPTORS = 1.03  # no address arithmetic and no predicates in the loop: +3 to +13 % measured by others
MEMORY_REACHED = 0.90  # of the data sheet's bandwidth, by the best streaming kernels (4383 of 4800 GB/s, H200)
LOAD_US = 0.9  # from the issue of a load until a block can use it, L2 and memory mixed
ITERATION_US = 0.08  # barriers and bookkeeping of one iteration that nothing hides within a block
PROLOGUE_US = 1.2  # a block's start, its first loads, its last stores
SERIALIZED = 0.55  # ptxas could not keep WGMMA in flight
# What SMs ask for together comes out of L2 once for several: 128×128 tiles at 4096³ take 10 TB/s from an L2 of 6.5.
COALESCED = 0.45
SHARED_BYTES_A_CLOCK = 128.0
LOCAL_BYTES_A_CLOCK = 128.0
SPECIAL_A_CLOCK = 16.0  # exp2 and its kin, of one SM
OVERLAP = 4.0  # norm in which resources that work at the same time add up; infinity would be perfect overlap
LOADS = ("tt.load", "tt.descriptor_load", "tt.descriptor_gather")
STORES = ("tt.store", "tt.descriptor_store")
DTYPE = {"bf16": "bfloat16", "f16": "float16", "f32": "tf32", "i8": "int8", "f64": "float64"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """A modelled time and what it is made of. `terms` are microseconds over all launches; they overlap, so they do
    not add up to the time."""

    time_us: float
    bound: Bound
    roofline: float  # the ideal time over this one, between 0 and 1
    terms: Mapping[str, float]
    advice: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    launches_us: tuple[float, ...] = ()
    share: Share = ALL

    def evidence(self) -> Json:
        return {
            "modelled": True,
            "time_us": round(self.time_us, 3),
            "bound": self.bound,
            "roofline": round(self.roofline, 4),
            "share_of_the_work": {"part": round(self.share.part, 4), "of": self.share.what},
            "terms_us": {name: round(value, 3) for name, value in self.terms.items()},
            "advice": list(self.advice),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """One launch with all that its time follows from."""

    launch: Launch
    binary: Binary
    counts: Counts
    occupancy: Occupancy
    written_bytes: float  # what it can store at most once over
    terms: dict[str, float] = field(default_factory=dict)
    time_us: float = 0.0


def predict(plan: Plan, built: Built, target: Target, workload: Workload, problem: Problem) -> Prediction:
    works = work_of(plan, built, target)
    terms: dict[str, float] = {}
    for work in works:
        for name, value in work.terms.items():
            terms[name] = terms.get(name, 0.0) + value
    memsets = [root for root in plan.roots if root.zeroed]
    cleared = sum(target.launch_us + _seconds_of(r.nbytes, target.memory_gbs * MEMORY_REACHED) for r in memsets)
    terms["launch"] = terms.get("launch", 0.0) + cleared
    share = share_of(plan, [work.counts for work in works], workload, problem)
    notes = tuple(dict.fromkeys(note for work in works for note in work.counts.unknown))
    time_us = sum(work.time_us for work in works) + cleared
    if notes and share.part < 1:  # what could not be counted is not for free
        time_us /= max(share.part, 1e-3)
    ideal = ideal_us(target, workload, problem, works)
    time_us = max(time_us, ideal, target.launch_us)
    costliest = max(works, key=lambda w: w.time_us, default=None)
    bound = _bound(terms)
    return Prediction(
        time_us=time_us,
        bound=bound,
        roofline=min(1.0, ideal / time_us),
        terms=terms,
        advice=advise(bound, costliest.counts, costliest.binary, costliest.occupancy, target) if costliest else (),
        notes=notes,
        share=share,
        launches_us=tuple(work.time_us for work in works),
    )


def ideal_us(target: Target, workload: Workload, problem: Problem, works: list[Work]) -> float:
    """The roofline: compulsory bytes at full bandwidth or FLOPs at full rate, whichever takes longer."""
    flops = problem.flops(workload) if problem.flops else sum(w.counts.flops * w.counts.programs for w in works)
    dots = [dot for work in works for dot in work.counts.dots]
    rate = max(
        (target.tflops.get(dtype_of(d), target.tflops["float32"]) for d in dots), default=target.tflops["float32"]
    )
    ideal = max(flops / rate / 1e6, _seconds_of(problem.bytes_moved(workload), target.memory_gbs))
    return ideal if isfinite(ideal) and ideal > 0 else 1e-3


def work_of(plan: Plan, built: Built, target: Target) -> list[Work]:
    """Each launch of the plan, counted and timed."""
    roots = {root.name: root for root in plan.roots}
    works = []
    for launch in plan.launches:
        binary = built.of(launch)
        function = module_of(binary)
        fits = occupancy(binary, target)
        counts = count(function, launch, resident=fits.blocks * target.sms)
        work = Work(
            launch=launch,
            binary=binary,
            counts=counts,
            occupancy=fits,
            written_bytes=_writable(function, launch, roots),
        )
        works.append(_timed(work, target, roots, function))
    return works


def module_of(binary: Binary) -> Function:
    path = Path(binary.path) / "kernel.ttir"
    return parse(path.read_text(encoding="utf-8") if path.is_file() else "")


def _timed(work: Work, target: Target, roots: Mapping[str, Root], function: Function) -> Work:
    counts, fits = work.counts, work.occupancy
    busy_us = _block_us(work, target)
    busiest = ceil(counts.programs / target.sms)  # blocks of the SM that gets most
    together = min(busiest, fits.blocks)
    throughput = busiest * busy_us * (1 + (counts.longest - 1) / busiest)
    compute = throughput + _spill_us(work, target) * busiest
    latency = ceil(busiest / fits.blocks) * _chain_us(work, busy_us, target) * _even(counts.longest, busiest)
    stored = min(counts.bytes_of(*STORES) * counts.programs, work.written_bytes)
    stored += 2 * counts.bytes_of(*ATOMIC) * counts.programs  # read, added to, written
    l2 = _seconds_of(_asked(counts) + stored, target.l2_gbs)
    memory = _seconds_of(_fetched(work, target, roots, function) + stored, target.memory_gbs * MEMORY_REACHED)
    # A block's chain holds its own computing, so of these two the longer counts; traffic overlaps with either.
    overlapped = sum(side**OVERLAP for side in (max(compute, latency), l2, memory)) ** (1 / OVERLAP)
    # Nothing else hides the start and the end of the only, or the last, round of blocks.
    edges = PROLOGUE_US * (1.0 if together <= 1 else 0.6)
    terms = {
        "compute": compute,
        "l2": l2,
        "memory": memory,
        "latency": max(0.0, latency - compute) + edges,
        "launch": target.launch_us,
        "spills": _spill_us(work, target) * busiest,
    }
    return replace(work, terms=terms, time_us=target.launch_us + edges + overlapped)


def _even(longest: float, busiest: int) -> float:
    """Uneven programs: the longest delays the end, the less the more programs follow each other on an SM."""
    return 1 + (longest - 1) / max(1, busiest)


def _block_us(work: Work, target: Target) -> float:
    """How long one block keeps its SM's units busy, all latency hidden."""
    counts, ghz = work.counts, clock_ghz(target)
    tensor = sum(_dot_us(dot, work, target) for dot in counts.dots)
    shared = sum(_dot_shared_bytes(dot, work.binary) for dot in counts.dots) / SHARED_BYTES_A_CLOCK / ghz / 1e3
    units = (counts.floating / lanes(target) + counts.special / SPECIAL_A_CLOCK) / ghz / 1e3
    # A warp group computes or does arithmetic; two or more overlap the one with the other in part.
    return max(tensor, shared) + units * (0.5 if work.occupancy.warps >= 8 else 0.8)


def _dot_us(dot: Dot, work: Work, target: Target) -> float:
    rate = target.tflops.get(dtype_of(dot), target.tflops["float32"]) / target.sms * 1e6  # FLOP per microsecond
    return dot.flops / (rate * SUSTAINED * tensor_share(dot, work.binary, work.occupancy, target))


def tensor_share(dot: Dot, binary: Binary, fits: Occupancy, target: Target) -> float:
    """What part of the tensor rate this code can reach, before anything stalls it."""
    path = tensor_path(binary)
    if path == "none":
        rate = target.tflops.get(dtype_of(dot), target.tflops["float32"])
        return min(1.0, target.tflops["float32"] / rate) * 0.7
    if path == "wgmma":
        share = WGMMA * (SERIALIZED if "serialized" in binary.log else 1.0)
        share *= DESCRIPTORS if descriptors(binary) else 1.0
    else:
        share = MMA_ON_WGMMA_CHIP if target.backend == "cuda" and int(target.arch) >= 90 else MMA
    if dot.precision in ("tf32x3", "bf16x3", "bf16x6"):
        share /= {"tf32x3": 3.0, "bf16x3": 1.5, "bf16x6": 3.0}[dot.precision]
    groups = max(fits.warps / 4, 0.25)  # four warps feed the tensor cores of an SM; more hide each other's waits
    return min(1.0, share * groups / (groups + 0.12))


def tensor_path(binary: Binary) -> str:
    found = binary.instructions
    if any(found.get(op) for op in ("HGMMA", "QGMMA", "IGMMA", "BGMMA", "UTCHMMA", "UTCQMMA", "UTCIMMA", "UTCOMMA")):
        return "wgmma"
    return "mma" if any(found.get(op) for op in ("HMMA", "IMMA", "QMMA", "DMMA", "MFMA")) else "none"


def descriptors(binary: Binary) -> bool:
    return bool(binary.instructions.get("UTMALDG"))


def dtype_of(dot: Dot) -> str:
    if dot.element == "f32" and dot.precision == "ieee":
        return "float32"
    if dot.element == "f32" and dot.precision.startswith("bf16"):
        return "bfloat16"
    return DTYPE.get(dot.element, "float8" if dot.element.startswith("f8") else "float32")


def _dot_shared_bytes(dot: Dot, binary: Binary) -> float:
    """What a tensor instruction reads from shared memory: WGMMA takes 64 rows a time and reads b again for each 64;
    warps of older instructions read their rows and columns each."""
    size = {"f32": 4, "f64": 8, "bf16": 2, "f16": 2}.get(dot.element, 1)
    warps = max(1, binary.threads // 32)
    if tensor_path(binary) == "wgmma":
        rows = ceil(dot.m / 64)
        return dot.times * dot.k * size * (dot.m * ceil(dot.n / 256) + dot.n * rows)
    across = min(warps, max(1, dot.m // 16))
    return dot.times * dot.k * size * (dot.m * max(1.0, warps / across) + dot.n * across) * 0.75


def ahead(binary: Binary, launch: Launch) -> int:
    """How many iterations loads run ahead: stages less one where copies are asynchronous, none otherwise."""
    found = binary.instructions
    copies = found.get("LDGSTS", 0) + found.get("UTMALDG", 0) + found.get("UBLKCP", 0)
    stages = dict(launch.options).get("num_stages", 3)
    return max(1, stages - 1) if copies else 0


def _chain_us(work: Work, busy_us: float, target: Target) -> float:
    """One block from start to end when it has its SM to itself: its iterations, each no shorter than its loads take."""
    iterations = work.counts.iterations
    if iterations <= 0:
        return busy_us + LOAD_US
    each = busy_us / iterations
    depth = ahead(work.binary, work.launch)
    if depth == 0 and not work.binary.instructions:  # no counts were to be had: assume that the stages took
        depth = max(1, dict(work.launch.options).get("num_stages", 3) - 1)
    waits = LOAD_US / depth if depth else LOAD_US + each
    if depth and work.binary.instructions.get("LDG@loop", 0) > 0 and work.counts.dots:
        waits = max(waits, 0.6 * LOAD_US + each)  # one operand comes synchronously
    return iterations * (max(each, waits) + ITERATION_US)


def _spill_us(work: Work, target: Target) -> float:
    """Spilled registers go through L1: of each iteration those in the loop, the rest once."""
    found, binary = work.binary.instructions, work.binary
    if not binary.spills_bytes:
        return 0.0
    inside = found.get("LDL@loop", 0) + found.get("STL@loop", 0)
    outside = found.get("LDL", 0) + found.get("STL", 0) - inside
    if not found:
        inside = binary.spills_bytes // 4
    moved = (inside * max(1.0, work.counts.iterations) + outside) * binary.threads * 8.0
    return moved / LOCAL_BYTES_A_CLOCK / clock_ghz(target) / 1e3


def _asked(counts: Counts) -> float:
    """Bytes that L2 gives out: of what resident programs share, it serves several with one read."""
    each = (m.nbytes * m.times * (m.distinct + COALESCED * (1 - m.distinct)) for m in counts.moves if m.op in LOADS)
    return sum(each) * counts.programs


def _fetched(work: Work, target: Target, roots: Mapping[str, Root], function: Function) -> float:
    """Bytes that come from memory: what the programs of each resident round do not share, and at least each tensor
    once. Where all of it fits, L2 keeps it from round to round."""
    counts = work.counts
    rounds = max(1.0, counts.programs / max(1, work.occupancy.blocks * target.sms))
    resident = counts.programs / rounds
    total = 0.0
    for move in counts.moves:
        if move.op not in LOADS:
            continue
        view = view_of(function, work.launch, move.argument) if move.argument is not None else None
        size = (
            float(roots[view.root].nbytes)
            if view and view.root in roots
            else move.nbytes * move.times * counts.programs
        )
        touched = move.nbytes * move.times * resident * move.distinct
        again = touched * rounds
        once = min(again, size)
        # What is kept of a tensor between two rounds falls off as the tensor outgrows L2.
        kept = min(1.0, 0.6 * target.l2_bytes / max(size, 1.0))
        total += once + (1 - kept) * max(0.0, min(again, size * rounds) - once)
    return total


def _writable(function: Function, launch: Launch, roots: Mapping[str, Root]) -> float:
    names = {v.root for i in range(len(function.arguments)) if (v := view_of(function, launch, i)) is not None}
    return float(sum(roots[n].nbytes for n in names if n in roots and roots[n].kind != "input")) or float("inf")


def _bound(terms: Mapping[str, float]) -> Bound:
    memory = max(terms.get("memory", 0.0), terms.get("l2", 0.0))
    sides: dict[Bound, float] = {
        "compute": terms.get("compute", 0.0),
        "memory": memory,
        "latency": terms.get("latency", 0.0),
        "launch": terms.get("launch", 0.0),
    }
    return max(sides, key=lambda side: sides[side])


def _seconds_of(nbytes: float, gbs: float) -> float:
    """Microseconds for so many bytes."""
    return nbytes / gbs / 1e3
