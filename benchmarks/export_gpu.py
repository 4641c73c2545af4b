"""What an exported package does on a GPU: made by a short run, verified, and then used as a user would use it.

    python benchmarks/export_gpu.py --out DIR --seconds 360 [--only PART ...]

Two short runs (matmul, attention) are made, exported and verified, one after the other, for nothing is promoted while
another process is on the GPU; then each part runs in a process of its own and writes DIR/<part>.json, so that one
that fails costs nothing but itself. A part whose package is not there is skipped. Without a GPU the packages run the
library, and what can be tried without one is.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attempts import attempted

ROOT = Path(__file__).resolve().parent.parent
RUNS = {
    "matmul": {
        "workloads": [
            {"name": "square", "params": {"M": 4096, "N": 4096, "K": 4096}},
            {"name": "mlp", "params": {"M": 8192, "N": 2048, "K": 2048}},
            {"name": "few", "params": {"M": 256, "N": 2048, "K": 2048}},
            {"name": "small", "params": {"M": 512, "N": 512, "K": 512}},
        ],
        "seed": "matmul",
    },
    "attention": {
        "workloads": [
            {"name": "causal", "params": {"B": 4, "H": 16, "HK": 16, "S": 2048, "D": 128, "causal": True}},
            {"name": "full", "params": {"B": 4, "H": 16, "HK": 16, "S": 2048, "D": 128, "causal": False}},
        ],
        "seed": "attention",
    },
}
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
BOUND = 8e-3  # bf16, of each answer; two of them are at most twice that apart


# --- Making the packages ----------------------------------------------------------------------------------------------


MAKING_SECONDS = 110.0


def make(name: str, out: Path, seconds: float) -> subprocess.Popen[str]:
    """One process that runs and then exports. When each began stands in its log."""
    import yaml

    config = {
        "problem": str(ROOT / "evaluators" / f"{name}.py"),
        "variant": "bf16",
        "workloads": RUNS[name]["workloads"],
        "seeds": [str(ROOT / "seeds" / f"{RUNS[name]['seed']}.py")],
        "council": ["rules"],
        "backend": "auto",
        "budget": {"steps": 1},
        "tuner": {"enabled": True, "points": 24, "seconds": 25, "gpu_seconds": 4},
    }
    work = out / f"work_{name}"
    work.mkdir(parents=True, exist_ok=True)
    (work / f"{name}.yaml").write_text(yaml.safe_dump(config))
    to = out / "packages" / f"fast_{name}"
    to.parent.mkdir(exist_ok=True)
    script = (
        f"set -e; date +RUN-%s.%N; {sys.executable} -m evolve run --config {name}.yaml --name {name} || true; "
        f"date +EXPORT-%s.%N; {sys.executable} -m evolve export {name} --to {to} || "
        f"{sys.executable} -m evolve export {name}:0 --to {to}; date +END-%s.%N"
    )
    log = (work / "log").open("w")
    command = ["timeout", str(int(seconds)), "bash", "-c", script]
    return subprocess.Popen(command, cwd=work, env=ENVIRONMENT, stdout=log, stderr=log, text=True)


def made(name: str, out: Path, process: subprocess.Popen[str], began: float) -> dict[str, Any]:
    status = process.wait()
    folder = out / "packages" / f"fast_{name}"
    found: dict[str, Any] = {"status": status, "seconds": round(time.time() - began, 1)}
    log = (out / f"work_{name}" / "log").read_text(errors="replace")
    (out / f"log_{name}.txt").write_text(log)
    found["log"] = log[-1500:]
    marks = {w.split("-")[0]: float(w.split("-")[1]) for w in log.split() if w.startswith(("RUN-", "EXPORT-", "END-"))}
    found["run_seconds"] = round(marks.get("EXPORT", 0.0) - marks.get("RUN", 0.0), 1)
    found["export_seconds"] = round(marks.get("END", 0.0) - marks.get("EXPORT", 0.0), 1)
    if (folder / "dispatch.json").is_file():
        rows = json.loads((folder / "dispatch.json").read_text())["rows"]
        found["rows"] = [{k: r.get(k) for k in ("workload", "parameters", "eager", "why", "measured")} for r in rows]
        provenance = json.loads((folder / "provenance.json").read_text())
        trial = provenance.get("trial", {})
        found["trial"] = {k: v for k, v in trial.items() if k != "workloads"}
        found["trial seconds"] = {n: r.get("seconds") for n, r in trial.get("workloads", {}).items()}
        found["judge seconds"] = {n: c.get("seconds") for n, c in provenance.get("candidates", {}).items()}
    return found


# --- Parts: each gets the folder of packages and returns what it found ------------------------------------------------


def timed(call: Callable[[], Any], count: int = 30) -> float:
    """Median microseconds a call with events, after a warm-up."""
    import torch

    for _ in range(5):
        call()
    if not torch.cuda.is_available():
        began = time.perf_counter()
        call()
        return (time.perf_counter() - began) * 1e6
    found = []
    for _ in range(count):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) * 1e3)
    return sorted(found)[count // 2]


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def randn(*shape: int, scale: float = 1.0) -> Any:
    import torch

    return (torch.randn(shape, device=device()) * scale).to(torch.bfloat16)


def apart(ours: Any, theirs: Any) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def package(name: str) -> tuple[Any, Any]:
    return importlib.import_module(name), importlib.import_module(f"{name}._dispatch")


def overhead() -> dict[str, Any]:
    """Host microseconds of an eager call, kernel forced: the function, torch.empty + kernel[grid], torch.matmul."""
    import torch

    from evolve.export import timing

    module, dispatch = package("fast_matmul")
    found: dict[str, Any] = {}
    for m in (128, 256, 512):
        a, b = randn(m, 2048), randn(2048, 2048)
        choice = dispatch.choose((a, b))
        if not choice.kernel:
            found[str(m)] = {"not taken": choice.why}
            continue
        host = dispatch.host_of(choice.kernels)
        _, record = host.record((a, b), host.parameters(choice.parameters, a.device))
        module.matmul(a, b)
        module.matmul(a, b)
        out = torch.empty((m, 2048), device=a.device, dtype=a.dtype)
        calls = {
            "function": module.matmul,
            "bare": timing.bare(record),
            "torch.matmul": torch.matmul,
            "out=": lambda x, y, out=out: module.matmul(x, y, out=out),
            "operator": dispatch.OPERATOR,
        }
        rounds = {name: [] for name in calls}
        for _ in range(5):
            for name, call in calls.items():
                rounds[name].append(timing.host_us(call, (a, b)))
        figures = {name: sorted(v)[2] for name, v in rounds.items()}
        with torch.inference_mode():
            figures["function, inference_mode"] = timing.host_us(module.matmul, (a, b))
        found[str(m)] = {
            **figures,
            "function / bare": figures["function"] / figures["bare"],
            "replayed": dispatch.way((a, b)),
            "spread": {name: [min(v), max(v)] for name, v in rounds.items()},
        }
    return found


def graphs() -> dict[str, Any]:
    """Microseconds a call in a CUDA graph of 200: the function against the bare kernel with its allocation."""
    from evolve.export import timing

    module, dispatch = package("fast_matmul")
    found: dict[str, Any] = {}
    for m in (128, 512):
        a, b = randn(m, 2048), randn(2048, 2048)
        choice = dispatch.choose((a, b))
        if not choice.kernel:
            found[str(m)] = {"not taken": choice.why}
            continue
        host = dispatch.host_of(choice.kernels)
        _, record = host.record((a, b), host.parameters(choice.parameters, a.device))
        calls = {"function": module.matmul, "bare": timing.bare(record), "operator": dispatch.OPERATOR}
        graphs = {n: timing._graph(call, [(a, b)] * 4, 200)[0] for n, call in calls.items()}
        samples: dict[str, list[float]] = {n: [] for n in calls}
        for turn in range(41):
            for n in calls if turn % 2 else reversed(list(calls)):
                samples[n].append(timing._sample(graphs[n].replay) / 200)
        middle = {n: sorted(s[1:])[20] for n, s in samples.items()}
        pairs = sorted(x - y for x, y in zip(samples["function"][1:], samples["bare"][1:], strict=True))
        found[str(m)] = {**middle, "added_us": pairs[20], "added_us_low_high": [pairs[8], pairs[32]]}
    return found


def launchbound() -> dict[str, Any]:
    """As exported: what small calls run in eager, and what they cost beside torch.matmul; the host's time alone of the
    two, and of the problem's own function around the library."""
    import torch

    module, dispatch = package("fast_matmul")
    found: dict[str, Any] = {}
    for m, n, k in ((512, 512, 512), (64, 64, 64), (256, 2048, 2048), (4096, 4096, 4096)):
        a, b = randn(m, k), randn(k, n)
        choice = dispatch.choose((a, b))
        module.matmul(a, b)
        row = {
            "kernel": choice.kernel,
            "eager": "kernel" if choice.kernel and choice.eager else "library",
            "why": choice.why,
            "apart": apart(module.matmul(a, b), torch.matmul(a, b)),
        }
        if device() == "cuda":
            from evolve.export import timing

            row["way"] = dispatch.way((a, b))
            calls = {"function": module.matmul, "torch.matmul": torch.matmul, "library": dispatch.LIBRARY}
            row["eager_us"] = timing.eagerly(calls, [(a, b)])
            if m * n * k < 1 << 31:
                rounds: dict[str, list[float]] = {name: [] for name in calls}
                for _ in range(7):
                    for name, call in calls.items():
                        rounds[name].append(timing.host_us(call, (a, b)))
                row["host_us"] = {name: [min(v), sorted(v)[3], max(v)] for name, v in rounds.items()}
                added = [x - y for x, y in zip(rounds["function"], rounds["torch.matmul"], strict=True)]
                row["host_added_us"] = [min(added), sorted(added)[3], max(added)]
        found[f"{m}x{n}x{k}"] = row
    return found


