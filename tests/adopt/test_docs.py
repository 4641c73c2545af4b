"""docs/your-own-kernel.md is true: its files adopt as it says, and print what it shows."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from evolve import newproblem

PAGE = Path(__file__).parent.parent.parent / "docs" / "your-own-kernel.md"


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.slow
def test_the_page_prints_what_it_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kernel, reference, seed, *_ = blocks("python")
    Path("softmax_scale.py").write_text(kernel, encoding="utf-8")
    Path("softmax_ref.py").write_text(reference, encoding="utf-8")
    order = newproblem.Order(
        name="scaled_softmax", kernel="softmax_scale.py:scaled_softmax", reference="softmax_ref.py:reference"
    )
    out = io.StringIO()
    assert newproblem.make(order, Console(file=out, width=200)) == 0
    said = [re.sub(r"[\d.]+ (µs|of its)", r"N \1", line) for line in out.getvalue().splitlines()]
    for line in blocks("text")[0].splitlines():
        assert re.sub(r"[\d.]+ (µs|of its)", r"N \1", line) in said
    written = Path("seeds/scaled_softmax.py").read_text(encoding="utf-8")
    for line in seed.splitlines():
        if "..." not in line:
            assert line in written.splitlines()


def test_the_page_names_options_that_are_there():
    text = PAGE.read_text(encoding="utf-8")
    assert {"--kernel", "--reference", "--model"} <= set(re.findall(r"--[a-z]+", text))
