"""A problem on a machine that shares no disk with the run's, and what its judge says of it."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from evolve.errors import MachineryError
from evolve.executors.cluster_judge import Judge, _as_said, loaded, opening_of
from evolve.judge.backends import Settings
from evolve.judge.contract import job_of
from evolve.problem import load_problem

FAKE = Path(__file__).parents[1] / "data/fake_problem.py"


def opening(path, tmp_path):
    problem = load_problem(path)
    return opening_of(
        Settings(
            problem=problem,
            variant=problem.variants[0],
            backend="fake",
            target="sm_90",
            cache=tmp_path / "cache",
            width=1,
            timeout=5.0,
        ),
        None,
        "0.1.0",
    )


@pytest.fixture
def with_parts(tmp_path):
    """A problem that counts two files beside and above it, as an adopted one does."""
    home = tmp_path / "theirs/evaluators"
    home.mkdir(parents=True)
    (home / "ref.py").write_text("VALUE = 1\n")
    (home.parent / "kernel.py").write_text("VALUE = 2\n")
    reads = "from pathlib import Path\nassert (Path(__file__).parent / '../kernel.py').read_text()\n"
    text = reads + FAKE.read_text().replace(
        "PROBLEM = Problem(", "PROBLEM = Problem(\n    parts=('ref.py', '../kernel.py'),"
    )
    (home / "p.py").write_text(text)
    return home / "p.py"


def test_where_the_files_are_not_they_come_along(with_parts, tmp_path):
    asked = opening(with_parts, tmp_path)
    assert loaded(asked).path == str(with_parts), "on a shared disk nothing is copied"
    shutil.rmtree(with_parts.parents[1])
    there = loaded(asked)
    assert there.digest == asked.digest
    assert there.path != str(with_parts)


def test_another_file_of_the_same_name_is_not_taken_and_a_missing_part_is_named(with_parts, tmp_path):
    asked = opening(with_parts, tmp_path)
    (with_parts.parent / "ref.py").write_text("VALUE = 3\n")
    assert loaded(asked).digest == asked.digest, "theirs differs, so ours is laid out beside it"
    lacking = replace(asked, files={k: v for k, v in asked.files.items() if k != "../kernel.py"})
    with pytest.raises(MachineryError, match="cannot load the run's problem"):
        loaded(lacking)


def test_another_evolve_is_refused_by_name_and_a_judge_that_was_not_opened_says_so(tmp_path):
    asked = opening(FAKE, tmp_path)
    with pytest.raises(MachineryError, match=r"written by 0\.0\.9"):
        Judge(replace(asked, evolve="0.0.9"), 1).kind()
    with pytest.raises(MachineryError, match="not opened"):
        Judge(asked, 1).evaluate(job_of("x = 1"))


def test_evidence_names_the_problem_as_the_user_does(tmp_path):
    asked = replace(opening(FAKE, tmp_path), said="evaluators/fake.py")
    command = "evolve judge FILE --problem /tmp/there/p.py --variant a --random-seeds 1"
    said = _as_said({"replay": {"problem": "/tmp/there/p.py", "command": command}, "x": 1}, asked)
    assert said["replay"]["problem"] == "evaluators/fake.py"
    assert "/tmp" not in said["replay"]["command"]
    assert said["x"] == 1
