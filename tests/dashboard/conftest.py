"""A recorded run, a server as a person starts it, and Debian's Chromium."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from evolve.journal import Journal
from evolve.types import Candidate, Evaluation, Judged, Verdict

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NASTY = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">'


def _synthetic() -> ModuleType:
    found = importlib.util.spec_from_file_location("synthetic", ROOT / "benchmarks/synthetic.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


synthetic = _synthetic()


def record(folder: Path, steps: int, *, strategy: str = "evolution", **options: Any) -> Path:
    meta = {**synthetic.META, "budget": {"steps": steps}, "strategy": strategy}
    with Journal.create(
        folder, config_text="problem: matmul\n", environment={"secret": "s3cr3t-9f41"}, meta=meta
    ) as journal:
        journal.append_all(synthetic.events(steps, **options))
    return folder


def nasty(step: int, parent: str) -> Judged:
    """What a hostile model would write wherever it may write."""
    candidate = Candidate(
        step=step,
        source=f'x = "{NASTY}"\n{NASTY}\n',
        member=NASTY[:40],
        kind="diff",
        parent_id=parent,
        hypothesis=NASTY,
    )
    found = Evaluation(verdict=Verdict.REJECTED, feedback=NASTY, stage="screen", evidence={NASTY: {"a": NASTY}})
    return Judged(step=step, candidate=candidate, evaluation=found)


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A measured run, a modelled one, one of best-of-N, and one in which everything is hostile. A fifth lies elsewhere,
    and a link leads to it."""
    root = tmp_path_factory.mktemp("shelf") / "runs"
    record(root / "measured-001", 160)
    record(root / "modelled-001", 40, modelled=True)
    record(root / "draws-001", 20, strategy="best_of_n")
    folder = record(root / "hostile-001", 12)
    with Journal.open(folder, write=True) as journal:
        parent = journal.resolve("0")
        journal.append(nasty(50, parent))
    record(root.parent / "elsewhere" / "outside", 3)
    (root / "outside").symlink_to(root.parent / "elsewhere" / "outside")
    return root


@dataclass(frozen=True, kw_only=True)
class Served:
    url: str
    process: subprocess.Popen[str]

    def get(self, path: str, *, method: str = "GET", **headers: str) -> tuple[int, str, dict[str, str]]:
        """Without redirects: what the server itself says."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, headers=named, method=method)
        opener = urllib.request.build_opener(_Stay)
        try:
            with opener.open(request, timeout=20) as answer:
                return answer.status, answer.read().decode(), {k.lower(): v for k, v in answer.headers.items()}
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(), {k.lower(): v for k, v in error.headers.items()}


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[..., Served]]:
    started: list[subprocess.Popen[str]] = []

    def start(*words: str | Path) -> Served:
        command = [sys.executable, "-m", "evolve", "dashboard", *map(str, words), "--no-open", "--port", "0"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        assert line.startswith("http://"), line + (process.stderr.read() if process.stderr else "")
        return Served(url=line, process=process)

    yield start
    for process in started:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def served(serve: Callable[..., Served], shelf: Path) -> Served:
    made = serve(shelf)
    return Served(url=made.url.rstrip("/"), process=made.process)


@pytest.fixture(scope="module")  # Playwright keeps an event loop at work in this thread: other modules want none
def browser() -> Iterator[Any]:
    """Skips by name where there is no Chromium; a machine that says it is CI must have one."""
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("CI has no chromium: .ci/run installs it")
        pytest.skip("no chromium on this machine: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()
