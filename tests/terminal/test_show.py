"""What `evolve show` prints, read as a person would read it."""

import io
import re
import subprocess
import sys
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from rich.console import Console

from evolve import lineage
from evolve.errors import UsageError
from evolve.journal import Journal
from evolve.terminal import words
from evolve.terminal.run_page import curve
from evolve.terminal.show import Order, show
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

ROOT = Path(__file__).resolve().parents[2]
META = {
    "problem": "matmul",
    "variant": "bf16",
    "workloads": ["4096", "8192"],
    "device": "NVIDIA H200",
    "budget": {"steps": 200, "usd": 5.0, "gpu_seconds": 1800, "tokens": None},
}


def printed(run, *, width=160, terminal=False, **wishes):
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, legacy_windows=False)
    show(Order(target=str(run), **wishes), console)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def synthetic():
    spec = spec_from_file_location("synthetic", ROOT / "benchmarks" / "synthetic.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(tmp_path_factory, synthetic):
    """A finished run of 120 steps."""
    folder = tmp_path_factory.mktemp("runs") / "matmul-001"
    now = iter(range(1_700_000_000, 1_800_000_000, 3))
    with Journal.create(folder, config_text="", meta=META, clock=lambda: float(next(now))) as journal:
        journal.append_all(synthetic.events(120))
    return folder


@pytest.fixture(scope="module")
def modelled(tmp_path_factory, synthetic):
    folder = tmp_path_factory.mktemp("runs") / "quickstart-001"
    with Journal.create(folder, config_text="", meta=META) as journal:
        journal.append_all(synthetic.events(60, modelled=True))
    return folder


@pytest.fixture
def small(tmp_path):
    with Journal.create(tmp_path / "small", config_text="") as journal:
        yield journal


def judged(step, ratio, parent=None, *, source="x = 1\n", hypothesis="", feedback="fine", **more):
    figure = Measurement(
        workload="w", baseline="cublas", time_us=10 / (ratio or 1), ratio=ratio or 1,
        ratio_low=(ratio or 1) * 0.99, ratio_high=(ratio or 1) * 1.01, parameters={"BLOCK_M": 64},
    )  # fmt: skip
    candidate = Candidate(
        step=step, source=source, member="rules", kind="rule", parent_id=parent and parent.candidate.id,
        hypothesis=hypothesis,
    )  # fmt: skip
    evaluation = Evaluation(
        verdict=Verdict.PASSED if ratio else Verdict.INCORRECT,
        feedback=feedback,
        stage="time" if ratio else "check",
        measurements=(figure,) if ratio else (),
        ranking_key="k",
        **more,
    )
    return Judged(step=step, candidate=candidate, evaluation=evaluation)


# --- A run ----------------------------------------------------------------------------------------------------------


def test_the_page_of_a_run_tells_what_it_found_and_how(run):
    told = printed(run)
    with Journal.open(run) as journal:
        best = lineage.best(journal)
        low, high = best.score_low, best.score_high
        assert f"{best.score:.3f} [{low:.3f}, {high:.3f}] over cublas, confirmed   {best.candidate_id}" in told
        for verdict, count in lineage.verdict_counts(journal).items():
            assert re.search(rf"{verdict}\s+{count}\s+\d+ %\s+[█▏▎▍▌▋▊▉]", told)
        for m in lineage.scoreboard(journal):
            assert re.search(rf"{m.member}\s+{m.asked}\s+{m.passed}\s+{m.improved}\s", told)
    assert told.startswith("matmul-001  matmul · bf16 · 2 workloads · NVIDIA H200\n")
    assert "finished: 120 steps are done" in told
    assert re.search(r"workload\s+time\s+× cublas\s+interval\s", told)
    assert re.search(r"skinny16\s+[\d.]+ µs\s+[\d.]+\s+\[[\d.]+, [\d.]+\].*BLOCK_M=128", told, re.DOTALL)
    assert re.search(r"steps\s+119\s+of 200", told)
    assert re.search(r"dollars\s+\$[\d.]+\s+of \$5\.00", told)
    assert "times as fast as its seed at 0.6" in told
    assert f"evolve show {run} --lineage" in told
    assert "modelled" not in told


def test_modelled_scores_are_called_modelled_everywhere(modelled):
    """Wherever a score stands, the word stands in its line, or in the head of its column."""
    for told in (
        printed(modelled, top=3),
        printed(modelled, lineage=True),
        printed(modelled, log=True),
        printed(f"{modelled}:best"),
        printed(modelled),
    ):
        assert "(modelled)" in told
        column = "score (modelled)" in told
        for line in told.splitlines():
            scores = re.findall(r"(?<![\d.$])[012]\.\d{3}(?![\d.])", line)
            beside_time = re.search(r"\d µs\s", line)  # in a table whose head says so
            feedback = "cublas; bound by" in line  # the judge's own words
            if scores and not (column or beside_time or feedback or line.startswith("  roofline")):
                assert "(modelled)" in line, line
    assert "time (modelled)" in printed(modelled)
    assert "interval" not in printed(modelled, top=3)


def test_the_model_is_held_against_what_was_measured(small):
    """Where the GPU measured; a modelled time foretells nothing."""
    for step, (said, took) in enumerate([(10.0, 11.0), (30.0, 28.0), (20.0, 19.0), (40.0, 60.0)]):
        figure = Measurement(workload="4096", baseline="cublas", time_us=took, ratio=1.0, ratio_low=1.0, ratio_high=1.0)
        evaluation = Evaluation(
            verdict=Verdict.PASSED,
            measurements=(figure, replace(figure, workload="modelled", modelled=True)),
            evidence={"time": {"model": {"4096": {"time_us": said}, "modelled": {"time_us": said}}}},
        )
        candidate = Candidate(step=step, source=f"x = {step}", member="seed", kind="seed")
        small.append(Judged(step=step, candidate=candidate, evaluation=evaluation))
    assert {p.workload for p in lineage.foretold(small)} == {"4096"}
    assert lineage.rank_correlation(lineage.foretold(small)) == 1.0
    assert lineage.rank_correlation(lineage.foretold(small)[:2]) is None
    assert re.search(r"Cost model\n.*4096 +4 +1\.00 +9 %", printed(small.folder), re.DOTALL)


def test_states_of_a_run(small, synthetic):
    small.append(Noted(what="started", text="go"))
    assert re.search(r"running: process \d+ is at it", printed(small.folder))
    small.close()
    assert "died: its process ended without a word" in printed(small.folder)
    with Journal.open(small.folder, write=True) as journal:
        journal.append(Noted(what="warning", text="odd"))
        journal.append(Noted(what="interrupted", text="Interrupted at step 3."))
        journal.append(Noted(what="warning", text="odd again"))
    assert "stopped: Interrupted at step 3." in printed(small.folder)


def test_an_empty_run_says_so(small):
    small.close()
    told = printed(small.folder)
    assert "empty: nothing happened yet" in told
    assert "Nothing has PASSED yet" in told
    assert ":best" not in told
    assert printed(small.folder, top=5) == "Nothing has PASSED yet.\n"
    assert "No step with a hypothesis" in printed(small.folder, log=True)
    assert "empty" in printed(small.folder, spend=True)
    with pytest.raises(UsageError, match="nothing has PASSED yet, so there is no best"):
        printed(small.folder, lineage=True)


def test_a_best_that_waits_for_confirmation(small):
    first = judged(0, 1.0)
    small.append_all([first, Confirmed(step=0, candidate_id=first.candidate.id, evaluation=first.evaluation)])
    rival = judged(1, 1.5, first, beats_incumbent=True)
    small.append(rival)
    told = printed(small.folder)
    assert f"confirmed   {first.candidate.id}" in told
    assert f"waits for confirmation: {rival.candidate.id} at 1.500 [1.485, 1.515]" in told


def test_the_curve():
    class Rise:
        def __init__(self, step, score):
            self.step, self.score = step, score

    assert curve([Rise(0, 1.0), Rise(3, 2.0)], 3) == [1.0, 1.0, 1.0, 2.0]
    assert curve([Rise(5, 1.0)], 9, width=2) == [0.0, 1.0]
    assert len(curve([Rise(0, 1.0)], 10_000)) == 60


# --- A candidate ----------------------------------------------------------------------------------------------------


def test_the_page_of_a_candidate(run):
    told = printed(f"{run}:best")
    with Journal.open(run) as journal:
        best = lineage.best(journal)
        parent = journal.attempt(best.parent_id)
        first, again = journal.history(best.candidate_id)
    assert told.startswith(f"{best.candidate_id} of {run}   PASSED, confirmed\n")
    gain = f"{100 * (best.score / best.parent_score - 1):+.1f} % over its parent's {best.parent_score:.3f}"
    assert f"score {best.score:.3f} [{best.score_low:.3f}, {best.score_high:.3f}], {gain}" in told
    assert f"hypothesis: {best.hypothesis}\nprediction: faster  — confirmed: time −" in told
    ours, theirs = again.measurements[0], parent.evaluation.measurements[0]
    assert re.search(rf"4096\s.*\s{theirs.time_us / ours.time_us:.3f}\s.*BLOCK_M=", told, re.DOTALL)
    assert f"measured 2 times: {first.score:.3f}" in told
    assert "Errors over their bounds" in told
    assert "evidence on record: time, replay" in told


def test_traits_that_changed_come_first(small):
    seed = judged(0, 1.0, traits={"registers": 64, "bound": "memory", "roofline": 1 / 3})
    child = judged(1, 1.2, seed, traits={"registers": 64, "bound": "compute", "roofline": 1 / 3})
    small.append_all([seed, child])
    told = printed(f"{small.folder}:1")
    assert told.index("bound") < told.index("registers")
    assert re.search(r"bound\s+compute\s+memory", told)
    assert re.search(r"roofline\s+0\.3333\s+0\.3333", told)


def test_a_failed_candidate_shows_why(small):
    seed = judged(0, 1.0)
    wrong = judged(1, 0, seed, hypothesis="skip the mask", feedback='workload "ragged": wrong\n  worst tile (7, 0)')
    small.append_all([seed, wrong])
    told = printed(f"{small.folder}:1")
    assert "INCORRECT in check" in told
    assert '— not measured: INCORRECT: workload "ragged": wrong' in told
    assert '  workload "ragged": wrong\n    worst tile (7, 0)\n' in told
    assert "Workloads" not in told


def test_slower_and_same_are_told_apart(small):
    seed = judged(0, 1.0)
    small.append_all([seed, judged(1, 0.9, seed, hypothesis="a"), judged(2, 1.005, seed, hypothesis="b")])
    assert "— refuted: time +11.1 %" in printed(f"{small.folder}:1")
    assert "— without effect: time −0.5 %" in printed(f"{small.folder}:2")
    children = printed(f"{small.folder}:0")
    assert "Children: 2, of which 2 passed and 0 are better" in children


# --- Lists ----------------------------------------------------------------------------------------------------------


def test_top_is_in_order_and_marks_what_is_confirmed(run):
    told = printed(run, top=5).splitlines()
    scores = [float(line.split()[1]) for line in told[1:6]]
    assert scores == sorted(scores, reverse=True)
    assert any("✓" in line for line in told[1:6])
    with pytest.raises(UsageError, match="--top 0: expected 1 or more"):
        printed(run, top=0)


@pytest.mark.parametrize("width", [80, 100, 200])
def test_top_fits_the_screen(run, width):
    told = printed(run, top=5, width=width)
    assert all(len(line) <= width for line in told.splitlines())
    assert re.search(r"^1\s+\d\.\d{3}", told, re.MULTILINE)


def test_lineage_goes_from_the_seed_to_the_candidate(run):
    told = printed(run, lineage=True)
    with Journal.open(run) as journal:
        chain = lineage.ancestors(journal, journal.resolve("best"))
    nodes = [line for line in told.splitlines() if "●" in line]
    assert len(nodes) == len(chain) > 3
    for line, row in zip(nodes, chain, strict=True):
        assert row.candidate_id in line
        assert f"{row.score:.3f}" in line
        assert row.hypothesis in line
    assert nodes[0].startswith("●")
    assert nodes[-1].startswith("└─●")
    assert re.search(r"│   \d+ other child", told)


def test_diff_to_the_parent_and_to_another_run(run, small):
    told = printed(f"{run}:best", diff="")
    with Journal.open(run) as journal:
        best = journal.attempt(journal.resolve("best")).candidate
        assert told.startswith(f"--- {best.parent_id} ")
        assert f"\n+++ {best.id} " in told
    small.append(judged(0, 1.0, source="x = 2\n"))
    assert "-x = 2\n" in printed(f"{run}:best", diff=f"{small.folder}:0")
    assert "The sources are the same." in printed(f"{run}:best", diff=":best")
    with pytest.raises(UsageError, match="is a seed and has no parent; compare it with another by --diff RUN:B"):
        printed(f"{run}:0", diff="")


def test_the_log_is_a_line_an_experiment_with_its_outcome(run):
    lines = printed(run, log=True, width=60).splitlines()
    with Journal.open(run) as journal:
        rows = lineage.experiments(journal)
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        assert line.startswith(f"{row.step:05d} ")
        idea, predicted, outcome = line.split(" → ")
        assert idea.rstrip().endswith(row.hypothesis)
        assert predicted == "faster", "what no member said is what each of them means"
        word, _, seen = outcome.partition(": ")
        assert seen.startswith("time ") if row.passed else seen.startswith(row.verdict)
        assert (word == "confirmed") == row.improved or word in ("without effect", "not measured")


def test_the_log_of_a_candidate_is_its_ancestry(run):
    with Journal.open(run) as journal:
        chain = lineage.ancestors(journal, journal.resolve("best"))
    assert len(printed(f"{run}:best", log=True).splitlines()) == len(chain)


def test_a_terminal_gets_one_line_an_experiment_too(run):
    lines = printed(run, log=True, width=90, terminal=True).splitlines()
    bare = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in lines]
    with Journal.open(run) as journal:
        assert len(bare) == len(lineage.experiments(journal))
    assert max(map(len, bare)) <= 90


