"""A run at its edges: beginning, interrupts, breakages, resuming, ending. With real processes where one matters."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evolve import runner, wiring
from evolve.config import load_config
from evolve.errors import DiskFull
from evolve.journal import Journal
from evolve.session import in_flight
from evolve.types import Asked, Candidate, Evaluation, Judged, Measurement, Noted, Verdict

PARTS = Path(__file__).parent / "data"
INSIDE = {"PYTHONPATH": str(PARTS), "PATH": "/usr/bin:/bin"}


def judged(folder: Path, run: str = "one") -> dict[int, str]:
    with Journal.open(folder / "runs" / run) as journal:
        events = [logged.event for logged in journal.events() if isinstance(logged.event, Judged)]
    assert len({event.step for event in events}) == len(events), "a step was judged twice"
    return {event.step: event.evaluation.verdict for event in events}


def notes(folder: Path, run: str = "one") -> list[str]:
    with Journal.open(folder / "runs" / run) as journal:
        return [logged.event.what for logged in journal.events() if isinstance(logged.event, Noted)]


def events(folder: Path, run: str = "one") -> int:
    try:
        with sqlite3.connect(f"file:{folder / 'runs' / run / 'journal.sqlite'}?mode=ro", uri=True) as db:
            return int(db.execute("SELECT count(*) FROM events").fetchone()[0])
    except sqlite3.Error:
        return 0


# --- A run that goes well ---------------------------------------------------------------------------------------------


def test_a_run_is_numbered_kept_and_told(place: Any) -> None:
    place.config()
    first, second = (place.evolve("run", "-c", "fake.yaml") for _ in range(2))
    assert (first.status, second.status) == (0, 0), first.err
    assert place.runs == ["fake-001", "fake-002"]
    kept = {p.name for p in (place.folder / "runs/fake-001").iterdir()}
    assert kept == {"journal.sqlite", "config.yaml", "environment.json", "best.py", "lock"}
    assert "score=1.4" in (place.folder / "runs/fake-001/best.py").read_text()
    lines = first.out.splitlines()
    assert "fake-001 began on the fake judge." in lines
    assert "fake-001 ended: the budget of 6 steps is used up." in lines
    assert sum("PASSED with" in line and "(modelled)" in line for line in lines) == 7
    assert lines[-4] == "Try next:"
    for line in lines[-3:]:  # each of them works as it stands
        words = line.split("  ")[1].split()
        assert words[0] == "evolve"
        assert place.evolve(*words[1:]).status == 0, line


def test_settings_from_the_command_line(place: Any) -> None:
    place.config()
    done = place.evolve("run", "-c", "fake.yaml", "--name", "two", "--set", "budget.steps=2", "-s", "random_seed=3")
    assert done.status == 0
    assert max(judged(place.folder, "two")) == 2
    assert "random_seed: 3" in (place.folder / "runs/two/config.yaml").read_text()


def test_a_dry_run_writes_nothing(place: Any) -> None:
    place.config()
    before = place.written()
    done = place.evolve("run", "-c", "fake.yaml", "--dry-run")
    assert done.status == 0
    for told in ("fake.yaml:", "default", "The first prompt", "# fake: score=1.0", "What the budget buys"):
        assert told in done.out
    assert place.written() == before


def test_a_dry_run_of_rules_alone_shows_no_prompt_that_nobody_reads(place: Any) -> None:
    done = place.evolve("run", "-c", place.config(council=["rules"]), "--dry-run")
    assert "The first prompt (rule)" in done.out
    assert "SEARCH" not in done.out


def test_a_warm_start(place: Any) -> None:
    place.config()
    assert place.evolve("run", "-c", "fake.yaml", "--name", "one").status == 0
    done = place.evolve("run", "-c", "fake.yaml", "--name", "two", "--set", "seeds=[one:best, one:0]")
    assert done.status == 0, done.err
    with Journal.open("runs/two") as journal:
        assert "score=1.4" in journal.attempt(journal.resolve("0")).candidate.source
        assert "score=1.0" in journal.attempt(journal.resolve("1")).candidate.source


def test_without_a_best_it_ends_with_1(place: Any) -> None:
    wrong = "```python\n# fake: verdict=INCORRECT\nx = 1\n```"
    path = place.config(
        seeds=[], council=[{"member": "scripted", "replies": [wrong, "", "no code"]}], budget={"steps": 3}
    )
    done = place.evolve("run", "-c", path, "--name", "one")
    assert (done.status, done.err) == (1, "")
    assert "No candidate passed the judge." in done.out
    assert judged(place.folder) == {0: Verdict.INCORRECT, 1: Verdict.NO_REPLY, 2: Verdict.UNREADABLE}
    assert place.evolve("show", "one").status == 0


def test_an_empty_list_of_seeds_begins_with_drafts(place: Any) -> None:
    done = place.evolve("run", "-c", place.config(seeds=[]), "--name", "one")
    assert done.status == 0, done.err
    with Journal.open("runs/one") as journal:
        asked = [logged.event for logged in journal.events() if isinstance(logged.event, Asked)]
    assert (asked[0].prompt.kind, asked[0].parent_id) == ("draft", None)
    assert asked[-1].parent_id is not None


# --- Seeds ------------------------------------------------------------------------------------------------------------


def test_a_seed_that_fails_its_own_judgement(place: Any) -> None:
    path = place.config()
    (place.folder / "seed.py").write_text("# fake: verdict=BUILD_ERROR\n")
    sentence = place.evolve("run", "-c", path).sentence
    for told in ("seed.py: the seed fails its own judgement: BUILD_ERROR in check", "the fake judge says BUILD_ERROR",
                 "evolve judge seed.py --problem"):  # fmt: skip
        assert told in sentence
    assert place.runs == []


def test_the_second_of_two_seeds_may_be_the_one_that_fails(place: Any) -> None:
    (place.folder / "other.py").write_text("# fake: verdict=INCORRECT\n")
    assert "other.py: the seed fails" in place.evolve("run", "-c", place.config(seeds=["seed.py", "other.py"])).sentence
    assert place.runs == []


def test_a_seed_of_other_bytes_is_the_judges_to_refuse(place: Any) -> None:
    """The screen of the real judge says what is wrong with them; nothing falls over on the way there."""
    path = place.config()
    (place.folder / "seed.py").write_bytes(b"# fake: score=1.0\nx = '\xff'\n")
    assert place.evolve("run", "-c", path).status == 0


# --- Places that cannot be written ------------------------------------------------------------------------------------


def test_runs_that_cannot_be_written_are_seen_before_anything_is_judged(place: Any) -> None:
    path = place.config()
    (place.folder / "runs").write_text("a file")
    done = place.evolve("run", "-c", path)
    assert "runs/ of this folder cannot be written" in done.sentence
    assert "Judging" not in done.out


def test_a_home_that_cannot_be_written_is_done_without(place: Any) -> None:
    wiring.cache_folder.cache_clear()
    place.monkeypatch.setenv("HOME", "/dev/null")
    folder = wiring.cache_folder()
    assert folder.is_dir()
    assert folder.stat().st_mode & 0o777 == 0o700
    wiring.cache_folder.cache_clear()
    place.monkeypatch.setenv("HOME", str(place.folder))
    assert wiring.cache_folder() == place.folder / ".cache" / "evolve"
    assert not (place.folder / ".cache").exists()
    wiring.cache_folder.cache_clear()


@pytest.fixture
def small_disk(place: Any) -> Iterator[Path]:
    """A file system of half a megabyte at runs/."""
    runs = place.folder / "runs"
    runs.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "none", runs]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small file system")
    yield runs
    subprocess.run(["umount", runs], check=True)


def test_a_full_disk(place: Any, small_disk: Path) -> None:
    """It says so and stops; with room it goes on, and what was on record still is."""
    place.monkeypatch.syspath_prepend(PARTS)
    place.config(council=["own_parts:Verbose"], budget={"steps": 60})
    done = place.evolve("run", "-c", "fake.yaml", "--name", "one")
    assert "nothing more can be written" in done.sentence
    assert "evolve run --config fake.yaml --resume one" in done.err
    before = judged(place.folder)
    assert 0 < len(before) < 61
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert place.evolve("run", "-c", "fake.yaml", "--resume", "one").status == 0
    after = judged(place.folder)
    assert list(after) == list(range(61))
    assert before.items() <= after.items()


def test_a_run_that_was_stopped_before_its_first_event(place: Any) -> None:
    """The folder is there and the seed not in it: resuming plants it."""
    place.config()
    with place.monkeypatch.context() as patched:
        patched.setattr(Journal, "append_all", full)
        assert "--resume one` goes on" in place.evolve("run", "-c", "fake.yaml", "--name", "one").sentence
    assert (place.runs, events(place.folder)) == (["one"], 0)
    assert place.evolve("show", "one").status == 0
    assert place.evolve("run", "-c", "fake.yaml", "--resume", "one").status == 0
    assert list(judged(place.folder)) == list(range(7))
    assert notes(place.folder) == ["started", "finished"]


def full(journal: Journal, events: Any) -> None:
    raise DiskFull("runs/one: nothing more can be written.")


def test_a_disk_that_is_full_from_the_start(place: Any, small_disk: Path) -> None:
    path = place.config()
    with suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    assert "nothing more can be written" in place.evolve("run", "-c", path).sentence
    assert place.runs == ["filler"]


# --- Interrupts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_finishes_what_is_judged_and_drops_what_waits(place: Any, until: Any, number: int) -> None:
    place.monkeypatch.setenv("PYTHONPATH", str(PARTS))
    council = [{"member": "scripted", "replies": ["```python\n# fake: score=1.1 sleep=0.5\n```"]},
               {"member": "own_parts:Slow", "name": "slow"}]  # fmt: skip
    place.config(steps=20, council=council, concurrency={"replies": 8, "cpu": 2, "steps": 8})
    process = place.start("run", "-c", "fake.yaml", "--name", "one", env=INSIDE | {"HOME": str(place.folder)})
    until(lambda: events(place.folder) >= 10)
    process.send_signal(number)
    done = place.ended(process)
    assert (done.status, done.err) == (130, "")
    told = next(line for line in done.out.splitlines() if line.startswith("Interrupted: "))
    assert "one ended: interrupted." in done.out
    assert "evolve run --config fake.yaml --resume one" in done.out
    with Journal.open("runs/one") as journal:
        noted = next(e.event for e in journal.events() if isinstance(e.event, Noted) and e.event.what == "stopping")
        waiting = [pending.asked.step for pending in journal.pending()]
    assert waiting == noted.data["dropped"] != []
    assert f"asked again by --resume: {', '.join(map(str, waiting))}." in told
    assert set(noted.data["finishing"]) <= judged(place.folder).keys()


def test_a_second_interrupt_stops_at_once(place: Any, until: Any) -> None:
    place.config(steps=4, sleep=30)
    process = place.start("run", "-c", "fake.yaml", "--name", "one")
    until(lambda: events(place.folder) >= 5)
    process.send_signal(signal.SIGINT)
    until(lambda: "stopping" in notes(place.folder))
    process.send_signal(signal.SIGINT)
    done = place.ended(process)
    assert done.status == 130
    assert done.err.startswith("evolve: stopped at once")
    assert place.evolve("show", "one").status == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_the_seed_is_judged(place: Any, number: int) -> None:
    path = place.config()
    (place.folder / "seed.py").write_text("# fake: score=1.0 sleep=6\n")
    process = place.start("run", "-c", path)
    while "Judging the seed" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(number)
    done = place.ended(process)
    assert (done.status, done.err) == (130, "evolve: interrupted; nothing was written.\n")
    assert place.runs == []


# --- What breaks ------------------------------------------------------------------------------------------------------


def test_a_judge_that_breaks_costs_no_candidate_its_verdict(place: Any) -> None:
    place.monkeypatch.syspath_prepend(PARTS)
    place.config(backend="own_parts:breaking")
    sentence = place.evolve("run", "-c", "fake.yaml", "--name", "one").sentence
    assert "the GPU fell off the bus" in sentence
    assert "Nothing is lost: `evolve run --config fake.yaml --resume one` goes on." in sentence
    assert list(judged(place.folder)) == [0, 1, 2]
    with Journal.open("runs/one") as journal:
        (pending,) = journal.pending()
        assert pending.asked.step == 3
        assert pending.reply is not None, "the reply is paid for"
    assert "died" in place.evolve("show", "one").out
    (place.folder / "mended").touch()
    done = place.evolve("run", "-c", "fake.yaml", "--resume", "one")
    assert done.status == 0, done.err
    assert set(judged(place.folder).values()) == {"PASSED"}
    assert len(judged(place.folder)) == 7


def test_a_member_that_raises_gives_no_reply_and_the_run_goes_on(place: Any) -> None:
    place.monkeypatch.syspath_prepend(PARTS)
    done = place.evolve("run", "-c", place.config(council=["own_parts:Raising"]), "--name", "one")
    assert done.status == 0, done.err
    verdicts = judged(place.folder)
    assert verdicts.pop(0) == "PASSED"
    assert set(verdicts.values()) == {Verdict.NO_REPLY}
    assert "a bug of the member's own" in done.out


def test_when_nobody_can_be_asked_the_run_stops_and_can_go_on(place: Any) -> None:
    place.monkeypatch.syspath_prepend(PARTS)
    place.config(council=["own_parts:Absent"])
    sentence = place.evolve("run", "-c", "fake.yaml", "--name", "one").sentence
    assert '"Absent" is unavailable: its server is down' in sentence
    assert "--resume one" in sentence
    assert judged(place.folder) == {0: "PASSED"}


def test_a_member_without_its_key_is_said_and_the_others_are_asked(place: Any) -> None:
    place.monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    path = place.config()
    text = path.read_text().replace(
        "council:\n", "council:\n- {member: command, name: tool, command: [no-such-tool]}\n"
    )
    path.write_text(text)
    done = place.evolve("run", "-c", path)
    assert 'warning: member "tool" cannot be asked: no-such-tool is not found.' in done.out


# --- Resuming ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def half(place: Any) -> Any:
    """A run of which half is done; its configuration allows for more."""
    place.config()
    assert place.evolve("run", "-c", "fake.yaml", "--set", "budget.steps=3").status == 0
    return place


def test_resume_takes_the_latest_run_and_counts_what_was_spent(half: Any) -> None:
    assert half.evolve("run", "-c", "fake.yaml", "--name", "fake-007", "--set", "budget.steps=2").status == 0
    done = half.evolve("run", "--resume", "-c", "fake.yaml")
    assert done.status == 0, done.err
    assert len(judged(half.folder, "fake-007")) == 7
    assert len(judged(half.folder, "fake-001")) == 4
    again = half.evolve("run", "-c", "fake.yaml", "--resume", "runs/fake-007")
    assert again.status == 0
    assert "fake-007 ended: the budget of 6 steps is used up." in again.out
    assert len(judged(half.folder, "fake-007")) == 7


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("random_seed=8", "began with random_seed = 7, and fake.yaml now says 8"),
        ("strategy=best_of_n", "strategy = evolution"),
        ("backend=cpu", "backend = fake"),
        ("target=sm_100", "target = sm_90"),
        ("database.num_islands=3", "database = "),
        ("workloads=[{name: mine, params: {M: 1}}]", "workloads = "),
    ],
)
def test_resume_with_another_configuration(half: Any, change: str, told: str) -> None:
    before = events(half.folder, "fake-001")
    sentence = half.evolve("run", "-c", "fake.yaml", "--resume", "--set", change).sentence
    assert told in sentence
    assert "seeds=[fake-001:best]" in sentence
    assert events(half.folder, "fake-001") == before


def test_resume_with_another_problem(half: Any) -> None:
    text = (PARTS / "fake_problem.py").read_text()
    (half.folder / "problem.py").write_text(text)
    done = half.evolve("run", "-c", "fake.yaml", "--resume", "--set", "problem=problem.py", "--set", "budget.steps=4")
    assert done.status == 0, "the same text from another place is the same problem"
    (half.folder / "problem.py").write_text(text + "\n")
    sentence = half.evolve("run", "-c", "fake.yaml", "--resume", "--set", "problem=problem.py").sentence
    assert "problem.py is not, or no longer, the problem that the run began with" in sentence


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"secret": "x"}'])
def test_resume_without_its_environment(half: Any, damage: str) -> None:
    file = half.folder / "runs/fake-001/environment.json"
    file.write_text(damage)
    sentence = half.evolve("run", "-c", "fake.yaml", "--resume").sentence
    assert "environment.json is missing or damaged" in sentence
    file.unlink()
    assert "environment.json is missing" in half.evolve("run", "-c", "fake.yaml", "--resume").sentence


def test_the_environment_holds_what_a_number_depends_on(half: Any) -> None:
    kept = json.loads((half.folder / "runs/fake-001/environment.json").read_text())
    assert {"python", "versions", "secret", "calibration"} <= kept.keys()
    assert str(half.folder) not in json.dumps(kept)


def test_a_second_process_on_the_same_run(place: Any, until: Any) -> None:
    place.config(steps=4, sleep=30)
    process = place.start("run", "-c", "fake.yaml", "--name", "one")
    until(lambda: events(place.folder) >= 4)
    sentence = place.evolve("run", "-c", "fake.yaml", "--resume", "one").sentence
    assert f"process {process.pid} is writing this run" in sentence
    assert "running" in place.evolve("show", "one").out
    process.kill()
    process.communicate()
    assert "died" in place.evolve("show", "one").out


@pytest.mark.parametrize(
    ("council", "concurrency", "wanted"),
    [
        ("[rules]", "{replies: 8}", 5),
        (
            "[rules, {member: openai, model: m, price: {usd_per_million_in: 0, usd_per_million_out: 0}}]",
            "{replies: 8}",
            12,
        ),
        ("[rules]", "{replies: 8, steps: 2}", 2),
    ],
)
def test_steps_at_once_are_what_the_judge_can_have_in_hand(
    tmp_path: Path, council: str, concurrency: str, wanted: int
) -> None:
    """Members that answer at once would only make steps wait, their parents chosen too early."""
    path = tmp_path / "x.yaml"
    about = f"council: {council}\nconcurrency: {concurrency}\n"
    path.write_text(f"problem: evaluators/matmul.py\nseeds: [seeds/matmul.py]\nbudget: {{steps: 9}}\n{about}")
    assert in_flight(load_config(path), 16) == wanted


def test_a_resumed_run_knows_how_many_configurations_were_timed() -> None:
    """Of candidates that were judged side by side the last to end need not have seen the most."""
    totals = {f"{step:05d}-aaaaaaaa": 100 * step for step in range(12)} | {"00012-aaaaaaaa": 900}

    def attempt(name: str) -> Any:
        evidence = {"time": {"promotion": {"configurations": totals[name]}}}
        return SimpleNamespace(evaluation=SimpleNamespace(evidence=evidence))

    def judged(name: str) -> Any:
        figure = Measurement(workload="w", baseline="b", time_us=1, ratio=1, ratio_low=1, ratio_high=1)
        candidate = Candidate(step=int(name[:5]), source="x", member="m", kind="seed", digest="aaaaaaaa")
        evaluation = Evaluation(verdict=Verdict.PASSED, measurements=(figure,))
        return SimpleNamespace(event=Judged(step=candidate.step, candidate=candidate, evaluation=evaluation))

    journal: Any = SimpleNamespace(events=lambda evidence: [judged(name) for name in totals], attempt=attempt)
    assert runner._timed(journal) == 1100
    empty: Any = SimpleNamespace(events=lambda evidence: [])
    assert runner._timed(empty) == 0
