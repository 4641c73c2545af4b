"""GPUs of different kinds: each ranking has its own members and its own best, and leaders are measured again."""

from collections import Counter
from dataclasses import replace

from evolve.population import Population, Rankings
from evolve.problem import AXES
from evolve.types import Attempt, Candidate, Confirmed, Evaluation, Judged, Measurement, Verdict

HOME, OTHER = "gpu|H200", "gpu|A100"


class Run:
    """A journal of judged candidates, and the rankings that saw it."""

    def __init__(self):
        self.of = {}
        self.rankings = Rankings(self.make, HOME)

    def make(self, key):
        return Population(axes=AXES, islands=2, random_seed=3, attempt=self.of.__getitem__, ranking_key=key)

    def judged(self, step, score, key, *, beats=False, source=None, parent=None):
        candidate = Candidate(step=step, source=source or f"x = {step}\n", member="m", kind="draft", parent_id=parent)
        found = Measurement(
            workload="w", baseline="b", time_us=1.0, ratio=score, ratio_low=score, ratio_high=score, parameters={}
        )
        evaluation = Evaluation(
            verdict=Verdict.PASSED, measurements=(found,), ranking_key=key, beats_incumbent=beats, stage="time"
        )
        self.of[candidate.id] = Attempt(candidate=candidate, evaluation=evaluation)
        self.rankings.observe(Judged(step=step, candidate=candidate, evaluation=evaluation))
        return self.of[candidate.id]

    def confirmed(self, attempt, **changed):
        evaluation = replace(attempt.evaluation, **changed)
        self.rankings.observe(Confirmed(step=attempt.candidate.step, candidate_id=attempt.id, evaluation=evaluation))


def led():
    run = Run()
    seed = run.judged(0, 1.0, HOME, beats=True)
    run.confirmed(seed)
    return run, seed


def test_alone_a_run_is_its_own_population_and_nothing_more():
    run, seed = led()
    assert run.rankings.best == seed
    assert run.rankings.ask(5) == run.rankings.home.ask(5)
    assert run.rankings.ask(5).ranking_key == ""
    run.rankings.present = {HOME: 8}
    assert run.rankings.migrants() == []
    assert {run.rankings.ask(step).ranking_key for step in range(50)} == {""}


def test_another_kind_is_founded_by_what_leads_and_then_gets_its_share_of_the_steps():
    run, seed = led()
    run.rankings.present = {HOME: 3, OTHER: 1}
    assert run.rankings.migrants() == [(OTHER, seed)]
    assert run.rankings.migrants() == [], "once"
    assert {run.rankings.ask(step).ranking_key for step in range(50)} == {""}, "nobody stands there yet"
    there = run.judged(1, 0.7, OTHER, beats=True, source=seed.candidate.source)
    run.confirmed(there)
    turns = Counter(run.rankings.ask(step).ranking_key for step in range(2, 402))
    assert 70 < turns[OTHER] < 130
    for step in range(2, 60):
        draw = run.rankings.ask(step)
        assert draw.parent.evaluation.ranking_key == (draw.ranking_key or HOME)
    islands = {d.island for d in map(run.rankings.ask, range(2, 60)) if d.ranking_key == OTHER}
    assert islands == {0, 1}, "whose turn it is must not be tied to the island"


def test_each_has_its_own_best_and_neither_is_the_others():
    run, seed = led()
    there = run.judged(1, 9.0, OTHER, beats=True)
    run.confirmed(there)
    assert run.rankings.best == seed
    assert run.rankings.bests == {HOME: seed, OTHER: there}
    assert not run.rankings.contends(
        replace(there.evaluation, ranking_key=HOME, measurements=seed.evaluation.measurements)
    )
    run.rankings.present = {HOME: 1, OTHER: 1}
    assert (HOME, there) in run.rankings.migrants(), "it may be the best there as well"


def test_a_confirmation_that_fails_counts_where_the_candidate_stands():
    run, seed = led()
    there = run.judged(1, 9.0, OTHER, beats=True)
    run.rankings.observe(
        Confirmed(
            step=1,
            candidate_id=there.id,
            evaluation=Evaluation(verdict=Verdict.INCORRECT, feedback="wrong", stage="check"),
        )
    )
    assert run.rankings.bests == {HOME: seed}
    assert len(run.rankings.of(OTHER)) == 0
    assert len(run.rankings.home) == 1
