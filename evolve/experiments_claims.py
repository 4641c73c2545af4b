"""What a hypothesis predicts, read into claims.

    registers 168 -> 120; LDGSTS = 0; time of square -8 %

A claim names a quantity (a trait of the built kernel, an instruction's count, a counter of the profiler, a time) and
what becomes of it. Models write prose, so the reading is lenient; what has neither a figure nor a direction predicts
nothing. Whether a claim held is not asked here (`experiments_held.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

LONGEST = 2000  # characters of a prediction that are read
MOST = 8  # claims


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """`relation` is one of < <= = >= > (than `value`), "falls", "rises" (by `value`, if given) and "stays"."""

    text: str
    quantity: str  # a trait, "time", "score", or "" for what is not known here
    workload: str = ""  # of a time
    relation: str
    value: float | None = None
    word: str = ""  # of a trait that is no number
    percent: bool = False
    before: float | None = None  # what the parent was said to have


# What people call it -> the trait. Counts of instructions are found by their mnemonic in capitals.
_TRAITS = {
    "registers": r"reg(?:ister)?s?(?: a thread| per thread|/thread)?",
    "spills_bytes": r"spill(?:s|ed|ing)?(?:_bytes| bytes)?",
    "shared_bytes": r"(?:shared[ _](?:memory|bytes|mem)|smem)(?: a block| per block)?",
    "blocks_per_sm": r"(?:blocks|ctas)[ _]?(?:an|per|a|/)[ _]?sm",
    "occupancy": r"occupancy",
    "waves": r"waves?",
    "programs": r"programs?|ctas",
    "launches": r"launch(?:es)?",
    "num_stages": r"(?:num_)?stages",
    "synchronous_loads_in_loop": r"LDG@loop|synchronous[ _]loads(?:[ _]in[ _](?:the[ _])?loop)?",
    "n_total": r"instructions?(?: count)?|n_total",
    "sm_percent": r"sm[ _](?:throughput|percent|utili[sz]ation)",
    "dram_percent": r"(?:dram|hbm|memory)[ _](?:throughput|percent|utili[sz]ation|bandwidth)",
    "l2_hit_percent": r"l2[ _]hit(?:[ _](?:rate|percent))?",
    "occupancy_percent": r"(?:achieved occupancy|occupancy_percent|active warps)",
    "tensor_percent": r"tensor[ _](?:pipe|core|percent)[ _]?(?:utili[sz]ation|percent)?",
    "tensor_path": r"tensor[ _]path",
    "structure": r"structure",
    "footprint": r"footprint",
}
_QUANTITIES = [(name, re.compile(rf"(?<![\w@])(?:{words})(?![\w@])", re.IGNORECASE)) for name, words in _TRAITS.items()]
_MNEMONIC = re.compile(r"(?<![\w@])(?:n_)?([A-Z][A-Z0-9]{2,}(?:\.\w+)?(?:@loop)?)(?![\w@])")
_NO_MNEMONIC = {
    "GPU",
    "SMS",
    "TMA",
    "TUNE",
    "BLOCK",
    "GROUP",
    "WGMMA",
    "MMA",
    "DRAM",
    "HBM",
    "SMEM",
    "CTA",
    "CTAS",
    "SPILLS",
}
_CONSTEXPR = re.compile(r"[A-Z]+_[A-Z_]+")
_SCORE = re.compile(r"\b(?:score|speed-?up|throughput|tflops?|tflop/s)\b", re.IGNORECASE)
_TIME = re.compile(r"\b(?:times?|duration|latency|runtime|faster|slower|quicker)\b|\d ?(?:us|µs|ms)\b", re.IGNORECASE)

_N = r"([+\-−–]?\d[\d,]*(?:\.\d+)?)"
_UNIT = r"\s*(%|percent|us|µs|ms|kib|kb|b\b|bytes|[x×](?!\w))?"
_ARROW = re.compile(rf"{_N}{_UNIT}\s*(?:->|→|=>|to)\s*(?:about |around |~|≈)?{_N}{_UNIT}", re.IGNORECASE)
_RELATION = re.compile(rf"(<=|>=|==|≤|≥|=|<|>)\s*{_N}{_UNIT}", re.IGNORECASE)
_IS_WORD = re.compile(r"(?:==?|is|becomes|→|->)\s*[\"'`]?([a-z][\w+]*)", re.IGNORECASE)
_SIGNED = re.compile(rf"(?<![\w.])([+\-−–])\s?(\d[\d,]*(?:\.\d+)?){_UNIT}", re.IGNORECASE)
_BOUNDED = re.compile(
    rf"\b(?:below|under|less than|fewer than|at most|above|over|more than|at least)\s+{_N}{_UNIT}", re.I
)
_REACHED = re.compile(rf"\b(?:to|at|is|are|becomes?|stays? at)\s+(?:about |around |~|≈)?{_N}{_UNIT}", re.IGNORECASE)
_AMOUNT = re.compile(rf"{_N}{_UNIT}", re.IGNORECASE)
_GONE = re.compile(r"\b(?:no|zero|none|vanish\w*|disappear\w*|gone|eliminated|without)\b", re.IGNORECASE)
_COMES = re.compile(r"\b(?:appears?|present|shows? up)\b", re.IGNORECASE)
_FALLS = re.compile(
    r"\b(?:falls?|drops?|shrinks?|decreas\w+|fewer|less|lower\w*|down|reduc\w+|faster|quicker|shorter|sav\w+|cuts?)\b",
    re.IGNORECASE,
)
_RISES = re.compile(r"\b(?:rises?|grows?|increas\w+|more|higher|up|raises?|slower|longer|doubles?)\b", re.IGNORECASE)
_STAYS = re.compile(r"\b(?:unchanged|same|stays?|constant|equal)\b", re.IGNORECASE)

_UNITS = {"kib": 1024.0, "kb": 1024.0, "ms": 1000.0}


def claims(prediction: str, workloads: Sequence[str] = ()) -> list[Claim]:
    """What is predicted. A clause with a figure but of a quantity that nobody reads is a claim with none."""
    found = []
    for clause in re.split(r";|\n|,\s+|\band\b|\.\s+|\.$", prediction[:LONGEST]):
        text = " ".join(clause.split()).strip(" -*`.")
        if text and (claim := _claim(text, workloads)):
            found.append(claim)
    return found[:MOST]


def _claim(text: str, workloads: Sequence[str]) -> Claim | None:
    plain = text.replace("`", "").replace("**", "")
    quantity, workload, rest = _quantity(plain, workloads)
    if quantity in ("tensor_path", "structure", "footprint"):
        word = _IS_WORD.search(rest)
        return Claim(text=text, quantity=quantity, relation="=", word=word[1].lower()) if word else None
    said = _relation(rest, quantity)
    if not said.relation or (not quantity and (said.value is None or said.relation == "=")):  # "with BLOCK_M=64"
        return None
    return Claim(text=text, quantity=quantity, workload=workload, **said._asdict())


def _quantity(text: str, workloads: Sequence[str]) -> tuple[str, str, str]:
    """What it is about, for which workload, and the clause without these names: their digits are no figures."""
    for name, pattern in _QUANTITIES:
        if found := pattern.search(text):
            return name, "", text[: found.start()] + " " + text[found.end() :]
    for found in _MNEMONIC.finditer(text):
        if found[1] not in _NO_MNEMONIC and not _CONSTEXPR.match(text, found.start()):
            name = "synchronous_loads_in_loop" if found[1] == "LDG@loop" else f"n_{found[1]}"
            return name, "", text[: found.start()] + " " + text[found.end() :]
    workload, rest = _workload(text, workloads)
    if _SCORE.search(text):
        return "score", workload, _SCORE.sub(" ", rest)
    if _TIME.search(text) or workload:
        return "time", workload, rest
    return "", "", text


def _workload(text: str, workloads: Sequence[str]) -> tuple[str, str]:
    """The longest name that stands there; one that is a number only where it is called one."""
    for name in sorted(workloads, key=lambda w: (-len(w), w)):
        before = r"\b(?:of|on|for|workload)\s+\"?" if name.isdigit() else r"(?<!\w)\"?"
        if found := re.search(rf"{before}{re.escape(name)}\"?(?!\w)(?!\s*%)", text, re.IGNORECASE):
            return name, text[: found.start()] + " " + text[found.end() :]
    return "", text


class _Said(NamedTuple):
    """What becomes of the quantity; without a relation nothing is said of it."""

    relation: str = ""
    value: float | None = None
    percent: bool = False
    before: float | None = None


def _relation(text: str, quantity: str) -> _Said:
    if arrow := _ARROW.search(text):
        before, now = _number(arrow[1], arrow[2]), _number(arrow[3], arrow[4])
        relation = "falls" if now < before else "rises" if now > before else "stays"
        if quantity in ("time", "score") and before > 0:  # times of two judgements compare as ratios only
            return _Said(relation, 100 * abs(now / before - 1) or None, percent=True, before=before)
        return _Said(relation, abs(now - before) or None, before=before)
    if compared := _RELATION.search(text):
        sign = {"==": "=", "≤": "<=", "≥": ">="}.get(compared[1], compared[1])
        return _Said(sign, _number(compared[2], compared[3]), _is_percent(compared[3]))
    if signed := _SIGNED.search(text):
        faster = quantity == "time" and re.search(r"\b(?:faster|quicker)\b", text, re.IGNORECASE)
        rises = signed[1] == "+" and not faster
        return _Said("rises" if rises else "falls", _number(signed[2], signed[3]), _is_percent(signed[3]))
    return _in_words(text, quantity)


def _in_words(text: str, quantity: str) -> _Said:
    amount = _AMOUNT.search(text)
    value, percent = (abs(_number(amount[1], amount[2])), _is_percent(amount[2])) if amount else (None, False)
    if amount and (amount[2] or "").lower() in ("x", "×") and quantity in ("time", "score") and value:
        value, percent = 100 * (1 - 1 / value if quantity == "time" else value - 1), True
    falls, rises = _FALLS.search(text), _RISES.search(text)
    if _STAYS.search(text) and value is None:
        return _Said("stays")
    if bounded := _BOUNDED.search(text):
        return _Said(_bound(bounded[0].lower()), _number(bounded[1], bounded[2]), _is_percent(bounded[2]))
    if (reached := _REACHED.search(text)) and not percent:
        return _Said("<=" if falls else ">=" if rises else "=", _number(reached[1], reached[2]))
    if _GONE.search(text) and value in (None, 0.0):
        return _Said("=", 0.0)
    if falls or rises:
        return _Said("falls" if falls else "rises", value, percent)
    if _COMES.search(text):
        return _Said(">", 0.0)
    bare = value is not None and not percent and quantity not in ("", "time", "score")
    return _Said("=", value) if bare else _Said()  # "spills 0"


def _bound(words: str) -> str:
    if words.startswith(("below", "under", "less", "fewer")):
        return "<"
    return "<=" if words.startswith("at most") else ">=" if words.startswith("at least") else ">"


def _number(digits: str, unit: str | None) -> float:
    plain = digits.replace(",", "").replace("−", "-").replace("–", "-")
    return float(plain) * _UNITS.get((unit or "").lower(), 1.0)


def _is_percent(unit: str | None) -> bool:
    return (unit or "").lower() in ("%", "percent")
