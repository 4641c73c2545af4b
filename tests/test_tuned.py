"""`evolve tune`: what is written back, that the screen takes it, and that whoever judges it starts from its table."""

import ast
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from evolve import cli, tuned, wiring
from evolve.errors import UsageError
from evolve.judge.screen import screen
from evolve.judge.stages import Ruling
from evolve.judge.table import Row, written
from evolve.judge.tune import first_points
from evolve.judging import Order
from evolve.types import Evaluation, Measurement, Verdict, Workload

ROOT = Path(__file__).parents[1]
SEED = (ROOT / "seeds/matmul.py").read_text()
PROBLEM = str(ROOT / "evaluators/matmul.py")
DEFAULTS = {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "num_warps": 4, "num_stages": 2, "PRECISION": "ieee"}
SQUARE, SKINNY = {"M": 4096, "N": 4096, "K": 4096}, {"M": 16, "N": 4096, "K": 4096}
ROWS = [
    Row(sizes=SQUARE, parameters={"BLOCK_M": 128, "BLOCK_N": 256}, comment="square: 300.0 -> 200.0 us"),
    Row(sizes=SKINNY, parameters={"BLOCK_M": 16, "num_stages": 5}, comment="skinny"),
]


def filed(source=SEED, rows=ROWS, defaults=None, title="Tuned by hand."):
    return written(source, "matmul", defaults=defaults or {"BLOCK_M": 128, "num_warps": 8}, rows=rows, title=title)


# --- The file ---------------------------------------------------------------------------------------------------------


def test_only_defaults_and_the_table_change_and_the_screen_reads_both():
    text = filed()
    screened = screen(text, entry="matmul")
    assert screened.defaults == {**DEFAULTS, "BLOCK_M": 128, "num_warps": 8}
    assert [(dict(a), dict(b)) for a, b in screened.tuned] == [(r.sizes, r.parameters) for r in ROWS]
    kept = [line for line in text.splitlines() if line in SEED.splitlines()]
    assert len(kept) == len(SEED.splitlines()) - 1, "one line has the defaults"
    assert "a_ptr,  # M×K" in text, "comments are their author's, and their bytes are more than their characters"
    assert text.index("TUNE = {") < text.index("TUNED = (") < text.index("@triton.jit")


def test_writing_again_replaces_the_table():
    once = filed()
    twice = filed(once, rows=ROWS[:1], title="Tuned again.")
    assert twice.count("TUNED = (") == 1
    assert "Tuned by hand" not in twice
    assert len(screen(twice, entry="matmul").tuned) == 1
    assert filed(once) == once


def test_a_file_without_a_space_gets_its_table_before_the_first_kernel():
    bare = SEED[: SEED.index("TUNE = {")] + "# of tiles\n" + SEED[SEED.index("@triton.jit") :]
    text = filed(bare)
    assert text.index("TUNED = (") < text.index("# of tiles") < text.index("@triton.jit")
    assert "# EVOLVE-BLOCK-START\n# Tuned by hand.\nTUNED = (" in text
    assert screen(text, entry="matmul").tuned


