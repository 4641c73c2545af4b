"""Events as JSON and back, exactly.

An event becomes a small body, and beside it what is long: the candidate's source, and the prompt, reply or evidence.
Fields at their default are left out, which halves a body and keeps old journals readable when a type gains a field.

What is exact and what is not. Text is kept to the code point, with NUL and lone surrogates: models send both. Numbers
that must be numbers (costs, tokens, times) are refused unless finite, for they come from us. An infinite *error* is
an honest finding and comes back infinite. In traits, evidence and notes a number that is not finite becomes the word
"nan", "inf" or "-inf", tuples become lists, and every mapping a dict: JSON has nothing else, and people read them.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from evolve.errors import MachineryError
from evolve.types import (
    Asked,
    Candidate,
    Confirmed,
    Evaluation,
    Event,
    Judged,
    Measurement,
    Noted,
    Prompt,
    Replied,
    Reply,
    Verdict,
)

# Level 1 costs 60 µs for a source of 3 kB and 75 µs for a prompt of 8 kB, and keeps a third; more levels gain little.
LEVEL = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """An event as it is stored. `system` is kept once however often it is sent."""

    kind: str
    step: int | None
    body: str | bytes
    source: bytes | None = None
    heavy: bytes | None = None


def pack(text: str) -> bytes:
    return zlib.compress(text.encode("utf-8", "surrogatepass"), LEVEL)


def unpack(data: bytes | None) -> str:
    return zlib.decompress(data).decode("utf-8", "surrogatepass") if data else ""


def write(value: Any, what: str) -> str | bytes:
    """One line of strict JSON, as text that SQLite can search; as bytes where the text holds half a surrogate pair."""
    try:
        line = _dumps(value)
    except ValueError:  # the one refusal that is not ours to pass on: somewhere inside stands a nan
        line = _dumps(_finite(value))
    except TypeError as error:
        raise MachineryError(f"{what}: {error}; the journal keeps what JSON can hold.") from error
    try:
        line.encode()
    except UnicodeEncodeError:
        return line.encode("utf-8", "surrogatepass")
    return line


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    if isinstance(value, Mapping):
        return {_finite(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_finite(v) for v in value]
    return value


def read(line: str | bytes) -> Any:
    """`json.loads` decodes bytes with surrogatepass, which is the other half of `write`."""
    return json.loads(line)


# --- Events -> rows -------------------------------------------------------------------------------------------------


def _defaults(cls: type[Any]) -> dict[str, Any]:
    found = {}
    for f in fields(cls):
        if f.default is not MISSING:
            found[f.name] = f.default
        elif f.default_factory is not MISSING:
            found[f.name] = f.default_factory()
    return found


_NAMES = {cls: tuple(f.name for f in fields(cls)) for cls in (Asked, Candidate, Evaluation, Measurement, Noted, Reply)}
_DEFAULTS = {cls: _defaults(cls) for cls in _NAMES}
_NEVER = object()


def _slim(thing: Any, leave: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields that say something: not those at their default, and not those that go elsewhere."""
    cls = type(thing)
    usual = _DEFAULTS[cls]
    said = {}
    for name in _NAMES[cls]:
        value = getattr(thing, name)
        if name not in leave and value != usual.get(name, _NEVER):
            said[name] = value
    return said


def encode(event: Event, shared: int | None = None) -> Encoded:
    """`shared` is where the system prompt of an Asked stands."""
    match event:
        case Asked():
            body = _slim(event, ("step", "prompt")) | {"kind": event.prompt.kind}
            if shared is not None:
                body["system"] = shared
            return _encoded("asked", event.step, body, heavy=event.prompt.user)
        case Replied():
            reply = event.reply
            _must_be_finite("replied", event.step, cost_usd=reply.cost_usd, seconds=reply.seconds)
            return _encoded("replied", event.step, _slim(reply, ("text",)), heavy=reply.text)
        case Judged():
            body = {"evaluation": _evaluation(event.evaluation, event.step)}
            source = ""
            if event.candidate is not None:
                body["candidate"] = _slim(event.candidate, ("step", "source"))
                source = event.candidate.source
            return _encoded("judged", event.step, body, source=source, heavy=_evidence(event.evaluation))
        case Confirmed():
            body = {"id": event.candidate_id, "evaluation": _evaluation(event.evaluation, event.step)}
            return _encoded("confirmed", event.step, body, heavy=_evidence(event.evaluation))
        case Noted():
            return _encoded("noted", event.step, _slim(event, ("step",)))


