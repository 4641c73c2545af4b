"""One block of a launch: what it keeps busy of its SM's units, and how long it takes by itself.

A turn of its loop takes what its product takes and a part of the other instructions, and no less than its loads need at
the depth of their pipeline. What all blocks together ask of L2 and memory is `cost_traffic`'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil

from evolve.judge.constants import Constants
from evolve.judge.cost_work import LOADS, STORES, Work, ahead, dtype_of, stages, tensor_path, warps
from evolve.judge.counts import Dot
from evolve.judge.stages import Binary, Target
from evolve.judge.targets import clock_ghz

SHARED_BYTES_A_CLOCK = 128.0
LOCAL_BYTES_A_CLOCK = 64.0
PORT_BYTES_A_CLOCK = 64.0  # from the L2, of one SM
L1_BYTES, L1_LEAST = 256 * 1024, 28 * 1024
SPECIAL_A_CLOCK = 16.0  # exp2 and its kin, of one SM
SCHEDULERS = 4


def norm(sides: Iterable[float], power: float) -> float:
    found = [side for side in sides if side > 0]
    most = max(found, default=0.0)
    return most * sum((side / most) ** power for side in found) ** (1 / power) if most else 0.0


def units_of(work: Work, target: Target, c: Constants) -> dict[str, float]:
    """Microseconds that one block keeps each unit of its SM busy."""
    counts, ghz = work.counts, clock_ghz(target)
    cycles = {
        "issue": sum(instructions(work)) * warps(work) / SCHEDULERS,
        "special": counts.special / SPECIAL_A_CLOCK,
        "shared": sum(_shared_bytes(dot, work) for dot in counts.dots) / SHARED_BYTES_A_CLOCK,
    }
    moved = sum(m.moved_bytes * m.times for m in counts.moves if m.op in (*LOADS, *STORES))
    cycles["port"] = moved / PORT_BYTES_A_CLOCK
    found = {name: value / ghz / 1e3 for name, value in cycles.items()}
    return found | {"tensor": sum(_dot_us(dot, work, target, c) for dot in counts.dots)}


def instructions(work: Work) -> tuple[float, float]:
    """Of one warp, in its loop's turns all together, and outside of them."""
    counts, found = work.counts, work.binary.instructions
    if not found.get("total"):  # nothing could be disassembled: about one instruction for an element and thread
        elements = (counts.floating + counts.special) / max(1, work.binary.threads)
        return (1.5 * elements + 30.0 * counts.iterations, 300.0)
    inner, loops = found.get("total@inner", found.get("total@loop", 0)), max(1, found.get("loops@inner", 1))
    if counts.iterations <= 0:
        return (0.0, float(found["total"]))
    inside = inner / loops / unrolled(work) * counts.iterations
    outside = (found["total"] - inner) * max(1.0, counts.entered / max(1, counts.loops))
    return (inside, float(outside))


def unrolled(work: Work) -> float:
    """How many turns of the source's loop one turn of the machine's does."""
    counts, found = work.counts, work.binary.instructions
    loops = max(1, found.get("loops@inner", 1))
    if counts.dots and found.get("mma@inner"):
        times = max(1.0, counts.iterations)
        expected = sum(_mma_instructions(dot, work) * dot.times / times for dot in counts.dots)
        return min(16.0, max(1.0, found["mma@inner"] / loops / expected)) if expected > 0 else 1.0
    moved = sum(m.nbytes * m.times for m in counts.moves if m.op in LOADS and m.in_loop) / max(1.0, counts.iterations)
    wide = {"128": 16, "64": 8, "32": 4, "U16": 2, "S16": 2, "16": 2, "U8": 1, "S8": 1, "8": 1}
    body = sum(found.get(f"{op}.{w}@loop", 0) * size for op in ("LDG", "LDGSTS") for w, size in wide.items())
    each = body * work.binary.threads / max(1, counts.loops)
    return min(16.0, max(1.0, each / moved)) if moved > 0 and each else 1.0