def test_spend_by_verdict(run):
    told = printed(run, spend=True)
    with Journal.open(run) as journal:
        spent = lineage.spend(journal)
    assert f"${spent.cost_usd:.2f}" in told or f"${spent.cost_usd:.3f}" in told
    assert re.search(r"PASSED\s+\d+\s+\$", told)
    assert "By verdict" in told


# --- Strangers' text, and speed ---------------------------------------------------------------------------------------


def test_nothing_from_a_model_commands_the_terminal(small):
    """Escapes, carriage returns, markup, half a surrogate pair, text that runs backwards: shown, not obeyed."""
    evil = "[bold red]x[/] \x1b]0;owned\x07\x1b[2J \ud800 \u202eabc \x9b31m \rfine"
    seed = judged(0, 1.0, hypothesis=evil)
    child = judged(
        1, 0, seed, source=f"# {evil}\n", hypothesis=evil, feedback=evil, traits={evil[:9]: evil}, evidence={evil: 1},
        errors={evil: 2.0},
    )  # fmt: skip
    small.append(Asked(step=2, member=evil, prompt=Prompt(system=evil, user=evil, kind=evil)))
    small.append(Replied(step=2, reply=Reply(member=evil, text=evil, model=evil, hypothesis=evil)))
    small.append_all([seed, child, Noted(what="warning", text=evil)])
    for wishes in ({}, {"top": 3}, {"log": True}, {"spend": True}):
        told = printed(small.folder, **wishes)
        harmless(told)
        assert "[bold red]x[/]" in told
    for wishes in ({}, {"diff": ""}, {"lineage": True}):
        told = printed(f"{small.folder}:1", **wishes)
        harmless(told)
        assert "[bold red]x[/]" in told


