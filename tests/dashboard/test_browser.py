"""The pages in Debian's Chromium: walked on a recorded run and on a living one, and looked at by axe-core."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evolve.journal import Journal
from evolve.types import Candidate, Evaluation, Judged, Measurement, Verdict

from .conftest import NASTY, record, synthetic

AXE = (Path(__file__).parent / "vendor/axe.min.js").read_text(encoding="utf-8")
PAGES = ("", "/lineage", "/lineage?view=tree", "/cells", "/experiments", "/c/best", "/c/0", "/c/1")
DRAWN = """() => [...document.querySelectorAll('.chart, #scatter')].every(c => c.childNodes.length)"""
KINDS, OURS = ("error", "warning"), "willReadFrequently"  # that one is about how this test looks at a canvas
PAINTED = """() => [...document.querySelectorAll('canvas')].map(c => {
  const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  for (let i = 3; i < d.length; i += 4) if (d[i]) return true;
  return false;
})"""


@pytest.fixture
def page(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A page of which every complaint, and every request that leaves for elsewhere, fails the test."""
    context = browser.new_context(
        viewport={"width": 1366, "height": 800}, color_scheme=getattr(request, "param", "light")
    )
    context.set_default_timeout(15000)
    made = context.new_page()
    complaints: list[str] = []
    made.on("console", lambda m: complaints.append(m.text) if m.type in KINDS and OURS not in m.text else None)
    made.on("pageerror", lambda error: complaints.append(str(error)))
    made.on(
        "requestfailed",
        lambda r: complaints.append(f"failed: {r.url}") if "ERR_ABORTED" not in str(r.failure) else None,
    )
    made.on(
        "request",
        lambda r: None if r.url.startswith(("http://127.0.0.1:", "file:", "data:")) else complaints.append(r.url),
    )
    yield made
    context.close()
    assert complaints == []


def violations(page: Any) -> list[str]:
    """What axe-core calls serious or worse. It is put in from outside the page's own policy."""
    found = page.evaluate(AXE + "\n;axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{v['id']}: {v['help']}: {n['html'][:160]}"
        for v in found["violations"]
        if v["impact"] in ("serious", "critical")
        for n in v["nodes"][:3]
    ]


def settled(page: Any, url: str) -> None:
    page.goto(url)
    page.wait_for_function("() => window.uPlot && window.htmx")
    page.wait_for_function(DRAWN)


@pytest.mark.parametrize("page", ["light", pytest.param("dark", marks=pytest.mark.slow)], indirect=True)
def test_every_page_of_a_recorded_run(page: Any, served: Any) -> None:
    for path in ("/", *(f"/r/measured-001{p}" for p in PAGES)):
        settled(page, served.url + path)
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), path
        charts = page.locator("script[data-chart], #points").count()
        painted = page.evaluate(PAINTED)
        assert len(painted) == charts, path
        assert all(painted), path
        assert (charts > 0) == path.endswith(("measured-001", "/lineage", "/c/best", "/c/0", "/c/1")), path
        assert violations(page) == [], path


def test_what_a_model_wrote_is_text(page: Any, served: Any) -> None:
    for path in (*PAGES, "/c/50", "/experiments?q=script", "/lineage?colour=member"):
        settled(page, f"{served.url}/r/hostile-001{path}")
        assert page.evaluate("window.hacked") is None, path
    settled(page, f"{served.url}/r/hostile-001/c/50")
    assert NASTY in page.locator("#diff").inner_text()
    assert page.locator("script:not([src]):not([type])").count() == 0


def test_a_window_stands_in_the_address(page: Any, served: Any) -> None:
    settled(page, f"{served.url}/r/measured-001/lineage?colour=member")
    box = page.locator("#scatter .u-over").bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 500, box["y"] + 300, steps=5)
    page.mouse.up()
    page.wait_for_function("() => location.search.includes('x0')")
    told = page.locator("#told").inner_text()
    assert "colour=member" in page.url
    assert not told.startswith("160 shown")
    settled(page, page.url)
    assert page.locator("#told").inner_text() == told
    page.locator("#zoom-all").click()
    page.wait_for_function("() => !location.search.includes('x0')")
    page.locator("#filters [name=member]").select_option("rules")
    page.wait_for_url("**member=rules**")
    assert "colour=member" in page.url


def test_a_point_is_named_and_opened(page: Any, served: Any) -> None:
    settled(page, f"{served.url}/r/measured-001/lineage")
    page.locator("#scatter").focus()
    page.keyboard.press("ArrowRight")  # nothing is marked yet: the best is
    page.wait_for_selector("#tip:not([hidden])")
    best = page.locator("#tip b").inner_text()
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("old => document.querySelector('#tip b').textContent !== old", arg=best)
    parent = page.locator("#tip b").inner_text()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/c/{parent}")


