"""What a run would do, before it costs anything: every key and its origin, the first prompt, what the budget buys.

Tokens are counted by the length of the text, and a reply's length is assumed and bounded by `max_tokens`: the figures
are for deciding about a budget, and the journal has the true ones afterwards. Nobody is asked and nothing is judged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from evolve.config import CommandOptions, MemberConfig, OpenAIOptions, Price, RunConfig, flat
from evolve.config.prices import price_of
from evolve.types import Prompt

CHARACTERS_A_TOKEN = 3.5  # Triton source and English; tokenizers differ by a tenth or two
REPLY_TOKENS = 3000  # assumed: a hypothesis, some thought, and an edit of one file
OFFLINE = ("rules", "scripted", "replay", "mailbox")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """One question to a member. Tokens None: they are not counted; dollars None: there is no price."""

    share: float  # of the steps
    tokens_in: int | None = 0
    tokens_out: int | None = 0  # as assumed
    tokens_out_most: int | None = 0
    usd: float | None = 0.0
    usd_most: float | None = 0.0

    @property
    def tokens(self) -> int | None:
        return None if self.tokens_in is None or self.tokens_out is None else self.tokens_in + self.tokens_out


def costs(config: RunConfig, prompt: Prompt, prices: Mapping[str, Price]) -> dict[str, Cost]:
    """What each member would be paid for a prompt of this length. `prices` are by model, for members without one."""
    total = sum(m.weight for m in config.council)
    tokens_in = round((len(prompt.system) + len(prompt.user)) / CHARACTERS_A_TOKEN)
    return {m.name: _cost(m, m.weight / total, tokens_in, prices) for m in config.council}


def _cost(member: MemberConfig, share: float, tokens_in: int, prices: Mapping[str, Price]) -> Cost:
    if member.member in OFFLINE:
        return Cost(share=share)
    if isinstance(member.options, CommandOptions) and (each := member.options.usd_per_call) is not None:
        return Cost(share=share, tokens_in=tokens_in, tokens_out=None, tokens_out_most=None, usd=each, usd_most=each)
    if not isinstance(member.options, OpenAIOptions):
        return Cost(share=share, tokens_in=tokens_in, tokens_out=None, tokens_out_most=None, usd=None, usd_most=None)
    most = member.options.max_tokens
    likely = min(REPLY_TOKENS, most)
    options = member.options
    price = price_of(options.model, options.api_base, options.price) or prices.get(options.model)
    return Cost(
        share=share,
        tokens_in=tokens_in,
        tokens_out=likely,
        tokens_out_most=most,
        usd=_usd(price, tokens_in, likely),
        usd_most=_usd(price, tokens_in, most),
    )


def _usd(price: Price | None, tokens_in: int, tokens_out: int) -> float | None:
    if price is None:
        return None
    return (tokens_in * price.usd_per_million_in + tokens_out * price.usd_per_million_out) / 1e6


def buys(config: RunConfig, members: Mapping[str, Cost]) -> list[str]:
    """A sentence for each limit of the budget."""
    budget, sentences = config.budget, []
    usd, usd_most = _a_step(members, "usd"), _a_step(members, "usd_most")
    tokens = _a_step(members, "tokens")
    unpriced = [name for name, cost in members.items() if cost.usd is None]
    if budget.steps is not None:
        sentences.append(f"steps: {budget.steps}{f', about ${usd * budget.steps:.2f}' if usd else ''}.")
    if budget.usd is not None:
        if unpriced:
            sentences.append(f"usd: {', '.join(unpriced)}: no price, so ${budget.usd:g} cannot be kept; give one.")
        elif usd and usd_most:
            likely, least = budget.usd / usd, budget.usd / usd_most
            sentences.append(f"usd: ${budget.usd:g} buys about {likely:.0f} steps, at the least {least:.0f}.")
        else:
            sentences.append(f"usd: ${budget.usd:g} is never reached; no member costs anything.")
    if budget.tokens is not None:
        many = f"buys about {budget.tokens / tokens:.0f} steps" if tokens else "is never reached; no member counts any"
        sentences.append(f"tokens: {budget.tokens} {many}.")
    if budget.seconds is not None:
        sentences.append(f"seconds: {budget.seconds:g} ({budget.seconds / 3600:.3g} hours) of wall clock.")
    if budget.gpu_seconds is not None:
        sentences.append(f"gpu_seconds: {budget.gpu_seconds:g} of the GPU's lease.")
    return [*sentences, *(["The first limit reached ends the run."] if len(sentences) > 1 else [])]


def tunes(config: RunConfig) -> list[str]:
    """What is spent on numbers, candidate by candidate."""
    tuner = config.tuner
    if not tuner.enabled:
        return ["tuner: off, so every candidate is timed at its own defaults."]
    where = "where there is a GPU, " if tuner.enabled == "auto" else ""
    return [
        f"tuner: {where}at most {tuner.points} points a workload, {tuner.gpu_seconds:g} s of the GPU's lease and "
        f"{tuner.seconds:g} s of wall clock for each candidate that passes its check."
    ]


def _a_step(members: Mapping[str, Cost], what: str) -> float:
    """The mean over the council; who has no figure counts as nothing here, and is named elsewhere."""
    return sum(cost.share * (getattr(cost, what) or 0) for cost in members.values())


# --- The view ---------------------------------------------------------------------------------------------------------


def show(
    config: RunConfig, *, console: Console, prompt: Prompt | None = None, prices: Mapping[str, Price] | None = None
) -> None:
    """Plain aligned lines, so that a pipe gets what the screen shows."""
    _title(console, f"Configuration {config.source}")
    _aligned(console, [(key, _value(value), origin) for key, value, origin in flat(config)])
    for warning in config.warnings:
        _line(console, f"warning: {warning}", "yellow")
    if prompt is None:
        return
    _title(console, f"The first prompt ({prompt.kind})")
    for text in (prompt.system, prompt.user):
        _line(console, text.rstrip() or "(empty: this member needs no words)")
    members = costs(config, prompt, prices or {})
    _title(console, "A step")
    _aligned(console, [("member", "share", "tokens in", "tokens out (most)", "dollars (most)"), *_rows(members)])
    if config.weights == "adaptive":
        _line(console, "Shares move with what pays off: weights are adaptive.")
    if any(cost.tokens_in for cost in members.values()):
        _line(console, f"Assumed: {CHARACTERS_A_TOKEN} characters a token, replies of {REPLY_TOKENS} tokens.")
    _title(console, "What the budget buys")
    for sentence in (*buys(config, members), *tunes(config)):
        _line(console, sentence)


def _rows(members: Mapping[str, Cost]) -> Iterator[tuple[str, ...]]:
    for name, cost in members.items():
        tokens = "not counted" if cost.tokens_out is None else f"{cost.tokens_out} ({cost.tokens_out_most})"
        usd = "no price" if cost.usd is None else f"{cost.usd:.4f} ({cost.usd_most:.4f})"
        yield name, f"{cost.share:.0%}", str(cost.tokens_in), tokens, usd


def _value(value: Any) -> str:
    """As it would stand in the YAML."""
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return f"[{', '.join(value)}]"
    return json.dumps(value, ensure_ascii=False)


def _title(console: Console, text: str) -> None:
    console.print(Text(f"\n{text}", style="bold"), soft_wrap=True)


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style=style), soft_wrap=True)


def _aligned(console: Console, rows: Sequence[tuple[str, ...]]) -> None:
    widths = [min(max(len(row[i]) for row in rows), 48) for i in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        line = Text("  ".join(cells[:-1]) + "  ")
        line.append(row[-1], style="bright_black" if row[-1] == "default" else "cyan")
        console.print(line, soft_wrap=True)
