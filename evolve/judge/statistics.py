"""What paired samples say: intervals, when to stop looking, and when a gain is real.

A clock that moves with power makes eight medians of 100 samples in a row spread by 13 %; the ratio of interleaved
samples moves by 0.16 %. So everything here works on log-ratios of one block, C I B B I C over candidate, incumbent and
baseline, in which a drift that is linear over the block cancels. The median over blocks and an interval from order
statistics assume nothing about the noise but that blocks are alike; a mean would trust its tails.

What this does not do: take samples, or know what a GPU is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

# Looks at the data, with the error split evenly over them: whoever looks seven times is lucky more often than 5 %. All
# are whole turns of who begins. With five, each twice the last, 86 series from an H200 took a quarter more blocks.
LOOKS = (12, 24, 36, 54, 84, 126, 192)
ALPHA = 0.05
HOPELESS_BLOCKS = 2  # enough to see that a kernel has not half the speed
HOPELESS = math.log(2)
RACE_BLOCKS = 6  # of each workload, all in one place: enough to see who cannot win
# What one place may be off by, in 95 of 100: between six blocks in one place and the median over many places lay up to
# 1 to 6 % on an H200, by workload. Few blocks know nothing of it, so it is added to what they say.
PLACE = 0.05
HALF_WIDTH = 0.005  # of a score: closer than this nobody needs to know
WIDEST = 0.01  # of one workload, however many of them make the score
LEAST_GAIN = 0.01
MOST_DISCARDED = 0.2

Call = Literal["faster", "slower", "tie", "open"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A median log-ratio; positive means that the candidate is faster."""

    median: float
    low: float
    high: float
    blocks: int

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Microseconds a call, in the order in which they were taken: C I B B I C, or C B B C without an incumbent, and
    in the next block with another side at the ends. A contest has more sides, a letter each."""

    order: str
    times_us: tuple[float, ...]
    slowed: bool | None = None  # heat or hardware slowdown during it; None where nobody can tell
    place: int = 0  # where its buffers lay: blocks of one place are more alike than others

    def log_ratio(self, over: str) -> float:
        """ln(time of the other / time of the candidate)."""
        return self.log_mean(over) - self.log_mean("C")

    def log_mean(self, side: str) -> float:
        logs = [math.log(t) for s, t in zip(self.order, self.times_us, strict=True) if s == side]
        return sum(logs) / len(logs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """`stop` says that no more blocks are needed, `why` in words for the evidence."""

    call: Call
    stop: bool
    why: str


def interval(logs: Sequence[float], *, alpha: float = ALPHA / len(LOOKS)) -> Interval:
    """The median and the order statistics that hold it with probability 1 − alpha. Too few values for that (under
    eight at 1 %): all of them, and the interval is as wide as they are."""
    values = sorted(logs)
    rank = _rank(len(values), alpha)
    return Interval(median=median(values), low=values[rank - 1], high=values[len(values) - rank], blocks=len(values))


def brief(logs: Sequence[float]) -> Interval:
    """Of few blocks in one place: as wide as they are, and by what a place may be off."""
    own = interval(logs)
    low, high = math.hypot(own.median - own.low, PLACE), math.hypot(own.high - own.median, PLACE)
    return Interval(median=own.median, low=own.median - low, high=own.median + high, blocks=own.blocks)


def hopeless(rival: Sequence[float]) -> bool:
    """Not half the incumbent's speed, in each block: no more of them are needed."""
    return len(rival) >= HOPELESS_BLOCKS and max(rival) < -HOPELESS


def lost(parts: Sequence[Interval], weights: Sequence[float]) -> Interval | None:
    """Against the incumbent over all workloads, from few blocks: the gain, if even its upper end is a loss."""
    whole = combine(parts, weights)
    return whole if whole.high < 0 else None


@lru_cache(maxsize=1024)
def _rank(count: int, alpha: float) -> int:
    """The largest k with P(at most k − 1 of `count` fair coins fall heads) ≤ alpha / 2, and at least 1."""
    below, total, rank = 0, 2**count, 0
    while rank < count // 2:
        below += math.comb(count, rank)
        if below / total > alpha / 2:
            break
        rank += 1
    return max(1, rank)


