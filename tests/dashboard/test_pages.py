"""What the server answers, asked over a socket as a browser asks it."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evolve.dashboard.vendoring import SHIPPED, TESTS
from evolve.journal import Journal

PAGES = ("", "/lineage", "/lineage?view=tree", "/cells", "/experiments", "/c/best", "/c/0")


@pytest.mark.parametrize("run", ["measured-001", "modelled-001", "hostile-001"])
def test_every_page_answers_and_calls_a_modelled_time_so(served: Any, run: str) -> None:
    for page in PAGES:
        status, text, headers = served.get(f"/r/{run}{page}")
        assert status == 200, (page, text[:500])
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert not re.search(r"<script(?![^>]*(src=|application/json))", text), f"{page} has a script of its own"
        assert not re.search(r'\sstyle="|\son\w+=', re.sub(r"&lt;.*?&gt;", "", text)), (
            f"{page} has inline style or code"
        )
    modelled = "modelled" in served.get(f"/r/{run}")[1]
    assert modelled == (run == "modelled-001")


def test_the_shelf_names_every_run_with_its_state_and_best(served: Any, shelf: Path) -> None:
    text = served.get("/")[1]
    for name in ("measured-001", "modelled-001", "hostile-001"):
        assert f">{name}</a>" in text
        with Journal.open(shelf / name) as journal:
            best = journal.attempt(journal.resolve("best"))
        assert f"<b>{best.score:.3f}</b>" in text
    assert text.count(">finished<") == 4
    assert ">best_of_n<" in text


def test_best_of_n_is_drawn_beside_a_run_of_the_same_ranking(served: Any) -> None:
    assert "best of N (draws-001)" in served.get("/r/measured-001")[1]
    assert "best of N" not in served.get("/r/draws-001")[1]


def test_a_candidate_opens_with_its_ancestors_from_the_seed(served: Any, shelf: Path) -> None:
    from evolve import lineage

    with Journal.open(shelf / "measured-001") as journal:
        best = lineage.best(journal)
        assert best is not None
        line = lineage.ancestors(journal, str(best.candidate_id))
    text = served.get("/r/measured-001/c/best")[1]
    table = text[text.index("How it came to be") : text.index("Verdict and feedback")]
    places = [table.index(str(row.candidate_id)) for row in line]
    assert places == sorted(places)
    assert len(line) > 3
    for part in ("Raw samples", "FLOP a byte", "evolve judge", "SM clock", "Children", "against parent"):
        assert part in text


def test_the_window_holds_what_is_asked_for_and_failures_too(served: Any) -> None:
    whole = json.loads(served.get("/r/measured-001/points")[1])
    assert whole["all"] == whole["shown"] == len(whole["x"]) == 160
    assert any(y is None for y in whole["y"])
    part = json.loads(served.get("/r/measured-001/points?x0=20&x1=40&y0=0&y1=9")[1])
    assert [s for s in whole["s"] if 20 <= s <= 40] == part["s"]
    rules = json.loads(served.get("/r/measured-001/points?member=rules&colour=member")[1])
    assert {rules["names"][c] for c in rules["c"]} == {"rules"}
    seed_first = whole["chain"]["s"]
    assert seed_first[0] == 0
    assert seed_first == sorted(seed_first)


def test_a_point_says_who_what_and_why(served: Any, shelf: Path) -> None:
    with Journal.open(shelf / "measured-001") as journal:
        row = next(journal.rows("s.step = 5"))
    point = json.loads(served.get("/r/measured-001/point/5")[1])
    assert (point["id"], point["member"], point["why"]) == (row.candidate_id, row.member, row.hypothesis)


def test_experiments_are_filtered_and_lessons_are_told(served: Any) -> None:
    text = served.get("/r/measured-001/experiments?outcome=refuted&member=rules")[1]
    body = text[text.index('<table class="log">') :]
    rows = re.findall(r"<tr><td class=\"n\">.*?</tr>", body, re.S)
    assert rows
    assert all(">refuted<" in row and "rules" in row for row in rows)
    assert '<ul class="lessons"><li>' in text
    nothing = served.get("/r/measured-001/experiments?q=no+such+words")[1]
    assert ">None.<" in nothing


@pytest.mark.parametrize(
    "path",
    [
        "/r/..", "/r/%2e%2e", "/r/..%2fruns", "/r/%2e%2e%2f%2e%2e%2fetc", "/r/.hidden", "/r//etc/passwd", "/r/%00",
        "/r/measured-001%2f..%2fhostile-001", "/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py",
        "/r/measured-001/c/..%2f..%2fconfig.yaml", "/r/measured-001/c/0/config.yaml", "/r/outside", "/etc/passwd",
        "/r/measured-001/c/" + "9" * 40, "/r/measured-001/c/%ED%A0%80",
        "/r/measured-001/point/" + "9" * 30,
    ],
)  # fmt: skip
def test_no_address_leads_out_of_the_folder(served: Any, shelf: Path, path: str) -> None:
    assert (shelf / "outside" / "journal.sqlite").is_file()
    status, text, _ = served.get(path)
    assert status in (404, 400), (path, status)
    assert "root:" not in text
    assert "def application" not in text
    assert "problem: matmul" not in text


@pytest.mark.parametrize(
    "query", ["x0=nan&x1=inf", "x0=9&x1=1", "axis=%00&colour=<", "island=-1", "of=%27%22", "verdict=%F0"]
)
def test_a_mistyped_address_shows_what_it_can(served: Any, query: str) -> None:
    assert served.get(f"/r/measured-001/lineage?{query}")[0] == 200
    assert json.loads(served.get(f"/r/measured-001/points?{query}")[1])["all"] == 160
    assert served.get(f"/r/measured-001/experiments?{query}&before={query}")[0] == 200


# --- Who may ask ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:8420"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": "localhost:1"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200),
    ],
)
def test_another_site_may_not_ask(served: Any, headers: dict[str, str], status: int) -> None:
    assert served.get("/r/measured-001/pulse", **headers)[0] == status


def test_nothing_can_be_written(served: Any) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert served.get("/r/measured-001", method=method)[0] == 405


def test_away_from_loopback_a_token_is_asked_for(serve: Callable[..., Any], shelf: Path) -> None:
    made = serve(shelf, "--host", "0.0.0.0")
    base, token = made.url.split("/?token=")
    there = type(made)(url=base.replace("0.0.0.0", "127.0.0.1"), process=made.process)
    assert there.get("/")[0] == 401
    assert there.get("/?token=wrong")[0] == 401
    assert there.get("/", Cookie="evolve_token=wrong")[0] == 401
    assert there.get("/static/style.css")[0] == 401
    assert there.get("/", Host="rebound.example", Cookie=f"evolve_token={token}")[0] == 421
    status, _, headers = there.get(f"/r/measured-001?token={token}&a=b")
    assert (status, headers["location"]) == (303, "/r/measured-001?a=b")
    assert "HttpOnly" in headers["set-cookie"]
    assert "SameSite=strict" in headers["set-cookie"]
    assert there.get("/r/measured-001", Cookie=headers["set-cookie"].split(";")[0])[0] == 200


# --- What a person meets at the command line --------------------------------------------------------------------------


def test_a_mistake_is_a_sentence(place: Any, shelf: Path) -> None:
    assert "no such run" in place.evolve("dashboard", "nowhere", "--no-open").sentence
    assert "name it" in place.evolve("dashboard", shelf, "--save", "r.html").sentence
    assert "0 to 65535" in place.evolve("dashboard", shelf, "--no-open", "--port", "99999").sentence
    assert (
        "cannot be written"
        in place.evolve("dashboard", shelf / "modelled-001", "--save", place.folder / "no/where.html").sentence
    )


def test_a_taken_port_is_said(served: Any, place: Any, shelf: Path) -> None:
    port = served.url.rsplit(":", 1)[1]
    assert "give another --port" in place.evolve("dashboard", shelf, "--no-open", "--port", port).sentence


def test_the_report_holds_everything_and_asks_for_nothing(place: Any, shelf: Path) -> None:
    file = place.folder / "report.html"
    done = place.evolve("dashboard", shelf / "measured-001", "--save", file)
    assert done.status == 0, done.err
    text = file.read_text()
    for part in ("Best score over steps", "Lineage", "Cells", "How it came to be", "Lessons", "Configuration"):
        assert part in text
    assert "s3cr3t-9f41" not in text
    assert not re.search(r'(?:src|href)="(?!#|data:)', re.sub(r"<script.*?</script>", "", text, flags=re.S))


def test_what_is_vendored_is_what_the_manifest_says() -> None:
    for folder in (SHIPPED, TESTS):
        lines = json.loads((folder / "manifest.json").read_text())
        assert {line["file"] for line in lines} | {"manifest.json"} == {p.name for p in folder.iterdir()}
        for line in lines:
            assert hashlib.sha256((folder / line["file"]).read_bytes()).hexdigest() == line["sha256"], line
            assert line["version"]
            assert line["licence"]


@pytest.mark.slow
def test_the_wheel_carries_pages_and_scripts(tmp_path: Path) -> None:
    import sys
    import zipfile

    root = Path(__file__).parents[2]
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(root),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=250)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    for wanted in (
        "templates/run.html",
        "static/style.css",
        "static/vendor/htmx.min.js",
        "static/vendor/manifest.json",
    ):
        assert f"evolve/dashboard/{wanted}" in names
