"""A small OpenAI-compatible server with programmable faults, on a socket of this machine.

    with Server(lambda number, request: "429:0.1" if number == 0 else "ok") as server: ... server.url ...

The script gives for each request its fault by name (see `_answer`), or a dict that is the whole body. It keeps count
of what it was sent. As a program it answers everything with "ok" and prints its address: for measuring.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from time import time
from typing import Any

TOKENS_IN, TOKENS_OUT = 100, 20
HALF = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n{"id": '


def completion(text: Any, finish: str = "stop", model: str = "m", **message: Any) -> dict[str, Any]:
    return {
        "id": "c1", "object": "chat.completion", "created": 1, "model": model,
        "choices": [{"index": 0, "finish_reason": finish, "message": {"content": text, **message}}],
        "usage": {"prompt_tokens": TOKENS_IN, "completion_tokens": TOKENS_OUT, "total_tokens": TOKENS_IN + TOKENS_OUT},
    }  # fmt: skip


class Server:
    def __init__(self, script: Callable[[int, dict[str, Any]], Any] = lambda number, request: "ok") -> None:
        self.script = script
        self.requests: list[dict[str, Any]] = []  # bodies, with their headers under "headers"
        self.billed = 0  # answers that were produced, whether or not they arrived
        self.faults: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0
        self.ready = threading.Event()

    def __enter__(self) -> Server:
        self.thread = threading.Thread(target=lambda: asyncio.run(self.serve()), daemon=True)
        self.thread.start()
        self.ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.over.set)
        self.thread.join(10)

    async def serve(self) -> None:
        self.loop, self.over, self.open = asyncio.get_running_loop(), asyncio.Event(), set[asyncio.StreamWriter]()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=256)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        self.ready.set()
        await self.over.wait()
        server.close()
        for writer in self.open:
            writer.transport.abort()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open.add(writer)
        try:
            while await self._request(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open.discard(writer)
            writer.transport.abort()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head.splitlines()[1:])}
        body = json.loads(await reader.readexactly(int(headers.get("content-length", 0))) or b"{}")
        number = len(self.requests)
        self.requests.append({**body, "headers": headers})
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self._answer(self.script(number, body), writer, headers)
        finally:
            self.at_once -= 1

    async def _answer(self, fault: Any, writer: asyncio.StreamWriter, headers: dict[str, str]) -> bool:
        self.faults[fault if isinstance(fault, str) else "body"] += 1
        key = headers.get("authorization", "").removeprefix("Bearer ")
        if isinstance(fault, dict):
            return await self._send(writer, 200, fault)
        kind, _, detail = fault.partition(":")
        match kind:
            case "ok":
                return await self._send(writer, 200, completion(detail or "an answer"))
            case "slow":
                await asyncio.sleep(float(detail))
                return await self._send(writer, 200, completion("late"))
            case "429":
                return await self._send(writer, 429, _error("slow down", "rate_limit_exceeded"), retry=detail)
            case "429date":
                date = formatdate(time() + float(detail), usegmt=True)
                return await self._send(writer, 429, _error("slow down", "rate_limit_exceeded"), retry=date)
            case "status":
                code, _, words = detail.partition(":")
                text, _, error_code = words.partition("|")
                return await self._send(writer, int(code), _error(text.replace("KEY", key), error_code or None))
            case "echo":  # the key, in an answer that is otherwise as it should be
                return await self._send(writer, 200, completion(f"your key is {key}", model=f"m-{key}"))
            case "stall":
                await asyncio.sleep(3600)
            case "drop":
                pass
            case "half":
                self.billed += 1
                writer.write(HALF)
                await writer.drain()
            case "stallbody":
                self.billed += 1
                writer.write(HALF)
                await writer.drain()
                await asyncio.sleep(3600)
            case "text":
                return await self._send(writer, 200, detail)
            case "empty":
                return await self._send(writer, 200, completion(""))
            case "refusal":
                return await self._send(writer, 200, completion(None, refusal="I will not."))
            case "length":
                return await self._send(writer, 200, completion(detail, finish="length"))
            case "filter":
                return await self._send(writer, 200, completion(None, finish="content_filter"))
            case "model":
                return await self._send(writer, 200, completion("text", model=detail))
            case _:
                raise AssertionError(f"no such fault: {fault}")
        return False

    async def _send(self, writer: asyncio.StreamWriter, status: int, body: Any, retry: str = "") -> bool:
        self.billed += status == 200
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        more = f"retry-after: {retry}\r\n" if retry else ""
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{more}content-length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
        await writer.drain()
        return True


def _error(words: str, code: str | None) -> dict[str, Any]:
    return {"error": {"message": words, "type": "error", "param": None, "code": code}}


def main() -> None:
    with Server() as server:
        print(server.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