def capture() -> dict[str, Any]:
    """A kernel whose first call of all is captured: may it be built and loaded then?"""
    import torch

    if device() != "cuda":
        return {"skipped": "no GPU"}
    module, dispatch = package("fast_matmul")
    a, b = randn(512, 512), randn(512, 512)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            out = module.matmul(a, b)
    except RuntimeError as error:
        return {"captured": f"{type(error).__name__}: {error}"[:500]}
    graph.replay()
    return {"captured": True, "way": dispatch.way((a, b)), "apart": apart(out, torch.matmul(a, b))}


def recompiles() -> dict[str, Any]:
    """Compilations for M = 1..8192 under mark_dynamic, torch.matmul's beside ours."""
    import torch
    from torch._dynamo.testing import CompileCounterWithBackend

    module, _ = package("fast_matmul")
    b = randn(2048, 512)
    sizes = [*range(2, 40), 64, 100, 127, 128, 129, 255, 256, 1000, 1024, 2047, 2048, 4095, 4096, 8191, 8192, 1]
    found: dict[str, Any] = {"sizes": len(sizes)}
    for name, function in (("function", module.matmul), ("torch.matmul", torch.matmul)):
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("inductor" if device() == "cuda" else "eager")
        compiled = torch.compile(lambda a, b, f=function: f(a, b) * 2, fullgraph=True, backend=counter)
        worst, before_one = 0.0, 0
        for m in sizes:
            a = randn(m, 2048)
            if m > 1:
                torch._dynamo.mark_dynamic(a, 0)
            else:
                before_one = counter.frame_count
            worst = max(worst, apart(compiled(a, b), torch.matmul(a, b) * 2))
        found[name] = {"for 2..8192": before_one, "with M=1": counter.frame_count, "worst": worst}
        found[name]["with M=1, backed_size_oblivious"] = _oblivious(function, b)
    return found


