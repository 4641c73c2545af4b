"""Ray clusters of fake GPUs on this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # `deadly`


@pytest.fixture(autouse=True)
def one_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of Ray's reads once whether tokens are asked for, and a Ray of its own turns them on."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-these-tests-and-nobody-else")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")


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

    monkeypatch.setenv("PYTHONPATH", str(HERE))  # where Ray's workers find `deadly`
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0, "include_dashboard": False})
    yield made
    ray.shutdown()
    made.shutdown()
