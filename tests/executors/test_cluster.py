"""Machines that join, die and hang, and candidates that kill: on a Ray cluster of fake GPUs, every job ends once."""

import asyncio
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from evolve.executors.cluster import open_cluster
from evolve.judge.backends import Settings
from evolve.judge.contract import job_of, sound
from evolve.problem import load_problem
from evolve.types import Verdict

PROBLEM = Path(__file__).parents[1] / "data/fake_problem.py"
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


def settings(**more):
    problem = load_problem(PROBLEM)
    usual = {
        "problem": problem,
        "variant": problem.variants[0],
        "backend": "deadly:open_deadly",
        "target": "sm_90",
        "cache": Path("/nowhere"),
        "width": 2,
        "timeout": 20.0,
    }
    return Settings(**{**usual, **more})


def opened(cluster, **more):
    limit = more.pop("limit", None)
    return open_cluster(settings(**more), address=cluster.address, seed=None, limit=limit)


async def judged(executor, sources):
    jobs = [job_of(source, step=step) for step, source in enumerate(sources)]
    async with asyncio.timeout(90):
        found = await asyncio.gather(*(executor.evaluate(job) for job in jobs))
    return [sound(e, job) for e, job in zip(found, jobs, strict=True)]


async def noticed(executor, true):
    """What was put on record, by its kind, once it says what is expected."""
    notes = {}
    async with asyncio.timeout(60):
        while True:
            for note in executor.heard():
                notes.setdefault(note.what, []).append(note)
            if true(notes):
                return notes
            await asyncio.sleep(0.1)


def begun(log):
    return [line.split() for line in log.read_text().splitlines()]


async def test_a_candidate_that_kills_its_worker_has_its_verdict_and_takes_nobody_with_it(cluster, log):
    cluster.add_node(num_gpus=2, num_cpus=1)
    executor, first = opened(cluster)
    with closing(executor):
        assert first.ranking_key == "fake"
        sources = [f"# fake: score=1.{i} sleep=0.2\n" for i in range(8)]
        sources.insert(3, "# deadly: segfault\n")
        found = await judged(executor, sources)
        await noticed(executor, lambda notes: len(notes.get("lost", ())) == 2)
    assert [e.verdict for e in found] == [Verdict.PASSED] * 3 + [Verdict.RUNTIME_ERROR] + [Verdict.PASSED] * 5
    assert "died under it" in found[3].feedback
    times = Counter(line[0] for line in begun(log))
    assert times[job_of(sources[3], step=3).candidate.id] == 2, "one retry, alone, and no more"
    assert len({line[1] for line in begun(log)}) >= 3, "two GPUs, and a fresh process for one that was lost"
