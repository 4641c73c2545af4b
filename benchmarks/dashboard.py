"""The dashboard on a journal of 100,000 candidates: a reader's waits, the server's memory, and what the writer pays.

    python benchmarks/dashboard.py [--steps 100000] [--run FOLDER] [--rounds 5]

Times are Chromium's, from asking until what is in sight is painted, the first answer of a fresh server apart; the row
that is timed is committed by this process and looked for in the page's own text. The writer appends as fast as it can,
and then at a judge's pace, alone and beside four pages that show its run. Browser and writer share the server's cores.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from synthetic import KEY, META, events

from evolve.journal import Journal
from evolve.types import Candidate, Evaluation, Judged, Measurement, Verdict

PAINTED = """() => document.documentElement.dataset.ready && document.querySelectorAll('canvas').length >= %d"""
BATCH = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--run", type=Path, help="make the run here, or use the one that is here")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--appends", type=int, default=1500, help="events of each measurement of the writer")
    given = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("no chromium on this machine: apt-get install chromium")
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.run or Path(scratch) / "runs" / "synthetic-001"
        if not folder.is_dir():
            fill(folder, given.steps)
        measure(folder, chromium, given.rounds, given.appends)


def fill(folder: Path, steps: int) -> None:
    begun = time.perf_counter()
    with Journal.create(folder, config_text="problem: matmul\n", meta=META) as journal:
        made = events(steps)
        while batch := list(islice(made, BATCH)):
            journal.append_all(batch)
    size = sum(f.stat().st_size for f in folder.iterdir()) / 2**20
    print(f"made {steps:,} steps, {size:,.0f} MB, in {time.perf_counter() - begun:.0f} s", flush=True)


def measure(folder: Path, chromium: str, rounds: int, appends: int) -> None:
    from playwright.sync_api import sync_playwright

    server, address = serve(folder)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            warm(browser)
            look(browser, f"{address}/r/{folder.name}", rounds)
            memory("after these", server.pid)
            with Journal.open(folder, write=True) as journal:
                new_rows(browser, f"{address}/r/{folder.name}", journal, rounds)
                writer(browser, f"{address}/r/{folder.name}", journal, appends)
            memory("at the end", server.pid)
            browser.close()
    finally:
        server.terminate()
        server.wait(10)


def serve(folder: Path) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "evolve", "dashboard", str(folder.parent), "--no-open", "--port", "0"]
    begun = time.perf_counter()
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    address = server.stdout.readline().strip().rstrip("/")
    print(f"server listens after {time.perf_counter() - begun:.2f} s, {memory_mb(server.pid, 'VmRSS'):.0f} MB")
    return server, address


def warm(browser: Any) -> None:
    """The browser's own first page costs half a second that is not ours."""
    page = browser.new_page()
    page.goto("about:blank")
    page.close()


# --- A reader ---------------------------------------------------------------------------------------------------------


def look(browser: Any, run: str, rounds: int) -> None:
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    pages: list[tuple[str, str, int, float]] = [
        ("run, first page", "", 1, 1.0), ("lineage", "/lineage", 1, 1.2), ("candidate", "/c/best", 0, 0.2),
        ("cells", "/cells", 0, 0), ("experiments", "/experiments", 0, 0), ("tree", "/lineage?view=tree", 0, 0),
    ]  # fmt: skip
    for name, path, canvases, allowed in pages:
        taken = [opened(page, run + path, canvases) for _ in range(rounds)]
        show(name, taken, allowed, fresh=True)
    page.goto(f"{run}/lineage")
    page.wait_for_function(PAINTED % 1)
    show("zoom", list(zooms(page, rounds)), 0.6)
    page.close()


def opened(page: Any, url: str, canvases: int) -> float:
    begun = time.perf_counter()
    page.goto(url)
    page.wait_for_function(PAINTED % canvases)
    return time.perf_counter() - begun


def zooms(page: Any, rounds: int) -> Iterator[float]:
    for _ in range(rounds):
        before = page.locator("#scatter").get_attribute("data-shown") or ""
        begun = time.perf_counter()
        page.locator("#zoom-in").click()
        page.wait_for_function("old => (document.getElementById('scatter').dataset.shown || '') !== old", arg=before)
        yield time.perf_counter() - begun


