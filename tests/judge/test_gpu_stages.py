"""Check, time and calibrate on a device made of Python: every line but CUDA's own, with kernels known to lie."""

import math
import sys
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)

import gpu_fakes  # noqa: E402

from evolve.errors import MachineryError, ProblemError  # noqa: E402
from evolve.judge import calibrate as calibration_of  # noqa: E402
from evolve.judge.calibrate import baselines, calibrate, calls_for, table, untried  # noqa: E402
from evolve.judge.check import Check, families_of, seed_of  # noqa: E402
from evolve.judge.gpu import watching  # noqa: E402
from evolve.judge.gpu.facts import workload_to  # noqa: E402
from evolve.judge.gpu.session import Session  # noqa: E402
from evolve.judge.gpu.timing import Timing  # noqa: E402
from evolve.judge.inputs import families  # noqa: E402
from evolve.judge.sampling import Rival  # noqa: E402
from evolve.judge.stages import Ruling, Target  # noqa: E402
from evolve.judge.statistics import HOPELESS_BLOCKS, LOOKS, RACE_BLOCKS  # noqa: E402
from evolve.judge.time import Timer, roof_us  # noqa: E402
from evolve.problem import load_problem  # noqa: E402
from evolve.types import Verdict, Workload  # noqa: E402

PROBLEM_FILE = str(Path(HERE) / "gpu_problem.py")
TARGET = Target(
    name="sm_90",
    device="fake",
    backend="cuda",
    arch=90,
    warp_size=32,
    sms=132,
    shared_bytes=232448,
    registers=65536,
    threads=2048,
    blocks=32,
    l2_bytes=0,
    memory_gbs=4800.0,
    l2_gbs=9000.0,
    tflops={"float32": 60.0},
    launch_us=2.0,
)


class NoGpu:
    uuid = "GPU-fake"

    def read(self):
        return None

    def foreigners(self, ours):
        return ()

    def driver(self):
        return "none"


@pytest.fixture(scope="module")
def problem():
    return load_problem(PROBLEM_FILE)


@pytest.fixture(scope="module")
def variant(problem):
    return problem.variant(None)


def opening(problem, variant, path=PROBLEM_FILE):
    return {
        "op": "open",
        "problem": path,
        "variant": variant.name,
        "rehearse": workload_to(problem.workload("ragged", variant)),
    }


class TakesPids(gpu_fakes.LocalPool):
    def pids(self):
        return set()


@pytest.fixture
def pool(problem, variant):
    gpu_fakes.STASH.clear()
    gpu_fakes.CLOCK.noise = 0.001
    return TakesPids(opening(problem, variant))


CEILINGS = {"memory_gbs": 4000.0, "l2_gbs": 9000.0, "launch_us": 1.0, "tflops": {"bfloat16": 800.0, "float64": 60.0}}


@pytest.fixture(scope="module")
def calibration(problem, variant):
    with pytest.MonkeyPatch.context() as patch:  # two gigabytes are no matter for a GPU
        patch.setattr("evolve.judge.gpu.ceilings.measure", lambda engine: CEILINGS)
        return calibrated_run(problem, variant)


def calibrated_run(problem, variant):
    workloads = [w for role in ("check", "time", "held_out") for w in problem.of_role(role, variant)]
    return calibrate(TakesPids(opening(problem, variant)), NoGpu(), problem, variant, workloads, secret=b"1")


def do_check(pool, problem, variant, calibration, name, tmp_path, roles=("check", "time")):
    workloads = [w for role in roles for w in problem.of_role(role, variant)]
    stage = Check(problem=problem, variant=variant, baselines=baselines(calibration), families=families(problem))
    session = Session(pool, baselines={n: b.name for n, b in baselines(calibration).items()})
    lowered = gpu_fakes.lowered_for(workloads, name, tmp_path)
    return stage(session, lowered, gpu_fakes.built_for(name, tmp_path), workloads, secret=b"secret")


