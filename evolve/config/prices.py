"""What a model's tokens cost: the YAML's word, or a dated table that ships, which holds at OpenAI's own address only.

A price that is wrong on the cautious side ends a run early; so cached input is counted in full. Prices elsewhere are
not guessed: the same name costs something else at another host, and nothing on one's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from evolve.config.tree import OPENAI_API, Price

TABLE = Path(__file__).parent.parent / "data" / "prices.json"
_SNAPSHOT = re.compile(r"-\d{4}-?\d{2}-?\d{2}$")  # gpt-5-2025-08-07 costs what gpt-5 does


@cache
def shipped() -> tuple[str, Mapping[str, Price]]:
    """The date of the table, and its prices by model."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    return table["as_of"], {model: Price(**price) for model, price in table["models"].items()}


def price_of(model: str, api_base: str, given: Price | None = None) -> Price | None:
    if given is not None or api_base.rstrip("/") != OPENAI_API:
        return given
    _, prices = shipped()
    return prices.get(model) or prices.get(_SNAPSHOT.sub("", model))


def usd(price: Price | None, tokens_in: int, tokens_out: int) -> float:
    if price is None:
        return 0.0
    return (tokens_in * price.usd_per_million_in + tokens_out * price.usd_per_million_out) / 1e6
