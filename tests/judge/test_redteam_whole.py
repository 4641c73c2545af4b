"""The packaged suite through the whole judge, as `evolve redteam --backend cpu` runs it: all that needs no GPU."""

import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from evolve.judge.redteam import cases, run
from evolve.problem import load_problem

sys.path.insert(0, str(Path(__file__).parent))

from cpu_bench import ROOT, opened

PATIENCE = 8.0  # seconds for what never ends
HERE = [case for case in cases() if not case.needs_gpu]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Two threads over the same judges, which they open when the first of them needs one."""
    folder, lock, judges = tmp_path_factory.mktemp("cpu"), threading.Lock(), {}

    def judge(problem, variant):
        with lock:
            if (problem, variant) not in judges:
                loaded = load_problem(problem or ROOT / "evaluators/matmul.py")
                name = loaded.variant(variant).name
                judges[problem, variant] = opened(
                    folder / str(len(judges)), problem=loaded, variant=name, timeout=PATIENCE, seed=None
                ).backend
            return judges[problem, variant].evaluate

    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda case: next(run([case], judge, has_gpu=False)), HERE))
    for backend in judges.values():
        backend.close()
    return made


def test_every_attack_is_refused_for_the_right_reason_and_no_honest_control_is(rows):
    wrong = [(row.case.name, row.case.expected, row.got, row.reason) for row in rows if not row.right]
    assert not wrong, "\n".join(map(str, wrong))


def test_the_suite_reaches_every_stage_that_needs_no_gpu(rows):
    stages = Counter(row.got.rpartition(" at ")[2] for row in rows)
    assert {"screen", "lower", "gate", "check", "time"} <= set(stages), stages
    assert sum(row.case.kind == "honest" for row in rows) >= 10
