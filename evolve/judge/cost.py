"""One launch's time from what it does: counts (counts.py), ceilings (targets.py), and how it is laid over the chip.

    a block keeps its SM's units busy       tensor cores, instruction issue, exponentials, shared memory
    a block alone takes its chain           turns of its loop, none shorter than its loads or its own dependencies take
    blocks share an SM in rounds            a round is as long as its busiest unit or one chain; the last is not full
    all launch together asks L2 and memory  of which resident programs that read the same are served at once

A unit that waits for another overlaps with it only in part: `overlap` says how much. Not modelled: bank conflicts,
which clock the power allows a kernel, contention for L2 slices, the order in which uneven programs start.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import ceil

from evolve.judge.constants import Constants, constants
from evolve.judge.counts import ATOMIC, Counts, Dot, Move, count, view_of
from evolve.judge.occupancy import Occupancy, occupancy
from evolve.judge.plan import Launch, Plan, Root
from evolve.judge.stages import Binary, Target
from evolve.judge.targets import clock_ghz
from evolve.judge.ttir import Function

LOADS = ("tt.load", "tt.descriptor_load", "tt.descriptor_gather")
STORES = ("tt.store", "tt.descriptor_store", "tt.descriptor_scatter")
DTYPE = {"bf16": "bfloat16", "f16": "float16", "f32": "tf32", "i8": "int8", "f64": "float64"}
SHARED_BYTES_A_CLOCK = 128.0
LOCAL_BYTES_A_CLOCK = 64.0
L1_BYTES, L1_LEAST = 256 * 1024, 28 * 1024
SPECIAL_A_CLOCK = 16.0  # exp2 and its kin, of one SM
SCHEDULERS = 4
# What resident programs ask for together comes out of L2 about once for two of them.
TOGETHER = 0.45
KEPT = 0.6  # of the L2, for what an earlier round of programs has read


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """One launch with all that its time follows from."""

    launch: Launch
    binary: Binary
    counts: Counts
    occupancy: Occupancy
    written_bytes: float  # what it can store at most once over
    sizes: tuple[float, ...]  # of the storage behind each of `counts.moves`, infinite where unknown
    warm: frozenset[int] = frozenset()  # of `counts.moves`, those that read what an earlier launch left in L2
    terms: Mapping[str, float] = field(default_factory=dict)
    time_us: float = 0.0


def work_for(
    function: Function,
    launch: Launch,
    binary: Binary,
    target: Target,
    roots: Mapping[str, Root],
    written: frozenset[str] = frozenset(),
) -> Work:
    """Counted, not timed yet. `written`: roots that earlier launches of the plan have filled."""
    fits = occupancy(binary, target)
    counts = count(function, launch, resident=fits.blocks * target.sms)
    views = [view_of(function, launch, m.argument) if m.argument is not None else None for m in counts.moves]
    sizes = tuple(float(roots[v.root].nbytes) if v and v.root in roots else float("inf") for v in views)
    names = {v.root for i in range(len(function.arguments)) if (v := view_of(function, launch, i)) is not None}
    room = float(sum(roots[n].nbytes for n in names if n in roots and roots[n].kind != "input")) or float("inf")
    warm = frozenset(
        n for n, v in enumerate(views) if v and v.root in written and roots[v.root].nbytes < KEPT * target.l2_bytes
    )
    return Work(launch=launch, binary=binary, counts=counts, occupancy=fits, written_bytes=room, sizes=sizes, warm=warm)


def works_for(
    plan: Plan, modules: Mapping[str, Function], binaries: Mapping[int, Binary], target: Target
) -> list[Work]:
    """A plan's launches in order, each knowing what those before it have written. `binaries` by place of the launch."""
    roots = {root.name: root for root in plan.roots}
    written = frozenset(root.name for root in plan.roots if root.zeroed)
    found = []
    for number, launch in enumerate(plan.launches):
        function = modules[launch.ttir]
        found.append(work_for(function, launch, binaries[number], target, roots, written))
        views = (view_of(function, launch, i) for i in range(len(function.arguments)))
        written |= {v.root for v in views if v is not None and v.root in roots and roots[v.root].kind != "input"}
    return found


def timed(work: Work, target: Target, c: Constants | None = None) -> Work:
    c = c or constants()
    units, chain = units_of(work, target, c), chain_us(work, target, c)
    busiest = ceil(work.counts.programs / target.sms)  # blocks of the SM that gets most
    together = max(1, min(busiest, work.occupancy.blocks))
    rounds, rest = divmod(busiest, together)
    compute = rounds * _round(units, chain, together, c) + (_round(units, chain, rest, c) if rest else 0.0)
    compute *= 1 + (work.counts.longest - 1) / max(1, busiest)
    spills = spills_us(work, target, c) * busiest
    l2, memory = traffic_us(work, target, c)
    time_us = target.launch_us + c.start_us + norm((compute + spills, l2, memory), c.overlap)
    busy = {name: value * busiest for name, value in units.items()}
    waiting = max(0.0, compute - max(busy.values(), default=0.0))
    terms = {
        "compute": max(busy["tensor"], busy["shared"]),
        "issue": busy["issue"],
        "special": busy["special"],
        "l2": l2,
        "memory": memory,
        "latency": waiting,
        "launch": target.launch_us + c.start_us,
        "spills": spills,
    }
    return replace(work, terms=terms, time_us=time_us)


def norm(sides: Iterable[float], power: float) -> float:
    found = [side for side in sides if side > 0]
    most = max(found, default=0.0)
    return most * sum((side / most) ** power for side in found) ** (1 / power) if most else 0.0


