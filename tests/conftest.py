"""Runs of milliseconds: the fake judge, a scripted member, and the command line as a person calls it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

# Started in the background of a shell, a process ignores SIGINT and so does every child: no test could interrupt one.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

FAKE_PROBLEM = Path(__file__).parent / "data/fake_problem.py"


def reply(score: float, number: int, sleep: float = 0.0) -> str:
    """What a member answers so that the fake judge gives its candidate this score."""
    return f"```python\n# fake: score={score:.3f} sleep={sleep}\nx = {number}\n```"


@dataclass(frozen=True, kw_only=True)
class Done:
    status: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """What a caller's mistake must look like: one status, one voice, no trace."""
        assert self.status == 2, (self.status, self.out, self.err)
        assert self.err.startswith("evolve: "), self.err
        assert "Traceback" not in self.err + self.out
        return self.err


@dataclass(frozen=True, kw_only=True)
class Place:
    """A folder with a seed and a configuration, `fake.yaml`; runs land in its `runs/`."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    capfd: pytest.CaptureFixture[str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def config(self, name: str = "fake.yaml", *, steps: int = 6, sleep: float = 0.0, **keys: Any) -> Path:
        (self.folder / "seed.py").write_text("# fake: score=1.0\n")
        text: dict[str, Any] = {
            "problem": str(FAKE_PROBLEM),
            "seeds": ["seed.py"],
            "council": [{"member": "scripted", "replies": [reply(0.9 + i / 10, i, sleep) for i in range(steps)]}],
            "backend": "fake",
            "random_seed": 7,
            "budget": {"steps": steps},
            "concurrency": {"replies": 1, "cpu": 1, "steps": 1},
            **keys,
        }
        path = self.folder / name
        path.write_text(yaml.safe_dump({key: value for key, value in text.items() if value is not None}))
        return path

    def evolve(self, *words: str | Path) -> Done:
        """The command line in this process: its status and what it printed."""
        from evolve import cli

        self.monkeypatch.setattr(sys, "argv", ["evolve", *map(str, words)])
        self.capfd.readouterr()
        before = signal.getsignal(signal.SIGTERM)
        try:
            cli.main()
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        finally:
            signal.signal(signal.SIGTERM, before)
        out, err = self.capfd.readouterr()
        return Done(status=status, out=out, err=err)

    def start(self, *words: str | Path, **options: Any) -> subprocess.Popen[str]:
        """The command line in a process of its own, for signals, pipes and environments."""
        options.setdefault("env", {"PATH": "/usr/bin:/bin", "HOME": str(self.folder)})
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        command = [sys.executable, "-m", "evolve", *map(str, words)]
        process = subprocess.Popen(command, cwd=self.folder, text=True, **options)
        self.started.append(process)
        return process

    def ended(self, process: subprocess.Popen[str]) -> Done:
        out, err = process.communicate(timeout=60)
        return Done(status=process.returncode, out=out or "", err=err or "")

    @property
    def runs(self) -> list[str]:
        runs = self.folder / "runs"
        return sorted(p.name for p in runs.iterdir()) if runs.is_dir() else []

    def written(self) -> set[str]:
        """Everything in the folder, to see that nothing is."""
        return {str(p.relative_to(self.folder)) for p in self.folder.rglob("*")}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Place]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    made = Place(folder=tmp_path, monkeypatch=monkeypatch, capfd=capfd)
    yield made
    for process in made.started:  # of a test that failed
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    """Waits for something to become true, and fails if it does not."""
    import time

    def wait(true: Callable[[], object], seconds: float = 30.0) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, "it did not happen"
            time.sleep(0.01)

    return wait
