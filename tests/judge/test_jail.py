"""The jail, against tasks that try to get out of it, to hurt the judge, or to stay."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from evolve.errors import MachineryError
from evolve.judge.jail import Jail, Limits
from evolve.judge.stages import Ruling
from evolve.types import Verdict

LIMITS = Limits(wall_seconds=20.0, cpu_seconds=20, memory_bytes=1 << 30, file_bytes=8 << 20, reply_bytes=1 << 20)
REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    shutil.copy(Path(__file__).parent / "jail_tasks.py", folder / "jail_tasks.py")
    return str(folder)


@pytest.fixture(scope="module")
def jail(tasks):
    with Jail(limits=LIMITS, show=(tasks,), preload=()) as jail:
        yield jail


@pytest.fixture(scope="module")
def real(jail):
    """What follows from namespaces can be tried only where there are some."""
    if "unjailed" in jail.protections:
        pytest.skip(f"no namespaces here: {jail.reason}")
    return jail


def run(jail, task, payload=None, **limits):
    changed = Limits(**{**{f: getattr(LIMITS, f) for f in LIMITS.__slots__}, **limits})
    return json.loads(jail.run(f"jail_tasks:{task}", payload, limits=changed))


def ruling(jail, task, payload=None, **limits):
    with pytest.raises(Ruling) as caught:
        run(jail, task, payload, **limits)
    return caught.value


def inside(jail):
    """Process ids that belong to the jail's server, as seen from here."""
    launchers = [s._process.pid for s in jail._servers if s is not None]
    found, todo = [], list(launchers)
    while todo:
        pid = todo.pop()
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            children = [int(c) for c in path.read_text().split()]
            found += children
            todo += children
    return launchers, found


def gone(pids, seconds=5.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(Path(f"/proc/{p}").exists() for p in pids):
            return True
        time.sleep(0.02)
    return False


def test_text_goes_in_and_comes_out(jail):
    assert run(jail, "echo", {"a": [1, None, "ü"]}) == {"a": [1, None, "ü"]}


def test_large_payloads_pass_both_ways(jail):
    assert len(run(jail, "echo", "x" * 900_000)) == 900_000


def test_a_child_is_alone_and_has_nothing(real):
    seen = run(real, "identity")
    assert seen["pid"] == 1
    assert seen["pids"] == [1]
    assert set(seen["fds"]) <= {0, 1, 2, 4, 3, 5}
    assert int(seen["capabilities"], 16) == 0
    assert seen["interfaces"] == ["lo"]
    if os.geteuid() == 0:
        assert seen["outer_uid"][3:] == ["1", "65534", "1"]


def test_the_environment_is_an_allow_list(tasks, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with Jail(limits=LIMITS, show=(tasks,), preload=()) as jail:
        names = run(jail, "identity")["environment"]
    assert "OPENAI_API_KEY" not in names
    assert "TRITON_CACHE_DIR" in names


def test_nothing_outside_can_be_written(real, tasks, tmp_path):
    places = [str(REPO), str(tmp_path), tasks, "/", "/etc", "/usr", "/dev", "/tmp", sys.prefix, str(Path.home())]
    outcome = run(real, "write", places)
    assert None not in outcome.values(), outcome
    assert not list(REPO.glob("evolve-was-here"))
    assert run(real, "write", ["."]) == {".": None}  # its own folder it may


def test_problems_configurations_and_secrets_cannot_be_read(real, tmp_path):
    secret = tmp_path / "key"
    secret.write_text("sk")
    paths = [str(REPO / "evaluators/matmul.py"), str(REPO / "pyproject.toml"), str(secret), "/etc/passwd"]
    paths += [str(REPO / "evolve/judge/stages.py"), "/root/.bashrc"]
    assert None not in run(real, "read", paths).values()


def test_nobody_can_be_reached(real):
    launchers, others = inside(real)
    pids = [os.getpid(), os.getppid(), *launchers, *others, 2, 3]
    outcome = run(real, "reach", pids)
    assert None not in [outcome[x] for x in ("socket", "unix", "fork", "program", "exec")]
    assert None not in outcome["kill"].values()
    assert None not in outcome["memory"].values()
    assert outcome["ptrace"] == outcome["unshare"] == outcome["mount"] == -1
    assert outcome["setuid"] == "PermissionError"
    assert not gone(launchers, 0.1)


def test_what_one_child_was_told_the_next_cannot_find(jail):
    run(jail, "echo", ["held-out-4711"])
    parts = {"half": "held-out", "other": "4711"}
    assert run(jail, "own_secret", parts) > 0
    assert run(jail, "secrets", parts) == 0


def test_what_one_child_wrote_the_next_does_not_see(jail):
    assert run(jail, "leave_a_mark") is False
    assert run(jail, "leave_a_mark") is False


@pytest.mark.parametrize("task", ["hang", "stubborn", "close_and_hang", "bomb"])
def test_a_hang_ends_at_the_wall_limit(jail, task):
    started = time.monotonic()
    caught = ruling(jail, task, wall_seconds=0.5)
    assert caught.verdict is Verdict.TIMEOUT
    assert "0.5 s" in caught.feedback
    assert time.monotonic() - started < 2.0
    _, children = inside(jail)
    assert len(children) == 1  # the server alone


def test_cpu_time_is_limited(jail):
    caught = ruling(jail, "spin", cpu_seconds=1)
    assert caught.verdict is Verdict.TIMEOUT
    assert "1 s of CPU" in caught.feedback


def test_a_segfault_is_a_runtime_error_with_its_last_words(jail):
    caught = ruling(jail, "crash")
    assert caught.verdict is Verdict.RUNTIME_ERROR
    assert "SIGSEGV" in caught.feedback
    assert "about to crash" in caught.feedback


@pytest.mark.parametrize("task", ["eat", "eat_quietly"])
def test_memory_is_limited(jail, task):
    caught = ruling(jail, task, memory_bytes=512 << 20)
    assert caught.verdict is Verdict.RUNTIME_ERROR
    assert "emory" in caught.feedback


def test_threads_are_limited(real):
    assert run(real, "threads", 400, processes=32) <= 32


def test_files_are_limited(jail):
    caught = ruling(jail, "fill")
    assert caught.verdict is Verdict.RUNTIME_ERROR
    assert "OSError" in caught.feedback


def test_the_reply_is_bounded(jail):
    caught = ruling(jail, "flood")
    assert caught.verdict is Verdict.RUNTIME_ERROR
    assert "longer than" in caught.feedback


def test_talk_is_drained_and_does_not_block(jail):
    assert run(jail, "babble") == "done"


@pytest.mark.parametrize(("task", "word"), [("leave", "without an answer"), ("leave_badly", "exit code 7")])
def test_leaving_without_an_answer_is_a_failure(jail, task, word):
    caught = ruling(jail, task)
    assert caught.verdict is Verdict.RUNTIME_ERROR
    assert word in caught.feedback


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "null", '{"raised": 1}', '{"raised": {"verdict": "PASSED"}}', "[" * 9999]
)
def test_a_forged_record_gains_nothing(jail, text):
    assert ruling(jail, "lie", text).verdict is Verdict.RUNTIME_ERROR


