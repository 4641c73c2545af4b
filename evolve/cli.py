"""The commands: parse, wire, print. What they do stands in the modules that they call, imported when they are called,
so that `evolve --help` and `evolve show` are quick and need no torch.

Exit status: 0 fine; 1 the run or the candidate failed; 2 the caller's mistake or broken machinery; 3 `bench` cannot
tell; 130 interrupted.
"""

from __future__ import annotations

import json
import signal
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer

import evolve
from evolve.errors import EvolveError, UsageError

app = typer.Typer(
    name="evolve",
    help="Finds faster Triton kernels by itself. A candidate is named as FILE or as RUN:ID everywhere.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
SEARCH, LOOK, JUDGE, SHIP = "Search", "Look", "Judge", "Ship"

Config = Annotated[Path, typer.Option("--config", "-c", help="The run's YAML.", metavar="FILE")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="Override a key: --set budget.steps=20. May be repeated.", metavar="A.B=C"),
]


Problem = Annotated[str | None, typer.Option("--problem", "-p", help="The problem's file.", metavar="FILE")]
Variant = Annotated[str | None, typer.Option(help="The problem's first, if not named.")]
Backend = Annotated[str, typer.Option(help="auto, gpu, cpu, fake, or package.module:Name.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command(rich_help_panel=SEARCH)
def run(
    config: Config,
    name: Annotated[str | None, typer.Option(help="Call the run runs/NAME; otherwise runs/<config>-NNN.")] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            help="Go on with a run where it stopped: this one, or that configuration's latest.", metavar="[RUN]"
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print every key, the first prompt and what the budget buys.")
    ] = False,
    sets: Sets = None,
) -> None:
    """Search for a faster kernel until the budget is spent."""
    from evolve import runner

    if name and resume is not None:
        raise UsageError(f"--name {name} with --resume: a resumed run keeps its name; leave one of them out.")
    order = runner.Order(
        config=config, overrides=tuple(sets or ()), name=name, resume=resume is not None, earlier=resume or None
    )
    raise typer.Exit(runner.dry_run(order) if dry_run else runner.run(order))


@app.command(rich_help_panel=SEARCH)
def init(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Writes evaluators/NAME.py, seeds/NAME.py, configs/NAME.yaml.")
    ],
    kernel: Annotated[
        str | None, typer.Option(help="Adopt your kernel: the function that launches it.", metavar="FILE:FUNCTION")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(help="What is right; its file also holds the sizes and inputs.", metavar="FILE:FUNCTION"),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Read a KernelBench file and start without a seed.", metavar="FILE")
    ] = None,
) -> None:
    """Begin with a problem of your own: a template, your kernel, or a PyTorch model."""
    from evolve import newproblem
    from evolve.terminal.console import Out

    order = newproblem.Order(name=name, kernel=kernel, reference=reference, model=model)
    raise typer.Exit(newproblem.make(order, Out()))


@app.command(rich_help_panel=LOOK)
def show(
    target: Annotated[
        str,
        typer.Argument(metavar="RUN[:ID]", help="A run, or a candidate: ID, step, or best. With --rules also a FILE."),
    ],
    top: Annotated[int | None, typer.Option(help="The best N candidates.", metavar="N")] = None,
    lineage: Annotated[bool, typer.Option("--lineage", help="The ancestry as a tree.")] = False,
    diff: Annotated[
        str | None, typer.Option(help="What changed against its parent, or against another.", metavar="[RUN:B]")
    ] = None,
    log: Annotated[bool, typer.Option("--log", help="Every hypothesis and its outcome.")] = False,
    spend: Annotated[bool, typer.Option("--spend", help="Money, tokens and time, by member and stage.")] = False,
    rules: Annotated[
        bool,
        typer.Option("--rules", help="What each rewrite rule would do to a candidate, or what it brought in a run."),
    ] = False,
    problem: Problem = None,
    variant: Variant = None,
    workload: Annotated[str | None, typer.Option(help="With --rules: build for this workload.", metavar="NAME")] = None,
) -> None:
    """Look at a run or at a candidate."""
    if rules:
        from evolve import judging, moves

        moves.page(judging.Order(target=target, problem=problem, variant=variant, workload=workload))
        return
    from evolve.terminal import show as view
    from evolve.terminal.console import Out

    order = view.Order(target=target, top=top, lineage=lineage, diff=diff, log=log, spend=spend)
    view.show(order, Out())


