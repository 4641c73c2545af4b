"""A rewritten candidate computes what its parent did: each rule alone and chains of them, on all kinds of sizes."""

import random

import pytest
from candidates import MEANING, OTHERS, PRODUCTS
from interpret import Run, errors

from evolve.rules import RULES, Applied, Context, apply
from evolve.types import Workload

WORKLOADS = (Workload(name="w", params={"M": 512, "N": 512, "K": 4096, "dtype": "float16"}),)
BOUNDS = {"float16": 8e-4, "float32": 2e-6}


def context(number: int) -> Context:
    return Context(random=random.Random(number), workloads=WORKLOADS, triton="3.7.1")


FEW = ((64, 64, 64, False), (33, 65, 47, False), (64, 80, 64, True))  # sizes, where there are many runs


Subjects = dict[str, tuple[str, str, str, dict[str, int]]]


def alone(subjects: Subjects, draws: int) -> dict[str, Run]:
    """Every move of every rule on every kernel, each from the kernel as it is."""
    runs: dict[str, Run] = {}
    for name, (source, entry, what, point) in subjects.items():
        for rule in RULES:
            seen = set()
            for number in range(draws):
                found = apply(rule, source, context(number))
                if isinstance(found, Applied) and found.hypothesis not in seen:
                    seen.add(found.hypothesis)
                    tunables = {} if rule.name in ("parameters", "wider space") else point
                    run = Run(source=found.source, entry=entry, tunables=tunables, what=what, sizes=FEW)
                    runs[f"{name}: {rule.name} {number}"] = run
    return runs


def products() -> Subjects:
    return {name: (source, entry, "product", point) for name, (source, entry, point) in PRODUCTS.items()}


def others() -> Subjects:
    return {name: (source, entry, *MEANING[name]) for name, (source, entry) in OTHERS.items()}


def chains(count: int) -> dict[str, Run]:
    """Whatever rules apply, one after the other, in random order: what a run does to a lineage."""
    runs: dict[str, Run] = {}
    for name, (source, entry, tunables) in PRODUCTS.items():
        for number in range(count):
            rng, text, path = random.Random(number), source, []
            for _ in range(12):
                rule = rng.choice([r for r in RULES if r.name not in ("parameters", "wider space")])
                found = apply(rule, text, Context(random=rng, workloads=WORKLOADS, triton="3.7.1"))
                if isinstance(found, Applied):
                    text = found.source
                    path.append(rule.name)
            dtype = "float32" if number % 2 else "float16"
            runs[f"{name}: {', '.join(path)} ({number})"] = Run(
                source=text, entry=entry, tunables=tunables, dtype=dtype
            )
    return runs


def judge(runs: dict[str, Run]) -> list[str]:
    wrong = []
    for (name, run), found in zip(runs.items(), errors(list(runs.values())), strict=True):
        if isinstance(found, str) or not all(error < BOUNDS[run.dtype] for error in found):
            wrong.append(f"{name}: {found}")
    return wrong


def test_parents_are_right():
    plain = {name: Run(source=s, entry=e, tunables=t, sizes=FEW) for name, (s, e, t) in PRODUCTS.items()}
    plain |= {n: Run(source=s, entry=e, tunables=t, what=w, sizes=FEW) for n, (s, e, w, t) in others().items()}
    assert judge(plain) == []


def test_each_rule_keeps_the_meaning():
    some = {name: subject for name, subject in (products() | others()).items() if name in ("seed", "causal", "rmsnorm")}
    assert judge(alone(some, 1)) == []


@pytest.mark.slow
def test_each_move_on_each_kernel_keeps_the_meaning():
    runs = alone(products() | others(), 3)
    assert {rule.name for rule in RULES} <= {name.split(": ")[1].rsplit(" ", 1)[0] for name in runs} | UNMOVED
    assert judge(runs) == []


UNMOVED = {
    "descriptors from the host",
    *(
        "warp specialization",
        "epilogue subtiling",
        "undo",
        "flattened loops",
        "loads before the loop",
    ),  # want others first
    *("precision", "split-K by atomics"),  # want a contract that allows them
}


@pytest.mark.slow
def test_chains_keep_the_meaning():
    assert judge(chains(2)) == []


@pytest.mark.slow
def test_many_chains_keep_the_meaning():
    assert judge(chains(16)) == []


CHAINS = {
    "attention": ("exp2", "scale in the exponent", "masked blocks apart"),
    "causal": ("tensor descriptors", "scale in the exponent", "masked blocks apart", "heaviest first"),
    "decode": ("exp2", "split keys", "scale in the exponent"),
    "rmsnorm": ("unmasked rows", "persistent grid", "loads before the loop", "pipelining depth"),
    "gelu": ("tensor descriptors", "persistent grid", "flattened loops", "epilogue subtiling", "warp specialization"),
}


def test_chains_of_an_engineer_keep_the_meaning():
    runs: dict[str, Run] = {}
    for name, rules in CHAINS.items():
        source, entry, what, point = others()[name]
        for rule in rules:
            found = apply(next(r for r in RULES if r.name == rule), source, context(0))
            assert isinstance(found, Applied), (name, rule, found)
            source = found.source
        runs[name] = Run(source=source, entry=entry, tunables=point, what=what, sizes=FEW)
    assert judge(runs) == []


@pytest.mark.slow
def test_chance_chains_of_kernels_without_a_plain_product_keep_their_meaning():
    runs: dict[str, Run] = {}
    for name, (source, entry, what, point) in others().items():
        for number in range(3):
            rng, text, path = random.Random(number), source, []
            for _ in range(16):
                rule = rng.choice([r for r in RULES if r.name not in ("parameters", "wider space")])
                found = apply(rule, text, Context(random=rng, triton="3.7.1"))
                if isinstance(found, Applied):
                    text = found.source
                    path.append(rule.name)
            runs[f"{name}: {path}"] = Run(source=text, entry=entry, tunables=point, what=what)
    assert judge(runs) == []


def test_a_wrong_rewrite_would_be_seen():
    source, entry, tunables = PRODUCTS["seed"]
    broken = source.replace("(ks[None, :] < K - k)", "(ks[None, :] < K - k - 1)")
    assert judge({"broken": Run(source=broken, entry=entry, tunables=tunables, dtype="float32")})


@pytest.mark.parametrize("name", PRODUCTS)
def test_comments_and_the_docstring_stay(name):
    source = PRODUCTS[name][0]
    comments = [line.split("#", 1)[1] for line in source.splitlines() if "#" in line]
    for rule in RULES:
        found = apply(rule, source, context(1))
        if isinstance(found, Applied):
            assert all(comment in found.source for comment in comments), rule.name
            assert found.source.startswith(source[:40])
