"""`evolve init`: writes a problem, a seed and a configuration, judges the seed, and says what to do next.

What is written is `adopt/`'s affair; here is the order of things, and that a mistake leaves nothing behind.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from evolve import judging
from evolve.adopt import model, plain
from evolve.adopt.evaluator import Draft
from evolve.adopt.observe import Named, observe
from evolve.adopt.place import Place, config_text, free
from evolve.adopt.rewrite.reading import File
from evolve.adopt.rewrite.seed import seed_of
from evolve.errors import UsageError
from evolve.judge.backends import gpu_present
from evolve.judge.fitness import unfit
from evolve.problem import load_problem
from evolve.terminal import adopted
from evolve.types import Evaluation, Verdict

MAILBOX = "the mailbox (or a model, if you put {member: openai, model: ...} there)"
SLOWER = 1.02  # a seed beyond this is reported


@dataclass(frozen=True, kw_only=True)
class Order:
    name: str
    kernel: str | None = None
    reference: str | None = None
    model: Path | None = None


def make(order: Order, console: Console) -> int:
    """0 if what was written is fit for use."""
    if order.model and (order.kernel or order.reference):
        raise UsageError("--model with --kernel or --reference: a model is its own reference; leave the others out.")
    if bool(order.kernel) != bool(order.reference):
        raise UsageError(
            "--kernel and --reference go together: --kernel my.py:fn --reference ref.py:fn; the reference says what is "
            "right, and its file holds WORKLOADS and make_inputs(workload, device, random_seed), or get_inputs()."
        )
    place = free(order.name, seed=order.model is None)
    if order.kernel and order.reference:
        return _adopt(place, Named.of(order.kernel, "--kernel"), Named.of(order.reference, "--reference"), console)
    if order.model:
        return _read(place, order.model, console)
    place.write(plain.texts(place))
    adopted.written([place.problem, place.seed, place.config], console)
    adopted.say("They compute an RMS norm and run as they are; every field says what to put there instead.", console)
    adopted.following(place.problem, place.config, console)
    return 0


def _read(place: Place, path: Path, console: Console) -> int:
    """A model: no seed, so the council drafts the first kernel."""
    with console.status("Running the model"):
        observed = model.observe(path)
    config = config_text(
        place,
        about=f"{path.name}: begins without a kernel. Whoever answers {MAILBOX} drafts the first one.",
        variant="fp32",
        seed=False,
        council="[{member: mailbox, weight: 3}, rules]",
    )
    place.write({place.problem: model.text(place, path, observed), place.config: config})
    adopted.found(
        [(r["name"], r["role"], "weight" if r["weight"] else "input") for r in observed["arguments"]], console
    )
    notes = [f"inputs of kind {name} are left out: {why}" for name, why in observed["left_out"].items()]
    if not observed["interpreted"]:
        notes.append("no size of it is small enough for the interpreter: it can be judged on a GPU only")
    adopted.notes(notes, console)
    adopted.written([place.problem, place.config], console)
    why = unfit(load_problem(place.problem), load_problem(place.problem).variant("fp32"))
    if why and observed["interpreted"]:
        adopted.say(f"\nNot fit for use yet: {why}", console, "bold red")
        return 1
    adopted.following(place.problem, place.config, console)
    return 0


# --- A kernel as it is ------------------------------------------------------------------------------------------------


def _adopt(place: Place, kernel: Named, reference: Named, console: Console) -> int:
    gpu = gpu_present()
    file = File(kernel.path, kernel.path.read_text(encoding="utf-8"))
    with console.status("Running the original beside the reference"):
        observed = observe(kernel, reference, gpu=gpu)
    about = f"{place.name}: {kernel.function} of {kernel.path.name}, adopted by evolve init."
    seed = seed_of(file, kernel.function, observed, about=about)
    draft = Draft(place=place, kernel=kernel, reference=reference, observed=observed, seed=seed, gpu=gpu)
    config = config_text(place, about=f"{kernel}, adopted.", variant=draft.variants[0])
    place.write({place.problem: draft.text(), place.seed: seed.source, place.config: config})
    adopted.diff(file.text, seed.source, str(kernel.path), str(place.seed), console)
    adopted.found(draft.findings(), console)
    adopted.notes([*seed.notes, *observed["notes"]], console)
    adopted.written([place.problem, place.seed, place.config], console)
    evaluation = _judged(place, draft, console)
    adopted.verdict(evaluation, console)
    adopted.slower(_slower(evaluation), console)
    adopted.following(place.problem, place.config, console)
    return 0 if evaluation.passed else 1


def _judged(place: Place, draft: Draft, console: Console) -> Evaluation:
    """Like any candidate. Where the original turns out not to read all of its inputs, less is counted as moved."""
    order = judging.Order(
        target=str(place.seed), problem=str(place.problem), variant=draft.variants[0], tuned=draft.gpu
    )
    with console.status("Judging the seed"):
        evaluation = judging.judge(order).evaluation
        if evaluation.verdict is Verdict.IMPOSSIBLE and not draft.lean:
            place.problem.write_text(replace(draft, lean=True).text(), encoding="utf-8")
            evaluation = judging.judge(order).evaluation
    return evaluation


def _slower(evaluation: Evaluation) -> list[str]:
    """Workloads on which the whole interval says that the seed takes longer than the original does."""
    return [
        f"{m.workload}: the seed takes {1 / m.ratio:.1%} of the original's time "
        f"[{1 / m.ratio_high:.1%}, {1 / m.ratio_low:.1%}]"
        for m in evaluation.measurements
        if m.baseline == "original" and not m.modelled and 1 / m.ratio > SLOWER and 1 / m.ratio_high > 1
    ]
