"""TTIR text to machine code, in trusted processes that import no candidate and see no GPU.

`Builder.build` takes what the gate let through and gives every distinct kernel of its plans, from its own cache or
from a compiler that is killed when it hangs. The cache (0700, written by nobody else) is keyed by the TTIR text, the
options, the chip and the triton version; GPU processes load from it and never compile. It does not judge speed: spills
and slow instructions are traits, not errors.

    <cache>/kernels/<key>/     kernel.ttir, kernel.cubin or .hsaco, kernel.json (triton), .ptx, .ttgir, done.json
    <cache>/staging/<pid>-*/   orders being worked on
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeAlias

from evolve.errors import MachineryError
from evolve.judge import buildworker
from evolve.judge.builderrors import explain
from evolve.judge.buildserver import Compilers, Server, text_of
from evolve.judge.plan import Launch, Lowered
from evolve.judge.sass import inspect_cubin
from evolve.judge.stages import Binary, Built, Ruling, Target
from evolve.types import Verdict

Key: TypeAlias = tuple[str, tuple[tuple[str, int], ...]]  # (ttir digest, options) of a launch

TENSOR_MEMORY_COLUMNS = 512
CLOSED = "the builder is closed; nothing more is built."


class Builder:
    """Compiles in up to `workers` processes at once, each killed after `timeout` seconds. May be shared by threads."""

    def __init__(
        self,
        *,
        cache: Path,
        target: Target,
        workers: int,
        timeout: float,
        compilers: Callable[[Path, Target], Compilers] = Server,
    ) -> None:
        """`compilers` runs orders: processes of this machine, or of others."""
        self.cache, self.target, self.timeout = cache, target, timeout
        _private(cache)
        for name in ("kernels", "staging"):
            (cache / name).mkdir(mode=0o700, exist_ok=True)
        _sweep(cache / "staging")
        self._triton = _triton_version()
        self._under_way: dict[tuple[str, bool], Future[Binary | Ruling]] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._threads = ThreadPoolExecutor(max(1, workers), thread_name_prefix="build")
        self._server = compilers(_folder(cache), target)
        self.notes: list[str] = []  # what could not be read here, for the evidence

    def build(self, lowered: Lowered) -> Built:
        """Every distinct kernel, or the `Ruling` of the first launch in plan order that does not build."""
        started = time.monotonic()
        each = self.build_each(lowered)
        for made in each.values():
            if isinstance(made, Ruling):
                raise made
        binaries = {key: made for key, made in each.items() if isinstance(made, Binary)}
        return Built(binaries=binaries, seconds=time.monotonic() - started)

    def build_each(
        self, lowered: Lowered, *, timeout: float | None = None, lean: bool = False
    ) -> Mapping[Key, Binary | Ruling]:
        """The same without raising: the tuner's points fail one by one, and need not get all the time there is. Where
        they are timed nobody counts their instructions, which takes as long as a compile: `lean`."""
        launches: dict[Key, Launch] = {}
        for plan in lowered.plans:
            for launch in plan.launches:
                launches.setdefault((launch.ttir, launch.options), launch)
        try:
            seconds = min(self.timeout, timeout or self.timeout)
            orders = {key: self._order(x, lowered.modules[x.ttir], seconds, lean) for key, x in launches.items()}
            return {key: order.result() for key, order in orders.items()}
        except CancelledError as error:
            raise MachineryError(CLOSED) from error

    def close(self) -> None:
        """Leaves no process behind; may be called twice."""
        with self._lock:
            self._closed = True
        self._server.close()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _order(self, launch: Launch, text: str, seconds: float, lean: bool) -> Future[Binary | Ruling]:
        """One compile for all who ask for the same key at the same time. The first one says how long it may take."""
        key = self.key(text, launch.options)
        with self._lock:
            if self._closed:
                raise MachineryError(CLOSED)
            name = (key, lean)
            if name not in self._under_way:
                future = self._threads.submit(self._make, key, launch, text, seconds, lean)
                self._under_way[name] = future
                future.add_done_callback(lambda _: self._under_way.pop(name, None))
                return future
            return self._under_way[name]

    def key(self, text: str, options: Sequence[tuple[str, int]]) -> str:
        facts = [self.target.backend, self.target.arch, self._triton, sorted(options)]
        return hashlib.sha256(f"{json.dumps(facts)}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def _make(self, key: str, launch: Launch, text: str, seconds: float, lean: bool) -> Binary | Ruling:
        home = self.cache / "kernels" / key
        if not (home / buildworker.DONE).is_file():
            folder = _folder(self.cache)
            try:
                ended = self._compile(folder, launch, text, seconds, lean)
                if ended is not None:
                    return ended
                _settle(folder, home)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        if not lean:
            _complete(home)
        return self._fits(self._read(key, home), home)

    def _compile(self, folder: Path, launch: Launch, text: str, seconds: float, lean: bool) -> Ruling | None:
        """None where it built; the order's folder then holds the result."""
        (folder / "kernel.ttir").write_text(text, encoding="utf-8", errors="surrogatepass")
        order = {"folder": str(folder), "options": launch.options, "timeout": seconds, "lean": lean}
        ended = self._server.run(order)
        if not ended["late"] and ended["code"] == 0 and (folder / buildworker.DONE).is_file():
            return None
        log = text_of(folder / "stderr.txt")  # stdout holds the whole listing of what an assembler refused
        return explain(
            kernel=launch.kernel,
            log=log.replace(f"{folder}/", ""),
            limit=seconds if ended["late"] else None,
            code=ended["code"],
            ttir=text,
        )

    def _read(self, key: str, home: Path) -> Binary:
        done = json.loads(text_of(home / buildworker.DONE))
        self.notes += [note for note in done["notes"] if note not in self.notes]
        return Binary(
            key=key,
            path=str(home),
            name=done["name"],
            sass=done["sass"],
            registers=done["registers"],
            spills_bytes=done["spills_bytes"],
            shared_bytes=done["shared_bytes"],
            threads=done["threads"],
            instructions=done["instructions"],
            log="\n".join(line for line in text_of(home / "stdout.txt").splitlines() if "Potential" in line),
        )

    def _fits(self, binary: Binary, home: Path) -> Binary | Ruling:
        """What triton leaves to the moment of the launch: whether a block fits on the chip at all."""
        target, needs = self.target, ""
        columns = json.loads(text_of(home / buildworker.DONE))["tensor_memory"]
        if binary.shared_bytes > target.shared_bytes:
            needs = (
                f"needs {binary.shared_bytes} B of shared memory, {target.name} has {target.shared_bytes}: "
                "fewer stages or smaller tiles"
            )
        elif columns > TENSOR_MEMORY_COLUMNS:
            needs = (
                f"needs {columns} columns of tensor memory, {target.name} has {TENSOR_MEMORY_COLUMNS}: smaller tiles"
            )
        elif binary.threads > 1024:
            needs = f"needs {binary.threads} threads in a block, {target.name} takes 1024: fewer warps"
        if not needs:
            return binary
        return Ruling(Verdict.BUILD_ERROR, f"{binary.name} {needs}.", stage="build", evidence={"kernel": binary.name})


