"""A judge that does nothing but rule, for tests, documentation and the loop's benchmark.

It reads the verdict it shall give from a comment in the candidate, `# fake: score=1.25` or `# fake: verdict=INCORRECT`,
and otherwise derives one from the source's digest, so that the same source always gets the same. It proves nothing
about a kernel and its scores are marked modelled.
"""

from __future__ import annotations

import re
import time

from evolve.judge.verdicts import duplicate_of
from evolve.types import Evaluation, Job, Measurement, Verdict

_WISH = re.compile(r"^#\s*fake:\s*(.+)$", re.MULTILINE)
_PASSES = 6  # of 10 sources without a wish
_TRAITS = {
    "tensor_path": ("none", "mma", "mma+descriptors", "wgmma", "wgmma+descriptors"),
    "structure": ("plain", "persistent", "split", "several"),
    "footprint": ("tiny", "small", "medium", "large"),
}


class FakeBackend:
    def __init__(self, *, ranking_key: str = "fake") -> None:
        self.ranking_key = ranking_key

    def evaluate(self, job: Job) -> Evaluation:
        source = job.candidate.source
        digests = (f"ast:{job.candidate.digest}",)
        twin = duplicate_of(digests, job)
        if twin:
            return Evaluation(
                verdict=Verdict.DUPLICATE, feedback=f"same source as {twin}", stage="screen", digests=digests
            )
        wish = dict(re.findall(r"(\w+)=(\S+)", " ".join(_WISH.findall(source))))
        if "sleep" in wish:
            time.sleep(float(wish["sleep"]))
        number = int(job.candidate.digest, 16)
        verdict = Verdict(wish.get("verdict", _verdict(number) if "score" not in wish else "PASSED"))
        if verdict is not Verdict.PASSED:
            return Evaluation(
                verdict=verdict, feedback=f"the fake judge says {verdict}", stage="check", digests=digests
            )
        score = float(wish.get("score", 0.5 + (number >> 8) % 10_000 / 10_000))
        measured = Measurement(
            workload="fake",
            baseline="fake",
            time_us=100 / score,
            ratio=score,
            ratio_low=score,
            ratio_high=score,
            modelled=True,
        )
        return Evaluation(
            verdict=verdict,
            stage="time",
            measurements=(measured,),
            traits={axis: names[number % len(names)] for axis, names in _TRAITS.items()},
            digests=digests,
            ranking_key=self.ranking_key,
            beats_incumbent=job.incumbent is None or score > job.incumbent.score * 1.01,
        )

    def close(self) -> None:
        pass


def _verdict(number: int) -> str:
    failures = ("REJECTED", "BUILD_ERROR", "INCORRECT", "RUNTIME_ERROR")
    return "PASSED" if number % 10 < _PASSES else failures[number % 10 - _PASSES]
