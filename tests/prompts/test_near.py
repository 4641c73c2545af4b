"""Replies that are nothing new are caught before the judge, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from evolve.prompts import near
from evolve.prompts.near import HEADING, Near, asked_anew
from evolve.types import Asked, Candidate, Evaluation, Judged, Prompt, Verdict

SOURCE = (Path(__file__).parents[2] / "seeds/matmul.py").read_text()
SWAPPED = (
    "    rows = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)\n",
    "    cols = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)\n",
)


def judged(step: int, source: str) -> Judged:
    evaluation = Evaluation(verdict=Verdict.INCORRECT, feedback="The last tile\nis wrong.")
    return Judged(step=step, candidate=candidate(step, source), evaluation=evaluation)


def candidate(step: int, source: str) -> Candidate:
    return Candidate(step=step, source=source, member="m", kind="diff")


def asked(user: str = "Make it faster.") -> Asked:
    return Asked(step=2, member="m", prompt=Prompt(system="s", user=user, kind="diff"))


@pytest.fixture
def known() -> Near:
    made = Near()
    made.observe(judged(1, SOURCE))
    return made


def swapped() -> str:
    assert "".join(SWAPPED) in SOURCE
    return SOURCE.replace("".join(SWAPPED), "".join(reversed(SWAPPED)))


@pytest.mark.parametrize(
    "source",
    [
        SOURCE,
        SOURCE.replace("rows", "lines").replace("# M×K", "# another word"),
        SOURCE.replace('"""c = a @ b', '"""The product'),
        SOURCE.replace("\n\n\n", "\n\n"),
    ],
)
def test_other_names_and_comments_are_nothing_new(known: Near, source: str) -> None:
    once = asked_anew(known, candidate(2, source), asked(), may_ask=True)
    assert isinstance(once, Asked)
    assert once.prompt.user.startswith("Make it faster.")
    assert "nearly the same as 00001-" in once.prompt.user
    assert "The last tile is wrong." in once.prompt.user
    ruled = asked_anew(known, candidate(2, source), once, may_ask=True)
    assert isinstance(ruled, str)
    assert "was INCORRECT; it was not judged again" in ruled
    assert isinstance(asked_anew(known, candidate(2, source), asked(), may_ask=False), str), "nobody to ask: ruled out"


def test_who_insists_on_another_order_is_judged(known: Near) -> None:
    once = asked_anew(known, candidate(2, swapped()), asked(), may_ask=True)
    assert isinstance(once, Asked)
    assert asked_anew(known, candidate(2, swapped()), once, may_ask=True) is None
    assert asked_anew(known, candidate(2, swapped()), asked(), may_ask=False) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("BLOCK_M=64", "BLOCK_M=128"),
        ("tl.arange(0, BLOCK_M)", "tl.max_contiguous(tl.arange(0, BLOCK_M), 8)"),
        ("pid // tiles_n", "pid % tiles_n"),
        ('"ieee"', '"tf32"'),
    ],
)
def test_a_number_an_operator_or_a_word_is_news(known: Near, old: str, new: str) -> None:
    changed = SOURCE.replace(old, new)
    assert changed != SOURCE
    assert asked_anew(known, candidate(2, changed), asked(), may_ask=True) is None


def test_what_python_cannot_read_is_for_the_judge(known: Near) -> None:
    for source in ("def f(:\n", "x = 'open\n", "  x\n y\n", "\x00", "x = 1"):
        assert asked_anew(known, candidate(4, source), asked(), may_ask=True) is None
        known.observe(judged(3, source))  # takes no print, or one


def test_it_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "REMEMBERED", 2)
    made = Near()
    for step, number in enumerate((7, 8, 9)):
        made.observe(judged(step, f"x = {number}\n"))
        made.twin("y")  # prints are taken when they are asked for
    found = [made.twin(f"z = {number}\n") for number in (7, 8, 9)]
    assert [twin and twin.name[:5] for twin in found] == [None, "00001", "00002"]
    assert HEADING not in asked().prompt.user