def _encoded(
    kind: str, step: int | None, body: dict[str, Any], *, source: str = "", heavy: str | bytes = ""
) -> Encoded:
    where = f"step {step}, {kind}" if step is not None else kind
    return Encoded(
        kind=kind,
        step=step,
        body=write(body, where),
        source=pack(source) if source else None,
        heavy=zlib.compress(heavy, LEVEL) if isinstance(heavy, bytes) else pack(heavy) if heavy else None,
    )


def _evaluation(evaluation: Evaluation, step: int) -> dict[str, Any]:
    body = _slim(evaluation, ("evidence",))
    if evaluation.measurements:
        body["measurements"] = [_slim(m) for m in evaluation.measurements]
        for m in evaluation.measurements:
            _must_be_finite("judged", step, weight=m.weight, eager_us=m.eager_us or 0.0)
    return body


def _evidence(evaluation: Evaluation) -> str | bytes:
    return write(evaluation.evidence, "evidence") if evaluation.evidence else ""


def _must_be_finite(kind: str, step: int, **figures: float) -> None:
    for name, figure in figures.items():
        if not math.isfinite(figure):
            raise MachineryError(f"step {step}, {kind}: {name} is {figure}; expected a finite number.")


# --- Rows -> events -------------------------------------------------------------------------------------------------


def decode(
    kind: str,
    step: int | None,
    line: str | bytes,
    *,
    source: bytes | None,
    heavy: bytes | None,
    system: Callable[[int], str] | None,
) -> Event:
    """The event again. What is not given, because it was left unread, comes back empty; `system` finds the system
    prompt by its place."""
    body = read(line)
    if kind == "noted":
        return Noted(step=step, **body)
    if step is None:
        raise MachineryError(f"an event of kind {kind} without a step: the journal is damaged.")
    if kind == "judged":
        found = body.get("candidate")
        candidate = None if found is None else _candidate(found, step, source)
        return Judged(step=step, candidate=candidate, evaluation=_evaluated(body["evaluation"], heavy))
    if kind == "asked":
        place = body.pop("system", None)
        prompt = Prompt(system=system(place) if system and place else "", user=unpack(heavy), kind=body.pop("kind"))
        _tuples(body, "inspiration_ids", "failure_ids")
        return Asked(step=step, prompt=prompt, **body)
    if kind == "replied":
        return Replied(step=step, reply=Reply(text=unpack(heavy), **body))
    if kind == "confirmed":
        return Confirmed(step=step, candidate_id=body["id"], evaluation=_evaluated(body["evaluation"], heavy))
    raise MachineryError(f"an event of unknown kind {kind!r}: the journal is damaged, or newer than this evolve.")


def _candidate(body: dict[str, Any], step: int, source: bytes | None) -> Candidate:
    _tuples(body, "inspiration_ids")
    return Candidate(step=step, source=unpack(source), **body)


def _evaluated(body: dict[str, Any], evidence: bytes | None) -> Evaluation:
    body["verdict"] = Verdict(body["verdict"])
    if "measurements" in body:
        body["measurements"] = tuple([Measurement(**m) for m in body["measurements"]])
    _tuples(body, "digests")
    _floats(body, "errors", "seconds")
    if evidence:
        body["evidence"] = read(zlib.decompress(evidence))
    return Evaluation(**body)


def _tuples(body: dict[str, Any], *names: str) -> None:
    for name in names:
        if name in body:
            body[name] = tuple(body[name])


def _floats(body: dict[str, Any], *names: str) -> None:
    """Undo what `_finite` did, where the type says that it was a number."""
    for name in names:
        for key, value in body.get(name, {}).items():
            if isinstance(value, str):
                body[name][key] = float(value)
