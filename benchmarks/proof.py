"""Runs of the product for real, on this machine's GPU, and what came of them.

    python benchmarks/proof.py --out DIR --total 540 attention=150 matmul=120 paged_decode=40 [--resume RUN] [--no-fp16]

Each NAME is configs/proof/NAME.yaml, searched for its seconds of wall clock; a run that is not over by then is
interrupted as a person would do it, and keeps all that it judged. Then each best is tuned and timed beside the
libraries and the plain seed, tuned as long, on all sizes of the table (`evolve bench`, one process a problem and
dtype). What does not fit into --total is left out and said. --resume goes on with an earlier run of that configuration,
a folder that may come from another machine: replies that lie in its mailbox are judged at once. --proposals DIR brings
DIR/NAME/*.md, replies that were written to an earlier run's prompts, to a run that begins, as what they then are:
candidates proposed by hand, children of its seed. Nothing is chosen here: the best is what the run confirmed.

Two files come of it, rewritten after every part: DIR/summary.json, and DIR/all.tgz with the runs whole, so that they
can be resumed, and the logs. `benchmarks/proof_pages.py` makes the tables of README and docs of them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from evolve import lineage
from evolve.council.mailbox import read_front
from evolve.journal import Journal
from evolve.journal_disk import replace_file
from evolve.prompts.read import edited, hypothesis_of, prediction_of
from evolve.runs import is_run

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "runs"
GRACE = 45.0  # seconds that an interrupted run has to finish what it judges
SAMPLES = 2.0  # seconds a workload, in a final comparison
ALONE = 8.0  # seconds to wait for the GPU to be left by what came before
# What a final comparison takes on an H200, startup included; with torch.compile among the baselines more.
FINAL, COMPILES, EXPORT = 70.0, 60.0, 90.0


@dataclass(frozen=True, kw_only=True)
class Table:
    """The sizes that results are told on (the search may see fewer), and what runs beside the kernel."""

    problem: str
    workloads: tuple[str, ...]
    compiled: bool = False  # whether torch.compile is what there is to beat


TABLES = {
    "matmul": Table(
        problem="evaluators/matmul.py",
        workloads=("1024", "4096", "8192", "short_k", "mlp_up", "skinny16", "split_k"),
    ),
    "attention": Table(
        problem="evaluators/attention.py", workloads=("4k", "4k_causal", "16k_causal", "2k_d64_causal", "1k_d64")
    ),
    "layernorm_residual": Table(
        problem="evaluators/layernorm_residual.py",
        workloads=("4096", "8192", "1024", "4096_sum", "8192_sum", "1024_sum"),
        compiled=True,
    ),
    "matmul_gelu": Table(problem="evaluators/matmul_gelu.py", workloads=("wide", "square", "few_rows")),
    "paged_decode": Table(
        problem="evaluators/paged_decode.py", workloads=("b1_8k", "b8_8k", "b64_8k", "b64_2k"), compiled=False
    ),
}


@dataclass(kw_only=True)
class Proof:
    out: Path
    until: float  # on the monotonic clock
    backend: str | None
    tune: float
    proposals: Path | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)

    @property
    def left(self) -> float:
        return self.until - time.monotonic()

    def keep(self) -> None:
        (self.out / "summary.json").write_text(json.dumps(self.rows, indent=1))
        with tarfile.open(self.out / "all.tgz", "w:gz", compresslevel=3) as tar:
            for folder in self.kept:
                tar.add(folder, arcname=folder.name)
            for file in sorted(self.out.iterdir()):
                if file.suffix in (".log", ".json"):
                    tar.add(file, arcname=file.name)

    # --- The search ---------------------------------------------------------------------------------------------------

    def search(self, name: str, seconds: float, earlier: Path | None, sets: list[str]) -> dict[str, Any]:
        config = f"configs/proof/{name}.yaml"
        folder = brought(earlier) if earlier else RUNS / f"proof-{name}-{int(time.time())}"
        command = ["run", "--config", config, *(["--resume", folder.name] if earlier else ["--name", folder.name])]
        command += [word for each in sets for word in ("--set", each)]
        seconds = min(seconds, self.left - GRACE)
        if seconds < 30:
            return {"name": name, "run": folder.name, "skipped": "the time was up"}
        alone()
        log = self.out / f"{name}.log"
        began = time.monotonic()
        brings = partial(propose, folder, sorted((self.proposals / name).glob("*.md")) if self.proposals else [])
        status = evolve(command, log, seconds, meanwhile=brings)
        if not is_run(folder):
            return {"name": name, "skipped": f"no run was made (status {status}): {log.read_text()[-600:]}"}
        self.kept.append(folder)
        return {"name": name, "config": config, "seconds": time.monotonic() - began, **found(folder)}

    # --- The comparison -----------------------------------------------------------------------------------------------

    def compare(self, row: dict[str, Any], variant: str) -> None:
        """The run's best and the seed, both tuned as long, beside every baseline on every size of the table."""
        name = row["name"]
        table = TABLES.get(name)
        if table is None or "best" not in row:
            return
        least = FINAL + COMPILES * table.compiled
        if self.left < least / 2:
            row[variant] = {"skipped": "the time was up"}
            return
        words = ["bench", f"{row['run']}:best", "--problem", table.problem, "--variant", variant, "--json"]
        words += [word for each in table.workloads for word in ("--workload", each)]
        words += ["--tune", f"{self.tune:g}", "--seconds", f"{SAMPLES:g}"]
        words += ["--compiled" if table.compiled and variant == "bf16" else "--no-compiled"]
        words += ["--backend", self.backend] if self.backend else []
        alone()
        log, began = self.out / f"{name}-{variant}.log", time.monotonic()
        status = evolve(words, log, min(self.left - 5, 2.5 * least))
        text = log.read_text()
        lines = [line for line in text.splitlines() if line.startswith('{"schema"')]
        skipped = {"skipped": f"no comparison came of it (status {status}): {text[-600:]}"}
        row[variant] = {**(json.loads(lines[-1]) if lines else skipped), "seconds": time.monotonic() - began}
        if name == "paged_decode" and variant == "bf16" and self.backend is None:
            row["dense"] = self._dense()

    def _dense(self) -> dict[str, Any]:
        """What a cache without pages costs, timed in the same minute."""
        file = self.out / "dense.json"
        command = [sys.executable, "benchmarks/dense_decode.py", "--out", str(file)]
        try:
            subprocess.run(command, cwd=ROOT, timeout=max(1.0, min(60.0, self.left)), check=True, capture_output=True)
            told: dict[str, Any] = json.loads(file.read_text())
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            return {"skipped": f"{type(error).__name__}: {error}"}
        return told

    # --- The package --------------------------------------------------------------------------------------------------

    def export(self, row: dict[str, Any]) -> None:
        """The best as an importable module, verified and timed on this GPU."""
        if "best" not in row:
            return
        if self.left < EXPORT / 2:
            row["package"] = {"skipped": "the time was up"}
            return
        alone()
        name = f"fast_{row['name']}"
        folder, log = self.out / name, self.out / f"{row['name']}-export.log"
        status = evolve(["export", f"{row['run']}:best", "--to", str(folder), "--name", name], log, self.left - 5)
        if (folder / "dispatch.json").is_file():
            self.kept.append(folder)
            row["package"] = {"name": name, "status": status}
        else:
            row["package"] = {"skipped": f"no package (status {status}): {log.read_text()[-600:]}"}


