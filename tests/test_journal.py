"""The journal keeps what it acknowledged, exactly, whatever happens to its process or its disk."""

import itertools
import json
import math
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.errors import DiskFull, JournalError, MachineryError
from evolve.journal import Journal, Logged
from evolve.journal_codec import decode, encode
from evolve.runs import Lock, writer_of
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

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def clock():
    """Ten seconds an event, so that times are what a test says."""
    now = iter(range(1000, 10_000_000, 10))
    return lambda: float(next(now))


@pytest.fixture
def journal(tmp_path, clock):
    with Journal.create(tmp_path / "run", config_text="a: 1\n", environment={"gpu": "none"}, clock=clock) as made:
        yield made


def timed(ratio=1.5, **more):
    figures = {"time_us": 10.0, "ratio": ratio, "ratio_low": ratio * 0.99, "ratio_high": ratio * 1.01}
    return Measurement(workload="w", baseline="b", **figures, **more)


def passed(ratio=1.5, **more):
    return Evaluation(verdict=Verdict.PASSED, measurements=(timed(ratio),), ranking_key="k", **more)


def failed(verdict=Verdict.INCORRECT, **more):
    return Evaluation(verdict=verdict, feedback="wrong\nvery", **more)


def proposed(step, parent=None, source="x = 1\n", **more):
    return Candidate(step=step, source=source, member="rules", kind="rule", parent_id=parent and parent.id, **more)


def asked(step, **more):
    return Asked(step=step, member="rules", prompt=Prompt(system="be brief", user=f"step {step}", kind="rule"), **more)


def replied(step, **more):
    return Replied(step=step, reply=Reply(member="rules", text=f"reply {step}", **more))


def every(journal, **how):
    return [logged.event for logged in journal.events(**how)]


# --- What goes in comes out -----------------------------------------------------------------------------------------

