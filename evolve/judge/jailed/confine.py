"""What the kernel is asked for when a process locks itself in: namespaces, a root, limits, a list of calls.

Plain system calls through ctypes, because `os.unshare` came only with Python 3.12 and no package is wanted inside the
jail. It decides nothing: `server.py` says in what order, `evolve/judge/jail.py` says how much.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC = 1, 2, 4, 8, 32, 4096, 8192, 16384
MS_PRIVATE = 1 << 18
# A remount inside a user namespace must keep what the outer mount had, or the kernel refuses it.
KEPT = {"nosuid": MS_NOSUID, "nodev": MS_NODEV, "noexec": MS_NOEXEC, "noatime": 1024, "nodiratime": 2048}
RELATIME = 1 << 21
DETACH = 2

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 24, 38
SIGKILL = 9
EPERM, ENOSYS = 1, 38

# Where the new root is mounted while it is built; it must hide nothing that is to be shown.
MOUNT_POINTS = ("/mnt", "/media", "/srv", "/boot", "/var/empty", "/run", "/tmp")

SCRATCH = "/scratch"  # the one folder that a child may write to; not /tmp, which may hold what is to be shown

libc = ctypes.CDLL(None, use_errno=True)


class Refused(OSError):
    """The kernel does not let this process do it: no such jail is to be had here."""


def _call(what: str, result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise Refused(code, f"{what}: {os.strerror(code)}")
    return result


def _text(value: str | None) -> bytes | None:
    return None if value is None else os.fsencode(value)


def unshare(flags: int) -> None:
    _call(f"unshare({flags:#x})", libc.unshare(flags))


def enter(fd: int, kind: int) -> None:
    _call("setns", libc.setns(fd, kind))


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    done = libc.mount(_text(source), _text(target), _text(kind), ctypes.c_ulong(flags), _text(data))
    _call(f"mount({target})", done)


def die_with_parent() -> None:
    """After every change of identity: the kernel forgets this wish when credentials change."""
    _call("prctl(PDEATHSIG)", libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0))


def hide_memory() -> None:
    """Nobody of the same user may open our /proc/PID/mem or trace us."""
    _call("prctl(DUMPABLE)", libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))


# --- The file system ------------------------------------------------------------------------------------------------


def change_root(show: Sequence[str], tmp_bytes: int) -> bool:
    """Leave the old root behind: what is in `show` stays, read-only; SCRATCH is new. Says whether /proc is our own."""
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    show = [*show, *map(os.path.realpath, show)]
    new = next(p for p in MOUNT_POINTS if Path(p).is_dir() and not any(f"{s}/".startswith(f"{p}/") for s in show))
    before = {line[0] for line in _mounts()}
    mount("tmpfs", new, "tmpfs", MS_NOSUID | MS_NODEV, "size=4m,mode=755")
    for path in sorted(set(show)):
        _show(new, path)
    for node in ("null", "zero", "full", "random", "urandom"):
        _show(new, f"/dev/{node}")
    Path(f"{new}{SCRATCH}").mkdir()
    own_proc = _new_proc(new)
    _seal(new, before)
    mount("tmpfs", f"{new}{SCRATCH}", "tmpfs", MS_NOSUID | MS_NODEV, f"size={tmp_bytes},mode=1777")
    os.chdir(new)
    _pivot()
    return own_proc


def _pivot() -> None:
    """The new root is stacked on the old one, which is then let go: no folder for the old one is needed."""
    number = {"x86_64": 155, "aarch64": 41}.get(platform.machine())
    if number is None:
        raise Refused(ENOSYS, f"pivot_root: number not known on {platform.machine()}")
    if libc.syscall(number, b".", b".") < 0:  # a root on the initial ramdisk cannot be pivoted away from
        mount(".", "/", None, MS_MOVE)
        os.chroot(".")
    else:
        _call("umount2(/)", libc.umount2(b".", DETACH))
    os.chdir("/")


def _show(new: str, path: str) -> None:
    here = Path(path)
    there = Path(f"{new}{path}")
    if not here.exists() or _reachable(new, path):
        return
    if here.is_symlink():
        there.parent.mkdir(parents=True, exist_ok=True)
        there.symlink_to(os.readlink(path))
        _show(new, os.path.realpath(path))
        return
    if here.is_dir():
        there.mkdir(parents=True, exist_ok=True)
    else:
        there.parent.mkdir(parents=True, exist_ok=True)
        there.touch()
    mount(path, str(there), None, MS_BIND | MS_REC)


def _reachable(new: str, path: str) -> bool:
    """Already there as part of a folder that was shown before (a mere empty parent does not count)."""
    there = Path(f"{new}{path}")
    return there.exists() and (there.is_file() or any(there.iterdir()))


def _new_proc(new: str) -> bool:
    """A /proc of this pid namespace. Where the outer one is masked (as in many containers) the kernel refuses a new
    one; then nothing of it is shown but two files that libraries read."""
    Path(f"{new}/proc").mkdir(exist_ok=True)
    try:
        mount("proc", f"{new}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except Refused:
        for name in ("/proc/cpuinfo", "/proc/meminfo"):
            _show(new, name)
        return False
    return True


def _mounts() -> list[list[str]]:
    return [line.split(" ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]


def _seal(new: str, before: set[str]) -> None:
    """Read-only, each mount by itself: a recursive bind stays writable below its top."""
    for fields in _mounts():
        where = fields[4].encode().decode("unicode_escape")
        if fields[0] in before or where == f"{new}/proc":
            continue
        words = fields[5].split(",")
        flags = sum(bit for name, bit in KEPT.items() if name in words)
        flags |= RELATIME if "relatime" in words else 0
        mount("none", where, None, MS_REMOUNT | MS_BIND | MS_RDONLY | flags)


def fresh_tmp(tmp_bytes: int, own_proc: bool) -> None:
    """A child's own SCRATCH and /proc, gone with it."""
    unshare(NEWNS | NEWIPC)
    mount("tmpfs", SCRATCH, "tmpfs", MS_NOSUID | MS_NODEV, f"size={tmp_bytes},mode=1777")
    if own_proc:
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)


