"""The same recorded replies to four engines, one after the other: candidates an hour, GPU busy, steps lost.

    python benchmarks/throughput.py --out DIR --seconds 120        on a machine with a GPU
    python benchmarks/throughput.py --out DIR --seconds 10 --fake  rehearses it without one

    ours      evolve run, as shipped: three widths, one lease, a process a candidate
    plain     openevolve-run, the judging in its own process
    fresh     openevolve-run, a new interpreter a candidate, killed when it is late
    behind    openevolve-run with our judge behind evaluate()

Replies come from one small model server, at once and in one order: benchmarks/replies.py says what they are. The tuner
is off and workloads are those of configs/matmul.yaml. OpenEvolve evaluates one candidate at a time: that is its default
and what timing on one GPU wants. It gets no retries, and a time limit of its own. The clock runs from an engine's first
verdict on. Each engine is a process group of its own, with a mark in its environment; both are killed when its time is
over, and what is left on the GPU is said. Lost is a step that got no verdict though others came after it, or an honest
kernel's that got a fault's: a timeout, or a context that another one broke. DIR gets two files: throughput.json, which
grows with each engine, and our run as ours.tar.gz.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import signal
import site
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PARTS = ROOT / "benchmarks/throughput_parts"
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(PARTS)]

import replies  # noqa: E402
import settings  # noqa: E402

from evolve.journal import Journal  # noqa: E402
from evolve.judge.gpu.nvml import Gpu, visible  # noqa: E402
from evolve.judge.gpu.server import sweep  # noqa: E402
from evolve.types import Confirmed, Judged, Replied, Verdict  # noqa: E402

ENGINES = ("ours", "fresh", "plain", "behind")
MARK = "EVOLVE_THROUGHPUT"
START_SECONDS = 120.0  # until an engine's first verdict: calibration, imports, the seed
END_SECONDS = 40.0  # that ours gets to end what it judges
LATE_SECONDS = 20.0  # after which OpenEvolve's evaluators give a candidate up
FAULTS = ("timeout", "CUDA error", "AcceleratorError", "DeferredCudaCallError", "cuda runtime", "ended with -")


# --- the model --------------------------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """An engine that is killed hangs up in the middle of a sentence."""


class Model:
    """Answers at once with the next reply of the trace, from the beginning again when it has come to its end."""

    def __init__(self, trace: list[replies.Reply]) -> None:
        self.trace, self.served = trace, list[tuple[float, int]]()
        self._lock = threading.Lock()
        model = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                body = json.dumps(model.answer()).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self) -> dict[str, Any]:
        with self._lock:
            reply = self.trace[len(self.served) % len(self.trace)]
            self.served.append((time.time(), reply.number))
        message = {"role": "assistant", "content": reply.text}
        return {
            "id": "c", "object": "chat.completion", "created": 1, "model": "trace",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }  # fmt: skip

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


# --- the GPU ----------------------------------------------------------------------------------------------------------


class Busy:
    """The share of time in which the driver saw a kernel run, by its own samples."""

    def __init__(self) -> None:
        self._samples, self._over = list[tuple[float, float]](), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        try:
            import pynvml

            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            while not self._over.wait(0.1):
                self._samples.append((time.time(), float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100))
        except Exception as error:  # no driver, or one that does not say
            print(f"  (GPU utilization is not to be had: {error})", flush=True)

    def between(self, began: float, ended: float) -> float | None:
        inside = [share for at, share in self._samples if began <= at <= ended]
        return round(sum(inside) / len(inside), 4) if inside else None

    def close(self) -> None:
        self._over.set()
        self._thread.join(5)


# --- engines ----------------------------------------------------------------------------------------------------------


@dataclass
class Engine:
    name: str
    folder: Path
    model: Model
    fake: bool
    seconds: float
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def log(self) -> Path:
        return self.folder / "calls.jsonl"

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "throughput"

    def command(self) -> list[str]:
        seed, problem, url = self.folder / "seed.py", ROOT / "evaluators/matmul.py", self.model.url
        text = (ROOT / "seeds/matmul.py").read_text(encoding="utf-8")
        seed.write_text(f"# fake: score=1.0 sleep=0.2\n{text}" if self.fake else text, encoding="utf-8")
        if self.name == "ours":
            told = settings.ours(problem, seed, url, backend="fake" if self.fake else "gpu")
            (self.folder / "ours.yaml").write_text(told, encoding="utf-8")
            return [sys.executable, "-m", "evolve", "run", "--config", "ours.yaml", "--name", "throughput"]
        # With our judge behind it the limit lies above ours: its processes know better what hangs.
        told = settings.openevolve(url, timeout=LATE_SECONDS + (100 if self.name == "behind" else 10))
        (self.folder / "openevolve.yaml").write_text(told, encoding="utf-8")
        (self.folder / "problem.py").write_text(settings.PROBLEM.replace("WHOLE", str(problem)), encoding="utf-8")
        files = [str(seed), str(PARTS / "evaluator.py")]
        more = ["--config", "openevolve.yaml", "--output", "output", "--iterations", "100000"]
        return [sys.executable, "-m", "openevolve.cli", *files, *more]

    def environment(self) -> dict[str, str]:
        ways = {"plain": "plain", "fresh": "fresh", "behind": "ours", "ours": ""}
        more = {
            MARK: self.token,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
            "THROUGHPUT_WAY": ways[self.name],
            "THROUGHPUT_LOG": str(self.log),
            "THROUGHPUT_TIMEOUT": str(LATE_SECONDS),
            "THROUGHPUT_PROBLEM": str(self.folder / "problem.py"),
            "OPENAI_API_KEY": "none",
        }
        if not Path(site.getusersitepackages()).is_dir():
            more["HOME"] = str(self.folder)  # nobody finds what another has built
        return {**os.environ, **more, **({"THROUGHPUT_FAKE": "1"} if self.fake else {})}

    # --- verdicts, as (when, number of the trace, kind, what) ---

    def verdicts(self) -> list[tuple[float, int, str, str]]:
        return self._judged() if self.name == "ours" else self._called()

    def _judged(self) -> list[tuple[float, int, str, str]]:
        if not (self.run / "journal.sqlite").is_file():
            return []
        found = list[tuple[float, int, str, str]]()
        with contextlib.suppress(sqlite3.Error), Journal.open(self.run) as journal:
            for logged in journal.events():
                event = logged.event
                if isinstance(event, Judged) and event.candidate and (who := replies.which(event.candidate.source)):
                    found.append((logged.at, *who, event.evaluation.verdict.value))
        return found

    def _called(self) -> list[tuple[float, int, str, str]]:
        rows = self.calls()
        found = [(r["at"], r["number"], r["kind"], r["why"] or "passed") for r in rows if r["did"] == "ended"]
        return [row for row in found if row[1] >= 0]

    def calls(self) -> list[dict[str, Any]]:
        with contextlib.suppress(OSError):
            lines = self.log.read_text(encoding="utf-8").splitlines()
            return [json.loads(line) for line in lines if line.endswith("}")]
        return []


def alive(engine: Engine) -> list[int]:
    """Processes with this engine's mark, in whatever session they are."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if f"{MARK}={engine.token}".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


