"""A made-up run, as large as you like: what journals, terminal views and web pages are tried on.

Its events have the shape and size of real ones (source about 3 kB, prompt 8 kB, evidence 5 kB) and its numbers are
invented; nothing in it was ever compiled. The same arguments give the same events.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from evolve.types import (
    Asked,
    Candidate,
    Confirmed,
    Evaluation,
    Event,
    Judged,
    Measurement,
    Noted,
    Prompt,
    Replied,
    Reply,
    Verdict,
)

SEED = Path(__file__).resolve().parents[1] / "seeds" / "matmul.py"
KEY = "matmul/bf16/sm_90/3f2a"
WORKLOADS = ("4096", "8192", "mlp_up", "skinny16", "split_k")
WORK = {  # FLOPs and bytes of each
    "4096": (2.0 * 4096**3, 6.0 * 4096**2),
    "8192": (2.0 * 8192**3, 6.0 * 8192**2),
    "mlp_up": (2.0 * 4096 * 14336 * 4096, 2.0 * (4096 * 4096 + 2 * 4096 * 14336)),
    "skinny16": (2.0 * 16 * 4096**2, 2.0 * (4096**2 + 32 * 4096)),
    "split_k": (2.0 * 512 * 512 * 16384, 2.0 * (2 * 512 * 16384 + 512**2)),
}
# What `meta` says of such a run.
META = {
    "problem": "matmul", "variant": "bf16", "device": "NVIDIA H200", "workloads": list(WORKLOADS),
    "strategy": "evolution",
    "ranking_key": KEY, "config": "synthetic", "budget": {"steps": 100_000, "usd": 2000.0},
    "axes": {
        "tensor_path": ["mma", "wgmma", "wgmma+descriptors"], "structure": ["plain", "persistent", "split"],
        "footprint": ["small", "medium", "large"],
    },
}  # fmt: skip
MEMBERS = (
    ("rules", "rule", 0.0),
    ("gpt-large", "diff", 0.021),
    ("qwen-local", "rewrite", 0.0),
    ("mailbox", "diff", 0.0),
)
IDEAS = (
    "group the programs by eight rows of tiles so that both panels stay in L2",
    "load through tensor descriptors: the copy engine frees the threads' registers",
    "split K over four programs where there are fewer tiles than SMs",
    "keep one program an SM and let it walk the tiles: the epilogue hides behind the next load",
    "BLOCK_K 64 with four stages fits 164 KiB and runs further ahead",
    "store through shared memory so that every row is written in full lines",
    "drop the masks in the main loop and keep them for the last tile",
    "warp specialisation: one warp group loads, two multiply",
)
FAILURES = (
    (Verdict.UNREADABLE, "The SEARCH text of block 1 is not in the file; copy it exactly, with its indentation."),
    (
        Verdict.REJECTED,
        "line 41: torch.matmul is not allowed in the host function: it may allocate, make views and launch.",
    ),
    (Verdict.BUILD_ERROR, "shared memory 278528 bytes, above the 232448 that one block may take on sm_90."),
    (Verdict.INCORRECT, 'workload "check_ragged": error 4.1 times its bound; the worst tile is the last one of row 7.'),
    (Verdict.DUPLICATE, "Same machine code as 00042; the change has no effect."),
    (Verdict.TIMEOUT, 'workload "split_k": not done after 10 s; a loop may never end.'),
)


def measured(rng: random.Random, score: float, *, modelled: bool = False, samples: int = 20) -> tuple[Measurement, ...]:
    found = []
    for place, name in enumerate(WORKLOADS):
        ratio = score * (0.9 + 0.05 * place) / 0.998
        spread = 0.0 if modelled else 0.004 + 0.004 * rng.random()
        found.append(
            Measurement(
                workload=name,
                baseline="cublas",
                time_us=round((195.0, 1512.0, 680.0, 12.4, 41.0)[place] / ratio, 3),
                ratio=ratio,
                ratio_low=ratio * (1 - spread),
                ratio_high=ratio * (1 + spread),
                samples=samples,
                parameters={"BLOCK_M": 128, "BLOCK_N": rng.choice((128, 256)), "num_warps": 8, "num_stages": 4},
                eager_us=round(rng.uniform(200, 1500), 1),
                modelled=modelled,
            )
        )
    return tuple(found)


def traits(rng: random.Random) -> dict[str, bool | int | float | str]:
    return {
        "tensor_path": rng.choice(("mma", "wgmma", "wgmma+descriptors")),
        "structure": rng.choice(("plain", "persistent", "split")),
        "footprint": rng.choice(("small", "medium", "large")),
        "registers": rng.choice((128, 168, 232)),
        "spills_bytes": rng.choice((0, 0, 0, 24)),
        "shared_bytes": rng.choice((98304, 163840, 229376)),
        "HGMMA": rng.choice((32, 64)),
        "bound": rng.choice(("compute", "memory", "latency")),
        "roofline": round(rng.uniform(0.4, 0.9), 3),
        "lines": rng.randrange(60, 120),
    }


def passed(rng: random.Random, score: float, *, beats: bool, modelled: bool = False) -> Evaluation:
    found, facts = measured(rng, score, modelled=modelled), traits(rng)
    return Evaluation(
        verdict=Verdict.PASSED,
        feedback=f"{score:.3f}× cublas; bound by the tensor cores at {rng.randrange(50, 90)} % of their rate.",
        stage="time",
        measurements=found,
        traits=facts,
        errors={"check_ragged": 0.7, "check_odd": 0.68, "check_col": 0.71},
        evidence=_evidence(rng, found, str(facts["bound"]), modelled=modelled),
        digests=tuple(f"{kind}:{rng.randrange(16**12):012x}" for kind in ("ast", "plan", "sass")),
        ranking_key=KEY,
        seconds={"screen": 0.002, "lower": 0.3, "build": 1.2, "check": 0.3, "time": 1.1, "gpu": 1.4},
        beats_incumbent=beats,
    )


def _evidence(rng: random.Random, found: tuple[Measurement, ...], bound: str, *, modelled: bool) -> dict[str, object]:
    """In the shape that `judge/time.py` writes, so that a page draws it as it draws a real one."""
    models = {m.workload: _model(m, bound) for m in found}
    replay = {"random_seeds": [rng.randrange(2**31) for _ in range(3)]}
    if modelled:
        return {"time": models, "replay": replay}
    time: dict[str, object] = {m.workload: _samples(rng, m) for m in found}
    return {"time": {**time, "model": models, "faults": []}, "replay": replay}


def _model(m: Measurement, bound: str) -> dict[str, object]:
    flops, nbytes = WORK[m.workload]
    ideal = max(flops / 989e6, nbytes / 4800e3)
    return {
        "modelled": True, "time_us": m.time_us, "bound": bound, "roofline": round(min(1.0, ideal / m.time_us), 4),
        "ideal": {"flops": flops, "bytes": nbytes, "tflops": 989.0, "gbs": 4800.0},
        "terms_us": {"compute": round(flops / 989e6, 2), "memory": round(nbytes / 4800e3, 2), "launch": 1.6},
    }  # fmt: skip


def _samples(rng: random.Random, m: Measurement) -> dict[str, object]:
    """Sixteen blocks whose clock falls as power rises, and with it every side's time alike."""
    times = {"C": m.time_us, "B": m.time_us * m.ratio, "I": m.time_us * 1.01}
    blocks, clocks = [], []
    for place in range(16):
        heat = 1 + 0.06 * min(1.0, place / 8)
        order = "CIBBIC" if place % 2 else "ICBBCI"
        row = [round(times[side] * heat * rng.gauss(1, 0.004), 3) for side in order]
        blocks.append({"order": order, "place": place % 4, "times_us": row, "slowed": False})
        if place % 4 == 3:
            clocks.append({"sm_mhz": round(1980 / heat), "power_watts": 520.0 + 5 * place, "celsius": 50 + place})
    decision = {"call": "faster" if m.ratio > 1 else "slower", "why": "16 blocks: the interval is narrow enough"}
    return {"mode": "cold", "calls": 4, "blocks": blocks, "discarded": 0.0, "decision": decision, "clocks": clocks}


