"""`TUNED` in a candidate: for each workload the numbers that it should start from, because they are known to be good.

    TUNED = (
        ({"M": 4096, "N": 4096, "K": 4096}, {"BLOCK_M": 128, ...}),
    )

It is for whoever joins two lines: each workload begins at its own winner's numbers, with what the winner did not have
switched off. Nothing is searched here. Where the file has such a table already it is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

import libcst as cst

from evolve.rules.base import No
from evolve.rules.edits import Edits
from evolve.rules.parameters import space_of
from evolve.rules.source import Source, parse
from evolve.types import Scalar

Numbers = Mapping[str, Scalar]
OFF: tuple[Scalar, ...] = (False, "", 0, 1)  # what leaves a structure out, of a switch's values


def started(text: str, rows: Sequence[tuple[Numbers, Numbers]], *, fresh: frozenset[str] = frozenset()) -> str:
    """The file with one row for each pair of sizes and numbers. Tunables that a row does not name are switched off in
    it, but for the `fresh` ones, whose defaults are what is to be tried."""
    try:
        source = parse(text)
        line, old = _line(source, "TUNE"), _line(source, "TUNED")
        lines = [f"    ({_shown(sizes)}, {_shown(_whole(source, numbers, fresh))})," for sizes, numbers in rows]
        if line is None or not lines:
            return text
        table = "\n".join(["# Sizes, and what suited them best so far.", "TUNED = (", *lines, ")"]) + "\n"
        edits = Edits(source)
        if old is not None:
            edits.replace(old, table)
        else:
            edits.after(line, table)
        return edits.result()
    except No:
        return text


def _line(source: Source, name: str) -> cst.SimpleStatementLine | None:
    for line in source.module.body:
        for small in line.body if isinstance(line, cst.SimpleStatementLine) else ():
            if isinstance(small, cst.Assign) and source.code(small.targets[0].target) == name:
                return line if isinstance(line, cst.SimpleStatementLine) else None
    return None


def _whole(source: Source, numbers: Numbers, fresh: frozenset[str]) -> Numbers:
    own = source.tunables
    off = {name: value for name, value in _off(source).items() if name not in fresh and name not in numbers}
    return {**{n: v for n, v in numbers.items() if n in own and n != "NUM_SMS"}, **off}


def _off(source: Source) -> dict[str, Scalar]:
    found = {}
    for name, values in space_of(source).items():
        value = next((v for v in OFF if any(v == each and type(v) is type(each) for each in values)), None)
        if name in source.tunables and value is not None and name not in ("num_warps", "num_stages"):
            found[name] = value
    return found


def _shown(values: Numbers) -> str:
    return "{" + ", ".join(f'"{name}": {value!r}' for name, value in values.items()) + "}"


def elsewhere(text: str, random: Random) -> str:
    """The same kernel with another default for one number: nothing new but the place where a search begins."""
    try:
        source = parse(text)
        space = space_of(source)
        params = [p for p in source.entry.params.kwonly_params if p.default is not None and p.name.value in space]
        if not params:
            return text
        param = random.choice(params)
        others = [v for v in space[param.name.value] if v != source.tunables.get(param.name.value)]
        if not others or param.default is None:
            return text
        edits = Edits(source)
        edits.expression(param.default, repr(random.choice(others)))
        return edits.result()
    except No:
        return text
