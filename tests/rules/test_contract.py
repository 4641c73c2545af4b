"""What rules write stays inside the candidate contract: the judge's screen has nothing to complain about."""

import random

import pytest
from candidates import OTHERS, PRODUCTS

from evolve.judge.screen import screen
from evolve.rules import RULES, Applied, Context, apply

SOURCES = {name: (s, e) for name, (s, e, _) in PRODUCTS.items()} | OTHERS


SLOWLY = ("axes", "inline", "twice_rows", "twice_tiles", "stats")  # others stand for them


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOWLY else n for n in SOURCES])
def test_every_move_and_chain_of_moves_passes_the_screen(name):
    source, entry = SOURCES[name]
    screen(source, entry=entry)
    for number in range(8):
        rng, text, path = random.Random(number), source, []
        for _ in range(12):
            rule = rng.choice(RULES)
            found = apply(rule, text, Context(random=rng, triton="3.7.1"))
            if isinstance(found, Applied):
                text = found.source
                path.append(rule.name)
                screened = screen(text, entry=entry)
                for key, value in screened.defaults.items():
                    assert value in screened.tune.get(key, (value,)), (path, key)
