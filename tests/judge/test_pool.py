"""GPU processes that hang, crash, lie and flood, played by fakes: the judge outlives all of them."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.errors import MachineryError
from evolve.judge.gpu.pool import Pool, WorkerFault
from evolve.judge.gpu.server import MARK, mark_of, sweep
from evolve.judge.gpu.wire import Channel, Closed, Malformed, Silent

HERE = str(Path(__file__).parent)


def make_pool(entry="obedient", standbys=1, **more):
    return Pool(
        standbys=standbys,
        opening={"op": "open"},
        entry=f"gpu_workers:{entry}",
        preload=(),
        environment={"PYTHONPATH": os.pathsep.join([HERE, str(Path(HERE).parent.parent)]), **more},
    )


@pytest.fixture(scope="module")
def pool():
    made = make_pool()
    yield made
    made.close()


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid, seconds=3.0):
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not alive(pid)


def test_every_worker_is_fresh(pool):
    first, second = pool.take(), pool.take()
    assert first.pid != second.pid
    assert first.ask({"op": "echo", "text": "ä"}, seconds=5) == {"echo": "ä"}
    first.kill()
    second.kill()
    assert gone(first.pid)


def test_a_standby_makes_taking_instant():
    pool = make_pool("slow_to_open")
    try:
        pool.prepare()
        time.sleep(1.0)
        began = time.monotonic()
        worker = pool.take()
        assert time.monotonic() - began < 0.2
        worker.kill()
    finally:
        pool.close()


def test_secrets_stay_behind(pool, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    other = make_pool()
    try:
        worker = other.take()
        seen = worker.opened["environment"]
        assert "OPENAI_API_KEY" not in seen
        assert seen[MARK] == mark_of(os.getpid())
        worker.kill()
    finally:
        other.close()


@pytest.mark.parametrize(
    ("order", "kind", "says"),
    [
        ({"op": "crash"}, "died", "status -11"),
        ({"op": "leave"}, "died", "no final record"),
        ({"op": "raise"}, "died", "status 70"),
        ({"op": "flood"}, "died", "4294967295 bytes"),
        ({"op": "garbage"}, "died", "not JSON"),
        ({"op": "fault"}, "cuda", "illegal memory access"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_every_way_to_die_is_a_fault_and_leaves_nothing(pool, order, kind, says):
    worker = pool.take()
    with pytest.raises(WorkerFault) as caught:
        worker.ask(order, seconds=10)
    assert caught.value.kind == kind
    assert says in caught.value.text
    assert gone(worker.pid)


def test_a_hang_ends_at_the_limit_it_announced_itself(pool):
    worker = pool.take()
    began = time.monotonic()
    with pytest.raises(WorkerFault) as caught:
        worker.ask({"op": "hang", "seconds": 0.3}, seconds=30)
    assert time.monotonic() - began < 2
    assert caught.value.kind == "hung"
    assert caught.value.in_candidate
    assert caught.value.at["workload"] == "big"
    assert gone(worker.pid)


def test_talking_is_not_hanging(pool):
    worker = pool.take()
    assert worker.ask({"op": "chatter", "times": 10, "pause": 0.05}, seconds=0.4) == {"done": True}
    worker.kill()


def test_what_a_worker_started_dies_with_it(pool):
    worker = pool.take()
    child = worker.ask({"op": "child"}, seconds=5)["child"]
    assert alive(child)
    worker.kill()
    assert gone(child)


def test_a_dropped_worker_dies_and_is_forgotten(pool):
    worker = pool.take()
    began = time.monotonic()
    worker.drop()
    assert time.monotonic() - began < 0.5
    assert gone(worker.pid)
    assert worker.pid in pool.pids(), "until the driver forgets it, it is not a stranger"


def test_a_paused_standby_still_opens_later():
    pool = make_pool("slow_to_open")
    try:
        pool.prepare()
        with pool.quiet():
            time.sleep(0.1)
        assert pool.take().ask({"op": "echo", "text": "x"}, seconds=5) == {"echo": "x"}
    finally:
        pool.close()


def test_nobody_stays_paused_who_was_open_or_is_waited_for():
    """While one measures others come for a process: those that stand by, the one being opened, and one more."""
    pool = make_pool("slow_to_open", standbys=2)
    try:
        pool.prepare()
        taken = []
        threads = [threading.Thread(target=lambda: taken.append(pool.take())) for _ in range(3)]
        with pool.quiet():
            for thread in threads:
                thread.start()
            time.sleep(0.8)
            own = pool.take()  # whoever measures gets one at any time
            assert own.ask({"op": "echo", "text": "x"}, seconds=5) == {"echo": "x"}
            assert not taken, "nobody opens beside who measures"
        for thread in threads:
            thread.join(10)
        assert [worker.ask({"op": "echo", "text": "y"}, seconds=5) for worker in taken] == [{"echo": "y"}] * 3
    finally:
        pool.close()


def test_workers_that_never_open_are_machinery():
    pool = make_pool("dies_first")
    try:
        with pytest.raises(MachineryError, match="cannot be opened"):
            pool.take()
    finally:
        pool.close()


def test_a_killed_server_is_replaced_and_its_workers_are_gone():
    pool = make_pool()
    try:
        worker = pool.take()
        os.kill(pool.server.pid, signal.SIGKILL)
        assert gone(worker.pid)
        with pytest.raises(WorkerFault):
            worker.ask({"op": "echo", "text": "x"}, seconds=5)
        assert pool.take().ask({"op": "echo", "text": "x"}, seconds=5) == {"echo": "x"}
    finally:
        pool.close()


def test_closing_leaves_no_process():
    pool = make_pool()
    worker = pool.take()
    pool.prepare()
    ours = pool.pids()
    assert worker.pid in ours
    assert len(ours) == 3
    pool.close()
    pool.close()
    assert all(gone(pid) for pid in ours)


PARENT = """
import json, os, sys, time
from evolve.judge.gpu.pool import Pool
pool = Pool(opening={"op": "open"}, entry="gpu_workers:obedient", preload=(), environment={"PYTHONPATH": sys.argv[1]})
pool.take()
pool.prepare()
print(json.dumps(sorted(pool.pids())), flush=True)
time.sleep(600)
"""


def test_nothing_outlives_a_parent_that_was_killed():
    path = os.pathsep.join([HERE, str(Path(HERE).parent.parent)])
    parent = subprocess.Popen([sys.executable, "-c", PARENT, path], stdout=subprocess.PIPE, text=True)
    pids = json.loads(parent.stdout.readline())
    assert len(pids) == 3
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert all(gone(pid) for pid in pids)


def test_the_sweep_kills_what_a_dead_parent_left_and_nothing_else():
    orphan = subprocess.Popen(["sleep", "600"], env={MARK: "999999:1", "PATH": os.environ["PATH"]})
    ours = subprocess.Popen(["sleep", "600"], env={MARK: mark_of(os.getpid()), "PATH": os.environ["PATH"]})
    try:
        time.sleep(0.1)
        assert orphan.pid in sweep()
        assert orphan.wait(timeout=5) == -signal.SIGKILL
        assert ours.poll() is None
    finally:
        for process in (orphan, ours):
            process.kill()
            process.wait()


@pytest.fixture
def ends():
    a, b = socket.socketpair()
    with a, b:
        yield Channel(a, most_bytes=10_000), b


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=5), st.recursive(st.none() | st.integers() | st.text(max_size=9), st.lists)))
def test_messages_arrive_as_they_were_sent(message):
    a, b = socket.socketpair()
    with a, b:
        Channel(a).send(message)
        assert Channel(b).receive(seconds=5) == message


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_an_object_or_an_error(data):
    a, b = socket.socketpair()
    with a, b:
        b.sendall(data)
        b.shutdown(socket.SHUT_WR)
        channel = Channel(a)
        with contextlib.suppress(Closed, Malformed, Silent):
            assert isinstance(channel.receive(seconds=1), dict)


def test_whoever_reads_ahead_loses_nothing_between_messages():
    a, b = socket.socketpair()
    with a, b:
        channel, far = Channel(a, ahead=True), Channel(b)
        for number in range(50):
            far.send({"at": number})
        far.send({"done": "x" * 100_000})
        assert [channel.receive(seconds=5) for _ in range(50)] == [{"at": n} for n in range(50)]
        assert channel.receive(seconds=5) == {"done": "x" * 100_000}
        b.shutdown(socket.SHUT_WR)
        with pytest.raises(Closed):
            channel.receive(seconds=5)


def test_trickling_wins_no_time(ends):
    channel, other = ends
    stop = threading.Event()

    def trickle():
        other.sendall((5000).to_bytes(4, "big"))
        while not stop.wait(0.05):
            other.sendall(b"x")

    thread = threading.Thread(target=trickle)
    thread.start()
    began = time.monotonic()
    with pytest.raises(Silent):
        channel.receive(seconds=0.4)
    assert time.monotonic() - began < 1
    stop.set()
    thread.join()


def test_too_long_is_refused_on_either_side(ends):
    channel, other = ends
    with pytest.raises(Malformed, match="at most 10000"):
        channel.send({"text": "x" * 20_000})
    other.sendall((20_000).to_bytes(4, "big"))
    with pytest.raises(Malformed, match="at most 10000"):
        channel.receive(seconds=1)
