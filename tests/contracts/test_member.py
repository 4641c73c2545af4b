"""Every member that ships, held to `evolve.council.contract`."""

import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from runpy import run_path

import pytest

from evolve.council.command import CommandMember
from evolve.council.contract import MemberContract
from evolve.council.mailbox import MailboxMember
from evolve.council.openai import OpenAIMember
from evolve.council.registry import make
from evolve.council.replay import ReplayMember
from evolve.council.scripted import ScriptedMember
from evolve.types import Draw, Member, Prompt, Replied, Reply


class TestScriptedList(MemberContract):
    def member(self) -> Member:
        return ScriptedMember(["one", "", "three"] + ["more"] * 40)


class TestScriptedFunction(MemberContract):
    def member(self) -> Member:
        def script(draw: Draw, prompt: Prompt) -> str:
            return f"{prompt.kind} for step {draw.step}"

        return ScriptedMember(script, name="slow", seconds=0.02, cost_usd=0.01, tokens=7)


class TestScriptedAtItsEnd(MemberContract):
    def member(self) -> Member:
        return ScriptedMember(["only this one"], name="short")


class TestReplay(MemberContract):
    def member(self) -> Member:
        replies = [Reply(member="gpt", model="gpt-5", text=f"reply {n}" * (n % 2), cost_usd=1.0) for n in range(20)]
        return ReplayMember.of_events(Replied(step=n, reply=reply) for n, reply in enumerate(replies))


class TestRules(MemberContract):
    def member(self) -> Member:
        return make("rules", name="rules", knows={"target": "sm_90", "random_seed": 1})


class TestOpenAI(MemberContract):
    faults = ("ok", "slow:0.02", "empty", "429:0.01", "ok", "status:500:boom", "ok", "half", "ok", "length:part")

    @pytest.fixture(autouse=True)
    async def server(self) -> AsyncIterator[None]:
        fake = run_path(str(Path(__file__).parent.parent / "council/server.py"))
        self.made: list[OpenAIMember] = []
        with fake["Server"](lambda number, request: self.faults[number % len(self.faults)]) as server:
            self.url = server.url
            yield
            for member in self.made:
                await member.close()

    def member(self) -> Member:
        self.made.append(OpenAIMember(name="gpt", model="m", api_base=self.url, retry_delay=0.01, timeout=5.0))
        return self.made[-1]


class TestCommand(MemberContract):
    def member(self) -> Member:
        code = "import sys; print('seen', len(sys.stdin.read()))"
        return CommandMember(name="agent", command=(sys.executable, "-I", "-S", "-c", code), timeout=8.0)


class TestCommandThatFails(MemberContract):
    def member(self) -> Member:
        return CommandMember(name="agent", command=("false",), timeout=8.0)


class TestMailbox(MemberContract):
    @pytest.fixture(autouse=True)
    def somebody(self, tmp_path: Path) -> Iterator[None]:
        """Who answers whatever lies there, and never the same way twice."""
        self.run, over = tmp_path, threading.Event()

        def answer() -> None:
            while not over.wait(0.01):
                for letter in (tmp_path / "mailbox").glob("*.prompt.md"):
                    reply = letter.with_name(letter.name.replace("prompt", "reply"))
                    if not reply.exists():
                        reply.write_text(f"---\nmodel: me\ncost_usd: 0.5\n---\nAn answer to {letter.name}.")

        thread = threading.Thread(target=answer)
        thread.start()
        yield
        over.set()
        thread.join()

    def member(self) -> Member:
        return MailboxMember(name="box", folder=self.run, settled=0.03, look=0.01)
