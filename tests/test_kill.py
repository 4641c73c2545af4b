"""A run that is killed again and again ends as one that never was."""

import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from evolve.journal import Journal
from evolve.types import Asked, Confirmed, Judged, Noted, Replied

HERE = Path(__file__).parent
STEPS = 120
KILLS = 20


def config(folder: Path) -> Path:
    (folder / "seed.py").write_text("# fake: score=1.0\n")
    rng = random.Random(5)
    codes = [f"# fake: score={rng.uniform(0.5, 1.5):.3f} sleep=0.01\nx = {i}" for i in range(STEPS - 20)]
    codes += ["# fake: verdict=INCORRECT", "# fake: score=1.0"] * 5
    replies = [f"```python\n{code}\n```" for code in codes] + ["", "no code here"] * 5
    rng.shuffle(replies)
    text: dict[str, Any] = {
        "problem": str(HERE / "data/fake_problem.py"),
        "seeds": [str(folder / "seed.py")],
        "council": [{"member": "scripted", "replies": replies}],
        "backend": "fake",
        "random_seed": 7,
        "budget": {"steps": STEPS},
        "concurrency": {"replies": 1, "cpu": 1, "steps": 1},
    }
    path = folder / "fake.yaml"
    path.write_text(yaml.safe_dump(text))
    return path


def start(folder: Path, *arguments: str, hash_seed: str = "0") -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "evolve", "run", "--config", str(folder / "fake.yaml"), *arguments]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONHASHSEED": hash_seed}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def facts(folder: Path, name: str) -> list[tuple[Any, ...]]:
    """Every event of a step, without times."""
    rows: list[tuple[Any, ...]] = []
    with Journal.open(folder / "runs" / name) as journal:
        for logged in journal.events():
            match logged.event:
                case Asked() as e:
                    rows.append(("asked", e.step, e.member, e.prompt, e.island, e.parent_id, e.inspiration_ids))
                case Replied() as e:
                    rows.append(("replied", e.step, e.reply))
                case Judged() as e:
                    rows.append(("judged", e.step, e.candidate, e.evaluation.verdict, dict(e.evaluation.traits)))
                case Confirmed() as e:
                    rows.append(("confirmed", e.step, e.candidate_id, e.evaluation.score))
                case Noted():
                    pass
    return rows


def count(folder: Path, name: str) -> int:
    try:
        with sqlite3.connect(f"file:{folder / 'runs' / name / 'journal.sqlite'}?mode=ro", uri=True) as db:
            return int(db.execute("SELECT count(*) FROM events").fetchone()[0])
    except sqlite3.Error:
        return 0


def finished(process: subprocess.Popen[bytes]) -> bytes:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output.decode()
    return output


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    config(folder)
    finished(start(folder, "--name", "one"))
    return folder


def test_killed_twenty_times_and_resumed_it_ends_the_same(whole: Path, tmp_path: Path) -> None:
    config(tmp_path)
    rng = random.Random(11)
    process = start(tmp_path, "--name", "one")
    kills, acknowledged = 0, 0
    while kills < KILLS:
        seen = count(tmp_path, "one")
        while count(tmp_path, "one") <= max(seen, acknowledged) and process.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        now = count(tmp_path, "one")
        assert now >= acknowledged, "a committed event was lost"
        acknowledged = now
        process = start(tmp_path, "--resume", "one")
    finished(process)
    assert kills == KILLS, f"the run was over after {kills} kills; make it longer"
    resumed = facts(tmp_path, "one")
    assert resumed == facts(whole, "one")
    judged = [row[1] for row in resumed if row[0] == "judged"]
    assert judged == list(range(STEPS + 1)), "a step was judged twice, or never"


@pytest.mark.parametrize("hash_seed", ["1", "random"])
def test_the_same_random_seed_gives_the_same_journal(whole: Path, tmp_path: Path, hash_seed: str) -> None:
    config(tmp_path)
    finished(start(tmp_path, "--name", "one", hash_seed=hash_seed))
    assert facts(tmp_path, "one") == facts(whole, "one")


def test_an_interrupt_is_obeyed_and_resumed(whole: Path, tmp_path: Path) -> None:
    config(tmp_path)
    process = start(tmp_path, "--name", "one")
    while count(tmp_path, "one") < 40 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output.decode()
    assert b"Interrupted: what is being judged comes to its end" in output
    finished(start(tmp_path, "--resume", "one"))
    assert facts(tmp_path, "one") == facts(whole, "one")