SCALARS = st.booleans() | st.integers(-(1 << 40), 1 << 40) | st.floats(-1e9, 1e9) | st.text("ab\"'\\é\n", max_size=6)
NAMES = st.sampled_from(["M", "K", "layout", "BLOCK_M", "num_warps", "GONE"])
TABLES = st.lists(
    st.builds(
        lambda a, b: Row(sizes=a, parameters=b, comment="x"),
        st.dictionaries(NAMES, SCALARS, max_size=4),
        st.dictionaries(NAMES, SCALARS, max_size=4),
    ),
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(rows=TABLES)
def test_any_table_is_read_as_it_was_written(rows):
    small = "import triton\n\n\ndef f(a, *, BLOCK_M=1):\n    return a\n"
    screened = screen(written(small, "f", defaults={"BLOCK_M": 2}, rows=rows, title="x"), entry="f")
    assert repr([(dict(a), dict(b)) for a, b in screened.tuned]) == repr([(r.sizes, r.parameters) for r in rows])


@pytest.mark.parametrize(
    "table",
    ["3", "{}", "((1, 2),)", '(({"M": 1}, {"BLOCK_M": len}),)', '(({"M": 1},),)', "(({M: 1}, {}),)", "x"],
)
def test_a_table_that_is_none_is_refused_with_an_example(table):
    with pytest.raises(Ruling, match=r"TUNED .*write TUNED = \("):
        screen(f"{SEED}\nTUNED = {table}\n", entry="matmul")


def test_no_function_sees_the_table():
    with pytest.raises(Ruling, match="TUNED"):
        screen(filed().replace("    M, K = a.shape", "    M, K = a.shape\n    x = TUNED"), entry="matmul")


def test_workloads_start_at_the_nearest_row_and_names_that_are_gone_do_no_harm():
    rows = [*ROWS, Row(sizes={"M": 1, "N": 64, "K": 64}, parameters={"GONE": 3}, comment="")]
    screened = screen(filed(rows=rows), entry="matmul")
    near = [
        Workload(name=n, params={**s, "dtype": "float16"}) for n, s in (("a", {**SQUARE, "K": 8192}), ("b", SKINNY))
    ]
    small = Workload(name="c", params={"M": 1, "N": 64, "K": 80})
    found = {p.workload.name: p.parameters for p in first_points(screened, [*near, small])}
    assert found["a"] == {**screened.defaults, "BLOCK_M": 128, "BLOCK_N": 256}
    assert found["b"] == {**screened.defaults, "BLOCK_M": 16, "num_stages": 5}
    assert found["c"] == screened.defaults
    given = {"a": {"BLOCK_M": 32}}
    told = {p.workload.name: p.parameters for p in first_points(screened, near, given)}
    assert told["a"]["BLOCK_M"] == told["b"]["BLOCK_M"] == 32, "what a job says counts, whatever the file says"


# --- The command ------------------------------------------------------------------------------------------------------


class Prepared:
    """An executor whose judge measured what the test says."""

    def __init__(self, measured):
        self.measured, self.jobs = measured, []

    async def evaluate(self, job):
        self.jobs.append(job)
        space = {"space": 480, "before": {"parameters": DEFAULTS, "time_us": 300.0}}
        rows, figures = {}, []
        for name, (chosen, us, weight, gain) in self.measured.items():
            parameters = {**DEFAULTS, **chosen}
            tried = [{"parameters": chosen, "time_us": us}, {"parameters": {}, "infeasible": "256 accumulators"}]
            rows[name] = {**space, "chosen": parameters, "tried": tried, "ruled_out": [], "gain": gain}
            figures.append(
                Measurement(
                    workload=name, baseline="cublas", time_us=us, ratio=0.9, ratio_low=0.89, ratio_high=0.91,
                    weight=weight, parameters=parameters,
                )
            )  # fmt: skip
        kept = {"ended": "every point was tried", "workloads": rows, "gpu_seconds": {"workloads": {"4096": 0.5}}}
        return Evaluation(
            verdict=Verdict.PASSED,
            measurements=tuple(figures),
            evidence={"tune": kept},
            seconds={"gpu": 2.0, "tune": 3},
        )

    def close(self):
        pass


GAIN = {"ratio": 1.5, "ratio_low": 1.48, "ratio_high": 1.52, "rounds": 12}


@pytest.fixture
def prepared(monkeypatch, tmp_path):
    made = Prepared(
        {
            "4096": ({"BLOCK_M": 128, "num_stages": 3}, 200.0, 1.0, GAIN),
            "skinny16": ({"BLOCK_M": 16}, 15.0, 3.0, GAIN),
        }
    )
    bench = wiring.Bench(
        executor=made, device="NVIDIA H200", ranking_key="k", width=1, calibration={}, environment={}, facts=()
    )
    monkeypatch.setattr(wiring, "open_single", lambda *a, **k: bench)
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(SEED)
    return made


def test_the_heaviest_workload_gives_the_defaults_and_each_its_row(prepared):
    result = CliRunner().invoke(cli.app, ["tune", "mine.py", "-p", PROBLEM, "--budget", "5"])
    assert result.exit_code == 0, result.output
    text = Path("mine_tuned.py").read_text()
    screened = screen(text, entry="matmul")
    assert screened.defaults == {**DEFAULTS, "BLOCK_M": 16}
    assert [dict(sizes) for sizes, _ in screened.tuned] == [SQUARE, SKINNY], "sizes, without what the variant adds"
    assert screened.tuned[0][1]["BLOCK_M"] == 128
    assert "PRECISION" not in screened.tuned[0][1], "what is not searched is no part of the table"
    assert "NVIDIA H200, Triton" in text
    assert "# 4096: 300.0 -> 200.0 us" in text
    for word in ("1.500", "[1.480, 1.520]", "0.50", "480", "256 accumulators", "2.0 of them on the GPU"):
        assert word in result.output, word
    assert Path("mine.py").read_text() == SEED


def test_a_tuned_file_is_tuned_in_place_and_keeps_rows_of_other_sizes(prepared):
    Path("mine_tuned.py").write_text(filed(rows=[Row(sizes={"M": 7, "N": 7, "K": 7}, parameters={}, comment="")]))
    made = tuned.tune(Order(target="mine_tuned.py", problem=PROBLEM), budget=5, out=None)
    assert str(made.file) == "mine_tuned.py"
    sizes = [dict(s) for s, _ in screen(made.file.read_text(), entry="matmul").tuned]
    assert sizes == [SQUARE, SKINNY, {"M": 7, "N": 7, "K": 7}]


def test_json_has_the_rows_and_the_file(prepared):
    result = CliRunner().invoke(cli.app, ["tune", "mine.py", "-p", PROBLEM, "--out", "there.py", "--json"])
    said = json.loads(result.output)
    assert said["file"] == "there.py"
    assert ast.parse(Path("there.py").read_text())
    assert [(r["workload"], r["ratio"], r["tried"]) for r in said["tuned"]] == [("4096", 1.5, 2), ("skinny16", 1.5, 2)]


@pytest.mark.parametrize(
    ("source", "budget", "says"),
    [(SEED, 0, "seconds above 0"), (SEED.replace("TUNE =", "# TUNE ="), 5, "refuses it"), ("no", 5, "refuses it")],
)
def test_what_cannot_be_tuned_is_the_callers_mistake(prepared, source, budget, says):
    Path("mine.py").write_text(source)
    with pytest.raises(UsageError, match=says):
        tuned.tune(Order(target="mine.py", problem=PROBLEM), budget=budget, out=None)


def test_who_declares_no_space_is_told_how(prepared):
    Path("mine.py").write_text(SEED[: SEED.index("TUNE = {")] + SEED[SEED.index("@triton.jit") :])
    with pytest.raises(UsageError, match=r"declares no space.*BLOCK_M"):
        tuned.tune(Order(target="mine.py", problem=PROBLEM), budget=5, out=None)


@pytest.mark.slow
def test_without_a_gpu_it_works_under_the_model_and_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(SEED)
    command = ["tune", "mine.py", "-p", PROBLEM, "--variant", "fp16", "--workload", "skinny16", "--budget", "8"]
    result = CliRunner().invoke(cli.app, [*command, "--backend", "cpu"])
    assert result.exit_code == 0, result.output
    assert "There is no GPU here" in result.output
    again = tuned.tune(
        Order(target="mine_tuned.py", problem=PROBLEM, variant="fp16", workload="skinny16", backend="cpu"),
        budget=2,
        out=None,
    )
    (line,) = again.lines
    assert line.before_us < 60, "it starts from the table, not at the plain defaults' 128 µs"
