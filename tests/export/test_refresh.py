"""Export and refresh where a GPU answers, with a judge and a trial that say what the test wants: what becomes of the
table, what is refused, and that a refresh is whole or not at all."""

import json
import shutil
from dataclasses import replace

import pytest

from evolve import exporting, lineage
from evolve.errors import MachineryError, UsageError
from evolve.export import verifying
from evolve.journal import Journal
from evolve.types import Confirmed, Evaluation, Judged, Measurement, Verdict

from .conftest import make_run

DEVICE, TRITON = "NVIDIA H200", "3.6"


def figures(median, half=0.01, **more):
    return {"median": median, "low": median - half, "high": median + half, "blocks": 24, **more}


class Judge:
    """An executor that passes every candidate, or says what it is told to."""

    def __init__(self, problem, verdict=Verdict.PASSED):
        self.problem, self.verdict, self.jobs, self.closed = problem, verdict, [], False

    async def evaluate(self, job):
        self.jobs.append(job)
        if self.verdict is not Verdict.PASSED:
            return Evaluation(
                verdict=self.verdict, stage="check", feedback="hidden", evidence={"ruling": "row 3 is off"}
            )
        roles = ("time", "held_out") if job.mode == "confirm" else ("time",)
        measured = tuple(self._measured(w, job) for w in self.problem.workloads if w.role in roles)
        plan = {"workloads": {w.name: {"launches": []} for w in self.problem.workloads}}
        return Evaluation(verdict=Verdict.PASSED, measurements=measured, evidence={"plan": plan})

    def _measured(self, workload, job):
        """Nothing is promised for held-out sizes."""
        ratio = 0.98 if workload.role == "held_out" else 1.2
        parameters = job.parameters.get(workload.name) or {"num_warps": 2}
        lows = {"ratio_low": ratio - 0.01, "ratio_high": ratio + 0.01}
        return Measurement(
            workload=workload.name, baseline="cublas", time_us=9, ratio=ratio, parameters=parameters, **lows
        )

    def close(self):
        self.closed = True


def trial(orders, slow=(), wrong="", ratio=1.2, eager=1.1, here=(DEVICE, TRITON), better=None):
    """What the fresh process would have found of the orders it was given."""
    rows = {}
    for candidate in orders:
        for draft in candidate["rows"]:
            r = 0.9 if draft["workload"] in slow else ratio
            r += 0.1 * ((better or {}).get(draft["workload"]) == candidate["kernels"])
            rows.setdefault(candidate["kernels"], {})[draft["workload"]] = {
                "runs": "kernel",
                "launches": {"count": 1, "difference": ""},
                "cases": [{"family": "given", "worst": 0.1, "wrong": wrong}],
                "measured": {
                    "us": 9.0,
                    "library_us": 9.0 * r,
                    "ratio": figures(r),
                    "baseline": {"name": "cublas", "us": 9.0 * r, "ratio": figures(r)},
                    "eager": {"kernel_us": 10.0, "library_us": 10.0 * eager, "ratio": figures(eager)},
                },
            }
    return {
        "import_seconds": 0.01,
        "device": here[0],
        "triton": here[1],
        "autocast": ["bfloat16"],
        "candidates": rows,
        "workloads": {f"{k}, {n}": r for k, each in rows.items() for n, r in each.items()},
    }


class Fresh:
    """A trial's process that finds what it is told to."""

    def __init__(self, found):
        self.found = found

    def run(self, draft, written, orders, gpu, say):
        say("trying it")
        return self.found(orders)

    def close(self):
        pass


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    """A machine with a GPU, a run, and `say(**how)` for what judge and trial find."""
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path, "matmul", variant="fp16")
    judges = []

    def say(verdict=Verdict.PASSED, here=(DEVICE, TRITON), **how):
        def opener(config, written, calibration=None):
            judges.append(Judge(written.problem, verdict))
            return lambda: judges[-1]

        monkeypatch.setattr(exporting, "gpu_present", lambda: True)
        monkeypatch.setattr(exporting, "_opener", opener)
        monkeypatch.setattr(verifying, "FreshProcess", lambda: Fresh(lambda orders: trial(orders, here=here, **how)))
        monkeypatch.setattr(verifying.Bench, "_here", staticmethod(lambda: here))
        return judges

    return say


