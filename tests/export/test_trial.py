"""The trial on a GPU made of Python: its whole way, and each thing that it must not let pass."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from triton.runtime.jit import JITFunction

from evolve.export import holding, recording, timing, trying_gpu
from evolve.export.signature import Signature
from evolve.judge.evidence import of_plan
from evolve.judge.gate import gate
from evolve.judge.gpu.facts import workload_to
from evolve.judge.jail import Jail
from evolve.judge.jailed.triton_glue import Lowering
from evolve.judge.lower import lower
from evolve.judge.screen import screen
from evolve.judge.stages import Point
from evolve.judge.targets import find
from evolve.problem import bind, load_problem
from evolve.types import Evaluation, Measurement, Verdict, Workload

from . import fake_cuda
from .conftest import ROOT
from .test_dispatch import gpu, row  # noqa: F401  a fixture


def on_cpu(problem, workloads):
    """The problem with small workloads and inputs that lie where the fake GPU is."""
    own = problem.make_inputs

    def make(workload, device, random_seed):
        return own(workload, "cpu" if device == "cuda" else device, random_seed)

    return replace(problem, make_inputs=make, workloads=tuple(workloads))


def sized(name, role, m, n, k):
    return Workload(name=name, role=role, params={"M": m, "N": n, "K": k})


WORKLOADS = (
    sized("timed", "time", 64, 32, 48),
    sized("odd", "check", 33, 17, 9),
    sized("hidden", "held_out", 80, 40, 48),
)
PLAN = {"launches": [{"kernel": "matmul_kernel"}], "roots": [], "outputs": []}


@pytest.fixture
def tried(gpu, monkeypatch):  # noqa: F811
    state = gpu()
    problem = on_cpu(load_problem(ROOT / "evaluators" / "matmul.py"), WORKLOADS)
    variant = problem.variant("fp16")
    monkeypatch.setattr(recording, "plan_of_call", lambda *a: PLAN)
    own = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda device, dtype: own("cpu", dtype))
    monkeypatch.setattr(timing, "HOST_CALLS", 3)
    monkeypatch.setattr(timing, "ROUND_SECONDS", 1e-4)

    def run(kernels=fake_cuda.KERNELS, plan=PLAN):
        rows = [row(64, 32, 48, runs="baseline"), row(80, 40, 48, runs="baseline")]
        order = {
            "name": state.module.__name__,
            "workloads": [workload_to(bind(w, variant)) for w in WORKLOADS],
            "candidates": [
                {
                    "kernels": "kernels",
                    "rows": rows,
                    "plans": dict.fromkeys(("timed", "odd", "hidden"), plan),
                    "baselines": {"timed": "cublas"},
                }
            ],
        }
        (ROOT / state.module.__path__[0] / "kernels.py").write_text(kernels)
        found = {"workloads": {}}
        trying_gpu.on_gpu(order, found, problem, variant, state.module, lambda: None)
        return json.loads(json.dumps(found, allow_nan=False))

    return run


def test_all_the_way(tried):
    found = tried()
    assert found["device"] == fake_cuda.NAME
    assert found["autocast"] == ["float16"]
    rows = found["candidates"]["kernels"]
    assert {r["runs"] for r in rows.values()} == {"kernel"}
    assert holding.wrong(found) == []
    assert len(rows["odd"]["cases"]) > 5
    assert "measured" not in rows["odd"]
    for name in ("timed", "hidden"):
        measured = rows[name]["measured"]
        assert measured["ratio"]["low"] <= measured["ratio"]["median"] <= measured["ratio"]["high"]
        assert measured["eager"]["host"]["replayed"]
        assert measured["eager"]["host"]["function_us"] > 0
    assert rows["timed"]["measured"]["baseline"]["name"] == "cublas"  # torch.matmul itself, and not the package's call


def test_a_wrong_answer_is_seen(tried):
    found = tried(fake_cuda.KERNELS.replace("a.float() @ b.float()", "(a.float() @ b.float()) * 1.01"))
    assert len(holding.wrong(found)) >= 3


def test_an_answer_that_is_only_wrong_when_replayed_is_seen(tried, monkeypatch):
    """The second call is the one that is held."""
    monkeypatch.setattr(fake_cuda.Compiled, "run", lambda self, *a: None)
    assert holding.wrong(tried())


def test_other_launches_than_the_judged_ones_are_refused(tried):
    found = tried(plan={"launches": [{"kernel": "another"}], "roots": [], "outputs": []})
    rows = found["candidates"]["kernels"]
    assert "launch 0 (another): its kernel is matmul_kernel" in rows["timed"]["launches"]["difference"]
    assert "measured" not in rows["timed"]  # nobody needs its times
    assert any("another" in s for s in holding.against(found, {"kernels": evaluation(1.5, 1.4)}))


def evaluation(ratio, low):
    return Evaluation(
        verdict=Verdict.PASSED,
        measurements=(
            Measurement(workload="timed", baseline="cublas", time_us=9, ratio=ratio, ratio_low=low, ratio_high=ratio),
        ),
    )


@pytest.mark.parametrize(
    ("public", "judged_low", "refused"),
    [(1.30, 1.28, False), (1.24, 1.28, False), (1.10, 1.28, True), (0.90, 0.95, False)],
    ids=["as judged", "a little less", "clearly less", "nothing was promised"],
)
def test_speed_must_be_kept_where_it_was_promised(public, judged_low, refused):
    ratio = {"median": public, "low": public * 0.99, "high": public * 1.005}
    found = {"runs": "kernel", "measured": {"ratio": ratio}}
    said = holding.slower(found, evaluation(judged_low * 1.01, judged_low).measurements[0])
    assert bool(said) is refused
    assert not refused or "and the judge found 1.29" in said


@pytest.fixture(scope="module")
def jail():
    made = Jail(slots=1)
    yield made
    made.close()


@pytest.mark.parametrize("name", ["matmul", "layernorm_residual"])
def test_the_host_function_s_launches_are_the_judged_plan_s(name, jail, monkeypatch, package):
    """The real judge lowers a real seed in its jail; the package's host function is recorded on real tensors. Only the
    launches themselves are left out: they need a GPU."""
    import importlib.util

    problem = load_problem(ROOT / "evaluators" / f"{name}.py")
    variant = problem.variant("fp16")
    source = (ROOT / "seeds" / f"{name}.py").read_text()
    workload = problem.of_role("check", variant)[0]
    screened, target = screen(source, entry=problem.entry), find("sm_90")
    points = [Point(workload=workload, parameters=screened.defaults)]
    raw, again = (lower(jail, screened, problem, points, target, shuffle_seed=i) for i in (0, 1))
    gated = gate(raw, screened=screened, problem=problem, points=points, target=target, again=again)
    judged = of_plan(gated)["workloads"][workload.name]

    spec = importlib.util.spec_from_file_location("_replay_on_trial", package.folder / "_replay.py")
    replay = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(replay)
    spec = importlib.util.spec_from_file_location("seed_on_trial", ROOT / "seeds" / f"{name}.py")
    seed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(seed)
    host = replay.Host(seed, problem.entry, None)
    monkeypatch.setattr(JITFunction, "run", lambda *a, **k: None)
    monkeypatch.setattr(recording, "_lowering", lambda: Lowering("cuda", 90, 32))
    arguments = problem.make_inputs(workload, "cpu", 1)
    made = recording.plan_of_call(host, problem, workload, arguments, dict(screened.defaults))
    assert recording.difference(made, judged) == ""
    assert JITFunction.run is not None
    other = recording.plan_of_call(host, problem, workload, arguments, {**screened.defaults, "num_warps": 8})
    assert "options" in recording.difference(other, judged)


def test_parameters_of_what_was_not_timed_follow_the_table():
    def col(*facts):
        return replace(sized(*facts), params={**sized(*facts).params, "b_layout": "col"})

    timed = (
        sized("large", "time", 4096, 4096, 4096),
        sized("one", "time", 1, 4096, 4096),
        col("col", "time", 64, 64, 64),
    )
    others = (
        sized("held", "held_out", 1536, 5120, 2560),
        sized("row", "check", 1, 512, 768),
        col("odd", "check", 9, 9, 9),
    )
    problem = replace(load_problem(ROOT / "evaluators" / "matmul.py"), workloads=(*timed, *others))
    given = {w.name: {"BLOCK_M": i} for i, w in enumerate(timed)}
    filled = Signature(problem, problem.variant("bf16")).filled(given)
    assert filled == {**given, "held": given["large"], "row": given["one"], "odd": given["col"]}


@pytest.mark.parametrize("scratch", [0, 128])
def test_the_bare_launch_has_the_allocator_that_a_person_would_have_set(scratch):
    from triton.runtime import _allocation

    seen = []

    class Kernel:
        def __getitem__(self, grid):
            return lambda *args, **kwargs: seen.append(_allocation._allocator.get() is not _allocation._NULL_ALLOCATOR)

    compiled = SimpleNamespace(metadata=SimpleNamespace(global_scratch_size=scratch))
    record = SimpleNamespace(watch=SimpleNamespace(made=[]), launches=[(Kernel(), compiled, (1,), (), {})])
    timing.bare(record)()
    assert seen == [bool(scratch)]
    assert _allocation._allocator.get() is _allocation._NULL_ALLOCATOR
