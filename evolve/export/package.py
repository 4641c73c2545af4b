"""Writes a package's folder: the candidates as evolved, the table, and the files that stand in every package.

Everything appears at once: it is made beside its place and renamed. What the figures are worth is settled before, by
`trial.py`; here they are put into words.
"""

from __future__ import annotations

import json
import keyword
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from string import Template

from evolve.errors import UsageError
from evolve.export import table
from evolve.export.signature import Signature, name_of
from evolve.export.source import Taken, library_source, own_name
from evolve.problem import Norm, Problem, Variant
from evolve.types import Json, Workload

VERSION = "0.1.0"
HEADER = "| workload | runs | µs | library µs | ratio [95 %] | eager µs | library eager µs |"
PARTS = ("choice", "dispatch", "known", "operator", "out", "replay", "table")
PLAIN_FILES = (*(f"_{part}.py" for part in PARTS), "bench.py")
INDEXED = 3  # as in _dispatch.py
GRADIENT = "Gradients are computed by the backward that the problem defines, from the library's operations."
NO_GRADIENT = "Where a gradient is needed the library runs instead of the kernel, forward and backward."
FASTER = "The kernel runs where it was measured to be faster than the library; everywhere else the library runs."
NOWHERE = "So far the library runs everywhere: the kernel was verified on no device."


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a package is made of, besides its table."""

    name: str
    problem: Problem
    variant: Variant
    kernels: Mapping[str, str]  # module name -> the candidate, as evolved

    @cached_property
    def signature(self) -> Signature:
        return Signature(self.problem, self.variant)


def checked_name(wanted: str | None, entry: str) -> str:
    name = wanted or f"fast_{name_of(entry)}"
    if name != name_of(name) or not name.isidentifier() or keyword.iskeyword(name):
        raise UsageError(f"--name {name}: expected a lower-case Python name, such as fast_{name_of(entry)}.")
    if name in ("torch", "triton", "evolve", name_of(entry)):
        raise UsageError(f"--name {name}: that names something else already; take another, such as fast_{name}.")
    return name


def free_place(to: Path) -> Path:
    if to.is_symlink() or to.exists():
        raise UsageError(f"{to}: exists already; remove it, name another with --to, or `evolve refresh {to}`.")
    if not to.parent.is_dir():
        raise UsageError(f"{to}: there is no folder {to.parent}; make it first.")
    return to


def write(folder: Path, written: Written, dispatch: Mapping[str, Json], provenance: Mapping[str, Json]) -> None:
    """Into an empty folder."""
    taken = library_source(Path(written.problem.path))
    text = Path(written.problem.path).read_bytes()
    for name, source in {**written.kernels, "baseline": taken.text}.items():
        (folder / f"{name}.py").write_bytes(source.encode("utf-8", "surrogatepass"))
    for name, source in taken.files.items():
        (folder / name).write_text(source, encoding="utf-8")
    for part in written.problem.parts:  # users' files that the problem reads
        own = Path(written.problem.path).parent / part
        (folder / own_name(part)).write_bytes(own.read_bytes())
        text = text.replace(part.encode(), own_name(part).encode())
    (folder / "problem.py").write_bytes(text)
    for name in PLAIN_FILES:
        (folder / name).write_text(_template(name), encoding="utf-8")
    (folder / f"test_{written.name}.py").write_text(_template("test_package.py"), encoding="utf-8")
    (folder / "__init__.py").write_text(_init(written, taken, dispatch), encoding="utf-8")
    (folder / "pyproject.toml").write_text(_filled("pyproject.toml.txt", _words(written, taken, dispatch)), "utf-8")
    refigure(folder, written, dispatch, provenance, taken)


def refigure(
    folder: Path,
    written: Written,
    dispatch: Mapping[str, Json],
    provenance: Mapping[str, Json],
    taken: Taken | None = None,
) -> None:
    """The files that hold figures: of a new package, and of one that was refreshed."""
    words = _words(written, taken or library_source(Path(written.problem.path)), dispatch)
    words["measured"] = measured(dispatch["rows"], provenance)
    (folder / "README.md").write_text(_filled("README.md.txt", words), encoding="utf-8")
    table.write(folder / "provenance.json", {**provenance, "bounds": bounds(written)})
    table.write(folder / table.FILE, dispatch)


def bounds(written: Written) -> list[float | None]:
    """By output: what an answer may be off, as a norm; None where only the problem itself can tell."""
    found = []
    for spec in written.problem.outputs(written.problem.of_role("time", written.variant)[0]):
        comparator = written.variant.comparators[spec.name]
        found.append(comparator.at_most if isinstance(comparator, Norm) else None)
    return found


def provenance_of(folder: Path) -> dict[str, Json]:
    file = folder / "provenance.json"
    try:
        found: dict[str, Json] = json.loads(file.read_text(encoding="utf-8"))
        _ = found["workloads"], found["candidates"]
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{file}: not what `evolve export` writes ({error}); export the package anew.") from error
    return found


def workload_from(data: Mapping[str, Json]) -> Workload:
    return Workload(**data)


def kernel_of(folder: Path, name: str) -> str:
    file = folder / f"{Path(name).name}.py"
    try:
        return file.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}; export the package anew.") from error


def install(draft: Path, to: Path) -> None:
    draft.rename(to)


def discard(draft: Path) -> None:
    shutil.rmtree(draft, ignore_errors=True)


# --- Words ------------------------------------------------------------------------------------------------------------


def _template(name: str) -> str:
    return (files("evolve.export") / "templates" / name).read_text(encoding="utf-8")


def _filled(name: str, words: Mapping[str, str]) -> str:
    return Template(_template(name)).substitute(words)


def _words(written: Written, taken: Taken, dispatch: Mapping[str, Json]) -> dict[str, str]:
    problem = written.problem
    names = [a.name for a in problem.arguments if a.role != "out"]
    verified = any(row["parameters"] != table.BASELINE for row in dispatch["rows"])
    return {
        "name": written.name,
        "upper": written.name.upper(),
        "dist": written.name.replace("_", "-"),
        "version": VERSION,
        "op": problem.entry,
        "args": ", ".join(names),
        "out": "out = " if any(name is None for name in written.signature.spec()["results"]) else "",
        "writes": _writes([name for name in written.signature.spec()["results"] if name]),
        "summary": f"{problem.entry}({', '.join(names)}) in {written.variant.name}, on an evolved Triton kernel.",
        "doc": f"{problem.entry} in {written.variant.name}: the kernel or the library, as dispatch.json says.",
        "gradient_sentence": GRADIENT if taken.has_gradient else NO_GRADIENT,
        "dispatch_words": FASTER if verified else NOWHERE,
    }


def _writes(names: Sequence[str]) -> str:
    if not names:
        return ""
    listed = " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
    return f"\nIt writes into {listed}.\n"


def _init(written: Written, taken: Taken, dispatch: Mapping[str, Json]) -> str:
    given = [a for a in written.problem.arguments if a.role != "out"]
    tensors = [a.name for a in given if a.role != "scalar"]

    index = ""
    for n in tensors[:INDEXED]:
        index = f"{f'({index}) * 31 + ' if ' ' in index else f'{index} * 31 + ' if index else ''}{n}.numel()"
    scalars = [a.name for a in given if a.role == "scalar"]
    return Template(_template("__init__.py.txt")).substitute(
        _words(written, taken, dispatch),
        index=f"({', '.join((index, *scalars))})" if scalars else index,
        tensors=", ".join(tensors),
    )


def measured(rows: Sequence[Mapping[str, Json]], provenance: Mapping[str, Json]) -> str:
    """A table a device and Triton, or the sentence that there is none, with what the run found."""
    known = [row for row in rows if row.get("measured")]
    if not known:
        until = 'every row of `dispatch.json` is "baseline" until `evolve refresh` has verified it on a GPU'
        judged = [m for c in provenance["candidates"].values() for m in c["measurements"] if not m["modelled"]]
        if not judged:
            return f"Nothing yet, on any device: the times of its run are a model's, and {until}."
        figures = "\n".join(map(_judged, judged))
        return f"Nothing yet of this package: {until}. Its run measured the kernel:\n\n{figures}"
    lines = []
    for device, triton in dict.fromkeys(table.pair(row) for row in known):
        said = "ratio is the library's time over the function's, in a CUDA graph."
        lines += [f"**{device}, Triton {triton}**; {said}", "", HEADER, "|---|" + "---:|" * 6]
        lines += [_line(row) for row in known if table.pair(row) == (device, triton)] + [""]
    return "\n".join(lines).rstrip()


def _judged(m: Mapping[str, Json]) -> str:
    middle, low, high = m["ratio"]
    return f"- {m['workload']}: {m['time_us']:.2f} µs, {middle:.3f} [{low:.3f}, {high:.3f}] × {m['baseline']}"


def _line(row: Mapping[str, Json]) -> str:
    found, eager = row["measured"], row["measured"]["eager"]
    ratio = found["ratio"]
    runs = "library" if row["parameters"] == table.BASELINE else "kernel"
    runs += ", in graphs" if runs == "kernel" and row["eager"] == table.BASELINE else ""
    return (
        f"| {row['workload']} | {runs} | {found['us']:.2f} | {found['library_us']:.2f} | "
        f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}] | {eager['kernel_us']:.1f} | "
        f"{eager['library_us']:.1f} |"
    )
