"""Runs of the product for real, on this machine's GPU, and what came of them.

    python benchmarks/proof.py --out DIR configs/proof/matmul.yaml=300 configs/proof/attention.yaml=200 [--set A.B=C]

Each configuration gets its seconds of wall clock; a run that is not over by then is interrupted as a person would do
it, and keeps all that it judged. What is kept of each is the run packed slim (NAME.tar.gz: opens in `evolve show`), and
in summary.json the best with its intervals. Nothing is chosen here: the best is what the run confirmed.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tarfile
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from evolve import lineage
from evolve.journal import Journal
from evolve.packing import pack

ROOT = Path(__file__).parents[1]
GRACE = 60.0  # seconds that an interrupted run has to finish what it judges


def searched(config: str, seconds: float, sets: list[str], log: Path) -> tuple[Path, float]:
    """The run's folder, and how long it took."""
    name = f"proof-{Path(config).stem}-{int(time.time())}"
    command = [sys.executable, "-m", "evolve", "run", "--config", config, "--name", name]
    command += [word for each in sets for word in ("--set", each)]
    began = time.monotonic()
    with log.open("w") as out, subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT) as process:
        for patience, sign in ((seconds, signal.SIGINT), (GRACE, signal.SIGTERM), (GRACE, signal.SIGKILL)):
            try:
                process.wait(timeout=patience)
                break
            except subprocess.TimeoutExpired:
                process.send_signal(sign)
    return ROOT / "runs" / name, time.monotonic() - began


def found(folder: Path) -> dict[str, Any]:
    with closing(Journal.open(folder)) as journal:
        best, spent = lineage.best(journal), lineage.spend(journal)
        row: dict[str, Any] = {
            "meta": {k: journal.meta.get(k) for k in ("problem", "variant", "device", "ranking_key", "workloads")},
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
            "ancestry": [[r.step, r.score, r.hypothesis] for r in lineage.ancestors(journal, best.candidate_id)],
            "seed": [asdict(m) for s in seeds for m in s.evaluation.measurements],
        }


def kept(folder: Path, log: Path, out: Path) -> None:
    slim = pack(folder, out / "packed" / folder.name, slim=True)
    with tarfile.open(out / f"{folder.name}.tar.gz", "w:gz") as tar:
        tar.add(slim.folder, arcname=folder.name)
        tar.add(log, arcname=f"{folder.name}/run.log")


def table(row: dict[str, Any]) -> None:
    print(f"{row['config']}: {row['steps']} steps in {row['seconds']:.0f} s", flush=True)
    if "best" not in row:
        print("  nothing passed")
        return
    print(f"  best {row['best']} confirmed={row['confirmed']} score {row['score'][0]:.3f}")
    for m in row["measurements"]:
        interval = f"{m['ratio']:.3f} [{m['ratio_low']:.3f}, {m['ratio_high']:.3f}]"
        print(f"  {m['workload']:16} {m['time_us']:9.2f} us  {interval} x {m['baseline']}  {m['parameters']}")
    for step, score, hypothesis in row["ancestry"]:
        print(f"    {step:5} {score:.3f} {hypothesis[:100]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", metavar="CONFIG=SECONDS")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    order = parser.parse_args()
    order.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for each in order.configs:
        config, _, seconds = each.partition("=")
        log = order.out / f"{Path(config).stem}.log"
        folder, took = searched(config, float(seconds or 300), order.set, log)
        if not folder.is_dir():
            print(f"{config}: no run was made; {log} says why:\n{log.read_text()[-2000:]}", flush=True)
            continue
        rows.append({"config": config, "seconds": took, **found(folder)})
        (order.out / "summary.json").write_text(json.dumps(rows, indent=1))
        kept(folder, log, order.out)
        table(rows[-1])


if __name__ == "__main__":
    main()