def do_time(pool, problem, variant, calibration, name, tmp_path, *, against=None, secret=b"secret", **more):
    workloads = problem.of_role("time", variant)
    aa = calibration_of.aa_spreads(calibration)
    timer = Timer(problem=problem, variant=variant, target=TARGET, baselines=baselines(calibration), aa_spread=aa)
    session = Session(pool, baselines={})
    rival = None
    if against:
        lowered = gpu_fakes.lowered_for(workloads, against, tmp_path)
        rival = Rival(id="00001-incumbent", lowered=lowered, built=gpu_fakes.built_for(against, tmp_path))
    return timer(
        session,
        gpu_fakes.lowered_for(workloads, name, tmp_path),
        gpu_fakes.built_for(name, tmp_path),
        workloads,
        rival=rival,
        parameters={"square": {"BLOCK_M": 64}},
        configurations=50,
        secret=secret,
        **more,
    )


# --- check ----------------------------------------------------------------------------------------------------------


def test_an_honest_kernel_passes_every_kind_of_inputs(pool, problem, variant, calibration, tmp_path):
    errors, evidence = do_check(pool, problem, variant, calibration, "honest", tmp_path, ("check", "time", "held_out"))
    assert set(errors) == {"ragged", "square", "wide", "hidden"}
    assert all(0 <= e <= 1 for e in errors.values())
    seen = [c["family"] for c in evidence["ragged"]["cases"]]
    assert seen == [*families(problem), "changed"]
    assert len(evidence["square"]["cases"]) == 2


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("drops_tail", "error"),
        ("rounds", ""),
        ("forgets_a_row", "differ|NaN"),
        ("adds_to_output", "differ|NaN"),
        ("spoils_input", "writes to its input 'a'"),
        ("writes_past_the_end", "outside its buffers"),
        ("races", "race"),
        ("keeps_by_pointer", ""),
    ],
)
def test_every_kind_of_wrong_is_incorrect(pool, problem, variant, calibration, tmp_path, name, says):
    with pytest.raises(Ruling) as caught:
        do_check(pool, problem, variant, calibration, name, tmp_path)
    ruling = caught.value
    assert ruling.verdict is Verdict.INCORRECT
    assert ruling.stage == "check"
    assert 'workload "ragged" (M=33, N=17, K=65)' in ruling.feedback
    assert any(word in ruling.feedback for word in says.split("|"))


def test_a_kept_answer_is_found_by_the_changed_element_alone(pool, problem, variant, calibration, tmp_path):
    """With only that kind of inputs, so that nothing else can find it."""
    workload = problem.workload("ragged", variant)
    worker = pool.take()
    plan = gpu_fakes.lowered_for([workload], "keeps_by_pointer", tmp_path)
    from evolve.judge.check import contestant

    found = worker.ask(
        {
            "op": "check",
            "workload": workload_to(workload),
            "variant": variant.name,
            "candidate": contestant(plan.plans[0], gpu_fakes.built_for("keeps_by_pointer", tmp_path)),
            "baseline": "library",
            "families": [["changed", 3]],
            "random_seed": 1,
        },
        seconds=1,
    )
    assert "stays the same" in found["cases"][0]["wrong"]


def test_a_held_out_failure_says_nothing_about_it(pool, problem, variant, calibration, tmp_path):
    with pytest.raises(Ruling) as caught:
        do_check(pool, problem, variant, calibration, "drops_tail", tmp_path, ("held_out",))
    assert "70" not in caught.value.feedback
    assert "hidden" not in caught.value.feedback
    assert "hidden" in caught.value.evidence["wrong"]


@pytest.mark.parametrize(
    ("name", "verdict", "says"),
    [
        ("leaves_its_buffer", Verdict.RUNTIME_ERROR, "leaves its buffer"),
        ("asks_for_too_much", Verdict.RUNTIME_ERROR, "more scratch"),
    ],
)
def test_faults_are_blamed_after_a_retry_and_a_probe(
    pool, problem, variant, calibration, tmp_path, name, verdict, says
):
    with pytest.raises(Ruling) as caught:
        do_check(pool, problem, variant, calibration, name, tmp_path)
    assert caught.value.verdict is verdict
    assert says in caught.value.feedback
    assert len(caught.value.evidence["faults"]) == 2
    assert caught.value.evidence["probe"]["healthy"]
    assert pool.taken == 3, "one to fail in, one to probe in, one to fail in again"