TEXT = st.text(st.characters(), max_size=40)  # with surrogates, lone and paired, and NUL
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
POSITIVE = st.floats(1e-6, 1e6)
COUNT = st.integers(0, 2**62)
SCALAR = st.one_of(st.booleans(), st.integers(-(2**80), 2**80), NUMBER, TEXT)
FACTS = st.dictionaries(TEXT, SCALAR, max_size=4)
JSON = st.recursive(
    st.none() | SCALAR,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
STEP = st.integers(0, 2**62)
TEXTS = st.lists(TEXT, max_size=3).map(tuple)

measurements = st.builds(
    Measurement,
    workload=TEXT,
    baseline=TEXT,
    time_us=POSITIVE,
    ratio=POSITIVE,
    ratio_low=POSITIVE,
    ratio_high=POSITIVE,
    weight=POSITIVE,
    samples=COUNT,
    parameters=FACTS,
    eager_us=st.none() | POSITIVE,
    modelled=st.booleans(),
)


@st.composite
def evaluations(draw):
    verdict = draw(st.sampled_from(Verdict))
    figures = draw(st.lists(measurements, min_size=1, max_size=3)) if verdict is Verdict.PASSED else []
    return Evaluation(
        verdict=verdict,
        feedback=draw(TEXT),
        stage=draw(TEXT),
        measurements=tuple(figures),
        traits=draw(FACTS),
        errors=draw(st.dictionaries(TEXT, st.floats(allow_nan=False), max_size=3)),  # an infinite error is a finding
        evidence=draw(st.dictionaries(TEXT, JSON, max_size=3)),
        digests=draw(TEXTS),
        ranking_key=draw(TEXT),
        seconds=draw(st.dictionaries(TEXT, POSITIVE, max_size=3)),
        beats_incumbent=draw(st.booleans()),
    )


candidates = st.builds(
    Candidate,
    step=st.just(7),
    source=TEXT,
    member=TEXT,
    kind=TEXT,
    parent_id=st.none() | st.text("0123456789abcdef-", min_size=3),
    inspiration_ids=TEXTS,
    island=st.integers(0, 99),
    generation=st.integers(0, 99),
    hypothesis=TEXT,
)
events = st.one_of(
    st.builds(
        Asked,
        step=STEP,
        member=TEXT,
        prompt=st.builds(Prompt, system=TEXT, user=TEXT, kind=TEXT),
        island=st.integers(0, 99),
        parent_id=st.none() | st.text("0123456789abcdef-", min_size=3),
        inspiration_ids=TEXTS,
        failure_ids=TEXTS,
    ),
    st.builds(
        Replied,
        step=STEP,
        reply=st.builds(
            Reply,
            member=TEXT,
            text=TEXT,
            model=TEXT,
            hypothesis=TEXT,
            finish_reason=TEXT,
            tokens_in=st.integers(0, 2**40),
            tokens_out=st.integers(0, 2**40),
            cost_usd=NUMBER,
            seconds=NUMBER,
        ),
    ),
    st.builds(Judged, step=st.just(7), evaluation=evaluations(), candidate=st.none() | candidates),
    st.builds(Noted, what=TEXT, text=TEXT, data=st.dictionaries(TEXT, JSON, max_size=3), step=st.none() | STEP),
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """One journal for many examples; each clears away its own."""
    with Journal.create(tmp_path_factory.mktemp("runs") / "run", config_text="") as made:
        yield made


@settings(max_examples=300, deadline=None)
@given(event=events, evaluation=evaluations())
def test_an_event_comes_back_exactly(bench, event, evaluation):
    seq = bench.append(event)
    assert bench.event(seq).event == event
    if isinstance(event, Judged) and event.candidate:
        again = Confirmed(step=7, candidate_id=event.candidate.id, evaluation=evaluation)
        bench.append(again)
        assert every(bench, after=seq) == [again]
        assert bench.attempt(event.candidate.id).candidate == event.candidate
        assert bench.history(event.candidate.id) == (event.evaluation, evaluation)
    if event.step is not None:
        bench._db.execute("DELETE FROM steps WHERE step = ?", (event.step,))
        bench._db.execute("DELETE FROM events WHERE seq >= ?", (seq,))
        bench._db.execute("DELETE FROM heavy WHERE seq >= ?", (seq,))
        bench._db.execute("DELETE FROM sources WHERE seq >= ?", (seq,))


@pytest.mark.parametrize("text", ["\ud83d\ude00", "\udc80", "a\x00b", "\U0001f600", "\u2028\r\n\t", '"\\'])
def test_strange_text_survives_everywhere(journal, text):
    candidate = proposed(0, source=text, hypothesis=text)
    judged = Judged(step=0, candidate=candidate, evaluation=passed(evidence={text: [text]}, feedback=text))
    journal.append(judged)
    journal.append(Noted(what="warning", text=text))
    assert every(journal) == [judged, Noted(what="warning", text=text)]
    assert journal.attempt(candidate.id).candidate.source == text


def test_bodies_are_text_that_sqlite_can_search(journal):
    journal.append(Judged(step=0, candidate=proposed(0), evaluation=passed(traits={"registers": 128})))
    found = journal.query("SELECT json_extract(body, '$.evaluation.traits.registers') FROM events")
    assert found == [(128,)]


def test_what_is_not_finite(journal):
    evaluation = failed(errors={"w": math.inf}, traits={"t": math.nan}, evidence={"e": [-math.inf, (1, 2)]})
    journal.append(Judged(step=0, evaluation=evaluation))
    back = journal.step(0).judged.evaluation
    assert back.errors == {"w": math.inf}
    assert back.traits == {"t": "nan"}
    assert back.evidence == {"e": ["-inf", [1, 2]]}
    with pytest.raises(MachineryError, match="step 1, replied: cost_usd is nan"):
        journal.append(replied(1, cost_usd=math.nan))
    with pytest.raises(MachineryError, match="step 1, judged: weight is inf"):
        journal.append(Judged(step=1, evaluation=replace(passed(), measurements=(timed(weight=math.inf),))))
    assert journal.last_seq() == 1


def test_evidence_that_is_not_json_is_refused_in_a_sentence(journal):
    with pytest.raises(MachineryError, match="evidence: object is not JSON"):
        journal.append(Judged(step=0, evaluation=failed(evidence={"x": object()})))
    assert journal.last_seq() == 0


def test_defaults_take_no_room():
    body = encode(Judged(step=0, candidate=proposed(0), evaluation=passed())).body
    assert set(json.loads(body)["evaluation"]["measurements"][0]) == {
        "workload", "baseline", "time_us", "ratio", "ratio_low", "ratio_high",
    }  # fmt: skip


def test_an_unknown_kind_is_refused():
    with pytest.raises(MachineryError, match="unknown kind 'dreamt'"):
        decode("dreamt", 1, "{}", source=None, heavy=None, system=None)


# --- The record and its reading -------------------------------------------------------------------------------------


def test_order_times_and_numbers(journal):
    assert [journal.append(asked(0)), journal.append(replied(0)), journal.append(Noted(what="x", text="y"))] == [
        1,
        2,
        3,
    ]
    journal.append(Noted(what="x", text="z"), at=5.0)
    assert [(e.seq, e.at) for e in journal.events()] == [(1, 1000.0), (2, 1010.0), (3, 1020.0), (4, 5.0)]
    assert [e.seq for e in journal.events(after=2)] == [3, 4]
    assert journal.last_seq() == 4


def test_events_are_read_in_pieces(journal, monkeypatch):
    monkeypatch.setattr("evolve.journal.CHUNK", 3)
    made = [Noted(what="n", text=str(n)) for n in range(10)]
    journal.append_all(made)
    assert every(journal) == made


def test_a_reading_goes_on_while_it_is_appended_to(journal):
    journal.append(Noted(what="n", text="1"))
    seen = []
    for logged in journal.events():
        seen.append(logged.seq)
        if logged.seq < 1100:
            journal.append(Noted(what="n", text="more"))
    assert seen == list(range(1, 1101))


def test_without_evidence_only_what_folds_need_is_read(journal):
    journal.append_all(
        [
            asked(0),
            replied(0, cost_usd=0.5),
            Judged(step=0, candidate=proposed(0), evaluation=passed(evidence={"a": 1})),
        ]
    )
    prompt, reply, judged = every(journal, evidence=False)
    assert prompt == replace(asked(0), prompt=Prompt(system="", user="", kind="rule"))
    assert reply.reply == Reply(member="rules", text="", cost_usd=0.5)
    assert judged == Judged(step=0, candidate=proposed(0), evaluation=passed())
    assert journal.step(0).asked == asked(0)


def test_system_prompts_are_kept_once(journal):
    for step in range(50):
        journal.append(asked(step))
    assert journal.query("SELECT count(*) FROM shared") == [(1,)]
    assert journal.step(49).asked == asked(49)


def test_a_prompt_without_a_user_part_keeps_its_system_part(journal):
    event = Asked(step=0, member="m", prompt=Prompt(system="s", user="", kind="k"))
    journal.append(event)
    assert every(journal) == [event]


def test_a_confirmed_figure_replaces_the_first(journal):
    first, second = passed(1.6, beats_incumbent=True), passed(1.5, evidence={"again": True})
    candidate = proposed(3)
    journal.append(Judged(step=3, candidate=candidate, evaluation=first))
    assert journal.attempt(candidate.id).evaluation == first
    journal.append(Confirmed(step=3, candidate_id=candidate.id, evaluation=second))
    assert journal.attempt(candidate.id).evaluation == second
    assert journal.history(candidate.id) == (first, second)
    row = next(journal.rows())
    assert (row.score, row.first_score, row.confirmed) == (pytest.approx(1.5), pytest.approx(1.6), True)


def test_a_confirmation_may_take_the_verdict_back(journal):
    journal.append(Judged(step=0, candidate=proposed(0), evaluation=passed(1.6, beats_incumbent=True)))
    journal.append(Confirmed(step=0, candidate_id=proposed(0).id, evaluation=failed()))
    row = next(journal.rows())
    assert (row.verdict, row.score, row.headline, row.confirmed) == ("INCORRECT", 0.0, "wrong", True)
    assert journal.query("SELECT verdict, steps FROM tallies") == [("INCORRECT", 1)]


def test_pending_steps_say_how_far_they_came(journal):
    candidate = proposed(3)
    journal.append_all([asked(0), asked(1), replied(1), asked(2), Judged(step=2, evaluation=failed())])
    journal.append(Judged(step=3, candidate=candidate, evaluation=passed(beats_incumbent=True, evidence={"e": 1})))
    journal.append(Judged(step=4, candidate=proposed(4), evaluation=passed()))
    first, second, third = journal.pending()
    assert (first.asked, first.reply, first.attempt) == (asked(0), None, None)
    assert (second.asked, second.reply) == (asked(1), replied(1).reply)
    assert third.attempt == journal.attempt(candidate.id)
    assert third.attempt.evaluation.evidence == {"e": 1}
    journal.append(Confirmed(step=3, candidate_id=candidate.id, evaluation=passed(beats_incumbent=True)))
    assert len(journal.pending()) == 2
    assert journal.last_step() == 4


def test_asking_anew_forgets_the_reply_and_keeps_its_cost(journal):
    journal.append_all([asked(0), replied(0, cost_usd=1.0), asked(0)])
    assert [(p.asked, p.reply) for p in journal.pending()] == [(asked(0), None)]
    journal.append(replied(0, cost_usd=2.0))
    assert next(journal.rows()).cost_usd == 3.0
    assert journal.step(0).replied == replied(0, cost_usd=2.0)


def test_an_empty_journal(journal):
    assert (journal.last_seq(), journal.last_step(), journal.pending(), every(journal)) == (0, -1, [], [])
    assert journal.step(5).judged is None
    assert journal.event(1) is None


def test_no_step_is_judged_twice_and_nothing_unknown_is_confirmed(journal):
    judged = Judged(step=0, candidate=proposed(0), evaluation=passed())
    journal.append(judged)
    with pytest.raises(MachineryError, match="step 0 is judged already"):
        journal.append(judged)
    with pytest.raises(MachineryError, match="step 1 has no 00001-x to confirm"):
        journal.append(Confirmed(step=1, candidate_id="00001-x", evaluation=passed()))
    with pytest.raises(MachineryError, match="its candidate says step 3"):
        journal.append(Judged(step=2, candidate=proposed(3), evaluation=passed()))
    with pytest.raises(JournalError, match=r"no candidate 00009-x; `evolve show"):
        journal.attempt("00009-x")
    assert journal.last_seq() == 1


def test_append_all_is_one_transaction_and_keeps_times(journal, tmp_path):
    def half():
        yield asked(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        journal.append_all(half())
    assert journal.last_seq() == 0
    journal.append(asked(0), at=12.5)  # its system prompt was rolled back with the rest and must be written again
    assert journal.step(0).asked == asked(0)
    with Journal.create(tmp_path / "copy", config_text="") as copy:
        copy.append_all(journal.events())
        assert list(copy.events()) == list(journal.events()) == [Logged(seq=1, at=12.5, event=asked(0))]


# --- Rows are a fold of events --------------------------------------------------------------------------------------


def test_improved_means_better_than_the_parent_by_more_than_the_interval(journal):
    seed = proposed(0)
    journal.append(Judged(step=0, candidate=seed, evaluation=passed(1.0)))
    for step, ratio in enumerate((1.005, 1.02, 0.9), start=1):  # intervals reach one per cent down
        journal.append(Judged(step=step, candidate=proposed(step, seed), evaluation=passed(ratio)))
    other = replace(passed(2.0), ranking_key="another")
    journal.append(Judged(step=4, candidate=proposed(4, seed), evaluation=other))
    rows = list(journal.rows())
    assert [r.improved for r in rows] == [False, False, True, False, False]
    assert rows[2].gain == pytest.approx(1.02)
    assert rows[4].gain is None


@settings(max_examples=25, deadline=None)
@given(random_seed=st.integers(0, 2**32))
def test_tallies_are_the_sums_of_rows(tmp_path_factory, random_seed):
    rng = random.Random(random_seed)
    with Journal.create(tmp_path_factory.mktemp("t") / "run", config_text="") as journal:
        for step in range(rng.randrange(1, 12)):
            member = rng.choice("ab")
            if rng.random() < 0.8:
                journal.append(replace(asked(step), member=member))
            if rng.random() < 0.8:
                journal.append(Replied(step=step, reply=Reply(member=member, text="", cost_usd=0.25, tokens_in=3)))
            candidate = replace(proposed(step), member=member)
            if rng.random() < 0.8:
                good = passed(rng.uniform(0.5, 2), seconds={"gpu": 0.5, "time": 1.0})
                journal.append(Judged(step=step, candidate=candidate, evaluation=rng.choice((good, failed()))))
                if rng.random() < 0.5:
                    again = Confirmed(step=step, candidate_id=candidate.id, evaluation=rng.choice((good, failed())))
                    journal.append(again)
        sums = "total(asked_seq IS NOT NULL), total(improved), total(cost_usd), sum(tokens_in), total(gpu_seconds)"
        counted = journal.query(f"SELECT member, verdict, count(*), {sums} FROM steps GROUP BY 1, 2 ORDER BY 1, 2")
        kept = journal.query(
            "SELECT member, verdict, steps, asked, improved, cost_usd, tokens_in, gpu_seconds FROM tallies"
            " ORDER BY member, verdict"
        )
        assert kept == counted


# --- The folder -----------------------------------------------------------------------------------------------------


def test_the_folder_holds_what_the_run_was_given(tmp_path):
    with Journal.create(
        tmp_path / "r", config_text="x: é\n", environment={"gpu": "H200"}, meta={"problem": "m"}
    ) as made:
        assert (made.config_text, made.environment, made.meta) == ("x: é\n", {"gpu": "H200"}, {"problem": "m"})
        made.write_best("# one\n")
        assert made.write_best("# two\ud800\n").read_bytes() == "# two\ud800\n".encode("utf-8", "surrogatepass")
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == [
        "best.py", "config.yaml", "environment.json", "journal.sqlite", "lock",
    ]  # fmt: skip


def test_create_refuses_what_exists(tmp_path):
    with pytest.raises(JournalError, match="exists already; resume it with --resume"):
        Journal.create(tmp_path, config_text="")


def test_a_creation_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(MachineryError, match="meta bad: object is not JSON"):
        Journal.create(tmp_path / "run", config_text="", meta={"bad": object()})
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="cannot be written: Not a directory"):
        Journal.create(tmp_path / "file" / "run", config_text="")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_open_refuses_what_is_no_run(tmp_path):
    with pytest.raises(JournalError, match="no such folder"):
        Journal.open(tmp_path / "nowhere")
    with pytest.raises(JournalError, match=r"a folder without journal\.sqlite"):
        Journal.open(tmp_path)
    (tmp_path / "journal.sqlite").write_text("hello, I am not a database at all, only some lines of text\n" * 100)
    for write in (False, True):
        with pytest.raises(JournalError, match="cannot be read: file is not a database"):
            Journal.open(tmp_path, write=write)
    (tmp_path / "journal.sqlite").unlink()
    other = sqlite3.connect(tmp_path / "journal.sqlite")
    other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(JournalError, match="not a journal of evolve"):
        Journal.open(tmp_path)


@pytest.mark.parametrize("write", [False, True])
def test_a_newer_schema_is_refused(journal, write):
    journal.close()
    db = sqlite3.connect(journal.folder / "journal.sqlite")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(
        JournalError, match=r"written by a newer evolve \(journal schema 99, this one knows up to 1\); update it"
    ):
        Journal.open(journal.folder, write=write)
    assert writer_of(journal.folder) is None


def test_a_reader_may_not_write(journal):
    with Journal.open(journal.folder) as reader, pytest.raises(JournalError, match="opened for reading"):
        reader.append(asked(0))


def test_a_reader_sees_each_commit(journal):
    with Journal.open(journal.folder) as reader:
        for step in range(5):
            journal.append(asked(step))
            assert reader.last_step() == step
        with reader.snapshot():
            assert reader.last_step() == 4
            journal.append(asked(5))
            assert reader.last_step() == 4
        assert reader.last_step() == 5


def test_closing_leaves_one_file_and_a_look_leaves_no_trace(journal):
    journal.append(asked(0))
    journal.close()
    with Journal.open(journal.folder) as reader:
        assert reader.last_step() == 0
    assert not list(journal.folder.glob("journal.sqlite-*"))
    with Journal.open(journal.folder, write=True) as again:
        again.append(asked(1))


def test_a_reader_bears_a_writer_that_comes_and_goes(journal):
    with Journal.open(journal.folder) as reader:
        journal.close()
        with Journal.open(journal.folder, write=True) as again:
            again.append(asked(0))
            assert reader.last_step() == 0
        assert reader.last_step() == 0


# --- One writer -----------------------------------------------------------------------------------------------------


def test_a_second_writer_is_refused_and_told_who_writes(journal):
    assert writer_of(journal.folder) == os.getpid()
    with pytest.raises(JournalError, match=f"process {os.getpid()} is writing this run"):
        Journal.open(journal.folder, write=True)
    journal.close()
    assert writer_of(journal.folder) is None
    Journal.open(journal.folder, write=True).close()


def test_a_look_at_the_lock_does_not_refuse_a_writer(tmp_path):
    for _ in range(50):
        lock = Lock(tmp_path)
        assert writer_of(tmp_path) == os.getpid()
        lock.release()
        assert writer_of(tmp_path) is None


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    """The writer dies, a child that it forked lives on: the run must be free."""
    code = f"""
import os, time
from pathlib import Path
from evolve.runs import Lock
lock = Lock(Path({str(tmp_path)!r}))
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
os.kill(os.getpid(), 9)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    child = int(parent.stdout.readline())
    parent.wait()
    parent.stdout.close()
    try:
        os.kill(child, 0)
        Lock(tmp_path).release()
    finally:
        os.kill(child, signal.SIGKILL)


# --- Killed, full, read-only ----------------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, "benchmarks")
from synthetic import events
from evolve.journal import Journal
journal = Journal.open(Path(sys.argv[1]), write=True)
base = journal.last_step() + 1
sys.stdout.write("ready\\n")
sys.stdout.flush()
from dataclasses import replace
from evolve.types import Judged
for event in events(10_000_000):
    if event.step is not None:
        event = replace(event, step=event.step + base)
        if isinstance(event, Judged) and event.candidate:
            event = replace(event, candidate=replace(event.candidate, step=event.step))
    try:
        seq = journal.append(event)
    except Exception as error:
        if "to confirm" not in str(error):
            raise
        continue
    sys.stdout.write(f"{seq}\\n")
    sys.stdout.flush()
"""


def test_twenty_kills_lose_nothing_acknowledged(tmp_path):
    """SIGKILL at random moments, each time on the same journal: what `append` returned is there, the order has no
    hole, the lock is free at once, and a reader that comes first finds no fault."""
    folder, rng, acknowledged = tmp_path / "run", random.Random(0), 0
    Journal.create(folder, config_text="").close()
    for _ in range(20):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True, cwd=ROOT, bufsize=1 << 20
        )
        assert writer.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.0, 0.12))
        writer.kill()
        told = [line for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        writer.stdout.close()
        writer.wait()
        acknowledged = int(told[-1]) if told else acknowledged
        with Journal.open(folder) as reader:
            assert reader.last_seq() in (acknowledged, acknowledged + 1)  # one may be committed and not yet told
        with Journal.open(folder, write=True) as again:
            assert [e.seq for e in again.events()] == list(range(1, again.last_seq() + 1))
            assert again.query("PRAGMA integrity_check") == [("ok",)]
            assert again.query("SELECT sum(steps) FROM tallies") == again.query("SELECT nullif(count(*), 0) FROM steps")
    assert acknowledged > 200


def test_reading_while_another_process_writes(tmp_path):
    folder = tmp_path / "run"
    Journal.create(folder, config_text="").close()
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert writer.stdout.readline() == "ready\n"
        assert writer_of(folder) == writer.pid
        with Journal.open(folder) as reader:
            for _ in range(200):
                told = int(writer.stdout.readline())
                assert reader.last_seq() >= told
            assert [e.seq for e in reader.events()][:200] == list(range(1, 201))
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()


def fill(journal):
    rng = random.Random(1)
    for step in range(100_000):
        text = "".join(map(chr, rng.choices(range(32, 1000), k=4000)))
        journal.append(Asked(step=step, member="m", prompt=Prompt(system="s", user=text, kind="k")))


def test_a_full_disk_is_a_sentence_and_nothing_is_lost(tmp_path):
    """A file-size limit stands for the disk where tests may not mount one; SQLite takes it for an input error."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    journal = Journal.create(tmp_path / "run", config_text="")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
        with pytest.raises(DiskFull, match=r"nothing more can be written: .* make room, then go on with --resume"):
            fill(journal)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    after_full(journal)


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("unshare"), reason="mounting a small disk needs root")
def test_a_really_full_disk(tmp_path):
    code = """
import subprocess, sys
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", sys.argv[1]], check=True)
sys.path.insert(0, "tests")
from pathlib import Path
import test_journal
test_journal.on_a_small_disk(Path(sys.argv[1]))
print("held")
"""
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=ROOT
    )
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.splitlines()[0]}")
    assert done.stdout == "held\n", done.stderr


def on_a_small_disk(place):
    ballast = place / "ballast"
    ballast.write_bytes(bytes(700_000))
    journal = Journal.create(place / "run", config_text="")
    with pytest.raises(DiskFull, match="nothing more can be written: database or disk is full"):
        fill(journal)
    with (place / "rest").open("wb", buffering=0) as rest, pytest.raises(OSError, match="No space left"):
        rest.writelines(itertools.repeat(bytes(512)))
    with pytest.raises(DiskFull, match="No space left on device"):
        Journal.create(place / "another", config_text="x" * 100_000)
    with pytest.raises(DiskFull, match="No space left on device"):
        journal.write_best("x" * 100_000)
    assert sorted(p.name for p in place.iterdir()) == ["ballast", "rest", "run"]
    assert not (journal.folder / "best.py").exists()
    ballast.unlink()
    after_full(journal)


def after_full(journal):
    """Room was made: the same journal goes on, and so does one that is opened anew."""
    last = journal.last_seq()
    assert last > 10
    assert journal.append(Noted(what="room", text="made")) == last + 1
    journal.close()
    with Journal.open(journal.folder, write=True) as again:
        assert again.query("PRAGMA integrity_check") == [("ok",)]
        assert [e.seq for e in again.events()] == list(range(1, last + 2))


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("unshare"), reason="mounting read-only needs root")
def test_a_run_on_a_read_only_medium(journal, tmp_path):
    journal.append(asked(0))
    journal.close()
    killed = tmp_path / "killed"
    Journal.create(killed, config_text="").close()
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(killed)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    for _ in range(20):
        writer.stdout.readline()
    writer.kill()
    writer.wait()
    writer.stdout.close()
    (killed / "journal.sqlite-shm").unlink()
    code = """
import subprocess, sys
subprocess.run(["mount", "--bind", sys.argv[1], sys.argv[1]], check=True)
subprocess.run(["mount", "-o", "remount,bind,ro", sys.argv[1]], check=True)
from evolve.journal import Journal
from evolve.errors import JournalError
print(Journal.open(sys.argv[1] + "/run").last_step())
for place, write in (("run", True), ("killed", False)):
    try:
        Journal.open(f"{sys.argv[1]}/{place}", write=write)
    except JournalError as error:
        print(error)
"""
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=ROOT
    )
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(f"nothing can be mounted here: {done.stderr.splitlines()[0]}")
    assert done.stdout.splitlines() == [
        "0",
        f"{tmp_path}/run: cannot be written: Read-only file system; look at it, or copy it first.",
        f"{tmp_path}/killed: was not closed, and its log journal.sqlite-wal cannot be read in a place that cannot be "
        "written; copy the folder to where it can.",
    ], done.stderr
