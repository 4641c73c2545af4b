"""The member that needs no network: it rewrites a candidate by rules, and joins what different lines have found.

Rules have an order to begin with, what an engineer would try first; what ails the parent, by the judge's own words,
moves remedies to the front, and what became of each rule's candidates moves it up or down. Mostly the first that has a
new move is taken, so that a known good chain needs no luck. A step that follows that order works at the front of the
run: what the best candidates have and the parent lacks is replayed on it first. Is that something which nobody has yet,
because one line wins one workload and another the rest, it is the step's whole move: a join. Else a new move is added
to it. One step in five is a bandit's, on the parent as it is, so that no order and no line is for ever.

It learns only from events, and not from sources, so that a resumed run chooses as an uninterrupted one would.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from evolve.council.lines import NUMBERS, Lines, named, read
from evolve.rules import RULES, Applied, Context, Rule, apply
from evolve.rules.ails import ails, urgency
from evolve.rules.starts import elsewhere, started
from evolve.syntax import undisturbed
from evolve.types import (
    Attempt,
    Candidate,
    Confirmed,
    Draw,
    Evaluation,
    Event,
    Judged,
    Prompt,
    Replied,
    Reply,
    Scalar,
    Workload,
    digest_of,
)

EXPLORES = 0.2  # of all steps, by Thompson sampling
KEPT = 0.25  # of a loss: the child is as good as its parent, and may be what the next move needs
TRIES = 12  # draws of a rule's own moves before the next rule has its turn
BETTER = 1.005  # a gain smaller than this is noise
JOINED = (
    "Join the lines of {names}: each wins workloads that the other loses, every structure has a switch, and each "
    "workload starts from its winner's numbers. Taken over here: {moves}."
)
AGAIN = (
    "No structure is left to try here: search the numbers once more, from what suited each workload best and from a "
    "place where no search began yet."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What is to be rewritten: a source, what was replayed on it already, whose child it will be, and what ails it."""

    source: str
    replayed: tuple[str, ...]
    parent: Attempt
    ailing: frozenset[str]


