"""Which protections this machine grants, found by asking for each in a child of its own.

Run as a script, in a fresh interpreter: it forks, and what a child unshares or limits cannot be undone. Prints one JSON
object, each protection's name with the reason why it cannot be had, or "" if it can. It says nothing about what a jail
uses; that is the judge's affair. Standard library only, so that it starts in milliseconds.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import socket
from collections.abc import Callable

NEWUSER, NEWPID, NEWNET, NEWNS = 0x10000000, 0x20000000, 0x40000000, 0x00020000
MS_PRIVATE_ALL = 0x4000 | (1 << 18)  # MS_REC | MS_PRIVATE
PR_SET_PDEATHSIG, PR_GET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 2, 22, 38
libc = ctypes.CDLL(None, use_errno=True)


class Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(Instruction)))


def call(name: str, *arguments: object) -> None:
    """A function of the C library that answers 0 when all is well."""
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def user() -> None:
    uid = os.getuid()
    call("unshare", NEWUSER)
    with open("/proc/self/uid_map", "w") as file:
        file.write(f"0 {uid} 1\n")
    if os.getuid() != 0:
        raise OSError(errno.EPERM, "the user map did not take")


def pid() -> None:
    call("unshare", NEWUSER | NEWPID)
    child = os.fork()
    if child == 0:
        os._exit(0 if os.getpid() == 1 else errno.EPERM)
    if os.waitpid(child, 0)[1] != 0:
        raise OSError(errno.EPERM, "the child was not process 1")


def mount() -> None:
    call("unshare", NEWUSER | NEWNS)
    call("mount", b"none", b"/", None, MS_PRIVATE_ALL, None)
    call("mount", b"tmpfs", b"/tmp", b"tmpfs", 0, None)


def network() -> None:
    call("unshare", NEWUSER | NEWNET)
    if [name for _, name in socket.if_nameindex() if name != "lo"]:
        raise OSError(errno.EPERM, "the network is still there")


def seccomp() -> None:
    """A filter that allows everything: what counts is that the kernel takes one."""
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    allow = (Instruction * 1)(Instruction(0x06, 0, 0, 0x7FFF0000))
    call("prctl", PR_SET_SECCOMP, 2, ctypes.byref(Program(1, allow)))


def limits() -> None:
    for which in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC):
        hard = resource.getrlimit(which)[1]
        wanted = 1 << 33 if hard == resource.RLIM_INFINITY else hard
        resource.setrlimit(which, (wanted, wanted))


def parent_death() -> None:
    call("prctl", PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    found = ctypes.c_int(0)
    call("prctl", PR_GET_PDEATHSIG, ctypes.byref(found), 0, 0, 0)
    if found.value != signal.SIGKILL:
        raise OSError(errno.EPERM, "the signal was not kept")


PROBES: dict[str, Callable[[], None]] = {
    "user namespace": user,
    "pid namespace": pid,
    "mount namespace": mount,
    "network namespace": network,
    "seccomp filter": seccomp,
    "resource limits": limits,
    "death with the parent": parent_death,
}


def reason(probe: Callable[[], None]) -> str:
    """The probe in a child; why it failed, or nothing."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            probe()
        except (OSError, ValueError, AttributeError) as error:  # AttributeError: a C library without it
            os.write(write, (getattr(error, "strerror", None) or str(error)).encode()[:200])
            os._exit(1)
        os._exit(0)
    os.close(write)
    status = os.waitpid(child, 0)[1]
    said = os.read(read, 200).decode()
    os.close(read)
    return "" if status == 0 else said or f"the child ended with status {status}"


if __name__ == "__main__":
    print(json.dumps({name: reason(probe) for name, probe in PROBES.items()}))