@app.command(rich_help_panel=LOOK)
def pack(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run to keep.")],
    slim: Annotated[
        bool, typer.Option("--slim", help="Leave out the evidence of all but the best and its ancestors.")
    ] = False,
    to: Annotated[
        Path | None, typer.Option(help="The folder to make. RUN-slim or RUN-packed, if not named.", metavar="DIR")
    ] = None,
) -> None:
    """Copy a run to keep or to send: every event, source and score; `show` and `dashboard` open it."""
    from evolve import packing
    from evolve.runs import find_run

    folder = find_run(run)
    made = packing.pack(folder, to or folder.with_name(f"{folder.name}-{'slim' if slim else 'packed'}"), slim=slim)
    print(made.sentence())


@app.command(rich_help_panel=LOOK)
def dashboard(
    target: Annotated[
        str | None, typer.Argument(metavar="[RUN | runs/]", help="A run, or a folder of runs; runs/ if left out.")
    ] = None,
    host: Annotated[str, typer.Option(help="Listen here; away from loopback a token is asked for.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="8420 or the next free one, if left out; 0 takes any.")] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Open no browser.")] = False,
    save: Annotated[
        Path | None, typer.Option(help="Write one HTML file that needs nothing else.", metavar="FILE")
    ] = None,
) -> None:
    """See in a browser how the best kernel came to be, live while a run writes."""
    from evolve.dashboard import serve

    serve.dashboard(serve.Order(target=target, host=host, port=port, open_browser=not no_open, save=save))


@app.command(rich_help_panel=LOOK)
def doctor(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Look at what this run needs, too.", metavar="FILE")
    ] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Calibrate: errors, A/A spread, clocks, ceilings.")] = False,
) -> None:
    """Versions, GPU, tools, keys, protections: what is there, and what to do about what is not."""
    from evolve.terminal import doctor as view
    from evolve.terminal.console import Out

    console = Out()
    status = view.show(view.examine(config), console)
    if gpu:
        from evolve import judging
        from evolve.terminal import calibration

        for number, (variant, found) in enumerate(judging.calibrations()):
            calibration.show(variant, found, console, first=number == 0)
    raise typer.Exit(status)


@app.command(rich_help_panel=JUDGE)
def judge(
    target: Annotated[str, typer.Argument(metavar="FILE|RUN:ID", help="What to judge.")],
    problem: Problem = None,
    variant: Variant = None,
    backend: Annotated[str | None, typer.Option(help="auto, gpu, cpu, fake, or package.module:Name.")] = None,
    workload: Annotated[str | None, typer.Option(help="Time this workload only.", metavar="NAME")] = None,
    random_seeds: Annotated[
        str | None, typer.Option(help="Of an earlier judgement, to run it again.", metavar="N,N,N")
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="Commit it to this run as a step, on the run's own judge.", metavar="RUN")
    ] = None,
    parent: Annotated[str | None, typer.Option(help="With --run: what it changes; the best, if not named.")] = None,
    hypothesis: Annotated[
        str | None,
        typer.Option(help="With --run: why it is faster; it may end in `Prediction: registers < 128; NAME -8 %`."),
    ] = None,
    member: Annotated[str, typer.Option(help="With --run: who proposes.")] = "you",
    as_json: AsJson = False,
) -> None:
    """Judge one candidate: alone, or with --run as an ordinary step of a run."""
    from evolve import judging
    from evolve.terminal import report

    if run is not None:
        if problem or variant or backend or workload or random_seeds:
            raise UsageError("--run brings its own problem, variant, backend, workloads and seeds; leave those out.")
        raise typer.Exit(_propose(Path(target), run, parent, hypothesis, member, as_json=as_json))
    if parent or hypothesis:
        raise UsageError("--parent and --hypothesis are for a step of a run; name it by --run RUN.")
    order = judging.Order(
        target=target,
        problem=problem,
        variant=variant,
        backend=backend,
        workload=workload,
        random_seeds=judging.seeds_in(random_seeds or ""),
    )
    made = judging.judge(order)
    report.show(made.candidate, made.evaluation, made.device, as_json=as_json)
    raise typer.Exit(0 if made.evaluation.passed else 1)


