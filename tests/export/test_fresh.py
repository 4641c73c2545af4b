"""The trial's process: it waits for its order, speaks while it works, and goes when whoever started it is gone."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing

import pytest

from evolve.errors import MachineryError
from evolve.export import verifying

STARTS = """
import time
from evolve.export.verifying import FreshProcess
print(FreshProcess()._process.pid, flush=True)
time.sleep(60)
"""
ANSWERS = """
import json, sys
from pathlib import Path
order = json.loads(sys.stdin.readline())
print("first", flush=True)
print("second")
Path(order["answer"]).write_text(json.dumps({"state": "done"}))
"""


def gone(pid, seconds=10.0):
    """Dead, or dead and waiting for a parent that does not look."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        try:
            with open(f"/proc/{pid}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def test_it_dies_with_an_export_that_is_killed():
    exports = subprocess.Popen([sys.executable, "-c", STARTS], stdout=subprocess.PIPE, text=True)
    trial = int(exports.stdout.readline())
    time.sleep(0.3)  # it is in the middle of importing torch
    os.kill(trial, 0)
    exports.send_signal(signal.SIGKILL)
    with exports:
        pass
    assert gone(trial, 0.5)  # sooner than it would have noticed that nobody is at the other end of its stdin


@pytest.fixture
def written(package):
    from evolve.export.package import Written
    from evolve.problem import load_problem

    problem = load_problem(package.folder / "problem.py")
    return Written(name=package.name, problem=problem, variant=problem.variant("fp16"), kernels={"kernels": ""})


@pytest.fixture
def stands_in(monkeypatch, tmp_path):
    """A script of ours in the trial's place."""

    def install(body):
        script = tmp_path / "script.py"
        script.write_text(body)
        monkeypatch.setattr(verifying.trial, "__file__", str(script))

    return install


def test_what_it_says_is_heard_and_its_answer_is_read(written, stands_in, tmp_path):
    stands_in(ANSWERS)
    heard = []
    with closing(verifying.FreshProcess()) as fresh:
        assert fresh.run(tmp_path / "draft", written, [], say=heard.append) == {"state": "done"}
    assert heard == ["first", "second"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise SystemExit('no luck today')", "does not survive its trial.*no luck today"),
        ("import os; os._exit(0)", "ended without a word"),
        ("import time; time.sleep(60)", "took over 0.2 s"),
    ],
)
def test_a_trial_that_does_not_answer_is_refused(body, said, written, stands_in, monkeypatch, tmp_path):
    stands_in(body)
    monkeypatch.setattr(verifying, "TRIAL_SECONDS", 0.2 if "sleep" in body else 30.0)
    with closing(verifying.FreshProcess()) as fresh, pytest.raises(MachineryError, match=said):
        fresh.run(tmp_path / "draft", written, [])
