"""How many blocks of a built kernel one SM holds at once, and what keeps it from more. Arithmetic, nothing measured."""

from __future__ import annotations

from dataclasses import dataclass

from evolve.judge.stages import Binary, Target
from evolve.judge.targets import RESERVED_SHARED_BYTES, shared_of_sm

REGISTER_UNIT = 256  # registers are handed to a warp in units of eight a thread
SHARED_UNIT = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Occupancy:
    blocks: int  # at least 1: what was built is taken to run
    warps: int
    fraction: float  # of the warps that an SM can hold
    limit: str  # "registers", "shared memory", "threads", "blocks"


def occupancy(binary: Binary, target: Target) -> Occupancy:
    warps = max(1, -(-binary.threads // target.warp_size))
    each = -(-max(1, binary.registers) * target.warp_size // REGISTER_UNIT) * REGISTER_UNIT
    reserved = RESERVED_SHARED_BYTES if target.backend == "cuda" else 0
    shared = -(-(binary.shared_bytes + reserved) // SHARED_UNIT) * SHARED_UNIT
    room = {
        "registers": target.registers // (each * warps),
        "shared memory": shared_of_sm(target) // shared if shared else target.blocks,
        "threads": target.threads // (warps * target.warp_size),
        "blocks": target.blocks,
    }
    limit = min(room, key=lambda name: room[name])
    blocks = max(1, room[limit])
    held = blocks * warps
    return Occupancy(
        blocks=blocks, warps=held, fraction=min(1.0, held * target.warp_size / target.threads), limit=limit
    )