@contextlib.contextmanager
def started(engine: Engine) -> Iterator[subprocess.Popen[bytes]]:
    """In a session of its own; when this is left, nothing of it lives."""
    engine.folder.mkdir(parents=True, exist_ok=True)
    with (engine.folder / "log.txt").open("wb") as out:
        process = subprocess.Popen(
            engine.command(), cwd=engine.folder, env=engine.environment(), stdout=out, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            for _ in range(50):
                with contextlib.suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
                for pid in (left := alive(engine)):
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
                if not left and process.poll() is not None:
                    break
                time.sleep(0.1)
            sweep()


def measured(engine: Engine, busy: Busy) -> dict[str, Any]:
    with started(engine) as process:
        limit = time.time() + START_SECONDS
        while not (first := engine.verdicts()) and time.time() < limit and process.poll() is None:
            time.sleep(0.2)
        if not first:
            why = f"ended with {process.poll()}" if process.poll() is not None else f"no verdict in {START_SECONDS:g} s"
            return {"engine": engine.name, "failed": why, "log": tail(engine)}
        began = first[0][0]
        ended = began + engine.seconds
        while time.time() < ended and process.poll() is None:
            time.sleep(0.1)
        stopped_early = process.poll()
        if engine.name == "ours" and stopped_early is None:
            process.send_signal(signal.SIGINT)  # what is being judged comes to its end
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)
    return {"ended_by_itself": stopped_early, **figures(engine, busy, began, ended)}


def figures(engine: Engine, busy: Busy, began: float, ended: float) -> dict[str, Any]:
    verdicts = engine.verdicts()
    inside = [row for row in verdicts if began < row[0] <= ended]
    late = given_up(engine, ended) if engine.name != "ours" else []
    count = len(inside) + len(late)
    row = {
        "engine": engine.name,
        "seconds": engine.seconds,
        "verdicts": count,
        "an_hour": round(count * 3600 / engine.seconds),
        "gpu_busy": busy.between(began, ended),
        "lease_busy": leased(engine, began, ended),
        "by_verdict": Counter(f"{kind}: {what.split(':')[0][:60]}" for _, _, kind, what in inside),
        **lost(engine, verdicts, late, ended),
    }
    if engine.name != "ours":
        row["timed"] = sum(what == "passed" for *_, what in inside)
        row["seconds_each"] = spans(engine)
    else:
        row["timed"] = sum(what == Verdict.PASSED.value for *_, what in inside)
    return row


def given_up(engine: Engine, ended: float) -> list[dict[str, Any]]:
    """Calls that OpenEvolve gave up because they were late, so that another began: for one that hangs a verdict."""
    rows = [r for r in engine.calls() if r["at"] <= ended]
    over = Counter(r["number"] for r in rows if r["did"] == "ended")
    begun = [r for r in rows if r["did"] == "began"]
    return [r for r in begun[:-1] if r["kind"] == "hang" and not over[r["number"]]]


