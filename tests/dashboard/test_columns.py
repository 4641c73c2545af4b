"""Columns and windows against the journal that they are cut from, and what strangers' text becomes in a page."""

from __future__ import annotations

import json
import threading
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from evolve import lineage
from evolve.dashboard import family, frame
from evolve.dashboard.columns import VERDICTS, Columns
from evolve.dashboard.diffs import coloured, compare
from evolve.dashboard.shelf import Shelf
from evolve.journal import Journal
from evolve.terminal.words import clean

from .conftest import record, synthetic

WORDS = st.text(st.characters(codec="utf-8"), max_size=300)


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], Path]:
    folder = tmp_path_factory.mktemp("grown") / "runs" / "one"
    return list(synthetic.events(300)), record(folder, 300)


def test_columns_that_followed_are_columns_that_were_read_at_once(tmp_path: Path, grown: Any) -> None:
    events, whole = grown
    following = Columns()
    with Journal.create(tmp_path / "r", config_text="", meta=synthetic.META) as journal:
        for start in range(0, len(events), 37):
            journal.append_all(events[start : start + 37])
            following.refresh(journal)
    with Journal.open(whole) as journal:
        at_once = Columns().refresh(journal)
        scores = dict(journal.query("SELECT step, score FROM steps"))
        for step in (0, 1, 17, 299):
            name = journal.query("SELECT candidate_id FROM steps WHERE step = ?", (step,))[0][0]
            assert at_once.descendants(step) == (lineage.descendants(journal, name) if name else 0)
    for name in ("step", "generation", "island", "score", "low", "high", "confirmed", "beats", "parent"):
        assert np.array_equal(getattr(following, name), getattr(at_once, name)), name
    for name, words in (("verdict", "verdicts"), ("member", "members"), ("kind", "kinds")):
        told = [[getattr(c, words).words[i] for i in getattr(c, name)] for c in (following, at_once)]
        assert told[0] == told[1]
    assert {int(s): float(v) for s, v in zip(at_once.step, at_once.score, strict=True)} == scores


def test_pages_that_refresh_at_once_do_not_disturb_each_other(tmp_path: Path, grown: Any) -> None:
    events, _ = grown
    faults: list[BaseException] = []
    with Journal.create(tmp_path / "runs" / "r", config_text="", meta=synthetic.META) as journal:
        journal.append_all(events[:50])
        book = Shelf(tmp_path / "runs").book("r")
        done = threading.Event()

        def look() -> None:
            try:
                while not done.is_set():
                    with book.journal() as mine:
                        family.points(mine, book.columns(mine), family.View())
            except BaseException as error:
                faults.append(error)

        threads = [threading.Thread(target=look) for _ in range(3)]
        for thread in threads:
            thread.start()
        for event in events[50:]:
            journal.append(event)
        done.set()
        for thread in threads:
            thread.join()
        with book.journal() as mine:
            assert book.columns(mine).seq == journal.last_seq()
        book.close()
    assert faults == []


def test_a_crowded_window_keeps_the_best_of_each_spot(grown: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family, "MOST", 60)
    monkeypatch.setattr(family, "ACROSS", 8)
    monkeypatch.setattr(family, "UP", 3)
    with Journal.open(grown[1]) as journal:
        columns = Columns().refresh(journal)
        found = family.points(journal, columns, family.View())
        best = max(columns.score[columns.ranked])
    assert found["inside"] == found["all"] == 300
    assert found["shown"] < 150
    assert max(y for y in found["y"] if y is not None) == pytest.approx(best, abs=1e-4)
    assert {found["verdicts"][v] for v in found["v"]} == {VERDICTS[v] for v in np.unique(columns.verdict)}
    sure = columns.step[columns.ranked & columns.confirmed & columns.beats]
    assert set(sure.tolist()) <= set(found["s"])


@given(st.dictionaries(st.sampled_from(["axis", "colour", "x0", "x1", "y0", "y1", "of", "island", "member"]), WORDS))
def test_a_view_is_read_from_any_address(query: dict[str, str]) -> None:
    view = family.View.read(query)
    assert view.axis in family.AXES
    assert view.colour in family.COLOURS
    assert family.View.read(view.query).query == view.query


@given(st.recursive(WORDS, lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner), max_leaves=8))
def test_json_in_a_page_cannot_end_its_element(value: Any) -> None:
    text = frame.data_island(value)
    assert not set("<>&") & set(text)
    assert json.loads(text) == value


@settings(deadline=None)
@given(WORDS, WORDS)
def test_sources_side_by_side_are_their_lines_and_nothing_else(old: str, new: str) -> None:
    found = compare(old, new)
    for side, text in (("old", old), ("new", new)):
        lines = clean(text).split("\n")
        for line in found.lines:
            if line.skipped:
                continue
            one = getattr(line, side)
            if one.number is not None:
                assert _text(one.html) == lines[one.number - 1]
    assert found.same == (clean(old).split("\n") == clean(new).split("\n"))
    assert [_text(line) for line in coloured(new)] == clean(new).split("\n")


def _text(html: Markup) -> str:
    """What is left when our own marks are taken out; anything else that looks like one fails the comparison."""
    import re

    return unescape(re.sub(r'<span class="t\w">|</span>|<mark>|</mark>', "", str(html)))
