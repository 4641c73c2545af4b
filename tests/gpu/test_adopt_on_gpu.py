"""Four files as people write them, on a real GPU: adopted, judged beside the original as it is called today, tuned.

    python tests/gpu/test_adopt_on_gpu.py --out DIR [--seconds 300] [--only moe,norm]

does the same as pytest with everything kept: DIR/adopt.json after each file, the terminal's text in DIR/<name>.txt, the
written problems and seeds in DIR/<name>/, and a table at the end. One child process a file, so that nothing spreads.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script the repository's root is not on the path

from evolve.judge.gpu.nvml import count

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(count() == 0, reason="no NVIDIA GPU answers here")]
KERNELS = Path(__file__).parent.parent / "adopt" / "kernels"
FOUR = {
    "moe": ("moe_gating.py:topk_gating", "moe_gating_ref.py:reference"),
    "norm": ("rmsnorm_fp8.py:rms_norm_dynamic_per_token_quant", "rmsnorm_fp8_ref.py:reference"),
    "swa": ("swa_attention.py:sliding_attention", "swa_attention_ref.py:attention"),
    "rope": ("rope_cache.py:rope_and_cache", "rope_cache_ref.py:rope_and_cache"),
}
EVOLVE = (sys.executable, "-m", "evolve")


def adopted(name: str, folder: Path, seconds: float) -> dict:
    """One file through `evolve init` and `evolve judge --json`, as a user would; nothing here raises."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in KERNELS.glob("*.py"):
        shutil.copy(file, folder)
    kernel, reference = FOUR[name]
    began = time.monotonic()
    init = run(["init", name, "--kernel", kernel, "--reference", reference], folder, seconds)
    row = {"name": name, "init_seconds": round(time.monotonic() - began, 1), "status": init.returncode}
    row["said"] = (init.stdout + init.stderr)[-20000:]
    if not (folder / "seeds" / f"{name}.py").is_file():
        return row
    left = max(30.0, seconds - (time.monotonic() - began))
    judged = run(["judge", f"seeds/{name}.py", "-p", f"evaluators/{name}.py", "--json"], folder, left)
    row["untuned"] = rows_of(judged.stdout)
    row["judge_said"] = judged.stderr[-4000:]
    row["seconds"] = round(time.monotonic() - began, 1)
    return row


def run(words, folder: Path, seconds: float) -> subprocess.CompletedProcess:
    places = [str(KERNELS.parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "COLUMNS": "200", "PYTHONPATH": os.pathsep.join(places)}
    try:
        return subprocess.run(
            [*EVOLVE, *words],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        out = (late.stdout or b"").decode("utf-8", "replace")
        return subprocess.CompletedProcess(words, 124, out, f"not done after {seconds:.0f} s")


def rows_of(text: str) -> dict:
    """The judgement at the seed's defaults: those that the autotuner chose, where it was asked."""
    try:
        return json.loads(text)
    except ValueError:
        return {"unreadable": text[-2000:]}


@pytest.mark.parametrize("name", FOUR)
def test_adopted_judged_and_tuned(name, tmp_path):
    row = adopted(name, tmp_path, 280.0)
    assert row["status"] == 0, row["said"]
    assert "The seed passes" in row["said"]
    assert "× original [" in row["said"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=300.0, help="for all of it")
    parser.add_argument("--only", default=",".join(FOUR))
    order = parser.parse_args()
    order.out.mkdir(parents=True, exist_ok=True)
    ends, rows = time.monotonic() + order.seconds, []
    for name in order.only.split(","):
        left = ends - time.monotonic()
        row = adopted(name, order.out / name, left) if left > 20 else {"name": name, "said": "no time left"}
        rows.append(row)
        (order.out / f"{name}.txt").write_text(row.get("said", ""), encoding="utf-8")
        (order.out / "adopt.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
        print(f"{name}: status {row.get('status')}, {row.get('seconds', row.get('init_seconds', 0))} s", flush=True)
    for row in rows:
        lines = row.get("said", "").splitlines()
        start = next((i for i, line in enumerate(lines) if line.startswith("The seed")), max(0, len(lines) - 8))
        print(f"\n== {row['name']}\n" + "\n".join(lines[start : start + 14]))


if __name__ == "__main__":
    main()
