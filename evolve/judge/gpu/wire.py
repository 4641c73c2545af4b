"""Messages between the judge and its GPU processes: JSON with a length in front, bounded in both directions.

Deliberately not pickle: a process in which a kernel went wild may send anything, and reading it must stay harmless.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

# A plan of a few launches is some kilobytes, the samples of 192 blocks some tens; this leaves room and no more.
MOST_BYTES = 8 << 20
AHEAD_BYTES = 1 << 16
_LENGTH = struct.Struct(">I")


class WireError(Exception):
    """The other side cannot be talked to any more."""


class Closed(WireError):
    """It is gone: end of file in the middle of, or instead of, a message."""


class Silent(WireError):
    """Nothing complete arrived in time."""


class Malformed(WireError):
    """What arrived is not a JSON object, or is longer than any honest one."""


class Channel:
    """One end of a stream socket. A time limit holds for the whole message, so that trickling bytes wins nothing.

    `ahead` reads whatever is there, message after message at once. A worker says hundreds of times where it is while
    one candidate is checked, and a thread that waits for the interpreter's lock at each of them keeps the GPU waiting.
    Not for a socket on which descriptors travel."""

    def __init__(self, sock: socket.socket, *, most_bytes: int = MOST_BYTES, ahead: bool = False) -> None:
        self._socket = sock
        self._most = most_bytes
        self._ahead, self._read = ahead, bytearray()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Mapping[str, Any], *, seconds: float = 10.0) -> None:
        data = json.dumps(message, separators=(",", ":")).encode()
        if len(data) > self._most:
            raise Malformed(f"a message of {len(data)} bytes; at most {self._most} are sent.")
        self._socket.settimeout(seconds)
        try:
            self._socket.sendall(_LENGTH.pack(len(data)) + data)
        except TimeoutError as error:
            raise Silent(f"the other side took in nothing for {seconds:g} s.") from error
        except OSError as error:
            raise Closed(f"the other side is gone: {error}.") from error

    def receive(self, *, seconds: float | None = None) -> dict[str, Any]:
        deadline = None if seconds is None else time.monotonic() + seconds
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size, deadline))
        if length > self._most:
            raise Malformed(f"a message of {length} bytes was announced; at most {self._most} are read.")
        data = self._exactly(length, deadline)
        try:
            message = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise Malformed(f"a message is not JSON: {type(error).__name__}.") from error
        if not isinstance(message, dict):
            raise Malformed(f"a message is a {type(message).__name__}; expected an object.")
        return message

    def _exactly(self, count: int, deadline: float | None) -> bytes:
        while len(self._read) < count:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._socket], [], [], left)[0]:
                raise Silent("no complete message arrived in time.")
            try:
                part = self._socket.recv(AHEAD_BYTES if self._ahead else min(count - len(self._read), 1 << 20))
            except OSError as error:
                raise Closed(f"the other side is gone: {error}.") from error
            if not part:
                raise Closed("the other side closed without its final record.")
            self._read += part
        found = bytes(self._read[:count])
        del self._read[:count]
        return found

    def close(self) -> None:
        self._socket.close()
