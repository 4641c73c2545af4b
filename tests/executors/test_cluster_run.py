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
