"""The command line as a person uses it: what bad input gets, what a closed pipe or a poor terminal does, and help."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest

from evolve.journal_schema import SCHEMA

ROOT = Path(__file__).parent.parent


# --- Bad input: a sentence with the place, what was given, what was expected and what to do; nothing is written -------


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"popluation_size": 10}, ["fake.yaml", "popluation_size"]),
        ({"database": {"popluation_size": 10}}, ['"popluation_size"', "database", '"population_size"?']),
        ({"budget": {"steps": "many"}}, ["budget.steps", "many", "expected"]),
        ({"budget": {"steps": 0}}, ["budget.steps", "at least 1"]),
        ({"budget": None}, ["no budget", "budget: {steps: 500}"]),
        ({"problem": "nowhere.py"}, ["problem: nowhere.py: no such file"]),
        ({"seeds": ["nowhere.py"]}, ["seeds: nowhere.py: no such file"]),
        ({"seeds": ["nowhere:best"]}, ["nowhere: no such run"]),
        ({"seeds": [], "council": ["rules"]}, ["no seeds", "rules can only change a kernel"]),
        ({"council": []}, ["council is empty"]),
        ({"council": ["ruels"]}, ['"ruels"', "rules"]),
        ({"council": [{"member": "rules", "rules": ["tipling"]}]}, ['no rule "tipling"']),
        ({"council": [{"member": "nowhere:Member"}]}, ["nowhere:Member", "cannot be imported"]),
        ({"council": [{"member": "evolve.types:Nobody"}]}, ["Nobody", "package.module:Name"]),
        ({"variant": "fp7"}, ['no variant "fp7"', "only"]),
        ({"backend": "abacus"}, ['"abacus"', "package.module:Name"]),
        ({"backend": "nowhere:Backend"}, ["nowhere:Backend", "package.module:Name"]),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_a_mistake_in_the_configuration(place: Any, keys: dict[str, Any], told: list[str]) -> None:
    path = place.config(**keys)
    before = place.written()
    sentence = place.evolve("run", "--config", path).sentence
    for part in told:
        assert part in sentence
    assert place.written() == before


def test_a_number_that_yaml_reads_as_text(place: Any) -> None:
    """`1e-3` is the number that it looks like, and quoted it is text, which no number is made of in silence."""
    path = place.config()
    path.write_text(path.read_text() + "convergence_threshold: 1e-3\n")
    assert "convergence_threshold           0.001" in place.evolve("run", "-c", path, "--dry-run").out
    path.write_text(path.read_text().replace("1e-3", '"1e-3"'))
    assert 'convergence_threshold: expected a number, got the text "1e-3"' in place.evolve("run", "-c", path).sentence
    assert place.runs == []


def test_a_member_without_its_key(place: Any) -> None:
    place.monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    path = place.config(council=[{"member": "openai", "model": "gpt-5"}])
    sentence = place.evolve("run", "-c", path).sentence
    assert "nobody in the council can be asked" in sentence
    assert "OPENAI_API_KEY is not set" in sentence
    assert "export OPENAI_API_KEY" in sentence
    assert place.runs == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def (", [":1: does not load: SyntaxError"]),
        ("\n\n1/0\n", [":3: does not load: ZeroDivisionError"]),
        ("import sys\nsys.exit(3)\n", ["does not load: SystemExit"]),
        ("PROBLEM = 3\n", ["PROBLEM is a int", "write PROBLEM = Problem(...)"]),
        ("x = 1\n", ["has no PROBLEM"]),
        (b"\xff\xfe", ["cannot be read"]),
    ],
)
def test_a_problem_file_that_does_not_load(place: Any, text: str | bytes, told: list[str]) -> None:
    (place.folder / "broken.py").write_bytes(text if isinstance(text, bytes) else text.encode())
    path = place.config(problem="broken.py")
    (place.folder / "kernel.py").write_text("x = 1\n")
    for words in (["run", "-c", path], ["run", "-c", path, "--dry-run"], ["judge", "kernel.py", "-p", "broken.py"]):
        sentence = place.evolve(*words).sentence
        for part in ["broken.py", *told]:
            assert part in sentence
    assert place.runs == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["bogus"], ["No such command", "bogus", "--help"]),
        (["run"], ["--config"]),
        (["run", "--config", "fake.yaml", "--steps", "3"], ["No such option", "--steps"]),
        (["run", "--config", "nowhere.yaml"], ["nowhere.yaml: no such file", "expected a YAML file"]),
        (["run", "-c", "fake.yaml", "--set", "budget.stesp=3"], ["stesp", "did you mean", "steps"]),
        (["run", "-c", "fake.yaml", "--set", "budget"], ["--set", "budget"]),
        (["run", "-c", "fake.yaml", "--name", "a", "--resume"], ["--name a with --resume"]),
        (["run", "-c", "fake.yaml", "--resume"], ["no fake-NNN to resume", "leave out --resume"]),
        (["run", "-c", "fake.yaml", "--resume", "nothing"], ["nothing: no such run"]),
        (["show", "nothing"], ["nothing: no such run", "evolve run"]),
        (["show", "data"], ["data: a folder without journal.sqlite, so not a run"]),
        (["show", "nothing:best"], ["nothing: no such run"]),
        (["show", ":best"], ["no run before the colon"]),
        (["show", "nothing:"], ["nothing behind the colon"]),
        (["judge", "seed.py"], ["seed.py: say which problem", "--problem"]),
        (["judge", "nothing.py", "-p", "problem.py"], ["nothing.py: no such file", "RUN:ID"]),
        (["judge", "seed.py", "-p", "nothing.py"], ["nothing.py: no such file"]),
        (["judge", "nothing:7"], ["nothing: no such run"]),
        (["redteam", "no_such_case"], ["no_such_case"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_on_the_command_line(place: Any, words: list[str], told: list[str]) -> None:
    place.config()
    (place.folder / "data").mkdir()
    before = place.written()
    sentence = place.evolve(*words).sentence
    for part in told:
        assert part in sentence
    assert place.written() == before


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "/tmp/x", "..", ".", ".hidden", "", "-x", "a:b", "a b", "a\nb", "ü" * 5]
)
def test_a_name_that_would_leave_runs(place: Any, name: str) -> None:
    place.config()
    before = place.written()
    assert "--name" in place.evolve("run", "-c", "fake.yaml", f"--name={name}").sentence
    assert place.written() == before
    assert not Path("/tmp/x").exists()


# --- A run that is there ----------------------------------------------------------------------------------------------


@pytest.fixture
def finished(place: Any) -> Any:
    place.config()
    done = place.evolve("run", "-c", "fake.yaml", "--name", "one")
    assert done.status == 0, done.err
    return place


def test_a_name_that_exists(finished: Any) -> None:
    before = (finished.folder / "runs/one/journal.sqlite").read_bytes()
    sentence = finished.evolve("run", "-c", "fake.yaml", "--name", "one").sentence
    assert "runs/one: exists already" in sentence
    assert "--resume one" in sentence
    (finished.folder / "runs/two").write_text("a file of somebody's")
    assert "runs/two: exists already" in finished.evolve("run", "-c", "fake.yaml", "--name", "two").sentence
    assert (finished.folder / "runs/one/journal.sqlite").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["show", "one:999"], ["no step 999", "0 to 6"]),
        (["show", "one:zz"], ['no candidate "zz"']),
        (["show", "one:0000"], None),  # the step's number, zeros and all
        (["show", "one:00"], None),
        (["show", "one:000-"], ['no candidate "000-"']),
        (["show", "one:99999999999999999999999"], ["no step"]),
        (["show", "one:best' OR 1=1 --"], ["no candidate"]),
        (["show", "oen"], ['Did you mean "one"?']),
        (["show", "one", "--top", "0"], ["--top 0"]),
        (["show", "one", "--top", "few"], ["--top"]),
        (["show", "one:0", "--diff"], ["has no parent", "--diff RUN:B"]),
        (["show", "one", "--diff", "two:best"], ["two: no such run"]),
        (["judge", "one:999"], ["no step 999"]),
        (["judge", "one:best", "--workload", "huge"], ["--workload huge", "it has fake"]),
        (["judge", "one:best", "--variant", "fp7"], ['no variant "fp7"']),
        (["judge", "one:best", "--backend", "abacus"], ["abacus"]),
        (["run", "-c", "other.yaml", "--resume"], ["no other-NNN to resume", "runs/ holds one"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_candidate_that_is_not_there(finished: Any, words: list[str], told: list[str] | None) -> None:
    finished.config("other.yaml")
    done = finished.evolve(*words)
    if told is None:
        assert done.status == 0, done.err
        return
    for part in told:
        assert part in done.sentence


@pytest.mark.parametrize("words", [[], ["--top", "3"], ["--lineage"], ["--diff"], ["--log"], ["--spend"]], ids=str)
def test_every_view_of_a_run(finished: Any, words: list[str]) -> None:
    for target in ("one", "one:best", "runs/one:3", "runs/one/journal.sqlite"):
        done = finished.evolve("show", target, *words)
        assert done.status == 0, done.err
        assert "modelled" in done.out or words in (["--diff"], ["--log"], ["--spend"])


def test_a_journal_from_a_newer_evolve(finished: Any) -> None:
    with sqlite3.connect(finished.folder / "runs/one/journal.sqlite") as db:
        db.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    for words in (["show", "one"], ["judge", "one:best"], ["run", "-c", "fake.yaml", "--resume", "one"]):
        sentence = finished.evolve(*words).sentence
        assert f"newer evolve (journal schema {SCHEMA + 1}" in sentence
        assert "update" in sentence


def test_a_journal_that_is_none(finished: Any) -> None:
    journal = finished.folder / "runs/one/journal.sqlite"
    journal.write_bytes(b"not a database" * 100)
    assert "cannot be read" in finished.evolve("show", "one").sentence
    journal.unlink()
    sqlite3.connect(journal).close()
    assert "not a journal of evolve" in finished.evolve("show", "one").sentence


def test_judging_a_file_and_a_candidate(finished: Any) -> None:
    problem = ROOT / "tests/data/fake_problem.py"
    done = finished.evolve("judge", "seed.py", "-p", problem, "--backend", "fake")
    assert done.status == 0, done.err
    assert "PASSED" in done.out
    assert "1.000 (modelled)" in done.out
    (finished.folder / "wrong.py").write_text("# fake: verdict=INCORRECT\n")
    wrong = finished.evolve("judge", "wrong.py", "-p", problem, "--backend", "fake", "--workload", "fake")
    assert (wrong.status, wrong.err) == (1, "")
    assert "INCORRECT  in check" in wrong.out
    assert finished.evolve("judge", "one:best").status == 0
    (finished.folder / "seed.py:best").write_text("# fake: score=2.0\n")  # a file is a file, whatever it is called
    assert "2.000" in finished.evolve("judge", "seed.py:best", "-p", problem, "--backend", "fake").out


# --- Help, and what it costs ------------------------------------------------------------------------------------------


def test_help_needs_no_wish(place: Any) -> None:
    for words in ([], ["--help"]):
        done = place.evolve(*words)
        assert (done.status, done.err) == (0, "")
        assert all(word in done.out for word in ("run", "show", "doctor", "judge", "Search", "Look", "Judge"))
    assert place.evolve("--version").out.strip()


def test_looking_needs_no_torch(finished: Any) -> None:
    """`show` works where neither can be imported at all, and takes its time for nothing else."""
    for name in ("torch", "triton", "openevolve", "openai", "libcst", "scipy"):
        (finished.folder / f"{name}.py").write_text("raise ImportError('not on this machine')\n")
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(finished.folder), "PYTHONPATH": str(finished.folder)}
    for words in (["show", "one"], ["show", "one:best", "--lineage"], ["run", "--help"], ["doctor"]):
        done = finished.ended(finished.start(*words, env=environment))
        assert "Traceback" not in done.err
        assert done.status == (1 if words == ["doctor"] else 0), done.err


def test_doctor_of_a_broken_configuration(place: Any) -> None:
    path = place.config(budget={"steps": "many"})
    done = place.evolve("doctor", "--config", path)
    assert done.status == 1
    assert "budget.steps" in done.out
    assert place.evolve("doctor", "--config", "nowhere.yaml").status == 1


# --- Terminals and pipes that are not what one hopes for --------------------------------------------------------------


def test_a_reader_who_leaves(finished: Any) -> None:
    """`| head`: looking ends without a word."""
    for words in ("show one --log", "show one:best", "run -c fake.yaml --dry-run", "doctor"):
        read, write = os.pipe()
        os.close(read)
        process = finished.start(*words.split(), stdout=write)
        os.close(write)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, ""), words


def test_a_run_whose_reader_leaves_ends_in_order_and_goes_on(place: Any) -> None:
    place.config(steps=40, sleep=0.02)
    process = place.start("run", "-c", "fake.yaml", "--name", "one")
    for _ in range(6):
        assert process.stdout.readline()
    process.stdout.close()
    with process.stderr as file:
        assert "Traceback" not in file.read()
    assert process.wait(timeout=60) == 130
    done = place.evolve("run", "-c", "fake.yaml", "--resume", "one")
    assert done.status == 0, done.err
    assert "one was resumed on the fake judge." in done.out


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"HOME": ""}, {}],
    ids=str,
)
def test_a_poor_environment(place: Any, environment: dict[str, str]) -> None:
    """No HOME, no UTF-8: candidates with any characters are found, shown, and resumed."""
    replies = ["Hypothesis: größer ⇒ faster\n```python\n# fake: score=1.5\nx = 'µ×'\n```"]
    place.config(council=[{"member": "scripted", "replies": replies}], budget={"steps": 1})
    environment = {"PATH": "/usr/bin:/bin", **environment}
    for words in ("run -c fake.yaml --name one", "show one:best"):
        done = place.ended(place.start(*words.split(), env=environment, errors="replace"))
        assert (done.status, done.err) == (0, ""), words


def test_closed_from_the_start(finished: Any) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{shutil.which('env')} HOME=/ {os.sys.executable} -m evolve show one >&- 2>&-"],
        cwd=finished.folder, check=False,
    )  # fmt: skip
    assert done.returncode == 0


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["--version"]], ids=" ".join)
def test_help_takes_no_time(place: Any, words: list[str]) -> None:
    """Half a second of the processor, whatever else this machine is doing; the best of three."""
    spent = []
    for _ in range(3):
        before = os.times()
        assert place.ended(place.start(*words)).status == 0
        after = os.times()
        spent.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(spent) < 0.5
