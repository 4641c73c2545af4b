"""How a kernel is commonly evaluated with OpenEvolve: import it, compare it with torch once, time both with `do_bench`.

Used in OpenEvolve's own process, or as a program for one candidate: `python plain_judge.py FILE` prints one JSON line.
It is what `throughput.py` compares with, and as careful as such evaluators are: it trusts the file that it imports.
THROUGHPUT_FAKE=1 plays its part where there is no GPU.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

WORKLOADS = ((4096, 4096, 4096), (4096, 14336, 4096), (16, 4096, 4096))  # those of configs/matmul.yaml
_poisoned = False


def judge(path: str) -> float:
    """The geometric mean of cuBLAS's time over the kernel's; whatever it raises is the candidate's affair."""
    if os.environ.get("THROUGHPUT_FAKE"):
        return _played(Path(path).read_text(encoding="utf-8"))
    import torch
    import triton
    from triton.testing import do_bench

    triton.set_allocator(lambda size, align, stream: torch.empty(size, dtype=torch.int8, device="cuda"))
    module = _loaded(path)
    logs = []
    for m, n, k in WORKLOADS:
        a = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
        b = torch.randn(k, n, device="cuda", dtype=torch.bfloat16)
        torch.testing.assert_close(module.matmul(a, b), torch.matmul(a, b), rtol=2e-2, atol=0.5)
        theirs, own = do_bench(lambda a=a, b=b: torch.matmul(a, b)), do_bench(lambda a=a, b=b: module.matmul(a, b))
        logs.append(math.log(theirs / own))
    return math.exp(sum(logs) / len(logs))


def _loaded(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("candidate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _played(source: str) -> float:
    """A fault on the device, as one process sees it: everything after an illegal access fails, too."""
    global _poisoned
    if " hang\n" in source:
        time.sleep(600)
    _poisoned = _poisoned or " crash\n" in source
    if _poisoned:
        raise RuntimeError("CUDA error: an illegal memory access was encountered (a stand-in)")
    time.sleep(0.2)
    return 1.0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        print(json.dumps({"score": judge(sys.argv[1]), "why": ""}))
    except Exception as error:
        print(json.dumps({"score": 0.0, "why": f"{type(error).__name__}: {error}"[:300]}))
