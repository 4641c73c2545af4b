"""What the engines of `throughput.py` are told: configurations as people would write them, and one problem for all."""

from __future__ import annotations

from pathlib import Path

WORKLOADS = """workloads:
  - {name: square, params: {M: 4096, N: 4096, K: 4096}}
  - {name: mlp_up, params: {M: 4096, N: 14336, K: 4096}, weight: 2}
  - {name: decode, params: {M: 16, N: 4096, K: 4096}, mode: weights_cold}
"""
PROBLEM = """from evolve.problem import load_problem, with_workloads
from evolve.types import Workload

PROBLEM = with_workloads(
    load_problem("WHOLE"),
    [
        Workload(name="square", params={"M": 4096, "N": 4096, "K": 4096}),
        Workload(name="mlp_up", params={"M": 4096, "N": 14336, "K": 4096}, weight=2.0),
        Workload(name="decode", params={"M": 16, "N": 4096, "K": 4096}, mode="weights_cold"),
    ],
)
"""


def ours(problem: Path, seed: Path, url: str, *, backend: str) -> str:
    return f"""problem: {problem}
variant: bf16
seeds: [{seed}]
council: [{{member: openai, model: trace, api_base: "{url}"}}]
backend: {backend}
tuner: {{enabled: false}}
budget: {{steps: 100000}}
prompt: {{kinds: {{rewrite: 1}}}}
{WORKLOADS}"""


def openevolve(url: str, *, timeout: float) -> str:
    """Its defaults, but for what costs it time here: no retries, no cascade, small prompts. A limit of tasks a child,
    however high, makes Python spawn its workers: forked ones cannot use CUDA, which the seed's evaluation opened."""
    return f"""max_iterations: 100000
max_tasks_per_child: 100000
checkpoint_interval: 1000000
diff_based_evolution: false
max_code_length: 100000
llm:
  api_base: "{url}"
  api_key: none
  timeout: 30
  retries: 0
  models: [{{name: trace, weight: 1.0}}]
prompt: {{num_top_programs: 1, num_diverse_programs: 0}}
database: {{population_size: 100, archive_size: 20, num_islands: 1, feature_dimensions: [complexity]}}
evaluator: {{timeout: {int(timeout)}, max_retries: 0, cascade_evaluation: false}}
"""
