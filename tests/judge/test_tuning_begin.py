"""Where a search begins: at what a parent had, its new switches on and off, and at what is known of such kernels."""

import sys
from pathlib import Path
from types import SimpleNamespace

from evolve.judge import tuning_begin as begin
from evolve.judge.form import chained, form
from evolve.judge.stages import Ready, Screened
from evolve.judge.targets import find
from evolve.problem import load_problem
from evolve.types import Candidate, Evaluation, Job, Measurement, Verdict

sys.path.insert(0, str(Path(__file__).parent))

from cpu_bench import ROOT

SPACE = {
    "BLOCK_M": (16, 32, 64, 128, 256),
    "BLOCK_N": (32, 64, 128, 256),
    "BLOCK_K": (32, 64, 128),
    "num_warps": (4, 8),
    "num_stages": (2, 3, 4, 5, 6),
}
DEFAULTS = {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "num_warps": 4, "num_stages": 2, "PRECISION": "ieee"}
BEST = {"BLOCK_M": 256, "BLOCK_N": 128, "BLOCK_K": 32, "num_warps": 8, "num_stages": 5, "PRECISION": "ieee"}
SWITCHES = {"WARP_SPECIALIZE": (True, False), "SPLIT_K": (1, 2, 4, 8, 16, 32)}
ON = {"WARP_SPECIALIZE": True, "SPLIT_K": 8}
NAMES = ("4096", "split_k")
PROBLEM = load_problem(ROOT / "evaluators/matmul.py")
WORKLOADS = {n: PROBLEM.workload(n, PROBLEM.variant("bf16")) for n in NAMES}
DOT = "scf.for { %a = tt.descriptor_load\n tt.dot %a, %b }"


def ready(space=SPACE, defaults=DEFAULTS, parent=True, **traits):
    rows = tuple(
        Measurement(
            workload=name,
            baseline="cublas",
            time_us=1.0,
            ratio=1.0,
            ratio_low=1.0,
            weight=1.0,
            ratio_high=1.0,
            parameters=BEST,
        )
        for name in NAMES
    )
    evaluation = Evaluation(verdict=Verdict.PASSED, measurements=rows, traits=traits)
    plans = tuple(SimpleNamespace(workload=n, launches=(SimpleNamespace(ttir="t"),)) for n in NAMES)
    return Ready(
        job=Job(candidate=Candidate(step=1, source="", member="m", kind="rule"), parent=evaluation if parent else None),
        screened=Screened(source="", digest="", entry="f", kernels=(), defaults=defaults, tune=space),
        gated=SimpleNamespace(lowered=SimpleNamespace(plans=plans, modules={"t": DOT})),
        built=None,
        parameters=dict.fromkeys(NAMES, defaults),
    )


def tuner(candidate, name="4096", points=40):
    setting = begin.setting_of(PROBLEM, WORKLOADS[name], candidate, find("sm_90"))
    limits = begin.limits_of(candidate, setting, points)
    return begin.tuner_of(PROBLEM, WORKLOADS[name], candidate, limits, points)


def test_a_kernel_without_a_parent_starts_at_its_defaults_and_the_priors():
    asked = tuner(ready(parent=False)).ask(10)
    assert asked[0] == {n: DEFAULTS[n] for n in SPACE}
    assert {"BLOCK_M": 128, "BLOCK_N": 256, "BLOCK_K": 64, "num_warps": 8, "num_stages": 3} in asked


def test_each_new_switch_is_tried_off_at_the_parents_best_for_every_workload():
    child = ready({**SPACE, **SWITCHES}, {**DEFAULTS, **ON})
    assert begin.kin(child) == "strange"
    for name in NAMES:
        asked = tuner(child, name).ask(10)
        parents = {n: v for n, v in {**BEST, **ON}.items() if n in {**SPACE, **SWITCHES}}
        assert asked[0] == parents
        assert {**parents, "WARP_SPECIALIZE": False} in asked[:3]
        assert {**parents, "SPLIT_K": 1} in asked[:3]
        assert any(p["WARP_SPECIALIZE"] and p["num_warps"] == 4 and p["BLOCK_M"] == 128 for p in asked)
    split = {p["SPLIT_K"] for p in tuner(child, "split_k").ask(14)[4:]}
    assert 8 in split, "sixteen tiles for 132 SMs"


def test_a_familiar_child_starts_from_what_is_known_and_asks_beside_it():
    child = ready()
    assert begin.kin(child) == "familiar"
    assert begin.kin(ready(parent=False)) == "none"
    search = tuner(child)
    asked = search.ask(10, near=True)
    assert asked == [{n: p[n] for n in SPACE} for p in (BEST, DEFAULTS)]
    for point in asked:
        search.tell(point, 100.0 if point["BLOCK_M"] == 256 else 300.0)
    count = 2
    while not search.settled(pairs=False):
        (point,) = search.ask(1, near=True)
        search.tell(point, 200.0)
        count += 1
    assert count <= 40 / 3, "about a third of a full search"


def test_another_form_at_the_parents_own_parameters_is_no_familiar_child(tmp_path):
    def shot(text):
        (tmp_path / "kernel.ttir").write_text(text)
        launch = SimpleNamespace(ttir="t")
        return SimpleNamespace(
            plan=SimpleNamespace(launches=(launch,)), built=SimpleNamespace(of=lambda _: SimpleNamespace(path=tmp_path))
        )

    parent = form([DOT])
    assert parent == "1 product, 1 loop, descriptors"
    assert begin.familiar(ready(form=parent), [shot(DOT)])
    assert not begin.familiar(ready(form=parent), [shot(DOT.replace("descriptor_load", "load"))])
    assert not begin.familiar(ready(form=parent), [shot(DOT + DOT)])
    assert begin.familiar(ready(), [shot(DOT)]), "an older run has no form on record: the names decide"
    assert not begin.familiar(ready({**SPACE, **SWITCHES}, {**DEFAULTS, **ON}, form=parent), [shot(DOT)])


def test_what_a_kernel_is_shows_in_its_ttir():
    assert not chained([DOT, DOT])
    assert chained(["tt.dot\nmath.exp2\ntt.dot"])
    assert form(["scf.while tt.atomic_rmw", "math.exp2"]) == "1 loop, 1 atomic; softmax"
