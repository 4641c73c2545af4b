"""The CUDA driver, by ctypes: load a cubin, launch it, map memory with holes around it.

Why not Triton's own launcher: up to 3.6 it is C code generated for each signature, compiled by a C compiler and loaded
as native code from a cache, and it takes its types from a source object that text-compiled kernels do not have. The
binary interface under it is small and the same in every version from 3.4 on: the kernel's parameters in order,
descriptors expanded, then two scratch pointers. `Function.parameters` holds our layout against the cubin's own table.

What this does not do: decide what to launch (`launch`), or open a context (torch does, in the worker).
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

_SUCCESS = 0
_ERROR_INVALID_VALUE = 1
_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_SHARED_STATIC = 1  # CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES
_MAX_THREADS = 0  # CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK
_NON_PORTABLE_CLUSTER = 14  # CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED
_SHARED_OPTIN = 97  # CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
_PREFER_SHARED = 1  # CU_FUNC_CACHE_PREFER_SHARED
_CLUSTER_DIMENSION = 4
_CLUSTER_SCHEDULING = 5
_SPREAD = 1
_SHARED_BY_DEFAULT = 48 << 10
_RESERVED = 1 << 38  # bytes of address space at a time; it costs nothing until it is mapped


class DriverError(RuntimeError):
    """A driver call failed. Most of these poison the context: the process is of no further use."""


class Driver(Protocol):
    """What `launch` and `memory` need. Tests bring one that runs on a CPU."""

    def load(self, folder: Path) -> Function: ...

    def launch(self, function: Function, grid: tuple[int, int, int], parameters: Any, stream: int) -> None: ...

    def fill(self, pointer: int, byte: int, nbytes: int, stream: int) -> None: ...

    def tensor_map(
        self, meta: dict[str, Any], pointer: int, shape: Sequence[int], strides: Sequence[int], nan: bool
    ) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Function:
    """A loaded kernel, and what the compiler wrote about it."""

    handle: int
    name: str
    metadata: dict[str, Any]
    parameters: tuple[int, ...] | None  # size in bytes of each, as the cubin has them; None where the driver is too old

    @property
    def warps(self) -> int:
        return int(self.metadata["num_warps"])

    @property
    def ctas(self) -> int:
        return int(self.metadata.get("num_ctas") or 1)

    @property
    def shared(self) -> int:
        return int(self.metadata["shared"])

    @property
    def scratch_bytes(self) -> int:
        return int(self.metadata.get("global_scratch_size") or 0)

    @property
    def descriptors(self) -> list[dict[str, Any]]:
        return list(self.metadata.get("tensordesc_meta") or [])


class _Attribute(ctypes.Structure):
    _fields_ = (("id", ctypes.c_uint), ("pad", ctypes.c_uint), ("value", ctypes.c_uint * 16))


class _Config(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("count", ctypes.c_uint),
    )


class _Location(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int), ("id", ctypes.c_int))


class _Properties(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("handles", ctypes.c_int),
        ("location", _Location),
        ("win32", ctypes.c_void_p),
        ("flags", ctypes.c_ubyte * 8),
    )


class _Access(ctypes.Structure):
    _fields_ = (("location", _Location), ("flags", ctypes.c_int))


class Cuda:
    """The real driver. The process has a current context already."""

    def __init__(self, device: int = 0) -> None:
        self._cuda = ctypes.CDLL("libcuda.so.1")
        self._device = device
        self._next = self._end = 0  # of the reserved addresses, those not given out yet

    def call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._cuda, name)(*arguments)
        if code != _SUCCESS:
            text = ctypes.c_char_p()
            self._cuda.cuGetErrorString(code, ctypes.byref(text))
            raise DriverError(f"{name}: CUDA error {code}: {(text.value or b'unknown').decode()}")

    # --- kernels ---

    def load(self, folder: Path) -> Function:
        """`folder` is the builder's: kernel.cubin and kernel.json. A missing file is machinery, never a compile."""
        metadata = json.loads((folder / "kernel.json").read_text(encoding="utf-8"))
        image = (folder / "kernel.cubin").read_bytes()
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cuModuleLoadData", ctypes.byref(module), image)
        self.call("cuModuleGetFunction", ctypes.byref(function), module, metadata["name"].encode())
        assert function.value is not None
        self._allow_shared(function, int(metadata["shared"]))
        if int(metadata.get("num_ctas") or 1) > 8:
            self.call("cuFuncSetAttribute", function, _NON_PORTABLE_CLUSTER, 1)
        return Function(
            handle=function.value,
            name=metadata["name"],
            metadata=metadata,
            parameters=self._parameters(function),
        )

    def _allow_shared(self, function: ctypes.c_void_p, shared: int) -> None:
        if shared <= _SHARED_BY_DEFAULT:
            return
        static = self._function_attribute(function, _SHARED_STATIC)
        most = ctypes.c_int()
        self.call("cuDeviceGetAttribute", ctypes.byref(most), _SHARED_OPTIN, self._device)
        if shared + static > most.value:
            raise DriverError(f"the kernel takes {shared + static} B of shared memory, a block may have {most.value}")
        self.call("cuFuncSetCacheConfig", function, _PREFER_SHARED)
        self.call("cuFuncSetAttribute", function, _MAX_DYNAMIC_SHARED, most.value - static)

    def _function_attribute(self, function: ctypes.c_void_p, which: int) -> int:
        value = ctypes.c_int()
        self.call("cuFuncGetAttribute", ctypes.byref(value), which, function)
        return value.value

    def _parameters(self, function: ctypes.c_void_p) -> tuple[int, ...] | None:
        """Sizes of the kernel's parameters from its own table (CUDA 12.4 and later)."""
        if not hasattr(self._cuda, "cuFuncGetParamInfo"):
            return None
        sizes: list[int] = []
        offset, size = ctypes.c_size_t(), ctypes.c_size_t()
        while True:
            code = self._cuda.cuFuncGetParamInfo(
                function, ctypes.c_size_t(len(sizes)), ctypes.byref(offset), ctypes.byref(size)
            )
            if code == _ERROR_INVALID_VALUE:
                return tuple(sizes)
            if code != _SUCCESS or len(sizes) > 512:
                return None
            sizes.append(size.value)

    def launch(self, function: Function, grid: tuple[int, int, int], parameters: Any, stream: int) -> None:
        if 0 in grid:
            return
        attributes = (_Attribute * 2)()
        config = _Config(
            (ctypes.c_uint * 3)(grid[0] * function.ctas, grid[1], grid[2]),
            (ctypes.c_uint * 3)(32 * function.warps, 1, 1),
            function.shared,
            stream,
            attributes,
            0,
        )
        if function.ctas != 1:
            attributes[0].id = _CLUSTER_DIMENSION
            attributes[0].value[0], attributes[0].value[1], attributes[0].value[2] = function.ctas, 1, 1
            attributes[1].id = _CLUSTER_SCHEDULING
            attributes[1].value[0] = _SPREAD
            config.count = 2
        self.call("cuLaunchKernelEx", ctypes.byref(config), ctypes.c_void_p(function.handle), parameters, None)

    def fill(self, pointer: int, byte: int, nbytes: int, stream: int) -> None:
        self.call(
            "cuMemsetD8Async",
            ctypes.c_uint64(pointer),
            ctypes.c_ubyte(byte),
            ctypes.c_size_t(nbytes),
            ctypes.c_void_p(stream),
        )

    def tensor_map(
        self, meta: dict[str, Any], pointer: int, shape: Sequence[int], strides: Sequence[int], nan: bool
    ) -> Any:
        return encode(self, meta, pointer, shape, strides, nan)

    # --- memory with holes around it ---

    @cached_property
    def granularity(self) -> int:
        size = ctypes.c_size_t()
        self.call("cuMemGetAllocationGranularity", ctypes.byref(size), ctypes.byref(self._properties()), 0)
        return size.value

    def _properties(self) -> _Properties:
        return _Properties(1, 0, _Location(1, self._device), None, (ctypes.c_ubyte * 8)())

    def place(self, nbytes: int, gap: int) -> int:
        if self._next + gap + nbytes > self._end:
            size = max(_RESERVED, 2 * nbytes)
            self._next = self._reserve(size)
            self._end = self._next + size
        pointer = self._next + gap
        self._next = pointer + nbytes
        return pointer

    def _reserve(self, nbytes: int) -> int:
        pointer = ctypes.c_uint64()
        zero = ctypes.c_uint64(0)
        self.call(
            "cuMemAddressReserve",
            ctypes.byref(pointer),
            ctypes.c_size_t(nbytes),
            ctypes.c_size_t(0),
            zero,
            ctypes.c_uint64(0),
        )
        return pointer.value

    def map(self, pointer: int, nbytes: int) -> int:
        """Back `nbytes` (whole pages) at `pointer` with memory; returns the handle that `unmap` wants."""
        handle, flags = ctypes.c_uint64(), ctypes.c_uint64(0)
        size = ctypes.c_size_t(nbytes)
        self.call("cuMemCreate", ctypes.byref(handle), size, ctypes.byref(self._properties()), flags)
        address = ctypes.c_uint64(pointer)
        self.call("cuMemMap", address, size, ctypes.c_size_t(0), handle, flags)
        access = _Access(_Location(1, self._device), 3)
        self.call("cuMemSetAccess", address, size, ctypes.byref(access), ctypes.c_size_t(1))
        return handle.value

    def unmap(self, pointer: int, nbytes: int, handle: int) -> None:
        self.call("cuMemUnmap", ctypes.c_uint64(pointer), ctypes.c_size_t(nbytes))
        self.call("cuMemRelease", ctypes.c_uint64(handle))


