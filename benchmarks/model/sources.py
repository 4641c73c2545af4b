"""What the cost model is measured on: structures, the parameters each is tried at, and six workloads.

A structure is one source: our seeds, kernels in other people's style, honest cases of the red team, kernels written for
this (kernels/), and what the rules make of them. Parameters are drawn from what an engineer would try and from what she
would not, so that cliffs are in the data. Nothing here builds or measures; sources are text from this repository alone.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from evolve.judge.screen import screen
from evolve.judge.stages import Screened
from evolve.problem import Problem, Variant, load_problem
from evolve.rules import RULES, Context, apply
from evolve.rules.base import Applied
from evolve.types import Scalar, Workload

ROOT = Path(__file__).resolve().parents[2]
KERNELS = Path(__file__).parent / "kernels"
SEED = 9
SHARED_BYTES = 232448
VARIANT = "bf16"

# problem -> workload -> sets of inputs a sample goes through, so that it lasts about 200 microseconds
WORKLOADS: Mapping[str, Mapping[str, int]] = {
    "matmul": {"4096": 1, "skinny16": 12, "split_k": 6},
    "attention": {"4k_causal": 1, "1k_d64": 2},
    "layernorm_residual": {"4096": 4},
}
# What every structure calls the sides of its tile; the first is our seeds' own.
SIDES = {
    "M": ("BLOCK_M", "BM", "TILE_R", "BLOCK_SIZE_M"),
    "N": ("BLOCK_N", "BN", "TILE_C", "BLOCK_SIZE_N"),
    "K": ("BLOCK_K", "BK", "TILE_D", "BLOCK_SIZE_K"),
}
# BLOCK_M, BLOCK_N, BLOCK_K, warps, stages: good ones, and what lies beside each cliff.
SQUARE = (
    *((128, 128, 64, 8, 3), (128, 256, 64, 8, 3), (128, 128, 64, 4, 4), (64, 128, 64, 4, 4), (256, 128, 64, 8, 3)),
    *((64, 64, 32, 4, 2), (128, 128, 32, 4, 5), (64, 256, 64, 4, 3), (128, 64, 64, 4, 4), (32, 64, 64, 4, 4)),
    *((128, 128, 64, 4, 1), (128, 256, 64, 4, 3), (128, 128, 128, 8, 3), (64, 64, 64, 4, 6), (256, 64, 64, 8, 4)),
    *((64, 64, 128, 8, 2), (32, 128, 32, 4, 3), (128, 64, 128, 8, 2), (64, 128, 32, 8, 3), (64, 32, 64, 4, 8)),
)
SKINNY = (
    *((16, 64, 128, 4, 4), (16, 32, 128, 4, 5), (16, 128, 64, 4, 4), (16, 32, 256, 4, 4), (16, 64, 64, 4, 6)),
    *((16, 16, 256, 4, 4), (16, 32, 64, 2, 8), (16, 256, 64, 8, 3), (32, 64, 128, 4, 3), (16, 16, 128, 2, 8)),
    *((64, 64, 128, 4, 4), (16, 32, 128, 4, 1), (16, 16, 64, 1, 16), (16, 64, 256, 8, 3), (64, 32, 64, 4, 6)),
    *((16, 128, 128, 8, 4), (16, 64, 32, 4, 12), (128, 64, 64, 4, 3), (16, 16, 512, 4, 3), (16, 32, 32, 1, 4)),
)
DEEP = (
    *((64, 64, 64, 4, 4), (128, 128, 64, 4, 4), (64, 64, 128, 4, 4), (128, 64, 64, 4, 5), (128, 128, 64, 8, 3)),
    *((64, 32, 128, 4, 5), (32, 32, 128, 4, 4), (64, 64, 32, 4, 3), (32, 64, 64, 4, 6), (64, 64, 64, 4, 1)),
    *((16, 64, 128, 4, 4), (64, 128, 64, 8, 4), (64, 64, 64, 8, 8), (32, 32, 64, 4, 16), (128, 256, 64, 8, 3)),
    *((32, 32, 256, 8, 3), (64, 64, 256, 4, 2), (64, 32, 64, 4, 2), (32, 128, 64, 4, 3), (16, 32, 64, 2, 8)),
)
TILES = {"4096": SQUARE, "skinny16": SKINNY, "split_k": DEEP}


@dataclass(frozen=True, kw_only=True)
class Structure:
    name: str
    problem: str
    source: str
    screened: Screened = field(repr=False)


def problem_of(name: str) -> tuple[Problem, Variant]:
    problem = load_problem(ROOT / "evaluators" / f"{name}.py")
    return problem, problem.variant(VARIANT)


def workloads_of(name: str) -> list[Workload]:
    problem, variant = problem_of(name)
    return [problem.workload(w, variant) for w in WORKLOADS[name]]


# --- Structures -----------------------------------------------------------------------------------------------------


def structures() -> Iterator[Structure]:
    for problem in WORKLOADS:
        for name, source in _named(problem):
            entry = problem_of(problem)[0].entry
            text = re.sub(r"\bmultiply\b", entry, source)
            yield Structure(name=name, problem=problem, source=text, screened=screen(text, entry=entry))


def _named(problem: str) -> Iterator[tuple[str, str]]:
    seed = _text("seeds", f"{problem}.py")
    yield "seed", seed
    if problem == "matmul":
        yield from _products(seed)
    else:
        prefix = {"attention": "attention", "layernorm_residual": "norm"}[problem]
        yield from ((p.stem.removeprefix(f"{prefix}_"), p.read_text()) for p in sorted(KERNELS.glob(f"{prefix}_*.py")))
    if problem == "attention":
        yield from _ruled("seed", seed, problem, "pipelining depth")


def _products(seed: str) -> Iterator[tuple[str, str]]:
    for chain in (
        ("program order",),
        ("tensor descriptors",),
        ("EVEN_K",),
        ("persistent grid",),
        ("split-K",),
        ("program order", "tensor descriptors"),
        ("tensor descriptors", "persistent grid"),
        ("tensor descriptors", "warp specialization"),
        ("EVEN_K", "split-K"),
    ):
        yield from _ruled("seed", seed, "matmul", *chain)
    others = {name: _text("tests", "rules", "kernels", f"{name}.py") for name in ("axes", "grouped", "inline")}
    yield from others.items()
    yield from _ruled("axes", others["axes"], "matmul", "modulo removal")
    yield from _ruled("grouped", others["grouped"], "matmul", "tensor descriptors")
    for name in ("split_k_atomics", "split_k_scratch", "host_descriptors", "several_launches", "padded"):
        yield name, _text("evolve", "data", "redteam", "honest", f"{name}.py")


def _ruled(name: str, source: str, problem: str, *chain: str) -> Iterator[tuple[str, str]]:
    """Nothing where a rule declines: rules change, and the others' points still count."""
    for rule_name in chain:
        rule = next(r for r in RULES if r.name == rule_name)
        context = Context(random=random.Random(SEED), workloads=tuple(workloads_of(problem)), triton="3.6.0")
        made = apply(rule, source, context)
        if not isinstance(made, Applied):
            print(f"{name}: {rule_name} declines: {made.reason}")
            return
        name, source = f"{name} + {rule_name}", made.source
    yield name, source


