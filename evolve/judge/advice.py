"""What would make a built kernel faster: each change is tried in the model, and the two that save most are told.

The cliffs that a Triton kernel falls off on its chip are recognised by what the machine code holds, never by the
source; where a count is missing (no disassembler), nothing is said. What a change saves is the model's word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from evolve.judge.constants import constants
from evolve.judge.cost import timed
from evolve.judge.cost_work import LOADS, Work, ahead
from evolve.judge.occupancy import occupancy
from evolve.judge.stages import Binary, Target

MOST = 2
WORTH = 0.03  # of the time; less is below the model's own error


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    sentence: str
    saves: float  # part of the whole time

    @property
    def told(self) -> str:
        return f"{self.sentence} (About {self.saves:.0%} of the modelled time.)"


def would_help(works: Sequence[Work], target: Target, time_us: float, cleared_us: float = 0.0) -> tuple[Change, ...]:
    """The changes that would save most, of the costliest launch and of how many launches there are."""
    if not works or time_us <= 0:
        return ()
    work = max(works, key=lambda w: w.time_us)
    found = [Change(sentence=s, saves=(work.time_us - us) / time_us) for s, us in _tried(work, target)]
    # Another launch's products have to be done wherever they are; what only moves data could be fused.
    others = [w for w in works if w is not work]
    extra = cleared_us + sum(w.terms.get("launch", 0.0) if w.counts.dots else w.time_us for w in others)
    if others or cleared_us:
        sentence = "Fewer launches and memsets: all but the costliest could go."
        found.append(Change(sentence=sentence, saves=extra / time_us))
    worth = [change for change in found if change.saves >= WORTH]
    return tuple(sorted(worth, key=lambda change: -change.saves)[:MOST])


def _tried(work: Work, target: Target) -> Iterator[tuple[str, float]]:
    """Sentences, and what the launch would take."""
    yield from _mended(work, target)
    yield from _laid_out(work, target)
    yield from _lighter(work, target)


def _mended(work: Work, target: Target) -> Iterator[tuple[str, float]]:
    """Each cliff, and the time without it."""
    binary, c = work.binary, constants()
    found = dict(binary.instructions)
    for kind, sentence in _cliffs(work, target).items():
        changed, other = binary, c
        if kind == "spills":
            changed = replace(binary, spills_bytes=0)
        elif kind == "serialized":
            changed = replace(binary, log="")
        elif kind == "synchronous":
            changed = replace(binary, instructions={**found, "LDG@loop": 0, "LDGSTS": found.get("LDGSTS", 0) or 1})
        else:
            other = replace(c, mma=c.wgmma)
        yield sentence, timed(replace(work, binary=changed), target, other).time_us


def _cliffs(work: Work, target: Target) -> Mapping[str, str]:
    return cliffs(
        instructions=work.binary.instructions,
        spills_bytes=work.binary.spills_bytes,
        threads=work.binary.threads,
        tile=max(((d.m, d.n) for d in work.counts.dots), default=(0, 0)),
        serialized="serialized" in work.binary.log,
        wgmma_chip=target.name == "sm_90",
    )


def _laid_out(work: Work, target: Target) -> Iterator[tuple[str, float]]:
    """Programs over SMs, blocks on an SM, loads ahead of their use."""
    counts, fits = work.counts, work.occupancy
    full = target.sms * fits.blocks
    if counts.programs < 0.6 * target.sms and counts.iterations >= 8:
        parts = int(min(counts.iterations // 4, max(2, target.sms // counts.programs)))
        sentence = f"{counts.programs} programs for {target.sms} SMs: smaller tiles, or split the reduction."
        yield sentence, timed(_split(work, parts), target).time_us + target.launch_us
    elif full < counts.programs < 4 * full and 0 < (waves := counts.programs / full) % 1 < 0.5:
        even = replace(work, counts=replace(counts, programs=int(waves) * full))
        sentence = f"{waves:.2f} waves: the last leaves most of the chip idle; other tiles, or a persistent grid."
        yield sentence, timed(even, target).time_us * waves / int(waves)  # the same work, spread evenly
    if (deeper := _deeper(work, target)) is not None:
        how = f"more stages, or more blocks an SM ({fits.blocks} now, limit: {fits.limit})"
        yield f"Waiting for loads: {how}.", timed(deeper, target).time_us
    one = replace(work, occupancy=replace(fits, blocks=fits.blocks + 1))
    if counts.programs > full:
        blocks = "One block" if fits.blocks == 1 else f"{fits.blocks} blocks"
        sentence = f"{blocks} an SM, limited by {fits.limit}: with one more, they hide each other's waits."
        yield sentence, timed(one, target).time_us


def _split(work: Work, parts: int) -> Work:
    """The loop's work over so many more programs."""
    counts = work.counts
    moves = [replace(m, times=m.times / parts) if m.in_loop else m for m in counts.moves]
    dots = [replace(d, times=d.times / parts) for d in counts.dots]
    fewer = replace(
        counts, programs=counts.programs * parts, moves=moves, dots=dots, iterations=counts.iterations / parts
    )
    return replace(work, counts=fewer, written_bytes=work.written_bytes * parts)


