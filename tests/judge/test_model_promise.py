"""What the model's word does before a GPU: who goes first, who is not run, and who is run all the same."""

import threading
import time
from types import SimpleNamespace

import pytest

from evolve.judge import pipeline
from evolve.judge import promise as promises
from evolve.judge.gpu.turns import MOST_PASSED, Turns
from evolve.judge.model import Prediction
from evolve.judge.promise import LET_THROUGH, SLOWER, TRAIT, Promise, evidence_of, promise_of, ruling, skipped
from evolve.judge.stages import Ready, Ruling
from evolve.types import Candidate, Evaluation, Job, Measurement, Verdict, Workload


def predicted(us=100.0, **changes):
    return Prediction(**{"time_us": us, "bound": "memory", "roofline": 0.5, "terms": {"memory": us}, **changes})


def promised(ratio, **changes):
    return Promise(modelled_us=100.0 * ratio, parent_us=100.0, predictions={"a": predicted(100.0 * ratio, **changes)})


def job(number=0, mode="judge"):
    candidate = Candidate(step=1, source=f"# {number}", member="m", kind="diff")
    return Job(candidate=candidate, mode=mode, random_seeds=(7, 8, 9))


def test_only_much_slower_ones_are_skipped_and_one_in_twenty_of_those_is_not():
    assert not any(skipped(promised(SLOWER), job(n)) for n in range(200))
    kept = sum(not skipped(promised(SLOWER * 1.01), job(n)) for n in range(2000))
    assert 0.6 * LET_THROUGH < kept / 2000 < 1.5 * LET_THROUGH
    assert [skipped(promised(9.0), job(n)) for n in range(50)] == [skipped(promised(9.0), job(n)) for n in range(50)]


def test_what_a_tuner_will_search_is_not_judged_by_what_it_came_with():
    assert not any(skipped(promised(50.0), job(n), tuned=True) for n in range(100))


def test_a_confirmation_and_what_could_not_be_counted_are_never_skipped():
    assert not any(skipped(promised(50.0), job(n, mode="confirm")) for n in range(100))
    assert not any(skipped(promised(50.0, notes=("a loop's length depends on data",)), job(n)) for n in range(100))
    unknown = Promise(modelled_us=100.0, parent_us=None, predictions={})
    assert unknown.ratio == 1.0
    assert not any(skipped(unknown, job(n)) for n in range(100))


def test_the_verdict_says_that_it_is_a_guess_and_what_to_do():
    found = ruling(promised(3.2))
    assert (found.verdict, found.stage) == (Verdict.REJECTED, "model")
    assert found.feedback.startswith("Not run: the cost model predicts 3.2 times its parent's time")
    assert "a model's guess, not a measurement" in found.feedback
    assert found.evidence["model"]["skipped"] is True
    assert evidence_of(promised(3.2), skips=False)["let_through"] is True
    assert evidence_of(promised(1.2), skips=False)["let_through"] is False


def test_it_is_compared_with_its_parent_at_the_parameters_both_came_with(monkeypatch):
    times = {"a": 400.0, "b": 100.0}
    monkeypatch.setattr(promises, "predict", lambda plan, *_: predicted(times[plan.workload]))
    workloads = [Workload(name="a", params={}, weight=1.0), Workload(name="b", params={}, weight=1.0)]
    problem = SimpleNamespace(of_role=lambda role, variant: workloads)
    figure = Measurement(workload="a", baseline="x", time_us=5.0, ratio=1, ratio_low=1, ratio_high=1)
    parent = Evaluation(verdict=Verdict.PASSED, measurements=(figure,), traits={TRAIT: 50.0})
    plans = [SimpleNamespace(workload=name) for name in ("a", "b", "hidden")]
    lowered = SimpleNamespace(plans=plans)
    ready = SimpleNamespace(gated=SimpleNamespace(lowered=lowered), built=None, job=SimpleNamespace(parent=parent))
    found = promise_of(ready, None, problem, None)
    assert found.modelled_us == pytest.approx(200.0)  # the geometric mean, of timed workloads alone
    assert found.ratio == pytest.approx(4.0)


def test_the_most_promising_goes_first_and_nobody_waits_for_ever():
    turns, order, started = Turns(), [], []

    def take(name, promise):
        started.append(name)
        with turns.turn(promise):
            order.append(name)

    with turns.turn(1.0):
        threads = []
        for name, promise in [("slow", 9.0), *((f"quick{n}", 0.5 + n / 100) for n in range(MOST_PASSED + 2))]:
            threads.append(threading.Thread(target=take, args=(name, promise)))
            threads[-1].start()
            deadline = time.monotonic() + 10
            while len(turns._waiting) < len(threads) and time.monotonic() < deadline:
                time.sleep(0.002)
    for thread in threads:
        thread.join(10)
    assert order[0] == "quick0"
    assert order.index("slow") == MOST_PASSED
    assert sorted(order) == sorted(started)


def test_a_turn_is_given_back_after_a_fault():
    turns = Turns()
    with pytest.raises(ValueError, match="broken"), turns.turn(1.0):
        raise ValueError("broken")
    with turns.turn(1.0):
        pass


def test_the_pipeline_ends_at_the_model_or_goes_on_with_its_word(monkeypatch):
    line = object.__new__(pipeline.Pipeline)
    line.modelled_on, line.problem, line.variant = SimpleNamespace(), None, None
    line.tune = pipeline.untuned
    declared = SimpleNamespace(tune={"BLOCK": (1, 2)})
    for number, ratio in enumerate((1.2, 9.0)):
        monkeypatch.setattr(pipeline, "promise_of", lambda *_, ratio=ratio: promised(ratio))
        record = pipeline.Record()
        ready = Ready(job=job(number), screened=declared, gated=None, built=None, parameters={})
        if ratio > SLOWER:
            with pytest.raises(Ruling) as caught:
                line._promised(ready, record)
            assert caught.value.verdict is Verdict.REJECTED
        else:
            again, trait = line._promised(ready, record)
            assert (again.promise, trait) == (pytest.approx(1.2), {TRAIT: 120.0})
            assert record.evidence["model"]["ratio"] == 1.2
    line.tune = lambda ready: ready
    assert line._promised(ready, pipeline.Record())[0].promise == pytest.approx(9.0), "a tuner will search it"
    line.modelled_on = None
    assert line._promised(ready, pipeline.Record()) == (ready, {})