def median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def spread(logs: Sequence[float]) -> float:
    """A standard deviation that a few wild blocks do not move: 1.4826 × the median distance from the median."""
    centre = median(logs)
    return 1.4826 * median([abs(x - centre) for x in logs])


def margin(*, aa_spread: float, sigma: float, configurations: int, blocks: int) -> float:
    """What a gain must exceed. `aa_spread` is what a kernel gains over itself here; the last term is what the best of
    `configurations` equal ones gains by luck alone, counting every one that was ever timed, the tuner's too."""
    luck = sigma * math.sqrt(2 * math.log(max(2, configurations))) / math.sqrt(max(1, blocks))
    return max(LEAST_GAIN, 2 * aa_spread, luck)


def enough(workloads: int) -> float:
    """The half-width of each workload's interval at which the score's is `HALF_WIDTH`: the noises of equally weighted
    workloads are independent, so that four of them at 1 % make a score at half of that."""
    return min(WIDEST, HALF_WIDTH * math.sqrt(workloads))


def decide(
    baseline: Sequence[float],
    incumbent: Sequence[float] | None,
    *,
    aa_spread: float,
    configurations: int,
    half_width: float = HALF_WIDTH,
) -> Decision:
    """After each look. Without an incumbent only the precision of the score is asked for."""
    rival = baseline if incumbent is None else incumbent
    blocks, own = len(rival), interval(rival)
    if blocks < LOOKS[0]:
        return Decision(call="open", stop=False, why="too few blocks")
    needed = margin(aa_spread=aa_spread, sigma=spread(rival), configurations=configurations, blocks=blocks)
    call = _call(own, needed) if incumbent is not None else "open"
    width = max(own.half_width, interval(baseline).half_width)
    if width <= half_width:
        return Decision(call=_settled(call), stop=True, why=f"half-width {width:.2%} at {blocks} blocks")
    if call != "open" and width <= WIDEST:
        return Decision(call=call, stop=True, why=f"decided at {blocks} blocks, half-width {width:.2%}")
    if blocks >= LOOKS[-1]:
        return Decision(call=_settled(call), stop=True, why=f"no more than {blocks} blocks, half-width {width:.2%}")
    return Decision(call=call, stop=False, why=f"half-width {width:.2%} at {blocks} blocks")


def _call(own: Interval, needed: float) -> Call:
    if own.low > math.log1p(needed):
        return "faster"
    return "slower" if own.high < 0 else "open"


def _settled(call: Call) -> Call:
    return "tie" if call == "open" else call


def next_look(blocks: int) -> int:
    """How many blocks there should be at the next look."""
    return next((n for n in LOOKS if n > blocks), LOOKS[-1])


def combine(parts: Sequence[Interval], weights: Sequence[float]) -> Interval:
    """The weighted mean of log-ratios over workloads. Their noises are independent, so half-widths add as squares."""
    total = sum(weights)
    shares = [w / total for w in weights]
    middle = sum(s * p.median for s, p in zip(shares, parts, strict=True))
    down = math.sqrt(sum((s * (p.median - p.low)) ** 2 for s, p in zip(shares, parts, strict=True)))
    up = math.sqrt(sum((s * (p.high - p.median)) ** 2 for s, p in zip(shares, parts, strict=True)))
    return Interval(median=middle, low=middle - down, high=middle + up, blocks=min(p.blocks for p in parts))


def promotes(
    parts: Sequence[Interval],
    weights: Sequence[float],
    sigmas: Sequence[float],
    *,
    aa_spread: float,
    configurations: int,
) -> tuple[bool, float, float]:
    """Whether the score beats the incumbent's by more than noise: (word, gain's lower end, what it had to exceed)."""
    whole = combine(parts, weights)
    total = sum(weights)
    sigma = math.sqrt(sum((w / total * s) ** 2 for w, s in zip(weights, sigmas, strict=True)))
    needed = margin(aa_spread=aa_spread, sigma=sigma, configurations=configurations, blocks=whole.blocks)
    gain = math.expm1(whole.low)
    return gain > needed, gain, needed


def kept(blocks: Sequence[Block]) -> tuple[list[Block], float]:
    """Blocks without heat or hardware slowdown, and the share that went. Power capping stays: it is part of matmul."""
    good = [b for b in blocks if not b.slowed]
    return good, (1 - len(good) / len(blocks)) if blocks else 0.0
