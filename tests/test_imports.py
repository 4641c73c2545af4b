"""Imports go one way: this test walks every module's syntax tree, the imports inside functions included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "evolve"
NOUNS = {"types", "errors", "seams", "sentences", "syntax", "__version__"}  # everyone may
RECORD = {"journal", "lineage", "experiments", "runs", "packing"}
# These may import everything.
EDGE = {
    "wiring",
    "runner",
    "ranked",
    "session",
    "inbox",
    "byhand",
    "judging",
    "checking",
    "benching",
    "tuned",
    "newproblem",
    "interop",
    "cli",
    "__main__",
    "exporting",
    "moves",
}
# Who may import whom, beside NOUNS and its own room.
MAY: dict[str, set[str]] = {
    **{
        alone: set()
        for alone in (
            "__init__",
            "config",
            "errors",
            "exported",
            "loop",
            "problem",
            "seams",
            "sentences",
            "syntax",
            "tuner",
            "types",
        )
    },
    **dict.fromkeys(RECORD, RECORD),
    "population": {"problem", *RECORD},
    "prompts": {"problem", *RECORD},
    "rules": {"problem", *RECORD},
    "council": {"problem", "rules", "prompts", "config", *RECORD},
    "judge": {"problem", "tuner"},
    "executors": {"judge", "problem"},
    "adopt": {"judge", "problem"},
    "terminal": {"config", "problem", *RECORD},
    "dashboard": {"config", "terminal", *RECORD},
    "export": {"executors", "judge", "problem", "tuner", *RECORD},
}
# Third parties that stop in some rooms; nobody else may import them, however late.
ONLY_IN: dict[str, set[str]] = {
    "torch": {"judge", "adopt", "export"},
    "triton": {"judge", "adopt", "export"},
    "openevolve": {"population", "config", "prompts", "interop"},
    "openai": {"council"},
    "libcst": {"rules", "adopt"},
    "ray": {"executors"},
    "rich": {"terminal", *EDGE},
    "typer": {"cli"},
    **{name: {"dashboard"} for name in ("starlette", "uvicorn", "jinja2", "markupsafe", "pygments")},
}
MODULES = sorted(p.relative_to(PACKAGE) for p in PACKAGE.rglob("*.py") if not {"data", "templates"} & set(p.parts))


def room(path: Path) -> str:
    """A folder, or a module beside the folders; `journal_disk.py` is of the journal's room."""
    name = path.parts[0].removesuffix(".py")
    return name if name.startswith("__") else name.split("_")[0]


def imported(path: Path) -> Iterator[str]:
    package = ["evolve", *path.with_suffix("").parts][:-1]
    for node in ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def faults(path: Path) -> Iterator[str]:
    own = room(path)
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "evolve":
            theirs = room(Path(parts[1])) if len(parts) > 1 else "__version__"
            if own not in EDGE and theirs not in NOUNS | MAY[own] | {own}:
                yield f"evolve/{path} imports {name}: {own} may not import {theirs}"
        elif own not in ONLY_IN.get(parts[0], {own}):
            yield f"evolve/{path} imports {name}, which stops in {', '.join(sorted(ONLY_IN[parts[0]]))}"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_go_one_way(path: Path) -> None:
    assert room(path) in MAY.keys() | EDGE, f"evolve/{path}: a new room; say in this table whom it may import"
    assert list(faults(path)) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("judge/x.py", "def f():\n    from evolve.population import Population"),
        ("judge/x.py", "from evolve import journal"),
        ("judge/sub/x.py", "from ... import council"),
        ("loop.py", "import torch"),
        ("terminal/x.py", "import torch.cuda"),
        ("council/x.py", "from evolve.judge.screen import screen"),
        ("journal.py", "from openevolve.config import Config"),
    ],
)
def test_the_test_can_fail(path: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(source)
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    assert len(list(faults(Path(path)))) == 1
