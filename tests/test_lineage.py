"""Lineage: every answer from rows, and the same as a plain walk over the events would give."""

import random
import re
from itertools import combinations
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolve import lineage
from evolve.errors import JournalError, UsageError
from evolve.journal import Journal
from evolve.runs import find_run, latest_run, list_runs, named, new_run_folder
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


@pytest.fixture
def journal(tmp_path):
    now = iter(range(1000, 10_000_000, 10))
    with Journal.create(tmp_path / "run", config_text="", clock=lambda: float(next(now))) as made:
        yield made


def evaluation(ratio, *, key="k", beats=False, gpu=0.5):
    if not ratio:
        return Evaluation(verdict=Verdict.INCORRECT, feedback="The last tile is wrong.\nMore.", seconds={"gpu": gpu})
    figure = Measurement(
        workload="w", baseline="b", time_us=10.0, ratio=ratio, ratio_low=ratio * 0.999, ratio_high=ratio * 1.001
    )
    return Evaluation(
        verdict=Verdict.PASSED,
        measurements=(figure,),
        ranking_key=key,
        beats_incumbent=beats,
        seconds={"gpu": gpu, "time": 1.0},
    )


def plant(journal, step, ratio, parent=None, *, member="rules", cost=0.1, idea="", source=None, **more):
    """One whole step."""
    prompt = Prompt(system="s", user="u", kind="rule")
    if parent:
        journal.append(Asked(step=step, member=member, prompt=prompt, parent_id=parent.id))
        journal.append(
            Replied(step=step, reply=Reply(member=member, text="t", cost_usd=cost, tokens_in=10, tokens_out=2))
        )
    candidate = Candidate(
        step=step,
        source=source or f"x = {step}\n",
        member=member if parent else "seed",
        kind="rule" if parent else "seed",
        parent_id=parent and parent.id,
        generation=parent.generation + 1 if parent else 0,
        hypothesis=idea,
    )
    journal.append(Judged(step=step, candidate=candidate, evaluation=evaluation(ratio, **more)))
    return candidate


def confirm(journal, candidate, ratio, **more):
    again = evaluation(ratio, **more)
    journal.append(Confirmed(step=candidate.step, candidate_id=candidate.id, evaluation=again))


@pytest.fixture
def family(journal):
    """seed 1.0 -> a 1.2 -> b 1.5; the seed's c is INCORRECT; a's d is worse."""
    seed = plant(journal, 0, 1.0)
    a = plant(journal, 1, 1.2, seed, idea="group the programs")
    b = plant(journal, 2, 1.5, a, member="gpt", cost=0.5, idea="descriptors", beats=True)
    c = plant(journal, 3, 0, seed, idea="no mask")
    d = plant(journal, 4, 1.1, a, member="gpt", cost=0.5)
    return seed, a, b, c, d


def ids(rows):
    return [row.candidate_id for row in rows]


def test_ancestors_children_descendants(journal, family):
    seed, a, b, c, d = family
    assert ids(lineage.ancestors(journal, b.id)) == [seed.id, a.id, b.id]
    assert ids(lineage.ancestors(journal, seed.id)) == [seed.id]
    assert ids(lineage.children(journal, a.id)) == [b.id, d.id]
    assert lineage.children(journal, b.id) == []
    assert [lineage.descendants(journal, x.id) for x in (seed, a, b, c)] == [4, 2, 0, 0]
    assert lineage.ancestors(journal, "nobody") == []


def test_a_circle_of_parents_ends(journal):
    one = Candidate(step=0, source="a", member="m", kind="k", parent_id="00001-" + "0" * 8)
    journal.append(Judged(step=0, candidate=one, evaluation=evaluation(1.0)))
    two = Candidate(step=1, source="b", member="m", kind="k", parent_id=one.id, digest="0" * 16)
    journal.append(Judged(step=1, candidate=two, evaluation=evaluation(1.0)))
    assert ids(lineage.ancestors(journal, two.id)) == [one.id, two.id]
    assert lineage.descendants(journal, one.id) == 1