def _mma_instructions(dot: Dot, work: Work) -> float:
    """Of one warp, for one such product."""
    if tensor_path(work.binary) == "wgmma":
        k = {"f32": 8, "i8": 32}.get(dot.element, 32 if dot.element.startswith("f8") else 16)
        rows = max(1, dot.m // 64)
        groups = max(1, warps(work) // 4)
        return max(1.0, rows / groups) * ceil(dot.n / _columns(dot, work)) / max(1.0, groups / rows) * dot.k / k
    return dot.m * dot.n * dot.k / 2048.0 / warps(work)


def _columns(dot: Dot, work: Work) -> int:
    """Of one WGMMA: four warps take 64 rows; groups of four beyond what the rows give share the columns."""
    beyond = max(1, warps(work) // 4 // max(1, dot.m // 64))
    return max(8, min(256, dot.n // beyond))


def chain_us(work: Work, target: Target, c: Constants) -> float:
    """One block from start to end when it has its SM to itself."""
    counts = work.counts
    inside, outside = instructions(work)
    each_instruction = max(c.issue_cycles, warps(work) / SCHEDULERS) / clock_ghz(target) / 1e3
    begun = max(1.0, counts.entered)
    edges = begun * c.latency_us + c.edge_us * begun / max(1, counts.loops) + outside * each_instruction
    edges += counts.described * c.describe_us
    if counts.iterations <= 0:
        return edges + inside * each_instruction
    tensor = sum(_dot_us(dot, work, target, c) for dot in counts.dots)
    part = 1.0 if not counts.dots else c.dependent if counts.special and len(counts.dots) > 1 else c.serial
    turns = counts.iterations / (1.0 if counts.dots else unrolled(work))  # of the machine's loop
    turn = (tensor + part * inside * each_instruction) / turns + c.sync_us
    if counts.special and any(_shares_rows(dot, work) for dot in counts.dots):
        turn *= c.meeting
    return edges + turns * _waited(turn, work, c)


def _shares_rows(dot: Dot, work: Work) -> bool:
    """More groups of four warps than the tile has 64 rows: they meet at every maximum and sum of a row."""
    return tensor_path(work.binary) == "wgmma" and warps(work) // 4 > max(1, dot.m // 64)


def _waited(turn: float, work: Work, c: Constants) -> float:
    """A turn of the loop, not shorter than its loads take: those that run ahead share the latency."""
    depth = ahead(work.binary, work.launch)
    if not depth and not work.binary.instructions:  # no counts were to be had: assume that the stages took
        depth = max(1, stages(work.launch) - 1)
    if not depth:
        return turn + c.latency_us
    if work.counts.dots and work.binary.instructions.get("LDG@loop", 0) > 0:
        return turn + 0.6 * c.latency_us  # one operand comes synchronously
    return norm((turn, c.latency_us / depth), 4.0)


def spills_us(work: Work, target: Target, c: Constants) -> float:
    """Spilled registers go through L1, and what the shared memory leaves of it is small: of each iteration those in
    the loop, the rest once."""
    found, binary = work.binary.instructions, work.binary
    if not binary.spills_bytes:
        return 0.0
    inside = found.get("LDL@loop", 0) + found.get("STL@loop", 0)
    outside = found.get("LDL", 0) + found.get("STL", 0) - inside
    if not found:
        inside = binary.spills_bytes // 4
    moved = (inside * max(1.0, work.counts.iterations) + outside) * binary.threads * 4.0
    footprint = binary.spills_bytes * binary.threads * work.occupancy.blocks
    left = max(L1_LEAST, L1_BYTES - binary.shared_bytes * work.occupancy.blocks)
    rate = LOCAL_BYTES_A_CLOCK if footprint < left else c.spilled
    return moved / rate / clock_ghz(target) / 1e3


# --- Products ---------------------------------------------------------------------------------------------------------


def _dot_us(dot: Dot, work: Work, target: Target, c: Constants) -> float:
    rate = rate_of(dot, target, c) / target.sms * 1e6  # FLOP per microsecond
    fixed = 1 + c.columns / _columns(dot, work) if tensor_path(work.binary) == "wgmma" else 1.0
    return dot.flops / (rate * tensor_share(dot, work.binary, target, c)) * fixed


def rate_of(dot: Dot, target: Target, c: Constants) -> float:
    """TFLOP/s that the chip gives to such a product."""
    dtype = dtype_of(dot)
    rate = target.tflops.get(dtype, target.tflops["float32"])
    return rate if target.measured or dtype == "float32" else rate * c.reached_tensor


def tensor_share(dot: Dot, binary: Binary, target: Target, c: Constants) -> float:
    """What part of the tensor rate this code can reach, before anything stalls it."""
    path = tensor_path(binary)
    if path == "none":
        rate = rate_of(dot, target, c)
        return min(1.0, target.tflops["float32"] / rate) * c.simt
    if path == "wgmma":
        share = c.wgmma * (c.serialized if "serialized" in binary.log else 1.0)
    else:
        share = c.mma if target.backend == "cuda" and int(target.arch) >= 90 else 0.9
    if dot.precision in ("tf32x3", "bf16x3", "bf16x6"):
        share /= {"tf32x3": 3.0, "bf16x3": 1.5, "bf16x6": 3.0}[dot.precision]
    return share


def _shared_bytes(dot: Dot, work: Work) -> float:
    """What a tensor instruction reads from shared memory: WGMMA takes 64 rows a time and reads b again for each 64;
    warps of older instructions read their rows and columns each."""
    size = {"f32": 4, "f64": 8, "bf16": 2, "f16": 2}.get(dot.element, 1)
    if tensor_path(work.binary) == "wgmma":
        return dot.times * dot.k * size * (dot.m * ceil(dot.n / _columns(dot, work)) + dot.n * ceil(dot.m / 64))
    across = min(warps(work), max(1, dot.m // 16))
    return dot.times * dot.k * size * (dot.m * max(1.0, warps(work) / across) + dot.n * across)
