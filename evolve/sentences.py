"""Events as sentences, for whoever watches a run: the terminal, the dashboard's feed, a log.

Pure functions over `types`; numbers are called modelled wherever they are.
"""

from __future__ import annotations

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
    verb = "is the new best, confirmed" if event.evaluation.beats_incumbent else "was confirmed but is not better"
    return f"{event.candidate_id} {verb} at {figure(event.evaluation)}"


def first_line(text: str, longest: int = 160) -> str:
    line = next((part.strip() for part in text.splitlines() if part.strip()), "")
    return line if len(line) <= longest else line[: longest - 1] + "…"