def _oblivious(function: Callable[..., Any], b: Any) -> Any:
    """torch compiles once more for a size of 1, whatever the function; with this switch of torch's it does not."""
    import torch
    import torch.fx.experimental._config as config
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(lambda a, b: function(a, b) * 2, fullgraph=True, backend=counter)
    try:
        with config.patch(backed_size_oblivious=True):
            for m in (16, 1, 100, 8192):
                a = randn(m, 2048)
                torch._dynamo.mark_dynamic(a, 0)
                compiled(a, b)
    except Exception as error:  # not in this torch
        return f"{type(error).__name__}: {error}"[:200]
    return counter.frame_count


def ecosystem() -> dict[str, Any]:
    """Autocast, gradients, out, strides, errors, export: each a sentence or a figure."""
    import torch

    module, dispatch = package("fast_matmul")
    f, found = module.matmul, {}
    a, b = randn(512, 2048), randn(2048, 2048)

    def tried(name: str, test: Callable[[], Any]) -> None:
        try:
            found[name] = test()
        except Exception as error:  # a part of a benchmark: whatever it was is the finding
            found[name] = f"{type(error).__name__}: {error}"

    def gradients() -> float:
        x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
        f(x, y).sum().backward()
        ours = x.grad.clone()
        x.grad = None
        torch.matmul(x, y).sum().backward()
        return apart(ours, x.grad)

    def autocast() -> list[Any]:
        with torch.autocast(device(), dtype=torch.bfloat16):
            out = f(a.float(), b.float())
            return [str(out.dtype), apart(out, a.float() @ b.float())]

    def wording(*bad: Any) -> list[str]:
        said = []
        for call in (torch.matmul, f):
            try:
                call(*bad)
                said.append("nothing")
            except Exception as error:
                said.append(f"{type(error).__name__}: {error}"[:160])
        return [*said, "the same" if said[0] == said[1] else "DIFFERENT"]

    def exported() -> str:
        class Model(torch.nn.Module):
            def forward(self, x: Any) -> Any:
                return f(x, b)

        m = torch.export.Dim("m", min=2, max=8192)
        program = torch.export.export(Model(), (a,), dynamic_shapes=({0: m},))
        return f"{apart(program.module()(a[:100].clone()), a[:100] @ b):.1e} apart"

    tried("strided", lambda: apart(f(a[:, ::2], b[::2]), a[:, ::2] @ b[::2]))
    tried("transposed", lambda: apart(f(a, b.T), a @ b.T))
    tried("misaligned", lambda: apart(f(randn(512 * 2048 + 1)[1:].view(512, 2048), b), a @ b) > 0)
    tried("gradient, apart", gradients)
    tried("autocast", autocast)
    tried("mixed devices", lambda: wording(a, b.cpu()))
    tried("mismatched", lambda: wording(a, b[:100]))
    tried("zero size", lambda: list(f(a[:0], b).shape))
    tried("out", lambda: apart(f(a, b, out=torch.empty_like(a)), a @ b))
    tried("torch.export", exported)
    tried("opcheck", lambda: str(torch.library.opcheck(dispatch.OPERATOR, (a, b))))
    tried("parameter", lambda: apart(_no_grad(f, a, torch.nn.Parameter(b)), a @ b))
    tried("inference mode", lambda: apart(_inference(f, a, b), a @ b))
    return found


