"""The commands: parse, wire, print. What they do stands in the modules that they call, imported when they are called,
so that `evolve --help` and `evolve show` are quick and need no torch.

Exit status: 0 fine; 1 the run or the candidate failed; 2 the caller's mistake or broken machinery; 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

import evolve
from evolve.errors import EvolveError, UsageError

app = typer.Typer(
    name="evolve",
    help="Finds faster Triton kernels by itself. A candidate is named as FILE or as RUN:ID everywhere.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
SEARCH, LOOK, JUDGE = "Search", "Look", "Judge"

Config = Annotated[Path, typer.Option("--config", "-c", help="The run's YAML.", metavar="FILE")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="Override a key: --set budget.steps=20. May be repeated.", metavar="A.B=C"),
]


@app.command(rich_help_panel=SEARCH)
def run(
    config: Config,
    earlier: Annotated[
        str | None,
        typer.Argument(
            help="With --resume: the run to go on with; that configuration's latest if not named.", metavar="[RUN]"
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Call the run runs/NAME; otherwise runs/<config>-NNN.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run where it stopped.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print every key, the first prompt and what the budget buys.")
    ] = False,
    sets: Sets = None,
) -> None:
    """Search for a faster kernel until the budget is spent."""
    from evolve import runner

    if earlier and not resume:
        raise UsageError(f"{earlier}: a run to go on with is named together with --resume.")
    if name and resume:
        raise UsageError(f"--name {name} with --resume: a resumed run keeps its name; leave one of them out.")
    order = runner.Order(config=config, overrides=tuple(sets or ()), name=name, resume=resume, earlier=earlier)
    raise typer.Exit(runner.dry_run(order) if dry_run else runner.run(order))


def main() -> None:
    """The console script."""
    try:
        app(prog_name="evolve")
    except EvolveError as error:
        print(f"evolve: {error}", file=sys.stderr)
        raise SystemExit(2) from None


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(evolve.__version__)
        raise typer.Exit


if __name__ == "__main__":
    main()