def _triton_version() -> str:
    try:
        return version("triton")
    except PackageNotFoundError:
        raise MachineryError("triton is not installed here, so nothing can be built; it is for Linux.") from None


def _private(cache: Path) -> None:
    """Code in here is loaded beside the GPU, so nobody else may be able to put any there."""
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = cache.lstat()
    if stat.S_ISLNK(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o077:
        raise MachineryError(
            f"{cache} is a link, another user's, or open to others; the build cache must be a folder that only you can "
            f"enter: remove it, or `chmod 700 {cache}` if you trust what is in it."
        )


def _folder(cache: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=cache / "staging"))


def _sweep(staging: Path) -> None:
    """Orders of builders that are gone."""
    for folder in staging.iterdir():
        owner = folder.name.split("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _complete(home: Path) -> None:
    """What a lean order left out. One that somebody else completes at the same time comes out the same."""
    done = json.loads(text_of(home / buildworker.DONE))
    if not done.get("lean"):
        return
    found = inspect_cubin(home / "kernel.cubin", text_of(home / "stdout.txt"))
    done |= {"instructions": dict(found.instructions), "notes": sorted({*done["notes"], *found.notes}), "lean": False}
    descriptor, name = tempfile.mkstemp(dir=home)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(done, file)
    os.replace(name, home / buildworker.DONE)


def _settle(folder: Path, home: Path) -> None:
    """One rename makes a kernel appear whole. Another builder's, come first, is as good as ours."""
    for rest in ("tmp", "triton"):
        shutil.rmtree(folder / rest, ignore_errors=True)
    try:
        folder.rename(home)
    except OSError:
        if not (home / buildworker.DONE).is_file():
            raise
