"""Compiling as CPU tasks of the cluster: TTIR text goes out, the compiler's files come back.

A compile is a function of its text, its options and the chip, so it may run anywhere and run again where a machine is
lost. Wherever it runs it is the judge's own build server that does it, one a Ray worker, kept from task to task. What
comes back is laid into the order's folder, as if it had been compiled here.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolve.errors import MachineryError
from evolve.judge.buildserver import Server
from evolve.judge.stages import Target

AGAIN = 2  # times, where the machine or the worker of a compile is lost


@dataclass(frozen=True, kw_only=True)
class Compiled:
    ended: Mapping[str, Any]
    files: Mapping[str, bytes]


class ClusterCompilers:
    """In a judge's process: `Compilers` whose orders are Ray tasks."""

    def __init__(self, folder: Path, target: Target) -> None:
        import ray

        self._folder, self._target = folder, target
        self._task: Any = ray.remote(num_cpus=1, max_retries=AGAIN, retry_exceptions=False)(compiled)
        self._closed = False

    def run(self, order: Mapping[str, Any]) -> dict[str, Any]:
        import ray
        from ray.exceptions import RayError, RayTaskError

        if self._closed:
            raise MachineryError("the builder is closed; nothing more is built.")
        folder = Path(order["folder"])
        text = (folder / "kernel.ttir").read_bytes()
        asked = {name: value for name, value in order.items() if name != "folder"}
        try:
            made: Compiled = ray.get(self._task.remote(self._target, asked, text))
        except RayTaskError as error:
            raise MachineryError(f"a compile on the cluster failed: {error.cause}") from error
        except RayError as error:
            raise MachineryError(f"a compile on the cluster was lost {AGAIN + 1} times: {error}") from error
        for name, content in made.files.items():
            (folder / name).write_bytes(content)
        return dict(made.ended)

    def close(self) -> None:
        self._closed = True
        shutil.rmtree(self._folder, ignore_errors=True)


def compiled(target: Target, order: Mapping[str, Any], text: bytes) -> Compiled:
    """In a Ray worker, on whichever machine has a core free."""
    with tempfile.TemporaryDirectory(prefix="evolve-build-") as name:
        folder = Path(name)
        (folder / "kernel.ttir").write_bytes(text)
        ended = _server(target.backend, target.arch, lambda home: Server(home, target)).run({**order, "folder": name})
        files = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name != "kernel.ttir"}
        return Compiled(ended=ended, files=_nameless(files, name))


def _nameless(files: Mapping[str, bytes], folder: str) -> dict[str, bytes]:
    """The log names the folder that it was made in, which is not the one where it is read."""
    logs = ("stdout.txt", "stderr.txt")
    return {n: c.replace(f"{folder}/".encode(), b"") if n in logs else c for n, c in files.items()}


_servers: dict[tuple[str, int | str], Server] = {}


def _server(backend: str, arch: int | str, make: Callable[[Path], Server]) -> Server:
    """Importing triton takes seconds: once a worker."""
    key = (backend, arch)
    if key not in _servers:
        _servers[key] = made = make(Path(tempfile.mkdtemp(prefix="evolve-compilers-")))
        atexit.register(made.close)
    return _servers[key]
