"""What a step costs beside the model and the judge: scripted member, fake judge, eight in flight, a real journal.

    python benchmarks/loop.py [--steps 10000] [--resume-steps 100000]

prints milliseconds a step in each tenth of the run (flat is the goal), peak memory, and the seconds that resuming a
long journal takes: opening it, reading it, and folding it into population, council and budget.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import tempfile
import time
from pathlib import Path

from evolve import wiring
from evolve.config import RunConfig, load_config
from evolve.executors.local import LocalExecutor
from evolve.journal import Journal
from evolve.judge.backends.fake import FakeBackend
from evolve.loop import Search
from evolve.types import Candidate, Event, Job, Judged

HERE = Path(__file__).parent
PROBLEM = HERE.parent / "tests/data/fake_problem.py"
# A file of an ordinary kernel's length, so that the journal carries what it would carry.
FILLER = "\n".join(f"# {'a line of a kernel as long as such lines are':<80} {i}" for i in range(40))


class Stamps:
    """The time at each judged step."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def observe(self, event: Event) -> None:
        if isinstance(event, Judged):
            self.at.append(time.perf_counter())


def configured(folder: Path, steps: int) -> RunConfig:
    path = folder / "loop.yaml"
    path.write_text(
        f"problem: {PROBLEM}\nbackend: fake\nbudget: {{steps: {steps}}}\n"
        "council: [{member: scripted, replies: ['unused']}]\nconcurrency: {replies: 8, steps: 8}\n"
    )
    return load_config(path)


def searching(journal: Journal, config: RunConfig, stamps: Stamps) -> tuple[Search, wiring.Parts]:
    from evolve.council import Council, Seat
    from evolve.council.scripted import ScriptedMember

    problem = wiring.problem(config)
    bench = wiring.open_bench(config, problem, None)
    member = ScriptedMember(
        lambda draw, prompt: f"Hypothesis: h\n```python\nx = {draw.step}\n{FILLER}\n```", name="scripted"
    )
    council = Council([Seat(name="scripted", member=member, weight=1.0, kinds={"rewrite": 1.0})], random_seed=1)
    parts = wiring.parts(config, problem, bench, journal, council)
    search = Search(
        journal=journal,
        population=parts.population,
        council=council,
        budget=parts.budget,
        executor=LocalExecutor(FakeBackend(), width=8),
        render=parts.render,
        read=parts.read,
        secret="benchmark",
        next_step=1,
        replies=8,
        in_flight=8,
        watch=(stamps,),
    )
    return search, parts


def plant(journal: Journal, parts: wiring.Parts) -> None:
    seed = Candidate(step=0, source=f"# fake: score=1.0\n{FILLER}\n", member="seed", kind="seed")
    judged = Judged(step=0, candidate=seed, evaluation=FakeBackend().evaluate(Job(candidate=seed)))
    journal.append(judged)
    parts.population.observe(judged)


def run(folder: Path, steps: int) -> None:
    config = configured(folder, steps)
    stamps = Stamps()
    with Journal.create(folder / "run", config_text="", environment={}, meta={}) as journal:
        search, parts = searching(journal, config, stamps)
        plant(journal, parts)
        began = time.perf_counter()
        asyncio.run(search.run())
        search.executor.close()
    edges = [began, *stamps.at]
    size = max(1, steps // 10)
    tenths = [(edges[min(i + size, steps)] - edges[i]) / size * 1000 for i in range(0, steps - size + 1, size)]
    print("ms a step, by tenths:", " ".join(f"{t:.2f}" for t in tenths))
    print(f"ms a step, overall:   {(edges[-1] - began) / steps * 1000:.2f}")
    print(f"peak memory:          {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


def resume(folder: Path, steps: int) -> None:
    config = configured(folder, steps)
    with Journal.create(folder / "long", config_text="", environment={}, meta={}) as journal:
        search, parts = searching(journal, config, Stamps())
        plant(journal, parts)
        journal_append, waiting = journal.append, []

        def batched(event: Event) -> int:
            """Making the journal is not what is measured: many events in one transaction."""
            waiting.append(event)
            if len(waiting) >= 1000:
                journal.append_all(waiting)
                waiting.clear()
            return 0

        search.journal = type("Batched", (), {"append": staticmethod(batched), "attempt": journal.attempt})()
        parts.population.home._attempt = _from(waiting, journal)
        asyncio.run(search.run())
        search.executor.close()
        if waiting:
            journal.append_all(waiting)
        del journal_append
    began = time.perf_counter()
    with Journal.open(folder / "long", write=True) as journal:
        _, parts = searching(journal, config, Stamps())
        events = 0
        for logged in journal.events(evidence=False):
            for observer in (parts.population, parts.council, parts.budget):
                observer.observe(logged.event)
            events += 1
        pending = journal.pending()
    print(f"resume of {steps} steps ({events} events, {len(pending)} pending): {time.perf_counter() - began:.1f} s")


def _from(waiting: list[Event], journal: Journal):  # noqa: ANN202
    from evolve.types import Attempt

    def attempt(candidate_id: str) -> Attempt:
        for event in waiting:
            if isinstance(event, Judged) and event.candidate and event.candidate.id == candidate_id:
                return Attempt(candidate=event.candidate, evaluation=event.evaluation)
        return journal.attempt(candidate_id)

    return attempt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--resume-steps", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        run(Path(name), options.steps)
        if options.resume_steps:
            resume(Path(name), options.resume_steps)


if __name__ == "__main__":
    main()
