"""README's picture: the board and the summary of a finished run, drawn from its journal.

    python benchmarks/picture.py runs/quickstart-001 > docs/quickstart.svg

What it shows is what `evolve run` showed: the same code draws it, and no figure is touched.
"""

from __future__ import annotations

import io
import re
import sys

from rich.console import Console

from evolve import wiring
from evolve.config import load_config
from evolve.council.budget import Budget
from evolve.council.standings import Standings
from evolve.council.weights import Fixed
from evolve.journal import Journal
from evolve.terminal.live import Board
from evolve.terminal.summary import summary
from evolve.types import Noted


def main(run: str) -> None:
    console = Console(record=True, width=92, height=30, file=io.StringIO(), force_terminal=True)
    with Journal.open(run) as journal:
        config = load_config(journal.folder / "config.yaml", check_files=False)
        budget: Budget = wiring.budget(config)
        standings = Standings(Fixed(), frozenset(m.name for m in config.council))
        best = journal.attempt(journal.resolve("best"))
        board = Board(name=journal.folder.name, best=lambda: best, members=lambda: standings.of, budget=budget)
        why = ""
        for logged in journal.events(evidence=False):
            budget.observe(logged.event, logged.at)
            standings.observe(logged.event)
            if not isinstance(logged.event, Noted):
                board.observe(logged.event)
            else:
                why = logged.event.text.partition(" ended: ")[2].rstrip(".")
        board.begin()
        console.print("$ make run")
        console.print(board.render(console.height))
        summary(console, journal, best, why)
    svg = console.export_svg(title=f"evolve run {journal.folder.name}")
    # Fonts are the reader's own: a picture asks nobody on the network for one.
    svg = re.sub(r"\s*(@font-face \{.*?\}|<!--.*?-->)", "", svg, flags=re.DOTALL).replace("Fira Code,", "")
    print(re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE).strip())


if __name__ == "__main__":
    main(sys.argv[1])