def lost(engine: Engine, verdicts: list[Any], late: list[dict[str, Any]], ended: float) -> dict[str, Any]:
    """Steps without a verdict that had time for one, and honest kernels that were told of a fault."""
    if engine.name == "ours":
        none = unjudged(engine)
        faults = [v for v in verdicts if v[2] == "honest" and v[3] in ("TIMEOUT", "RUNTIME_ERROR")]
    else:
        had = Counter(number for _, number, _, _ in verdicts) + Counter(r["number"] for r in late)
        asked = Counter(number for at, number in engine.model.served[:-1] if at <= ended)
        none = sum((asked - had).values())
        faults = [v for v in verdicts if v[2] == "honest" and any(f in v[3] for f in FAULTS)]
    return {"lost": none + len(faults), "without_verdict": none, "honest_told_of_a_fault": len(faults)}


def unjudged(engine: Engine) -> int:
    with Journal.open(engine.run) as journal:
        events = [logged.event for logged in journal.events()]
    replied = {e.step for e in events if isinstance(e, Replied)}
    return len(replied - {e.step for e in events if isinstance(e, Judged)})


def leased(engine: Engine, began: float, ended: float) -> float | None:
    """Of ours: seconds under the lease of what was judged or confirmed in the time, over the time."""
    if engine.name != "ours":
        return None
    with Journal.open(engine.run) as journal:
        spent = [
            logged.event.evaluation.seconds.get("gpu", 0.0)
            for logged in journal.events()
            if isinstance(logged.event, Judged | Confirmed) and began < logged.at <= ended
        ]
    return round(sum(spent) / (ended - began), 4)


def spans(engine: Engine) -> list[float]:
    begun: dict[int, float] = {}
    found = []
    for row in engine.calls():
        if row["did"] == "began":
            begun[row["number"]] = row["at"]
        elif row["number"] in begun:
            found.append(round(row["at"] - begun.pop(row["number"]), 3))
    return found


def tail(engine: Engine) -> str:
    with contextlib.suppress(OSError):
        return (engine.folder / "log.txt").read_text(encoding="utf-8", errors="replace")[-3000:]
    return ""


# --- together ---------------------------------------------------------------------------------------------------------


def strangers() -> tuple[str, ...]:
    """Who is on the GPU now, when nobody should be."""
    with contextlib.suppress(Exception):
        return Gpu(visible(0)).foreigners(())
    return ()


def kept(engine: Engine, out: Path) -> None:
    """Of ours the whole run: it opens in `evolve show`."""
    if (engine.run / "journal.sqlite").is_file():
        with tarfile.open(out / "ours.tar.gz", "w:gz") as tar:
            tar.add(engine.run, arcname="throughput")


def table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'engine':10}{'an hour':>10}{'timed':>8}{'GPU busy':>10}{'lease':>8}{'lost':>6}  by verdict"]
    for row in rows:
        if "failed" in row:
            lines.append(f"{row['engine']:10} failed: {row['failed']}")
            continue
        share = [f"{x:.0%}" if x is not None else "-" for x in (row["gpu_busy"], row["lease_busy"])]
        what = ", ".join(f"{n} {name}" for name, n in Counter(row["by_verdict"]).most_common(8))
        first = f"{row['engine']:10}{row['an_hour']:>10}{row['timed']:>8}{share[0]:>10}{share[1]:>8}"
        lines.append(f"{first}{row['lost']:>6}  {what}")
    by_name = {row["engine"]: row for row in rows if "failed" not in row}
    if "ours" in by_name and by_name.get("fresh", {}).get("an_hour"):
        lines.append(f"ours over fresh: {by_name['ours']['an_hour'] / by_name['fresh']['an_hour']:.2f}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--limit", type=float, default=1e9, help="seconds of all, after which no engine is begun")
    parser.add_argument("--fake", action="store_true", help="without a GPU: engines are real, judging is played")
    order = parser.parse_args()
    order.out.mkdir(parents=True, exist_ok=True)
    trace, rows, over = replies.load(), list[dict[str, Any]](), time.time() + order.limit
    for name in order.engines.split(","):
        began = time.time()
        if began > over:
            print(f"{name}: left out, the time is up")
            continue
        model = Model(trace)
        work = tempfile.TemporaryDirectory(prefix="throughput-", ignore_cleanup_errors=True)
        engine = Engine(name, Path(work.name), model, order.fake, order.seconds)
        busy = Busy()
        try:
            row = measured(engine, busy)
        except Exception as error:  # one engine's trouble is not the others'
            row = {"engine": name, "failed": f"{type(error).__name__}: {error}", "log": tail(engine)}
        finally:
            busy.close()
            model.close()
            with contextlib.suppress(OSError):
                kept(engine, order.out)
            log = tail(engine)
            work.cleanup()
        time.sleep(1.0)
        rows.append(
            {
                **row,
                "log": log,
                "served": len(model.served),
                "took": round(time.time() - began, 1),
                "left_on_gpu": strangers(),
            }
        )
        (order.out / "throughput.json").write_text(json.dumps({"replies": len(trace), "engines": rows}, indent=1))
        print(table(rows[-1:]), flush=True)
    print("\n" + table(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
