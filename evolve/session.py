"""One session of a run: from the replay of its journal to its last line, with interrupts obeyed on the way.

What came before it (which run, which judge, which seed) is `runner.py`'s, and how a step goes is `loop.py`'s.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from evolve import wiring
from evolve.config import RunConfig
from evolve.council import Council
from evolve.errors import MachineryError
from evolve.inbox import Inbox
from evolve.journal import Journal
from evolve.loop import Search
from evolve.problem import Problem
from evolve.ranked import Ranked, keep_up
from evolve.seams import Observer
from evolve.terminal.live import Board, LiveView
from evolve.terminal.summary import summary
from evolve.types import Attempt, Confirmed, Event, Judged, Noted

Result = TypeVar("Result")
INTERRUPTED = "interrupted"
# Candidates beside those that wait for a reply. A GPU is kept busy by three; with all of 16 cores' worth in flight a
# generation took over two minutes (H200, tuned matmul), and what was learned came too late to be bred from.
JUDGED_AT_ONCE = 4
AT_ONCE = ("rules", "replay")  # members whose replies take no time


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a run works with from its first moment to its last."""

    config: RunConfig
    problem: Problem
    council: Council
    console: Console


def search(journal: Journal, wanted: Wanted, bench: wiring.Bench, secret: str) -> int:
    config = wanted.config
    parts = wiring.parts(config, wanted.problem, bench, journal, wanted.council)
    board = Board(
        name=journal.folder.name,
        best=lambda: parts.population.best,
        members=lambda: parts.council.standings.of,
        budget=parts.budget,
    )
    view = LiveView(board, wanted.console)
    searching = restored(journal, config, parts, bench, secret, view)
    inbox = Inbox.of(searching, config)
    keeping = keep_up(searching, parts.population, bench, inbox, lambda gpus: in_flight(config, bench.width, gpus))
    why = _until_done(searching, journal, view, parts.council, inbox, keeping)
    interrupted, best = why == INTERRUPTED, parts.population.best
    summary(wanted.console, journal, best, why, go_on=go_on(config, journal.folder) if interrupted else None)
    for key, other in parts.population.bests.items():
        if key != bench.ranking_key:
            wanted.console.print(f"Best by {key}: {other.id}, score {other.score:.3f}.", markup=False, highlight=False)
    return 130 if interrupted else 0 if best else 1


def restored(
    journal: Journal, config: RunConfig, parts: wiring.Parts, bench: wiring.Bench, secret: str, view: Observer
) -> Search:
    """The search where its journal left it: every state is a fold over the events on record."""
    for logged in journal.events(evidence=False):
        parts.budget.observe(logged.event, logged.at)  # wall time is that of the sessions on record
        for observer in (parts.population, parts.council, parts.near, view):
            observer.observe(logged.event)
    parts.council.warnings()  # said when they came up
    search = Search(
        journal=journal,
        population=parts.population,
        council=parts.council,
        budget=parts.budget,
        executor=Ranked(bench.executor, parts.population),
        render=parts.render,
        read=parts.read,
        again=parts.again,
        secret=secret,
        next_step=journal.last_step() + 1,
        replies=config.concurrency.replies,
        in_flight=in_flight(config, bench.width, sum(bench.present().values())),
        watch=(parts.near, view, _BestFile(journal, parts.population)),
    )
    parts.council.told = lambda text, step: search.commit(Noted(what="resting", text=text, step=step))
    return search


def in_flight(config: RunConfig, width: int, stations: int = 1) -> int:
    """So many for each GPU, and for members that take time. Those that answer at once need no lane of their own: their
    steps would wait for the judge, with parents that were chosen too early."""
    quick = all(m.member in AT_ONCE for m in config.council if m.weight > 0)
    judged = min(width, JUDGED_AT_ONCE) * max(1, stations)
    return config.concurrency.steps or (1 if quick else config.concurrency.replies) + judged


def _until_done(
    search: Search,
    journal: Journal,
    view: LiveView,
    council: Council,
    inbox: Inbox,
    keeping: Coroutine[Any, Any, None],
) -> str:
    interrupts = _Interrupts(search=search, journal=journal, view=view)
    view.reader_left = interrupts.obey

    async def supervised() -> str:
        drawing, taking = asyncio.create_task(view.keep_fresh()), asyncio.create_task(inbox.watch())
        kept = asyncio.create_task(keeping)
        for task in (taking, kept):  # they end by themselves only if something is wrong with them
            task.add_done_callback(lambda task: None if task.cancelled() else search.stop("its surroundings broke"))
        pending = [p for p in journal.pending() if not inbox.holds(p)]
        try:
            inbox.look()  # replies that were waiting are judged even where no budget is left for steps
            return await search.run(pending)
        finally:
            for task in (taking, drawing, kept):
                task.cancel()
            await inbox.rest()
            await council.close()
            for task in (taking, kept):
                with suppress(asyncio.CancelledError):
                    await task

    with view:
        why = in_loop(supervised(), interrupts.obey)
    why = INTERRUPTED if interrupts.count else why
    journal.append(
        Noted(what=INTERRUPTED if why == INTERRUPTED else "finished", text=f"{journal.folder.name} ended: {why}.")
    )
    return why


@dataclass(kw_only=True)
class _Interrupts:
    """The first one ends the run in order, the second at once: every child dies with this process."""

    search: Search
    journal: Journal
    view: LiveView
    count: int = 0

    def obey(self) -> None:
        self.count += 1
        if self.count > 1:
            self.view.stop()
            print("evolve: stopped at once; what was in flight is judged or asked again by --resume.", file=sys.stderr)
            sys.stderr.flush()
            os._exit(130)
        dropped = self.search.stop(INTERRUPTED)
        judged = sorted(self.view.board.flying - set(dropped))
        text = (
            f"Interrupted: what is being judged comes to its end (steps: {_listed(judged)}); dropped before their "
            f"reply, and asked again by --resume: {_listed(dropped)}. A second interrupt stops at once."
        )
        noted = Noted(what="stopping", text=text, data={"dropped": dropped, "finishing": judged})
        with suppress(MachineryError):  # the search comes upon a full disk by itself
            self.journal.append(noted)
        self.view.observe(noted)
        self.view.stopping()


def _listed(steps: list[int]) -> str:
    return ", ".join(map(str, steps)) or "none"


@dataclass
class _BestFile:
    """Keeps `best.py` beside the journal."""

    journal: Journal
    population: Any
    written: str = ""

    def observe(self, event: Event) -> None:
        if not isinstance(event, Judged | Confirmed):
            return
        best: Attempt | None = self.population.best
        if best and best.id != self.written:
            self.journal.write_best(best.candidate.source)
            self.written = best.id


def in_loop(work: Coroutine[Any, Any, Result], heed: Callable[[], object] | None = None) -> Result:
    """`asyncio.run`, with SIGINT and SIGTERM given to `heed`, which without one cancels the work. Either of them is
    kept for later while the loop is made or closed: an exception out of nowhere would leave it in pieces."""
    kept: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)

    def keep(number: int, frame: object) -> None:
        kept.append(number)

    async def heeding() -> Result:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        for number in numbers:
            loop.add_signal_handler(number, heed or task.cancel)
        if kept:
            (heed or task.cancel)()
            kept.clear()
        try:
            return await work
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)
                signal.signal(number, keep)

    before = {number: signal.signal(number, keep) for number in numbers}
    try:
        made = asyncio.run(heeding())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if kept and not heed:
        raise KeyboardInterrupt
    return made


def go_on(config: RunConfig, folder: Path) -> str:
    return shlex.join(["evolve", "run", "--config", config.source, "--resume", folder.name])
