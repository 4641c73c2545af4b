"""A run from its order to its last line: begin or resume, search, say what came of it.

What the parts are is `wiring.py`'s affair and how they search `loop.py`'s; here stand the order of things at the edges:
the seed is judged before anything is written, everything is committed before it is shown, and an interrupt is obeyed.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

import evolve
from evolve import wiring
from evolve.config import RunConfig, dump, load_config
from evolve.errors import ConfigError, JournalError, MachineryError, MemberUnavailable, SeedError, UsageError
from evolve.journal import Journal
from evolve.loop import seeds_of
from evolve.problem import Problem
from evolve.runs import find_run, is_run, latest_run, list_runs, named, new_run_folder
from evolve.session import Wanted, go_on, in_loop, search
from evolve.terminal.console import Out
from evolve.terminal.doctor import member_findings
from evolve.types import Attempt, Candidate, Draw, Evaluation, Job, Judged, Noted, Verdict

RUNS = Path("runs")
LATEST = 8  # more than are ever judged at once
# What a score means hangs on these; a resumed run keeps them. Of the problem it is the text that counts.
FIXED = ("variant", "workloads", "backend", "target", "random_seed", "strategy", "database")
NAME = re.compile(r"[A-Za-z0-9_][\w.+@-]{0,99}", re.ASCII)  # no way out of runs/, and no colon, for RUN:ID


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
    console = Out()
    config = load_config(order.config, order.overrides)
    _warn(console, (*config.warnings, *_unavailable(config)))
    problem = wiring.problem(config)
    wiring.variant(config, problem)
    folder = _earlier(order, config) if order.resume else _new_folder(order, config)
    # The council before the judge, for a mistake in it is cheaper to find.
    wanted = Wanted(config=config, problem=problem, council=wiring.council(config, problem, folder), console=console)
    return _resume(folder, wanted) if order.resume else _begin(folder, wanted)


def _warn(console: Console, warnings: Iterable[str]) -> None:
    for warning in warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def _unavailable(config: RunConfig) -> list[str]:
    """A sentence for each member that cannot be asked; if there is no other, the run cannot be."""
    seats = replace(config, council=tuple(m for m in config.council if m.weight > 0))
    absent = [f for f in member_findings(seats, os.environ) if f.state == "fail"]
    told = [f'member "{f.name}" cannot be asked: {f.found}. {f.todo}' for f in absent]
    if told and len(told) == len(seats.council):
        raise ConfigError("\n".join([f"{config.source}: nobody in the council can be asked.", *told]))
    return told


def _new_folder(order: Order, config: RunConfig) -> Path:
    """Where the run shall lie. Nothing is made yet, but what would stop us after the seed is judged is said before."""
    if order.name is not None and not NAME.fullmatch(order.name):
        raise UsageError(
            f"--name {order.name!r}: expected letters, digits and . _ + @ -, not beginning with a dot or a dash; "
            f"the run becomes {RUNS}/NAME."
        )
    folder = RUNS / order.name if order.name else new_run_folder(RUNS, config.name)
    if folder.exists() or folder.is_symlink():
        raise JournalError(
            f"{folder}: exists already; go on with it by --resume {folder.name}, or choose another --name."
        )
    if not wiring.writable(folder.parent):
        raise JournalError(f"{folder}: {RUNS}/ of this folder cannot be written, or is none; runs are kept there.")
    return folder


def _begin(folder: Path, wanted: Wanted) -> int:
    config, problem, console = wanted.config, wanted.problem, wanted.console
    seeds = [_seed_source(text) for text in config.seeds]
    secret = secrets.token_hex(16)
    try:
        with _doing(console, "Starting the judge"):
            bench = wiring.open_bench(config, problem, seeds[0] if seeds else None)
        _warn(console, bench.warnings)
        with closing(bench.executor):
            planted: list[Judged] = []
            if seeds:
                with _doing(console, "Judging the seed"):
                    planted = in_loop(_judge_seeds(config, seeds, bench, secret))
            kept = {"secret": secret, "calibration": bench.calibration, "facts": bench.facts}
            environment = {**bench.environment, **kept}
            meta = wiring.meta(config, problem, bench, evolve.__version__)
            journal = Journal.create(folder, config_text=dump(config), environment=environment, meta=meta)
            with closing(journal), _resumable(config, folder):
                journal.append_all([_began(folder, bench), *planted])
                return search(journal, wanted, bench, secret)
    except KeyboardInterrupt:
        return _interrupted_early(folder, config)


def _earlier(order: Order, config: RunConfig) -> Path:
    folder = find_run(order.earlier, RUNS) if order.earlier else latest_run(RUNS, config.name)
    if folder is None:
        others = ", ".join(p.name for p in list_runs(RUNS)[-5:])
        hint = f"; {RUNS}/ holds {others}: name one, --resume RUN" if others else ""
        raise JournalError(f"{RUNS}/: no {config.name}-NNN to resume{hint}, or leave out --resume to begin one.")
    return folder


def _resume(folder: Path, wanted: Wanted) -> int:
    config, problem = wanted.config, wanted.problem
    with closing(Journal.open(folder, write=True)) as journal, _resumable(config, folder):
        _same(config, problem, folder, journal)
        secret, calibration = _kept(journal)
        try:
            with _doing(wanted.console, "Starting the judge"):
                bench = wiring.open_bench(
                    config,
                    problem,
                    None,
                    calibration=calibration,
                    others=_other_calibrations(journal),
                    configurations=_timed(journal),
                )
            _warn(wanted.console, bench.warnings)
            with closing(bench.executor):
                if bench.ranking_key != journal.meta["ranking_key"]:
                    raise JournalError(
                        f"{folder}: was judged as {journal.meta['ranking_key']}, here it would be {bench.ranking_key}: "
                        f"scores would not compare. {_afresh(folder)}"
                    )
                if journal.last_seq():
                    journal.append(Noted(what="resumed", text=f"{folder.name} was resumed on {bench.device}."))
                else:  # it was stopped between the making of its folder and its first event
                    seeds = [_seed_source(text) for text in config.seeds]
                    planted = in_loop(_judge_seeds(config, seeds, bench, secret))
                    journal.append_all([_began(folder, bench), *planted])
                return search(journal, wanted, bench, secret)
        except KeyboardInterrupt:
            return _interrupted_early(folder, config)


def _timed(journal: Journal) -> int:
    """Configurations that were timed so far, the tuner's among them: the best of many is lucky, and must gain more. The
    judge counts them and says so with each candidate; of the last ones one has seen them all."""
    passed = [
        logged.event.candidate.id
        for logged in journal.events(evidence=False)
        if isinstance(logged.event, Judged) and logged.event.candidate and logged.event.evaluation.passed
    ]
    said = [journal.attempt(name).evaluation.evidence.get("time", {}) for name in passed[-LATEST:]]
    return max((int(time.get("promotion", {}).get("configurations", 0)) for time in said), default=0)


def _other_calibrations(journal: Journal) -> list[Mapping[str, Any]]:
    """Of further kinds of GPU, which joined while it ran."""
    notes = (json.loads(body) for (body,) in journal.query("SELECT body FROM events WHERE kind = 'noted'"))
    return [n["data"]["calibration"] for n in notes if n["what"] == "joined" and n.get("data", {}).get("calibration")]


def _interrupted_early(folder: Path, config: RunConfig) -> int:
    """Before the first step of a session, or after its last: nothing is in flight then."""
    what = f"{go_on(config, folder)} goes on" if is_run(folder) else "nothing was written"
    print(f"evolve: interrupted; {what}.", file=sys.stderr)
    return 130


def _began(folder: Path, bench: wiring.Bench) -> Noted:
    return Noted(what="started", text=f"{folder.name} began on {bench.device}.")


@contextmanager
def _resumable(config: RunConfig, folder: Path) -> Iterator[None]:
    """Whatever breaks from here on breaks a run that is on record, and the caller is told so."""
    try:
        yield
    except (MachineryError, MemberUnavailable) as error:
        raise type(error)(f"{error}\nNothing is lost: `{go_on(config, folder)}` goes on.") from error


def _afresh(folder: Path) -> str:
    return f"Begin another run from its best: --set 'seeds=[{folder.name}:best]'."


@contextmanager
def _doing(console: Console, what: str) -> Iterator[None]:
    """For what takes seconds and says nothing by itself."""
    if console.is_terminal and not console.is_dumb_terminal:
        with console.status(what):
            yield
    else:
        console.print(f"{what}.", highlight=False)
        yield


def _kept(journal: Journal) -> tuple[str, Mapping[str, Any]]:
    """The run's secret, and the calibration under which its scores compare."""
    try:
        environment = journal.environment
        return str(environment["secret"]), environment["calibration"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JournalError(
            f"{journal.folder}: its environment.json is missing or damaged ({type(error).__name__}: {error}), and "
            f"without its calibration scores would not compare. {_afresh(journal.folder)}"
        ) from error


def _same(config: RunConfig, problem: Problem, folder: Path, journal: Journal) -> None:
    before = load_config(folder / "config.yaml", check_files=False)
    for key in FIXED:
        old, new = getattr(before, key), getattr(config, key)
        if old != new:
            raise JournalError(
                f"{folder}: began with {key} = {_short(old)}, and {config.source} now says {_short(new)}; scores would "
                f"not compare. Put it back. {_afresh(folder).replace('Begin', 'Or begin')}"
            )
    if problem.digest != journal.meta["problem_digest"]:
        raise JournalError(
            f"{folder}: {config.problem} is not, or no longer, the problem that the run began with; scores would not "
            f"compare. {_afresh(folder)}"
        )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _seed_source(text: str) -> str:
    """A file, or `RUN:ID`: a warm start."""
    if Path(text).is_file():
        try:
            return Path(text).read_bytes().decode("utf-8", "surrogateescape")  # the judge says what is wrong with it
        except OSError as error:
            raise SeedError(f"{text}: cannot be read: {error.strerror}; `seeds` names Python files.") from error
    place = named(text, RUNS)
    with closing(Journal.open(place.folder)) as journal:
        return journal.attempt(journal.resolve(place.selector or "best")).candidate.source


async def _judge_seeds(config: RunConfig, seeds: list[str], bench: wiring.Bench, secret: str) -> list[Judged]:
    """Each seed as a step of its own, from 0. One that fails its own judgement is the caller's to mend."""
    judged: list[Judged] = []
    for step, source in enumerate(seeds):
        candidate = Candidate(
            step=step, source=source, member="seed", kind="seed", island=step % config.database.num_islands
        )
        chance = seeds_of(secret, candidate.id)
        job = Job(candidate=candidate, random_seeds=chance, ranking_key=bench.ranking_key)
        evaluation = await bench.executor.evaluate(job)
        if not evaluation.passed:
            raise SeedError(
                f"{config.seeds[step]}: the seed fails its own judgement: {evaluation.verdict} in {evaluation.stage}.\n"
                f"{evaluation.feedback}\n"
                f"Mend it first; `evolve judge {config.seeds[step]} --problem {config.problem}` judges it alone."
            )
        judged.append(Judged(step=step, candidate=candidate, evaluation=evaluation))
    return judged


def dry_run(order: Order) -> int:
    """Everything that can be said without judging or asking anyone."""
    from evolve.terminal.dry_run import show

    config = load_config(order.config, order.overrides)
    problem = wiring.problem(config)
    draw = Draw(step=1, island=0, parent=_unjudged(_seed_source(config.seeds[0])) if config.seeds else None)
    render = wiring.renderer(config, problem, wiring.sheet_facts(config))
    show(config, prompt=render(draw, _first_kind(config, draw)), console=Out())
    return 0


def _first_kind(config: RunConfig, draw: Draw) -> str:
    """What is asked for most often of those members that read a prompt."""
    if draw.parent is None:
        return "draft"
    readers = [m for m in config.council if m.member != "rules"]
    kinds = (readers[0].kinds or config.prompt.kinds) if readers else {"rule": 1.0}
    return max(kinds, key=lambda kind: kinds[kind])


def _unjudged(source: str) -> Attempt:
    evaluation = Evaluation(verdict=Verdict.REJECTED, feedback="(Its measurements stand here once it is judged.)")
    return Attempt(candidate=Candidate(step=0, source=source, member="seed", kind="seed"), evaluation=evaluation)
