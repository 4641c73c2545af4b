"""`evolve show --rules`: a run's rules counted from its journal, and a candidate's moves from real builds."""

import io

import pytest
from rich.console import Console

from evolve.journal import Journal
from evolve.judging import Order
from evolve.moves import Move, Subject, moves
from evolve.terminal import rules_page
from evolve.types import Asked, Candidate, Evaluation, Judged, Measurement, Prompt, Replied, Reply, Verdict


def console():
    return Console(file=io.StringIO(), width=160, legacy_windows=False)


def judged(step, ratio, parent=None):
    candidate = Candidate(step=step, source=f"x = {step}\n", member="rules", kind="rule", parent_id=parent)
    figure = Measurement(workload="w", baseline="b", time_us=1, ratio=ratio or 1, ratio_low=ratio or 1, ratio_high=9)
    passed = Verdict.PASSED if ratio else Verdict.INCORRECT
    evaluation = Evaluation(verdict=passed, measurements=(figure,) if ratio else (), ranking_key="k")
    return Judged(step=step, candidate=candidate, evaluation=evaluation)


def test_a_run_says_what_each_rule_brought(tmp_path):
    with Journal.create(tmp_path / "run", config_text="") as journal:
        first = judged(0, 1.0)
        journal.append_all([first])
        steps = (("descriptors", 1.5), ("descriptors", 0.0), ("persistent grid", 1.0))
        for step, (rule, ratio) in enumerate(steps, start=1):
            prompt = Prompt(system="", user="", kind="rule")
            reply = Reply(member="rules", model=rule, text="text")
            parent = first.candidate.id
            journal.append_all(
                [
                    Asked(step=step, member="rules", prompt=prompt, parent_id=parent),
                    Replied(step=step, reply=reply),
                    judged(step, ratio, parent),
                ]
            )
        found = {r.rule: r for r in rules_page.records(journal.rows())}
        out = console()
        rules_page.history(journal, out)
    best = found["descriptors"]
    assert (best.asked, best.passed, best.improved, best.best) == (2, 1, 1, 1.5)
    assert best.verdicts == {"INCORRECT": 1}
    told = out.file.getvalue().splitlines()
    assert "1.500×" in told[1]
    assert "1 INCORRECT" in told[1]
    assert "persistent grid" in told[2]


def test_an_effect_is_told_in_numbers_and_a_promise_that_was_not_kept_too():
    from evolve.moves import Kernels

    before = Kernels(facts={"registers": 64, "spills": 0, "LDGSTS": 8}, launches=1, digest="a")
    after = Kernels(facts={"registers": 58, "spills": 0, "UTMALDG": 4}, launches=2, digest="b")
    out = console()
    rules_page.moves(
        [
            Subject(kernels=before, why="", workload="w", target="sm_90"),
            Move(rule="one", applies=True, hypothesis="Try.", before=before, after=after, unmet=("HGMMA >0",)),
            Move(rule="two", applies=True, hypothesis="Try.", before=before, after=before),
            Move(rule="three", applies=True, hypothesis="Try.", before=before, why="it is refused"),
            Move(rule="four", applies=False, why="There is no loop."),
        ],
        out,
    )
    told = out.file.getvalue()
    assert "registers 64 → 58, UTMALDG 0 → 4, LDGSTS 8 → 0, launches 1 → 2; its signature is not met: HGMMA >0" in told
    assert "identical machine code" in told
    assert "does not build: it is refused" in told
    assert told.index("three") < told.index("four: There is no loop.")


@pytest.mark.slow
def test_moves_of_a_seed_are_built_without_a_gpu():
    order = Order(target="seeds/matmul.py", problem="evaluators/matmul.py", workload="1024")
    subject, *found = moves(order)
    assert subject.kernels.facts["HGMMA"] > 0
    by_rule = {m.rule: m for m in found}
    assert by_rule["tensor descriptors"].after.facts["UTMALDG"] > 0
    assert by_rule["tensor descriptors"].unmet == ()
    assert not by_rule["exp2"].applies
    assert "tl.exp" in by_rule["exp2"].why
