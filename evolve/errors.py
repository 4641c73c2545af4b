"""The exception tree. A message is a sentence: what was given, what was expected, what to do.

    EvolveError
    ├── UsageError            the caller's mistake: exit 2, one sentence, nothing written
    │   ├── ConfigError       a key, a value or a file of the configuration
    │   ├── ProblemError      an evaluator file that does not load or is not fit for use
    │   │   └── NoBaseline    nothing on this GPU does what the problem asks: there is nothing to be compared with
    │   ├── AdoptError        a kernel or model of the user's that cannot be taken in, and why
    │   ├── SeedError         a seed that fails its own judgement
    │   └── JournalError      a run folder that exists, is busy, is newer than us, or is not one
    ├── MachineryError        evolve or its surroundings broke: the step stays pending, exit 2
    │   └── DiskFull          nothing more can be committed
    └── MemberUnavailable     a member cannot be asked now; the council asks another

What a candidate does wrong is never an exception here: it is a verdict.
"""

from __future__ import annotations


class EvolveError(Exception):
    """Everything that evolve raises on purpose."""


class UsageError(EvolveError):
    pass


class ConfigError(UsageError):
    pass


class ProblemError(UsageError):
    pass


class NoBaseline(ProblemError):
    pass


class AdoptError(UsageError):
    pass


class SeedError(UsageError):
    pass


class JournalError(UsageError):
    pass


class MachineryError(EvolveError):
    pass


class DiskFull(MachineryError):
    pass


class MemberUnavailable(EvolveError):
    def __init__(self, why: str = "", *, again_in: float | None = None) -> None:
        super().__init__(why)
        self.again_in = again_in  # seconds after which it comes back by itself; None: it needs a person
