"""The openai member against a real server on this machine, which fails in every way that servers do."""

import asyncio
import base64
import json
import random
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolve.config import parse_config
from evolve.config.prices import price_of, shipped
from evolve.config.tree import OPENAI_API, Price
from evolve.council import Council, Seat
from evolve.council.answers import read_answer, retry_after, told
from evolve.council.breaker import FIRST, Breaker
from evolve.council.budget import Budget
from evolve.council.openai import OpenAIMember
from evolve.council.scripted import ScriptedMember
from evolve.errors import ConfigError, MemberUnavailable
from evolve.journal import Journal
from evolve.types import Asked, Draw, Evaluation, Judged, Prompt, Replied, Verdict

fake = SimpleNamespace(**run_path(str(Path(__file__).parent / "server.py")))
KEY = "sk-very-secret-0123456789"
PROMPT = Prompt(system="You write kernels.", user="Make it faster.", kind="diff")
PRICE = Price(usd_per_million_in=10.0, usd_per_million_out=100.0)
COST = (fake.TOKENS_IN * 10 + fake.TOKENS_OUT * 100) / 1e6


class Table:
    """A server and members at it; both are gone when the test is over."""

    def __init__(self) -> None:
        self.server = fake.Server().__enter__()
        self.made: list[OpenAIMember] = []

    def serve(self, *faults: Any) -> None:
        self.server.script = lambda number, request: faults[number] if number < len(faults) else "ok"

    def member(self, **options: Any) -> OpenAIMember:
        usual = {"name": "gpt", "model": "m", "api_base": self.server.url, "retry_delay": 0.01, "timeout": 5.0}
        self.made.append(OpenAIMember(**{**usual, **options}))
        return self.made[-1]

    @property
    def sent(self) -> list[dict[str, Any]]:
        return self.server.requests


@pytest.fixture
async def table(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Table]:
    monkeypatch.setenv("TEST_KEY", KEY)
    made = Table()
    yield made
    for member in made.made:
        await member.close()
    made.server.__exit__()


async def ask(member: OpenAIMember, step: int = 1, prompt: Prompt = PROMPT) -> Any:
    return await member.ask(Draw(step=step, island=0), prompt)


# --- What is sent, and what comes back --------------------------------------------------------------------------------


async def test_every_option_goes_where_it_belongs(table: Table) -> None:
    member = table.member(
        api_key_env="TEST_KEY", temperature=0.3, top_p=0.9, max_tokens=77, reasoning_effort="low",
        extra_body={"top_k": 5, "chat_template_kwargs": {"thinking": True}}, price=PRICE,
    )  # fmt: skip
    reply = await ask(member)
    sent = table.sent[0]
    assert {k: sent[k] for k in ("model", "temperature", "top_p", "max_tokens", "reasoning_effort", "top_k")} == {
        "model": "m", "temperature": 0.3, "top_p": 0.9, "max_tokens": 77, "reasoning_effort": "low", "top_k": 5,
    }  # fmt: skip
    assert sent["chat_template_kwargs"] == {"thinking": True}
    assert [m["role"] for m in sent["messages"]] == ["system", "user"]
    assert sent["headers"]["authorization"] == f"Bearer {KEY}"
    assert (reply.text, reply.finish_reason, reply.model) == ("an answer", "stop", "m")
    assert (reply.tokens_in, reply.tokens_out) == (fake.TOKENS_IN, fake.TOKENS_OUT)
    assert reply.cost_usd == pytest.approx(COST)
    assert 0 < reply.seconds < 5


