"""Facts about this machine, for `evolve doctor`: versions, GPU, tools, protections, room.

Each function returns findings and takes what it looks at as a parameter, so that tests can show it another machine.
Neither torch nor triton is imported: their versions stand in their metadata, and the tools of triton's wheel are files.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeAlias

from evolve.terminal import probes

State = Literal["ok", "warn", "fail"]
Find: TypeAlias = Callable[[str], str | None]  # a package's version, or None

PYTHON = (3, 11)
TRIED = (("2.11", "3.6"), ("2.13", "3.7.1"))  # torch with triton
NEEDED = {"torch": "2.11", "triton": "3.6", "openevolve": "0.4", "openai": "3", "libcst": "1.8", "optuna": "5"}
TOOLS = {"ptxas": "builds kernels", "cuobjdump": "counts registers", "nvdisasm": "reads machine code"}
GIB = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    part: str
    name: str
    state: State
    found: str
    todo: str = ""


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# --- Versions ---------------------------------------------------------------------------------------------------------


def version_findings(find: Find = installed) -> list[Finding]:
    python = platform.python_version()
    right = sys.version_info >= PYTHON
    findings = [
        Finding(
            part="versions",
            name="python",
            state="ok" if right else "fail",
            found=python,
            todo="" if right else "Install Python 3.11 or later.",
        )
    ]
    for package, least in NEEDED.items():
        findings.append(_package(package, least, find(package)))
    torch, triton = find("torch"), find("triton")
    if torch and triton and not any(_is(torch, a) and _is(triton, b) for a, b in TRIED):
        tried = " and ".join(f"{a} with {b}" for a, b in TRIED)
        findings.append(
            Finding(
                part="versions",
                name="torch with triton",
                state="warn",
                found=f"{torch} with {triton} was never tried; {tried} were",
                todo="`make setup` installs the versions of constraints.txt. A result names its own versions anyway.",
            )
        )
    return findings


def _package(name: str, least: str, found: str | None) -> Finding:
    if found is None:
        todo = "`pip install -e .` installs everything."
        if name in ("torch", "triton"):
            todo += " Without it runs can be looked at, but nothing judged."
        return Finding(part="versions", name=name, state="fail", found="not installed", todo=todo)
    if _numbers(found) < _numbers(least):
        return Finding(part="versions", name=name, state="fail", found=found, todo=f"Install {least} or later.")
    return Finding(part="versions", name=name, state="ok", found=found)


def _numbers(text: str) -> tuple[int, ...]:
    release = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(n) for n in release[0].split(".")) if release else ()


def _is(found: str, wanted: str) -> bool:
    numbers = _numbers(wanted)
    return _numbers(found)[: len(numbers)] == numbers


# --- The GPU ----------------------------------------------------------------------------------------------------------


def nvml() -> Any:
    try:
        import pynvml
    except ImportError:
        return None
    return pynvml


def gpu_findings(nvml: Any, torch: str | None) -> list[Finding]:
    none = "none, which is fine: the cpu backend builds for a chosen target, and times are modelled"
    if nvml is None:
        return [Finding(part="GPU", name="GPU", state="ok", found=f"{none} (nvidia-ml-py is not installed)")]
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return [Finding(part="GPU", name="GPU", state="ok", found=f"{none} ({error})")]
    try:
        found = [_gpu(nvml, i) for i in range(nvml.nvmlDeviceGetCount())]
        driver = Finding(part="GPU", name="driver", state="ok", found=str(nvml.nvmlSystemGetDriverVersion()))
    except nvml.NVMLError as error:
        todo = "See what `nvidia-smi` says; a driver update without a reboot does this."
        return [Finding(part="GPU", name="GPU", state="fail", found=f"the driver answers: {error}", todo=todo)]
    finally:
        nvml.nvmlShutdown()
    if found and torch and "+cpu" in torch:
        todo = "Install torch's CUDA build, or `backend: auto` judges without the GPU."
        found.append(Finding(part="GPU", name="torch", state="warn", found=f"{torch} cannot use a GPU", todo=todo))
    return [driver, *found] if found else [Finding(part="GPU", name="GPU", state="ok", found=none)]


def _gpu(nvml: Any, index: int) -> Finding:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    room = f"{memory.free / GIB:.0f} of {memory.total / GIB:.0f} GiB free"
    facts = f"{nvml.nvmlDeviceGetName(handle)}, sm_{major}{minor}, {room}"
    others = [p.pid for p in nvml.nvmlDeviceGetComputeRunningProcesses(handle) if p.pid != os.getpid()]
    state: State = "ok"
    todo = ""
    if (major, minor) < (8, 0):
        state, todo = "warn", "Older than sm_80: evolve was never tried on it."
    if others:
        state = "warn"
        todo = f"Processes {', '.join(map(str, others[:8]))} use it too: nothing is promoted while they do. Stop them."
    return Finding(part="GPU", name=f"GPU {index}", state=state, found=facts, todo=todo)


# --- Tools ------------------------------------------------------------------------------------------------------------


def triton_tools() -> Path | None:
    """Where triton's wheel keeps its tools. A top-level spec is found without importing the package."""
    spec = find_spec("triton")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / "backends" / "nvidia" / "bin"