def test_a_fault_that_does_not_come_again_is_forgiven(pool, problem, variant, calibration, tmp_path, monkeypatch):
    monkeypatch.setenv("EVOLVE_TEST_MARK", str(tmp_path / "mark"))
    errors, evidence = do_check(pool, problem, variant, calibration, "unlucky_once", tmp_path)
    assert len(errors) == 3
    assert evidence["faults"][0]["kind"] == "cuda"


def test_our_own_mistakes_are_never_the_candidates(pool, problem, variant, calibration, tmp_path):
    workloads = problem.of_role("check", variant)
    stage = Check(problem=problem, variant=variant, baselines={}, families=["no such family"])
    lowered = gpu_fakes.lowered_for(workloads, "honest", tmp_path)
    with pytest.raises(MachineryError, match="no such family"):
        stage(Session(pool, baselines={}), lowered, gpu_fakes.built_for("honest", tmp_path), workloads, secret=b"")


def test_a_missing_binary_is_machinery(pool, problem, variant, calibration, tmp_path):
    workloads = problem.of_role("check", variant)
    stage = Check(problem=problem, variant=variant, baselines={})
    built = gpu_fakes.built_for("honest", tmp_path)
    (tmp_path / "honest" / "kernel.json").unlink()
    with pytest.raises(MachineryError, match="not in the builder's cache"):
        stage(
            Session(pool, baselines={}),
            gpu_fakes.lowered_for(workloads, "honest", tmp_path),
            built,
            workloads,
            secret=b"",
        )


def test_seeds_differ_by_every_part():
    assert len({seed_of(b"s", "a"), seed_of(b"t", "a"), seed_of(b"s", "b"), seed_of(b"s", "a", "b")}) == 4


def test_timed_sizes_get_two_kinds_one_of_them_secret(problem, variant):
    import random

    workload = problem.workload("square", variant)
    drawn = {tuple(families_of(workload, families(problem), random.Random(i))) for i in range(60)}
    assert all(len(d) == 2 and d[0] == "mixed" for d in drawn)
    assert len(drawn) > 5


# --- time -----------------------------------------------------------------------------------------------------------


def test_a_faster_kernel_scores_and_is_promoted(pool, problem, variant, calibration, tmp_path):
    result = do_time(pool, problem, variant, calibration, "quick", tmp_path, against="honest")
    assert result.beats_incumbent
    square = next(m for m in result.measurements if m.workload == "square")
    assert square.ratio == pytest.approx(1.25, rel=0.01)
    assert square.ratio_low <= square.ratio <= square.ratio_high
    assert square.baseline == "library"
    assert square.parameters == {"BLOCK_M": 64}
    assert square.samples == 12
    assert square.eager_us > 0
    kept = result.evidence["square"]
    assert kept["orders"] == ["CIBBIC", "IBCCBI", "BCIICB"]
    assert len(kept["blocks"]) == 12
    turns = [b["order"] for b in kept["blocks"]]
    assert {order: turns.count(order) for order in turns} == dict.fromkeys(kept["orders"], 4), "each begins as often"
    assert [b["place"] for b in kept["blocks"]] == [0] * 6 + [6] * 6, "the buffers moved in between"
    assert kept["watched"][0]["wrong"] == ""
    assert kept["memory"] == "canaries"


def test_a_kernel_does_not_beat_itself(pool, problem, variant, calibration, tmp_path):
    result = do_time(pool, problem, variant, calibration, "honest", tmp_path, against="honest")
    assert not result.beats_incumbent
    assert all(m.ratio == pytest.approx(1, rel=0.01) for m in result.measurements)


def test_who_cannot_win_costs_few_blocks_and_says_so(pool, problem, variant, calibration, tmp_path):
    slower = do_time(pool, problem, variant, calibration, "slower", tmp_path, against="honest")
    far = do_time(pool, problem, variant, calibration, "far_slower", tmp_path, against="honest")
    assert not slower.beats_incumbent
    assert {m.samples for m in slower.measurements} == {RACE_BLOCKS}
    assert {m.samples for m in far.measurements} == {HOPELESS_BLOCKS}
    assert all(m.quick and m.ratio_high / m.ratio_low > 1.1 for m in slower.measurements), "few samples know little"
    assert all(m.ratio_low < 1 / 1.1 < m.ratio_high for m in slower.measurements)
    assert slower.evidence["promotion"]["why"].startswith("timed quickly: -9.")
    assert slower.evidence["square"]["decision"]["call"] == "slower"