def test_arrows_walk_along_the_ancestry(page: Any, served: Any) -> None:
    settled(page, f"{served.url}/r/measured-001/c/best")
    seen = []
    while True:
        seen.append(page.locator("h1 code").inner_text())
        if not page.locator("#walk").get_attribute("data-left"):
            break
        with page.expect_navigation():
            page.keyboard.press("ArrowLeft")
    assert seen[-1].startswith("00000-")
    assert len(seen) > 3
    with page.expect_navigation():
        page.keyboard.press("ArrowRight")
    assert not page.locator("h1 code").inner_text().startswith("00000-")
    with page.expect_navigation():
        page.keyboard.press("x")
    assert page.url.endswith("/experiments")


def test_filters_tree_and_diffs_load_what_is_asked_for(page: Any, served: Any) -> None:
    settled(page, f"{served.url}/r/measured-001/experiments")
    page.locator("#log-filter [name=outcome]").select_option("refuted")
    page.wait_for_url("**outcome=refuted**")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.log .badge')].every(b => b.textContent === 'refuted')"
    )
    settled(page, f"{served.url}/r/measured-001/lineage?view=tree")
    closed = page.locator("details:not([open]) > summary").first
    closed.click()
    page.wait_for_selector("details[open] .under-node li")
    settled(page, f"{served.url}/r/measured-001/c/best")
    page.locator(".stepdiff summary").first.click()
    page.wait_for_selector(".stepdiff[open] .slot table.diff")


def judged(step: int, parent: str, score: float) -> Judged:
    made = Candidate(
        step=step, source=f"x = {step}\n", member="rules", kind="rule", parent_id=parent, hypothesis="faster"
    )
    found = Measurement(
        workload="4096", baseline="cublas", time_us=100.0, ratio=score, ratio_low=score * 0.99, ratio_high=score * 1.01
    )
    evaluation = Evaluation(verdict=Verdict.PASSED, stage="time", measurements=(found,), ranking_key=synthetic.KEY)
    return Judged(step=step, candidate=made, evaluation=evaluation)


def test_a_new_row_is_shown_within_a_second(page: Any, serve: Any, tmp_path: Path) -> None:
    folder = record(tmp_path / "runs" / "growing-001", 30)
    url = serve(tmp_path / "runs").url.rstrip("/")
    with Journal.open(folder, write=True) as journal:
        parent = journal.resolve("0")
        for path, sign in (("", "#feed"), ("/cells", None), ("/lineage", "#told"), ("/c/0", "#children")):
            settled(page, f"{url}/r/growing-001{path}")
            page.wait_for_function("() => document.getElementById('state').textContent === 'running'")
            if sign is None:
                continue
            step = journal.last_step() + 1
            begun = time.monotonic()
            event = judged(step, parent, 0.5)
            journal.append(event)
            wanted = f"{step + 1} steps" if sign == "#told" else str(event.candidate.id if event.candidate else "")
            page.wait_for_function("([s, t]) => document.querySelector(s).textContent.includes(t)", arg=[sign, wanted])
            assert time.monotonic() - begun < 1.0, path
    settled(page, f"{url}/")
    assert "growing-001" in page.locator("#runs").inner_text()


def test_a_living_run_from_its_first_step_to_its_last(page: Any, serve: Any, place: Any) -> None:
    """`evolve run` itself writes, and the page follows it from an empty shelf to the end."""
    url = serve(f"{place.folder}/runs/").url.rstrip("/")
    settled(page, f"{url}/")
    assert "No run yet" in page.locator("#runs").inner_text()
    writer = place.start("run", "--config", place.config(steps=8, sleep=0.25), "--name", "living")
    page.wait_for_selector("#runs a.id", timeout=30000)
    page.locator("#runs a.id").click()
    page.wait_for_selector("#state.running")
    for path in ("/lineage", "/cells", "/experiments", "/c/best", ""):
        settled(page, f"{url}/r/living{path}")
    page.wait_for_selector("#state.finished", timeout=30000)
    page.wait_for_function("() => document.querySelector('#feed').textContent.includes('00008-')")
    assert "1.600×" in page.locator(".big").inner_text()
    assert place.ended(writer).status == 0


def test_the_saved_report_opens_offline(page: Any, place: Any, shelf: Path) -> None:
    page.context.set_offline(True)
    for run in ("hostile-001", "measured-001"):
        file = place.folder / f"{run}.html"
        assert place.evolve("dashboard", shelf / run, "--save", file).status == 0
        page.goto(file.as_uri())
        page.wait_for_function(DRAWN)
        assert all(page.evaluate(PAINTED))
        assert page.locator("canvas").count() == page.locator("script[data-chart], #points").count() > 4
        assert page.evaluate("window.hacked") is None
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert page.locator("table.diff").count() > 0


@pytest.mark.slow
def test_the_saved_report_prints(page: Any, place: Any, shelf: Path) -> None:
    file = place.folder / "report.html"
    assert place.evolve("dashboard", shelf / "measured-001", "--save", file).status == 0
    page.set_viewport_size({"width": 760, "height": 1080})  # A4 less its margins
    page.goto(file.as_uri())
    page.wait_for_function(DRAWN)
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert len(page.pdf(format="A4")) > 20_000