def export(folder="fast_matmul", targets=("matmul",)):
    from pathlib import Path

    return exporting.export(exporting.Order(targets=targets, to=Path(folder)))


def table(folder="fast_matmul"):
    from pathlib import Path

    return json.loads((Path(folder) / "dispatch.json").read_text())


def test_a_verified_export_runs_the_kernel_where_it_is_faster(gpu, tmp_path):
    judges = gpu(slow=("held_wide",))
    report = export()
    rows = {r["workload"]: r for r in table()["rows"]}
    assert rows["4096"]["parameters"] == {"num_warps": 2}  # a model's choice was tuned again
    assert rows["held_wide"]["parameters"] == "baseline"
    assert {(r["device"], r["triton"], r["verified"]) for r in rows.values()} == {(DEVICE, TRITON, True)}
    assert table()["autocast"] == ["bfloat16"]
    assert [j.mode for j in judges[0].jobs] == ["judge", "confirm"]
    assert set(judges[0].jobs[1].parameters) == {w.name for w in judges[0].problem.workloads}
    assert judges[0].closed
    assert "| 4096 | kernel |" in (report.folder / "README.md").read_text()
    assert "every launch was the judged plan's" in report.sentences[0]


def test_a_launch_bound_row_says_so(gpu):
    gpu(eager=0.8)
    export()
    assert {r["eager"] for r in table()["rows"]} == {"baseline"}
    assert all("launch is not worth it" in r["why"] for r in table()["rows"])


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"verdict": Verdict.INCORRECT}, "INCORRECT in check: row 3 is off"),
        ({"wrong": "c is 2 times its bound"}, "given inputs: c is 2 times its bound"),
        ({"slow": ("4096",)}, r"4096: 0.900 \[0.890, 0.910\] × cublas.*the judge found 1.200 \[1.190, 1.210\]"),
    ],
    ids=["judge", "answer", "speed"],
)
def test_what_does_not_hold_is_refused_with_the_comparison(how, said, gpu, tmp_path):
    gpu(**how)
    with pytest.raises(UsageError, match=said):
        export()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["runs"]


def other_device(folder):
    """The package as it was verified on another GPU."""
    whole = table(folder)
    for row in whole["rows"]:
        row["device"] = "NVIDIA H100 80GB HBM3"
    (folder / "dispatch.json").write_text(json.dumps(whole))


def test_a_refresh_adds_rows_and_keeps_those_of_others(gpu, tmp_path):
    gpu()
    folder = export().folder
    other_device(folder)
    shutil.rmtree(tmp_path / "runs")  # neither journal nor council
    judges = gpu(ratio=1.3)
    report = exporting.refresh(folder)
    rows = table()["rows"]
    assert {r["device"] for r in rows} == {DEVICE, "NVIDIA H100 80GB HBM3"}
    assert len(rows) == 2 * len(report.rows)
    assert judges[-1].jobs[0].parent.parameters["4096"] == {"num_warps": 2}  # the tuner begins with what is known
    again = exporting.refresh(folder)
    assert len(table()["rows"]) == len(rows)  # its own rows were replaced
    assert len(json.loads((folder / "provenance.json").read_text())["refreshed"]) == 2
    assert again.folder == folder
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fast_matmul"]


def test_a_package_goes_from_device_to_device_and_from_triton_to_triton(gpu, tmp_path):
    """Each pair's rows are its own; what runs on one is not changed by what was found on another."""
    pairs = [(DEVICE, "3.6"), ("NVIDIA H100 80GB HBM3", "3.6"), (DEVICE, "3.7"), ("NVIDIA H100 80GB HBM3", "3.6")]
    gpu(here=pairs[0], ratio=1.2)
    folder = export().folder
    found = [dict(_by_pair())]
    for here, ratio in zip(pairs[1:], (1.3, 1.25, 1.4), strict=True):
        gpu(here=here, ratio=ratio, slow=("held_wide",) if ratio == 1.25 else ())
        exporting.refresh(folder)
        found.append(dict(_by_pair()))
    assert [set(f) for f in found] == [set(pairs[:1]), set(pairs[:2]), set(pairs[:3]), set(pairs[:3])]
    assert found[-1][pairs[0]] == found[0][pairs[0]]
    assert found[-1][pairs[2]] == found[2][pairs[2]]
    assert {ratio for _, _, ratio in found[-1][pairs[1]]} == {1.4}
    assert {name for runs, name, _ in found[-1][pairs[2]] if runs == "library"} == {"held_wide"}
    assert {runs for runs, _, _ in found[-1][pairs[0]]} == {"kernel"}
    text = (folder / "README.md").read_text()
    assert [f"**{d}, Triton {t}**" in text for d, t in pairs] == [True] * 4