def show(name: str, taken: list[float], allowed: float, *, fresh: bool = False) -> None:
    first = f"{taken[0]:.3f} s at first, then " if fresh else ""
    rest = taken[1:] if fresh and len(taken) > 1 else taken
    limit = f"   allowed {allowed:.1f} s" if allowed else ""
    print(f"{name:<16} {first}{statistics.median(rest):.3f} s median, {max(rest):.3f} at most{limit}", flush=True)


# --- The writer -------------------------------------------------------------------------------------------------------


def row(step: int, parent: str) -> Judged:
    text = f"x = {step}\n" * 300
    made = Candidate(step=step, source=text, member="rules", kind="rule", parent_id=parent, hypothesis="x")
    found = Measurement(workload="4096", baseline="cublas", time_us=9.0, ratio=0.5, ratio_low=0.49, ratio_high=0.51)
    evaluation = Evaluation(verdict=Verdict.PASSED, stage="time", measurements=(found,), ranking_key=KEY)
    return Judged(step=step, candidate=made, evaluation=evaluation)


def new_rows(browser: Any, run: str, journal: Journal, rounds: int) -> None:
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(run)
    page.wait_for_function("() => document.getElementById('state').textContent === 'running'")
    parent, taken = journal.resolve("0"), []
    for turn in range(rounds):
        time.sleep(0.35 + 0.17 * turn)  # anywhere between two of the page's questions
        event = row(journal.last_step() + 1, parent)
        journal.append(event)
        begun = time.perf_counter()
        assert event.candidate is not None
        sign = "id => document.getElementById('feed').textContent.includes(id)"
        page.wait_for_function(sign, arg=event.candidate.id)
        taken.append(time.perf_counter() - begun)
    show("new row shown", taken, 1.0)
    page.close()


def writer(browser: Any, run: str, journal: Journal, appends: int) -> None:
    """Alone and watched, in turns, so that a machine that slows down slows both."""
    parent = journal.resolve("0")
    rates: dict[str, list[float]] = {"alone": [], "watched": []}
    for _ in range(3):
        rates["alone"].append(rate(journal, parent, appends))
        open_pages = [browser.new_page() for _ in range(4)]
        for page, path in zip(open_pages, ("", "/lineage", "/cells", "/experiments"), strict=True):
            page.goto(run + path)
        time.sleep(1.0)  # they refresh by themselves, in the browser's own processes
        rates["watched"].append(rate(journal, parent, appends))
        for page in open_pages:
            page.close()
    for name, found in rates.items():
        print(f"writer, {name}: {statistics.median(found):,.0f} events/s median of {[round(r) for r in found]}")
    paced(browser, run, journal, parent)


def rate(journal: Journal, parent: str, appends: int) -> float:
    step = journal.last_step()
    made = [row(step + 1 + i, parent) for i in range(appends)]
    begun = time.perf_counter()
    for event in made:
        journal.append(event)
    return appends / (time.perf_counter() - begun)


def paced(browser: Any, run: str, journal: Journal, parent: str) -> None:
    """At ten events a second, faster than any judge: what one append takes, alone and beside four pages."""
    taken: dict[str, list[float]] = {"alone": [], "watched": []}
    for name in ("alone", "watched", "alone", "watched"):
        pages = [browser.new_page() for _ in range(4)] if name == "watched" else []
        for page, path in zip(pages, ("", "/lineage", "/cells", "/experiments"), strict=False):
            page.goto(run + path)
        for _ in range(40):
            event = row(journal.last_step() + 1, parent)
            begun = time.perf_counter()
            journal.append(event)
            taken[name].append(time.perf_counter() - begun)
            time.sleep(0.1)
        for page in pages:
            page.close()
    for name, found in taken.items():
        worst = sorted(found)[int(0.95 * len(found))]
        print(f"one append at 10/s, {name}: {statistics.median(found) * 1e3:.2f} ms median, {worst * 1e3:.2f} at 95 %")


def memory(when: str, pid: int) -> None:
    print(f"server, {when}: {memory_mb(pid, 'VmRSS'):.0f} MB, {memory_mb(pid, 'VmHWM'):.0f} at most", flush=True)


def memory_mb(pid: int, what: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split(f"{what}:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
