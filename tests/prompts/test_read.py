"""Replies are parsed leniently and applied strictly; no reply may raise, and none may edit outside the block."""

import ast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.prompts.read import Unreadable, edited, hypothesis_of, prediction_of, read
from evolve.types import Asked, Attempt, Candidate, Draw, Evaluation, Measurement, Prompt, Reply, Verdict

BASE = '''"""A docstring."""
import torch
import triton

# EVOLVE-BLOCK-START
def one():
    x = 1
    return x


def two():
    x = 1
    return x * 2
# EVOLVE-BLOCK-END
AFTER = 1
'''


def diff(search: str, replacement: str) -> str:
    return f"Hypothesis: it helps.\n<<<<<<< SEARCH\n{search}\n=======\n{replacement}\n>>>>>>> REPLACE\n"


def outside(source: str) -> tuple[str, str]:
    head, rest = source.split("# EVOLVE-BLOCK-START")
    return head, rest.split("# EVOLVE-BLOCK-END")[1]


def test_exact_search_is_replaced_once() -> None:
    edit = edited(diff("    return x * 2", "    return x * 3"), BASE)
    assert edit.how == "exact"
    assert edit.source == BASE.replace("x * 2", "x * 3")


def test_white_space_does_not_matter_and_indentation_is_restored() -> None:
    edit = edited(diff("return x*2", "y = x\nreturn y * 3"), BASE)
    assert edit.how == "white space"
    assert "    y = x\n    return y * 3\n# EVOLVE-BLOCK-END" in edit.source


def test_one_clear_resemblance_is_enough() -> None:
    edit = edited(diff("def two():\n    x = 1\n    return x * 2  # twice", "def two():\n    return 4"), BASE)
    assert edit.how == "fuzzy"
    ast.parse(edit.source)
    assert "return 4" in edit.source


def test_ambiguous_search_is_refused_with_its_places() -> None:
    with pytest.raises(Unreadable, match=r"stands 2 times \(lines 7, 12\)"):
        edited(diff("    x = 1", "    x = 2"), BASE)


def test_missing_search_shows_the_nearest_text() -> None:
    with pytest.raises(Unreadable, match=r"(?s)not in the file.*nearest is.*return x"):
        edited(diff("    return x + something_else_entirely", "    return 0"), BASE)


@pytest.mark.parametrize(
    ("search", "replacement", "says"),
    [
        ("AFTER = 1", "AFTER = 2", "outside the EVOLVE-BLOCK"),
        ("import torch", "import os", "outside the EVOLVE-BLOCK"),
        ("# EVOLVE-BLOCK-END", "", "marker"),
        ("    return x * 2", "# EVOLVE-BLOCK-END\nimport os\n# EVOLVE-BLOCK-START", "marker"),
        ("", "x", "empty|parse"),
    ],
)
def test_edits_outside_the_block_are_refused(search: str, replacement: str, says: str) -> None:
    with pytest.raises(Unreadable, match=says):
        edited(diff(search, replacement), BASE)


def test_whole_file_keeps_what_stands_outside() -> None:
    new = BASE.replace("x * 2", "x * 5").replace('"""A docstring."""', '"""Another."""')
    edit = edited(f"Hypothesis: h\n```python\n{new}```\n", BASE)
    assert edit.how == "rewrite"
    assert outside(edit.source) == outside(BASE)
    assert "x * 5" in edit.source


def test_whole_file_with_code_outside_is_refused() -> None:
    new = BASE.replace("AFTER = 1", "import os")
    with pytest.raises(Unreadable, match="outside"):
        edited(f"```python\n{new}```", BASE)


def test_inside_of_the_block_alone_is_put_in_its_place() -> None:
    edit = edited("```python\ndef one():\n    return 7\n```", BASE)
    assert outside(edit.source) == outside(BASE)
    assert "def one():\n    return 7\n# EVOLVE-BLOCK-END" in edit.source


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("I would rather not.", "No code found"),
        ("```python\nx = 1\n", "cut off"),
        ("<<<<<<< SEARCH\nx = 1\n", "parse|cut off"),
        (f"```python\n{BASE}```", "as it was"),
        ("```python\n" + "x = 1\n" * 40_000 + "```", "characters"),
    ],
)
def test_what_cannot_be_read_is_said(text: str, says: str) -> None:
    with pytest.raises(Unreadable, match=says):
        edited(text, BASE)