# --- Limits and rights ----------------------------------------------------------------------------------------------


def limit(*, memory_bytes: int, cpu_seconds: int, file_bytes: int, processes: int) -> None:
    """`memory_bytes` is what may be added to the address space that the preloaded libraries already take."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 2**21
    taken = pages * resource.getpagesize()
    _cap(resource.RLIMIT_AS, taken + memory_bytes)
    _cap(resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + 1)
    _cap(resource.RLIMIT_FSIZE, file_bytes)
    _cap(resource.RLIMIT_NPROC, processes)
    _cap(resource.RLIMIT_NOFILE, 256)
    _cap(resource.RLIMIT_CORE, 0)
    _cap(resource.RLIMIT_MEMLOCK, 0)
    _cap(resource.RLIMIT_MSGQUEUE, 0)


def _cap(which: int, soft: int, hard: int | None = None) -> None:
    ceiling = resource.getrlimit(which)[1]
    hard = soft if hard is None else hard
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    resource.setrlimit(which, (soft, hard))


def drop_rights(uid: int | None) -> None:
    """No capability, no way to regain one, and the jail's nobody where the map has one."""
    for capability in range(64):
        libc.prctl(
            PR_CAPBSET_DROP, capability, 0, 0, 0
        )  # beyond the kernel's last one it says EINVAL, and that is fine
    if uid is not None:
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    header = struct.pack("=Ii", 0x20080522, 0)
    _call("capset", libc.capset(header, struct.pack("=6I", 0, 0, 0, 0, 0, 0)))
    _call("prctl(NO_NEW_PRIVS)", libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


# System calls that a lowering has no use for, x86_64 and aarch64: processes and programs, others' memory and
# signals, sockets, mounts and namespaces, kernel interfaces with a history of holes.
REFUSED = {
    "x86_64": (
        *(57, 58, 59, 322, 101, 310, 311, 312, 434, 438, 424, 129, 297, 41, 53, 165, 166, 155, 161, 272, 308, 428),
        *(429, 430, 431, 432, 442, 321, 298, 323, 425, 426, 427, 248, 249, 250, 175, 313, 246, 320, 304, 169, 200),
    ),
    "aarch64": (
        *(221, 281, 117, 270, 271, 272, 434, 438, 424, 138, 240, 198, 199, 40, 39, 41, 51, 97, 268, 428, 429, 430),
        *(431, 432, 442, 280, 241, 282, 425, 426, 427, 217, 218, 219, 105, 273, 104, 294, 265, 142, 130),
    ),
}
# number of clone, clone3, kill, tgkill; and the kernel's name of the architecture
TELLING = {"x86_64": (56, 435, 62, 234, 0xC000003E), "aarch64": (220, 435, 129, 131, 0xC00000B7)}
CLONE_THREAD = 0x10000

LOAD, EQUAL, GREATER_EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL = 0x7FFF0000, 0x80000000


def forbid_calls() -> bool:
    """A seccomp filter. Threads may be made, processes may not; signals reach only this process. Says if it is on."""
    machine = platform.machine()
    if machine not in TELLING or sys.maxsize < 2**32:
        return False
    clone, clone3, kill, tgkill, arch = TELLING[machine]
    no, later = 0x50000 | EPERM, 0x50000 | ENOSYS  # ENOSYS makes glibc fall back from clone3 to clone
    program = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, arch), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    program += [(GREATER_EQUAL, 0, 1, 0x40000000), (RETURN, 0, 0, no)]  # the x32 numbers
    for number in REFUSED[machine]:
        program += [(EQUAL, 0, 1, number), (RETURN, 0, 0, no)]
    program += [(EQUAL, 0, 1, clone3), (RETURN, 0, 0, later)]
    program += [(EQUAL, 0, 4, clone), (LOAD, 0, 0, 16), (ANY_BIT, 1, 0, CLONE_THREAD), (RETURN, 0, 0, no)]
    program += [(RETURN, 0, 0, ALLOW)]
    for number in (kill, tgkill):
        program += [(EQUAL, 0, 4, number), (LOAD, 0, 0, 16), (EQUAL, 1, 0, os.getpid()), (RETURN, 0, 0, no)]
        program += [(RETURN, 0, 0, ALLOW)]
    program += [(RETURN, 0, 0, ALLOW)]
    return _install(program)


def _install(program: Iterable[tuple[int, int, int, int]]) -> bool:
    code = b"".join(struct.pack("=HBBI", *step) for step in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    return bool(libc.prctl(PR_SET_SECCOMP, 2, ctypes.c_char_p(head), 0, 0) == 0)
