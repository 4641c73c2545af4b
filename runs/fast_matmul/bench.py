"""The function against the library on this machine's GPU, on the workloads of dispatch.json: interleaved samples, the
median ratio and its interval. Needs torch and triton only. `evolve bench` on this folder measures more.

    python bench.py [--json] [WORKLOAD ...]
"""

import argparse
import importlib.util
import json
import math
import statistics
import sys
import time
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
ROUNDS, SAMPLE_US = 25, 400.0


def package():
    """This folder, under its own name, installed or not."""
    name = json.loads((HERE / "dispatch.json").read_text(encoding="utf-8"))["name"]
    if name in sys.modules:  # pytest may have imported it, to find its tests
        return sys.modules[name], importlib.import_module(f"{name}._dispatch")
    spec = importlib.util.spec_from_file_location(name, HERE / "__init__.py", submodule_search_locations=[str(HERE)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module, importlib.import_module(f"{name}._dispatch")


def inputs(spec, row):
    """Dense tensors of the row's sizes and layouts with random contents; whole numbers are 1, or counted where
    each names a place of its own."""
    made, orders = [], iter(zip(row["dtypes"], row["layout"]))
    for argument in spec["arguments"]:
        name, kind = argument["name"], argument["kind"]
        if kind == "tensor":
            dtype, order = next(orders)
            shape = [row["sizes"][n] for n in spec["dims"][name]]
            made.append(_tensor(shape, order, getattr(torch, dtype), name in spec.get("distinct", ())))
        else:
            made.append(row["flags"].get(name, row["sizes"].get(name, 1e-5)))
    return made


def answers(spec, call, arguments):
    """A call's outputs, in the problem's order, from copies of what it writes into."""
    names = [a["name"] for a in spec["arguments"]]
    given = [a.clone() if n in spec["results"] else a for n, a in zip(names, arguments)]
    made = call(*given)
    returned, by_name = iter(made if isinstance(made, list | tuple) else [made]), dict(zip(names, given))
    return [by_name[n] if n else next(returned) for n in spec["results"]]


def _tensor(shape, order, dtype, counted):
    stored = [shape[int(d)] for d in order]
    back = [order.index(str(d)) for d in range(len(shape))]
    if dtype.is_floating_point:
        return torch.randn(stored, device="cuda").to(dtype).permute(back)
    numbers = torch.arange(math.prod(stored), device="cuda")
    return (numbers if counted else torch.ones_like(numbers)).to(dtype).view(stored).permute(back)


def graph(call, sets, calls):
    for arguments in sets[:2]:
        call(*arguments)
    torch.cuda.synchronize()
    made = torch.cuda.CUDAGraph()
    with torch.cuda.graph(made):
        kept = [call(*sets[i % len(sets)]) for i in range(calls)]
    return made, kept


def sample(replay):
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e3


def compare(dispatch, function, row):
    spec = dispatch.TABLE.spec
    nbytes = sum(a.nbytes for a in inputs(spec, row) if isinstance(a, torch.Tensor))
    sets = [inputs(spec, row) for _ in range(max(1, min(16, (256 << 20) // max(1, nbytes))))]
    began = time.perf_counter()
    for arguments in sets:
        dispatch.LIBRARY(*arguments)
    torch.cuda.synchronize()
    calls = max(1, min(128, round(SAMPLE_US / (1e6 * (time.perf_counter() - began) / len(sets)))))
    graphs = [graph(f, sets, calls)[0] for f in (function, dispatch.LIBRARY)]
    pairs = []
    for number in range(ROUNDS + 3):
        order = (0, 1) if number % 2 else (1, 0)
        times = {i: sample(graphs[i].replay) for i in order}
        pairs.append((times[0] / calls, times[1] / calls))
    ratios = sorted(math.log(theirs / ours) for ours, theirs in pairs[3:])
    low, high = ratios[ROUNDS // 2 - 5], ratios[ROUNDS // 2 + 5]
    return {
        "workload": row["workload"],
        "us": statistics.median(ours for ours, _ in pairs[3:]),
        "library_us": statistics.median(theirs for _, theirs in pairs[3:]),
        "ratio": [math.exp(v) for v in (ratios[ROUNDS // 2], low, high)],
    }


def main():
    parser = argparse.ArgumentParser(description="The function against the library, in CUDA graphs.")
    parser.add_argument("workloads", nargs="*")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("No GPU here: there is nothing to measure.")
    module, dispatch = package()
    function = getattr(module, dispatch.OP)
    here = (torch.cuda.get_device_name(), dispatch._choice.triton_version())
    rows = [r for r in dispatch.TABLE.rows if (r["device"], r["triton"]) == here]
    if not rows:
        raise SystemExit(f"dispatch.json has no row for {here[0]} with Triton {here[1]}: `evolve refresh {HERE}`.")
    wanted = [r for r in rows if not options.workloads or r["workload"] in options.workloads]
    found = [compare(dispatch, function, row) for row in wanted]
    if options.json:
        print(json.dumps({"device": here[0], "triton": here[1], "torch": torch.__version__, "rows": found}))
        return
    print(f"{here[0]}, Triton {here[1]}, torch {torch.__version__}; times a call in a CUDA graph")
    print(f"{'workload':<20} {'µs':>10} {'library µs':>11}   ratio [95 %]")
    for row in found:
        middle, low, high = row["ratio"]
        ratio = f"{middle:.3f} [{low:.3f}, {high:.3f}]"
        print(f"{row['workload']:<20} {row['us']:>10.2f} {row['library_us']:>11.2f}   {ratio}")


if __name__ == "__main__":
    main()
