"""Damaged candidates: tokens deleted, swapped, doubled and inserted, in a row of ways. Each gets a verdict, never an
exception, through the whole judge on a machine without a GPU."""

import io
import keyword
import sys
import tokenize
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from evolve.judge.contract import job_of, sound
from evolve.judge.redteam import cases
from evolve.types import Verdict

sys.path.insert(0, str(Path(__file__).parent))

from cpu_bench import SEED, TIMED, matmul, opened

SOURCES = (SEED, *(c.source for c in cases() if c.kind == "honest" and not c.needs_gpu and c.problem is None))
INSERTED = (
    *("0", "1", "-1", "2**63", "1e308", "None", "''", "True", "a", "K", "tl", "torch", "acc", "pid"),
    *("+", "*", "//", "%", "<<", "**", "==", "and", "not", "in", "(", ")", "[", "]", ":", ",", ".", "=", "@"),
    *("if", "for", "while", "return", "pass", "lambda", "import", "def", "assert", "raise", "\n", "\n    "),
    *(
        "tl.float16",
        "tl.int64",
        ".to(tl.int1)",
        "torch.empty",
        "tl.constexpr",
        "tl.static_range(3)",
        "*args",
        "é",
        "\0",
    ),
)
PATIENCE = 6.0


def tokens_of(source):
    return [
        (t.type, t.string) for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type != tokenize.COMMENT
    ]


TOKENS = [tokens_of(source) for source in SOURCES]
# Damage where code is, not in the header that all share.
BEGINS = [next(i for i, (_, text) in enumerate(tokens) if text == "@") for tokens in TOKENS]


def kind(token):
    """What may stand in its place without the parser minding: another number, name or operator of its kind."""
    number, text = token
    if number == tokenize.OP:
        return "+-*/%&|".find(text) >= 0, text in ("<", ">", "<=", ">=", "=="), text if text in "()[]{}:,.=" else ""
    return number, keyword.iskeyword(text) and text


def telling(token):
    """Names, numbers and arithmetic: another one in its place is another program."""
    number, text = token
    return (number in (tokenize.NAME, tokenize.NUMBER) and not keyword.iskeyword(text)) or kind(token)[:2] == (
        True,
        False,
    )


@st.composite
def damaged(draw):
    number = draw(st.integers(0, len(TOKENS) - 1))
    tokens, first = list(TOKENS[number]), BEGINS[number]
    coarse = draw(st.booleans())  # the screen ends most of these; the others are to get further
    for _ in range(draw(st.integers(1, 3))):
        places = [i for i in range(first, len(tokens) - 2) if coarse or telling(tokens[i])]
        at = draw(st.sampled_from(places))
        match draw(st.sampled_from(("delete", "swap", "double", "insert", "replace", "far"))) if coarse else "far":
            case "delete":
                del tokens[at]
            case "swap":
                tokens[at], tokens[at + 1] = tokens[at + 1], tokens[at]
            case "double":
                tokens.insert(at, tokens[at])
            case "insert":
                tokens.insert(at, (tokenize.NAME, draw(st.sampled_from(INSERTED))))
            case "replace":
                tokens[at] = (tokenize.NAME, draw(st.sampled_from(INSERTED)))
            case "far":  # a token from elsewhere in the file, so that most results still parse
                others = {t for t in tokens[first:] if kind(t) == kind(tokens[at])} - {tokens[at]}
                tokens[at] = draw(st.sampled_from(sorted(others) or [tokens[at]]))
    try:
        return tokenize.untokenize(tokens)
    except (ValueError, IndexError):
        return " ".join(text for _, text in tokens)


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    made = opened(tmp_path_factory.mktemp("cpu"), problem=matmul((TIMED[0],)), timeout=PATIENCE).backend
    met = Counter()

    def judged(source):
        found = sound(made.evaluate(job_of(source)), job_of(source))
        assert found.verdict not in (Verdict.DUPLICATE, Verdict.NO_REPLY, Verdict.UNREADABLE)
        assert sum(found.seconds.values()) < 5 * PATIENCE
        met[f"{found.verdict} at {found.stage}"] += 1

    yield judged
    print(met.most_common())
    made.close()
    assert len(met) >= 4, f"the damage is too much of one kind: {met}"


MANY = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}


@settings(max_examples=200, **MANY)
@example("")
@example(SEED)
@given(damaged())
def test_200_damaged_sources_have_a_verdict_each(judge, source):
    judge(source)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=2000, **MANY)
@given(damaged())
def test_2000_damaged_sources_have_a_verdict_each(judge, source):
    judge(source)
