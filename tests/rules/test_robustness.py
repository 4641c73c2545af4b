"""Rules read what a model wrote: nothing makes one raise, break the syntax, or leave the EVOLVE-BLOCK."""

import ast
import random
import re

import pytest
from candidates import EVERY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evolve.rules import RULES, Applied, Context, Declined, apply
from evolve.rules.source import outside, parse

TOKENS = {name: re.findall(r"\w+|\n[ ]*|[ ]+|.", source) for name, source in EVERY.items()}
NEW = (
    "for",
    "if",
    "0",
    "None",
    ",",
    "(",
    ")",
    ":",
    "tl.load",
    "+=",
    "=",
    "-",
    "K",
    "[:, None]",
    "\n    ",
    "*",
    "**x",
    "# no",
)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    tokens = list(TOKENS[draw(st.sampled_from(sorted(TOKENS)))])
    for _ in range(draw(st.integers(1, 4))):
        i, j = draw(st.integers(0, len(tokens) - 1)), draw(st.integers(0, len(tokens) - 1))
        move = draw(st.sampled_from(("delete", "swap", "insert", "copy")))
        if move == "delete":
            del tokens[i]
        elif move == "swap":
            tokens[i], tokens[j] = tokens[j], tokens[i]
        elif move == "insert":
            tokens.insert(i, draw(st.sampled_from(NEW)))
        else:
            tokens.insert(i, tokens[j])
    return "".join(tokens)


def hold(source: str, number: int) -> None:
    for rule in RULES:
        found = apply(rule, source, Context(random=random.Random(number)))
        if isinstance(found, Declined):
            assert found.reason.endswith("."), (rule.name, found.reason)
        else:
            ast.parse(found.source)
            assert found.source != source
            assert outside(found.source) == outside(source)
            assert found.hypothesis.endswith(".")


QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=200, deadline=None, suppress_health_check=QUIET)
@given(mutated(), st.integers(0, 99))
def test_no_mutated_source_makes_a_rule_raise(source, number):
    hold(source, number)


@pytest.mark.slow
@settings(max_examples=500, deadline=None, suppress_health_check=QUIET)
@given(mutated(), st.integers(0, 99))
def test_no_mutated_source_makes_a_rule_raise_500(source, number):
    hold(source, number)


@given(st.text(max_size=200))
@settings(max_examples=50, deadline=None)
def test_no_text_makes_a_rule_raise(text):
    hold(text, 0)


@pytest.mark.parametrize("name", EVERY)
def test_what_is_not_changed_comes_back_byte_for_byte(name):
    assert parse(EVERY[name]).module.code == EVERY[name]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_same_random_numbers_make_the_same_move(rule):
    for source in EVERY.values():
        assert apply(rule, source, Context(random=random.Random(3))) == apply(
            rule, source, Context(random=random.Random(3))
        )


FOR_ROWS = ("rows per program", "alignment", "parameters", "persistent grid", "wider space", "streaming loads")


def test_a_rule_that_does_not_apply_says_why():
    softmax = EVERY["softmax"]
    for rule in RULES:
        found = apply(rule, softmax, Context(random=random.Random(0)))
        assert isinstance(found, Applied) == (rule.name in FOR_ROWS), rule.name
        if isinstance(found, Declined):
            assert len(found.reason.split()) > 4


def test_no_rule_reaches_outside_the_block():
    source = (
        EVERY["seed"]
        .replace("# EVOLVE-BLOCK-START", "")
        .replace("def matmul(a, b", "# EVOLVE-BLOCK-START\ndef matmul(a, b")
    )
    found = apply(next(r for r in RULES if r.name == "tensor descriptors"), source, Context(random=random.Random(0)))
    assert isinstance(found, Declined)
    assert "EVOLVE-BLOCK" in found.reason


def test_names_that_double_at_each_step_take_no_time():
    lines = "".join(f"    x{i + 1} = x{i} + x{i} * x{i}\n" for i in range(40))
    more = "".join("    rows = rows + rows\n" for _ in range(40))
    marker = "    ks = tl.arange(0, BLOCK_K)\n"
    for text in (f"    x0 = pid\n{lines}", more, f"    x0 = rows\n{lines}    rows = x40\n"):
        hold(EVERY["seed"].replace(marker, text + marker), 0)


def test_a_file_nested_too_deeply_is_declined():
    deep = EVERY["seed"].replace("pid // tiles_n", "(" * 80 + "pid // tiles_n" + ")" * 80)
    hold(deep, 0)
    hold(EVERY["seed"].replace("K, BLOCK_K):", "-" * 2000 + "K, BLOCK_K):"), 0)
