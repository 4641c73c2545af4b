"""The page of one run: what is best, how it came, who proposed it, what it cost, and what happens now."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from evolve import lineage
from evolve.dashboard import charts
from evolve.dashboard.columns import VERDICTS, Columns
from evolve.dashboard.runs import best_of_n
from evolve.dashboard.shelf import Book, Shelf
from evolve.journal import Journal
from evolve.journal_codec import read
from evolve.sentences import sentence
from evolve.types import Confirmed, Judged, Noted

FEED = 30
CLOUD = 1200  # faint dots behind the curve
BINS = 60
MULTIPLES = 12
RISES = 60  # of the best, whose workloads are drawn
PALETTE = 8


def context(shelf: Shelf, book: Book, journal: Journal) -> dict[str, Any]:
    columns = book.columns(journal)
    best = lineage.best(journal)
    measured = journal.attempt(str(best.candidate_id)).evaluation if best else None
    baselines = sorted({m.baseline for m in measured.measurements}) if measured else []
    return {
        **head(journal),
        "best": best,
        "seed": lineage.ancestors(journal, str(best.candidate_id))[0] if best else None,
        "measurements": measured.measurements if measured else (),
        "baseline": baselines[0] if len(baselines) == 1 else "its baselines" if baselines else "baseline",
        "waiting": lineage.waiting(journal),
        "curve": book.keep("curve", journal, lambda: _curve(shelf, book, journal, columns)),
        "multiples": book.keep("multiples", journal, lambda: _multiples(journal, columns)),
        "verdicts": book.keep("verdicts", journal, lambda: _verdicts(columns)),
        "counts": lineage.verdict_counts(journal),
        "unfinished": lineage.unfinished(journal),
        "council": sorted(lineage.scoreboard(journal), key=lambda m: (-m.improved, m.member)),
        "shares": book.keep("shares", journal, lambda: _shares(columns)),
        "budget": _budget(lineage.spend(journal), journal.meta.get("budget") or {}),
        "feed": _feed(journal),
    }


def head(journal: Journal) -> dict[str, Any]:
    """What every page of a run has at its top."""
    state, told = lineage.state(journal)
    return {
        "meta": journal.meta,
        "run": journal.folder.name,
        "folder": str(journal.folder),
        "state": state,
        "told": told,
        "seq": journal.last_seq(),
        "steps": journal.last_step() + 1,
        "now": time.time(),
    }


# --- The curve ------------------------------------------------------------------------------------------------------


def _curve(shelf: Shelf, book: Book, journal: Journal, columns: Columns) -> charts.Spec:
    """First figures as a thin line, what was confirmed as a thick one with its interval, all that passed as a haze."""
    modelled = lineage.best(journal)
    what = "modelled score" if modelled and modelled.modelled else "score"
    spec = charts.chart(x="step", y=f"{what} (× baseline)", height=300, lines=[[1.0, "baseline"]])
    if not len(columns.step):
        return charts.aligned(spec)
    end, ranked = int(columns.step[-1]), columns.ranked
    cloud = np.flatnonzero(ranked)
    cloud = cloud[:: max(1, -(-len(cloud) // CLOUD))]
    charts.add(spec, "passed", columns.step[cloud], columns.score[cloud], "points", "faint")
    first = columns.rises(ranked)
    charts.add(spec, "best, first figure", *charts.held(columns.step[first], columns.score[first], end), "step", "c2")
    sure = columns.rises(ranked & columns.confirmed & columns.beats)
    if len(sure):
        steps = columns.step[sure]
        if not (modelled and modelled.modelled):
            charts.add(spec, "interval", *charts.held(steps, columns.high[sure], end), "edge", "c1")
            charts.add(spec, "", *charts.held(steps, columns.low[sure], end), "edge", "c1", band=True)
        charts.add(spec, "best, confirmed", *charts.held(steps, columns.score[sure], end), "step", "c1", width=2)
        charts.add(spec, "confirmed", steps, columns.score[sure], "marks", "c1")
    other = best_of_n(shelf, book, str(journal.meta.get("ranking_key", "")))
    if other is not None:
        with other.journal() as second:
            theirs = other.columns(second)
            rises = theirs.rises(theirs.ranked & (theirs.step <= end))
            drawn = charts.held(theirs.step[rises], theirs.score[rises], min(end, int(theirs.step[-1])))
        charts.add(spec, f"best of N ({other.name})", *drawn, "step", "c4", dash=True)
    return charts.aligned(spec)


def _multiples(journal: Journal, columns: Columns) -> list[dict[str, Any]]:
    """A small chart a workload: its ratio at each confirmed best, or at each best where none is confirmed."""
    sure = columns.rises(columns.ranked & columns.confirmed & columns.beats)
    places = sure if len(sure) else columns.rises(columns.ranked)
    places = places[:: max(1, -(-len(places) // RISES))] if len(places) > RISES else places
    found: dict[str, list[tuple[int, Any]]] = {}
    for place in places:
        for one in _measured(journal, int(columns.step[place])):
            found.setdefault(one["workload"], []).append((int(columns.step[place]), one))
    end = int(columns.step[-1]) if len(columns.step) else 0
    return [_multiple(name, rows, end) for name, rows in list(found.items())[:MULTIPLES]]


def _measured(journal: Journal, step: int) -> list[Mapping[str, Any]]:
    """The step's latest measurements, without its evidence, which is long."""
    body = journal.query(
        "SELECT e.body FROM steps s JOIN events e ON e.seq = coalesce(s.confirmed_seq, s.judged_seq) WHERE s.step = ?",
        (step,),
    )
    return list(read(body[0][0])["evaluation"].get("measurements", ())) if body else []


