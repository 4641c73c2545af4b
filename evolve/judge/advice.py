"""Sentences about speed that follow from a built kernel's facts: the cliffs that a Triton kernel falls off on its chip.

Each is recognised by what the machine code holds, never by the source. The two most telling go with a prediction, all
that apply into feedback. Where a count is missing (no disassembler), nothing is said.
"""

from __future__ import annotations

from collections.abc import Mapping

from evolve.judge.counts import Counts
from evolve.judge.occupancy import Occupancy
from evolve.judge.stages import Binary, Target

MOST = 2


def advise(bound: str, counts: Counts, binary: Binary, fits: Occupancy, target: Target) -> tuple[str, ...]:
    """The changes that would help most, the cliffs first."""
    tile = max(((d.m, d.n) for d in counts.dots), default=(0, 0))
    found = cliffs(
        instructions=binary.instructions,
        spills_bytes=binary.spills_bytes,
        threads=binary.threads,
        tile=tile,
        serialized="serialized" in binary.log,
        wgmma_chip=target.name == "sm_90",
    )
    return (*found, *_shape(bound, counts, fits, target))[:MOST]


def cliffs(
    *,
    instructions: Mapping[str, int],
    spills_bytes: int,
    threads: int,
    tile: tuple[int, int] = (0, 0),
    serialized: bool = False,
    wgmma_chip: bool = True,
) -> list[str]:
    """What is broken rather than merely slow. `tile` is the product's (rows, columns), zeros if unknown."""
    found = []
    rows, columns = tile
    if spills_bytes >= 64:
        warps = threads // 32
        fits = f"{warps * 2} warps for {rows}×{columns}" if rows and warps <= 4 else "a smaller tile, or less unrolling"
        found.append(f"{spills_bytes} B of spills a thread: {fits}.")
    if serialized:
        found.append("The tensor instructions are serialized for want of registers: smaller tiles or more warps.")
    if not instructions:
        return found
    copies = instructions.get("LDGSTS", 0) + instructions.get("UTMALDG", 0)
    tensor = sum(instructions.get(op, 0) for op in ("HGMMA", "QGMMA", "IGMMA", "HMMA", "IMMA", "QMMA"))
    instead = ", or tensor descriptors" if wgmma_chip else ""  # elsewhere they become plain pointers
    if tensor and not copies:
        found.append(
            "No copy is asynchronous: nothing is known to be divisible by 16, or the loop is not pipelined. Use sizes "
            f"and strides that are, num_stages of 3 or more{instead}."
        )
    elif tensor and copies and instructions.get("LDG@loop", 0) > 0:
        found.append(
            "One operand is loaded synchronously: K is not known to be divisible by the tile, or an index wraps with "
            f"%. Use an EVEN_K constexpr, plain masks instead of %{instead}."
        )
    if wgmma_chip and instructions.get("HMMA", 0) and not instructions.get("HGMMA", 0):
        why = "BLOCK_M is under 64" if 0 < rows < 64 else "BLOCK_M under 64, under 4 warps, or an operand in float32"
        found.append(f"No WGMMA, only HMMA at about 60 % of the rate: {why}.")
    return found


def _shape(bound: str, counts: Counts, fits: Occupancy, target: Target) -> list[str]:
    """What the grid and the tile leave undone."""
    found = []
    full = target.sms * fits.blocks
    if counts.programs < 0.6 * target.sms:
        found.append(f"{counts.programs} programs for {target.sms} SMs: smaller tiles, or split the reduction.")
    elif full < counts.programs < 4 * full and 0 < (waves := counts.programs / full) % 1 < 0.5:
        found.append(f"{waves:.2f} waves: the last leaves most of the chip idle; other tiles, or a persistent grid.")
    if bound == "latency":
        found.append(f"Waiting for loads: more stages, or more blocks an SM ({fits.blocks} now, limit: {fits.limit}).")
    elif bound == "memory" and counts.dots:
        found.append("Bound by memory traffic: larger tiles, grouped program order, fewer passes over the data.")
    elif bound == "memory":
        found.append(
            "Bound by memory traffic: read and write everything once, in wide accesses; fuse what comes after."
        )
    elif bound == "launch":
        found.append("Bound by launching: fewer launches and memsets.")
    elif counts.dots and max(d.m * d.n for d in counts.dots) < 128 * 128:
        found.append("Bound by the tensor cores' feeding: a larger tile does more arithmetic for each byte it loads.")
    return found