def _no_grad(f: Callable[..., Any], *arguments: Any) -> Any:
    import torch

    with torch.no_grad():
        return f(*arguments)


def _inference(f: Callable[..., Any], *arguments: Any) -> Any:
    import torch

    with torch.inference_mode():
        return f(*(a.clone() for a in arguments))


def transformer() -> dict[str, Any]:
    """A block of two layers, forward: stock PyTorch and the packages', compiled in one graph, and in a CUDA graph. Of a
    package that was not made, stock PyTorch stands in."""
    import torch
    from torch.nn.functional import gelu, layer_norm, scaled_dot_product_attention

    there = {n: importlib.util.find_spec(f"fast_{n}") is not None for n in RUNS}
    matmul = package("fast_matmul")[0].matmul if there["matmul"] else torch.matmul
    batch, length, heads, width = (4, 2048, 16, 2048) if device() == "cuda" else (1, 32, 2, 256)
    each = width // heads
    scale = width**-0.5
    layers = [
        [randn(width, 3 * width, scale=scale), randn(width, width, scale=scale), randn(width, 4 * width, scale=scale),
         randn(4 * width, width, scale=scale / 2)]
        for _ in range(2)
    ]  # fmt: skip

    def forward(x: Any, product: Callable[..., Any], attend: Callable[..., Any]) -> Any:
        for qkv, back, up, down in layers:
            h = layer_norm(x, (width,))
            q, k, v = product(h, qkv).view(batch, length, 3, heads, each).permute(2, 0, 3, 1, 4).contiguous().unbind(0)
            h = attend(q, k, v).transpose(1, 2).reshape(batch * length, width)
            x = x + product(h, back)
            x = x + product(gelu(product(layer_norm(x, (width,)), up), approximate="tanh"), down)
        return x

    def stock(x: Any) -> Any:
        return forward(x, torch.matmul, lambda q, k, v: scaled_dot_product_attention(q, k, v, is_causal=True))

    def attend(q: Any, k: Any, v: Any) -> Any:
        return scaled_dot_product_attention(q, k, v, is_causal=True)

    if there["attention"]:
        attention = package("fast_attention")[0].attention

        def attend(q: Any, k: Any, v: Any) -> Any:
            return attention(q, k, v, True)

    def ours(x: Any) -> Any:
        return forward(x, matmul, attend)

    x = randn(batch * length, width)
    found: dict[str, Any] = {"shape": [batch, length, heads, each], "layers": len(layers), "packages": there}
    with torch.no_grad():
        calls = {"stock eager": stock, "ours eager": ours}
        calls |= {f"{n} compiled": torch.compile(f, fullgraph=True) for n, f in (("stock", stock), ("ours", ours))}
        expected = stock(x)
        for name, call in calls.items():
            found[name] = {"apart": apart(call(x), expected)}
        if device() == "cuda":
            for n in ("stock", "ours"):
                calls[f"{n} compiled, CUDA graph"] = _captured(calls[f"{n} compiled"], x)
                found[f"{n} compiled, CUDA graph"] = {"apart": apart(calls[f"{n} compiled, CUDA graph"](x), expected)}
        samples: dict[str, list[float]] = {n: [] for n in calls}
        for turn in range(7):
            for name in calls if turn % 2 else reversed(list(calls)):
                samples[name].append(timed(lambda c=calls[name]: c(x), 5 if device() == "cuda" else 1))
    for name, taken in samples.items():
        middle = sorted(taken)[len(taken) // 2]
        found[name] |= {"us": middle, "low_high": [min(taken), max(taken)], "equal": found[name]["apart"] < 2 * BOUND}
    return found


def _captured(call: Callable[[Any], Any], x: Any) -> Callable[[Any], Any]:
    import torch

    fixed = x.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call(fixed)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call(fixed)

    def replay(given: Any) -> Any:
        fixed.copy_(given)
        graph.replay()
        return out

    return replay


# What is done, what is forced, and which packages it needs (any of them), in the order of what one would miss most.
PARTS: dict[str, tuple[Callable[[], dict[str, Any]], str, tuple[str, ...]]] = {
    "launchbound": (launchbound, "", ("matmul",)),
    "transformer": (transformer, "", ("matmul", "attention")),
    "transformer_forced": (transformer, "kernel", ("matmul", "attention")),
    "ecosystem": (ecosystem, "", ("matmul",)),
    "ecosystem_forced": (ecosystem, "kernel", ("matmul",)),
    "overhead": (overhead, "kernel", ("matmul",)),
    "graphs": (graphs, "kernel", ("matmul",)),
    "capture": (capture, "kernel", ("matmul",)),
    "recompiles_forced": (recompiles, "kernel", ("matmul",)),
}


# --- Order ------------------------------------------------------------------------------------------------------------


def run_part(name: str, out: Path, seconds: float) -> dict[str, Any]:
    """In a process of its own. Forced parts run the kernel whether or not it was faster; without a GPU nothing is."""
    _, force, needs = PARTS[name]
    if not any(_made(out, n) for n in needs):
        return {"skipped": f"no package: {', '.join(needs)}"}
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{out / 'packages'}:{ENVIRONMENT['PYTHONPATH']}"}
    if force:
        environment |= {"FAST_MATMUL_FORCE": force, "FAST_ATTENTION_FORCE": force}
    command = [sys.executable, __file__, "--out", str(out), "--part", name]
    began = time.time()
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds, check=False)
        said = done.stderr[-1500:] if done.returncode else ""
    except subprocess.TimeoutExpired:
        said = f"longer than {seconds:.0f} s"
    file = out / f"{name}.json"
    found = json.loads(file.read_text()) if file.is_file() else {"failed": said}
    found["seconds"] = round(time.time() - began, 1)
    return found