def _multiple(name: str, rows: list[tuple[int, Any]], end: int) -> dict[str, Any]:
    steps, last = [step for step, _ in rows], rows[-1][1]
    spec = charts.chart(x="step", y="× baseline", height=104, lines=[[1.0, ""]], small=True)
    if not last.get("modelled"):
        charts.add(spec, "high", *charts.held(steps, [m["ratio_high"] for _, m in rows], end), "edge", "c1")
        charts.add(spec, "low", *charts.held(steps, [m["ratio_low"] for _, m in rows], end), "edge", "c1", band=True)
    charts.add(spec, "ratio", *charts.held(steps, [m["ratio"] for _, m in rows], end), "step", "c1", width=2)
    return {"name": name, "last": last, "spec": charts.aligned(spec)}


# --- Verdicts and members over the steps ----------------------------------------------------------------------------


def _bins(columns: Columns) -> tuple[np.ndarray[Any, Any], list[float], int]:
    """To which bin each step belongs, where the bins end, and how many steps one takes."""
    end = int(columns.step[-1]) + 1
    size = max(1, -(-end // BINS))
    count = -(-end // size)
    return columns.step // size, [min(end, (i + 1) * size) - 1 for i in range(count)], size


def _verdicts(columns: Columns) -> charts.Spec:
    if not len(columns.step):
        return charts.aligned(charts.chart(x="step", y="steps"))
    bins, ends, size = _bins(columns)
    spec = charts.chart(
        x="step", y=f"% of {size} steps" if size > 1 else "verdict", height=170, zero=True, top=100, legend=False
    )
    whole = np.maximum(np.bincount(bins, minlength=len(ends)), 1)
    rows: dict[str, list[float]] = {}
    for place, name in enumerate(VERDICTS):
        counts = np.bincount(bins[columns.verdict == place], minlength=len(ends))
        if counts.any():
            rows[name] = [float(n) for n in 100 * counts / whole]
    names = sorted(rows, key=lambda name: (name != "PASSED", VERDICTS.index(name)))
    charts.stacked(spec, names, ends, rows, {name: f"v-{name}" for name in names})
    return charts.aligned(spec)


def _shares(columns: Columns) -> charts.Spec:
    """What part of the asks went to each member: where weights are adaptive, this is what they came to."""
    if not len(columns.step):
        return charts.aligned(charts.chart(x="step", y="share"))
    bins, ends, _ = _bins(columns)
    spec = charts.chart(x="step", y="share of asks, %", height=170, zero=True, top=100)
    names = [w for w in columns.members.words if w and w != "seed"]
    counts = {
        name: np.bincount(bins[columns.member == columns.members.place(name)], minlength=len(ends)).astype(float)
        for name in names
    }
    names = sorted((n for n in names if counts[n].any()), key=lambda n: -counts[n].sum())
    whole = np.maximum(sum(counts.values(), np.zeros(len(ends))), 1)
    rows = {name: [float(v) for v in 100 * counts[name] / whole] for name in names}
    charts.stacked(spec, names, ends, rows, {n: f"c{i % PALETTE + 1}" for i, n in enumerate(names)})
    return charts.aligned(spec)


# --- Budget and feed ------------------------------------------------------------------------------------------------


def _budget(spent: lineage.Spend, limits: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = (
        ("steps", spent.steps, "steps", "count"),
        ("dollars", spent.cost_usd, "usd", "money"),
        ("tokens", spent.tokens_in + spent.tokens_out, "tokens", "count"),
        ("run time", spent.seconds, "seconds", "duration"),
        ("GPU time", spent.gpu_seconds, "gpu_seconds", "duration"),
    )
    found = []
    for name, value, key, unit in rows:
        limit = limits.get(key)
        limit = limit if isinstance(limit, int | float) and limit > 0 else None
        if value or limit:
            found.append({"name": name, "value": value, "limit": limit, "unit": unit})
    return found


def _feed(journal: Journal) -> list[dict[str, Any]]:
    """The latest events as sentences, the newest first."""
    told: list[dict[str, Any]] = []
    for logged in journal.events(max(0, journal.last_seq() - 4 * FEED), evidence=False):
        event = logged.event
        if not isinstance(event, Judged | Confirmed | Noted):
            continue
        verdict = event.evaluation.verdict.value if isinstance(event, Judged | Confirmed) else ""
        kind = "confirmed" if isinstance(event, Confirmed) else "noted" if isinstance(event, Noted) else verdict
        link = event.candidate_id if isinstance(event, Confirmed) else None
        if isinstance(event, Judged) and event.candidate:
            link = event.candidate.id
        told.append({"seq": logged.seq, "at": logged.at, "kind": kind, "text": sentence(event), "link": link})
    return told[: -FEED - 1 : -1]