def test_an_exception_is_told(jail):
    caught = ruling(jail, "raises")
    assert caught.verdict is Verdict.RUNTIME_ERROR
    assert caught.feedback == "ValueError: no such thing"
    assert "raises" in caught.evidence["trace"]


def test_a_dead_server_is_replaced(jail):
    launchers, _ = inside(jail)
    os.kill(launchers[0], signal.SIGKILL)
    assert run(jail, "echo", 1) == 1
    assert inside(jail)[0] != launchers


def test_a_server_that_dies_during_a_run_is_replaced_once(tasks):
    with Jail(limits=LIMITS, show=(tasks,), preload=()) as jail:
        run(jail, "echo", 1)
        launcher = inside(jail)[0][0]
        threading.Timer(0.3, os.kill, (launcher, signal.SIGKILL)).start()
        assert ruling(jail, "hang", wall_seconds=1.0).verdict is Verdict.TIMEOUT


def test_a_server_that_cannot_start_is_our_fault():
    with Jail(preload=("no_such_module",)) as jail, pytest.raises(MachineryError, match="no_such_module"):
        jail.run("evolve.judge.jailed.probe:alive", None)


def test_slots_run_side_by_side(tasks):
    with Jail(slots=2, limits=LIMITS, show=(tasks,), preload=()) as jail:
        jail.start()
        started = time.monotonic()
        pair = [threading.Thread(target=ruling, args=(jail, "hang"), kwargs={"wall_seconds": 0.7}) for _ in range(2)]
        for thread in pair:
            thread.start()
        for thread in pair:
            thread.join()
        assert time.monotonic() - started < 1.3


def test_close_leaves_nothing_and_may_be_called_twice(tasks):
    jail = Jail(limits=LIMITS, show=(tasks,), preload=())
    run(jail, "echo", 1)
    launchers, others = inside(jail)
    jail.close()
    jail.close()
    assert gone([*launchers, *others])
    with pytest.raises(MachineryError, match="closed"):
        run(jail, "echo", 1)


def test_without_a_jail_it_says_so(tasks):
    with Jail(limits=LIMITS, show=(tasks,), preload=(), jailed=False) as jail:
        assert jail.protections[0] == "unjailed"
        assert jail.reason
        assert run(jail, "echo", 1) == 1
        outcome = run(jail, "reach", [os.getpid(), os.getppid()])
        assert None not in [outcome[x] for x in ("socket", "unix", "fork", "program", "exec")]
        assert None not in outcome["kill"].values()
        assert ruling(jail, "hang", wall_seconds=0.3).verdict is Verdict.TIMEOUT


@pytest.mark.parametrize("busy", [False, True])
def test_the_servers_die_with_the_judge(tasks, busy):
    """SIGKILL leaves no time to clean up."""
    program = f"""
        import threading, time
        from evolve.judge.jail import Jail
        jail = Jail(show=({tasks!r},), preload=())
        worker = threading.Thread(target=jail.run, args=("jail_tasks:echo", 1))  # the thread that forks goes at once
        worker.start(); worker.join(); time.sleep(0.2)
        assert jail._servers[0].alive()
        threading.Thread(target=jail.run, args=("jail_tasks:{"hang" if busy else "echo"}", 1)).start()
        time.sleep(0.3)
        print(jail._servers[0]._process.pid, flush=True)
        time.sleep(60)
    """
    judge = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, cwd=REPO)
    assert judge.stdout is not None
    launcher = int(judge.stdout.readline())
    children = [int(c) for c in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()]
    assert children
    judge.kill()
    judge.wait()
    judge.stdout.close()
    assert gone([launcher, *children])
