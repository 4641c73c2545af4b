"""A packed run is the run: the same events at the same times, less only what slimness leaves out, and no secret."""

import errno
import json
from contextlib import closing
from dataclasses import replace

import pytest

from evolve import lineage
from evolve.errors import DiskFull, UsageError
from evolve.journal import Journal
from evolve.packing import KEPT, pack
from evolve.types import (
    Asked,
    Candidate,
    Confirmed,
    Evaluation,
    Judged,
    Measurement,
    Noted,
    Prompt,
    Replied,
    Reply,
    Verdict,
)

EVIDENCE = {"replay": {"command": "evolve judge FILE"}, "time": {"blocks": list(range(30_000))}, "ruling": "r"}


def passed(ratio, **more):
    figure = Measurement(workload="w", baseline="b", time_us=1.0, ratio=ratio, ratio_low=ratio, ratio_high=ratio)
    return Evaluation(verdict=Verdict.PASSED, measurements=(figure,), ranking_key="k", evidence=EVIDENCE, **more)


def candidate(step, parent=None):
    return Candidate(step=step, source=f"# {step}\n", member="rules", kind="rule", parent_id=parent and parent.id)


@pytest.fixture
def run(tmp_path):
    """seed ← good ← best, and beside them a failure and a passed side branch."""
    now = iter(range(100, 10_000))
    folder = tmp_path / "runs" / "one"
    environment = {"secret": "0123secret", "calibration": {"gpu": "H200"}}
    made = Journal.create(
        folder, config_text="a: 1\n", environment=environment, meta={"problem": "p"}, clock=lambda: float(next(now))
    )
    with closing(made) as journal:
        seed = candidate(0)
        good, best, side, wrong = candidate(1, seed), candidate(2, seed), candidate(3, seed), candidate(4, seed)
        best = candidate(2, good)
        journal.append(Noted(what="started", text="it began"))
        journal.append(Judged(step=0, candidate=seed, evaluation=passed(1.0)))
        for made_, ratio in ((good, 1.2), (best, 1.5), (side, 1.1)):
            prompt = Prompt(system="s", user=f"u{made_.step}", kind="rule")
            journal.append(Asked(step=made_.step, member="rules", prompt=prompt, parent_id=made_.parent_id))
            journal.append(Replied(step=made_.step, reply=Reply(member="rules", text="t", cost_usd=0.5)))
            journal.append(Judged(step=made_.step, candidate=made_, evaluation=passed(ratio, beats_incumbent=True)))
            journal.append(Confirmed(step=made_.step, candidate_id=made_.id, evaluation=passed(ratio)))
        failure = Evaluation(verdict=Verdict.INCORRECT, feedback="The tail is wrong.", evidence=EVIDENCE)
        journal.append(Judged(step=4, candidate=wrong, evaluation=failure))
        journal.write_best(best.source)
    return folder


def events(folder):
    with closing(Journal.open(folder)) as journal:
        return list(journal.events())


def test_a_whole_copy_is_the_same_run(run, tmp_path):
    made = pack(run, tmp_path / "copy", slim=False)
    assert events(made.folder) == events(run)
    assert (made.folder / "best.py").read_text() == "# 2\n"
    assert made.steps == made.whole == 5


def test_a_slim_copy_keeps_everything_but_the_evidence_of_side_branches(run, tmp_path):
    made = pack(run, tmp_path / "slim", slim=True)
    full = {0, 1, 2}  # the best's ancestors
    for before, after in zip(events(run), events(made.folder), strict=True):
        if isinstance(before.event, Judged | Confirmed) and before.event.step not in full:
            kept = after.event.evaluation.evidence
            assert set(kept) <= set(KEPT)
            assert kept["replay"] == EVIDENCE["replay"]
            evaluation = replace(after.event.evaluation, evidence=EVIDENCE)
            after = replace(after, event=replace(after.event, evaluation=evaluation))
        assert after == before
    assert made.bytes_after < made.bytes_before


def test_lineage_and_scores_read_the_same(run, tmp_path):
    made = pack(run, tmp_path / "slim", slim=True)
    with closing(Journal.open(run)) as a, closing(Journal.open(made.folder)) as b:
        best = lineage.best(a)
        assert lineage.best(b) == best
        assert lineage.ancestors(b, best.candidate_id) == lineage.ancestors(a, best.candidate_id)
        assert lineage.scoreboard(b) == lineage.scoreboard(a)
        assert (b.meta, b.config_text) == (a.meta, a.config_text)


def test_the_secret_stays_at_home(run, tmp_path):
    made = pack(run, tmp_path / "slim", slim=True)
    assert not any(b"0123secret" in file.read_bytes() for file in made.folder.iterdir())
    environment = json.loads((made.folder / "environment.json").read_text())
    assert environment["secret"]
    assert environment["calibration"] == {"gpu": "H200"}


def test_a_place_that_is_taken_is_refused_and_left_alone(run, tmp_path):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        pack(run, taken, slim=True)
    assert (taken / "mine").read_text() == "mine"
    with pytest.raises(UsageError, match="the run itself"):
        pack(run, run, slim=True)


def test_a_copy_that_breaks_off_leaves_nothing(run, tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("evolve.packing.shutil.copyfile", broken)
    with pytest.raises(DiskFull):
        pack(run, tmp_path / "slim", slim=True)
    assert not (tmp_path / "slim").exists()


def test_packing_a_run_that_is_being_written_says_so(run, tmp_path):
    with closing(Journal.open(run, write=True)):
        made = pack(run, tmp_path / "slim", slim=True)
    assert "still being written" in made.sentence()