def _made(out: Path, name: str) -> bool:
    return (out / "packages" / f"fast_{name}" / "dispatch.json").is_file()


def packaged(out: Path, seconds: float) -> dict[str, Any]:
    """The package's own tests and bench, as its user runs them."""
    found: dict[str, Any] = {}
    for name in filter(lambda n: _made(out, n), RUNS):
        folder = out / "packages" / f"fast_{name}"
        for what, words in (
            ("tests", ["-c", "import pytest; raise SystemExit(pytest.main())", "-q", "-p", "no:cacheprovider", folder]),
            ("bench", [str(folder / "bench.py"), "--json"]),
        ):
            try:
                done = subprocess.run(
                    [sys.executable, *words], cwd=out, capture_output=True, text=True, timeout=seconds, check=False
                )
                found[f"{name} {what}"] = {"status": done.returncode, "tail": (done.stdout + done.stderr)[-1200:]}
            except (OSError, subprocess.TimeoutExpired) as error:
                found[f"{name} {what}"] = {"status": str(error)}
    return found


def refreshed(out: Path, seconds: float) -> dict[str, Any]:
    name = next((n for n in ("attention", "matmul") if _made(out, n)), None)
    if name is None:
        return {"skipped": "no package"}
    folder = out / "packages" / f"fast_{name}"
    command = [sys.executable, "-m", "evolve", "refresh", str(folder)]
    began = time.time()
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=seconds, check=False)
    return {
        "status": done.returncode,
        "seconds": round(time.time() - began, 1),
        "said": (done.stdout + done.stderr)[-1500:],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=360.0)
    parser.add_argument("--only", nargs="*", default=[*PARTS, "packaged", "refresh"])
    parser.add_argument("--part", choices=[*PARTS])
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if options.part:
        (out / f"{options.part}.json").write_text(json.dumps(PARTS[options.part][0](), indent=1, default=str))
        return
    end = time.time() + options.seconds
    whole: dict[str, Any] = {}

    def keep(name: str, work: Callable[[], dict[str, Any]]) -> None:
        whole[name] = attempted(work)
        (out / "all.json").write_text(json.dumps(whole, indent=1, default=str))
        print(f"== {name}: {json.dumps(whole[name], default=str)[:1500]}", flush=True)

    for name in RUNS:
        if not _made(out, name):  # or it was made before, in the same folder
            keep(f"export {name}", lambda n=name: made(n, out, make(n, out, MAKING_SECONDS), time.time()))
    for name in filter(options.only.__contains__, PARTS):
        left = end - time.time()
        keep(name, lambda n=name, s=left: run_part(n, out, max(20.0, min(90.0, s))) if s > 5 else {"skipped": "time"})
    if end - time.time() > 20 and "packaged" in options.only:
        keep("packaged", lambda: packaged(out, min(60.0, end - time.time())))
    if end - time.time() > 45 and "refresh" in options.only:
        keep("refresh", lambda: refreshed(out, max(45.0, end - time.time())))


if __name__ == "__main__":
    main()
