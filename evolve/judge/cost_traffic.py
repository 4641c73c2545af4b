"""What all blocks of a launch together ask of the L2 and of the memory, and how long that takes.

Resident programs that read the same are served together; what is read again is still in L2 as long as it fits there.
Contention for L2's slices is not modelled.
"""

from __future__ import annotations

from evolve.judge.constants import Constants
from evolve.judge.cost_work import KEPT, LOADS, STORES, Work
from evolve.judge.counts import ATOMIC, Counts, Move
from evolve.judge.stages import Target

# What resident programs ask for together comes out of L2 about once for two of them.
TOGETHER = 0.45


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