def test_a_host_that_is_late_costs_longer_cushions_and_no_sample(
    pool, problem, variant, calibration, tmp_path, monkeypatch
):
    """The device is done with the cushion before the first sample has arrived: that one is taken anew."""
    cushions = []
    monkeypatch.setattr(Timing, "cushion", lambda self: cushions.append(self._cushions))
    monkeypatch.setattr(gpu_fakes.HostEngine, "passed", lambda self, mark: cushions[-1] < 16)
    result = do_time(pool, problem, variant, calibration, "quick", tmp_path, against="honest")
    assert result.beats_incumbent
    assert {m.samples for m in result.measurements} == {12}
    learnt = [cushions[n : n + 3] for n, length in enumerate(cushions) if length == 4]
    assert learnt == [[4, 8, 16]] * len(learnt), "twice as long until it was not late, and so it stays for this place"
    assert cushions.count(16) > 2 * len(learnt)


def test_a_race_that_is_close_is_sampled_to_the_full_with_what_it_has(pool, problem, variant, calibration, tmp_path):
    """2 % are within what one place may be off by; and where nobody races, nothing is quick."""
    close = do_time(pool, problem, variant, calibration, "hardly_slower", tmp_path, against="honest")
    alone = do_time(pool, problem, variant, calibration, "slower", tmp_path, against="honest", race=False)
    for result in (close, alone):
        assert not result.beats_incumbent
        assert {m.samples for m in result.measurements} == {12}
        assert not any(m.quick for m in result.measurements)
    places = [b["place"] for b in close.evidence["square"]["blocks"]]
    assert places == [0] * 6 + [6] * 6, "the race was its first place"


def test_slow_on_one_workload_and_fast_on_another_is_no_lost_race(pool, problem, variant, calibration, tmp_path):
    result = do_time(pool, problem, variant, calibration, "likes_wide", tmp_path, against="honest")
    assert not any(m.quick for m in result.measurements)


def test_a_cheat_that_loses_is_found_out_as_often_as_it_is_watched(pool, problem, variant, calibration, tmp_path):
    """Of a race one workload is watched, which one is secret."""
    found = []
    for number in range(3):
        try:
            do_time(
                pool, problem, variant, calibration, "skips_and_loses", tmp_path, against="quick",
                secret=str(number).encode(),
            )  # fmt: skip
        except Ruling as ruling:
            found.append(ruling.verdict)
    assert found == [Verdict.INCORRECT] * 3, "it skips on all of them, so it does not matter which"


def test_without_an_incumbent_the_first_is_the_best(pool, problem, variant, calibration, tmp_path):
    result = do_time(pool, problem, variant, calibration, "honest", tmp_path)
    assert result.beats_incumbent
    assert result.evidence["square"]["orders"] == ["CBBC", "BCCB"]


def test_strangers_on_the_gpu_bar_promotion_and_are_named(pool, problem, variant, calibration, tmp_path):
    result = do_time(
        pool, problem, variant, calibration, "quick", tmp_path, against="honest", foreigners=["process 7 (python)"]
    )
    assert not result.beats_incumbent
    assert "process 7 (python)" in result.evidence["promotion"]["why"]


@pytest.mark.parametrize("name", ["skips_when_done", "keeps_by_pointer"])
def test_what_is_timed_must_be_computed(pool, problem, variant, calibration, tmp_path, name):
    with pytest.raises(Ruling) as caught:
        do_time(pool, problem, variant, calibration, name, tmp_path)
    assert caught.value.verdict is Verdict.INCORRECT
    assert "while it was timed" in caught.value.feedback


