"""What one launch does, as counted: products, moves of memory, iterations. Here stand the nouns; `counter` counts."""

from __future__ import annotations

from dataclasses import dataclass, field

ATOMIC = ("tt.atomic_rmw", "tt.atomic_cas", "tt.descriptor_reduce")


@dataclass(frozen=True, slots=True)
class Dot:
    """A tensor-core product in the code: its tile, and how often one program runs it on average."""

    m: int
    n: int
    k: int
    element: str
    precision: str
    times: float

    @property
    def flops(self) -> float:
        return 2.0 * self.m * self.n * self.k * self.times


@dataclass(frozen=True, slots=True)
class Move:
    """A load or store in the code: bytes of its tile, how often one program runs it, by how many programs of the
    resident wave different bytes are touched (1.0: by each its own), and which argument it goes to. Of one execution
    by one program: the bytes of the sectors that it moves, and of its contiguous runs."""

    op: str
    nbytes: int
    times: float
    distinct: float
    argument: int | None
    in_loop: bool
    sector_bytes: float = 0.0
    run_bytes: float = 0.0

    @property
    def moved_bytes(self) -> float:
        """What goes over the wires for one execution: whole sectors, without what masks leave out."""
        return self.sector_bytes or float(self.nbytes)


@dataclass(kw_only=True, slots=True)
class Counts:
    """Per program, as the mean over the launch, but `longest`: the program with most iterations over the mean."""

    programs: int
    dots: list[Dot] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    special: float = 0.0  # exp, log, ...: elements
    floating: float = 0.0  # other float operations: elements
    iterations: float = 0.0  # of the innermost loops that load
    longest: float = 1.0
    loops: int = 0  # innermost loops that load
    entered: float = 0.0  # how often a program enters one of them
    persistent: bool = False
    atomics: bool = False
    described: float = 0.0  # descriptors that a program makes for itself
    unknown: tuple[str, ...] = ()

    @property
    def flops(self) -> float:
        return sum(dot.flops for dot in self.dots)

    def bytes_of(self, *ops: str) -> float:
        return sum(move.nbytes * move.times for move in self.moves if move.op in ops)
