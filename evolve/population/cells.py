"""Islands and cells over OpenEvolve's `ProgramDatabase`: the live index from which parents are drawn.

OpenEvolve keeps islands, cells and archive, and chooses the parent. What must be exact is kept here, because its own
way of it is not: which candidate owns a cell (its bins drift, and a lowered score changes nothing there), who was there
before (it deletes whoever loses a cell), migration (uuids), and order (it iterates over sets of str). Each cell
remembers its best few: the first owns it, the others are drawn in exploration and step up if a confirmation lowers the
first. Whoever would not be among them never enters, so that step 100,000 costs what step 1,000 did.

It deliberately knows no event, no verdict and no journal: `population.py` decides who may enter.
"""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableSet
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from openevolve.config import DatabaseConfig
from openevolve.database import Program, ProgramDatabase

from evolve.errors import ConfigError
from evolve.types import Scalar

DEPTH = 8  # candidates that a cell remembers, its owner among them
UNKNOWN = "unknown"  # the label of a trait that the problem's axes do not name


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """How parents and inspirations are chosen. Names and defaults are OpenEvolve's, for people who know them."""

    population_size: int = 1000
    archive_size: int = 100
    exploration_ratio: float = 0.2  # a parent from anywhere on the island
    exploitation_ratio: float = 0.7  # a parent from the archive of cell owners; what is left of 1 goes by score
    elite_selection_ratio: float = 0.1  # at least this share of the inspirations goes by score
    num_top_programs: int = 1  # inspirations by score
    num_diverse_programs: int = 2  # inspirations from any other cell
    migration_interval: int = 50  # in turns of each island, which is islands × this in steps
    migration_rate: float = 0.1
    failures: int = 3  # of a parent's failed children, the latest

    def __post_init__(self) -> None:
        if not 1 <= self.population_size <= 1000:
            raise ConfigError(
                f"database.population_size is {self.population_size}; expected 1 to 1000. It says how many can be "
                "drawn from; the journal keeps every candidate anyway."
            )
        if self.exploration_ratio + self.exploitation_ratio > 1 + 1e-9:
            raise ConfigError(
                f"database.exploration_ratio {self.exploration_ratio} and exploitation_ratio {self.exploitation_ratio} "
                "are more than 1 together; lower one of them."
            )


class Entry(NamedTuple):
    """A candidate as the index knows it."""

    id: str
    score: float
    step: int
    home: int  # the island it was made for; from there alone it migrates


class Ordered(MutableSet[str]):
    """A set that iterates in the order of arrival. Python's does so by hash, which differs from process to process."""

    def __init__(self, items: Iterable[str] = ()) -> None:
        self._items = dict.fromkeys(items)

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def add(self, value: str) -> None:
        self._items[value] = None

    def discard(self, value: str) -> None:
        self._items.pop(value, None)


