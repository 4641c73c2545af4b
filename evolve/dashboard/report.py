"""`--save`: one run as one HTML file that needs neither this program nor a network, and that prints.

The same pieces as the pages, in their order, with the style sheet and the scripts inside. The scripts that may run are
named by their digests in the file's own policy, so that a source in it stays text here too.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

from markupsafe import Markup

from evolve import lineage
from evolve.dashboard import candidate, cells, family, frame, hypotheses, run
from evolve.dashboard.diffs import Diff
from evolve.dashboard.shelf import Shelf
from evolve.errors import UsageError
from evolve.journal import Journal
from evolve.journal_schema import Row

STATIC = Path(__file__).parent / "static"
STYLES = ("vendor/uPlot.min.css", "style.css")
SCRIPTS = ("theme.js", "vendor/uPlot.iife.min.js", "charts.js", "lineage.js")
LINK = re.compile(r'<a\b[^>]*?href="/r/[^"]*/c/([0-9]+-[0-9a-f]+)"[^>]*>|<a\b[^>]*?href="/[^"]*"[^>]*>')


def save(shelf: Shelf, name: str, path: Path) -> int:
    """Write it, and say how long it is."""
    page = report(shelf, name)
    try:
        return path.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(
            f"--save {path}: cannot be written: {error.strerror}; name a file in another folder."
        ) from error


def report(shelf: Shelf, name: str) -> str:
    book = shelf.book(name)
    with book.journal() as journal:
        columns, view = book.columns(journal), family.View()
        values: dict[str, Any] = {
            **run.context(shelf, book, journal),
            "points": family.points(journal, columns, view),
            "view": view,
            "environment": {k: v for k, v in journal.environment.items() if k != "secret"},
            "config_text": journal.config_text,
            "lessons": hypotheses.learned(journal),
            "found": hypotheses.context(journal, columns, hypotheses.Filter())["found"],
            "saved": True,
        }
        axes = tuple(journal.meta.get("axes") or {})
        values["grid"] = cells.context(journal, columns, cells.Places(axes=axes).refresh(journal))
        best = lineage.best(journal)
        values["page"] = None
        if best is not None:
            page = candidate.context(book, journal, best)
            values["page"] = {
                **page,
                "saved": True,
                "steps": {s.row.step: _step(journal, s.row) for s in page["waterfall"]},
            }
    scripts = [Markup((STATIC / file).read_text(encoding="utf-8")) for file in SCRIPTS]
    values |= {
        "styles": [Markup((STATIC / file).read_text(encoding="utf-8")) for file in STYLES],
        "scripts": scripts,
        "policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src "
        + " ".join(f"'sha256-{_digest(script)}'" for script in scripts),
    }
    return _inside(frame.render("report.html", values))


def _step(journal: Journal, row: Row) -> Diff | None:
    diff: Diff | None = candidate.step(journal, row)["diff"]
    return diff


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _inside(page: str) -> str:
    """Links to pages that are not here become text; a link to the best one leads to its place in the file."""
    return re.sub(r"</a>", "</span>", LINK.sub(_link, page)) if "</a>" in page else page


def _link(found: re.Match[str]) -> str:
    title = re.search(r'title="[^"]*"', found[0])
    kind = ' class="id"' if found[1] else ""
    return f"<span{kind}{' ' + title[0] if title else ''}>"
