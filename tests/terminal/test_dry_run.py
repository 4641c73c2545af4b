"""A dry run shows every key with its origin, and its arithmetic is right."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from evolve.config import Price, flat, load_config, parse_config
from evolve.terminal.dry_run import CHARACTERS_A_TOKEN, REPLY_TOKENS, buys, costs, show
from evolve.types import Prompt

ROOT = Path(__file__).parent.parent.parent
PROMPT = Prompt(system="s" * 3000, user="u" * 4000, kind="diff")  # 2000 tokens at 3.5 characters each


def config_of(more: str, budget: str = "{usd: 10}"):  # type: ignore[no-untyped-def]
    text = f"problem: p.py\nseeds: [s.py]\nbudget: {budget}\n{more}"
    return parse_config(text, "x.yaml", check_files=False)


def shown(config, **more) -> str:  # type: ignore[no-untyped-def]
    out = io.StringIO()
    show(config, console=Console(file=out, width=40), **more)
    return out.getvalue()


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_key_is_shown_with_value_and_origin_whatever_the_width(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config(path.relative_to(ROOT), ["prompt.max_chars=5000"])
    lines = shown(config, prompt=PROMPT).splitlines()
    for key, _, origin in flat(config):
        line = next(line for line in lines if line.startswith(f"{key} "))
        assert line.endswith(origin)
    assert any(line.split() == ["prompt.max_chars", "5000", "--set"] for line in lines)
    assert PROMPT.user in lines


def test_dollars_follow_price_share_and_length() -> None:
    config = config_of(
        "council:\n  - {member: rules, weight: 3}\n"
        "  - {member: openai, model: m, max_tokens: 10000, price: {usd_per_million_in: 1, usd_per_million_out: 10}}\n"
    )
    assert len(PROMPT.system + PROMPT.user) == CHARACTERS_A_TOKEN * 2000
    members = costs(config, PROMPT, {})
    assert members["rules"].usd == 0
    assert members["m"].usd == pytest.approx((2000 * 1 + REPLY_TOKENS * 10) / 1e6)
    assert members["m"].usd_most == pytest.approx((2000 * 1 + 10000 * 10) / 1e6)
    # $0.032 a question, a question in four steps: $0.008 a step; at most $0.102 a question
    assert buys(config, members) == ["usd: $10 buys about 1250 steps, at the least 392."]


def test_a_price_table_fills_in_and_a_missing_price_is_named() -> None:
    agent = "{member: command, command: [agent], usd_per_call: 0.5}"
    config = config_of(f"council: [{{member: openai, model: gpt-5}}, {agent}, {{member: 'a.b:Own'}}]")
    members = costs(config, PROMPT, {})
    assert members["gpt-5"].usd == pytest.approx((2000 * 1.25 + REPLY_TOKENS * 10) / 1e6), "from the table that ships"
    other = config_of("council: [{member: openai, model: m}]", budget="{steps: 1}")
    assert costs(other, PROMPT, {})["m"].usd is None
    assert costs(other, PROMPT, {"m": Price(usd_per_million_in=1, usd_per_million_out=1)})["m"].usd is not None
    assert (members["agent"].tokens, members["agent"].usd_most) == (None, 0.5)
    assert "usd: Own: no price, so $10 cannot be kept" in buys(config, members)[0]
    assert "not counted" in shown(config, prompt=PROMPT)


def test_each_limit_has_its_sentence() -> None:
    config = config_of("council: [{member: openai, model: m}]", "{steps: 7, tokens: 50000, hours: 2, gpu_seconds: 60}")
    said = buys(config, costs(config, PROMPT, {}))
    assert said == [
        "steps: 7.",
        "tokens: 50000 buys about 10 steps.",
        "seconds: 7200 (2 hours) of wall clock.",
        "gpu_seconds: 60 of the GPU's lease.",
        "The first limit reached ends the run.",
    ]


def test_warnings_are_shown() -> None:
    assert 'warning: x.yaml:4: "checkpoint_interval" is OpenEvolve\'s' in shown(config_of("checkpoint_interval: 3"))


def test_what_is_spent_on_numbers_has_its_sentence() -> None:
    assert "tuner: off" in shown(config_of(""), prompt=PROMPT)
    said = shown(config_of("tuner: {enabled: auto, points: 30, gpu_seconds: 2.5}"), prompt=PROMPT)
    assert "tuner: where there is a GPU, at most 30 points a workload, 2.5 s of the GPU's lease and 60 s" in said
