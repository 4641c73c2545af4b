"""The command member with real programs, some of which do not want to die."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from evolve.council import command as module
from evolve.council.command import CommandMember
from evolve.errors import MemberUnavailable
from evolve.types import Draw, Prompt

KEY = "sk-very-secret-0123456789"


def program(code: str, **options: Any) -> CommandMember:
    command = (sys.executable, "-I", "-S", "-c", textwrap.dedent(code))
    return CommandMember(**{"name": "agent", "command": command, "timeout": 10.0, **options})


async def ask(member: CommandMember, user: str = "Make it faster.") -> Any:
    return await member.ask(Draw(step=1, island=0), Prompt(system="You write kernels.", user=user, kind="diff"))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int, seconds: float = 5.0) -> bool:
    until = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not alive(pid)


# A program with a child in a session of its own, which ignores what can be ignored; both write down who they are.
STUBBORN = """
import os, signal, sys, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
open(sys.argv[1] + f"/{os.getpid()}", "w").close()
time.sleep(60)
"""


async def stubborn(tmp_path: Path) -> tuple[asyncio.Task[Any], list[int]]:
    command = (sys.executable, "-I", "-S", "-c", STUBBORN, str(tmp_path))
    task = asyncio.ensure_future(ask(CommandMember(name="agent", command=command, timeout=2.0)))
    while len(pids := [int(p.name) for p in tmp_path.iterdir()]) < 2:
        await asyncio.sleep(0.02)
    assert all(alive(pid) for pid in pids)
    return task, pids


async def test_prompt_in_reply_out() -> None:
    reply = await ask(program("import sys; print(sys.stdin.read().upper())"))
    assert reply.text == "YOU WRITE KERNELS.\n\nMAKE IT FASTER.\n"
    assert (reply.member, reply.finish_reason, reply.cost_usd) == ("agent", "stop", 0)
    assert reply.model.startswith("python")


async def test_each_call_is_charged_as_the_yaml_says() -> None:
    for code, text in (("print('x')", "x\n"), ("raise SystemExit(1)", "")):
        member = CommandMember(name="agent", command=(sys.executable, "-I", "-S", "-c", code), usd_per_call=0.05)
        reply = await ask(member)
        assert (reply.text, reply.cost_usd) == (text, 0.05)


async def test_a_long_prompt_meets_one_who_does_not_read() -> None:
    long = "x" * 3_000_000
    assert (await ask(program("print('done')"), long)).text == "done\n"
    assert (await ask(program("import sys; print(len(sys.stdin.read()))"), long)).text.strip() == "3000020"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys; sys.exit('no such\\nsubscription.')", "exited with 1: no such subscription"),
        ("print('told on stdout'); raise SystemExit(3)", "exited with 3: told on stdout"),
        ("import os; os.kill(os.getpid(), 9)", "was killed by signal 9: it said nothing"),
        ("import sys; print('only words', file=sys.stderr)", "wrote nothing; on standard error: only words"),
        ("import sys; sys.stderr.write('x' * 10**6 + 'the end'); sys.exit(1)", "xthe end"),
    ],
)
async def test_a_failure_says_why(code: str, words: str) -> None:
    reply = await ask(program(code))
    assert reply.text == ""
    assert words in reply.finish_reason
    assert len(reply.finish_reason) <= 400


async def test_output_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 200_000)
    reply = await ask(program("while True: print('x' * 1000)"))
    assert reply.text == ""
    assert "wrote more than" in reply.finish_reason
    assert reply.seconds < 5


async def test_bytes_that_are_no_text() -> None:
    reply = await ask(program("import sys; sys.stdout.buffer.write(b'a\\xff\\xed\\xa0\\x80b')"))
    assert reply.text.startswith("a")
    reply.text.encode()


async def test_it_dies_with_its_children_when_its_time_is_up(tmp_path: Path) -> None:
    task, pids = await stubborn(tmp_path)
    reply = await task
    assert "took longer than 2 s and was killed" in reply.finish_reason
    assert reply.seconds < 4
    assert all(gone(pid) for pid in pids)


async def test_it_dies_with_its_children_when_the_step_is_dropped(tmp_path: Path) -> None:
    task, pids = await stubborn(tmp_path)
    task.cancel()
    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - began < 1
    assert all(gone(pid, 0.5) for pid in pids), "and before the ask has ended"


async def test_what_it_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    code = f"""
    import os, time
    if os.fork() == 0:
        os.setsid()
        open({str(tmp_path)!r} + f"/{{os.getpid()}}", "w").close()
        time.sleep(60)
    while not os.listdir({str(tmp_path)!r}): time.sleep(0.01)
    print("done")
    """
    reply = await ask(program(code))
    assert reply.text == "done\n"
    assert reply.seconds < 5
    assert all(gone(int(p.name), 0.5) for p in tmp_path.iterdir())


def test_it_dies_with_its_children_when_evolve_does(tmp_path: Path) -> None:
    code = f"""
    import asyncio, sys
    from evolve.council.command import CommandMember
    from evolve.types import Draw, Prompt
    member = CommandMember(name="a", command=(sys.executable, "-I", "-S", "-c", {STUBBORN!r}, {str(tmp_path)!r}))
    asyncio.run(member.ask(Draw(step=1, island=0), Prompt(system="", user="", kind="diff")))
    """
    evolve = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    try:
        until = time.monotonic() + 20
        while len(pids := [int(p.name) for p in tmp_path.iterdir()]) < 2:
            assert time.monotonic() < until
            time.sleep(0.02)
    finally:
        evolve.send_signal(signal.SIGKILL)
        evolve.wait()
    assert all(gone(pid) for pid in pids)


async def test_its_environment_holds_what_was_named_and_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("OPENAI_API_KEY", "MY_TOKEN", "AWS_SECRET_ACCESS_KEY", "PYTHONPATH"):
        monkeypatch.setenv(variable, f"{KEY}-{variable}")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    code = "import os; print(sorted(os.environ)); print('MY', os.environ.get('MY_TOKEN'))"
    bare, named = await ask(program(code)), await ask(program(code, environment=("MY_TOKEN",)))
    for reply in (bare, named):
        assert "'PATH'" in reply.text
        assert "'LC_ALL'" in reply.text
        for variable in ("OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "PYTHONPATH"):
            assert variable not in reply.text
        assert KEY not in reply.text
    assert "MY None" in bare.text
    assert "MY [key]" in named.text, "given to it, and blotted out of what it says"


async def test_eight_at_once() -> None:
    member = program("import time, sys; time.sleep(0.5); print(sys.stdin.read()[-1])")
    await ask(member)
    before = len(os.listdir("/proc/self/fd"))
    began = time.monotonic()
    replies = await asyncio.gather(*(ask(member, str(n)) for n in range(8)))
    assert [r.text for r in replies] == [f"{n}\n" for n in range(8)]
    assert time.monotonic() - began < 3.5, "beside each other, not one after the other"
    assert len(os.listdir("/proc/self/fd")) == before


async def test_one_that_is_not_there_and_one_that_keeps_failing() -> None:
    with pytest.raises(MemberUnavailable, match="no-such-agent is not found"):
        await ask(CommandMember(name="a", command=("no-such-agent", "-p")))
    failing = program("raise SystemExit(1)")
    for _ in range(3):
        assert (await ask(failing)).text == ""
    with pytest.raises(MemberUnavailable, match="rests for another 30 s: 3 calls in a row failed"):
        await ask(failing)
