"""Who is asked next, and for which kind of edit: by fixed weights, or by what has paid off lately.

`Fixed` holds to the YAML. `Adaptive` is a discounted Thompson bandit over member × edit kind, in two stages: a member
by what its candidates gained, then a kind by what that member gained with it, so that a new pair is judged by its
member until it has a record of its own. It learns from every step at the moment of its verdict and from nothing else,
so replaying the events restores it exactly.

What it deliberately leaves out: how large a gain was. The first 50 % and the last 2 % of a search are both what one
asks for, and a bandit that counts size chases whoever was lucky first.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

Kinds: TypeAlias = Mapping[str, float]

# Of two members with 20 % and 5 % success, 200 simulated councils gave the better one 83 % of the asks after 100 steps,
# and 83 % again 100 steps after the two had swapped; a longer memory finds it no surer and forgets too late.
DISCOUNT = 0.975  # a step's weight one step later: what happened 40 steps ago counts a third
PRIOR = 4.0  # asks that a prior is worth
SHARPNESS = 2.0  # draws spread as if twice as much were known: what a short memory leaves of it is too timid
FLOOR = 0.05  # of all asks, for each member whatever its record
CHARGE = 0.5  # how much a reply at the council's mean price adds to what a step costs anyway; GPU time likewise


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """A member that can be asked now, with the kinds that this draw allows."""

    member: str
    weight: float
    kinds: Kinds


class Weights(Protocol):
    def pick(self, arms: Sequence[Arm], rng: random.Random) -> tuple[str, str]: ...

    def learn(self, member: str, kind: str, *, improved: bool, usd: float, gpu_seconds: float) -> None: ...


class Fixed:
    """As the YAML says."""

    def pick(self, arms: Sequence[Arm], rng: random.Random) -> tuple[str, str]:
        arm = rng.choices(arms, weights=[a.weight for a in arms])[0]
        return arm.member, by_weight(arm.kinds, rng)

    def learn(self, member: str, kind: str, *, improved: bool, usd: float, gpu_seconds: float) -> None:
        pass


def by_weight(kinds: Kinds, rng: random.Random) -> str:
    return rng.choices(list(kinds), weights=list(kinds.values()))[0]


@dataclass(slots=True)
class Record:
    """Sums in which later steps weigh more: only ratios of them, and sums over the present scale, mean anything."""

    asks: float = 0.0
    gains: float = 0.0
    usd: float = 0.0
    gpu: float = 0.0

    def add(self, weight: float, improved: bool, usd: float, gpu: float) -> None:
        self.asks += weight
        self.gains += weight * improved
        self.usd += weight * usd
        self.gpu += weight * gpu

    def shrink(self, by: float) -> None:
        self.asks, self.gains, self.usd, self.gpu = self.asks / by, self.gains / by, self.usd / by, self.gpu / by


@dataclass
class Adaptive:
    """Weights from the YAML are where it begins: a member with twice the weight is first taken to be twice as good."""

    floor: float = FLOOR
    _scale: float = 1.0  # what a step weighs now; growing it is cheaper than shrinking everything else
    _all: Record = field(default_factory=Record)
    _members: dict[str, Record] = field(default_factory=dict)
    _pairs: dict[tuple[str, str], Record] = field(default_factory=dict)

    def pick(self, arms: Sequence[Arm], rng: random.Random) -> tuple[str, str]:
        floor = min(self.floor, 0.5 / len(arms))
        if rng.random() < floor * len(arms):
            arm = rng.choice(arms)
            return arm.member, by_weight(arm.kinds, rng)
        usual = self._usual()
        mean = sum(a.weight for a in arms) / len(arms)
        drawn = [self._draw(self._member(a.member), usual, a.weight / mean, rng) for a in arms]
        arm = arms[drawn.index(max(drawn))]
        return arm.member, self._kind(arm, rng)

    def _kind(self, arm: Arm, rng: random.Random) -> str:
        usual = self._rate(self._member(arm.member), self._usual())
        mean = sum(arm.kinds.values()) / len(arm.kinds)
        names = list(arm.kinds)
        drawn = [self._draw(self._pair(arm.member, k), usual, arm.kinds[k] / mean, rng) for k in names]
        return names[drawn.index(max(drawn))]

    def learn(self, member: str, kind: str, *, improved: bool, usd: float, gpu_seconds: float) -> None:
        self._scale /= DISCOUNT
        records = (
            self._all,
            self._members.setdefault(member, Record()),
            self._pairs.setdefault((member, kind), Record()),
        )
        for record in records:
            record.add(self._scale, improved, usd, gpu_seconds)
        if self._scale > 1e100:
            for record in (self._all, *self._members.values(), *self._pairs.values()):
                record.shrink(self._scale)
            self._scale = 1.0

    def shares(self, arms: Sequence[Arm]) -> dict[str, float]:
        """What each member may expect to be asked, for display: its gains for its price, and the floor."""
        mean = sum(a.weight for a in arms) / len(arms)
        worth = [self._rate(self._member(a.member), self._usual(), a.weight / mean) for a in arms]
        worth = [w / self._price(self._member(a.member)) for w, a in zip(worth, arms, strict=True)]
        floor = min(self.floor, 0.5 / len(arms))
        free = 1 - floor * len(arms)
        return {a.member: floor + free * w / sum(worth) for w, a in zip(worth, arms, strict=True)}

    def _member(self, member: str) -> Record:
        return self._members.get(member, Record())

    def _pair(self, member: str, kind: str) -> Record:
        return self._pairs.get((member, kind), Record())

    def _usual(self) -> float:
        """Gains an ask, of the whole council lately; one in ten before anyone has a record."""
        return (self._all.gains / self._scale + 0.4) / (self._all.asks / self._scale + 4)

    def _rate(self, record: Record, usual: float, times: float = 1.0) -> float:
        gains, asks = record.gains / self._scale, record.asks / self._scale
        return (gains + PRIOR * min(0.9, usual * times)) / (asks + PRIOR)

    def _draw(self, record: Record, usual: float, times: float, rng: random.Random) -> float:
        """A rate that the record allows, over the price: seldom asked means widely spread, so everyone gets a turn."""
        rate, size = self._rate(record, usual, times), SHARPNESS * (record.asks / self._scale + PRIOR)
        return rng.betavariate(max(rate * size, 1e-3), max((1 - rate) * size, 1e-3)) / self._price(record)

    def _price(self, record: Record) -> float:
        """What a step costs, where 1 is a free reply that never reached the GPU. In units of the council's own mean,
        for nobody can say what a GPU second is worth in dollars here. Without a record: the mean."""
        return 1 + CHARGE * (self._dear(record, "usd") + self._dear(record, "gpu"))

    def _dear(self, record: Record, what: str) -> float:
        total: float = getattr(self._all, what)
        if total <= 0:
            return 0.0
        own: float = getattr(record, what)
        mean = total / self._all.asks
        asks = record.asks / self._scale
        return (own / self._scale + PRIOR * mean) / (asks + PRIOR) / mean
