"""Ray clusters of fake GPUs on this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # `deadly`


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the deadly judge writes down what it begins."""
    monkeypatch.setenv("EVOLVE_DEADLY_LOG", str(tmp_path / "begun.txt"))
    return tmp_path / "begun.txt"


@pytest.fixture
def cluster(log: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without GPUs, where the driver is. `cluster.add_node(num_gpus=...)` adds machines."""
    ray = pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(HERE))  # where Ray's workers find `deadly`
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0, "include_dashboard": False})
    yield made
    ray.shutdown()
    made.shutdown()
