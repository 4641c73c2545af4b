"""The text of evaluators/NAME.py: what was observed, written so that a person can correct it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolve.adopt.observe import Named
from evolve.adopt.place import Place, template
from evolve.adopt.rewrite.seed import Seed
from evolve.types import Json

MOST = 0.8  # a part of an in-place argument that counts as all of it
HALF_STEP = 8.0  # bfloat16's rounding over float16's


@dataclass(frozen=True, kw_only=True)
class Draft:
    """Everything that the text is made of."""

    place: Place
    kernel: Named
    reference: Named
    observed: Mapping[str, Any]
    seed: Seed
    gpu: bool
    lean: bool = False  # count only what is written as moved: the original does not read all of its inputs

    # --- parts ---

    @property
    def rows(self) -> list[dict[str, Any]]:
        return list(self.observed["arguments"])

    @property
    def inputs(self) -> list[str]:
        return [r["name"] for r in self.rows if r["role"] != "out"]

    def named(self, name: str) -> str:
        """What the seed calls it."""
        return self.seed.names.get(name, name)

    @property
    def variants(self) -> list[str]:
        """The one that runs, and the one that the interpreter can compute in its place."""
        floats, coarse = self.observed["floats"], self._coarse()
        main = "bf16" if floats else self._precision()
        return [main, "interpreted" if coarse else "fp16"] if floats or coarse else [main]

    def findings(self) -> list[tuple[str, str, str]]:
        """For the terminal: name, role, why."""
        rows = [(self.named(r["name"]), r["role"], r["why"]) for r in self.rows]
        rows += [
            (n, "fixed", f"{v} in every workload, written into the seed") for n, v in self.observed["fixed"].items()
        ]
        for spec in self.observed["outputs"]:
            told = spec["comparator"]
            where = f"written into {spec['argument']}" if spec["argument"] else "returned"
            said = {
                "norm": "error at most {strict:.0e} of the norm".format(**told) if told["kind"] == "norm" else "",
                "codes": "codes, at most one step apart",
                "selection": f"indices of the largest of {told.get('of')}; ties are as good",
                "exact": "every element equal",
            }[told["kind"]]
            rows.append((self.named(spec["name"]), "output", f"{where}; {said}"))
        return rows

    def path(self, file: Path) -> str:
        return Path(os.path.relpath(file.resolve(), self.place.problem.parent.resolve())).as_posix()

    def text(self) -> str:
        o = self.observed
        return template(
            "adopted.txt",
            {
                "name": self.place.name,
                "entry": self.seed.entry,
                "about": f"{self.place.name}: {self.kernel.function} of {self.kernel.path.name}, adopted.",
                "where": "on this machine's GPU" if self.gpu else "under Triton's interpreter, on small sizes",
                "kernel": f"{self.path(self.kernel.path)}:{self.kernel.function}",
                "kernel_file": self.path(self.kernel.path),
                "reference": f"{self.path(self.reference.path)}:{self.reference.function}",
                "reference_file": self.path(self.reference.path),
                "in_place": f", in_place={tuple_text(self._in_place())}" if self._in_place() else "",
                "names": tuple_text(o["names"]),
                "varied": f", varied={tuple_text(self._varied())}" if self._varied() else "",
                "varied_said": " Those in `varied` are drawn at random." if self._varied() else "",
                "inputs": tuple_text(self.inputs),
                "parameters": ", ".join(self.named(n) + ": Any" for n in self.inputs),
                "outputs": "\n".join(self._outputs()),
                "reference_call": self._reference_call(),
                "reference_results": ", ".join(self._answer(x) for x in o["outputs"]),
                "original": "\n".join(self._original()),
                "arguments": "\n".join(self._arguments()),
                "variants": "\n".join(self._variants()),
                "workloads": "\n".join(workload_text(w) for w in o["workloads"]),
                "interpreted": "\n".join(workload_text(w) for w in o["interpreted"]),
                "derived_said": "; check and held-out ones were derived from the first" if o["derived"] else "",
                "families": tuple_text(o["families"]),
                "families_said": _left_out(o["left_out"]),
                "starts": self._starts(),
                "bytes": "\n".join(self._bytes()),
                "bytes_said": self._bytes_said(),
                "brief": repr(f"{self.kernel.function}, adopted from {self.kernel.path.name}."),
                "problem_names": ", ".join(self._problem_names()),
                "torch_import": "import torch\n" if self._buffers() or self._fixed_dtypes() else "",
            },
        ).replace("from typing import Any\n\n\nfrom", "from typing import Any\n\nfrom")

    def _problem_names(self) -> list[str]:
        kinds = {o["comparator"]["kind"] for o in self.observed["outputs"]}
        names = {"norm": "Norm", "codes": "Codes", "selection": "Custom", "exact": "Exact"}
        return sorted({"Argument", "Baseline", "Problem", "TensorSpec", "Variant", *(names[k] for k in kinds)})

    def _in_place(self) -> list[str]:
        return [r["name"] for r in self.rows if r["role"] == "in_out"]

    def _varied(self) -> list[str]:
        return [r["name"] for r in self.rows if r.get("varied")]

    def _buffers(self) -> list[dict[str, Any]]:
        return [o for o in self.observed["outputs"] if o.get("role") == "out"]

    def _fixed_dtypes(self) -> bool:
        return any(str(v).startswith("torch.") for v in self.observed["fixed"].values())

    def _arguments(self) -> Iterator[str]:
        for row in self.rows:
            role = "" if row["role"] == "value" else f', role="{row["role"]}"'
            yield f'        Argument(name="{self.named(row["name"])}"{role}),  # {row["why"]}'

    # --- outputs ---

    def _outputs(self) -> Iterator[str]:
        specs = list(self.observed["outputs"])
        if any(s["shape"] is None for s in specs):
            yield '    right = reference(*make_inputs(workload, "meta", 0))'
            yield "    right = right if isinstance(right, tuple) else (right,)"
        texts = [t for s in specs for t in (s["shape"], s["stride"]) if t]
        used = [r["name"] for r in self.rows if any(_mentions(t, r["name"]) for t in texts)]
        if used:
            yield '    made = given(workload, "meta", 0)'
            yield f"    {', '.join(used)} = {', '.join(f'made[{n!r}]' for n in used)}".replace("'", '"')
        yield "    return ("
        for number, spec in enumerate(specs):
            shape = spec["shape"] or f"tuple(right[{number}].shape)"
            dtype = 'workload["floats"]' if spec["dtype"] == "floats" else f'"{spec["dtype"]}"'
            name = self.named(spec["name"])
            more = f', argument="{name}"' if spec["argument"] else ""
            more += f", stride={spec['stride']}" if spec["stride"] else ""
            yield f'        TensorSpec(name="{name}", shape={shape}, dtype={dtype}{more}),'
        yield "    )"

    def _reference_call(self) -> str:
        called = self.observed["reference"]
        wrap = "own.single({})" if called["narrow"] else "{}"
        fixed = self.observed["fixed"]
        words = [
            f"{theirs}={fixed[name] if name in fixed else wrap.format(self.named(name))}"
            for theirs, name in called["arguments"].items()
        ]
        return ", ".join(words)

    def _answer(self, output: Mapping[str, Any]) -> str:
        kind, which = output["source"]
        return f"results[{which}]" if kind == "result" else self.named(which)

    def _original(self) -> Iterator[str]:
        """Buffers as a caller would make them, then the call by keyword."""
        for spec in self._buffers():
            dtype = f"{self.named(self.inputs[0])}.dtype" if spec["dtype"] == "floats" else f"torch.{spec['dtype']}"
            shape = self._in_seed_names(spec["shape"])
            device = f"{self.named(self._tensors()[0])}.device"
            yield f"    {spec['argument']} = torch.empty({shape}, dtype={dtype}, device={device})"
        outs = [s["argument"] for s in self._buffers()]
        given = [n for n in self.observed["call"] if n not in self.observed["fixed"]]
        words = [f"{n}={n if n in outs else self.named(n)}" for n in given]
        words += [f"{n}={v}" for n, v in self.observed["fixed"].items()]
        results = []
        for spec in self.observed["outputs"]:
            name = spec["argument"]
            results.append(
                f"returned[{spec['returned']}]" if name is None else name if name in outs else self.named(name)
            )
        call = f"ORIGINAL({', '.join(words)})"
        yield f"    returned = own.tensors_of({call})" if any("returned[" in r for r in results) else f"    {call}"
        yield f"    return {', '.join(results)}"

    def _in_seed_names(self, text: str) -> str:
        for name, ours in self.seed.names.items():
            text = text.replace(f"{name}.shape", f"{ours}.shape") if name != ours else text
        return text

    def _tensors(self) -> list[str]:
        return [r["name"] for r in self.rows if r["tensor"] and r["role"] != "out"]

    # --- what moves ---

    def _bytes(self) -> Iterator[str]:
        whole = [r["name"] for r in self.rows if r["role"] == "in_out" and r.get("part", 1.0) > MOST]
        read = [] if self.lean else [*(r["name"] for r in self.rows if r["role"] == "value" and r["tensor"]), *whole]
        partly = {self.named(n) for n in self._in_place() if n not in whole}
        counted = [self.named(o["name"]) for o in self.observed["outputs"] if self.named(o["name"]) not in partly]
        if read:
            yield '    made = given(workload, "meta", 0)'
        terms = [f"own.nbytes({', '.join(f'made[{n!r}]' for n in read)})".replace("'", '"')] if read else []
        terms.append(f"own.written(outputs(workload), {tuple_text(counted)})")
        yield f"    return {' + '.join(terms)}"

    def _bytes_said(self) -> str:
        partly = [n for n in self._in_place() if self._part(n) <= MOST]
        said = [f"{', '.join(partly)}: written in part, and not counted."] if partly else []
        said += ["The original does not read all of its inputs, so only its outputs are counted."] if self.lean else []
        return " ".join(said) or "Too low is safe, too high is not."

    def _part(self, name: str) -> float:
        return next(float(r.get("part", 1.0)) for r in self.rows if r["name"] == name)

    # --- contracts ---

    def _variants(self) -> Iterator[str]:
        floats, coarse = self.observed["floats"], self._coarse()
        measured_half = floats == "float16"  # under the interpreter, in bfloat16's place
        main, other = [*self.variants, None][:2]
        assert main is not None
        params = '{"floats": "bfloat16"}' if floats else "{}"
        scale = HALF_STEP if measured_half else 1.0
        yield from self._variant(main, params, scale, other, codes=1)
        if other:
            params = '{"floats": "float16"}' if floats else "{}"
            scale = 1.0 if measured_half or not floats else 1 / HALF_STEP
            yield from self._variant(other, params, scale, None, codes=8 if coarse else 1)

    def _variant(self, name: str, params: str, scale: float, stand_in: str | None, *, codes: int) -> Iterator[str]:
        yield "        Variant("
        yield f'            name="{name}",'
        yield f"            params={params},"
        yield "            comparators={"
        for spec in self.observed["outputs"]:
            said = "  # Python flushes float8's subnormals to zero" if codes > 1 and _is_codes(spec) else ""
            yield f'                "{self.named(spec["name"])}": {self._comparator(spec, scale, codes)},{said}'
        yield "            },"
        if stand_in:
            yield f'            stand_in="{stand_in}",'
        if any(s["comparator"].get("tf32") for s in self.observed["outputs"]):
            yield '            allows=frozenset({"tf32"}),'
        if "atomic_add" in self.seed.source:
            yield f"            repeat={self._repeat(scale):.1e},  # atomics add in any order"
        yield "        ),"

    def _comparator(self, spec: Mapping[str, Any], scale: float, codes: int) -> str:
        told = spec["comparator"]
        match told["kind"]:
            case "norm":
                factor = scale if spec["dtype"] in ("floats", "float16", "bfloat16") or told["rounded_inside"] else 1.0
                return f"Norm(strict={told['strict'] * factor:.1e}, at_most={told['at_most'] * factor:.1e})"
            case "codes":
                return f"Codes(within={codes})"
            case "selection":
                through = ", softmax=True" if told["softmax"] else ""
                return f"Custom(error=own.selection({self.inputs.index(told['of'])}{through}))"
        return "Exact()"

    def _repeat(self, scale: float) -> float:
        return scale / 2 * max(float(s["comparator"].get("strict", 0.0)) for s in self.observed["outputs"])

    def _coarse(self) -> bool:
        return any(s["dtype"].startswith("float8") for s in self.observed["outputs"])

    def _precision(self) -> str:
        names = {"float32": "fp32", "float16": "fp16", "float64": "fp64", "bfloat16": "bf16"}
        dtypes = [r["dtype"] for r in self.rows if r["tensor"] and r["dtype"] in names]
        return names[max(set(dtypes), key=dtypes.count)] if dtypes else "exact"

    def _starts(self) -> str:
        if len(self.seed.starts) < 2:
            return ""
        lines = [f"        {dict(s)!r},".replace("'", '"') for s in self.seed.starts]
        head = "    # Where the tuner begins: the configurations that the autotuner chose from.\n    starts=(\n"
        return head + "\n".join(lines) + "\n    ),\n"


def _is_codes(spec: Mapping[str, Json]) -> bool:
    return str(spec["dtype"]).startswith("float8")


def _mentions(text: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", text) is not None


def tuple_text(names: Sequence[str]) -> str:
    inside = ", ".join(f'"{n}"' for n in names)
    return f"({inside}{',' if len(names) == 1 else ''})"


def workload_text(row: Mapping[str, Any]) -> str:
    params = "{" + ", ".join(f'"{k}": {_literal(v)}' for k, v in row["params"].items()) + "}"
    more = f', role="{row["role"]}"' if row["role"] != "time" else ""
    more += f', mode="{row["mode"]}"' if row["mode"] != "cold" else ""
    more += f", weight={row['weight']}" if row["weight"] != 1 else ""
    return f'        Workload(name="{row["name"]}", params={params}{more}),'


def _literal(value: Json) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _left_out(reasons: Mapping[str, str]) -> str:
    if not reasons:
        return ""
    lines = [f"\n    # {name}: {' '.join(why.split())[:90]}" for name, why in reasons.items()]
    return "; the original itself fails on the others" + "".join(lines)
