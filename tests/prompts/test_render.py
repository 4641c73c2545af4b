"""Prompts carry what is needed, drop the least useful first, and never what must stay hidden."""

from dataclasses import replace
from pathlib import Path

import pytest

from evolve.errors import ConfigError
from evolve.problem import load_problem
from evolve.prompts.hints import WHEN, gates, read
from evolve.prompts.render import KINDS, TEMPLATES, Briefing, Renderer
from evolve.types import Attempt, Candidate, Draw, Evaluation, Measurement, Verdict

PROBLEM = load_problem(Path(__file__).parents[2] / "evaluators/matmul.py")
VARIANT = PROBLEM.variant("bf16")


def briefing() -> Briefing:
    return Briefing(
        problem=PROBLEM,
        variant=VARIANT,
        workloads=PROBLEM.of_role("time", VARIANT),
        facts=("An H200 has 132 multiprocessors.",),
        target="sm_90",
        triton="3.6.0",
    )


TRAITS = {
    "kernel": "matmul_kernel", "tensor_path": "wgmma", "structure": "plain", "target": "sm_90", "launches": 1,
    "registers": 168, "spills_bytes": 64, "shared_bytes": 147456, "threads": 256, "num_stages": 3, "programs": 512,
    "blocks_per_sm": 1, "occupancy": 0.125, "limited_by": "registers", "waves": 3.9, "tile": "128x256x64",
    "synchronous_loads_in_loop": 0, "n_HGMMA": 4, "n_LDGSTS": 36, "n_BAR": 7, "n_total": 895,
}  # fmt: skip
FEEDBACK = """\
4096: 200 us measured, 0.800x (0.790 to 0.810) against cublas; 45% of the roofline, bound by arithmetic.
held_wide: 5 us measured, 1.000x against cublas.
Costliest kernel matmul_kernel: wgmma, plain, tile 128x256x64.
Facts (parent's → this): registers a thread 150 → 168.
Mind the last tile."""


def attempt(step: int, source: str, *, passed: bool = True, feedback: str = FEEDBACK, idea: str = "") -> Attempt:
    measured = Measurement(
        workload="4096", baseline="cublas", time_us=200, ratio=0.8, ratio_low=0.79, ratio_high=0.81,
        parameters={"BLOCK_M": 128, "num_warps": 8},
    )  # fmt: skip
    model = {"4096": {"bound": "compute", "roofline": 0.5, "time_us": 180.0, "advice": []}}
    evaluation = (
        Evaluation(
            verdict=Verdict.PASSED, measurements=(measured,), feedback=feedback, traits=TRAITS,
            evidence={"time": {"model": model}},
        )
        if passed
        else Evaluation(verdict=Verdict.BUILD_ERROR, stage="build", feedback=feedback)
    )  # fmt: skip
    candidate = Candidate(step=step, source=source, member="m", kind="diff", hypothesis=idea)
    return Attempt(candidate=candidate, evaluation=evaluation)