def evolve(words: list[str], log: Path, seconds: float, meanwhile: Callable[[], None] = lambda: None) -> int:
    """The command as a person would give it, and interrupted as a person would when the time is up."""
    command = [sys.executable, "-m", "evolve", *words]
    with log.open("w") as out, subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT) as process:
        threading.Thread(target=meanwhile, daemon=True).start()
        for patience, sign in ((seconds, signal.SIGINT), (GRACE, signal.SIGTERM), (5.0, signal.SIGKILL)):
            try:
                return process.wait(timeout=max(1.0, patience))
            except subprocess.TimeoutExpired:
                process.send_signal(sign)
        return process.wait()


def propose(folder: Path, replies: Sequence[Path]) -> None:
    """As soon as the run is there: each reply as an order in its mailbox (evolve/inbox.py says what that is)."""
    seed = None
    while replies and seed is None:
        time.sleep(0.2)
        if is_run(folder):
            with closing(Journal.open(folder)) as journal:
                seed = next((r.candidate_id for r in journal.rows("s.kind = 'seed'")), None)
    for number, reply in enumerate(replies):
        text = read_front(reply.read_text())[0]
        order = {
            "source": edited(text, None).source,
            "parent": seed,
            "hypothesis": f"{hypothesis_of(text)} Prediction: {prediction_of(text)}",
            "member": "claude",
        }
        (folder / "mailbox").mkdir(exist_ok=True)
        replace_file(folder / "mailbox" / f"judge-{number:03d}.json", json.dumps(order).encode())


def brought(run: Path) -> Path:
    """Under runs/ of this checkout, where `--resume` finds it by name; it may have been carried here."""
    folder = RUNS / run.name
    if not is_run(folder):
        RUNS.mkdir(exist_ok=True)
        shutil.copytree(run, folder)
    (folder / "lock").unlink(missing_ok=True)  # of a process on another machine
    return folder


