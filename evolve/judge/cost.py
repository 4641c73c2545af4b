"""One launch's time from what it does: counts (counter.py), ceilings (targets.py), and how it is laid over the chip.

    a block keeps its SM's units busy       tensor cores, instruction issue, exponentials, shared memory
    a block alone takes its chain           turns of its loop, none shorter than its loads or its own dependencies take
    blocks share an SM in rounds            a round is as long as its busiest unit or one chain; the last is not full
    all launch together asks L2 and memory  of which resident programs that read the same are served at once

A unit that waits for another overlaps with it only in part: `overlap` says how much. Not modelled: bank conflicts,
which clock the power allows a kernel, contention for L2 slices, the order in which uneven programs start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import ceil

from evolve.judge.constants import Constants, constants
from evolve.judge.cost_block import chain_us, norm, spills_us, units_of
from evolve.judge.cost_traffic import traffic_us
from evolve.judge.cost_work import Work, ahead
from evolve.judge.stages import Target


def timed(work: Work, target: Target, c: Constants | None = None) -> Work:
    c = c or constants()
    units, chain = units_of(work, target, c), chain_us(work, target, c)
    busiest = ceil(work.counts.programs / target.sms)  # blocks of the SM that gets most
    together = max(1, min(busiest, work.occupancy.blocks))
    rounds, rest = divmod(busiest, together)
    spills = spills_us(work, target, c)
    l2, memory = traffic_us(work, target, c)
    compute = time_us = 0.0
    for blocks, count in ((together, rounds), *(((rest, 1),) if rest else ())):
        part = blocks / busiest
        own = _round(units, chain, blocks, c) * (1 + (work.counts.longest - 1) / max(1, busiest)) + spills * blocks
        compute += count * own
        time_us += count * norm((own, max(l2, memory) * part), overlap(work, blocks, c))
    begun = target.launch_us + (c.start_us if work.first else 0.0)
    time_us += begun
    busy = {name: value * busiest for name, value in units.items()}
    waiting = max(0.0, compute - spills * busiest - max(busy.values(), default=0.0))
    terms = {
        "compute": max(busy["tensor"], busy["shared"]),
        "issue": busy["issue"],
        "special": busy["special"],
        "l2": max(l2, busy["port"]),
        "memory": memory,
        "latency": waiting,
        "launch": begun,
        "spills": spills * busiest,
    }
    return replace(work, terms=terms, time_us=time_us)


def overlap(work: Work, blocks: int, c: Constants) -> float:
    """The norm in which an SM's own work and what it asks of L2 and memory add up: one block that waits for its loads
    before it computes does one after the other; others beside it, and loads that run ahead, fill the gaps."""
    streams = blocks * (1 + ahead(work.binary, work.launch))
    return 1 + c.overlap * (1 - 1 / (1 + streams))


def _round(units: Mapping[str, float], chain: float, blocks: int, c: Constants) -> float:
    """So many blocks on one SM: one alone takes its chain, several also what they take of its units together."""
    busy = norm((value * blocks for value in units.values()), c.units)
    return max(chain, busy) if blocks == 1 else norm((chain, busy), c.overlap)