def draw() -> Draw:
    return Draw(
        step=7,
        island=0,
        parent=attempt(1, "PARENT = 1\n", idea="group the programs."),
        inspirations=(attempt(2, "INSPIRES = 1\n"), attempt(3, "ALSO = 1\n")),
        failures=(
            attempt(4, "EARLIER = 1\n", passed=False, feedback="ptxas: out of registers"),
            attempt(5, "FAILED = 1\n", passed=False, feedback="x" * 9000 + "error: the end", idea="no mask"),
        ),
        lessons=("Paid: descriptors.",),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_words_and_no_open_place(kind: str) -> None:
    prompt = Renderer(briefing=briefing())(draw(), kind)
    assert prompt.kind == kind
    assert prompt.user
    assert "$" not in prompt.system + prompt.user


def test_a_prompt_carries_what_an_engineer_needs() -> None:
    prompt = Renderer(briefing=briefing())(draw(), "diff")
    for text in (
        "PARENT = 1",
        "INSPIRES = 1",
        "- 4096: 200 us, 0.800 times as fast as cublas (0.790 to 0.810); 45% of the roofline, bound by arithmetic",
        "All ran at BLOCK_M=128, num_warps=8.",
        "a plain grid of 512 programs in 3.9 waves, tile 128x256x64, 8 warps, 3 stages",
        "A thread holds 168 registers and spills 64 B; a block takes 144 KiB of shared memory; 1 block an SM",
        "Machine code: 895 instructions, of them HGMMA 4, LDGSTS 36, BAR 7.",
        "- Mind the last tile.",  # what else the judge remarked
        "Its own idea was: group the programs.",
        "within 0.0025 of a float64 reference",
        "132 multi",
        "4096",
        "It wanted: no mask\n  It ended as BUILD_ERROR in build: ",
        "`registers 168 -> 126; LDGSTS 36 -> 0; ",
    ):
        assert text in prompt.user
    assert "matmul(a, b)" in prompt.system
    assert "<<<<<<< SEARCH" in prompt.user


def test_errors_keep_their_tail() -> None:
    assert "error: the end" in Renderer(briefing=briefing())(draw(), "diff").user


def test_fix_shows_the_failed_child_and_not_its_parents_source() -> None:
    user = Renderer(briefing=briefing())(draw(), "fix").user
    assert "FAILED = 1" in user
    assert "PARENT = 1" not in user


def test_held_out_workloads_never_reach_a_prompt() -> None:
    hidden = [w for w in PROBLEM.workloads if w.role == "held_out"]
    assert hidden
    for kind in KINDS:
        prompt = Renderer(briefing=briefing())(draw(), kind)
        for workload in hidden:
            assert workload.name not in prompt.user
            assert f"N={workload['N']}, K={workload['K']}" not in prompt.user


def test_a_confirmed_parents_held_out_times_stay_hidden() -> None:
    confirmed = attempt(1, "PARENT = 1\n")
    hidden = Measurement(
        workload="held_wide", baseline="cublas", time_us=5, ratio=1, ratio_low=1, ratio_high=1, weight=0.0
    )
    shown = confirmed.evaluation.measurements
    evaluation = replace(confirmed.evaluation, measurements=(*shown, hidden))
    assert evaluation.score == confirmed.evaluation.score, "a score is over what everyone is timed on"
    user = Renderer(briefing=briefing())(replace(draw(), parent=replace(confirmed, evaluation=evaluation)), "diff").user
    assert "held_wide" not in user
    assert "0.800 times as fast as cublas" in user


def test_the_least_useful_goes_first_and_the_task_never() -> None:
    full = Renderer(briefing=briefing())(draw(), "diff").user
    for longest in range(len(full), 0, -200):
        user = Renderer(briefing=briefing(), longest=longest)(draw(), "diff").user
        assert "PARENT = 1" in user
        assert "## Your answer" in user
        if "ALSO = 1" in user:
            assert "INSPIRES = 1" in user, "the second inspiration outlived the first"
    assert "INSPIRES" not in user


def test_own_templates_replace_the_shipped_ones(tmp_path: Path) -> None:
    (tmp_path / "diff.txt").write_text("Be bold.")
    user = Renderer(briefing=briefing(), template_dir=tmp_path)(draw(), "diff").user
    assert "Be bold." in user
    assert "SEARCH" in user, "what is not replaced is the shipped text"
    (tmp_path / "difff.txt").write_text("A slip of the pen.")
    with pytest.raises(ConfigError, match="replaces no template"):
        Renderer(briefing=briefing(), template_dir=tmp_path)
    with pytest.raises(ConfigError, match="no folder"):
        Renderer(briefing=briefing(), template_dir=tmp_path / "none")


def test_braces_and_dollars_in_sources_are_left_alone() -> None:
    odd = replace(draw(), parent=attempt(1, "x = {'$a': 1}  # ${b} {c}\n"))
    assert "x = {'$a': 1}  # ${b} {c}" in Renderer(briefing=briefing())(odd, "diff").user


def test_every_template_is_used() -> None:
    answers = {"answer_hypothesis.txt", "answer_diff.txt", "answer_rewrite.txt"}
    used = {f"{kind}.txt" for kind in KINDS} | answers | {"system.txt", "contract.txt", "hints.txt"}
    assert {p.name for p in TEMPLATES.glob("*.txt")} == used


# --- What only some prompts carry -------------------------------------------------------------------------------------

MATMUL = (Path(__file__).parents[2] / "seeds/matmul.py").read_text()


def told(source: str = MATMUL, *, workload_advice: str = "", **traits: object) -> str:
    """The hints section for a parent of this source and these traits."""
    parent = attempt(1, source)
    model = {"4096": {"bound": "memory", "advice": [workload_advice]}}
    evaluation = replace(parent.evaluation, traits={**TRAITS, **traits}, evidence={"time": {"model": model}})
    user = Renderer(briefing=briefing())(replace(draw(), parent=replace(parent, evaluation=evaluation)), "diff").user
    return user.partition("## What is known of kernels like this one")[2].partition("\n## ")[0]


@pytest.mark.parametrize(
    ("words", "holds", "fails"),
    [
        ("Operands come through pointers", {}, {"tensor_path": "wgmma+descriptors", "n_UTMALDG": 4}),
        ("Operands come through pointers", {}, {"target": "sm_80"}),
        ("No load is asynchronous", {"n_LDGSTS": 0}, {}),
        ("loaded synchronously inside the loop", {"synchronous_loads_in_loop": 2}, {}),
        ("runs on HMMA", {"n_HMMA": 8, "n_HGMMA": 0}, {}),
        ("One program an SM", {}, {"structure": "persistent"}),
        ("One program an SM", {}, {"waves": 0.5}),
        ("Programs run row by row", {}, {"programs": 32}),
        ("split the reduction", {"workload_advice": "32 programs for 132 SMs: split the reduction."}, {}),
        ("can take here", {"tensor_path": "wgmma+descriptors", "threads": 128}, {"tensor_path": "wgmma+descriptors"}),
        ("storing halves frees it", {}, {"shared_bytes": 40000}),
        ("more than 128 registers", {"threads": 128}, {}),
        ("not worth a step", {}, {"target": "gfx942"}),
    ],
)  # fmt: skip
def test_a_hint_is_told_where_its_precondition_holds(words: str, holds: dict, fails: dict) -> None:
    assert words in told(**holds)
    assert words not in told(**fails)


def test_hints_ask_the_source_too() -> None:
    assert "tl.exp2 with log2(e)" in told("p = tl.exp(x)\n")
    assert "tl.exp2 with log2(e)" not in told("p = tl.exp2(x)  # not tl.exp(x)\n")
    assert "Offsets wrap" in told("rows = (pid + tl.arange(0, 64)) % M\n")
    assert "one loop without it" in told("for k in range(n):\n    if CAUSAL: pass\n")
    assert "What counts here is bytes" in told("x = 1\n", n_HGMMA=0, tile="")


def test_every_hint_has_a_precondition_and_words() -> None:
    names = [name for name, _ in read((TEMPLATES / "hints.txt").read_text())]
    assert names == list(WHEN)
    assert [text for name, text in read("# mine\nUse four warps.\n")] == ["Use four warps."]


def test_the_version_has_its_gates() -> None:
    assert "3.6 only" in gates((3, 5))[0]
    assert gates((3, 6)) == []
    assert "block pointers raise" in gates((3, 9))[0]
    older = Renderer(briefing=replace(briefing(), triton="3.4.0"))(draw(), "diff").user
    assert "no padding_option" in older


def test_an_inspiration_is_shown_as_what_it_changes_and_a_second_parent_whole() -> None:
    other = MATMUL.replace("BLOCK_K: tl.constexpr", "BLOCK_K: tl.constexpr,  # of K")
    near = replace(draw(), parent=attempt(1, MATMUL), inspirations=(attempt(2, other),))
    user = Renderer(briefing=briefing())(near, "diff").user
    assert "Against the source above it differs in this" in user
    assert user.count("def matmul_kernel(") == 1
    crossed = Renderer(briefing=briefing())(near, "crossover").user
    assert crossed.count("def matmul_kernel(") == 2
    assert "## The other parent (00002" in crossed


def test_a_draft_is_shown_the_reference() -> None:
    user = Renderer(briefing=briefing())(Draw(step=1, island=0), "draft").user
    assert "## The reference\n```python\ndef " in user
    assert "EVOLVE-BLOCK-START" in user


def test_counters_that_were_read_are_told() -> None:
    parent = draw().parent
    assert parent is not None
    read_out = {"workload": "4096", "launches": [{"kernel": "k", "sm_percent": 71.2, "dram_percent": 30.0}]}
    evaluation = replace(parent.evaluation, evidence={"time": {"profile": read_out}})
    user = Renderer(briefing=briefing())(replace(draw(), parent=replace(parent, evaluation=evaluation)), "diff").user
    assert "The profiler read on 4096: sm 71 %, dram 30 %." in user