def test_descent_against_a_plain_walk(journal):
    rng, made = random.Random(3), {}
    for step in range(200):
        parent = rng.choice(list(made.values())) if made and rng.random() < 0.98 else None
        child = plant(journal, step, rng.choice((0, 1.0, 1.1)), parent)
        made[child.id] = child
    for child in rng.sample(list(made.values()), 20):
        line, at = [], child
        while at:
            line.append(at.id)
            at = made.get(at.parent_id)
        assert ids(lineage.ancestors(journal, child.id)) == line[::-1]
        below = sum(child.id in ids(lineage.ancestors(journal, other)) for other in made) - 1
        assert lineage.descendants(journal, child.id) == below


def test_the_best_is_the_best_confirmed(journal, family):
    seed, a, b, _, _ = family
    assert lineage.best(journal).candidate_id == b.id  # nothing is confirmed yet
    assert ids(lineage.waiting(journal)) == [b.id]
    confirm(journal, a, 1.19, beats=True)
    assert lineage.best(journal).candidate_id == a.id
    assert ids(lineage.waiting(journal)) == [b.id]
    confirm(journal, b, 1.45, beats=True)
    assert lineage.best(journal).candidate_id == b.id
    assert lineage.waiting(journal) == []
    within_noise = plant(journal, 5, 1.6, b, beats=True)
    confirm(journal, within_noise, 1.4501, beats=False)
    assert lineage.best(journal).candidate_id == b.id
    assert ids(lineage.top(journal, 3)) == [within_noise.id, b.id, a.id]
    assert ids(lineage.best_so_far(journal)) == [seed.id, a.id, b.id, within_noise.id]
    assert ids(lineage.best_so_far(journal, confirmed=True)) == [a.id, b.id]


def test_at_equal_score_the_shorter_source_wins(journal):
    seed = plant(journal, 0, 1.0, source="a long source\n")
    short = plant(journal, 1, 1.0, seed, source="short\n")
    plant(journal, 2, 1.0, seed, source="other\n")
    assert lineage.best(journal).candidate_id == short.id


def test_keys_are_never_compared(journal):
    plant(journal, 0, 3.0, key="modelled")
    real = plant(journal, 1, 1.1, key="measured")
    assert lineage.ranking_key(journal) == "measured"
    assert lineage.best(journal).candidate_id == real.id
    assert ids(lineage.top(journal, 9)) == [real.id]
    assert lineage.best(journal, "modelled").score == pytest.approx(3.0)


def test_scoreboard_counts_and_spend(journal, family):
    rules, gpt = sorted(lineage.scoreboard(journal), key=lambda m: -m.asked * (m.member == "rules"))
    assert (rules.member, rules.asked, rules.passed, rules.improved) == ("rules", 2, 1, 1)
    assert (gpt.member, gpt.asked, gpt.passed, gpt.improved) == ("gpt", 2, 2, 1)
    assert gpt.cost_per_improvement == pytest.approx(1.0)
    assert lineage.verdict_counts(journal) == {Verdict.INCORRECT: 1, Verdict.PASSED: 4}
    assert list(lineage.verdict_counts(journal)) == [Verdict.INCORRECT, Verdict.PASSED]
    journal.append(Asked(step=9, member="idle", prompt=Prompt(system="", user="", kind="fix")))
    assert lineage.unfinished(journal) == 1
    idle = next(m for m in lineage.scoreboard(journal) if m.member == "idle")
    assert (idle.asked, idle.cost_per_improvement) == (1, None)
    spent = lineage.spend(journal)
    assert (spent.steps, spent.tokens_in, spent.tokens_out) == (5, 40, 8)
    assert spent.cost_usd == pytest.approx(1.2)
    assert spent.gpu_seconds == pytest.approx(2.5)
    assert spent.judge_seconds == pytest.approx(4.0)


