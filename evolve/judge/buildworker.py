"""The builder's other side: a process with triton loaded that compiles each order in a child that can be killed.

    server      imports triton once, never compiles; forks for each order
    supervisor  one an order: starts the compiler, waits as long as the order allows, kills what is left
    compiler    one an order: TTIR text to machine code in the order's own folder, then dies

It knows no candidate and no GPU, reads nothing but the order's folder, and inherits an environment that the builder
wrote. What it does not do: decide anything. An exception leaves through the top, and its traceback is the order's log.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import resource
import select
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

from evolve.judge import sass

PR_SET_PDEATHSIG = 1
# Address space of one compiler. A compile takes 1-2 GiB, most of it mapped and never touched.
MEMORY_BYTES = 16 << 30
FILE_BYTES = 1 << 30
DONE = "done.json"
NICE = 5  # compilers keep every core busy; a process that feeds a GPU must not wait behind them


def main() -> None:
    orders = socket.socket(fileno=int(sys.argv[1]))
    preload(json.loads(sys.argv[2]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # supervisors are nobody's to wait for
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the builder's affair: it closes the socket
    os.nice(NICE)
    server = os.getpid()
    while True:
        message, ends, _, _ = socket.recv_fds(orders, 1 << 16, 1)
        if not message:
            return
        if os.fork() == 0:
            orders.close()
            supervise(json.loads(message), ends[0], server)
        os.close(ends[0])


def preload(target: dict[str, Any]) -> None:
    """What every compile needs and none changes. No compile here: MLIR's threads would not survive the forks.

    Triton names its cache by a digest of its whole installation, 1 s of hashing; taken once, the forks inherit it."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler.compiler import make_backend
    from triton.runtime.cache import triton_key

    triton_key()
    make_backend(GPUTarget(**target)).hash()


def supervise(order: dict[str, Any], answer: int, server: int) -> NoReturn:
    """Fork the compiler, wait for it, tell how it ended. Its whole process group goes, ptxas included."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    supervisor = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(answer)
        confine(order, supervisor)
        compile_order(order)
        os._exit(0)

    def stop(*_: object) -> None:
        kill_group(child)
        os._exit(1)

    signal.signal(signal.SIGTERM, stop)
    die_with(server, signal.SIGTERM)
    late = wait(child, answer, order["timeout"])
    kill_group(child)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.write(answer, json.dumps({"late": late, "code": code}).encode())
    os._exit(0)


def wait(child: int, answer: int, seconds: float) -> bool:
    """Until the compiler ends or the builder hangs up; True if its time ran out before."""
    poll = select.poll()
    poll.register(os.pidfd_open(child), select.POLLIN)
    poll.register(answer, 0)  # a hang-up is always told
    return not poll.poll(seconds * 1000)


def kill_group(child: int) -> None:
    """The compiler leads a group of its own from its first lines on; it may not have got there yet."""
    for kill in (os.killpg, os.kill):
        try:
            kill(child, signal.SIGKILL)
        except ProcessLookupError:
            continue


def die_with(parent: int, how: signal.Signals) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, how)
    if os.getppid() != parent:  # it was gone before we asked
        os.kill(os.getpid(), how)


def confine(order: dict[str, Any], supervisor: int) -> None:
    """Own group, limits that ptxas inherits, and the order's folder as the only place to write."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    die_with(supervisor, signal.SIGKILL)
    seconds = int(order["timeout"]) + 5
    for what, limit in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, 4 * seconds),  # of all threads together; a last resort for an orphaned ptxas
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (limit, limit))
    folder = Path(order["folder"])
    os.chdir(folder)
    for name, stream in (("stdout.txt", 1), ("stderr.txt", 2)):
        fd = os.open(name, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        os.dup2(fd, stream)
        os.close(fd)
    os.environ["TRITON_CACHE_DIR"] = str(folder / "triton")
    os.environ["TMPDIR"] = str(folder / "tmp")
    (folder / "tmp").mkdir(exist_ok=True)
    tempfile.tempdir = None  # it remembers the server's


def compile_order(order: dict[str, Any]) -> None:
    started = time.monotonic()
    done = kernel(order)
    done["seconds"] = time.monotonic() - started
    sys.stdout.flush()
    Path(DONE).write_text(json.dumps(done), encoding="utf-8")


def kernel(order: dict[str, Any]) -> dict[str, Any]:
    """Compile `kernel.ttir` and lay what triton made of it flat into the folder."""
    import triton
    from triton.backends.compiler import GPUTarget

    text = str(Path("kernel.ttir").resolve())
    built = triton.compile(text, target=GPUTarget(**order["target"]), options=dict(order["options"]))
    files = {}
    for name, made in built.metadata_group.items():
        flat = Path("kernel" + Path(name).suffix)
        if flat.suffix not in (".llir", ".ttir"):
            os.replace(made, flat)
            files[flat.name] = hashlib.sha256(flat.read_bytes()).hexdigest()
    metadata = built.metadata
    binary = Path("kernel.hsaco" if order["target"]["backend"] == "hip" else "kernel.cubin")
    sys.stdout.flush()
    ptxas = Path("stdout.txt").read_text(errors="replace")
    lean = bool(order["lean"]) and binary.suffix == ".cubin"
    found = (
        sass.inspect_cubin(binary, ptxas, listing=not lean)
        if binary.suffix == ".cubin"
        else sass.inspect_amd(built.asm["amdgcn"])
    )
    return {
        "files": files,
        "name": metadata.name,
        "shared_bytes": metadata.shared,
        "tensor_memory": getattr(metadata, "tmem_size", 0) or 0,
        "threads": metadata.num_warps * order["target"]["warp_size"],
        "sass": sass.code_digest(binary),
        "registers": found.registers,
        "spills_bytes": found.spills_bytes,
        "instructions": dict(found.instructions),
        "notes": found.notes,
        "lean": lean,
    }


if __name__ == "__main__":
    main()