def _propose(file: Path, run: str, parent: str | None, why: str | None, member: str, *, as_json: bool) -> int:
    from evolve import byhand
    from evolve.terminal import by_hand as view

    if not file.is_file():
        raise UsageError(f"{file}: no such file; --run takes a candidate of one's own.")
    if not (why and why.strip()):
        raise UsageError("--hypothesis is missing: say what should be faster and why, so that the run learns from it.")
    wanted = byhand.Proposal(target=file, run=run, parent=parent, hypothesis=why, member=member)
    folder, turn = byhand.propose(wanted, say=view.say(quiet=as_json))
    return view.proposal(folder, turn, as_json=as_json)


@app.command(rich_help_panel=SEARCH)
def ask(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run.")],
    count: Annotated[int, typer.Option("-n", help="How many prompts.", metavar="N")] = 1,
    out: Annotated[Path | None, typer.Option("-o", help="Into this folder; the run's mailbox, if not named.")] = None,
    member: Annotated[str, typer.Option(help="Who will answer.")] = "hand",
) -> None:
    """Prompts as files, for whoever answers them: a person, an agent, a batch job. `tell` brings the replies."""
    from evolve import byhand
    from evolve.terminal import by_hand as view

    view.letters(byhand.ask(run, count=count, out=out, member=member, say=view.say()))


@app.command(rich_help_panel=SEARCH)
def tell(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run.")],
    replies: Annotated[Path, typer.Argument(metavar="DIR", help="Where 00042.reply.md and others lie.")],
) -> None:
    """Have the replies judged that were written to `ask`'s prompts."""
    from evolve import byhand
    from evolve.terminal import by_hand as view

    raise typer.Exit(view.verdicts(*byhand.tell(run, replies, say=view.say())))