def alone() -> None:
    """Nothing is promoted while another process is on the GPU: what came before may still be leaving."""
    if shutil.which("nvidia-smi") is None:
        return
    until = time.monotonic() + ALONE
    words = ["nvidia-smi", "--query-compute-apps=pid,name", "--format=csv,noheader"]
    while there := subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip():
        if time.monotonic() > until:
            print(f"still on the GPU after {ALONE:g} s: {there}", flush=True)
            return
        time.sleep(0.5)


def found(folder: Path) -> dict[str, Any]:
    with closing(Journal.open(folder)) as journal:
        best, spent = lineage.best(journal), lineage.spend(journal)
        row: dict[str, Any] = {
            "run": folder.name,
            "meta": {k: journal.meta.get(k) for k in ("problem", "variant", "device", "ranking_key", "workloads")},
            "versions": journal.environment.get("versions", {}),
            "steps": journal.last_step() + 1,
            "spent": asdict(spent),
        }
        if best is None or best.candidate_id is None:
            return row
        attempt = journal.attempt(best.candidate_id)
        seeds = [journal.attempt(r.candidate_id) for r in journal.rows("s.kind = 'seed'") if r.candidate_id]
        return row | {
            "best": best.candidate_id,
            "confirmed": best.confirmed,
            "score": [best.score, best.score_low, best.score_high],
            "measurements": [asdict(m) for m in attempt.evaluation.measurements],
            "ancestry": [
                [r.step, r.score, r.member, r.hypothesis] for r in lineage.ancestors(journal, best.candidate_id)
            ],
            "seed": [asdict(m) for s in seeds for m in s.evaluation.measurements],
        }


def said(row: dict[str, Any]) -> None:
    if "skipped" in row:
        print(f"{row['name']}: {row['skipped']}", flush=True)
        return
    print(f"{row['name']}: {row['steps']} steps in {row['seconds']:.0f} s, {row['run']}", flush=True)
    if "best" not in row:
        print("  nothing passed")
        return
    print(f"  best {row['best']} confirmed={row['confirmed']} score {row['score'][0]:.3f}")
    for m in row["measurements"]:
        interval = f"{m['ratio']:.3f} [{m['ratio_low']:.3f}, {m['ratio_high']:.3f}]"
        print(f"  {m['workload']:16} {m['time_us']:9.2f} us  {interval} x {m['baseline']}  {m['parameters']}")


def compared(row: dict[str, Any], variant: str) -> None:
    data = row.get(variant)
    if not data:
        return
    if "skipped" in data:
        print(f"  {row['name']} {variant}: {data['skipped']}", flush=True)
        return
    for each in data["workloads"]:
        beside = "  ".join(f"{a['name']} {a['ratio']:.3f}" for a in each["against"])
        print(f"  {variant} {each['workload']:14} {each['time_us']:9.2f} us  {beside}")
    means = "  ".join(f"{g['name']} {g['ratio']:.3f}" for g in data["geomean"])
    print(f"  {variant} geomean        {means}  in {data['seconds']:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("searches", nargs="+", metavar="NAME=SECONDS", help="0 seconds: only what --resume brings")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--total", type=float, default=540.0, metavar="SECONDS")
    parser.add_argument("--resume", type=Path, action="append", default=[], metavar="RUN")
    parser.add_argument("--proposals", type=Path, metavar="DIR")
    parser.add_argument("--tune", type=float, default=12.0, help="seconds, best and seed each, before a comparison")
    parser.add_argument("--no-final", action="store_true")
    parser.add_argument("--no-fp16", action="store_true")
    parser.add_argument("--export", action="append", default=[], metavar="NAME", help="of which to make a package")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    parser.add_argument("--backend", help="of the comparisons, to rehearse without a GPU; --set backend=... for runs")
    order = parser.parse_args()
    order.out.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + order.total
    proof = Proof(out=order.out, until=until, backend=order.backend, tune=order.tune, proposals=order.proposals)
    earlier = {config_of(run): run for run in order.resume}
    for each in order.searches:
        name, _, seconds = each.partition("=")
        if float(seconds or 0) or name not in earlier:
            proof.rows.append(proof.search(name, float(seconds or 120), earlier.get(name), order.set))
        else:
            proof.kept.append(folder := brought(earlier[name]))
            proof.rows.append({"name": name, "config": f"configs/proof/{name}.yaml", "seconds": 0.0, **found(folder)})
        proof.keep()
        said(proof.rows[-1])
    for variant in () if order.no_final else ("bf16",) if order.no_fp16 else ("bf16", "fp16"):
        for row in proof.rows:
            proof.compare(row, variant)
            proof.keep()
            compared(row, variant)
    for row in (r for r in proof.rows if r["name"] in order.export):
        proof.export(row)
        proof.keep()
        print(f"  {row['name']}: {row.get('package')}", flush=True)


def config_of(run: Path) -> str:
    with closing(Journal.open(run)) as journal:
        return Path(str(journal.meta["config"])).stem


if __name__ == "__main__":
    main()
