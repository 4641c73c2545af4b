"""A part of a benchmark where GPU time is short: what goes wrong in it is its finding, and costs the others nothing."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any


def attempted(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What it gives, or where it ended."""
    try:
        return work()
    except Exception:  # libraries, drivers and compilers may raise anything
        return {"failed": traceback.format_exc()[-4000:]}
