"""Runs candidates under Triton's interpreter in a child process and says how far they are from numpy.

As a program: jobs as JSON on stdin, errors as JSON on stdout. The interpreter is switched on by an environment variable
that must be set before triton is imported, and it is Python on raw memory: hence the child.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SIZES = ((64, 64, 64, False), (72, 96, 88, False), (33, 65, 47, False), (64, 80, 64, True), (1, 72, 96, False))


@dataclass(frozen=True, kw_only=True)
class Run:
    """A matrix product by `entry(a, b, **tunables)`, in each size (M, N, K, b by columns)."""

    source: str
    entry: str
    tunables: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float16"
    sizes: tuple[tuple[int, int, int, bool], ...] = SIZES
    what: str = "product"  # or another of `_problem`, where M and N are rows and columns


def errors(runs: list[Run]) -> list[list[float] | str]:
    """The relative error per size, or what was raised."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    text = json.dumps([asdict(run) for run in runs])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__],
        input=text,
        capture_output=True,
        text=True,
        env=environment,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[list[float] | str] = json.loads(done.stdout)
    return found


def _main() -> None:
    import torch

    with tempfile.TemporaryDirectory() as folder:
        found: list[list[float] | str] = []
        for i, job in enumerate(json.load(sys.stdin)):
            path = Path(folder) / f"candidate_{i}.py"
            path.write_text(job["source"])
            try:
                found.append(_errors(torch, path, job))
            except Exception as error:
                found.append(f"{type(error).__name__}: {error}")
    print(json.dumps(found))


def _errors(torch: Any, path: Path, job: dict[str, Any]) -> list[float]:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result = []
    for m, n, k, columns in job["sizes"]:
        rng = torch.Generator().manual_seed(m * 7 + n * 3 + k)
        dtype = getattr(torch, job["dtype"])
        a = torch.randn((m, k), generator=rng).to(dtype)
        b = torch.randn((n, k), generator=rng).to(dtype).T if columns else torch.randn((k, n), generator=rng).to(dtype)
        inputs, wanted = _problem(torch, job["what"], a, b)
        out = getattr(module, job["entry"])(*inputs, **job["tunables"]).double().numpy()
        result.append(float(((out - wanted) ** 2).sum() ** 0.5 / (wanted**2).sum() ** 0.5))
    return result


def _problem(torch: Any, what: str, a: Any, b: Any) -> tuple[tuple[Any, ...], Any]:
    if what == "product":
        return (a, b), a.double().numpy() @ b.double().numpy()
    if what == "softmax":
        return (a,), torch.softmax(a.double(), dim=1).numpy()
    if what == "rmsnorm":
        w = b[:, 0].contiguous()
        x = a.double()
        return (a, w), (x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt() * w.double()).numpy()
    if what == "gelu":
        bias = b[0].contiguous()
        z = a.double() @ b.double() + bias.double()
        return (a, b.contiguous(), bias), (z * torch.sigmoid(1.702 * z)).numpy()
    return _attention(torch, what, a)


def _attention(torch: Any, what: str, a: Any) -> tuple[tuple[Any, ...], Any]:
    depth = 32  # two heads of the rows of a
    q, k, v = (torch.randn((2, a.shape[0], depth), generator=torch.Generator().manual_seed(i)) for i in range(3))
    q, k, v = (x.to(a.dtype) for x in (q, k, v))
    if what == "decode":
        q = q[:, 0].contiguous()
        weights = torch.softmax((k.double() @ q.double()[:, :, None])[..., 0] * 0.125, dim=1)
        return (q, k, v), (weights[:, None] @ v.double())[:, 0].numpy()
    scale = depth**-0.5 if what == "causal" else 0.125
    scores = q.double() @ k.double().transpose(1, 2) * scale
    if what == "causal":
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
    return (q, k, v), (torch.softmax(scores, dim=2) @ v.double()).numpy()


if __name__ == "__main__":
    _main()