@pytest.mark.parametrize("room", [0, 4 << 30])
def test_what_was_watched_is_compared_when_the_samples_are_taken_or_where_it_would_not_fit_at_once(
    pool, problem, variant, calibration, tmp_path, monkeypatch, room
):
    """Either way each look has its row, and an answer that was right is found right though its inputs have changed."""
    monkeypatch.setattr(watching, "KEPT_BYTES", room)
    references, sampled = [], []
    reference, block = watching.answers.reference_of, Timing.block
    monkeypatch.setattr(watching.answers, "reference_of", lambda *a: references.append(len(sampled)) or reference(*a))
    monkeypatch.setattr(Timing, "block", lambda self: sampled.append(self) or block(self))
    monkeypatch.setattr(gpu_fakes.CLOCK, "noise", 0.01)
    result = do_time(pool, problem, variant, calibration, "honest", tmp_path)
    kept = result.evidence["wide"]
    assert len(kept["blocks"]) > 12
    assert [row["wrong"] for row in kept["watched"]] == [""] * LOOKS.index(len(kept["blocks"])) + [""]
    assert all(row["worst"] > 0 for row in kept["watched"])
    times = len({n for n in references if n})  # but for the rehearsal's
    assert (times == len(result.measurements)) is (room > 0), "all at the end of each workload, or not"
    monkeypatch.setattr(gpu_fakes.CLOCK, "noise", 0.001)
    with pytest.raises(Ruling, match="while it was timed"):
        do_time(pool, problem, variant, calibration, "skips_when_done", tmp_path)


@pytest.mark.parametrize("workload", ["square", "wide"])
def test_nothing_is_skipped_in_any_mode(pool, problem, variant, calibration, tmp_path, workload):
    """`hot` replays once to warm up: what that left must be of no use either."""
    only = [problem.workload(workload, variant)]
    timer = Timer(problem=problem, variant=variant, target=TARGET, baselines=baselines(calibration), aa_spread={})
    with pytest.raises(Ruling) as caught:
        timer(
            Session(pool, baselines={}),
            gpu_fakes.lowered_for(only, "skips_when_done", tmp_path),
            gpu_fakes.built_for("skips_when_done", tmp_path),
            only,
            rival=None,
            parameters={},
            configurations=2,
            secret=b"",
        )
    assert caught.value.verdict is Verdict.INCORRECT


def test_memory_that_does_not_come_back_is_machinery(pool, problem, variant, calibration, tmp_path, monkeypatch):
    monkeypatch.setattr("evolve.judge.gpu.worker.free_bytes", lambda engine: 1 << 20)
    monkeypatch.setattr("evolve.judge.gpu.session.MEMORY_SECONDS", 0.0)
    workloads = problem.of_role("check", variant)
    stage = Check(problem=problem, variant=variant, baselines={})
    with pytest.raises(MachineryError, match="only 1 MiB"):
        stage(
            Session(pool, baselines={}, least_free_bytes=1 << 30),
            gpu_fakes.lowered_for(workloads, "leaves_its_buffer", tmp_path),
            gpu_fakes.built_for("leaves_its_buffer", tmp_path),
            workloads,
            secret=b"",
        )


def test_honesty_now_and_then_is_found_more_often_than_not(pool, problem, variant, calibration, tmp_path):
    """A cheat that counts its launches and is honest at every second one, so also at the last of each block."""
    caught = 0
    for _ in range(6):
        try:
            do_time(pool, problem, variant, calibration, "honest_every_other_time", tmp_path)
        except Ruling:
            caught += 1
    assert caught >= 2


def test_faster_than_memory_is_impossible(pool, problem, variant, calibration, tmp_path):
    with pytest.raises(Ruling) as caught:
        do_time(pool, problem, variant, calibration, "takes_no_time", tmp_path)
    assert caught.value.verdict is Verdict.IMPOSSIBLE
    assert "takes at least 0.01" in caught.value.feedback


def test_heat_discards_blocks_and_bars_promotion(pool, problem, variant, calibration, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_fakes.HostEngine, "slowed", lambda self: True)
    result = do_time(pool, problem, variant, calibration, "quick", tmp_path, against="honest")
    assert not result.beats_incumbent
    assert "discarded" in result.evidence["promotion"]["why"]


def test_the_same_kernel_scores_the_same_twice(pool, problem, variant, calibration, tmp_path):
    scores = []
    for _ in range(4):
        result = do_time(pool, problem, variant, calibration, "quick", tmp_path, against="honest")
        logs = [m.weight * math.log(m.ratio) for m in result.measurements]
        scores.append(math.exp(sum(logs) / sum(m.weight for m in result.measurements)))
    assert max(scores) / min(scores) < 1.01


