"""Machines that join, die and hang, and candidates that kill: on a Ray cluster of fake GPUs, every job ends once."""

import asyncio
import os
import signal
import sys
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from evolve.executors.cluster import open_cluster
from evolve.executors.cluster_builds import ClusterCompilers
from evolve.executors.cluster_known import CARRIED
from evolve.executors.contract import ExecutorContract
from evolve.judge.backends import Settings
from evolve.judge.build import Builder
from evolve.judge.buildserver import Server
from evolve.judge.contract import job_of, sound
from evolve.judge.targets import find
from evolve.problem import load_problem
from evolve.types import Attempt, Verdict

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
        known = {f"plan:{i:016x}": f"{i:05d}-aaaaaaaa" for i in range(CARRIED)}
        for step in (50, 51):  # too many to travel: what is new of them goes to the ledger, which the judge asks
            twin = job_of(f"# fake: score={step}\n", step=step)
            known[f"ast:{twin.candidate.digest}"] = f"{step - 40:05d}-bbbbbbbb"
            ruled = await executor.evaluate(replace(twin, known=known))
            assert ruled.verdict is Verdict.DUPLICATE
            assert f"{step - 40:05d}-bbbbbbbb" in ruled.feedback
    assert [e.verdict for e in found] == [Verdict.PASSED] * 3 + [Verdict.RUNTIME_ERROR] + [Verdict.PASSED] * 5
    assert "died under it" in found[3].feedback
    times = Counter(line[0] for line in begun(log))
    assert times[job_of(sources[3], step=3).candidate.id] == 2, "one retry, alone, and no more"
    assert len({line[1] for line in begun(log)}) >= 3, "two GPUs, and a fresh process for one that was lost"


@pytest.mark.slow
async def test_a_machine_that_dies_gets_its_candidates_judged_elsewhere_and_one_that_joins_takes_part(cluster, log):
    first = cluster.add_node(num_gpus=1, num_cpus=1)
    executor, _ = opened(cluster)
    with closing(executor):
        work = asyncio.ensure_future(judged(executor, [f"# fake: score=1.{i} sleep=1.5\n" for i in range(20)]))
        await asyncio.sleep(1.5)
        second = cluster.add_node(num_gpus=1, num_cpus=1)
        await noticed(executor, lambda notes: len(notes.get("joined", ())) >= 1)
        cluster.remove_node(first, allow_graceful=False)
        notes = await noticed(executor, lambda notes: "lost" in notes)
        found = await work
        assert any(words in notes["lost"][0].text for words in ("machine is gone", "cannot be reached"))
        assert executor.stations == 1
    assert all(e.passed for e in found)
    times = Counter(line[0] for line in begun(log))
    assert max(times.values()) == 2, "what was on the dead machine was begun again, once"
    assert second is not first


@pytest.mark.slow
async def test_a_hung_candidate_is_a_timeout_and_those_beside_it_lose_nothing(cluster, log):
    cluster.add_node(num_gpus=1, num_cpus=1)
    executor, _ = opened(cluster, limit=4.0)
    with closing(executor):
        sources = ["# deadly: hang\n", *(f"# fake: score=1.{i} sleep=0.5\n" for i in range(6))]
        found = await judged(executor, sources)
    assert [e.verdict for e in found] == [Verdict.TIMEOUT] + [Verdict.PASSED] * 6
    assert Counter(line[0] for line in begun(log))[job_of(sources[0], step=0).candidate.id] == 2


@pytest.mark.slow
async def test_a_worker_killed_from_outside_costs_its_candidates_nothing(cluster, log):
    cluster.add_node(num_gpus=1, num_cpus=1)
    executor, _ = opened(cluster)
    with closing(executor):
        work = asyncio.ensure_future(judged(executor, [f"# fake: score=1.{i} sleep=1\n" for i in range(6)]))
        while not log.exists():
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)
        os.kill(int(begun(log)[0][1]), signal.SIGKILL)
        found = await work
        assert all(e.passed for e in found)
        # An idle one that dies is noticed before a candidate is sent there.
        await noticed(executor, lambda notes: len(notes.get("joined", ())) >= 1)
        os.kill(int(begun(log)[-1][1]), signal.SIGKILL)
        await noticed(executor, lambda notes: len(notes.get("joined", ())) == 1)
        (again,) = await judged(executor, ["# fake: score=2\n"])
        assert again.passed


@pytest.mark.slow
async def test_gpus_of_different_keys_never_share_an_incumbent(cluster, log):
    from ray.cluster_utils import Cluster

    assert isinstance(cluster, Cluster)
    for key in ("old", "new"):
        cluster.add_node(num_gpus=1, num_cpus=1, env_vars={"EVOLVE_DEADLY_KEY": key})
    executor, _ = opened(cluster)
    with closing(executor):
        while executor.stations < 2:
            await asyncio.sleep(0.1)
        first = await executor.evaluate(job_of("# fake: score=1\n", ranking_key="old"))
        assert first.ranking_key == "old"
        best = {"old": Attempt(candidate=job_of("# fake: score=9\n").candidate, evaluation=first)}
        jobs = [
            job_of(f"# fake: score=0.{i + 1}\n", ranking_key=k, incumbents=best)
            for i, k in enumerate(("old", "new") * 3)
        ]
        found = await asyncio.gather(*(executor.evaluate(job) for job in jobs))
    assert [e.ranking_key for e in found] == ["old", "new"] * 3
    assert [e.beats_incumbent for e in found] == [False, True] * 3


@pytest.mark.slow
async def test_builds_are_tasks_of_the_cluster_and_come_back_whole(cluster, tmp_path):
    cluster.add_node(num_gpus=0, num_cpus=1)
    import ray

    ray.init(address=cluster.address, log_to_driver=False)
    sys.path.insert(0, str(Path(__file__).parents[1] / "judge"))
    from test_build import ENDLESS, SMALL, lowered

    target = find("sm_90")
    here, there = (
        Builder(cache=tmp_path / name, target=target, workers=2, timeout=60, compilers=compilers)
        for name, compilers in (("here", Server), ("there", ClusterCompilers))
    )
    with closing(here), closing(there):
        found = [builder.build(lowered(SMALL, num_warps=4)) for builder in (here, there)]
        late = there.build_each(lowered(ENDLESS, num_warps=1), timeout=3)
    assert [type(each).__name__ for each in late.values()] == ["Ruling"]
    ours, theirs = ([(b.name, b.sass, b.registers, b.key) for b in built.binaries.values()] for built in found)
    assert ours == theirs


class TestOverRay(ExecutorContract):
    """A Ray of its own, which ends with it."""

    pytestmark = pytest.mark.slow
    passing = "# fake: score=1.25 sleep=0.1\n"
    failing: ClassVar = {v: f"# fake: verdict={v}\n" for v in Verdict if v not in (Verdict.PASSED, Verdict.DUPLICATE)}
    patience, ends_in = 180.0, 30.0

    def open(self, folder):
        pytest.importorskip("ray", reason="the extra `cluster` is not installed")
        return open_cluster(settings(backend="fake"), address=None, seed=None)[0]
