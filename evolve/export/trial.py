"""The last word on a package: a fresh process imports it as a user would, and holds it to what the judge found.

Run as a script, `python trial.py PARENT`, so that nothing of evolve is there while the package is imported. It is
started while the judge still works, imports torch and triton, and waits for its order, a line on stdin; it dies with
its parent, whatever became of that. Then, on a GPU: every workload is checked again on fresh inputs through the public
function, twice, since the second call replays what the first recorded; the host function runs under the judge's
recorder, and its launches must be those of the judged plan; and the function is timed against the library and against
the judge's baseline, in CUDA graphs and outside. Without a GPU it checks what the library answers. It decides nothing:
it writes what it found, and says on stdout where it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.abc
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
Json = Any
PR_SET_PDEATHSIG = 1


class NothingOfEvolve(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> None:
        if name.split(".")[0] == "evolve":
            raise ImportError(f"the package imports {name}; it may need torch and triton only")


def die_with(parent: int) -> None:
    """As the judge's own processes do. Not theirs: nothing of evolve may be imported here yet."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(71)


def as_a_user(order: Json) -> dict[str, Json]:
    """Import it, and say what that cost beyond torch and triton."""
    sys.path.insert(0, order["parent"])
    guard = NothingOfEvolve()
    sys.meta_path.insert(0, guard)
    began = time.perf_counter()
    try:
        importlib.import_module(order["name"])
    finally:
        seconds = time.perf_counter() - began
        sys.meta_path.remove(guard)
    return {"import_seconds": round(seconds, 4)}


def main() -> None:
    die_with(int(sys.argv[1]))
    sys.path[:] = [p for p in sys.path if p and Path(p).resolve() != HERE]
    import torch  # noqa: F401  beyond these two is what an import of the package is measured

    with contextlib.suppress(ImportError):
        import triton  # noqa: F401
    line = sys.stdin.readline()
    if not line:
        return  # there is nothing to try
    order = json.loads(line)
    found = {"state": "imports", **as_a_user(order)}
    sys.path.append(order["evolve"])  # where it is not installed
    from evolve.export import trying

    trying.run(order, found, lambda: Path(order["answer"]).write_text(json.dumps(found), encoding="utf-8"))


if __name__ == "__main__":
    main()
