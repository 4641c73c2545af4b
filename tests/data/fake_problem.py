"""A problem without torch, for tests of the loop: only the fake judge can rule on it."""

from evolve.problem import Argument, Baseline, Exact, Problem, TensorSpec, Variant
from evolve.types import Workload

PROBLEM = Problem(
    name="fake",
    entry="fake",
    arguments=(Argument(name="x"),),
    outputs=lambda workload: (TensorSpec(name="y", shape=(1,), dtype="float32"),),
    reference=lambda x: x,
    make_inputs=lambda workload, device, random_seed: (0,),
    variants=(Variant(name="only", params={}, comparators={"y": Exact()}),),
    workloads=(Workload(name="fake", params={}),),
    interpreted=(),
    baselines=(Baseline(name="fake", call=lambda x: x),),
    bytes_moved=lambda workload: 1.0,
)
