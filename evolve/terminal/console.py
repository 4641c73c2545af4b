"""What every command prints to: rich's console, but that a reader who leaves is no error."""

from __future__ import annotations

import os
import sys

from rich.console import Console


class ReaderLeft(SystemExit):
    """Whoever read our output has closed it, as `| head` does. Uncaught it ends the process, and that is no failure."""


class Out(Console):
    def on_broken_pipe(self) -> None:
        self.quiet = True
        # What is still buffered goes nowhere, so that the interpreter does not complain of it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise ReaderLeft(0)
