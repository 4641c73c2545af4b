"""Who judges what, with stations that are futures in a test's hand."""

import asyncio
import sys
from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolve.errors import MachineryError
from evolve.executors.local import LocalExecutor
from evolve.executors.spread import LOST_AT, Lost, Spread
from evolve.judge.backends.fake import FakeBackend
from evolve.judge.contract import job_of, sound
from evolve.types import Attempt, Verdict

FAKE = FakeBackend()


class Bench:
    """A station whose jobs end when the test says so."""

    def __init__(self, name="a", key="fake", places=2):
        self.name, self.ranking_key, self.places = name, key, places
        self.at_work = []

    def begin(self, job):
        future = Future()
        self.at_work.append((job, future))
        return future

    def judge(self, which=0):
        job, future = self.at_work.pop(which)
        future.set_result(FAKE.evaluate(job))
        return job

    def fail(self, error, which=0):
        self.at_work.pop(which)[1].set_exception(error)

    def close(self):
        pass


def spread(*stations):
    made = Spread()
    for station in stations:
        made.add(station)
    return made


def jobs(count):
    return [job_of(f"# fake: score=1.{i}\n", step=i) for i in range(count)]


def test_candidates_of_one_run_are_spread_over_all_gpus_and_late_ones_take_part():
    a, b = Bench("a"), Bench("b")
    over = spread(a, b)
    done = [over.submit(job) for job in jobs(7)]
    assert [len(a.at_work), len(b.at_work), over.waits] == [2, 2, 3]
    c = Bench("c")
    over.add(c)
    assert [len(c.at_work), over.waits] == [2, 1]
    while any(s.at_work for s in (a, b, c)):
        next(s for s in (a, b, c) if s.at_work).judge()
    assert all(future.result(timeout=5).passed for future in done)


def test_a_job_goes_where_its_scores_compare_and_elsewhere_only_if_nobody_there_does():
    a, b = Bench("a", "H100", places=4), Bench("b", "H200", places=4)
    over = spread(a, b)
    parent = FAKE.evaluate(jobs(1)[0])
    best = {
        key: Attempt(candidate=job_of(key).candidate, evaluation=replace(parent, ranking_key=key))
        for key in ("H100", "H200")
    }
    for job in jobs(3):
        over.submit(job_of(job.candidate.source, ranking_key="H200", incumbents=best))
    over.submit(job_of("x = 1", ranking_key="A100", incumbents=best))
    assert [job.incumbent for job, _ in b.at_work] == [best["H200"]] * 3
    assert [job.incumbent for job, _ in a.at_work] == [best["H100"]], "an A100's job, and nobody has one"


def test_who_was_beside_a_death_is_judged_alone_and_only_the_one_to_blame_is_blamed():
    a, b = Bench("a", places=3), Bench("b", places=3)
    over = spread(a)
    done = [over.submit(job) for job in jobs(3)]
    for _ in range(3):
        a.fail(Lost("worker", "signal 11"))
    over.add(b)
    assert len(b.at_work) == 1, "a suspect has a judge to itself"
    b.fail(Lost("worker", "signal 11"))
    ruled = [future for future in done if future.done()]
    assert [sound(f.result(timeout=5), jobs(1)[0]).verdict for f in ruled] == [Verdict.RUNTIME_ERROR]
    c = Bench("c", places=3)
    over.add(c)
    for _ in range(2):
        assert len(c.at_work) == 1
        c.judge()
    assert sum(future.result(timeout=5).passed for future in done) == 2


def test_a_suspect_waits_for_a_judge_to_itself_and_is_not_starved_by_others():
    a, b = Bench("a", places=2), Bench("b", places=2)
    over = spread(a)
    suspect = over.submit(jobs(1)[0])
    a.fail(Lost("late", "over 9 s"))
    over.add(b)
    b.judge()
    assert suspect.result(timeout=5).passed
    busy = [over.submit(job) for job in jobs(2)]
    again = over.submit(job_of("# fake: score=2\n", step=9))
    b.judge()
    b.fail(Lost("late", "over 9 s"), which=1)
    c = Bench("c", places=2)
    over.add(c)
    others = [over.submit(job) for job in jobs(4)]
    order = []
    while c.at_work:
        order.append((len(c.at_work), c.at_work[0][0].candidate.step))
        c.judge()
    assert (1, 9) in order
    b.judge()
    assert all(future.result(timeout=5).passed for future in (*busy, again, *others))


def test_lost_machines_are_no_fault_until_there_are_too_many_of_them():
    over = Spread()
    done = over.submit(jobs(1)[0])
    for turn in range(LOST_AT):
        assert not done.done(), turn
        station = Bench(str(turn))
        over.add(station)
        station.fail(Lost("node", "its machine is gone"))
    assert done.result(timeout=5).verdict is Verdict.RUNTIME_ERROR
    assert "machine" in done.result(timeout=5).feedback


def test_a_gpu_that_breaks_is_asked_no_more_and_the_last_one_says_so():
    heard = []
    over = Spread(heard.append)
    a, b = Bench("a"), Bench("b")
    over.add(a)
    over.add(b)
    done = over.submit(jobs(1)[0])
    a.fail(MachineryError("fell off the bus"))
    assert "fell off the bus" in heard[0]
    assert [s.name for s in over.stations] == ["b"]
    b.fail(MachineryError("this one too"))
    with pytest.raises(MachineryError, match="this one too"):
        done.result(timeout=5)


@given(
    st.lists(st.sampled_from(["judge", "worker", "late", "node", "beside", "broken", "join", "cancel"]), max_size=60)
)
def test_whatever_happens_every_job_ends_once(events):
    over, stations, done = Spread(), [], []
    for made, event in enumerate(events):
        at_work = [s for s in stations if s.at_work and s in over.stations]
        if event == "join" or not at_work:
            stations.append(Bench(str(made)))
            over.add(stations[-1])
            done.append(over.submit(job_of("# fake: score=1\n", step=made)))
        elif event == "judge":
            at_work[0].judge()
        elif event == "cancel":
            done[-1].cancel()
        else:
            error = MachineryError("broken") if event == "broken" else Lost(event, "gone")
            while at_work[0].at_work:
                at_work[0].fail(error)
    last = Bench("last", places=100)
    over.add(last)
    while busy := [station for station in (*stations, last) if station.at_work]:
        busy[0].judge()
    assert over.waits == 0
    assert all(future.done() for future in done)


async def test_a_machine_with_two_gpus_uses_both():
    class Counted(FakeBackend):
        count = 0

        def evaluate(self, job):
            self.count += 1
            return super().evaluate(job)

    first, second = Counted(), Counted()
    executor = LocalExecutor(first, second, width=2)
    found = await asyncio.gather(*(executor.evaluate(job_of(f"# fake: score=1 sleep=0.02\nx={i}")) for i in range(12)))
    executor.close()
    assert all(e.passed for e in found)
    assert [first.count + second.count, min(first.count, second.count) >= 4] == [12, True]


class OfOnesOwn(LocalExecutor):
    asked: ClassVar = []

    async def evaluate(self, job):
        self.asked.append(job.candidate.id)
        return await super().evaluate(job)


def test_an_executor_of_ones_own_is_named_in_yaml(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "theirs", SimpleNamespace(OfOnesOwn=OfOnesOwn))
    place.config(executor="theirs:OfOnesOwn", steps=3)
    assert place.evolve("run", "--config", "fake.yaml", "--name", "one").status == 0
    assert len({name[:5] for name in OfOnesOwn.asked}) == 4
    place.config(executor="theirs:Nobody")
    assert "package.module:Name" in place.evolve("run", "--config", "fake.yaml").sentence