def _deeper(work: Work, target: Target) -> Work | None:
    """With two more stages, if they fit."""
    stages = dict(work.launch.options).get("num_stages", 3)
    if work.counts.iterations <= stages or not ahead(work.binary, work.launch):
        return None
    shared = work.binary.shared_bytes * (stages + 2) // max(1, stages)
    if shared > target.shared_bytes:
        return None
    binary: Binary = replace(work.binary, shared_bytes=shared)
    options = tuple((k, stages + 2 if k == "num_stages" else v) for k, v in work.launch.options)
    launch = replace(work.launch, options=options)
    return replace(work, binary=binary, launch=launch, occupancy=occupancy(binary, target))


def _lighter(work: Work, target: Target) -> Iterator[tuple[str, float]]:
    """Less of what the units do."""
    counts = work.counts
    half = [replace(m, times=m.times / 2) if m.op in LOADS and m.in_loop else m for m in counts.moves]
    less = timed(replace(work, counts=replace(counts, moves=half)), target).time_us
    if counts.dots:
        yield "Bound by memory traffic: larger tiles, grouped program order, fewer passes over the data.", less
    else:
        sentence = "Bound by memory traffic: read and write everything once, in wide accesses; fuse what comes after."
        yield sentence, less
    found = {
        name: value // 2 if name in ("total", "total@loop", "total@inner") else value
        for name, value in work.binary.instructions.items()
    }
    if found:
        sentence = (
            "Bound by issuing instructions: no masks and no address arithmetic in the loop, descriptors, wider "
            "accesses, exp2 with the scale folded in."
        )
        yield sentence, timed(replace(work, binary=replace(work.binary, instructions=found)), target).time_us
    if counts.special:
        sentence = "Bound by exponentials, 16 a clock and SM: fewer of them, or other blocks' products meanwhile."
        yield sentence, timed(replace(work, counts=replace(counts, special=counts.special / 2)), target).time_us


def cliffs(
    *,
    instructions: Mapping[str, int],
    spills_bytes: int,
    threads: int,
    tile: tuple[int, int] = (0, 0),
    serialized: bool = False,
    wgmma_chip: bool = True,
) -> dict[str, str]:
    """What is broken rather than merely slow, by kind. `tile` is the product's (rows, columns), zeros if unknown."""
    found: dict[str, str] = {}
    rows, columns = tile
    if spills_bytes >= 64:
        warps = threads // 32
        fits = f"{warps * 2} warps for {rows}×{columns}" if rows and warps <= 4 else "a smaller tile, or less unrolling"
        found["spills"] = f"{spills_bytes} B of spills a thread: {fits}."
    if serialized:
        found["serialized"] = (
            "The tensor instructions are serialized for want of registers: smaller tiles or more warps."
        )
    if not instructions:
        return found
    copies = instructions.get("LDGSTS", 0) + instructions.get("UTMALDG", 0)
    tensor = sum(instructions.get(op, 0) for op in ("HGMMA", "QGMMA", "IGMMA", "HMMA", "IMMA", "QMMA"))
    instead = ", or tensor descriptors" if wgmma_chip else ""  # elsewhere they become plain pointers
    if tensor and not copies:
        found["synchronous"] = (
            "No copy is asynchronous: nothing is known to be divisible by 16, or the loop is not pipelined. Use sizes "
            f"and strides that are, num_stages of 3 or more{instead}."
        )
    elif tensor and copies and instructions.get("LDG@loop", 0) > 0:
        found["synchronous"] = (
            "One operand is loaded synchronously: K is not known to be divisible by the tile, or an index wraps with "
            f"%. Use an EVEN_K constexpr, plain masks instead of %{instead}."
        )
    if wgmma_chip and instructions.get("HMMA", 0) and not instructions.get("HGMMA", 0):
        why = "BLOCK_M is under 64" if 0 < rows < 64 else "BLOCK_M under 64, under 4 warps, or an operand in float32"
        found["hmma"] = f"No WGMMA, only HMMA at about 60 % of the rate: {why}."
    return found
