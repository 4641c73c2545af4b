"""A run from its order to its last line: begin or resume, search, say what came of it.

What the parts are is `wiring.py`'s affair and how they search `loop.py`'s; here stand the order of things at the edges:
the seed is judged before anything is written, everything is committed before it is shown, and an interrupt is obeyed.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

import evolve
from evolve import wiring
from evolve.config import RunConfig, dump, load_config
from evolve.errors import JournalError, MachineryError, SeedError
from evolve.journal import Journal
from evolve.loop import Search, seeds_of
from evolve.problem import Problem
from evolve.runs import find_run, latest_run, named, new_run_folder
from evolve.seams import Pending
from evolve.sentences import figure
from evolve.terminal.live import Board, LiveView
from evolve.types import Attempt, Candidate, Confirmed, Draw, Evaluation, Event, Executor, Job, Judged, Noted, Verdict

RUNS = Path("runs")
INTERRUPTED = "interrupted"
# What a score means hangs on these; a resumed run keeps them.
FIXED = ("problem", "variant", "workloads", "backend", "target", "random_seed", "strategy", "database")


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the caller asked for."""

    config: Path
    overrides: tuple[str, ...] = ()
    name: str | None = None
    resume: bool = False
    earlier: str | None = None


def run(order: Order) -> int:
    """Search; 0 if the run ended by itself with a best, 1 without one, 130 when interrupted."""
    console = Console()
    config = load_config(order.config, order.overrides)
    for warning in config.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False)
    problem = wiring.problem(config)
    if order.resume:
        return _resume(order, config, problem, console)
    folder = RUNS / order.name if order.name else new_run_folder(RUNS, config.name)
    if folder.exists():
        raise JournalError(f"{folder}: exists already; go on with it by --resume, or choose another --name.")
    return _begin(folder, config, problem, console)


def _begin(folder: Path, config: RunConfig, problem: Problem, console: Console) -> int:
    seeds = [_seed_source(text) for text in config.seeds]
    secret = secrets.token_hex(16)
    with console.status("starting the judge"):
        bench = wiring.open_bench(config, problem, seeds[0] if seeds else None)
    with closing(bench.executor):
        with console.status("judging the seed"):
            planted = asyncio.run(_judge_seeds(config, seeds, bench.executor, secret))
        environment = {**bench.environment, "secret": secret, "calibration": bench.calibration}
        meta = wiring.meta(config, problem, bench, evolve.__version__)
        with closing(Journal.create(folder, config_text=dump(config), environment=environment, meta=meta)) as journal:
            events: list[Event] = [Noted(what="started", text=f"{folder.name} began on {bench.device}."), *planted]
            journal.append_all(events)
            return _search(journal, config, problem, bench, secret, console)


def _resume(order: Order, config: RunConfig, problem: Problem, console: Console) -> int:
    folder = find_run(order.earlier, RUNS) if order.earlier else latest_run(RUNS, config.name)
    if folder is None:
        raise JournalError(f"{RUNS}/: no run of {config.name} to resume; leave out --resume to begin one.")
    with closing(Journal.open(folder, write=True)) as journal:
        _same(config, problem, folder, journal)
        environment: Mapping[str, Any] = journal.environment
        with console.status("starting the judge"):
            bench = wiring.open_bench(config, problem, None, calibration=environment["calibration"])
        with closing(bench.executor):
            if bench.ranking_key != journal.meta["ranking_key"]:
                raise JournalError(
                    f"{folder}: was judged as {journal.meta['ranking_key']}, here it would be {bench.ranking_key}: "
                    f"scores would not compare. Begin another run from its best: --set 'seeds=[{folder.name}:best]'."
                )
            journal.append(Noted(what="resumed", text=f"{folder.name} was resumed on {bench.device}."))
            return _search(journal, config, problem, bench, environment["secret"], console)


def _same(config: RunConfig, problem: Problem, folder: Path, journal: Journal) -> None:
    before = load_config(folder / "config.yaml")
    for key in FIXED:
        old, new = getattr(before, key), getattr(config, key)
        if old != new:
            raise JournalError(
                f"{folder}: began with {key} = {_short(old)}, and {config.source} now says {_short(new)}; scores would "
                f"not compare. Put it back, or begin another run with --set 'seeds=[{folder.name}:best]'."
            )
    if problem.digest != journal.meta["problem_digest"]:
        raise JournalError(
            f"{folder}: {config.problem} has changed since the run began; scores would not compare. "
            f"Begin another run with --set 'seeds=[{folder.name}:best]'."
        )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _seed_source(text: str) -> str:
    """A file, or `RUN:ID`: a warm start."""
    if Path(text).is_file():
        return Path(text).read_text(encoding="utf-8")
    place = named(text, RUNS)
    with closing(Journal.open(place.folder)) as journal:
        return journal.attempt(journal.resolve(place.selector or "best")).candidate.source


