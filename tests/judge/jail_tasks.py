"""Tasks that misbehave. Shown to a jail by the tests, and only by them."""

import ctypes
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path


def attempt(call):
    """What came of it: None if it was let through."""
    try:
        call()
    except BaseException as error:
        return type(error).__name__
    return None


def echo(payload):
    return payload


def identity(payload):
    return {
        "pid": os.getpid(),
        "outer_uid": Path("/proc/self/uid_map").read_text().split(),
        "uid": os.getuid(),
        "fds": sorted(int(f) for f in os.listdir("/proc/self/fd")),
        "pids": sorted(int(f) for f in os.listdir("/proc") if f.isdigit()),
        "environment": sorted(os.environ),
        "capabilities": next(x for x in open("/proc/self/status") if x.startswith("CapEff")).split()[1],
        "interfaces": [line.split(":")[0].strip() for line in open("/proc/net/dev")][2:],
    }


def write(payload):
    def put(path):
        Path(path, "evolve-was-here").write_text("x")

    return {path: attempt(lambda path=path: put(path)) for path in payload}


def read(payload):
    return {path: attempt(Path(path).read_bytes) for path in payload}


def reach(payload):
    libc = ctypes.CDLL(None, use_errno=True)

    def signalled(pid):
        os.kill(pid, signal.SIGKILL)

    return {
        "socket": attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)),
        "unix": attempt(lambda: socket.socket(socket.AF_UNIX)),
        "fork": attempt(os.fork),
        "program": attempt(lambda: subprocess.run([sys.executable, "-c", "1"], check=True)),
        "exec": attempt(lambda: os.execv(sys.executable, ["python"])),
        "kill": {pid: attempt(lambda pid=pid: signalled(pid)) for pid in payload},
        "memory": {pid: attempt(lambda pid=pid: open(f"/proc/{pid}/mem", "rb").read(1)) for pid in payload},
        "ptrace": libc.ptrace(16, payload[0], 0, 0),
        "unshare": libc.unshare(0x10000000),
        "mount": libc.mount(b"none", b"/", None, 4096 | 32, None),
        "setuid": attempt(lambda: os.setuid(0)) if os.getuid() else "PermissionError",
    }


def secrets(payload):
    """Anything of an earlier payload left in the memory that was inherited? The two halves are never put together here,
    or the search would find itself."""
    half, other = payload["half"].encode(), payload["other"].encode()
    hits, step = 0, 1 << 22
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights, _, _, inode, *name = line.split()
        if "r" not in rights or inode != "0" or (name and name[0].startswith("[v")):
            continue
        start, end = (int(x, 16) for x in span.split("-"))
        for at in range(start, end, step):
            hits += count(ctypes.string_at(at, min(step, end - at)), half, other)
    return hits


def count(chunk, half, other):
    found, at = 0, chunk.find(half)
    while at >= 0:
        after = at + len(half) + 1
        found += chunk[after - 1 : after] == b"-" and chunk[after : after + len(other)] == other
        at = chunk.find(half, at + 1)
    return found


def own_secret(payload):
    """The search itself works: it finds what is in this very process."""
    kept = "-".join((payload["half"], payload["other"])).encode()
    return secrets(payload) + 0 * len(kept)


def hang(payload):
    while True:
        time.sleep(1)


def spin(payload):
    while True:
        pass


def stubborn(payload):
    for number in range(1, 32):
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_IGN)
    hang(payload)


def crash(payload):
    print("about to crash", flush=True)
    ctypes.string_at(0)


def leave(payload):
    os._exit(0)


def leave_badly(payload):
    os._exit(7)


def eat(payload):
    kept = []
    while True:
        kept.append(bytearray(64 << 20))


def eat_quietly(payload):
    """Outside Python's own allocator."""
    maps = []
    while True:
        block = mmap.mmap(-1, 256 << 20)
        for page in range(0, len(block), 4096):
            block[page] = 1
        maps.append(block)


def bomb(payload):
    while True:
        attempt(os.fork)


def threads(payload):
    made = 0
    for _ in range(payload):
        try:
            threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
        except RuntimeError:
            break
        made += 1
    os.write(4, b'{"answer": %d}' % made)
    os._exit(0)


def flood(payload):
    while True:
        os.write(4, b"x" * 65536)


def babble(payload):
    for _ in range(200_000):
        print("babble " * 10)
    return "done"


def fill(payload):
    with open("big", "wb") as file:
        for _ in range(1 << 20):
            file.write(b"x" * (1 << 20))


def close_and_hang(payload):
    os.closerange(1, 64)
    hang(payload)


def lie(payload):
    os.write(4, payload.encode())
    os._exit(0)


def raises(payload):
    raise ValueError("no such thing")


def leave_a_mark(payload):
    found = os.path.exists("mark")
    Path("mark").write_text("x")
    return found
