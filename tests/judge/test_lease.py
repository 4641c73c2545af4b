"""One holder a GPU, whatever becomes of it: real processes, real SIGKILL."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from evolve.errors import MachineryError
from evolve.judge.gpu.lease import lease, lease_path

HOLD = """
import sys, time
from evolve.judge.gpu.lease import lease
with lease("GPU-1", folder=sys.argv[1], label="the other one"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_held_gpu_is_not_given_and_its_holder_is_named(other, tmp_path):
    with (
        pytest.raises(MachineryError, match=rf"process {other.pid} \(the other one\)"),
        lease("GPU-1", seconds=0.1, folder=tmp_path),
    ):
        pass


def test_another_gpu_is_free(other, tmp_path):
    with lease("GPU-2", seconds=0.1, folder=tmp_path) as held:
        assert held.waited_seconds < 0.1


def test_sigkill_frees_it_at_once(other, tmp_path):
    began = time.monotonic()
    threading.Timer(0.2, lambda: os.kill(other.pid, signal.SIGKILL)).start()
    with lease("GPU-1", seconds=5, folder=tmp_path) as held:
        assert 0.15 < held.waited_seconds < 2
    assert time.monotonic() - began < 2


def test_threads_of_one_process_exclude_each_other(tmp_path):
    inside, most, lock = 0, 0, threading.Lock()

    def work():
        nonlocal inside, most
        for _ in range(5):
            with lease("GPU-1", folder=tmp_path):
                with lock:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0.002)
                with lock:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_an_exception_frees_it(tmp_path):
    with pytest.raises(ZeroDivisionError), lease("GPU-1", folder=tmp_path):
        raise ZeroDivisionError
    with lease("GPU-1", seconds=0, folder=tmp_path):
        pass


def test_a_planted_link_is_not_followed(tmp_path):
    target = tmp_path / "precious"
    target.write_text("mine")
    lease_path("GPU-1", tmp_path).symlink_to(target)
    with pytest.raises(MachineryError, match="lock file cannot be opened"), lease("GPU-1", folder=tmp_path):
        pass
    assert target.read_text() == "mine"


def test_names_cannot_leave_the_folder(tmp_path):
    assert lease_path("../../etc/x", tmp_path).parent == tmp_path