async def _judge_seeds(config: RunConfig, seeds: list[str], executor: Executor, secret: str) -> list[Judged]:
    """Each seed as a step of its own, from 0. One that fails its own judgement is the caller's to mend."""
    judged: list[Judged] = []
    for step, source in enumerate(seeds):
        candidate = Candidate(
            step=step, source=source, member="seed", kind="seed", island=step % config.database.num_islands
        )
        evaluation = await executor.evaluate(Job(candidate=candidate, random_seeds=seeds_of(secret, candidate.id)))
        if not evaluation.passed:
            raise SeedError(
                f"{config.seeds[step]}: the seed fails its own judgement: {evaluation.verdict} in {evaluation.stage}.\n"
                f"{evaluation.feedback}\n"
                f"Mend it first; `evolve judge {config.seeds[step]} --problem {config.problem}` judges it alone."
            )
        judged.append(Judged(step=step, candidate=candidate, evaluation=evaluation))
    return judged


def _search(
    journal: Journal, config: RunConfig, problem: Problem, bench: wiring.Bench, secret: str, console: Console
) -> int:
    parts = wiring.parts(config, problem, bench, journal)
    board = Board(
        name=journal.folder.name, steps=config.budget.steps, best=lambda: parts.population.best, left=parts.budget.left
    )
    view = LiveView(board, console)
    for logged in journal.events(evidence=False):
        parts.budget.observe(logged.event, logged.at)  # wall time is that of the sessions on record
        for observer in (parts.population, parts.council, view):
            observer.observe(logged.event)
    parts.council.warnings()  # said when they came up
    last = journal.last_step()
    search = Search(
        journal=journal,
        population=parts.population,
        council=parts.council,
        budget=parts.budget,
        executor=bench.executor,
        render=parts.render,
        read=parts.read,
        secret=secret,
        next_step=0 if last is None else last + 1,
        replies=config.concurrency.replies,
        in_flight=config.concurrency.steps or config.concurrency.replies + bench.width,
        watch=(view, _BestFile(journal, parts.population)),
    )
    with view:
        why = _until_done(search, journal, journal.pending())
    return _summary(journal, parts.population.best, why, console)


def _until_done(search: Search, journal: Journal, pending: list[Pending]) -> str:
    async def supervised() -> str:
        with _interruptible(search, journal):
            return await search.run(pending)

    try:
        why = asyncio.run(supervised())
    except MachineryError as error:
        raise MachineryError(
            f"{error}\nNothing is lost: `evolve run --resume` goes on with {journal.folder}."
        ) from error
    journal.append(
        Noted(what=INTERRUPTED if why == INTERRUPTED else "finished", text=f"{journal.folder.name} ended: {why}.")
    )
    return why


@contextmanager
def _interruptible(search: Search, journal: Journal) -> Iterator[None]:
    """The first signal ends the run in order, the second at once: every child dies with this process."""

    def obey() -> None:
        if search.stopping == INTERRUPTED:
            os._exit(130)
        dropped = search.stop(INTERRUPTED)
        names = ", ".join(map(str, dropped)) or "none"
        text = f"Interrupted: what is being judged comes to its end; dropped before their reply: {names}."
        journal.append(noted := Noted(what="stopping", text=text, data={"dropped": dropped}))
        for observer in search.watch:
            observer.observe(noted)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, obey)
    yield
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.remove_signal_handler(number)


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


def _summary(journal: Journal, best: Attempt | None, why: str, console: Console) -> int:
    folder = journal.folder
    console.print(f"\n{folder.name} ended: {why}.", markup=False)
    if best is None:
        console.print("No candidate passed the judge; `evolve show` says why.", markup=False)
    else:
        console.print(f"Best: {best.id} by {best.candidate.member}, score {figure(best.evaluation)}.", markup=False)
        for m in best.evaluation.measurements:
            called = " modelled" if m.modelled else ""
            console.print(
                f"  {m.workload:<16} {m.time_us:10.4g} µs{called}   {m.ratio:.3f} × {m.baseline}", markup=False
            )
        console.print(f"Source: {folder / 'best.py'}", markup=False)
    console.print("Try next:", markup=False)
    for command, what in (
        (f"evolve show {folder} --lineage", "how it came to be"),
        (f"evolve show {folder}:best --diff", "what its last step changed"),
        (f"evolve show {folder} --log", "every hypothesis and its outcome"),
    ):
        console.print(f"  {command:<52} {what}", markup=False, soft_wrap=True)
    if why == INTERRUPTED:
        return 130
    return 0 if best else 1


def dry_run(order: Order) -> int:
    """Everything that can be said without judging or asking anyone."""
    from evolve.terminal.dry_run import show

    config = load_config(order.config, order.overrides)
    problem = wiring.problem(config)
    draw = Draw(step=1, island=0, parent=_unjudged(_seed_source(config.seeds[0])) if config.seeds else None)
    kinds = config.prompt.kinds if draw.parent else {"draft": 1.0}
    kind = max(kinds, key=lambda k: kinds[k])
    show(config, prompt=wiring.renderer(config, problem, ())(draw, kind), console=Console())
    return 0


def _unjudged(source: str) -> Attempt:
    evaluation = Evaluation(verdict=Verdict.REJECTED, feedback="(Its measurements stand here once it is judged.)")
    return Attempt(candidate=Candidate(step=0, source=source, member="seed", kind="seed"), evaluation=evaluation)