def harmless(told):
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e]", told)


def test_clean_keeps_what_people_write():
    assert words.clean("µs × ‖x‖ → 中文 \t\n") == "µs × ‖x‖ → 中文 \t\n"
    assert words.clean("\x1b\x00") == "␛␀"


def test_small_words():
    assert [words.money(x) for x in (0, 0.0042, 0.095, 12.5)] == ["free", "$0.0042", "$0.095", "$12.50"]
    assert [words.duration(x) for x in (0.5, 42, 300, 1800, 7200, 864_000)] == [
        "0.5 s", "42 s", "5.0 min", "30 min", "2.0 h", "10 days",
    ]  # fmt: skip
    assert [words.bar(x, 2) for x in (0, 1e-6, 0.5, 1, 2)] == ["", "▏", "█", "██", "██"]
    assert words.spark([0, 1, 2]) == "▁▄█"
    assert (words.spark([]), words.spark([1.0])) == ("", "▁")
    assert [words.percent(x) for x in (1.05, 0.9, None)] == ["+5.0 %", "-10.0 %", ""]
    assert [words.microseconds(x) for x in (12.346, 98765.0)] == ["12.35 µs", "98.77 ms"]


def test_show_needs_nothing_heavy_and_the_module_not_even_rich():
    code = """
import sys
from dataclasses import replace
from evolve.terminal import show
heavy = {"torch", "triton", "openevolve", "numpy", "pydantic", "libcst", "optuna", "rich"} & set(sys.modules)
print(sorted(heavy))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"
