"""Where a candidate's search begins: what is known of its kernels and sizes, and the first points to ask.

    the parent's best for this workload, and the same with each switch off that the parent did not have
    the candidate as it came; what an adopted autotuner tried; hopper's priors for this kind and these sizes

A child is *familiar* where it has no parameter that its parent lacked and, at its parent's own parameters, the same
form (`form`): what suits its sizes is known then, and it is searched beside that and no further. All others get the
whole of their points. Nothing is built or timed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evolve.judge.form import chained, form_of, sees, texts_of
from evolve.judge.meta import without_data
from evolve.judge.points import Shot
from evolve.judge.stages import Ready, Target
from evolve.problem import Problem
from evolve.tuner import Point, Tuner
from evolve.tuner_known import Limits, Setting, pairs, plain
from evolve.tuner_priors import priors
from evolve.tuner_search import Kin
from evolve.types import Scalar, Workload, digest_of

FORM = "form"  # the trait of a judged candidate that its children are compared with


def setting_of(problem: Problem, workload: Workload, ready: Ready, target: Target) -> Setting:
    made = without_data(problem, workload)
    widths = [value.element_size() for value in made if hasattr(value, "element_size") and value.ndim > 1]
    plan = next((p for p in ready.gated.lowered.plans if p.workload == workload.name), None)
    texts = texts_of(plan, ready.gated.lowered.modules) if plan else []
    narrow = min(widths, default=1)
    return Setting(
        sizes=workload.params,
        chained=chained(texts),
        specialized=any(sees(text, "specialized warps") for text in texts),
        wgmma=target.name == "sm_90" and narrow <= 2 and any("tt.dot" in text for text in texts),
        shared_bytes=target.shared_bytes,
        element_bytes=narrow,
        sms=target.sms,
    )


def limits_of(ready: Ready, setting: Setting, points: int) -> Limits:
    size = 1
    for values in ready.screened.tune.values():
        size *= max(1, len(values))
    return Limits(setting=setting, doubts=size > points)


def tuner_of(problem: Problem, workload: Workload, ready: Ready, limits: Limits, points: int) -> Tuner:
    """All workloads draw from one seed, so that what is random is the same points and is built once."""
    space = ready.screened.tune
    known = [] if inherits(ready) else priors(space, limits.setting)
    known = [{**ready.parameters[workload.name], **point} for point in known]
    return Tuner(
        space,
        start=[*believed(ready, workload.name), *known, *tried_elsewhere(problem, ready, workload.name)],
        random_seed=int(digest_of(ready.job.candidate.digest), 16) % 2**31,
        points=points,
        feasible=limits,
        pairs=pairs(space),
        plain=new_switches(ready),
        favour=("num_stages",),
    )


def believed(ready: Ready, workload: str) -> list[Point]:
    """What the parent had, with its children's new switches on and off, and what the candidate came with."""
    defaults, table = ready.parameters[workload], parents(ready)
    if workload not in table:
        return [defaults]
    best = {**defaults, **{n: v for n, v in table[workload].items() if n in defaults}}
    return [best, *({**best, name: value} for name, value in new_switches(ready).items()), defaults]


def new_switches(ready: Ready) -> dict[str, Scalar]:
    """At their values for off. About those that the parent had, its own search has decided."""
    had = {name for row in parents(ready).values() for name in row}
    return {name: value for name, value in plain(ready.screened.tune).items() if name not in had}


def tried_elsewhere(problem: Problem, ready: Ready, workload: str) -> list[Point]:
    """What suits the parent's other sizes; without a parent, what came with an adopted kernel."""
    defaults, table = ready.parameters[workload], parents(ready)
    rows = [row for name, row in table.items() if name != workload]
    given = [] if table else [p for p in problem.starts if p.keys() <= defaults.keys()]
    return [{**defaults, **point} for point in [*rows, *given]]


def parents(ready: Ready) -> Mapping[str, Mapping[str, Scalar]]:
    return ready.job.parent.parameters if ready.job.parent else {}


def kin(ready: Ready) -> Kin:
    """Before anything is built, by the names alone."""
    return "familiar" if inherits(ready) else "strange" if parents(ready) else "none"


def inherits(ready: Ready) -> bool:
    """Whether the parent was timed at parameters of all the names that are searched here."""
    table = parents(ready)
    return bool(table) and all(set(ready.screened.tune) <= row.keys() for row in table.values())


def familiar(ready: Ready, shots: Sequence[Shot]) -> bool:
    """By the shots of the parent's own parameters, of which one workload's form is on record; where none is, by the
    names alone."""
    before = ready.job.parent.traits.get(FORM) if ready.job.parent else None
    if not inherits(ready):
        return False
    found = [form_of(shot.plan, shot.built) for shot in shots]
    return not before or not found or any(form in ("", before) for form in found)
