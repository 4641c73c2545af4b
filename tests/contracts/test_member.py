"""Every member that ships, held to `evolve.council.contract`."""

from evolve.council.contract import MemberContract
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