def test_running_time_leaves_out_the_pauses(journal):
    assert lineage.spend(journal).seconds == 0.0
    journal.append(Noted(what="started", text=""), at=100.0)
    journal.append(Noted(what="interrupted", text=""), at=160.0)
    journal.append(Noted(what="resumed", text=""), at=10_000.0)
    journal.append(Noted(what="finished", text=""), at=10_005.0)
    spent = lineage.spend(journal)
    assert (spent.seconds, spent.sessions) == (65.0, 2)


def test_experiments_are_judged_hypotheses(journal, family):
    assert [row.hypothesis for row in lineage.experiments(journal)] == ["group the programs", "descriptors", "no mask"]
    assert [row.headline for row in lineage.experiments(journal, count=1)] == ["The last tile is wrong."]


def test_an_empty_journal_answers(journal):
    assert lineage.best(journal) is None
    assert (lineage.top(journal, 5), lineage.best_so_far(journal), lineage.scoreboard(journal)) == ([], [], [])
    assert lineage.spend(journal).steps == 0
    assert (lineage.verdict_counts(journal), lineage.unfinished(journal), lineage.waiting(journal)) == ({}, 0, [])


def test_no_answer_reads_a_whole_table(journal, family, monkeypatch):
    """A million steps are asked as a hundred are: by an index, or from the tallies, which are a handful."""
    asked = []

    def spy(sql, values=(), *, ask=journal._db.execute):
        asked.append((sql, values))
        return ask(sql, values)

    class Spied:
        execute = staticmethod(spy)

    plain, journal._db = journal._db, Spied()
    b = family[2].id
    for question in (
        lambda: lineage.best(journal),
        lambda: lineage.top(journal, 3),
        lambda: lineage.waiting(journal),
        lambda: lineage.find(journal, "00002-"),
        lambda: lineage.find(journal, "best"),
        lambda: lineage.ancestors(journal, b),
        lambda: lineage.children(journal, b),
        lambda: lineage.descendants(journal, b),
        lambda: lineage.scoreboard(journal),
        lambda: lineage.spend(journal),
        lambda: lineage.verdict_counts(journal),
        lambda: lineage.state(journal),
        journal.pending,
        journal.last_step,
        lambda: journal.attempt(b),
        lambda: journal.append(Noted(what="w", text="t")),
        lambda: plant(journal, 9, 1.0, family[0]),
    ):
        question()
    journal._db = plain
    assert len(asked) > 30
    for sql, values in asked:
        if sql.lstrip().startswith(("SELECT", "WITH", "INSERT", "UPDATE")):
            for *_, detail in plain.execute(f"EXPLAIN QUERY PLAN {sql}", values):
                walks = detail.startswith("SCAN") and not re.search("tallies|up$|down$|CONSTANT|USING .*INDEX", detail)
                assert not walks, f"{detail}: {sql}"
                sorts = "TEMP B-TREE FOR ORDER BY" in detail and "LIMIT" in sql
                assert not sorts, f"{detail}: {sql}"


def test_the_running_best():
    assert lineage.running_best([0.0, 1.0, 0.5, 2.0]) == [0.0, 1.0, 1.0, 2.0]
    assert lineage.running_best([]) == []


@given(scores=st.lists(st.floats(0, 10), min_size=1, max_size=7), data=st.data())
def test_the_expected_best_is_the_mean_over_all_subsets(scores, data):
    count = data.draw(st.integers(1, len(scores)))
    assert lineage.expected_best(scores, count) == pytest.approx(fmean(map(max, combinations(scores, count))))


def test_the_expected_best_of_too_many():
    with pytest.raises(ValueError, match="best of 3 out of 2 draws"):
        lineage.expected_best([1.0, 2.0], 3)


# --- RUN and RUN:ID -------------------------------------------------------------------------------------------------


