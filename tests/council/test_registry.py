"""Members by name, and what a slip in the YAML gets."""

import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from evolve.council.registry import make, seat
from evolve.council.scripted import ScriptedMember
from evolve.errors import ConfigError
from evolve.types import Draw, Prompt, Reply


class Mine:
    """A user's own: it takes what it needs and no more."""

    kinds = {"rewrite": 1.0}  # noqa: RUF012

    def __init__(self, *, name: str, temperature: float, target: str = "") -> None:
        self.name, self.temperature, self.target = name, temperature, target

    async def ask(self, draw: Draw, prompt: Prompt) -> Reply:
        return Reply(member=self.name, text="x")


class Mute:
    pass


NOT_CALLABLE = 7
HERE = f"{__name__}:"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or sys.modules[Mine.__module__])


@dataclass(frozen=True, kw_only=True)
class Options:
    replies: tuple[str, ...] = ("one",)


def test_a_short_name_with_options_from_a_dataclass_or_a_mapping() -> None:
    for options in (Options(), {"replies": ["one"]}):
        found = seat("scripted", name="s", weight=2.0, options=options, knows={"target": "sm_90"})
        assert isinstance(found.member, ScriptedMember)
        assert (found.name, found.weight, found.member.name) == ("s", 2.0, "s")


def test_one_of_ones_own_gets_what_it_has_a_parameter_for() -> None:
    knows = {"target": "sm_90", "workloads": (), "random_seed": 3}
    member: Any = make(f"{HERE}Mine", name="mine", options={"temperature": 0.5}, knows=knows)
    assert (member.name, member.temperature, member.target) == ("mine", 0.5, "sm_90")


def test_kinds_are_the_yamls_or_the_members_or_the_runs() -> None:
    usual, mine = {"diff": 3.0}, {"options": {"temperature": 1.0}}
    assert seat(f"{HERE}Mine", name="m", kinds={"fix": 1.0}, usual=usual, **mine).kinds == {"fix": 1.0}
    assert seat(f"{HERE}Mine", name="m", usual=usual, **mine).kinds == {"rewrite": 1.0}
    assert seat("scripted", name="s", usual=usual, options=Options()).kinds == usual
    assert set(seat("scripted", name="s", options=Options()).kinds) == {
        "diff",
        "rewrite",
        "crossover",
        "fix",
        "explore",
    }
    rules = seat("rules", name="r", usual=usual)
    assert rules.kinds == {"rule": 1.0}
    assert not rules.prompted


def test_rules_may_be_chosen_by_name() -> None:
    assert make("rules", name="r", options={"rules": ("parameters",)}).name == "r"
    with pytest.raises(ConfigError, match=r'member "r": no rule "paramters"; did you mean "parameters"'):
        make("rules", name="r", options={"rules": ("paramters",)})


@pytest.mark.parametrize(
    ("member", "options", "words"),
    [
        ("scriptd", {}, 'no member "scriptd"; did you mean "scripted"? One of your own is named as package'),
        ("gemini", {}, 'no member "gemini"; expected one of rules, openai, command, mailbox, scripted, replay. One'),
        ("nowhere.at_all:Member", {}, "nowhere.at_all cannot be imported"),
        (f"{HERE}Missing", {}, "expected package.module:Name"),
        (f"{HERE}NOT_CALLABLE", {}, "is 7; expected a class or a function"),
        (f"{HERE}Mute", {}, "made a Mute, which has no `ask`"),
        (f"{HERE}Mine", {}, "needs `temperature:`, which is not given"),
        (f"{HERE}Mine", {"temprature": 1}, 'unknown option "temprature"; did you mean "temperature"?'),
        ("replay", {}, "needs `run:`"),
    ],
)
def test_a_slip_gets_a_sentence(member: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(member, name="m", options=options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def takes_anything(**options: Any) -> Mine:
    return Mine(name=options["name"], temperature=options["warmth"])


def test_a_factory_may_take_anything() -> None:
    member: Any = make(f"{HERE}takes_anything", name="m", options={"warmth": 2.0}, knows={"target": "sm_90"})
    assert (member.name, member.temperature) == ("m", 2.0)


def test_looking_at_the_registry_needs_neither_libcst_nor_openevolve() -> None:
    code = (
        "import sys, evolve.council.registry\n"
        "print([m for m in ('libcst', 'openevolve', 'torch', 'openai') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
