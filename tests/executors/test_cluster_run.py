"""`evolve run` on a cluster, as a person calls it: killed and resumed, every step ends once."""

import os
import re
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from evolve.journal import Journal
from evolve.types import Confirmed, Judged, Noted

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
STEPS = 24


def started(place, cluster, *words):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    return place.start("run", "--config", "fake.yaml", *words, env=environment)


def judged(folder):
    try:
        with sqlite3.connect(f"file:{folder}/journal.sqlite?mode=ro", uri=True) as db:
            return int(db.execute("SELECT count(*) FROM events WHERE kind = 'judged'").fetchone()[0])
    except sqlite3.Error:
        return 0


def facts(folder):
    with closing(Journal.open(folder)) as journal:
        return [logged.event for logged in journal.events()]


def test_killed_and_resumed_on_a_cluster_every_step_ends_once(cluster, place, log):
    cluster.add_node(num_gpus=2, num_cpus=1)
    place.config(
        steps=STEPS,
        sleep=0.3,
        backend="deadly:open_deadly",
        executor="ray",
        ray={"address": cluster.address},
        concurrency={"replies": 1, "cpu": 2, "steps": 4},
    )
    folder = place.folder / "runs/one"
    process, kills = started(place, cluster, "--name", "one"), 0
    while kills < 2:
        before = judged(folder)
        while judged(folder) < before + 4 and process.poll() is None:
            time.sleep(0.02)
        assert process.poll() is None, place.ended(process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        process = started(place, cluster, "--resume", "one")
    done = place.ended(process)
    assert done.status == 0, done
    events = facts(folder)
    steps = Counter(e.step for e in events if isinstance(e, Judged))
    assert steps == Counter(range(STEPS + 1))
    assert any(isinstance(e, Confirmed) for e in events)
    joined = [e for e in events if isinstance(e, Noted) and e.what == "joined"]
    assert len(joined) >= 2
    assert not any(re.search(r"\d+\.\d+\.\d+\.\d+", e.text) for e in joined), "no machine's address is on record"


def test_without_a_cluster_there_the_sentence_says_what_to_do(place):
    pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    place.config(executor="ray", ray={"address": "127.0.0.1:1"})
    done = place.ended(place.start("run", "--config", "fake.yaml", env=dict(os.environ)))
    assert "ray start --head" in done.sentence
    assert place.runs == []


def test_gpus_of_two_kinds_each_confirm_their_own_best(cluster, place, log):
    cluster.add_node(num_gpus=1, num_cpus=1, env_vars={"EVOLVE_DEADLY_KEY": "gpu|old"})
    place.config(
        steps=40,
        sleep=0.3,
        backend="deadly:open_deadly",
        executor="ray",
        ray={"address": cluster.address},
        concurrency={"replies": 1, "cpu": 2},
    )
    folder = place.folder / "runs/one"
    process = started(place, cluster, "--name", "one")
    while judged(folder) < 6:
        time.sleep(0.05)
        assert process.poll() is None, place.ended(process)
    cluster.add_node(num_gpus=1, num_cpus=1, env_vars={"EVOLVE_DEADLY_KEY": "gpu|new"})
    done = place.ended(process)
    assert done.status == 0, done
    assert "Best by gpu|new" in done.out
    events = facts(folder)
    assert Counter(Counter(e.step for e in events if isinstance(e, Judged)).values()).keys() == {1}
    found = {e.candidate.id: e for e in events if isinstance(e, Judged) and e.candidate}
    keys = Counter(e.evaluation.ranking_key for e in found.values())
    assert keys["gpu|old"] > 4
    assert keys["gpu|new"] > 4
    confirmed = [e for e in events if isinstance(e, Confirmed)]
    assert {e.evaluation.ranking_key for e in confirmed} == {"gpu|old", "gpu|new"}
    for event in confirmed:
        assert event.evaluation.ranking_key == found[event.candidate_id].evaluation.ranking_key
    for event in found.values():
        parent = found.get(event.candidate.parent_id)
        assert parent is None or parent.evaluation.ranking_key == event.evaluation.ranking_key
