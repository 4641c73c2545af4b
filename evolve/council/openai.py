"""A member behind an OpenAI-compatible API: OpenAI's own, a gateway, or a server on this machine.

There is one retry layer, and it is this one. It asks again only where nothing can have been produced: a connection
that was not made or broke before an answer began, 429, 5xx. Once an answer has begun it is paid for, so a body that
breaks off, or that cannot be read, is an empty reply and no second call. All of it happens within one wall-clock
limit. A member that keeps failing rests (`breaker.py`).

The key is read from the environment variable that the configuration names, goes into one header, and is blotted out of
whatever a server says.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evolve.config.prices import price_of, usd
from evolve.config.tree import OPENAI_API, Price
from evolve.council.answers import Answer, error_words, read_answer, retry_after, told, without
from evolve.council.breaker import Breaker
from evolve.errors import MemberUnavailable
from evolve.types import NOTHING, Draw, Prompt, Reply

if TYPE_CHECKING:  # the SDK takes a third of a second to import, and only a run that asks needs it
    from openai import APIStatusError, AsyncOpenAI

LONGEST_DELAY = 60.0  # seconds between two tries, unless the server says otherwise
LONGEST_REST = 3600.0  # that a server may ask for
MOST_BYTES = 32 * 2**20  # of one answer
CONNECT = 15.0  # seconds to reach a server
SHUT = (401, 403, 404)  # the key, the permission, the model: no call of this member's will do better
OVER_LIMIT = ("max_tokens", "max_completion_tokens")  # two names of one parameter; each is refused somewhere


@dataclass(frozen=True, kw_only=True)
class _Fault:
    """What became of one try that brought no answer."""

    why: str
    again: bool = False  # nothing was produced, and the next try may do better
    wait: float | None = None  # seconds that the server asks for
    shut: bool = False  # no try will do better
    ours: bool = False  # about this prompt, not about the server


@dataclass
class _Call:
    """One ask, from its first try to its last."""

    step: int
    began: float
    tries: int = 0
    faults: list[_Fault] = field(default_factory=list)


class OpenAIMember:
    def __init__(
        self,
        *,
        name: str,
        model: str,
        api_base: str = OPENAI_API,
        api_key_env: str | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        max_tokens: int = 16384,
        reasoning_effort: str | None = None,
        extra_body: Mapping[str, Any] = NOTHING,
        timeout: float = 300.0,
        retries: int = 3,
        retry_delay: float = 2.0,
        price: Price | None = None,
        random_seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._model, self._api_base, self._api_key_env = name, model, api_base, api_key_env
        self._timeout, self._retries, self._retry_delay = timeout, retries, retry_delay
        self._max_tokens, self._random_seed, self._clock = max_tokens, random_seed, clock
        self._price = price_of(model, api_base, price)
        wanted = {"temperature": temperature, "top_p": top_p, "reasoning_effort": reasoning_effort}
        self._wanted = {key: value for key, value in wanted.items() if value is not None}
        self._extra_body = dict(extra_body)
        # Reasoning models at OpenAI refuse the old name, and many other servers know only that one.
        self._limit = "max_completion_tokens" if api_base.rstrip("/") == OPENAI_API else "max_tokens"
        self._breaker = Breaker(clock)
        self._not_before = 0.0  # what the server asked one call, all of them heed
        self._client: tuple[asyncio.AbstractEventLoop, AsyncOpenAI] | None = None
        self._key: str | None = None

    @property
    def name(self) -> str:
        return self._name

    async def ask(self, draw: Draw, prompt: Prompt) -> Reply:
        client = self._ready()
        call = _Call(step=draw.step, began=self._clock())
        self._breaker.admit()
        try:
            try:
                async with asyncio.timeout(self._timeout):
                    outcome = await self._persist(client, prompt, call)
            except TimeoutError:
                outcome = _Fault(why=self._too_late(call))
            return self._reply(self._settle(outcome), call)
        finally:
            self._breaker.left()

    async def close(self) -> None:
        """Lets the connections go; the next ask opens new ones."""
        if self._client is not None:
            (loop, client), self._client = self._client, None
            if loop is asyncio.get_running_loop():
                await client.close()

    # --- One call: tries, and what lies between them --------------------------------------------------------------

    async def _persist(self, client: AsyncOpenAI, prompt: Prompt, call: _Call) -> Answer | _Fault:
        while True:
            await self._heed()
            call.tries += 1
            outcome = await self._try(client, prompt)
            if isinstance(outcome, Answer):
                return outcome
            call.faults.append(outcome)
            if not outcome.again or call.tries > self._retries:
                return outcome
            wait = self._delay(outcome, call)
            left = self._timeout - (self._clock() - call.began)
            if outcome.wait is not None:
                self._not_before = max(self._not_before, self._clock() + outcome.wait)
                if wait >= left:  # no use in waiting; nothing is paid, so another may be asked at once
                    self._breaker.rest(min(wait, LONGEST_REST), outcome.why)
                    why = f"its server asks to wait {wait:.0f} s: {outcome.why}"
                    raise MemberUnavailable(why, again_in=min(wait, LONGEST_REST))
            await asyncio.sleep(wait)

    async def _heed(self) -> None:
        while (wait := self._not_before - self._clock()) > 0:
            await asyncio.sleep(wait)

    def _delay(self, fault: _Fault, call: _Call) -> float:
        """Spread out, so that many calls that failed together do not come back together."""
        spread = random.Random(f"{self._random_seed}/{call.step}/{self._name}/{call.tries}").random()
        if fault.wait is not None:
            return fault.wait * (1 + 0.1 * spread) + 0.05 * spread
        return min(LONGEST_DELAY, self._retry_delay * 2.0 ** (call.tries - 1)) * (0.5 + 0.5 * spread)

    def _settle(self, outcome: Answer | _Fault) -> Answer:
        if isinstance(outcome, Answer):
            if outcome.broken:
                self._breaker.failed(told(outcome.finish_reason, self._key))
            else:
                self._breaker.succeeded()
            return outcome
        if outcome.shut:
            self._breaker.rest(LONGEST_REST, outcome.why, returns=False)
            raise MemberUnavailable(outcome.why)
        rests = "" if outcome.ours else self._breaker.failed(outcome.why)
        return Answer(finish_reason=outcome.why[:200] + rests)

    def _too_late(self, call: _Call) -> str:
        before = f", after {call.faults[-1].why}" if call.faults else ""
        return f"no answer within {self._timeout:g} s{before}"

    def _reply(self, answer: Answer, call: _Call) -> Reply:
        tries = f" ({call.tries} tries)" if not answer.text and call.tries > 1 else ""
        return Reply(
            member=self._name,
            text=without(answer.text, self._key),
            model=told(answer.model or self._model, self._key),
            finish_reason=told(answer.finish_reason, self._key) + tries,
            tokens_in=answer.tokens_in,
            tokens_out=answer.tokens_out,
            cost_usd=usd(self._price, answer.tokens_in, answer.tokens_out),
            seconds=max(0.0, self._clock() - call.began),
        )

    # --- One try --------------------------------------------------------------------------------------------------

    async def _try(self, client: AsyncOpenAI, prompt: Prompt) -> Answer | _Fault:
        import httpx2
        from openai import APIConnectionError, APIStatusError, OpenAIError

        begun = False
        try:
            async with client.chat.completions.with_streaming_response.create(**self._request(prompt)) as response:
                begun, body = True, bytearray()
                async for piece in response.iter_bytes():
                    body += piece
                    if len(body) > MOST_BYTES:
                        return _Fault(why=f"the answer is longer than {MOST_BYTES >> 20} MiB; the rest was not read")
        except APIStatusError as error:
            return self._refused(error)
        except (APIConnectionError, httpx2.HTTPError, OSError) as error:
            cause = error.__cause__ or error
            what = told(f"{type(cause).__name__}: {cause}".rstrip(": ."), self._key)
            if begun:
                return _Fault(why=f"the answer broke off on its way ({what})")
            return _Fault(why=f"no connection to {self._host()} ({what})", again=True)
        except (OpenAIError, httpx2.InvalidURL, UnicodeError, TypeError, ValueError) as error:  # a request unsendable
            return _Fault(why=told(f"the request could not be made: {type(error).__name__}: {error}", self._key))
        asked = len(prompt.system) + len(prompt.user)
        return read_answer(bytes(body), asked=asked, model=self._model, max_tokens=self._max_tokens)

    def _request(self, prompt: Prompt) -> dict[str, Any]:
        from openai import Omit

        said = [("system", prompt.system), ("user", prompt.user)]
        messages = [{"role": role, "content": text.encode("utf-8", "replace").decode()} for role, text in said if text]
        limit = {} if any(name in self._extra_body for name in OVER_LIMIT) else {self._limit: self._max_tokens}
        return {
            "model": self._model,
            "messages": messages,
            **self._wanted,
            **limit,
            "extra_body": self._extra_body,
            "extra_headers": {} if self._key else {"Authorization": Omit()},
        }

    def _refused(self, error: APIStatusError) -> _Fault:
        status = error.status_code
        words = told(error_words(error.body), self._key)
        why = f"{self._host()} answered {status}: {words}"
        if status == 429 and error.code == "insufficient_quota":
            return _Fault(why=why, shut=True)
        if status == 429 or status >= 500 or status in (408, 409):
            return _Fault(why=why, again=True, wait=retry_after(error.response.headers, time.time()))
        if status == 400 and self._limit in words and next(n for n in OVER_LIMIT if n != self._limit) in words:
            self._limit = next(n for n in OVER_LIMIT if n != self._limit)  # it told us the name that it knows
            return _Fault(why=why, again=True, wait=0.0)
        if status in SHUT:
            key = f"; is the key in {self._api_key_env} right" if self._api_key_env else ""
            return _Fault(why=f"{why}{key}?" if status == 401 and key else why, shut=True)
        return _Fault(why=why, ours=error.code == "context_length_exceeded" or status == 413)

    def _host(self) -> str:
        """Never the whole address: it may hold a password."""
        return self._api_base.split("://", 1)[-1].split("/", 1)[0].rsplit("@", 1)[-1]

    # --- The client -----------------------------------------------------------------------------------------------

    def _ready(self) -> AsyncOpenAI:
        """The client of the loop that runs: connections belong to one."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._client[0] is not loop:
            self._key = self._read_key()
            self._client = loop, self._connect()
        return self._client[1]

    def _read_key(self) -> str | None:
        if self._api_key_env is None:
            return None
        key = os.environ.get(self._api_key_env, "").strip()
        if not key:
            raise MemberUnavailable(f"{self._api_key_env} is not set, and its server wants a key")
        if not (key.isascii() and key.isprintable()):
            raise MemberUnavailable(f"{self._api_key_env} holds what no key does: line ends or letters beyond ASCII")
        return key

    def _connect(self) -> AsyncOpenAI:
        import httpx2
        from openai import AsyncOpenAI

        # Empty, not None: for None the SDK looks into environment variables that nobody named.
        client = AsyncOpenAI(
            api_key=self._key or "",
            admin_api_key="",
            webhook_secret="",
            base_url=self._api_base,
            timeout=httpx2.Timeout(self._timeout, connect=min(CONNECT, self._timeout)),
            max_retries=0,
            _enforce_credentials=False,
        )
        client.organization = client.project = None
        return client
