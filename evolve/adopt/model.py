"""`evolve init NAME --model model.py`: a KernelBench file as a problem without a seed."""

from __future__ import annotations

import keyword
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evolve.adopt.evaluator import tuple_text, workload_text
from evolve.adopt.observe import ask
from evolve.adopt.place import Place, template
from evolve.errors import AdoptError
from evolve.judge import allowed
from evolve.types import Json

CHILD = "evolve.adopt.child.modelling"
TF32 = (1e-3, 1.2e-3)


def observe(path: Path) -> dict[str, Json]:
    if not path.is_file():
        raise AdoptError(f"--model {path}: no such file; expected a KernelBench file with Model and get_inputs().")
    return ask(CHILD, {"model": str(path.resolve())}, str(path), interpret=False)


def text(place: Place, path: Path, observed: Mapping[str, Any]) -> str:
    file = Path(os.path.relpath(path.resolve(), place.problem.parent.resolve())).as_posix()
    rows = observed["arguments"]
    names = [name_of(r["name"], place.name) for r in rows]
    return template(
        "model.txt",
        {
            "name": place.name,
            "file": file,
            "file_name": path.name,
            "varied": _numbers([i for i, r in enumerate(rows) if r.get("varied")]),
            "counted": _numbers([i for i, r in enumerate(rows) if r["role"] == "value" and not r["table"]]),
            "output_names": tuple_text([o["name"] for o in observed["outputs"]]),
            "arguments": "\n".join(_argument(n, r) for n, r in zip(names, rows, strict=True)),
            "variants": "\n".join(_variants(observed)),
            "workloads": "\n".join(workload_text(w) for w in observed["workloads"]),
            "interpreted": "\n".join(workload_text(w) for w in observed["interpreted"]),
            "families": tuple_text(observed["families"]),
            "families_said": "; the model in float32 fails on the others itself" if observed["left_out"] else "",
            "brief": repr(f"{place.name}({', '.join(names)}) computes Model.forward; the last ones are its weights."),
        },
    )


def name_of(name: str, entry: str) -> str:
    """`layer.0.weight` as a Python name that a candidate may bind."""
    made = name.replace(".", "_")
    taken = keyword.iskeyword(made) or made in allowed.UNBINDABLE or made in allowed.MODULES or made == entry
    return f"{made}_" if taken else made


def _argument(name: str, row: Mapping[str, Any]) -> str:
    role = "" if row["role"] == "value" else f', role="{row["role"]}"'
    said = "weight" if row["weight"] else "given to forward"
    varied = "; the same for every seed in your file, so it is drawn at random here" if row.get("varied") else ""
    return f'        Argument(name="{name}"{role}),  # {said}{varied}'


def _variants(observed: Mapping[str, Any]) -> list[str]:
    bound = float(observed["bound"])
    lines = []
    for name, strict, at_most, more in (
        ("fp32", bound, 2 * bound, ""),
        ("tf32", max(TF32[0], bound), max(TF32[1], 2 * bound), ', allows=frozenset({"tf32"})'),
    ):
        norms = ", ".join(
            f'"{o["name"]}": Norm(strict={strict:.1e}, at_most={at_most:.1e})' for o in observed["outputs"]
        )
        lines.append(f'        Variant(name="{name}", params={{}}, comparators={{{norms}}}{more}),')
    return lines


def _numbers(values: list[int]) -> str:
    return "(" + ", ".join(map(str, values)) + ("," if len(values) == 1 else "") + ")"