class Cells:
    """`shorter(one, other)` compares two candidates' sources; it is called only where scores are equal."""

    def __init__(
        self,
        axes: Mapping[str, tuple[str, ...]],
        islands: int,
        selection: Selection,
        shorter: Callable[[str, str], bool],
    ) -> None:
        self.db = database(axes, islands, selection)
        self.islands = islands
        self.selection = selection
        self._axes = {name: tuple(labels) for name, labels in axes.items()}
        self._shorter = shorter
        self._benches: dict[tuple[int, str], list[Entry]] = {}  # (island, cell) -> best first, at most DEPTH
        self._where: dict[str, dict[int, str]] = {}  # candidate -> island -> cell
        self._benched: list[tuple[float, int, str, int]] = []  # everyone without a cell, lowest first
        self._metrics: dict[str, dict[str, float]] = {}  # cell -> what tells OpenEvolve to put someone there

    def key(self, traits: Mapping[str, Scalar]) -> str:
        """The cell's name, as OpenEvolve will compute it. A trait without a known label has a bin of its own: were it
        missing, OpenEvolve would raise after having stored the program."""
        bins, metrics = [], {}
        for name, labels in self._axes.items():
            value = str(traits.get(name, UNKNOWN))
            at = labels.index(value) if value in labels else len(labels)
            bins.append(str(at))
            metrics[name] = (at + 0.5) / (len(labels) + 1)
        key = "-".join(bins)
        self._metrics.setdefault(key, metrics)
        return key

    def labels(self, key: str) -> tuple[str, ...]:
        bins = [int(b) for b in key.split("-")] if key else []
        return tuple((*names, UNKNOWN)[b] for names, b in zip(self._axes.values(), bins, strict=True))

    def __len__(self) -> int:
        """Live candidates; one that lives on several islands counts once."""
        return len(self._where)

    def inhabited(self, island: int) -> bool:
        return bool(self.db.islands[island])

    def where(self, name: str) -> tuple[int, ...]:
        """The islands on which a candidate lives."""
        return tuple(self._where.get(name, ()))

    def owners(self) -> Iterator[tuple[int, str, Entry]]:
        return ((island, key, bench[0]) for (island, key), bench in self._benches.items())

    # --- Who lives here -------------------------------------------------------------------------------------------

    def enter(self, entry: Entry, island: int, key: str) -> None:
        bench = self._benches.setdefault((island, key), [])
        if len(bench) == DEPTH and entry.score < bench[-1].score:
            return
        at = self._rank(bench, entry)
        full = len(self.db.programs) >= self.selection.population_size
        if at == DEPTH or (at > 0 and full and self._benched and _place(entry, island) < self._benched[0]):
            return
        bench.insert(at, entry)
        self._where.setdefault(entry.id, {})[island] = key
        if at > 0:
            self._bench(entry, island, key)
        elif len(bench) > 1:
            self._forget(bench[1], island, key)
            self._seat(entry, island, key)
            self._bench(bench[1], island, key)
        else:
            self._seat(entry, island, key)
        if len(bench) > DEPTH:
            self.leave(bench[-1].id, island)
        while len(self.db.programs) > self.selection.population_size:
            self.leave(*self._least())

    def leave(self, name: str, island: int) -> None:
        key = self._where[name].pop(island)
        if not self._where[name]:
            del self._where[name]
        bench = self._benches[island, key]
        at = next(i for i, entry in enumerate(bench) if entry.id == name)
        self._forget(bench.pop(at), island, key)
        if not bench:
            del self._benches[island, key]
        elif at == 0:
            self._forget(bench[0], island, key)
            self._seat(bench[0], island, key)

    def _rank(self, bench: list[Entry], entry: Entry) -> int:
        """Its place: by score, then the shorter source, then who came first."""
        for at, other in enumerate(bench):
            if entry.score > other.score or (entry.score == other.score and self._shorter(entry.id, other.id)):
                return at
        return len(bench)

    def _least(self) -> tuple[str, int]:
        """Who has to go when the population is full: the lowest without a cell, then the lowest owner."""
        _, _, name, island = self._benched[0] if self._benched else min(_place(e, i) for i, _, e in self.owners())
        return name, island

    def migrate(self) -> None:
        """The top of each island visits its two neighbours. Decided for all before anyone moves, and in order."""
        natives: list[list[tuple[Entry, str]]] = [[] for _ in range(self.islands)]
        for (island, key), bench in self._benches.items():
            natives[island] += [(entry, key) for entry in bench if entry.home == island]
        for island, living in enumerate(natives):
            living.sort(key=lambda pair: (-pair[0].score, pair[0].step))
            share = max(1, int(len(self.db.islands[island]) * self.selection.migration_rate))
            neighbours = dict.fromkeys(((island + 1) % self.islands, (island - 1) % self.islands))
            for entry, key in living[:share]:
                for target in neighbours:
                    if target not in self._where.get(entry.id, {target: ""}):
                        self.enter(entry, target, key)

    # --- Whom to draw ---------------------------------------------------------------------------------------------

    def parent(self, island: int, rng: random.Random) -> tuple[str, int] | None:
        """A candidate and the island it was found on: this one, or the next that anyone lives on."""
        at = next((i for i in self._ring(island) if self.inhabited(i)), None)
        if at is None:
            return None
        with _as_global(rng):
            # Without inspirations: OpenEvolve's way to them recomputes the cell of everyone on the island.
            program, _ = self.db.sample_from_island(at, num_inspirations=0)
        name, _, home = program.id.rpartition("@")
        return name, int(home)

    def inspire(self, parent: str, island: int, rng: random.Random) -> list[str]:
        """Owners of other cells: the best of them first, then any. From the parent's island as long as it has some,
        so that islands stay what they are, then from the others."""
        own = self._where[parent][island]
        wanted = self.selection.num_top_programs + self.selection.num_diverse_programs
        by_score = max(self.selection.num_top_programs, int(wanted * self.selection.elite_selection_ratio))
        chosen: list[str] = []
        for at in self._ring(island):
            cells = self.db.island_feature_maps[at]
            others = [self._benches[at, key][0] for key in cells if key != own]
            others = [e for e in others if e.id != parent and e.id not in chosen]
            others.sort(key=lambda e: (-e.score, e.step))
            top = max(0, min(by_score, wanted) - len(chosen))
            chosen += [e.id for e in others[:top]]
            rest = others[top:]
            chosen += [e.id for e in rng.sample(rest, min(len(rest), wanted - len(chosen)))]
            if len(chosen) >= wanted:
                break
        return chosen

    def _ring(self, island: int) -> Iterator[int]:
        return ((island + i) % self.islands for i in range(self.islands))

    # --- The database follows the benches -------------------------------------------------------------------------

    def _seat(self, entry: Entry, island: int, key: str) -> None:
        """Make it the owner. Its cell is empty, so OpenEvolve gives it the cell, its place in the archive and, if it
        is, the title of the island's best."""
        self.db.add(self._program(entry, island, key), iteration=entry.step, target_island=island)

    def _bench(self, entry: Entry, island: int, key: str) -> None:
        """Alive on its island without a cell, and out of the archive: that is for owners, so that exploitation means
        what it says also while there are fewer candidates than places."""
        program = self._program(entry, island, key)
        self.db.programs[program.id] = program
        self.db.islands[island].add(program.id)
        insort(self._benched, _place(entry, island))

    def _program(self, entry: Entry, island: int, key: str) -> Any:
        metrics = {"combined_score": entry.score, **self._metrics[key]}
        name = f"{entry.id}@{island}"
        return Program(id=name, code="", metrics=metrics, metadata={"island": island}, timestamp=float(entry.step))

    def _forget(self, entry: Entry, island: int, key: str) -> None:
        """OpenEvolve removes nothing on request; these are all the places where it keeps a name."""
        db, program = self.db, f"{entry.id}@{island}"
        db.programs.pop(program, None)
        db.islands[island].discard(program)
        db.archive.discard(program)
        if db.island_feature_maps[island].get(key) == program:
            del db.island_feature_maps[island][key]
        else:
            del self._benched[bisect_left(self._benched, _place(entry, island))]
        if db.island_best_programs[island] == program:
            db.island_best_programs[island] = self._highest(db.island_feature_maps[island].values())
        if db.best_program_id == program:
            db.best_program_id = self._highest(p for p in db.island_best_programs if p)

    def _highest(self, names: Iterable[str]) -> str | None:
        programs = self.db.programs
        return max(names, key=lambda n: programs[n].metrics["combined_score"], default=None)


