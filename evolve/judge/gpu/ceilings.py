"""What this device can do at best, measured: the roofs that times are held against. Half a second in all.

Ceilings are for explaining and for refusing the impossible, never for ranking. Clocks are read and never set.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

from evolve.judge.gpu.engine import Engine
from evolve.judge.gpu.timing import capture_calls
from evolve.problem import Baseline

COPY_BYTES = 2 << 30
MATMUL_SIZE = 8192
REPEATS = 7


def measure(engine: Engine) -> dict[str, Any]:
    """Bandwidths count bytes read plus bytes written; inputs are random, for zeros run 13 % faster."""
    found: dict[str, Any] = {"memory_gbs": _copy_gbs(engine, COPY_BYTES, 1)}
    found["read_gbs"] = _read_gbs(engine)
    found["l2_gbs"] = _copy_gbs(engine, engine.l2_bytes // 6, 50)
    found["tflops"] = {name: _tflops(engine, name) for name in ("bfloat16", "float16", "tf32", "float32", "float64")}
    found["tflops"] |= _narrow_tflops(engine)
    found["launch_us"] = _launch_us(engine)
    return found


def call_us(engine: Engine, baseline: Baseline, arguments: Sequence[Any]) -> float:
    """A rough time of one call, as a graph: enough to choose how many calls make a sample."""
    replay = capture_calls(engine, baseline, [arguments])
    return _best_us(engine, replay, REPEATS)


def _best_us(engine: Engine, work: Callable[[], Any], repeats: int) -> float:
    """The median after a warm-up."""
    times = []
    for _ in range(repeats + 2):
        first = engine.mark()
        work()
        last = engine.mark()
        engine.synchronize()
        times.append(engine.between_us(first, last))
    return sorted(times[2:])[repeats // 2]


def _random_bytes(engine: Engine, nbytes: int) -> torch.Tensor:
    return torch.randint(-(2**31), 2**31 - 1, (nbytes // 4,), dtype=torch.int32, device=engine.device)


def _copy_gbs(engine: Engine, nbytes: int, calls: int) -> float:
    source = _random_bytes(engine, nbytes)
    target = torch.empty_like(source)
    # A kernel, for in a graph a plain copy becomes a memory node that the copy engine works off at 2.7 TB/s (H200).
    replay = engine.capture(lambda: [torch.neg(source, out=target) for _ in range(calls)])
    return 2 * source.nbytes * calls / _best_us(engine, replay, REPEATS) / 1e3


def _read_gbs(engine: Engine) -> float:
    source = _random_bytes(engine, COPY_BYTES)
    return source.nbytes / _best_us(engine, source.max, REPEATS) / 1e3


def _tflops(engine: Engine, name: str) -> float:
    """Dense product through whatever library torch brings: the better of two sizes. The larger one fills the chip
    evenly and the smaller one draws less power: on an H200 8192³ runs at 709 TFLOP/s and 4096³ at 799."""
    if name in ("float32", "float64"):
        return _product_tflops(engine, name, MATMUL_SIZE // 4)
    return max(_product_tflops(engine, name, size) for size in (MATMUL_SIZE // 2, MATMUL_SIZE))


def _narrow_tflops(engine: Engine) -> dict[str, float]:
    """Products of 8 bits, where torch has them for this GPU; elsewhere the data sheet's rates stay."""
    size, found = MATMUL_SIZE, {}
    codes = torch.randint(-127, 127, (2, size, size), dtype=torch.int8, device=engine.device)
    one = torch.ones((), device=engine.device)
    halves = codes.to(torch.bfloat16).div_(64).to(torch.float8_e4m3fn)
    products: dict[str, Callable[[], Any]] = {
        "int8": lambda: torch._int_mm(codes[0], codes[1].T),
        "float8": lambda: torch._scaled_mm(
            halves[0], halves[1].T, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
        ),
    }
    for name, product in products.items():
        with contextlib.suppress(RuntimeError, ValueError, NotImplementedError):
            found[name] = 2 * size**3 / _best_us(engine, product, REPEATS) / 1e6
    return found


def _product_tflops(engine: Engine, name: str, size: int) -> float:
    dtype = torch.float32 if name == "tf32" else getattr(torch, name)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    try:
        a = torch.randn((size, size), device=engine.device).to(dtype)
        b = torch.randn((size, size), device=engine.device).to(dtype)
        out = torch.empty_like(a)
        us = _best_us(engine, lambda: torch.mm(a, b, out=out), REPEATS)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    return 2 * size**3 / us / 1e6


def _launch_us(engine: Engine) -> float:
    """What each further launch in a graph costs when it does nothing worth the name."""
    small = torch.zeros(32, device=engine.device)
    few = engine.capture(lambda: [small.add_(1) for _ in range(10)])
    many = engine.capture(lambda: [small.add_(1) for _ in range(110)])
    return max(0.0, (_best_us(engine, many, REPEATS) - _best_us(engine, few, REPEATS)) / 100)
