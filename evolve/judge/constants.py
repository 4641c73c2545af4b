"""The model's fitted constants, each with its meaning. `benchmarks/model/fit.py` fits them to measured kernels and
writes `data/model.json`; nobody sets one by hand.

A constant is either a part of a ceiling that real code reaches, or a time that no ceiling tells. Ceilings themselves
are the target's: measured ones where there is a calibration, else the data sheet's times `reached`.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, fields
from importlib.resources import files

FILE = "model.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Constants:
    """`FITTED` names those that the fit moves; the rest was measured by itself, with the data set's ceilings."""

    wgmma: float = 1.0  # of the tensor ceiling, what WGMMA reaches when nothing else holds it up
    mma: float = 0.62  # of the same, what HMMA does on a chip with WGMMA
    simt: float = 0.7  # of the float32 rate, what a product without tensor cores does
    serialized: float = 0.55  # of WGMMA, where the compiler could not keep it in flight
    issue_cycles: float = 2.0  # cycles between two instructions of a warp that is alone on its scheduler
    serial: float = 0.3  # part of a loop's other instructions that a block's product waits for
    dependent: float = 0.8  # the same where the second product needs the first one's exponentials
    latency_us: float = 0.7  # from the issue of a load until its bytes can be used
    sync_us: float = 0.05  # barriers of one turn of a loop, which only other blocks hide
    edge_us: float = 0.8  # start and end of a block, or of a tile of a persistent one
    l2: float = 1.0  # of the L2's ceiling, what programs that share panels get
    memory: float = 0.95  # of the memory's ceiling
    run_bytes: float = 16.0  # what each contiguous run costs the memory beside its own bytes
    atomic: float = 2.0  # bytes at the L2 for a byte that is added
    spilled: float = 12.0  # bytes of spilled registers a clock, where the L1 beside the shared memory is too small
    columns: float = 24.0  # of a WGMMA, what it costs beside its own columns: few columns are dear
    meeting: float = 1.5  # a turn's length over what it were, where groups of warps share the rows of a softmax
    units: float = 3.0  # norm in which units of one SM add up
    describe_us: float = 1.0  # of a program, for each descriptor that it makes for itself
    start_us: float = 1.0  # of a launch, beside what launching costs: first blocks start, last stores land
    overlap: float = 3.0  # norm in which what works at the same time adds up: 1 one after the other, infinity perfectly
    # Of the data sheet, what the best library code reached when the data set was measured.
    reached_tensor: float = 0.75
    reached_memory: float = 0.9
    reached_l2: float = 1.0


FITTED = (
    *("wgmma", "mma", "serialized", "issue_cycles", "serial", "dependent", "latency_us", "sync_us", "edge_us"),
    *("l2", "memory", "run_bytes", "atomic", "start_us", "overlap", "units", "spilled", "columns", "meeting"),
    "describe_us",
)


@functools.cache
def constants() -> Constants:
    """What ships with this version."""
    path = files("evolve") / "data" / FILE
    if not path.is_file():
        return Constants()
    known = {f.name for f in fields(Constants)}
    kept = json.loads(path.read_text(encoding="utf-8"))["constants"]
    return Constants(**{name: float(value) for name, value in kept.items() if name in known})
