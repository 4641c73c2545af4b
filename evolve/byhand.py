"""`evolve ask`, `evolve tell` and `evolve judge --run`: what a person or an agent brings to a run by hand.

All three are orders in the run's mailbox (`inbox.py`). If a process is writing the run it takes them in; if not, this
one becomes its writer for as long as they take, and takes nothing else up: no budget is asked, for someone wanted this.
Judging needs the run's own judge; handing out prompts needs none, so that it works where there is no GPU.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolve import lineage, wiring
from evolve.config import load_config
from evolve.errors import JournalError, MachineryError, UsageError
from evolve.inbox import BOX, TAKEN, Inbox
from evolve.journal import Journal
from evolve.journal_disk import replace_file
from evolve.journal_turns import Turn
from evolve.runs import find_run, named, writer_of
from evolve.session import in_loop, restored
from evolve.types import Evaluation, Event, Job, Noted

RUNS = Path("runs")
LOOK = 0.3  # seconds between two looks at what the writer did
HEAD = """\
<!--
Step {step} ({kind}) of {run}. Answer in {reply}, beside this file: hypothesis, prediction, then the code, as is asked
below. It may begin with what it cost, between two lines of three dashes: model:, tokens_in:, tokens_out:, cost_usd:.
When it is there: evolve tell {run} {folder}
-->

"""
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Proposal:
    target: Path
    run: str
    parent: str | None  # None: the run's best
    hypothesis: str
    member: str


def ask(run: str, *, count: int, out: Path | None, member: str, say: Say) -> Sequence[Path]:
    """Prompts for someone, as files; their steps are on record and wait for `tell`."""
    folder = find_run(run, RUNS)
    into = out or folder / BOX
    into.mkdir(parents=True, exist_ok=True)
    with _done(folder, "ask", {"count": count, "member": member}, judge=False, say=say) as (journal, steps):
        return [_letter(journal.step(step), into, folder) for step in steps]


def _letter(turn: Turn, into: Path, folder: Path) -> Path:
    assert turn.asked is not None
    prompt, name = turn.asked.prompt, f"{turn.step:05d}.prompt.md"
    head = HEAD.format(
        step=turn.step, kind=prompt.kind, run=folder.name, reply=f"{turn.step:05d}.reply.md", folder=into
    )
    text = head + "\n\n".join(part for part in (prompt.system, prompt.user) if part) + "\n"
    return replace_file(into / name, text.encode("utf-8", "replace"))


def tell(run: str, replies: Path, *, say: Say) -> tuple[Path, Sequence[Turn]]:
    """The replies of a folder are judged; each belongs to the step whose number it bears."""
    folder = find_run(run, RUNS)
    if not replies.is_dir():
        raise UsageError(f"{replies}: no such folder; `evolve ask {folder.name} -o {replies}` makes it.")
    found = {int(p.name[:5]): p for p in sorted(replies.glob("[0-9][0-9][0-9][0-9][0-9].reply.md"))}
    others = {m.name for m in load_config(folder / "config.yaml", check_files=False).council if m.member != "mailbox"}
    with Journal.open(folder) as journal:
        waiting = [p.asked for p in journal.pending() if p.asked and not p.reply and not p.attempt]
        known = {asked.step for asked in waiting if asked.member not in others}
    for step in sorted(set(found) - known):
        say(f"{found[step].name}: step {step} waits for no reply; it was left where it is.")
    steps = sorted(set(found) & known)
    if not steps:
        raise UsageError(
            f"{replies}: no reply to a step that waits for one; expected files such as 00042.reply.md beside the "
            f"prompts that `evolve ask {folder.name}` wrote."
        )
    for step in steps:
        _put(folder / BOX / found[step].name, found[step])
    with _done(folder, None, {"steps": steps}, judge=True, say=say) as (journal, _):
        return folder, [_waited(journal, folder, step) for step in steps]


def propose(wanted: Proposal, *, say: Say) -> tuple[Path, Turn]:
    """A candidate of one's own as an ordinary step."""
    folder = find_run(wanted.run, RUNS)
    source = wanted.target.read_bytes().decode("utf-8", "surrogateescape")
    with Journal.open(folder) as journal:
        parent = wanted.parent or "best"
        parent = named(parent, RUNS).selector or parent if ":" in parent else parent
        parent_id = journal.resolve(parent)
    order = {"source": source, "parent": parent_id, "hypothesis": wanted.hypothesis, "member": wanted.member}
    with _done(folder, "judge", order, judge=True, say=say) as (journal, steps):
        return folder, _waited(journal, folder, steps[0])


# --- Through the writer, or as the writer -----------------------------------------------------------------------------