def _text(*parts: str) -> str:
    return ROOT.joinpath(*parts).read_text(encoding="utf-8")


# --- Parameters -----------------------------------------------------------------------------------------------------


def points(structure: Structure, workload: str, count: int) -> list[dict[str, Scalar]]:
    """So many different choices, the first ones always the same for all structures."""
    rng = random.Random(f"{SEED}/{structure.name}/{workload}")
    draw = {"matmul": _product_point, "attention": _attention_point}.get(structure.problem, _free_point)
    found: list[dict[str, Scalar]] = []
    for turn in range(count * 8):
        point = draw(structure.screened, workload, turn, rng)
        if point not in found:
            found.append(point)
        if len(found) == count:
            break
    return found


def _product_point(screened: Screened, workload: str, turn: int, rng: random.Random) -> dict[str, Scalar]:
    """The table's first two for every structure, so that structures can be compared; the rest of it at random."""
    table = TILES[workload]
    m, n, k, warps, stages = table[turn] if turn < 2 else rng.choice(table[2:])
    own = _others(screened, rng)
    own |= {name: v for side, v in (("M", m), ("N", n), ("K", k)) for name in SIDES[side] if name in screened.defaults}
    own |= {"num_warps": warps, "num_stages": stages}
    return {name: own[name] for name in screened.defaults if name in own}


def _attention_point(screened: Screened, workload: str, turn: int, rng: random.Random) -> dict[str, Scalar]:
    sides = [(128, 64), (64, 64), (128, 128), (128, 32), (64, 128), (64, 32), (32, 64), (32, 32)]
    m, n = sides[turn] if turn < 2 else rng.choice(sides)
    warps = 8 if turn == 0 else rng.choice((4, 8) if m > 32 else (4,))
    stages = 3 if turn == 0 else rng.choice((1, 2, 2, 3, 3, 4))
    own = _others(screened, rng)
    own |= {name: v for side, v in (("M", m), ("N", n)) for name in SIDES[side] if name in screened.defaults}
    own |= {"num_warps": warps, "num_stages": stages}
    return {name: own[name] for name in screened.defaults if name in own}


def _free_point(screened: Screened, workload: str, turn: int, rng: random.Random) -> dict[str, Scalar]:
    return {**screened.defaults, **(_others(screened, rng) if turn else {})}


def _others(screened: Screened, rng: random.Random) -> dict[str, Scalar]:
    """What the structure has beside its tile: groups, parts of a split, rows a program."""
    sides = {name for names in SIDES.values() for name in names}
    return {
        name: rng.choice(screened.tune[name]) if name in screened.tune else default
        for name, default in screened.defaults.items()
        if name not in sides and (name in screened.tune or name not in ("num_warps", "num_stages"))
    } | _untuned(screened, rng)


def _untuned(screened: Screened, rng: random.Random) -> dict[str, Scalar]:
    """Kernels that came without a TUNE."""
    choices = {"GROUP": (1, 4, 8, 16), "SPLIT": (2, 4, 8, 16), "SPLIT_K": (2, 4, 8, 16)}
    return {
        name: rng.choice(values)
        for name, values in choices.items()
        if name in screened.defaults and name not in screened.tune
    }
