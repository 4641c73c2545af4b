"""The addresses of the dashboard, and what answers each. Everything is a GET of a journal; nothing is ever written.

/                               all runs
/r/RUN                          one run                    /r/RUN/pulse      its latest event's number
/r/RUN/lineage                  scatter and tree           /r/RUN/points     a window of it
/r/RUN/cells                    the grid                   /r/RUN/point/N    one step of it
/r/RUN/experiments              hypotheses, lessons        /r/RUN/tree/ID    what opens under a node
/r/RUN/c/ID                     a candidate                /r/RUN/c/ID/...   source, evidence, prompt, reply, diff
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlencode

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from evolve.dashboard import candidate, cells, family, frame, hypotheses, run, runs
from evolve.dashboard.shelf import Book, Missing, Shelf
from evolve.errors import EvolveError
from evolve.journal import Journal

THREADS = 4
STATIC = Path(__file__).parent / "static"
View: TypeAlias = Callable[[Request, Book, Journal], Response]


def application(shelf: Shelf) -> Starlette:
    few = CapacityLimiter(THREADS)

    def page(view: View) -> Callable[[Request], Awaitable[Response]]:
        """Views are plain functions on a few threads: a slow one holds nobody else up, and memory stays small."""

        def answer(request: Request) -> Response:
            book = shelf.book(request.path_params["run"])
            with book.journal() as journal:
                return view(request, book, journal)

        async def on_thread(request: Request) -> Response:
            return await to_thread.run_sync(answer, request, limiter=few)

        return on_thread

    async def every_run(request: Request) -> Response:
        text = await to_thread.run_sync(
            lambda: frame.render("runs.html", {**runs.context(shelf), "tab": "runs"}), limiter=few
        )
        return HTMLResponse(text)

    def one_run(request: Request, book: Book, journal: Journal) -> Response:
        return _html("run.html", run.context(shelf, book, journal), tab="run")

    addresses: list[tuple[str, View]] = [
        ("", one_run),
        ("/pulse", _pulse),
        ("/lineage", _lineage),
        ("/points", _points),
        ("/point/{step:int}", _point),
        ("/tree/{id}", _tree),
        ("/cells", _cells),
        ("/experiments", _experiments),
        ("/c/{id}", _candidate),
        ("/c/{id}/{part}", _part),
    ]
    return Starlette(
        routes=[
            Route("/", every_run),
            *(Route(f"/r/{{run}}{path}", page(view)) for path, view in addresses),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        exception_handlers={Missing: _missing, HTTPException: _missing, EvolveError: _broken, sqlite3.Error: _broken},
    )


def _html(template: str, values: dict[str, Any], **more: Any) -> Response:
    return HTMLResponse(frame.render(template, {**values, **more}))


def _missing(request: Request, error: Exception) -> Response:
    told = str(error) if isinstance(error, Missing) else "There is no such page."
    return HTMLResponse(frame.render("fault.html", {"told": told, "tab": ""}), 404)


def _broken(request: Request, error: Exception) -> Response:
    told = f"The journal cannot be read: {error}." if isinstance(error, sqlite3.Error) else str(error)
    return HTMLResponse(frame.render("fault.html", {"told": told, "tab": ""}), 500)


# --- One view an address --------------------------------------------------------------------------------------------


def _pulse(request: Request, book: Book, journal: Journal) -> Response:
    """Asked twice a second by every open page, so it costs next to nothing."""
    return JSONResponse({"seq": journal.last_seq()})


def _lineage(request: Request, book: Book, journal: Journal) -> Response:
    columns, view = book.columns(journal), family.View.read(request.query_params)
    tree = request.query_params.get("view") == "tree"
    values = {
        **run.head(journal),
        "view": view,
        "show_tree": tree,
        "choices": family.choices(columns),
        "points": None if tree else family.points(journal, columns, view),
        "nodes": family.tree(journal, view.of) if tree else [],
        "axes": family.AXES,
        "colours": family.COLOURS,
    }
    return _html("lineage.html", values, tab="lineage")


def _points(request: Request, book: Book, journal: Journal) -> Response:
    found = family.points(journal, book.columns(journal), family.View.read(request.query_params))
    return JSONResponse(found)


def _point(request: Request, book: Book, journal: Journal) -> Response:
    found = family.point(journal, min(request.path_params["step"], 2**62))
    if found is None:
        raise Missing("No such step.")
    return JSONResponse(found)


def _tree(request: Request, book: Book, journal: Journal) -> Response:
    row = candidate.find(journal, request.path_params["id"])
    skip = request.query_params.get("skip", "0")
    nodes = family.nodes(journal, str(row.candidate_id), int(skip) if skip.isdecimal() and len(skip) < 9 else 0)
    return _html("tree.html", {**nodes, "run": book.name})


def _cells(request: Request, book: Book, journal: Journal) -> Response:
    columns = book.columns(journal)
    axes = tuple(journal.meta.get("axes") or {})
    with book.lock:
        kept = book.keep_always(("places", axes), lambda: cells.Places(axes=axes))
        values = cells.context(journal, columns, kept.refresh(journal))
    return _html("cells.html", {**run.head(journal), **values}, tab="cells")


def _experiments(request: Request, book: Book, journal: Journal) -> Response:
    chosen = hypotheses.Filter.read(request.query_params)
    values = hypotheses.context(journal, book.columns(journal), chosen)
    values["lessons"] = book.keep("lessons", journal, lambda: hypotheses.learned(journal))
    values["next"] = urlencode({**chosen.query, "before": values["more"]}) if values["more"] is not None else ""
    return _html("experiments.html", {**run.head(journal), **values}, tab="experiments")


def _candidate(request: Request, book: Book, journal: Journal) -> Response:
    row = candidate.find(journal, request.path_params["id"])
    against = request.query_params.get("against", "parent").strip()[:80] or "parent"
    return _html("candidate.html", candidate.context(book, journal, row, against), tab="candidate")


def _part(request: Request, book: Book, journal: Journal) -> Response:
    """Long things, asked for when they are opened: as a text of its own, or as a piece of the page."""
    row, part = candidate.find(journal, request.path_params["id"]), request.path_params["part"]
    turn = journal.step(row.step)
    assert turn.attempt is not None
    if part == "source.py":
        return PlainTextResponse(turn.attempt.candidate.source.encode("utf-8", "replace"))
    if part == "source":
        return HTMLResponse(frame.code(turn.attempt.candidate.source))
    if part == "evidence.json":
        return PlainTextResponse(frame.pretty(dict(turn.attempt.evaluation.evidence), longest=10**8))
    if part == "diff":
        return _html("step.html", candidate.step(journal, row))
    raise Missing(f'A candidate has no "{part}".')
