"""A GPU made of Python, for the parts of a package that only run beside one: kernels work on raw memory of the CPU, and
torch.cuda answers as on an H200. What a real driver does with it is for tests/gpu."""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import time
import types

import torch
from triton.tools.tensor_descriptor import TensorDescriptor

NAME = "NVIDIA H200"
KERNELS = '''"""A matrix product whose kernel is Python on raw memory."""

import torch
from fake_cuda import jit


@jit
def matmul_kernel(a_ptr, b_ptr, c_ptr, M, N, K, stride_am, stride_ak, stride_bk, stride_bn, BLOCK_M, BLOCK_N):
    a, b, c = at(a_ptr, M * K), at(b_ptr, K * N), at(c_ptr, M * N)
    a, b = a.as_strided((M, K), (stride_am, stride_ak)), b.as_strided((K, N), (stride_bk, stride_bn))
    c.view(M, N).copy_(a.float() @ b.float())


def matmul(a, b, *, BLOCK_M=64, BLOCK_N=64, num_warps=4):
    M, K = a.shape
    N = b.shape[1]
    c = torch.empty((M, N), device=a.device, dtype=a.dtype)
    grid = lambda META: (-(-M // META["BLOCK_M"]), -(-N // META["BLOCK_N"]))
    matmul_kernel[grid](
        a, b, c, M, N, K, a.stride(0), a.stride(1), b.stride(0), b.stride(1),
        BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, num_warps=num_warps,
    )
    return c
'''
LAUNCHES = []  # (kernel, grid, through kernel[grid] or replayed)


def at(pointer, count, dtype=torch.float16):
    nbytes = count * dtype.itemsize
    return torch.frombuffer((ctypes.c_uint8 * nbytes).from_address(int(pointer)), dtype=dtype)


def pointer(value):
    """Of a descriptor what Triton's launcher reads: its memory, shape and strides."""
    if isinstance(value, TensorDescriptor):
        assert list(value.strides)[-1] == 1
        assert len(value.shape) == len(value.block_shape)
        value = value.base
        return value.data_ptr()
    return value.data_ptr() if isinstance(value, torch.Tensor) else value


class FakeKernel:
    """Stands where JITFunction does."""

    def __init__(self, function):
        self.function = function
        self.__name__ = function.__name__
        self.signature = inspect.signature(function)

    def __getitem__(self, grid):
        def launch(*args, **kwargs):
            known = {k: v for k, v in kwargs.items() if k in self.signature.parameters}
            values = self.signature.bind(*args, **known).arguments
            sizes = grid(values) if callable(grid) else grid
            LAUNCHES.append((self.__name__, tuple(sizes), "looked up"))
            self._work(values.values())
            return Compiled(self)

        return launch

    def _work(self, values):
        space = {**self.function.__globals__, "at": at}
        function = types.FunctionType(self.function.__code__, space)
        with torch.utils._python_dispatch._disable_current_modes():
            function(*map(pointer, values))


class Compiled:
    def __init__(self, kernel):
        self.kernel, self.function, self.packed_metadata = kernel, "function", "packed"
        self.metadata = types.SimpleNamespace(global_scratch_size=0)

    def run(self, x, y, z, stream, function, packed, metadata, enter, leave, *values):
        assert (stream, function, packed, metadata, enter, leave) == (77, "function", "packed", None, None, None)
        assert all(not isinstance(v, torch.Tensor) for v in values)
        LAUNCHES.append((self.kernel.__name__, (x, y, z), "replayed"))
        self.kernel._work(values)


jit = FakeKernel


class Event:
    def __init__(self, enable_timing=False):
        pass

    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        pass

    def elapsed_time(self, other):
        return max(1e-6, (other.at - self.at) * 1e3)


class Graph:
    """Captures nothing: replaying does nothing, which is all that the clockwork needs."""

    def replay(self):
        time.sleep(1e-5)


def install(monkeypatch, package):
    """`package` is the imported module, whose kernels.py is KERNELS."""
    import importlib
    import sys

    monkeypatch.setitem(sys.modules, "fake_cuda", sys.modules[__name__])
    table, dispatch = (importlib.import_module(f"{package.__name__}.{n}") for n in ("_table", "_dispatch"))
    replay = importlib.import_module(f"{package.__name__}._replay")
    own = table.Table._place

    def place(self, name, tensor, device):
        """The CPU stands for the GPU; everything else is asked as ever."""
        if tensor.device.type != "cpu":
            return own(self, name, tensor, device)
        shown = types.SimpleNamespace(**{n: getattr(tensor, n) for n in ("layout", "ndim", "shape")})
        shown.device = torch.device("cuda", 0)
        for n in ("numel", "is_neg", "is_conj", "data_ptr"):
            setattr(shown, n, getattr(tensor, n))
        return own(self, name, shown, device)

    monkeypatch.setattr(table.Table, "_place", place)
    monkeypatch.setattr(replay, "JITFunction", FakeKernel)
    cuda = {
        "get_device_name": lambda *_: NAME,
        "current_device": lambda: None,  # the index of the CPU
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
        "mem_get_info": lambda: (8 << 30, 16 << 30),
        "get_device_properties": lambda *_: types.SimpleNamespace(L2_cache_size=1 << 16, multi_processor_count=132),
        "Stream": lambda: types.SimpleNamespace(wait_stream=lambda s: None),
        "stream": lambda s: contextlib.nullcontext(),
        "current_stream": lambda: types.SimpleNamespace(wait_stream=lambda s: None),
        "CUDAGraph": Graph,
        "graph": lambda g: contextlib.nullcontext(),
        "Event": Event,
    }
    for name, value in cuda.items():
        monkeypatch.setattr(torch.cuda, name, value)
    state = types.SimpleNamespace(capturing=False)
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: None, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 77, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_isCurrentStreamCapturing", lambda: state.capturing, raising=False)
    LAUNCHES.clear()
    dispatch.RESTING.clear()
    monkeypatch.setattr(dispatch._choice, "rests", lambda: False)
    for known in (dispatch.KNOWN, dispatch.OUTS, dispatch.OPS):
        known.clear()
    dispatch._hosts.clear()
    dispatch._choice._told.clear()
    state.dispatch, state.table = dispatch, table
    return state
