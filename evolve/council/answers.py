"""What a server that speaks OpenAI's protocol answered, read into a reply. It comes from outside: nothing in it is
believed to have the shape that it should have, and what is wrong becomes a `finish_reason` that says so.

It deliberately retries nothing and knows no connection.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

CHARACTERS_A_TOKEN = 3.5  # where a server states no usage, so that a budget still counts something
SHOWN = 300  # characters of a server's own words
MOST_TOKENS = 10**9  # what a server states above this is not believed
_MASKED = re.compile(r"\bsk-[\w-]*\*[\w*-]*")  # a key as servers echo it: its ends, and stars between


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    text: str = ""
    finish_reason: str
    model: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    broken: bool = False  # the server's fault, not the model's


def read_answer(body: bytes, *, asked: int, model: str, max_tokens: int) -> Answer:
    """Of a body that came whole, with a status that says success. `asked` is the prompt's length in characters."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        words = _words(body.decode("utf-8", "replace"))
        return Answer(finish_reason=f"the server's answer is no JSON: {words!r}", broken=True)
    if not isinstance(answer, dict):
        kind = type(answer).__name__
        return Answer(finish_reason=f"the server's answer is a {kind}; expected a completion", broken=True)
    used = _usage(answer.get("usage"))
    stated = answer["model"] if isinstance(answer.get("model"), str) else ""
    text, reason = _first_choice(answer, max_tokens)
    if used is None and text:
        used = math.ceil(asked / CHARACTERS_A_TOKEN), math.ceil(len(text) / CHARACTERS_A_TOKEN)
        reason += "; the server stated no usage, so tokens are estimated by length"
    if stated and not _same_model(stated, model):
        reason += f"; {_words(stated)} answered in place of {model}"
    tokens_in, tokens_out = used or (0, 0)
    return Answer(
        text=text,
        finish_reason=reason,
        model=stated,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        broken=not text and used is None,
    )


def _first_choice(answer: Mapping[str, Any], max_tokens: int) -> tuple[str, str]:
    """Its text, and why it ended where it did."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        error = answer.get("error")
        return "", f"the server answered with an error: {error_words(error)}" if error else "the answer has no choices"
    choice = choices[0]
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    text = _content(message.get("content"))
    ended = choice.get("finish_reason")
    ended = ended if isinstance(ended, str) and ended else "stop"
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal and not text:
        return "", f"the model refused: {_words(refusal)}"
    if ended == "length":
        cut = f"length: cut off at max_tokens {max_tokens}"
        return text, cut if text else f"{cut}, before a word of the answer; raise it, or lower reasoning_effort"
    if not text:
        return "", "the answer is empty" if ended == "stop" else f"the answer is empty: {_words(ended)}"
    return text, ended if ended == "stop" else _words(ended)


def _content(content: object) -> str:
    """A text, or a list of parts of which some are text. Blank is nothing."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    if not isinstance(content, str) or not content.strip():
        return ""
    return content.encode("utf-8", "replace").decode("utf-8")  # lone surrogates can be neither kept nor sent


def _usage(usage: object) -> tuple[int, int] | None:
    if not isinstance(usage, dict):
        return None
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    if any(isinstance(n, bool) or not isinstance(n, int) or not 0 <= n <= MOST_TOKENS for n in counts):
        return None
    return counts[0], counts[1]  # type: ignore[return-value]


def _same_model(stated: str, asked: str) -> bool:
    """Snapshots add a date, and servers of one's own add or drop a folder."""
    one, other = (name.rsplit("/", 1)[-1].lower() for name in (stated, asked))
    return one.startswith(other) or other.startswith(one)


# --- What errors say ------------------------------------------------------------------------------------------------


def error_words(body: object) -> str:
    """What a body says went wrong; servers differ in where they say it."""
    for _ in range(3):
        if isinstance(body, dict):
            body = next((body[k] for k in ("message", "error", "detail") if body.get(k)), json.dumps(body, default=str))
    return _words(str(body)) if body else "no words"


def _words(text: str) -> str:
    """On one line. Cut generously, for a key must be whole when it is looked for; `told` cuts for good."""
    return " ".join(text[:8000].split()).rstrip(".")


def told(text: str, key: str | None) -> str:
    """A server's words as they may be shown: without the key, and short."""
    text = _MASKED.sub("[key]", without(text, key)).encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def without(text: str, key: str | None) -> str:
    """Never the key, whoever echoes it. What is as short as "EMPTY" is no secret, and stands in honest texts."""
    return text.replace(key, "[key]") if key and len(key) >= 8 else text


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that a server asks us to wait: in milliseconds, in seconds, or until a date. `now` is since 1970."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "nan")) * unit
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        date = parsedate_to_datetime(headers.get("retry-after", ""))
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.fromtimestamp(now, UTC)).total_seconds())
