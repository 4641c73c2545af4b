"""One launch with all that its time follows from, and what can be read off its machine code: warps, tensor path, depth.

Nothing is timed here; `cost` does that, from these facts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from evolve.judge.counter import count, view_of
from evolve.judge.counts import Counts, Dot
from evolve.judge.occupancy import Occupancy, occupancy
from evolve.judge.plan import Launch, Plan, Root
from evolve.judge.stages import Binary, Target
from evolve.judge.ttir import Function

LOADS = ("tt.load", "tt.descriptor_load", "tt.descriptor_gather")
STORES = ("tt.store", "tt.descriptor_store", "tt.descriptor_scatter")
DTYPE = {"bf16": "bfloat16", "f16": "float16", "f32": "tf32", "i8": "int8", "f64": "float64"}
LOADING = 4  # warps that warp specialization keeps for copies
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
    first: bool = True  # of its plan
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
        work = work_for(function, launch, binaries[number], target, roots, written)
        found.append(replace(work, first=number == 0))
        views = (view_of(function, launch, i) for i in range(len(function.arguments)))
        written |= {v.root for v in views if v is not None and v.root in roots and roots[v.root].kind != "input"}
    return found


def warps(work: Work) -> int:
    """Those that compute. Where they are specialized, four load and the rest compute, whatever the launch asked for."""
    started = max(1, work.binary.threads // 32)
    if work.binary.instructions.get("USETMAXREG") and started > LOADING:
        return started - LOADING
    return dict(work.launch.options).get("num_warps", 0) or started


def ahead(binary: Binary, launch: Launch) -> int:
    """How many iterations loads run ahead: stages less one where copies are asynchronous, none otherwise."""
    found = binary.instructions
    copies = found.get("LDGSTS", 0) + found.get("UTMALDG", 0) + found.get("UBLKCP", 0)
    return max(1, stages(launch) - 1) if copies else 0


def stages(launch: Launch) -> int:
    return dict(launch.options).get("num_stages", 3)


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
