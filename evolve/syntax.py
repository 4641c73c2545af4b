"""`ast.parse` for a program with threads.

Up to Python 3.12 the interpreter counts the depth of all trees that are being built in one place. Where the collector
runs a finalizer in the middle of one, another thread may begin its own, and the first ends in "SystemError: AST
constructor recursion depth mismatch" though nothing is wrong with its text. So it is built again.
"""

from __future__ import annotations

import ast
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

_TRIES = 5
_alone = threading.RLock()
T = TypeVar("T")


def parse(text: str) -> ast.Module:
    """The tree, or whatever `ast.parse` raises for this text."""
    return undisturbed(lambda: ast.parse(text))


def undisturbed(work: Callable[[], T]) -> T:
    """The result of work that parses in its course, and that may be done again."""
    for _ in range(_TRIES):
        with _alone, suppress(SystemError):  # of threads that do not come through here there may be more
            return work()
    with _alone:
        return work()