def test_the_floor_leaves_an_l2_of_writes_out(problem, variant):
    from dataclasses import replace

    workload = problem.workload("square", variant)
    bare = roof_us(problem, workload, replace(TARGET, tflops={}), 1)
    kind = roof_us(problem, workload, replace(TARGET, tflops={}, l2_bytes=1 << 30), 1)
    assert bare == pytest.approx(3 * 64 * 64 * 4 / 4800e3)
    assert kind == pytest.approx(2 * 64 * 64 * 4 / 4800e3)


# --- calibrate ------------------------------------------------------------------------------------------------------


def test_calibration_says_whom_to_beat(calibration):
    row = calibration["workloads"]["square"]
    assert row["baseline"] == "library"
    assert row["others"] == {"absent": "it was never installed"}
    assert row["us"] == pytest.approx(64**3 / 1000, rel=0.01)
    assert row["aa"]["spread"] < 0.005
    assert "aa" not in calibration["workloads"]["ragged"]
    assert calibration["gpu"]["guards"] == "canaries"
    assert "square" in table(calibration)


def test_a_baseline_that_misses_the_bound_stops_everything(problem, variant, tmp_path, monkeypatch):
    text = Path(PROBLEM_FILE).read_text().replace("return a @ b", "return (a.bfloat16() @ b.bfloat16()).float()")
    path = tmp_path / "wrong.py"
    path.write_text(text)
    other = load_problem(path)
    pool = TakesPids(opening(other, variant, str(path)))
    monkeypatch.setattr("evolve.judge.gpu.ceilings.measure", lambda engine: CEILINGS)
    with pytest.raises(ProblemError, match='baseline "library" misses'):
        calibrate(pool, NoGpu(), other, variant, [other.workload("square", variant)], secret=b"1")


def test_calls_fill_a_sample_and_fit_the_memory():
    assert calls_for(10.0, 1e6, 1e12) == 20
    assert calls_for(1500.0, 4e8, 1e12) == 1
    assert calls_for(0.1, 1e3, 1e12) == 128
    assert calls_for(10.0, 1e9, 1e10) == 2
    assert calls_for(10.0, 1e12, 1e9) == 1


def test_versions_nobody_tried_are_named():
    assert any("torch 9.9" in w for w in untried({"torch": "9.9.0"}))


def test_in_place_problems_are_restored_between_samples(tmp_path):
    """y += x, timed: each sample starts from the same y, and what was timed is right."""
    text = """
import torch
from gpu_fakes import CLOCK, KERNELS, tensor_at
from evolve.problem import Argument, Baseline, Norm, Problem, TensorSpec, Variant
from evolve.types import Workload

def make_inputs(workload, device, random_seed):
    rng = torch.Generator("cpu").manual_seed(random_seed)
    return torch.randn(256, generator=rng), torch.randn(256, generator=rng)

def call(x, y):
    CLOCK.run(100)
    y += x

def reference(x, y):
    return x + y

PROBLEM = Problem(
    name="add", entry="add", arguments=(Argument(name="x"), Argument(name="y", role="in_out")),
    outputs=lambda w: (TensorSpec(name="y", shape=(256,), dtype="float32", argument="y"),),
    reference=reference, make_inputs=make_inputs,
    variants=(Variant(name="fp32", params={}, comparators={"y": Norm(strict=2e-6, at_most=1e-5)}),),
    workloads=(Workload(name="w", params={}),), interpreted=(),
    baselines=(Baseline(name="lib", call=call),), bytes_moved=lambda w: 3072.0,
)
"""
    path = tmp_path / "add.py"
    path.write_text(text)
    problem = load_problem(path)
    variant = problem.variant(None)
    workload = problem.workload("w", variant)
    worker = gpu_fakes.Local({"op": "open", "problem": str(path), "variant": "fp32", "rehearse": workload_to(workload)})
    found = worker.ask(
        {"op": "baseline", "workload": workload_to(workload), "variant": "fp32", "random_seed": 1, "timed": True},
        seconds=1,
    )
    assert found["baselines"]["lib"]["rows"][0]["ratio"] <= 1


def test_every_workload_is_a_workload_again():
    from evolve.judge.gpu.facts import workload_of

    workload = Workload(name="w", params={"M": 1, "flag": True}, role="held_out", mode="hot", weight=2.5)
    assert workload_of(workload_to(workload)) == workload