async def test_what_is_not_given_is_not_sent(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(variable, KEY)
    await ask(table.member())
    assert set(table.sent[0]) == {"model", "messages", "max_tokens", "headers"}
    assert KEY not in str(table.sent[0]), "a server of one's own gets no key that nobody named"
    assert "authorization" not in table.sent[0]["headers"]


async def test_the_limit_goes_by_the_name_that_the_server_knows(table: Table) -> None:
    assert OpenAIMember(name="x", model="gpt-5")._limit == "max_completion_tokens"
    table.serve("status:400:Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
    member = table.member()
    assert (await ask(member)).text == "an answer"
    await ask(member)
    assert ["max_tokens" in r for r in table.sent] == [True, False, False]
    await ask(table.member(extra_body={"max_completion_tokens": 5}))
    assert ("max_tokens" in table.sent[-1], table.sent[-1]["max_completion_tokens"]) == (False, 5)


@pytest.mark.parametrize(
    ("fault", "text", "words", "paid"),
    [
        ("empty", "", "the answer is empty", 1),
        ("refusal", "", "the model refused: I will not", 1),
        ("filter", "", "the answer is empty: content_filter", 1),
        ("length:half a", "half a", "length: cut off at max_tokens", 1),
        ("length", "", "before a word of the answer", 1),
        ("model:other", "text", "stop; other answered in place of m", 1),
        ("model:m-2026-01-01", "text", "stop", 1),
        ("half", "", "the answer broke off on its way", 0),
        ("stallbody", "", "no answer within 1 s", 0),
        ("stall", "", "no answer within 1 s", 0),
        ("text:{no json", "", "is no JSON: '{no json'", 0),
        ("text:[1]", "", "is a list; expected a completion", 0),
        ("text:{}", "", "the answer has no choices", 0),
        ('text:{"error": {"message": "overloaded"}}', "", "the server answered with an error: overloaded", 0),
        ("status:400:no such parameter", "", "answered 400: no such parameter", 0),
    ],
)
async def test_an_answer_that_is_none_says_so_and_is_asked_for_once(
    table: Table, fault: str, text: str, words: str, paid: int
) -> None:
    table.serve(fault)
    reply = await ask(table.member(timeout=1.0, price=PRICE))
    assert reply.text == text
    assert words in reply.finish_reason
    assert reply.cost_usd == pytest.approx(COST * paid)
    assert len(table.sent) == 1, "what was produced is paid for: no second call"


async def test_content_in_parts_and_no_usage(table: Table) -> None:
    body = fake.completion([{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}])
    del body["usage"]
    table.serve(body)
    reply = await ask(table.member(price=PRICE))
    assert reply.text == "ab"
    assert "tokens are estimated" in reply.finish_reason
    assert reply.cost_usd > 0, "a budget in dollars counts what a server does not"


# --- Retries ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["status:500:boom", "status:503:full", "drop", "429:0.05", "status:429:no word when"])
async def test_where_nothing_was_produced_it_asks_again(table: Table, fault: str) -> None:
    table.serve(fault, fault)
    assert (await ask(table.member())).text == "an answer"
    assert len(table.sent) == 3
    table.server.script = lambda number, request: fault
    reply = await ask(table.member(retries=1))
    assert len(table.sent) == 5
    assert reply.text == ""
    assert reply.finish_reason.endswith("(2 tries)")


@pytest.mark.parametrize(("fault", "least"), [("429:0.4", 0.4), ("429date:2", 1.0)])
async def test_retry_after_is_honoured_by_every_call_of_the_member(table: Table, fault: str, least: float) -> None:
    table.serve(fault)
    member, began = table.member(), time.monotonic()
    first = asyncio.ensure_future(ask(member, 1))
    while not table.sent:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    second = await ask(member, 2)
    assert second.text == (await first).text == "an answer"
    assert time.monotonic() - began >= least
    assert second.seconds >= least - 0.2, "the other call heeds it too"


async def test_a_wait_longer_than_the_call_makes_room_for_another(table: Table) -> None:
    table.serve("429:600")
    member = table.member()
    for words in ("asks to wait", "it rests for another"):
        with pytest.raises(MemberUnavailable, match=words):
            await ask(member)
    assert len(table.sent) == 1


async def test_the_limit_of_a_call_holds_retries_included(table: Table) -> None:
    table.server.script = lambda number, request: "status:500:boom"
    began = time.monotonic()
    reply = await ask(table.member(timeout=0.6, retries=50, retry_delay=0.2))
    assert 0.5 < time.monotonic() - began < 2
    assert "no answer within 0.6 s, after" in reply.finish_reason
    assert "500: boom" in reply.finish_reason


async def test_waits_grow_and_derive_from_seed_and_step() -> None:
    from evolve.council.openai import _Call, _Fault

    def delays(seed: int, step: int) -> list[float]:
        member, fault = OpenAIMember(name="a", model="m", random_seed=seed), _Fault(why="")
        return [member._delay(fault, _Call(step=step, began=0, tries=n)) for n in (1, 2, 3, 9)]

    assert delays(1, 1) == delays(1, 1) != delays(1, 2) != delays(2, 2)
    for delay, most in zip(delays(1, 1), (2, 4, 8, 60), strict=True):
        assert most / 2 <= delay <= most


@given(st.text(max_size=30))
def test_any_retry_after_is_a_time_or_none(value: str) -> None:
    wait = retry_after({"retry-after": value}, 1.8e9)
    assert wait is None or 0 <= wait < float("inf")


def test_retry_after_in_its_three_forms() -> None:
    assert retry_after({"retry-after": "7"}, 0) == 7
    assert retry_after({"retry-after-ms": "250"}, 0) == 0.25
    assert retry_after({"retry-after": "Thu, 01 Jan 1970 00:01:00 GMT"}, 20) == 40
    assert retry_after({}, 0) is None


# --- Resting ----------------------------------------------------------------------------------------------------------


def test_rests_grow_and_one_call_tries() -> None:
    now = [0.0]
    breaker = Breaker(lambda: now[0])
    for _ in range(3):
        breaker.admit()
        breaker.failed("boom")
    for length in (FIRST, 2 * FIRST, 4 * FIRST):
        left = f"{length:.0f} s" if length < 100 else "2 min"
        with pytest.raises(MemberUnavailable, match=f"rests for another {left}.*boom"):
            breaker.admit()
        now[0] += length
        breaker.admit()
        with pytest.raises(MemberUnavailable, match="being tried again"):
            breaker.admit()
        breaker.failed("boom")
    now[0] += 8 * FIRST
    breaker.admit()
    breaker.left()  # cancelled: the next may try
    breaker.admit()
    breaker.succeeded()
    breaker.admit()
    breaker.failed("once")
    breaker.admit()


async def test_a_failing_member_rests_while_the_council_goes_on_and_comes_back_by_itself(table: Table) -> None:
    now = [0.0]
    table.serve(*["status:500:boom"] * 3)
    paid = table.member(retries=0, clock=lambda: now[0])
    other = ScriptedMember(["x"] * 9, name="other")
    council = Council([Seat(name="gpt", member=paid), Seat(name="other", member=other)], random_seed=1)
    by = [(await council.ask("gpt", Draw(step=n, island=0), PROMPT)).member for n in range(5)]
    assert by == ["gpt"] * 3 + ["other"] * 2
    (said,) = council.warnings()
    assert '"gpt" is unavailable: it rests for another 30 s: 3 calls in a row failed' in said
    now[0] += 31
    assert (await council.ask("gpt", Draw(step=9, island=0), PROMPT)).member == "gpt"
    await council.close()


@pytest.mark.parametrize(
    "fault", ["status:401:bad", "status:403:no", "status:404:none", "status:429:x|insufficient_quota"]
)
async def test_what_no_retry_mends_rests_at_once(table: Table, fault: str) -> None:
    table.serve(fault)
    member = table.member(api_key_env="TEST_KEY")
    with pytest.raises(MemberUnavailable, match="TEST_KEY right" if "401" in fault else "answered 4"):
        await ask(member)
    assert len(table.sent) == 1


async def test_nobody_there_and_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    member = OpenAIMember(name="a", model="m", api_base="http://user:pass@127.0.0.1:9/v1", retries=1, retry_delay=0.0)
    reply = await ask(member)
    assert "no connection to 127.0.0.1:9 (" in reply.finish_reason
    await member.close()
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(MemberUnavailable, match="NO_KEY is not set"):
        await ask(OpenAIMember(name="a", model="m", api_key_env="NO_KEY"))


async def test_a_context_too_long_is_no_failure_of_the_members(table: Table) -> None:
    table.serve(*["status:400:too long|context_length_exceeded"] * 5)
    member = table.member()
    assert {(await ask(member)).text for _ in range(5)} == {""}
    assert (await ask(member)).text == "an answer"


async def test_alone_and_resting_the_council_waits(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evolve.council.breaker.FIRST", 0.3)
    table.serve(*["status:500:boom"] * 3)
    council = Council([Seat(name="gpt", member=table.member(retries=0))], random_seed=1)
    failed = [await council.ask("gpt", Draw(step=n, island=0), PROMPT) for n in range(3)]
    assert failed[-1].finish_reason.endswith("boom; it rests for 0 s now")
    began = time.monotonic()
    replies = await asyncio.gather(*(council.ask("gpt", Draw(step=n, island=0), PROMPT) for n in range(5)))
    assert {r.text for r in replies} == {"an answer"}
    assert 0.2 < time.monotonic() - began < 5
    table.server.script = lambda number, request: "status:401:bad"
    with pytest.raises(MemberUnavailable, match="answered 401"):
        await council.ask("gpt", Draw(step=9, island=0), PROMPT)
    with pytest.raises(MemberUnavailable, match="it rests"):
        await council.ask("gpt", Draw(step=10, island=0), PROMPT)


# --- Keys -------------------------------------------------------------------------------------------------------------


async def test_an_echoed_key_is_blotted_out_everywhere(table: Table, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    table.serve("echo", "status:500:KEY", "status:400:no KEY", "half", "status:401:Incorrect key: KEY, sk-ve****6789")
    member, said = table.member(api_key_env="TEST_KEY", retries=0), []
    for step in range(6):
        try:
            said.append(repr(await ask(member, step)))
        except MemberUnavailable as error:
            said.append("".join(traceback.format_exception(error)))
    assert "your key is [key]" in said[0]
    assert len(said) == 6
    for text in (*said, caplog.text):
        assert KEY not in text
        assert "6789" not in text


def test_words_are_cut_after_the_key_is_gone() -> None:
    assert told("x" * 290 + KEY, KEY)[:300] == "x" * 290 + "[key]"


def test_no_key_in_a_run_its_output_or_its_page(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    faults = ["echo", "status:500:KEY", "ok", "status:400:KEY", 'text:{"error": "KEY"}', "status:401:KEY"]
    with fake.Server(lambda number, request: faults[number % len(faults)]) as server:
        openai = {"member": "openai", "name": "gpt", "model": "m", "api_base": server.url, "api_key_env": "TEST_KEY",
                  "retry_delay": 0.01, "timeout": 5, "weight": 9}  # fmt: skip
        scripted = {"member": "scripted", "replies": ["nothing of use"] * 20, "weight": 1}
        place.config(council=[openai, scripted], steps=12)
        done = place.evolve("run", "-c", "fake.yaml")
        assert done.status == 0, done.err
        assert len(server.requests) > 4
        assert all(KEY in r["headers"]["authorization"] for r in server.requests)
    shown = place.evolve("show", "fake-001", "--log")
    again = place.evolve("run", "-c", "fake.yaml", "--dry-run")
    written = b"".join(p.read_bytes() for p in place.folder.rglob("*") if p.is_file())
    for text in (done.out, done.err, shown.out, shown.err, again.out, again.err):
        assert KEY not in text
    with Journal.open(place.folder / "runs/fake-001") as journal:  # which packs its texts
        said = repr(list(journal.events()))
    assert "[key]" in said
    assert KEY not in said
    assert KEY.encode() not in written
    assert base64.b64encode(KEY.encode()) not in written


# --- Money ------------------------------------------------------------------------------------------------------------


def test_prices() -> None:
    date, prices = shipped()
    assert date == "2026-03-21"
    assert price_of("gpt-5-mini-2025-08-07", OPENAI_API + "/") == prices["gpt-5-mini"]
    assert price_of("gpt-5-mini", "http://localhost:8000/v1") is None
    assert price_of("gpt-5-mini", OPENAI_API, PRICE) == PRICE
    assert price_of("gpt-99", OPENAI_API) is None


@pytest.mark.parametrize(
    ("member", "fine"),
    [
        ("model: gpt-5", True),
        ("model: gpt-99", False),
        ("model: gpt-99, weight: 0", True),
        ("model: q, api_base: 'http://localhost:1/v1'", False),
        ("model: q, api_base: 'http://localhost:1/v1', price: {usd_per_million_in: 0, usd_per_million_out: 0}", True),
    ],
)
def test_a_dollar_budget_needs_prices(member: str, fine: bool) -> None:
    def load(budget: str) -> Any:
        text = f"problem: p\nseeds: [s]\nbudget: {budget}\ncouncil: [rules, {{member: openai, {member}}}]"
        return parse_config(text, "x.yaml", check_files=False)

    load("{steps: 5}")
    if fine:
        load("{usd: 5}")
        return
    with pytest.raises(ConfigError, match=r"x\.yaml:4.*has no price, so a budget of \$5 could not be kept") as caught:
        load("{usd: 5}")
    assert "2026-03-21" in str(caught.value)


def test_a_dollar_budget_needs_the_price_of_a_program_too() -> None:
    def load(budget: str, price: str = "", resting: str = "wait") -> Any:
        text = f"problem: p\nseeds: [s]\nbudget: {budget}\nwhen_resting: {resting}\ncouncil:\n"
        text += f"  - {{member: command, command: [claude, -p]{price}}}\n"
        return parse_config(text, "x.yaml", check_files=False)

    load("{steps: 5}")
    load("{usd: 5}", ", usd_per_call: 0")
    with pytest.raises(ConfigError, match=r"x\.yaml:6.*claude has no price.*usd_per_call: 0\.05"):
        load("{usd: 5}")
    with pytest.raises(ConfigError, match=r"x\.yaml:4.*no rules sit in the council"):
        load("{steps: 5}", resting="rules")


# --- Many -------------------------------------------------------------------------------------------------------------

MIXED = {
    "ok": 50, "429:0.02": 8, "status:500:boom": 6, "drop": 5, "half": 5, "text:{no": 4, "empty": 4, "refusal": 4,
    "length:part": 4, "model:other": 4, "stall": 1, "stallbody": 1, "slow:0.05": 3, "status:400:no": 1,
}  # fmt: skip


async def test_500_mixed_calls_end_with_every_step_accounted_for(table: Table) -> None:
    rng = random.Random(5)
    plan = rng.choices(list(MIXED), list(MIXED.values()), k=5000)
    table.server.script = lambda number, request: plan[number]
    seats = [Seat(name=n, member=table.member(name=n, price=PRICE, timeout=1.5, retry_delay=0.02)) for n in "abc"]
    seats.append(Seat(name="free", member=ScriptedMember(lambda d, p: "free words", name="free"), weight=0.1))
    council, budget = Council(seats, random_seed=3), Budget(steps=500)
    replies: dict[int, Any] = {}
    many = asyncio.Semaphore(64)

    async def step(number: int) -> None:
        async with many:
            draw = Draw(step=number, island=0)
            member = "abc"[number % 3]
            asked = Asked(step=number, member=member, prompt=PROMPT)
            council.observe(asked)
            budget.observe(asked)
            reply = await council.ask(member, draw, PROMPT)
            assert number not in replies
            replies[number] = reply
            judged = Judged(step=number, evaluation=Evaluation(verdict=Verdict.NO_REPLY))
            for event in (Replied(step=number, reply=reply), judged):
                council.observe(event)
                budget.observe(event)

    began = time.monotonic()
    await asyncio.gather(*(step(n) for n in range(500)))
    assert time.monotonic() - began < 20
    assert sorted(replies) == list(range(500)), "none lost"
    assert budget.used()["steps"] == 500
    with_usage = sum(table.server.faults[f] for f in MIXED if f.split(":")[0] in
                     ("ok", "empty", "refusal", "length", "model", "slow"))  # fmt: skip
    paid = sum(r.cost_usd > 0 for r in replies.values())
    assert with_usage - table.server.faults["slow:0.05"] <= paid <= with_usage, "none double-charged, none free"
    assert budget.used()["usd"] == pytest.approx(paid * COST)
    assert all(r.text or r.finish_reason not in ("", "stop") for r in replies.values())
    assert table.server.most_at_once > 16
    assert sum(s.replied for s in council.standings.of.values()) == 500
    said = Counter(r.finish_reason.split(" (")[0] for r in replies.values())
    assert said["the answer broke off on its way"] > 5


async def test_64_calls_are_in_flight_at_once(table: Table) -> None:
    table.server.script = lambda number, request: "slow:0.5"
    member, began = table.member(), time.monotonic()
    replies = await asyncio.gather(*(ask(member, n) for n in range(64)))
    assert {r.text for r in replies} == {"late"}
    assert table.server.most_at_once == 64
    assert time.monotonic() - began < 4


WORDS = ("choices", "message", "content", "usage", "prompt_tokens", "completion_tokens", "model", "finish_reason")
LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
FIELD = st.sampled_from([*WORDS, "refusal", "error", "text"])
BODY: st.SearchStrategy[Any] = st.deferred(
    lambda: LEAF | st.lists(BODY, max_size=4) | st.dictionaries(FIELD, BODY, max_size=5)
)


@given(BODY)
def test_any_json_reads_as_an_answer(body: Any) -> None:
    for text in (json.dumps(body), json.dumps({"choices": [{"message": body, "finish_reason": body}], "usage": body})):
        answer = read_answer(text.encode(), asked=10, model="m", max_tokens=5)
        assert answer.text.strip() or answer.finish_reason not in ("", "stop")
        assert min(answer.tokens_in, answer.tokens_out) >= 0
