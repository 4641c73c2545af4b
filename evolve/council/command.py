"""A program as a member: the prompt on its standard input, its reply on its standard output.

It is run where evolve is, in an environment of a few harmless variables and those that the configuration names, so that
no other member's key reaches it. It ends with everything it started when its time is up, when the step is dropped, and
when evolve dies (`leash.py`). What it costs is not known here: each call counts as the YAML says.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from evolve.council.answers import told, without
from evolve.council.breaker import Breaker
from evolve.errors import MemberUnavailable
from evolve.types import Draw, Prompt, Reply

LEASH = Path(__file__).with_name("leash.py")
# What programs need to find themselves, their settings and the network. None of them is a key.
HARMLESS = {
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TERM", "TZ", "TMPDIR",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
}  # fmt: skip
FAMILIES = ("LC_", "XDG_")
MOST_BYTES = 8 * 2**20  # of its output; more is no kernel
TAIL = 4000  # bytes of what it says on standard error
GRACE = 5.0  # seconds for the leash to end everything


@dataclass(frozen=True, kw_only=True)
class _Ended:
    out: bytes
    err: bytes
    status: int
    too_long: bool = False


class CommandMember:
    def __init__(
        self,
        *,
        name: str,
        command: Sequence[str],
        timeout: float = 900.0,
        environment: Sequence[str] = (),
        usd_per_call: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._command, self._timeout = name, tuple(command), timeout
        self._named, self._usd, self._clock = tuple(environment), usd_per_call or 0.0, clock
        self._breaker = Breaker(clock)

    @property
    def name(self) -> str:
        return self._name

    async def ask(self, draw: Draw, prompt: Prompt) -> Reply:
        environment = self._environment()
        if shutil.which(self._command[0], path=environment.get("PATH")) is None:
            raise MemberUnavailable(f"{self._command[0]} is not found; install it, or write its full path in `command`")
        self._breaker.admit()
        began = self._clock()
        try:
            said = "\n\n".join(part for part in (prompt.system, prompt.user) if part)
            try:
                async with asyncio.timeout(self._timeout):
                    ended = await _run(self._command, said.encode("utf-8", "replace"), environment)
            except TimeoutError:
                text, why, failed = "", f"{self._command[0]} took longer than {self._timeout:g} s and was killed", True
            else:
                text, why, failed = self._read(ended)
            why = told(self._clean(why), None)
            if failed:
                self._breaker.failed(why)
            else:
                self._breaker.succeeded()
            seconds = max(0.0, self._clock() - began)
            model = os.path.basename(self._command[0])
            return Reply(
                member=self._name,
                text=self._clean(text),
                model=model,
                finish_reason=why,
                seconds=seconds,
                cost_usd=self._usd,  # of failed calls as well: nobody knows how far they came
            )
        finally:
            self._breaker.left()

    def _environment(self) -> dict[str, str]:
        wanted = HARMLESS.union(self._named)
        return {k: v for k, v in os.environ.items() if k in wanted or k.startswith(FAMILIES)}

    def _clean(self, text: str) -> str:
        """Without the values of the variables that were named: they are keys."""
        for variable in self._named:
            text = without(text, os.environ.get(variable, "").strip())
        return text

    def _read(self, ended: _Ended) -> tuple[str, str, bool]:
        """Text, finish_reason, and whether it failed."""
        program, text = self._command[0], ended.out.decode("utf-8", "replace")
        if ended.too_long:
            return "", f"{program} wrote more than {MOST_BYTES >> 20} MiB and was killed", True
        if ended.status:
            said = _tail(ended.err) or _tail(ended.out) or "it said nothing"
            how = f"was killed by signal {ended.status - 128}" if ended.status > 128 else f"exited with {ended.status}"
            return "", f"{program} {how}: {said}", True
        if not text.strip():
            return "", f"{program} wrote nothing; on standard error: {_tail(ended.err) or 'nothing either'}", False
        return text, "stop", False


def _tail(said: bytes) -> str:
    """Its last words, on one line: errors keep their end."""
    return " ".join(said[-TAIL:].decode("utf-8", "replace").split())[-200:].rstrip(".")


async def _run(command: Sequence[str], said: bytes, environment: dict[str, str]) -> _Ended:
    held, leash = os.pipe()  # as long as the second end is open the program may run
    with os.fdopen(leash, "wb") as hold:
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", str(LEASH), str(held), *command,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                env=environment, pass_fds=(held,), start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(held)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_feed(process.stdin, said))
                out = group.create_task(_first(process.stdout, hold))
                err = group.create_task(_last(process.stderr))
            status = await process.wait()
        finally:
            hold.close()
            await _gone(process)
    return _Ended(out=out.result(), err=err.result(), status=status, too_long=len(out.result()) > MOST_BYTES)


async def _feed(pipe: asyncio.StreamWriter, said: bytes) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # it may answer without reading to the end
        pipe.write(said)
        await pipe.drain()
    pipe.close()


async def _first(pipe: asyncio.StreamReader, hold: BinaryIO) -> bytes:
    """All of it; once that is too much the leash is let go."""
    out = bytearray()
    while piece := await pipe.read(65536):
        if len(out) <= MOST_BYTES:
            out += piece
        else:
            hold.close()
    return bytes(out)


async def _last(pipe: asyncio.StreamReader) -> bytes:
    err = b""
    while piece := await pipe.read(65536):
        err = (err + piece)[-TAIL:]
    return err


async def _gone(process: asyncio.subprocess.Process) -> None:
    """The leash is let go; wait until nothing is left, and read on meanwhile: a full pipe would never end."""
    rest = asyncio.gather(*(_last(pipe) for pipe in (process.stdout, process.stderr) if pipe), process.wait())
    _, late = await asyncio.wait([rest], timeout=GRACE)
    if late:
        with suppress(ProcessLookupError):
            process.kill()
        await rest