def test_what_stands_behind_the_colon(journal, family):
    seed, _, b, c, _ = family
    for selector in (b.id, b.id[:8], "2", "00002", "best"):
        assert journal.resolve(selector) == b.id
        assert lineage.find(journal, selector).candidate_id == b.id
    assert journal.resolve("0") == seed.id
    assert journal.resolve("3") == c.id


@pytest.mark.parametrize(
    ("selector", "sentence"),
    [
        ("9", "no step 9; it has steps from 0 to 4"),
        ("9" * 30, "no step 999"),
        ("0000x", 'no candidate "0000x"'),
        ("zebra", 'no candidate "zebra"; give an id, its beginning, a step from 0 to 4, or best'),
        ("\udc80", "no candidate"),
        ("", "is the beginning of 00000-.*, 00001-.*, 00002-.* and others; give more of it"),
    ],
)
def test_what_no_candidate_answers_to(journal, family, selector, sentence):
    with pytest.raises(UsageError, match=sentence):
        journal.resolve(selector)


def test_steps_without_a_candidate(journal):
    with pytest.raises(UsageError, match="no step 0; it has none yet"):
        journal.resolve("0")
    with pytest.raises(UsageError, match="nothing has PASSED yet, so there is no best"):
        journal.resolve("best")
    unreadable = Evaluation(verdict=Verdict.UNREADABLE, feedback="No block matched.")
    journal.append(Judged(step=0, evaluation=unreadable))
    journal.append(Asked(step=1, member="m", prompt=Prompt(system="", user="", kind="k")))
    with pytest.raises(UsageError, match=r"step 0 is UNREADABLE and has no candidate: No block matched\."):
        journal.resolve("0")
    with pytest.raises(UsageError, match="step 1 is not judged yet"):
        journal.resolve("1")


def test_numbering_and_finding_runs(tmp_path):
    runs = tmp_path / "runs"
    assert new_run_folder(runs, "matmul") == runs / "matmul-001"
    assert (latest_run(runs, "matmul"), list_runs(runs)) == (None, [])
    with pytest.raises(JournalError, match=r"no such run\. .*/ holds no run yet; `evolve run` makes one"):
        find_run("matmul", runs)
    for name in ("matmul-001", "matmul-009", "matmul-big-020", "mine", ".half-001"):
        Journal.create(runs / name, config_text="").close()
    (runs / "matmul-011").mkdir()
    assert new_run_folder(runs, "matmul") == runs / "matmul-012"
    assert latest_run(runs, "matmul") == runs / "matmul-009"
    assert [p.name for p in list_runs(runs)] == ["matmul-001", "matmul-009", "matmul-big-020", "mine"]
    for text in ("mine", str(runs / "mine"), str(runs / "mine" / "journal.sqlite")):
        assert find_run(text, runs) == runs / "mine"
    assert find_run("matmul", runs) == find_run("configs/matmul.yaml", runs) == runs / "matmul-009"
    with pytest.raises(JournalError, match=r'no such run\. Did you mean "matmul-001"'):
        find_run("matmul-01", runs)
    with pytest.raises(JournalError, match=r"a folder without journal\.sqlite, so not a run"):
        find_run(str(runs / "matmul-011"), runs)
    with pytest.raises(JournalError, match="holds matmul-001, matmul-009, matmul-big-020, mine"):
        find_run("xyz", runs)


def test_run_and_selector(tmp_path):
    Journal.create(tmp_path / "mine", config_text="").close()
    assert (named("mine", tmp_path).folder, named("mine", tmp_path).selector) == (tmp_path / "mine", None)
    assert named(f"{tmp_path}/mine:00042-ab", tmp_path).selector == "00042-ab"
    with pytest.raises(UsageError, match="nothing behind the colon; write mine:best, mine:42 or mine:ID"):
        named("mine:", tmp_path)
    with pytest.raises(UsageError, match="no run before the colon"):
        named(":best", tmp_path)
