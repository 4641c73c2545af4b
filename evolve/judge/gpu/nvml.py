"""What the driver tells about a GPU without a CUDA context: who is on it, its clocks, why they fell.

Optional: without `nvidia-ml-py` or its library every question has an honest "unknown" for an answer. Nothing is ever
set here, neither clocks nor limits.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

# Reasons that say "this reading is not the kernel's": heat and hardware slowdown. Power capping is not among them: it
# is a property of good matmuls, and discarding it would favour the weak ones.
SLOWED = 0x08 | 0x20 | 0x40 | 0x80  # HwSlowdown, SwThermalSlowdown, HwThermalSlowdown, HwPowerBrakeSlowdown


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    sm_mhz: int
    memory_mhz: int
    power_watts: float
    celsius: int
    reasons: int  # the driver's bits

    @property
    def slowed(self) -> bool:
        return bool(self.reasons & SLOWED)

    def evidence(self) -> dict[str, Any]:
        return {
            "sm_mhz": self.sm_mhz,
            "memory_mhz": self.memory_mhz,
            "power_watts": round(self.power_watts, 1),
            "celsius": self.celsius,
            "reasons": self.reasons,
        }


def visible(index: int, environment: Mapping[str, str] = os.environ) -> str:
    """What CUDA_VISIBLE_DEVICES has to be for GPU `index` of this process: the user may have narrowed it already."""
    listed = [x.strip() for x in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if x.strip()]
    return listed[index] if index < len(listed) else str(index)


def usable(environment: Mapping[str, str] = os.environ) -> int:
    """How many GPUs this process may use: all that there are, or those that CUDA_VISIBLE_DEVICES lists. As CUDA reads
    it, the list ends at its first entry that is none."""
    there = count()
    if "CUDA_VISIBLE_DEVICES" not in environment:
        return there
    used = 0
    for entry in (x.strip() for x in environment["CUDA_VISIBLE_DEVICES"].split(",")):
        if not (entry.startswith(("GPU-", "MIG-")) or (entry.isdecimal() and int(entry) < there)):
            break
        used += 1
    return used if there else 0


class Gpu:
    """One GPU, by the number or UUID that CUDA_VISIBLE_DEVICES would take."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._nvml, self._handle = _open(name)

    @property
    def known(self) -> bool:
        return self._handle is not None

    @property
    def uuid(self) -> str:
        """A name for the chip that all processes of the machine agree on; the number where there is nothing better."""
        if self._handle is None:
            return self.name if self.name.startswith("GPU-") else f"gpu{self.name}"
        uuid = self._ask("nvmlDeviceGetUUID")
        return str(uuid.decode() if isinstance(uuid, bytes) else uuid) if uuid else f"gpu{self.name}"

    def free_bytes(self) -> int | None:
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        return int(memory.free) if memory is not None else None

    def foreigners(self, ours: Collection[int]) -> tuple[str, ...]:
        """Other people's compute processes, named. Inside a container their numbers may be all that can be said."""
        found = self._ask("nvmlDeviceGetComputeRunningProcesses") or []
        return tuple(_process_name(p.pid, p.usedGpuMemory) for p in found if p.pid not in ours)

    def read(self) -> Reading | None:
        if self._nvml is None or self._handle is None:
            return None
        clock, module = self._ask, self._nvml
        reasons = clock("nvmlDeviceGetCurrentClocksEventReasons") or clock("nvmlDeviceGetCurrentClocksThrottleReasons")
        return Reading(
            sm_mhz=int(clock("nvmlDeviceGetClockInfo", module.NVML_CLOCK_SM) or 0),
            memory_mhz=int(clock("nvmlDeviceGetClockInfo", module.NVML_CLOCK_MEM) or 0),
            power_watts=float(clock("nvmlDeviceGetPowerUsage") or 0) / 1000,
            celsius=int(clock("nvmlDeviceGetTemperature", module.NVML_TEMPERATURE_GPU) or 0),
            reasons=int(reasons or 0),
        )

    def slowed(self) -> bool | None:
        """The cheap question, asked once a block. None: nobody can tell."""
        if self._handle is None:
            return None
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if reasons is None:
            reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return None if reasons is None else bool(int(reasons) & SLOWED)

    def device(self) -> str:
        """The model, as the table of chips spells it."""
        name = self._ask("nvmlDeviceGetName")
        return str(name.decode() if isinstance(name, bytes) else name or "unknown GPU")

    def architecture(self) -> str | None:
        """ "sm_90", if the driver says."""
        found = self._ask("nvmlDeviceGetCudaComputeCapability")
        return f"sm_{found[0]}{found[1]}" if found else None

    def driver(self) -> str:
        if self._nvml is None:
            return "unknown"
        version = self._nvml.nvmlSystemGetDriverVersion()
        return str(version.decode() if isinstance(version, bytes) else version)

    def _ask(self, function: str, *more: Any) -> Any:
        """None where the driver does not support the question: virtual GPUs answer only some."""
        if self._nvml is None or self._handle is None or not hasattr(self._nvml, function):
            return None
        try:
            return getattr(self._nvml, function)(self._handle, *more)
        except self._nvml.NVMLError:
            return None


def _open(name: str) -> tuple[ModuleType | None, Any]:
    try:
        import pynvml
    except ImportError:
        return None, None
    try:
        pynvml.nvmlInit()
        if name.startswith("GPU-"):
            return pynvml, pynvml.nvmlDeviceGetHandleByUUID(name)
        return pynvml, pynvml.nvmlDeviceGetHandleByIndex(int(name))
    except (pynvml.NVMLError, ValueError):
        return None, None


def count() -> int:
    """How many GPUs the driver shows; 0 where there is no driver."""
    try:
        import pynvml
    except ImportError:
        return 0
    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0


def _process_name(pid: int, used: int | None) -> str:
    try:
        name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        name = "not visible from here"
    return f"process {pid} ({name}{f', {used >> 20} MiB' if used else ''})"
