"""The last word on a package: a fresh process imports it as a user would, and holds it to what the judge found.

Run as a script, `python trial.py ORDER.json`, so that nothing of evolve is there while the package is imported. Then,
on a GPU: every workload is checked again on fresh inputs through the public function, twice, since the second call
replays what the first recorded; the host function runs under the judge's recorder, and its launches must be those of
the judged plan; and the function is timed against the library and against the judge's baseline, in CUDA graphs and
outside. Without a GPU it checks what the library answers. It decides nothing: it writes what it found.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
Json = Any


class NothingOfEvolve(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> None:
        if name.split(".")[0] == "evolve":
            raise ImportError(f"the package imports {name}; it may need torch and triton only")


def as_a_user(order: Json) -> dict[str, Json]:
    """Import it, and say what that cost beyond torch and triton."""
    sys.path[:] = [order["parent"], *(p for p in sys.path if p and Path(p).resolve() != HERE)]
    import torch  # noqa: F401  beyond these two is what is measured

    with contextlib.suppress(ImportError):
        import triton  # noqa: F401
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
    order = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    found = {"state": "imports", **as_a_user(order)}
    sys.path.append(order["evolve"])  # where it is not installed
    from evolve.export import trying

    trying.run(order, found, lambda: Path(order["answer"]).write_text(json.dumps(found), encoding="utf-8"))


if __name__ == "__main__":
    main()
