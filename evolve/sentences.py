"""Events as sentences, for whoever watches a run: the terminal, the dashboard's feed, a log.

Pure functions over `types`; numbers are called modelled wherever they are.
"""

from __future__ import annotations

from collections.abc import Mapping

from evolve.types import Asked, Confirmed, Evaluation, Event, Judged, Noted, Replied, Verdict


def sentence(event: Event) -> str:
    """What happened, in one line."""
    match event:
        case Asked():
            parent = f" to change {event.parent_id}" if event.parent_id else " for a first draft"
            return f"{event.step}: {event.member} is asked{parent} ({event.prompt.kind})"
        case Replied():
            reply = event.reply
            cost = f", ${reply.cost_usd:.4f}" if reply.cost_usd else ""
            return f"{event.step}: {reply.member} {'replied' if reply.text else 'gave no reply'}{cost}"
        case Judged():
            return _judged(event)
        case Confirmed():
            return _confirmed(event)
        case Noted():
            return event.text


def figure(evaluation: Evaluation) -> str:
    """A score as it must be read: with its interval, or marked as modelled."""
    if not evaluation.passed:
        return "no score"
    if evaluation.modelled:
        return f"{evaluation.score:.3f} (modelled)"
    quick = ", timed quickly" if evaluation.quick else ""
    return f"{evaluation.score:.3f} [{evaluation.score_low:.3f}, {evaluation.score_high:.3f}]{quick}"


def _judged(event: Judged) -> str:
    evaluation = event.evaluation
    name = event.candidate.id if event.candidate else f"{event.step:05d}"
    by = f" by {event.candidate.member}" if event.candidate else ""
    if evaluation.passed:
        promising = ", would be the best" if evaluation.beats_incumbent else ""
        return f"{name}{by} PASSED with {figure(evaluation)}{promising}{_idea(event)}"
    where = f" in {evaluation.stage}" if evaluation.verdict not in (Verdict.NO_REPLY, Verdict.UNREADABLE) else ""
    return f"{name}{by}: {evaluation.verdict}{where}: {first_line(evaluation.feedback)}"


def _idea(event: Judged) -> str:
    return f": {first_line(event.candidate.hypothesis)}" if event.candidate and event.candidate.hypothesis else ""


def _confirmed(event: Confirmed) -> str:
    if not event.evaluation.passed:
        return (
            f"{event.candidate_id} did not hold when confirmed: {event.evaluation.verdict}: "
            f"{first_line(event.evaluation.feedback)}"
        )
    if event.evaluation.beats_incumbent:
        return f"{event.candidate_id} is the new best, confirmed at {figure(event.evaluation)}"
    return (
        f"{event.candidate_id} was confirmed at {figure(event.evaluation)} and is not the new best: {_held_back(event)}"
    )


def _held_back(event: Confirmed) -> str:
    """A score may be the highest and its candidate behind: held-out sizes decide on promotion and are not in it."""
    timed = event.evaluation.evidence.get("time")
    promotion = timed.get("promotion") if isinstance(timed, Mapping) else None
    why = promotion.get("why") if isinstance(promotion, Mapping) else None
    if not why:
        return "not far enough ahead on all sizes, held-out ones included"
    return f"{why}, held-out sizes included" if "gain" in why else str(why)


def first_line(text: str, longest: int = 160) -> str:
    line = next((part.strip() for part in text.splitlines() if part.strip()), "")
    return line if len(line) <= longest else line[: longest - 1] + "…"
