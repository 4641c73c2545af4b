"""What the tuner may choose: the entry's keyword-only parameters, their defaults, the space that `TUNE` gives, and in
`TUNED` what it chose before."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping

from evolve.judge import allowed
from evolve.judge.literals import Complaints, brief, is_literal
from evolve.judge.toplevel import Module
from evolve.types import Scalar

MAX_CHOICES = 64
MAX_ROWS = 256
TUNED_HINT = 'write TUNED = (({"M": 4096, "N": 4096}, {"BLOCK_M": 128}),): sizes, and the parameters that suit them'


def tunables(module: Module, entry: str, complaints: Complaints) -> dict[str, Scalar]:
    """The entry's keyword-only parameters and their defaults."""
    if entry in module.kernels:
        complaints.add(module.kernels[entry], f"the entry `{entry}` is decorated; it is a plain host function.")
        return {}
    node = module.helpers.get(entry)
    if node is None:
        found = ", ".join(module.helpers) or "no host function"
        complaints.add(ast.Pass(), f"there is no entry `{entry}`; the file has {found}. Define `def {entry}(...)`.")
        return {}
    if node.args.defaults:
        complaints.add(
            node, f"`{entry}` gives its problem's arguments defaults; only keyword-only parameters have them."
        )
    defaults: dict[str, Scalar] = {}
    for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        value = scalar(default)
        if value is None:
            complaints.add(
                argument, f"the tunable `{argument.arg}` needs a literal default: a number, text, True or False."
            )
        else:
            defaults[argument.arg] = value
    return defaults


def scalar(node: ast.expr | None) -> Scalar | None:
    if node is None or not is_literal(node) or isinstance(node, ast.Tuple | ast.List):
        return None
    value = ast.literal_eval(node)  # a literal was asked for just above: numbers, text, True, False, None
    finite = not isinstance(value, float) or math.isfinite(value)
    return value if isinstance(value, bool | int | float | str) and finite else None


def tune_of(
    node: ast.Dict | None, defaults: Mapping[str, Scalar], complaints: Complaints
) -> dict[str, tuple[Scalar, ...]]:
    tune: dict[str, tuple[Scalar, ...]] = {}
    for key, values in zip(node.keys, node.values, strict=True) if node else ():
        name = key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else None
        if name is None:
            complaints.add(values, 'a key of TUNE that is no literal name; write TUNE = {"BLOCK_M": (64, 128)}.')
            continue
        if name == allowed.RESERVED:
            complaints.add(values, f"TUNE names {name}, which the judge fills in; delete it from TUNE.")
        elif name not in defaults:
            known = ", ".join(n for n in defaults if n != allowed.RESERVED) or "none"
            complaints.add(values, f'TUNE names "{name}", no keyword-only parameter of the entry; it has {known}.')
        elif name in tune:
            complaints.add(values, f'TUNE names "{name}" twice; once is enough.')
        tune[name] = choices(name, values, complaints)
    return tune


def choices(name: str, node: ast.expr, complaints: Complaints) -> tuple[Scalar, ...]:
    parts = node.elts if isinstance(node, ast.Tuple | ast.List) else []
    values = [value for value in map(scalar, parts) if value is not None]
    if not parts or len(values) != len(parts) or len(parts) > MAX_CHOICES:
        complaints.add(node, f'TUNE["{name}"] is `{brief(node)}`; give a tuple of 1 to {MAX_CHOICES} literals.')
        return ()
    if len({repr(value) for value in values}) != len(values):
        complaints.add(node, f'TUNE["{name}"] holds a value twice; once is enough.')
    for part in parts:
        inner = getattr(part, "operand", part)
        if isinstance(inner, ast.Constant) and isinstance(inner.value, int) and abs(inner.value) >= 1 << 63:
            complaints.add(node, f'TUNE["{name}"] holds a number of more than 64 bits.')
    return tuple(values)


def tuned_of(node: ast.expr | None, complaints: Complaints) -> tuple[tuple[dict[str, Scalar], dict[str, Scalar]], ...]:
    """Rows of sizes and parameters. A name that the entry does not have any more does no harm, and is passed over by
    whoever looks a row up: a table must not be what keeps a kernel from changing."""
    if node is None:
        return ()
    rows = node.elts if isinstance(node, ast.Tuple | ast.List) else None
    if rows is None or len(rows) > MAX_ROWS:
        complaints.add(node, f"TUNED is `{brief(node)}`; {TUNED_HINT}.")
        return ()
    found = []
    for row in rows:
        parts = [_scalars(part) for part in row.elts] if isinstance(row, ast.Tuple) else []
        sizes, chosen = parts if len(parts) == 2 else (None, None)
        if sizes is None or chosen is None:
            complaints.add(row, f"TUNED holds `{brief(row)}`; {TUNED_HINT}.")
        else:
            found.append((sizes, chosen))
    return tuple(found)


def _scalars(node: ast.expr) -> dict[str, Scalar] | None:
    """A dict of literals by literal names, or nothing."""
    if not isinstance(node, ast.Dict):
        return None
    found: dict[str, Scalar] = {}
    for key, value in zip(node.keys, node.values, strict=True):
        said = scalar(value)
        if not isinstance(key, ast.Constant) or not isinstance(key.value, str) or said is None:
            return None
        found[key.value] = said
    return found