def _place(entry: Entry, island: int) -> tuple[float, int, str, int]:
    return entry.score, -entry.step, entry.id, island


def database(axes: Mapping[str, tuple[str, ...]], islands: int, selection: Selection) -> Any:
    """A ProgramDatabase that repeats: bounds and bins are fixed, its sets are ordered, and it seeds nothing."""
    config = DatabaseConfig(
        db_path=None,
        log_prompts=False,
        population_size=selection.population_size + 2,  # so that who goes is decided here, before it would decide
        archive_size=selection.archive_size,
        num_islands=islands,
        elite_selection_ratio=selection.elite_selection_ratio,
        exploration_ratio=selection.exploration_ratio,
        exploitation_ratio=selection.exploitation_ratio,
        feature_dimensions=list(axes),
        # One bin a label and one for the unknown. As a dict, because a number is raised to archive_size**(1/axes).
        feature_bins={name: len(labels) + 1 for name, labels in axes.items()},
        migration_interval=selection.migration_interval,
        migration_rate=selection.migration_rate,
        random_seed=None,  # or it would reseed the global generator of whoever uses us
    )
    db = ProgramDatabase(config)
    db.feature_stats = {name: {"min": 0.0, "max": 1.0, "values": []} for name in axes}
    db.islands = [Ordered() for _ in range(islands)]
    db.archive = Ordered()
    return db


@contextmanager
def _as_global(rng: random.Random) -> Iterator[None]:
    """OpenEvolve draws from the `random` module: lend it our generator, and leave the module as it was."""
    kept = random.getstate()
    random.setstate(rng.getstate())
    try:
        yield
        rng.setstate(random.getstate())
    finally:
        random.setstate(kept)
