"""How a candidate's mistakes are said inside the jail. The verdict's name leaves with the sentence; the judge accepts
only REJECTED, BUILD_ERROR and RUNTIME_ERROR from here, and all of them mean that the candidate is out."""

from __future__ import annotations


class Fault(Exception):
    verdict = "RUNTIME_ERROR"


class Refused(Fault):
    """The host function did what it may not."""

    verdict = "REJECTED"


class BuildFault(Fault):
    """Triton refuses the source."""

    verdict = "BUILD_ERROR"