_NAN_FILL = 1  # CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA
_L2_128B = 2
# Triton numbers three of the element types differently on the device than the driver does on the host.
_HOST_TYPE = {8: 10, 9: 8, 10: 9}


def encode(
    cuda: Cuda, meta: dict[str, Any], pointer: int, shape: Sequence[int], strides: Sequence[int], nan: bool
) -> Any:
    """A CUtensorMap: 128 bytes, 64-byte aligned. Innermost sizes first; strides in bytes, without the innermost."""
    rank, item = len(shape), int(meta["elem_size"])
    shape = [*shape[:-1], shape[-1] * 2] if meta.get("fp4_padded") else list(shape)
    kind = _HOST_TYPE.get(int(meta["elem_type"]), int(meta["elem_type"]))
    sizes = (ctypes.c_uint64 * rank)(*reversed(shape))
    steps = (ctypes.c_uint64 * max(1, rank - 1))(*(s * item for s in reversed(strides[:-1])))
    box = (ctypes.c_uint32 * rank)(*reversed([int(b) for b in meta["block_size"]]))
    ones = (ctypes.c_uint32 * rank)(*([1] * rank))
    room = aligned(128, 64)
    cuda.call(
        "cuTensorMapEncodeTiled",
        ctypes.byref(room),
        ctypes.c_int(kind),
        ctypes.c_uint32(rank),
        ctypes.c_void_p(pointer),
        sizes,
        steps,
        box,
        ones,
        ctypes.c_int(0),
        ctypes.c_int(int(meta["swizzle"])),
        ctypes.c_int(_L2_128B),
        ctypes.c_int(_NAN_FILL if nan else 0),
    )
    return room


def aligned(nbytes: int, alignment: int) -> Any:
    """A ctypes buffer at a multiple of `alignment`. It keeps the larger one that it lies in alive."""
    store = (ctypes.c_ubyte * (nbytes + alignment))()
    offset = -ctypes.addressof(store) % alignment
    return (ctypes.c_ubyte * nbytes).from_buffer(store, offset)
