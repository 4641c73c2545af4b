"""Facts about the built kernels of one plan: where it falls in the grid of cells, and what explains its speed.

They come from the launch that costs most by the model, since a plan has one cell and its launches may differ. A trait
is read from machine code, TTIR and plan, never from the source's names; what cannot be read is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from evolve.judge.cost_work import Work, descriptors, tensor_path
from evolve.judge.form import form_of
from evolve.judge.model import work_of
from evolve.judge.plan import Plan
from evolve.judge.stages import Built, Target
from evolve.types import Scalar

KIB = 1024
FOOTPRINTS = ((32 * KIB, "tiny"), (96 * KIB, "small"), (164 * KIB, "medium"))
COUNTED = "HGMMA QGMMA IGMMA HMMA IMMA FFMA MUFU LDGSTS UTMALDG UTMASTG LDG STG LDSM LDL STL BAR USETMAXREG total MFMA"
# A grid of a few times the SM count that does more tiles than it has programs.
MOST_ROUNDS = 4


def traits(plan: Plan, built: Built, target: Target) -> dict[str, Scalar]:
    works = work_of(plan, built, target)
    if not works:
        return {"launches": 0}
    work = max(works, key=lambda w: w.time_us)
    binary, fits, counts = work.binary, work.occupancy, work.counts
    found: dict[str, Scalar] = {
        "tensor_path": path_of(work),
        "structure": structure(plan, works, target),
        "form": form_of(plan, built),
        "footprint": footprint(binary.shared_bytes),
        "target": target.name,
        "kernel": binary.name,
        "launches": len(works),
        "registers": binary.registers,
        "spills_bytes": binary.spills_bytes,
        "shared_bytes": binary.shared_bytes,
        "threads": binary.threads,
        "num_stages": dict(work.launch.options).get("num_stages", 0),
        "programs": counts.programs,
        "blocks_per_sm": fits.blocks,
        "occupancy": round(fits.fraction, 4),
        "limited_by": fits.limit,
        "waves": round(counts.programs / (fits.blocks * target.sms), 3),
        "tile": "x".join(map(str, _tile(work))),
        "async_copies": bool(binary.instructions.get("LDGSTS") or binary.instructions.get("UTMALDG")),
        "synchronous_loads_in_loop": binary.instructions.get("LDG@loop", 0),
        "wgmma_serialized": "serialized" in binary.log,
    }
    found |= {f"n_{op}": binary.instructions[op] for op in COUNTED.split() if op in binary.instructions}
    return found


def path_of(work: Work) -> str:
    path = tensor_path(work.binary)
    return f"{path}+descriptors" if path != "none" and descriptors(work.binary) else path


def footprint(shared_bytes: int) -> str:
    return next((name for limit, name in FOOTPRINTS if shared_bytes < limit), "large")


def structure(plan: Plan, works: list[Work], target: Target) -> str:
    """How the work is laid over programs. Split: parts of one sum meet in memory, by atomics or through scratch."""
    if any(_splits(work) for work in works) or _meets_in_scratch(plan):
        return "split"
    costliest = max(works, key=lambda w: w.time_us)
    if costliest.counts.persistent or _does_many_tiles(plan, costliest, target):
        return "persistent"
    return "several" if len(works) > 1 else "plain"


def _splits(work: Work) -> bool:
    """Atomics that add up tiles, not those that hand out tickets or keep a scalar."""
    return any("atomic" in m.op or "reduce" in m.op for m in work.counts.moves if m.nbytes > 64)


def _meets_in_scratch(plan: Plan) -> bool:
    """Two launches, and a scratch with room for the output at least twice over."""
    given = sum(prod(view.shape) for view in plan.outputs)
    scratch = [root.nbytes for root in plan.roots if root.kind == "scratch"]
    return len(plan.launches) > 1 and given > 0 and any(nbytes >= 2 * 4 * given for nbytes in scratch)


def _does_many_tiles(plan: Plan, work: Work, target: Target) -> bool:
    """A flattened persistent loop shows no tile loop; it shows in storing more tiles than there are programs."""
    programs = work.counts.programs
    if programs % target.sms or programs > MOST_ROUNDS * target.sms:
        return False
    stored = [m.nbytes for m in work.counts.moves if m.op in ("tt.store", "tt.descriptor_store") and m.in_loop]
    written = sum(root.nbytes for root in plan.roots if root.kind == "output")
    return bool(stored) and written > max(stored) * programs


def _tile(work: Work) -> tuple[int, ...]:
    """The product's tile where there is one, else the bytes' largest."""
    if work.counts.dots:
        dot = max(work.counts.dots, key=lambda d: d.flops)
        return (dot.m, dot.n, dot.k)
    return (max((m.nbytes for m in work.counts.moves), default=0),)


def changed(found: Mapping[str, Scalar], parent: Mapping[str, Scalar]) -> list[str]:
    """Names of traits that differ from the parent's."""
    return [name for name in found if name in parent and found[name] != parent[name]]