class RulesMember:
    """`observe` is a fold over the run's events; `ask` reads what it has gathered."""

    def __init__(
        self,
        *,
        workloads: Sequence[Workload] = (),
        target: str = "sm_90",
        triton: str = "",
        random_seed: int = 0,
        name: str = "rules",
        rules: Sequence[Rule] = RULES,
        allows: frozenset[str] = frozenset(),
        repeat: float = 0.0,
        tuned: bool = False,
    ) -> None:
        self._workloads = tuple(workloads)
        self._target, self._triton, self._random_seed = target, triton, random_seed
        self._name, self._rules = name, tuple(rules)
        self._by_name = {rule.name: rule for rule in self._rules}
        self._allows, self._repeat, self._tuned = allows, repeat, tuned
        self._known: set[str] = set()  # digests of sources that were proposed or judged, by anyone
        self._failed: set[str] = set()  # and of those that did not pass
        self._lines = Lines()
        self._rule_at: dict[int, str] = {}  # step -> its moves, while its verdict is out
        self._wins: dict[str, float] = {}
        self._losses: dict[str, float] = {}

    @property
    def name(self) -> str:
        return self._name

    async def ask(self, draw: Draw, prompt: Prompt) -> Reply:
        if draw.parent is None:
            return self._nothing("there is no parent to rewrite, and rules cannot draft")
        rng = random.Random(f"{self._random_seed}:{draw.step}")
        explores = rng.random() < EXPLORES
        reasons: list[str] = []
        steps = list(self._steps(draw, rng, plain=explores))
        for step in steps:
            reply = self._joined(step) or self._moved(step, rng, explores, reasons)
            if reply is not None:
                return reply
        if (reply := self._again(steps[0], rng)) is not None:
            return reply
        return self._nothing(f"no rule has a new move for {draw.parent.id}. {' '.join(reasons)}".rstrip("."))

    # --- Where a step begins --------------------------------------------------------------------------------------

    def _steps(self, draw: Draw, rng: random.Random, *, plain: bool) -> Iterator[Step]:
        """The parent brought to the front of the run, then the parent as it is."""
        parent = draw.parent
        assert parent is not None
        front = () if plain else self._front(parent)
        source, replayed = self._replay(parent, front, rng)
        if replayed:
            yield Step(source=source, replayed=replayed, parent=parent, ailing=self._lines.ailing)
        yield Step(source=parent.candidate.source, replayed=(), parent=parent, ailing=ails(parent.evaluation))

    def _front(self, parent: Attempt) -> tuple[str, ...]:
        own = self._lines.moves.get(parent.id, ())
        return tuple(move for move in self._lines.front() if move not in own and move in self._by_name)

    def _replay(self, parent: Attempt, moves: Sequence[str], rng: random.Random) -> tuple[str, tuple[str, ...]]:
        """Twice over, because a move may need one that came later in its own line."""
        source, done = parent.candidate.source, []
        for name in (*moves, *moves):
            if name not in done:
                found = undisturbed(partial(apply, self._by_name[name], source, self._context(parent, rng)))
                if isinstance(found, Applied):
                    source = found.source
                    done.append(name)
        return source, tuple(done)

    def _joined(self, step: Step) -> Reply | None:
        """What was replayed alone, where nobody is made of that yet: there are several lines that it comes from."""
        moves = frozenset((*self._lines.moves.get(step.parent.id, ()), *step.replayed))
        names = sorted({self._lines.best or "", *self._lines.winners().values()})
        if not step.replayed or moves in self._lines.tried or len(names) < 2:
            return None
        source = self._with_numbers(step.source, fresh=frozenset())
        if digest_of(source) in self._known:
            return None
        said = JOINED.format(names=" and ".join(names), moves=", ".join(step.replayed))
        return self._reply(named((), step.replayed), Applied(source=source, hypothesis=said))

    def _again(self, step: Step, rng: random.Random) -> Reply | None:
        """With a tuner a step is never lost: a search that begins elsewhere may end elsewhere."""
        if not self._context(step.parent, rng).tuned or not self._lines.numbers():
            return None
        source = self._with_numbers(step.source, fresh=frozenset())
        for _ in range(TRIES):
            if digest_of(source) not in self._known:
                return self._reply(named((), step.replayed, NUMBERS), Applied(source=source, hypothesis=AGAIN))
            source = elsewhere(source, rng)
        return None

    # --- What a step does -----------------------------------------------------------------------------------------

    def _moved(self, step: Step, rng: random.Random, explores: bool, reasons: list[str]) -> Reply | None:
        for rule in self._order(rng, step.ailing, explores):
            found = self._move(rule, step, rng)
            if not isinstance(found, str):
                applied, names = found
                return self._reply(named(names, step.replayed), applied)
            reasons.append(f"{rule.name}: {found}")
        return None

    def _order(self, rng: random.Random, ailing: frozenset[str], explores: bool) -> list[Rule]:
        """The best first: by what is expected of each, or, one step in five, by a draw from what it may be worth."""

        def worth(rule: Rule) -> float:
            wins, losses = self._wins.get(rule.name, 0.0), self._losses.get(rule.name, 0.0)
            share = rng.betavariate(1 + wins, 1 + losses) if explores else (1 + wins) / (1 + wins + losses)
            return rule.weight * urgency(rule, ailing) * share

        drawn = [(worth(rule), -place) for place, rule in enumerate(self._rules)]
        return [self._rules[-place] for _, place in sorted(drawn, reverse=True)]

    def _move(self, rule: Rule, step: Step, rng: random.Random) -> tuple[Applied, tuple[str, ...]] | str:
        """With what makes it whole; alone where that was proposed before."""
        context = self._context(step.parent, rng)
        seen: list[str] = []
        while len(seen) < TRIES and (len(seen) < 3 or len(set(seen)) > 1):  # three alike: it knows one move only
            alone = undisturbed(partial(apply, rule, step.source, context))
            if not isinstance(alone, Applied):
                return alone.reason
            seen.append(digest_of(alone.source))
            whole, names = self._whole(rule, alone, context)
            first = {digest_of(whole.source), digest_of(self._numbered(step, whole).source)}
            for found, moves in ((whole, names), (alone, (rule.name,))):
                written = self._numbered(step, found)
                if found is alone and found is not whole and not first & self._failed:
                    break  # the whole is on its way, or it passed, and its parts have switches
                if not {digest_of(found.source), digest_of(written.source)} & self._known:
                    self._known.add(digest_of(found.source))
                    return written, moves
        return "Its moves were proposed before."

    def _whole(self, rule: Rule, alone: Applied, context: Context) -> tuple[Applied, tuple[str, ...]]:
        whole, names = alone, [rule.name]
        for name in rule.then:
            rest = self._by_name.get(name)
            more = undisturbed(partial(apply, rest, whole.source, context)) if rest is not None else None
            if isinstance(more, Applied):
                said = f"{whole.hypothesis} {more.hypothesis}"
                whole = Applied(source=more.source, hypothesis=said, signature={**whole.signature, **more.signature})
                names.append(name)
        return whole, tuple(names)

    def _numbered(self, step: Step, found: Applied) -> Applied:
        """What was replayed starts from the numbers of those that it comes from; what is new from its own defaults."""
        if not step.replayed:
            return found
        fresh = frozenset(_tunables(found.source)) - frozenset(_tunables(step.source))
        said = f"At the front of the run, with {', '.join(step.replayed)}: {found.hypothesis}"
        source = self._with_numbers(found.source, fresh=fresh)
        return Applied(source=source, hypothesis=said, signature=found.signature)

    def _with_numbers(self, source: str, *, fresh: frozenset[str]) -> str:
        sizes = {w.name: w.params for w in self._workloads}
        known = self._lines.numbers()
        return started(source, [(sizes[w], numbers) for w, numbers in known.items() if w in sizes], fresh=fresh)

    def _context(self, like: Attempt, rng: random.Random) -> Context:
        return Context(
            random=rng,
            workloads=self._workloads,
            target=self._target,
            triton=self._triton,
            traits=like.evaluation.traits,
            parameters=_best_parameters(like),
            allows=self._allows,
            repeat=self._repeat,
            tuned=self._tuned or "tune" in like.evaluation.evidence,
        )

    def _reply(self, moves: str, found: Applied) -> Reply:
        self._known.add(digest_of(found.source))
        expected = "; ".join(f"{op} {bound}" for op, bound in found.signature.items())
        lines = [f"Hypothesis: {found.hypothesis}", *([f"Prediction: {expected}; faster"] if expected else [])]
        return Reply(
            member=self._name,
            model=moves,
            text="\n".join([*lines, "", "```python", found.source.rstrip("\n"), "```", ""]),
            hypothesis=found.hypothesis,
        )

    def _nothing(self, why: str) -> Reply:
        return Reply(member=self._name, text="", finish_reason=why)

    # --- The fold -------------------------------------------------------------------------------------------------

    def observe(self, event: Event) -> None:
        # By the model's name, not by the text: a replay leaves the texts of replies unread.
        if isinstance(event, Replied) and event.reply.member == self._name and event.reply.model:
            self._rule_at[event.step] = event.reply.model
        elif isinstance(event, Judged):
            moves = self._rule_at.pop(event.step, "")
            if event.candidate is not None:
                self._judged(event.candidate, event.evaluation, moves)
        elif isinstance(event, Confirmed):
            self._lines.judged(event.candidate_id, event.evaluation)

    def _judged(self, candidate: Candidate, evaluation: Evaluation, moves: str) -> None:
        """A move is held against what it was added to: the parent, or the best where it was brought to the front."""
        self._known.add(candidate.digest)
        if not evaluation.passed:
            self._failed.add(candidate.digest)
        new, replayed = read(moves)
        best = self._lines.passed.get(self._lines.best or "") if replayed else None
        parent = self._lines.passed.get(candidate.parent_id or "")
        before = max((made.score for made in (best, parent) if made is not None), default=0.0)
        self._lines.add(candidate.id, candidate.parent_id, (*replayed, *new), evaluation)
        score = evaluation.score
        for rule in new:
            if evaluation.passed and score > before * BETTER:
                self._wins[rule] = self._wins.get(rule, 0.0) + 1.0
            else:
                kept = evaluation.passed and score * BETTER > before
                self._losses[rule] = self._losses.get(rule, 0.0) + (KEPT if kept else 1.0)


def _tunables(source: str) -> set[str]:
    from evolve.rules.source import parse

    return set(parse(source).tunables)


def _best_parameters(parent: Attempt) -> dict[str, Scalar]:
    """What the tuner chose where it counts most: the heaviest workload, of those the longest."""
    tuned = [m for m in parent.evaluation.measurements if m.parameters]
    return dict(max(tuned, key=lambda m: (m.weight, m.time_us)).parameters) if tuned else {}