def _round(units: Mapping[str, float], chain: float, blocks: int, c: Constants) -> float:
    """So many blocks on one SM: one alone takes its chain, several also what they take of its units together."""
    busy = norm((value * blocks for value in units.values()), c.units)
    return max(chain, busy) if blocks == 1 else norm((chain, busy), c.overlap)


# --- One block --------------------------------------------------------------------------------------------------------


def units_of(work: Work, target: Target, c: Constants) -> dict[str, float]:
    """Microseconds that one block keeps each unit of its SM busy."""
    counts, ghz = work.counts, clock_ghz(target)
    cycles = {
        "issue": sum(instructions(work)) * warps(work) / SCHEDULERS,
        "special": counts.special / SPECIAL_A_CLOCK,
        "shared": sum(_shared_bytes(dot, work) for dot in counts.dots) / SHARED_BYTES_A_CLOCK,
    }
    found = {name: value / ghz / 1e3 for name, value in cycles.items()}
    return found | {"tensor": sum(_dot_us(dot, work, target, c) for dot in counts.dots)}


def warps(work: Work) -> int:
    """Those that compute: warp specialization adds others that only load."""
    return dict(work.launch.options).get("num_warps", 0) or max(1, work.binary.threads // 32)


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
        depth = max(1, _stages(work.launch) - 1)
    if not depth:
        return turn + c.latency_us
    if work.counts.dots and work.binary.instructions.get("LDG@loop", 0) > 0:
        return turn + 0.6 * c.latency_us  # one operand comes synchronously
    return norm((turn, c.latency_us / depth), 4.0)


def ahead(binary: Binary, launch: Launch) -> int:
    """How many iterations loads run ahead: stages less one where copies are asynchronous, none otherwise."""
    found = binary.instructions
    copies = found.get("LDGSTS", 0) + found.get("UTMALDG", 0) + found.get("UBLKCP", 0)
    return max(1, _stages(launch) - 1) if copies else 0


def _stages(launch: Launch) -> int:
    return dict(launch.options).get("num_stages", 3)


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


def _shared_bytes(dot: Dot, work: Work) -> float:
    """What a tensor instruction reads from shared memory: WGMMA takes 64 rows a time and reads b again for each 64;
    warps of older instructions read their rows and columns each."""
    size = {"f32": 4, "f64": 8, "bf16": 2, "f16": 2}.get(dot.element, 1)
    if tensor_path(work.binary) == "wgmma":
        return dot.times * dot.k * size * (dot.m * ceil(dot.n / _columns(dot, work)) + dot.n * ceil(dot.m / 64))
    across = min(warps(work), max(1, dot.m // 16))
    return dot.times * dot.k * size * (dot.m * max(1.0, warps(work) / across) + dot.n * across)


# --- All blocks together ----------------------------------------------------------------------------------------------


def traffic_us(work: Work, target: Target, c: Constants) -> tuple[float, float]:
    """At the L2 and at the memory."""
    counts = work.counts
    stored = min(_bytes(counts, STORES) * counts.programs, work.written_bytes)
    added = _bytes(counts, ATOMIC) * counts.programs
    l2_gbs = target.l2_gbs * c.l2 * (1.0 if target.measured else c.reached_l2)
    memory_gbs = target.memory_gbs * c.memory * (1.0 if target.measured else c.reached_memory)
    asked = sum(m.moved_bytes * m.times * (m.distinct + TOGETHER * (1 - m.distinct)) for m in _loads(counts))
    l2 = us_for(asked * counts.programs + stored + c.atomic * added, l2_gbs)
    fetched = _fetched(work, target, c)
    return l2, us_for(fetched + stored + min(added, work.written_bytes), memory_gbs)


def _loads(counts: Counts) -> list[Move]:
    return [m for m in counts.moves if m.op in LOADS]


def _bytes(counts: Counts, ops: tuple[str, ...]) -> float:
    return sum(m.moved_bytes * m.times for m in counts.moves if m.op in ops)


def _fetched(work: Work, target: Target, c: Constants) -> float:
    """Bytes that come from memory. What a program reads again (a second pass over its row, the keys in a second loop)
    is still in L2 as long as what all resident programs read fits there."""
    counts = work.counts
    by_argument: dict[int | None, list[float]] = {}
    own: dict[int | None, float] = {}
    for number, (move, size) in enumerate(zip(counts.moves, work.sizes, strict=True)):
        if move.op in LOADS and number not in work.warm:
            by_argument.setdefault(move.argument, []).append(_once(work, move, size, target, c))
            own[move.argument] = max(own.get(move.argument, 0.0), move.moved_bytes * move.times * move.distinct)
    resident = min(counts.programs, work.occupancy.blocks * target.sms)
    kept = sum(own.values()) * resident < KEPT * target.l2_bytes
    return sum(max(found) if kept or argument is None else sum(found) for argument, found in by_argument.items())


def _once(work: Work, move: Move, size: float, target: Target, c: Constants) -> float:
    """For one load: what the programs of each resident round do not share, and at least the tensor once. Where all of
    it fits, L2 keeps it from round to round; short runs cost their gaps."""
    programs = work.counts.programs
    rounds = max(1.0, programs / max(1, work.occupancy.blocks * target.sms))
    size = min(size, move.moved_bytes * move.times * programs)
    again = move.moved_bytes * move.times * programs * move.distinct
    once = min(again, size)
    # What is kept of a tensor between two rounds falls off as the tensor outgrows L2.
    kept = min(1.0, KEPT * target.l2_bytes / max(size, 1.0))
    total = once + (1 - kept) * max(0.0, min(again, size * rounds) - once)
    return total * (1 + c.run_bytes / move.run_bytes if move.run_bytes else 1.0)


def us_for(nbytes: float, gbs: float) -> float:
    return nbytes / gbs / 1e3
