"""Looking at runs starts fast and anywhere: what is heavy is imported by whoever needs it, when it is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

HEAVY = ("torch", "triton", "openevolve", "openai", "scipy", "optuna", "ray", "libcst")
PROBE = """
import json, sys
{statement}
print("HEAVY", json.dumps([name for name in {heavy!r} if name in sys.modules]))
"""
HELP = """
sys.argv = ["evolve", {words}]
from evolve.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
"""


@pytest.mark.parametrize(
    "statement",
    [
        "import evolve",
        "import evolve.config",
        "import evolve.journal, evolve.lineage, evolve.runs, evolve.sentences",
        "import evolve.terminal.dry_run, evolve.terminal.doctor",
        "import evolve.dashboard.serve, evolve.dashboard.app, evolve.dashboard.report",
        HELP.format(words="'--help'"),
        HELP.format(words="'--version'"),
        HELP.format(words="'run', '--help'"),
    ],
)
def test_nothing_heavy_is_imported(statement: str) -> None:
    script = PROBE.format(statement=statement, heavy=HEAVY)
    environment = {**os.environ, "COVERAGE_PROCESS_START": ""}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    last = done.stdout.strip().splitlines()[-1]
    assert json.loads(last.removeprefix("HEAVY ")) == []
