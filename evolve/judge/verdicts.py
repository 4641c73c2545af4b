"""Small sentences that more than one backend says."""

from __future__ import annotations

from collections.abc import Iterable

from evolve.types import Job


def duplicate_of(digests: Iterable[str], job: Job) -> str | None:
    """The id of a judged candidate that is the same in one of these digests. A confirm is no duplicate of itself."""
    if job.mode == "confirm":
        return None
    for digest in digests:
        twin = job.known.get(digest)
        if twin and twin != job.candidate.id:
            return twin
    return None