def events(steps: int, *, random_seed: int = 0, modelled: bool = False) -> Iterator[Event]:
    """A seed and `steps` - 1 proposals, a fifth of them better than their parents at first and fewer later."""
    rng = random.Random(random_seed)
    text = SEED.read_text(encoding="utf-8")
    system = "You are an engineer who writes Triton kernels. " * 40
    seed = Candidate(
        step=0, source=text, member="seed", kind="seed", hypothesis="the plain kernel that one writes first"
    )
    yield Noted(what="started", text="matmul, bf16, 5 workloads, on NVIDIA H200")
    yield Judged(step=0, candidate=seed, evaluation=passed(rng, 0.62, beats=False, modelled=modelled))
    alive, best = [(seed, 0.62)], 0.62
    for step in range(1, steps):
        parent, score = max((rng.choice(alive[-60:]) for _ in range(3)), key=lambda one: one[1])
        member, kind, cost = rng.choice(MEMBERS)
        user = f"step {step}\n" + (text + str(rng.random())) * 2
        prompt = Prompt(system=system, user=user, kind=kind)
        yield Asked(step=step, member=member, prompt=prompt, island=step % 4, parent_id=parent.id)
        idea = rng.choice(IDEAS)
        reply = Reply(
            member=member,
            model=member,
            text=f"{idea}\n```python\n{text}\n```",
            hypothesis=idea,
            tokens_in=2800,
            tokens_out=900,
            cost_usd=cost,
            seconds=4.0 + rng.random(),
        )
        yield Replied(step=step, reply=reply)
        child = Candidate(
            step=step,
            source=f"{text}\n# {step}: {idea}\n",
            member=member,
            kind=kind,
            parent_id=parent.id,
            island=step % 4,
            generation=parent.generation + 1,
            hypothesis=idea,
        )
        if rng.random() < 0.45:
            verdict, feedback = rng.choice(FAILURES)
            failed = Evaluation(verdict=verdict, feedback=feedback, stage="check", evidence={"log": "x" * 500})
            yield Judged(step=step, candidate=None if verdict is Verdict.UNREADABLE else child, evaluation=failed)
            continue
        found = score * (1 + rng.gauss(-0.01, 0.12) * max(0.0, 1.25 - score))
        beats = found > best * 1.008
        yield Judged(step=step, candidate=child, evaluation=passed(rng, found, beats=beats, modelled=modelled))
        alive.append((child, found))
        if beats:
            again = found * (1 + rng.gauss(-0.002, 0.002))
            best = max(best, again)
            figure = passed(rng, again, beats=again > best * 0.99, modelled=modelled)
            yield Confirmed(step=step, candidate_id=child.id, evaluation=figure)
    yield Noted(what="finished", text=f"{steps} steps are done, which is what the budget allows")
