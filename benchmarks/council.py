"""What a call to a member costs in CPU beyond what the SDK's own call costs, with 64 in flight in one process.

    python benchmarks/council.py [CALLS]

A server of this machine, in a process of its own, answers at once; CPU seconds are this process's, the least of several
rounds taken in turn. The goal is 1 ms a call. Exit status 1 if it is missed.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from openai import AsyncOpenAI

from evolve.council.openai import OpenAIMember
from evolve.types import Draw, Prompt

GOAL_MS = 1.0
AT_ONCE, ROUNDS = 64, 5
SERVER = Path(__file__).parent.parent / "tests/council/server.py"
PROMPT = Prompt(system="You write Triton kernels. " * 40, user="Make it faster.\n" * 1500, kind="diff")


async def cpu_ms(call: Callable[[int], Awaitable[object]], calls: int) -> float:
    many = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with many:
            await call(number)

    began = time.process_time()
    await asyncio.gather(*(one(n) for n in range(calls)))
    return 1e3 * (time.process_time() - began) / calls


async def measure(url: str, calls: int) -> tuple[float, float]:
    member = OpenAIMember(name="m", model="m", api_base=url)
    client = AsyncOpenAI(api_key="none", base_url=url, max_retries=0)

    async def ours(number: int) -> None:
        reply = await member.ask(Draw(step=number, island=0), PROMPT)
        assert reply.text, reply.finish_reason

    async def theirs(number: int) -> None:
        messages = [{"role": "system", "content": PROMPT.system}, {"role": "user", "content": PROMPT.user}]
        await client.chat.completions.create(model="m", messages=messages, max_tokens=16384)  # type: ignore[arg-type]

    found: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(ROUNDS + 1):  # the first makes the connections
        found["ours"].append(await cpu_ms(ours, calls))
        found["theirs"].append(await cpu_ms(theirs, calls))
    await member.close()
    await client.close()
    return min(found["ours"][1:]), min(found["theirs"][1:])


def main() -> int:
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    with subprocess.Popen([sys.executable, SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        ours, theirs = asyncio.run(measure(server.stdout.readline().strip(), calls))
        server.communicate("")
    more = ours - theirs
    print(
        f"CPU a call, {AT_ONCE} in flight: the SDK's {theirs:.2f} ms, the member's {ours:.2f} ms, {more:+.2f} ms beyond"
    )
    print(f"goal: {GOAL_MS} ms beyond: {'met' if more <= GOAL_MS else 'missed'}")
    return int(more > GOAL_MS)


if __name__ == "__main__":
    sys.exit(main())
