"""What tests behind the gate share: plans and TTIR without a jail, and one builder for a whole session."""

import importlib.util
import sys
from pathlib import Path

import pytest

from evolve.judge.build import Builder
from evolve.judge.targets import find

ROOT = Path(__file__).parents[2]


def _benchmark(name):
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def lowering():
    return _benchmark("lowering")


@pytest.fixture(scope="session")
def sanity(lowering):
    """The benchmark's structures, whose plans the model's tests use too."""
    pytest.importorskip("triton")
    return _benchmark("model_sanity")


@pytest.fixture(scope="session")
def sm_90():
    return find("sm_90")


@pytest.fixture(scope="session")
def builder(tmp_path_factory, sm_90):
    made = Builder(cache=tmp_path_factory.mktemp("build") / "cache", target=sm_90, workers=2, timeout=60)
    yield made
    made.close()