def test_hypothesis_is_found_in_markdown() -> None:
    assert hypothesis_of("Sure.\n**Hypothesis:** fewer spills.\n```python\n```") == "fewer spills."
    assert hypothesis_of("nothing") == ""


def _draw() -> tuple[Asked, Draw]:
    measured = Measurement(workload="w", baseline="b", time_us=1, ratio=1, ratio_low=1, ratio_high=1)
    parent = Attempt(
        candidate=Candidate(step=3, source=BASE, member="seed", kind="seed", generation=4),
        evaluation=Evaluation(verdict=Verdict.PASSED, measurements=(measured,)),
    )
    return Asked(step=9, member="m", prompt=Prompt(system="", user="", kind="diff")), Draw(
        step=9, island=2, parent=parent
    )


def test_a_candidate_knows_where_it_came_from() -> None:
    asked, draw = _draw()
    candidate = read(Reply(member="m", text=diff("    return x * 2", "    return 2")), asked, draw)
    assert isinstance(candidate, Candidate)
    assert (candidate.step, candidate.island, candidate.generation) == (9, 2, 5)
    assert draw.parent is not None
    assert candidate.parent_id == draw.parent.id
    assert candidate.hypothesis == "it helps."
    assert candidate.matched == "exact"
    loose = read(Reply(member="m", text=diff("return  x*2", "return 2")), asked, draw)
    assert isinstance(loose, Candidate)
    assert loose.matched == "white space", "on record, for whoever wonders about what was edited"


@pytest.mark.parametrize(
    ("text", "hypothesis", "prediction"),
    [
        ("Hypothesis: less traffic.\nPrediction: registers < 90; a -5 %\n", "less traffic.", "registers < 90; a -5 %"),
        ("**Hypothesis:** two\nlines.\n\n**Prediction:** `LDGSTS = 0`\n", "two lines.", "`LDGSTS = 0`"),
        ("### Hypothesis: it helps. Expected: square 3 % faster\n```python\n", "it helps.", "square 3 % faster"),
        ("> hypothesis : x\n> prediction : y falls by 3", "x", "y falls by 3"),
        ("Prediction: alone", "", "alone"),
        ("none of it", "", ""),
    ],
)
def test_hypothesis_and_prediction_are_found(text: str, hypothesis: str, prediction: str) -> None:
    assert (hypothesis_of(text), prediction_of(text)) == (hypothesis, prediction)


MARKERS = ("<<<<<<< SEARCH\n", "=======\n", ">>>>>>> REPLACE\n", "```python\n", "```\n", "# EVOLVE-BLOCK-START\n")
CODE = (
    "# EVOLVE-BLOCK-END\n",
    "Hypothesis: x\n",
    "    return x * 2\n",
    "import os\n",
    "AFTER = 1\n",
    "\ud800",
    "\x00",
    "\r\n",
)
pieces = st.sampled_from([*MARKERS, *CODE, *BASE.splitlines(keepends=True)])


@settings(max_examples=1000, deadline=None)
@given(st.lists(pieces | st.text(max_size=20), max_size=25).map("".join))
def test_no_reply_raises_or_edits_outside_the_block(text: str) -> None:
    asked, draw = _draw()
    result = read(Reply(member="m", text=text), asked, draw)
    if isinstance(result, Candidate):
        assert result.source.count("# EVOLVE-BLOCK-START") == 1
        assert outside(result.source) == outside(BASE)


@pytest.mark.slow
@settings(max_examples=5000, deadline=None)
@given(st.lists(pieces | st.text(max_size=20), max_size=40).map("".join))
def test_no_reply_raises_or_edits_outside_the_block_at_length(text: str) -> None:
    test_no_reply_raises_or_edits_outside_the_block.hypothesis.inner_test(text)  # type: ignore[attr-defined]