def _by_pair():
    rows = {}
    for row in table()["rows"]:
        runs = "library" if row["parameters"] == "baseline" else "kernel"
        rows.setdefault((row["device"], row["triton"]), []).append(
            (runs, row["workload"], row["measured"]["ratio"]["median"])
        )
    return rows


def test_of_several_candidates_the_best_serves_each_workload(gpu, tmp_path):
    shutil.rmtree(tmp_path / "runs")
    make_run(tmp_path, "matmul", variant="fp16", candidates=2)
    gpu(better={"4096": "kernels_1", "8192": "kernels"})
    folder = export(targets=("matmul:0", "1")).folder
    serves = {r["workload"]: r["kernels"] for r in table()["rows"]}
    assert serves["4096"] == "kernels_1"
    assert serves["8192"] == "kernels"
    assert (folder / "kernels_1.py").read_text().endswith("# another\n")
    gpu(better={"4096": "kernels"})
    exporting.refresh(folder)
    assert {r["workload"]: r["kernels"] for r in table()["rows"]}["4096"] == "kernels"


def test_a_kernel_that_does_not_hold_here_runs_the_library_here(gpu):
    gpu()
    folder = export().folder
    other_device(folder)
    gpu(verdict=Verdict.INCORRECT)
    report = exporting.refresh(folder)
    here = [r for r in table()["rows"] if r["device"] == DEVICE]
    assert {r["parameters"] for r in here} == {"baseline"}
    assert all("row 3 is off" in r["why"] for r in here)
    assert any("does not hold here" in s for s in report.sentences)
    assert any(r["parameters"] != "baseline" for r in table()["rows"])


def test_a_refresh_that_breaks_leaves_the_package_as_it_was(gpu, monkeypatch):
    gpu()
    folder = export().folder
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}

    def broken(orders):
        raise MachineryError("the trial died")

    monkeypatch.setattr(verifying, "FreshProcess", lambda: Fresh(broken))
    with pytest.raises(MachineryError, match="the trial died"):
        exporting.refresh(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before


def test_what_is_no_package_or_no_gpu_is_said(gpu, tmp_path, package, monkeypatch):
    with pytest.raises(UsageError, match="no package that `evolve export` wrote"):
        exporting.refresh(tmp_path)
    (tmp_path / "dispatch.json").write_text("[1]")
    with pytest.raises(UsageError, match="export the package anew"):
        exporting.refresh(tmp_path)
    monkeypatch.setattr(exporting, "gpu_present", lambda: False)
    with pytest.raises(UsageError, match="no NVIDIA GPU answers here"):
        exporting.refresh(package.folder)


def test_a_run_of_several_kinds_of_gpu_has_rows_for_each(gpu, tmp_path):
    """The best of each, confirmed on its own kind: this GPU's rows are verified, the other's wait for it."""
    gpu()
    with Journal.open(tmp_path / "runs/matmul", write=True) as journal:
        first = journal.attempt(journal.resolve("best"))
        led = replace(
            first.evaluation, ranking_key="gpu|A100", beats_incumbent=True, evidence={"environment": {"device": "A100"}}
        )
        other = replace(first.candidate, step=1, source=first.candidate.source + "# otherwise\n", digest="")
        journal.append(Judged(step=1, candidate=other, evaluation=led))
        journal.append(Confirmed(step=1, candidate_id=other.id, evaluation=led))
        assert journal.resolve("best") == first.id
        assert [row.candidate_id for row in lineage.other_bests(journal)] == [other.id]
    folder = export().folder
    rows = table()["rows"]
    assert {(r["device"], r["verified"]) for r in rows} == {(DEVICE, True), ("A100", False)}
    assert {r["kernels"] for r in rows if r["device"] == "A100"} == {"kernels_1"}
    assert {r["parameters"] for r in rows if r["device"] == "A100"} == {"baseline"}
    assert json.loads((folder / "provenance.json").read_text())["candidates"].keys() == {"kernels", "kernels_1"}