def tool_findings(folder: Path | None) -> list[Finding]:
    findings = []
    for name, use in TOOLS.items():
        path = folder / name if folder else None
        if path and os.access(path, os.X_OK):
            findings.append(Finding(part="tools", name=name, state="ok", found=f"in triton's wheel; {use}"))
        else:
            state: State = "fail" if name == "ptxas" else "warn"
            todo = "Install triton again: `pip install --force-reinstall --no-deps triton`, at the version you have."
            findings.append(Finding(part="tools", name=name, state=state, found=f"not found; it {use}", todo=todo))
    profiler = shutil.which("ncu")
    said = "found; confirmed bests get a pass" if profiler else "none, which is fine: hypotheses stay not measured"
    return [*findings, Finding(part="tools", name="ncu", state="ok", found=said)]


# --- Protections ------------------------------------------------------------------------------------------------------


def protections() -> dict[str, str]:
    """What `probes.py` found in an interpreter of its own: a protection's name, and why it cannot be had."""
    command = [sys.executable, "-I", probes.__file__]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        found: dict[str, str] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return dict.fromkeys(probes.PROBES, f"the probe itself failed: {error}")
    return found


def protection_findings(found: Mapping[str, str]) -> list[Finding]:
    advice = (
        "Candidates run without it, and the evidence says `unjailed`. In a container: `--cap-add SYS_ADMIN` or "
        "`--security-opt seccomp=unconfined`. On the host: `sysctl -w user.max_user_namespaces=10000`, and on Ubuntu "
        "`sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`."
    )
    return [
        Finding(part="protections", name=name, state="ok", found="available")
        if not reason
        else Finding(
            part="protections",
            name=name,
            state="warn",
            found=f"not to be had: {reason}",
            todo=advice if "namespace" in name or "seccomp" in name else "Ask whoever runs this machine.",
        )
        for name, reason in found.items()
    ]


# --- The machine ------------------------------------------------------------------------------------------------------


def machine_findings(runs: Path = Path("runs"), usage: Callable[[Path], Any] = shutil.disk_usage) -> list[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = _memory() / GIB
    small = memory < 4
    system = platform.system()
    findings = [
        Finding(part="machine", name="cores", state="ok", found=f"{cores}"),
        Finding(
            part="machine",
            name="memory",
            state="warn" if small else "ok",
            found=f"{memory:.1f} GiB",
            todo="Judging wants 4 GiB; lower concurrency.cpu to 1." if small else "",
        ),
    ]
    if system != "Linux":
        todo = "Runs can be looked at here; judge on Linux."
        findings.append(Finding(part="machine", name="system", state="warn", found=system, todo=todo))
    for name, place in (("disk for runs/", runs), ("disk for temporary files", Path(tempfile.gettempdir()))):
        there = next(p for p in (place, *place.absolute().parents) if p.exists())
        free = usage(there).free / GIB
        state: State = "fail" if free < 0.5 else "warn" if free < 5 else "ok"
        todo = "" if state == "ok" else "Make room: a full disk stops a run, though nothing committed is lost."
        findings.append(Finding(part="machine", name=name, state=state, found=f"{free:.1f} GiB free", todo=todo))
    return findings


def _memory() -> int:
    """Of the machine, or what a container leaves of it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # no such file outside of a cgroup, "max" where there is no limit
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total