@contextmanager
def _done(
    folder: Path, kind: str | None, order: dict[str, Any], *, judge: bool, say: Say
) -> Iterator[tuple[Journal, list[int]]]:
    """The order is given, and carried out by whoever may write. Yields a journal to read, and the order's steps."""
    name = secrets.token_hex(6)
    if kind is not None:
        place = folder / BOX / f"{kind}-{name}.json"
        place.parent.mkdir(exist_ok=True)
        replace_file(place, json.dumps(order).encode("utf-8", "surrogatepass"))
    try:
        if pid := writer_of(folder):
            say(f"Process {pid} is writing {folder.name}; it takes this in.")
        else:
            _write(folder, judge=judge, say=say)
        with Journal.open(folder) as journal:
            yield journal, _taken(journal, folder, name) if kind is not None else list(order["steps"])
    finally:
        if kind is not None:
            place.unlink(missing_ok=True)


def _taken(journal: Journal, folder: Path, name: str) -> list[int]:
    """Until the writer has taken the order in; it looks twice a second, and once more for a file to settle."""
    gone = 0
    while True:
        for (body,) in journal.query("SELECT body FROM events WHERE kind = 'noted' ORDER BY seq DESC LIMIT 200"):
            note = json.loads(body)
            if note["what"] == TAKEN and note.get("data", {}).get("order") == name:
                if fault := note["data"].get("fault"):
                    raise UsageError(f"{folder}: {fault}")
                return list(note["data"]["steps"])
        gone = 0 if writer_of(folder) else gone + 1
        if gone > 2:
            raise JournalError(f"{folder}: its writer ended before it took this in; give the order again.")
        time.sleep(LOOK)


def _waited(journal: Journal, folder: Path, step: int) -> Turn:
    """The step with its verdict, and its confirmation if it was to have one."""
    gone = 0
    while True:
        turn = journal.step(step)
        if turn.judged and (gone or step not in {row.step for row in lineage.waiting(journal)}):
            return turn
        if gone > 2:
            raise MachineryError(f"{folder}: its writer ended before step {step} was judged; resume it, it goes on.")
        gone = 0 if writer_of(folder) else gone + 1
        time.sleep(LOOK)


def _write(folder: Path, *, judge: bool, say: Say) -> None:
    """As the run's writer: what lies in its mailbox is taken in and comes to its verdict. Nothing else is begun."""
    config = load_config(folder / "config.yaml", check_files=False)
    problem = wiring.problem(config)
    with ExitStack() as stack:
        journal = stack.enter_context(closing(Journal.open(folder, write=True)))
        if problem.digest != journal.meta["problem_digest"]:
            raise JournalError(f"{folder}: {config.problem} is no longer the problem that the run began with.")
        environment = journal.environment
        bench = _no_judge(journal, environment.get("facts") or wiring.sheet_facts(config))
        if judge:
            say("Starting the judge.")
            bench = wiring.open_bench(config, problem, None, calibration=environment["calibration"])
            stack.callback(bench.executor.close)
            if bench.ranking_key != journal.meta["ranking_key"]:
                raise JournalError(
                    f"{folder}: was judged as {journal.meta['ranking_key']}, here it would be {bench.ranking_key}: "
                    "scores would not compare. Tell it on a machine like the first."
                )
        council = wiring.council(config, problem, folder)
        parts = wiring.parts(config, problem, bench, journal, council)
        ended = _last_word(journal)
        search = restored(journal, config, parts, bench, str(environment["secret"]), _Nobody())
        search.commit(Noted(what="resumed", text=f"{folder.name} was opened for what lies in its mailbox."))
        inbox = Inbox.of(search, config, settled=0)
        inbox.handed = {}  # nothing of what lies there is judged where only prompts are wanted
        if judge:  # whoever was asked: its reply lies there now
            inbox.handed = {p.asked.step: p.asked for p in journal.pending() if p.asked and not p.reply}
        in_loop(_once(inbox))
        journal.append(ended)


async def _once(inbox: Inbox) -> None:
    inbox.look()
    await inbox.rest()


def _last_word(journal: Journal) -> Noted:
    """How the run ended before this, to be said again after it: what is brought in changes nothing about that."""
    for (body,) in journal.query("SELECT body FROM events WHERE kind = 'noted' ORDER BY seq DESC"):
        note = json.loads(body)
        if note["what"] in ("finished", "interrupted"):
            return Noted(what=note["what"], text=note["text"])
        if note["what"] in ("started", "resumed"):
            break
    return Noted(what="interrupted", text=f"{journal.folder.name} had ended without a word.")


class _Nobody:
    """In the place of a live view, and of a judge where none is needed."""

    def observe(self, event: Event) -> None:
        pass

    async def evaluate(self, job: Job) -> Evaluation:
        raise MachineryError("prompts were asked for and something was to be judged; please report this.")

    def close(self) -> None:
        pass


def _no_judge(journal: Journal, facts: Sequence[str]) -> wiring.Bench:
    return wiring.Bench(
        executor=_Nobody(),
        device=str(journal.meta.get("device", "")),
        ranking_key=str(journal.meta["ranking_key"]),
        width=1,
        calibration={},
        environment={},
        facts=tuple(facts),
    )


def _put(place: Path, reply: Path) -> None:
    if place.absolute() != reply.absolute():
        place.parent.mkdir(exist_ok=True)
        replace_file(place, reply.read_bytes())