@app.command(rich_help_panel=JUDGE)
def bench(
    target: Annotated[str, typer.Argument(metavar="FILE|RUN:ID|DIR", help="What to compare; DIR is a package.")],
    problem: Problem = None,
    variant: Variant = None,
    backend: Annotated[str | None, typer.Option(help="auto, gpu or cpu.")] = None,
    workload: Annotated[list[str] | None, typer.Option(help="On this workload only; may be repeated.")] = None,
    against: Annotated[
        str | None, typer.Option(help="These baselines only: cublas,cudnn,seed; otherwise all.", metavar="NAME,...")
    ] = None,
    fail_under: Annotated[
        float | None, typer.Option(help="Fail if a speed-up's whole interval lies below, on any workload.")
    ] = None,
    min_roofline: Annotated[
        float | None, typer.Option(help="Fail if a share of the roofline lies below with its whole interval.")
    ] = None,
    tune: Annotated[
        float | None, typer.Option(help="Search its parameters, and the seed's, for so long first.", metavar="SECONDS")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Of samples, at most, a workload.")] = 10.0,
    compiled: Annotated[bool, typer.Option(help="With baselines that compile first, or without.")] = True,
    picture: Annotated[Path | None, typer.Option(help="Draw it, too.", metavar="FILE.svg")] = None,
    as_json: AsJson = False,
) -> None:
    """A kernel beside the libraries, in pairs with intervals. Exit: 0 fine, 1 a limit failed, 3 inconclusive."""
    from evolve import benching
    from evolve.terminal import contest, contest_picture, report
    from evolve.terminal.console import Out

    order = benching.Order(
        target=target,
        problem=problem,
        variant=variant,
        backend=backend,
        workloads=tuple(workload or ()),
        against=tuple(word for part in (against or "").split(",") if (word := part.strip())),
        fail_under=fail_under,
        min_roofline=min_roofline,
        tune=tune,
        seconds=seconds,
        compiles=compiled,
    )
    console = Out()
    made = benching.bench(order, lambda row: None if as_json else contest.workload(row, console, "candidate"))
    if not made.evaluation.passed:
        report.show(made.candidate, made.evaluation, made.device, as_json=as_json)
    elif as_json:
        console.out(json.dumps(made.data), highlight=False)
    else:
        contest.summary(made.data, console)
    if picture is not None and made.data:
        picture.write_text(contest_picture.draw(made.data), encoding="utf-8")
    raise typer.Exit(made.status)


@app.command(rich_help_panel=JUDGE)
def tune(
    target: Annotated[str, typer.Argument(metavar="FILE|RUN:ID", help="Whose TUNE space to search.")],
    problem: Problem = None,
    variant: Variant = None,
    backend: Annotated[str | None, typer.Option(help="auto, gpu, cpu, or package.module:Name.")] = None,
    workload: Annotated[str | None, typer.Option(help="Tune for this workload only.", metavar="NAME")] = None,
    budget: Annotated[
        float, typer.Option(help="At most so long: on the GPU, without one by the clock.", metavar="SECONDS")
    ] = 30.0,
    out: Annotated[Path | None, typer.Option(help="Write here; otherwise beside it as NAME_tuned.py.")] = None,
    as_json: AsJson = False,
) -> None:
    """Search a kernel's parameters for each workload, and write them back as a file with its table."""
    from evolve import judging, tuned
    from evolve.terminal import tuned as view

    order = judging.Order(target=target, problem=problem, variant=variant, backend=backend, workload=workload)
    made = tuned.tune(order, budget=budget, out=out)
    view.show(made, as_json=as_json)
    raise typer.Exit(0 if made.evaluation.passed else 1)


@app.command(rich_help_panel=JUDGE)
def redteam(
    names: Annotated[list[str] | None, typer.Argument(metavar="[CASE]...", help="Only these cases.")] = None,
    backend: Backend = "auto",
    as_json: AsJson = False,
) -> None:
    """The judge against its own suite: every cheat refused for the right reason, no honest kernel refused."""
    from evolve import judging
    from evolve.terminal import report

    raise typer.Exit(0 if report.redteam(judging.redteam(tuple(names or ()), backend), as_json=as_json) else 1)


@app.command(rich_help_panel=JUDGE)
def check(
    problem: Annotated[str, typer.Argument(metavar="PROBLEM", help="The problem's file.")],
    variant: Annotated[str | None, typer.Option(help="Only this variant.")] = None,
    backend: Backend = "auto",
) -> None:
    """Is a problem fit for use: reference, baselines, wrong answers that must fail, and its seed."""
    from evolve import checking
    from evolve.terminal import fitness
    from evolve.terminal.console import Out

    fit = fitness.show(problem, checking.check(problem, variant=variant, backend=backend), Out())
    raise typer.Exit(0 if fit else 1)


@app.command(rich_help_panel=SHIP)
def export(
    targets: Annotated[
        list[str], typer.Argument(metavar="RUN[:ID]...", help="A run's best, or candidates of it: RUN:ID, then IDs.")
    ],
    to: Annotated[Path | None, typer.Option(help="The folder to write; ./NAME, if not said.", metavar="DIR")] = None,
    name: Annotated[str | None, typer.Option(help="What to import; fast_<entry>, if not said.")] = None,
) -> None:
    """Write an importable package: the kernel where it is verified and faster, the library everywhere else."""
    from evolve import exporting
    from evolve.terminal import exported
    from evolve.terminal.console import Out

    out = Out()
    with exported.progress(out) as say:
        report = exporting.export(exporting.Order(targets=tuple(targets), to=to, name=name), say)
    exported.show(report, out)


@app.command(rich_help_panel=SHIP)
def refresh(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A package that `evolve export` wrote.")],
) -> None:
    """Check and tune an exported package again, for this machine's GPU, torch and Triton."""
    from evolve import exporting
    from evolve.terminal import exported
    from evolve.terminal.console import Out

    out = Out()
    with exported.progress(out) as say:
        report = exporting.refresh(folder, say)
    exported.show(report, out)


# Options whose value may be left out, which the parser does not know: an empty one is given to it instead.
MAY_BE_EMPTY = ("--resume", "--diff")


def completed(arguments: list[str]) -> list[str]:
    if not arguments:
        return ["--help"]
    following = [*arguments[1:], "-"]
    return [
        f"{word}=" if word in MAY_BE_EMPTY and after.startswith("-") else word
        for word, after in zip(arguments, following, strict=True)
    ]


# The parser's own errors; it exports no name for what they have in common.
Misuse: Any = typer.BadParameter.__mro__[1]


def main() -> None:
    """The console script."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both end a run in order
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # None if it was closed from the start
            stream.reconfigure(errors="replace")  # `×` in ASCII is a question mark, and not the end of us
    try:
        status = app(completed(sys.argv[1:]), prog_name="evolve", standalone_mode=False)
    except Misuse as error:
        print(f"evolve: {error.format_message().rstrip('.')}. See `evolve --help`.", file=sys.stderr)
        status = 2
    except EvolveError as error:
        print(f"evolve: {error}", file=sys.stderr)
        status = 2
    raise SystemExit(status)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(evolve.__version__)
        raise typer.Exit


if __name__ == "__main__":
    main()
