"""The candidate that comes out: imports, constants, `TUNE`, kernels and host functions, between EVOLVE-BLOCK marks.

Everything that its entry does not reach stays behind. What nobody here could rewrite is left for the screen to refuse;
its complaint is given the line of the user's file that it is about.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import libcst as cst

from evolve.adopt.rewrite.cleaning import cleaned
from evolve.adopt.rewrite.launches import Launches, Tunables, blocks, tunables
from evolve.adopt.rewrite.questions import bound_in
from evolve.adopt.rewrite.reading import File, Needed, dotted, needed
from evolve.errors import AdoptError
from evolve.judge import allowed
from evolve.judge.screen import screen
from evolve.judge.stages import Ruling
from evolve.types import Json, Scalar

IMPORTS = {"torch": "import torch", "triton": "import triton", "tl": "import triton.language as tl"}
IMPORTS |= {
    "TensorDescriptor": "from triton.tools.tensor_descriptor import TensorDescriptor",
    "libdevice": "from triton.language.extra import libdevice",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Seed:
    source: str
    entry: str
    names: Mapping[str, str]  # the original's parameter -> what the seed calls it
    starts: Sequence[Mapping[str, Scalar]]
    notes: Sequence[str]


def seed_of(file: File, entry: str, observed: Mapping[str, Json], *, about: str) -> Seed:
    there = needed(file, entry, set(observed["kernels"]))
    if not there.kernels:
        raise file.refuse(file.functions[entry].lineno, f"{entry} launches no kernel of this file.")
    tensors = [a["name"] for a in observed["arguments"] if a["tensor"]]
    functions, cleaning = cleaned(file, there, observed, f"{tensors[0]}.device")
    tunable = tunables(file, observed["kernels"], there.kernels)
    fixed = blocks(file, entry, there.kernels, tunable)
    _prefer(tunable, observed.get("best"))
    launching = Launches(file, tunable, observed["kernels"], there.kernels)
    hosts = _threaded(functions, there, launching, entry, fixed)
    names = {a["name"]: _free(a["name"], functions) for a in observed["arguments"]}
    hosts[entry] = _entry(hosts[entry], observed, tunable, cleaning.queries)
    parts = {**{n: f for n, f in functions.items() if n in there.kernels}, **hosts}
    parts = {n: _renamed(parts[n], functions) for n in functions}
    text = _assembled(file, parts, launching.helpers, observed, tunable, entry, about)
    _screened(file, text, entry)
    return Seed(
        source=text,
        entry=entry,
        names=names,
        starts=tunable.starts,
        notes=(*tunable.notes, *dict.fromkeys(cleaning.notes)),
    )


def _prefer(tunable: Tunables, best: Json) -> None:
    """What the autotuner chose on this machine is the default, where it could be asked."""
    for kernel, point in (best or {}).items():
        names = tunable.keywords.get(kernel, {})
        tunable.default.update({names[n]: v for n, v in point.items() if n in names})


# --- Tunables on their way from the entry to a launch -----------------------------------------------------------------


def _threaded(
    functions: Mapping[str, cst.FunctionDef], there: Needed, launching: Launches, entry: str, fixed: Sequence[str]
) -> dict[str, cst.FunctionDef]:
    hosts: dict[str, cst.FunctionDef] = {}
    uses: dict[str, set[str]] = {}
    for name, function in functions.items():
        if name in there.kernels:
            continue
        launching.used = set()
        hosts[name] = cst.ensure_type(function.visit(launching), cst.FunctionDef)
        uses[name] = set(launching.used) | ({"NUM_SMS"} if "NUM_SMS" in _loaded(hosts[name]) else set())
    calls = {name: _loaded(function) & set(hosts) for name, function in hosts.items()}
    for _ in hosts:  # long enough for the longest chain
        for name, callees in calls.items():
            uses[name] |= {u for c in callees for u in uses[c]}
    passing = _Passing({n: sorted(u) for n, u in uses.items() if n != entry and u})
    for name in hosts:
        made = cst.ensure_type(hosts[name].visit(passing), cst.FunctionDef)
        hosts[name] = (
            made if name == entry or not uses[name] else _keyword_only(made, dict.fromkeys(sorted(uses[name])))
        )
    hosts[entry] = cst.ensure_type(hosts[entry].visit(_Without(fixed)), cst.FunctionDef)
    return hosts


def _loaded(function: cst.FunctionDef) -> set[str]:
    tree = ast.parse(cst.Module(body=[function]).code)
    return {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


class _Passing(cst.CSTTransformer):
    def __init__(self, wanted: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.wanted = wanted

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> cst.Call:
        more = self.wanted.get(dotted(updated_node.func), ())
        made = [cst.ensure_type(cst.parse_expression(f"f({n}={n})"), cst.Call).args[0] for n in more]
        space = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
        args = [*updated_node.args, *made]
        return (
            updated_node.with_changes(args=[*(a.with_changes(comma=space) for a in args[:-1]), *args[-1:]])
            if made
            else updated_node
        )


class _Without(cst.CSTTransformer):
    """Block sizes that have become tunables are not assigned any more."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = names

    def leave_Assign(self, original_node: cst.Assign, updated_node: cst.Assign) -> Any:
        target = dotted(original_node.targets[0].target)
        return cst.RemoveFromParent() if target in self.names else updated_node


def _keyword_only(function: cst.FunctionDef, names: Mapping[str, Scalar | None]) -> cst.FunctionDef:
    text = ", ".join(n if v is None else f"{n}={v!r}" for n, v in names.items())
    made = cst.ensure_type(cst.parse_statement(f"def f(*, {text}): pass"), cst.FunctionDef).params
    params = function.params
    return function.with_changes(
        params=params.with_changes(
            star_arg=params.star_arg if params.kwonly_params else made.star_arg,
            kwonly_params=[*params.kwonly_params, *made.kwonly_params],
        )
    )


# --- The entry --------------------------------------------------------------------------------------------------------


def _entry(
    function: cst.FunctionDef, observed: Mapping[str, Json], tunable: Tunables, queries: bool
) -> cst.FunctionDef:
    """The problem's arguments by position, buffers for outputs last, tunables by keyword; what never changes is bound
    in the first lines."""
    rows = observed["arguments"]
    order = [a["name"] for a in rows if a["role"] != "out"] + [a["name"] for a in rows if a["role"] == "out"]
    used = _loaded(function)
    bound = [f"{n} = {v}" for n, v in observed["fixed"].items() if n in used]
    given = {*order, *observed["fixed"]}
    for parameter in observed["signature"]:
        if parameter["name"] not in given and parameter["name"] in used:
            bound.append(f"{parameter['name']} = {_default(parameter)}")
    text = ", ".join(order)
    params = cst.ensure_type(cst.parse_statement(f"def f({text}): pass"), cst.FunctionDef).params
    made = function.with_changes(
        params=params, whitespace_before_params=cst.SimpleWhitespace(""), body=_beginning(function, bound)
    )
    keywords: dict[str, Scalar | None] = {**tunable.default, **({"NUM_SMS": 132} if queries else {})}
    return _keyword_only(made, keywords) if keywords else made


def _default(parameter: Mapping[str, Json]) -> str:
    if parameter.get("default") is None:
        raise AdoptError(
            f"the parameter {parameter['name']!r} gets nothing from make_inputs, and its default cannot be written "
            "down; give it a value in make_inputs."
        )
    return str(parameter["default"])


def _beginning(function: cst.FunctionDef, lines: Sequence[str]) -> cst.BaseSuite:
    body = list(function.body.body)
    head = 1 if function.get_docstring() is not None else 0
    new = [cst.parse_statement(line) for line in lines]
    return function.body.with_changes(body=[*body[:head], *new, *body[head:]])


# --- Names that mean something else in a candidate --------------------------------------------------------------------


def _free(name: str, functions: Mapping[str, Any]) -> str:
    taken = name in allowed.UNBINDABLE or name in functions or name in allowed.MODULES or name == "TUNE"
    return f"{name}_" if taken else name


def _renamed(function: cst.FunctionDef, functions: Mapping[str, cst.FunctionDef]) -> cst.FunctionDef:
    renaming = _Renaming(function, functions)
    return cst.ensure_type(function.visit(renaming), cst.FunctionDef)


class _Renaming(cst.CSTTransformer):
    def __init__(self, function: cst.FunctionDef, functions: Mapping[str, cst.FunctionDef]) -> None:
        super().__init__()
        tree = ast.parse(cst.Module(body=[function]).code).body[0]
        assert isinstance(tree, ast.FunctionDef)
        self.names = {n: _free(n, functions) for n in bound_in(tree) if _free(n, functions) != n}
        self.functions = functions
        self.attributes: set[int] = set()

    def visit_Attribute(self, node: cst.Attribute) -> None:
        self.attributes.add(id(node.attr))

    def visit_Arg(self, node: cst.Arg) -> None:
        self.attributes.add(id(node.keyword))

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> cst.Name:
        if id(original_node) in self.attributes or original_node.value not in self.names:
            return updated_node
        return updated_node.with_changes(value=self.names[original_node.value])

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> cst.Call:
        """Keywords of our own functions and kernels follow their parameters."""
        function = original_node.func
        callee = dotted(function.value if isinstance(function, cst.Subscript) else function)
        if callee not in self.functions:
            return updated_node
        args = [
            a.with_changes(keyword=cst.Name(_free(a.keyword.value, self.functions))) if a.keyword else a
            for a in updated_node.args
        ]
        return updated_node.with_changes(args=args)


# --- The file ---------------------------------------------------------------------------------------------------------


def _assembled(
    file: File,
    parts: Mapping[str, cst.FunctionDef],
    helpers: Mapping[str, str],
    observed: Mapping[str, Json],
    tunable: Tunables,
    entry: str,
    about: str,
) -> str:
    functions = {n: _code(f) for n, f in parts.items()}
    for name, text in helpers.items():
        functions.setdefault(name, text)
    kept = _reached(functions, entry)
    functions = {n: t for n, t in functions.items() if n in kept}
    body = "\n\n\n".join(t.strip("\n") for t in functions.values())
    constants = _constants(file, body, set(observed["kernels"]) & set(functions), functions, observed)
    tune = f"TUNE = {_table(tunable.tune)}\n" if tunable.tune else ""
    head = "\n".join(x.rstrip("\n") for x in (tune, constants) if x)
    whole = f"{head}\n\n\n{body}" if head else body
    used = {n.id for n in ast.walk(ast.parse(whole)) if isinstance(n, ast.Name)} | {"torch", "triton", "tl"}
    imports = "\n".join(line for name, line in IMPORTS.items() if name in used)
    return f'"""{about}"""\n\n{imports}\n\n# EVOLVE-BLOCK-START\n{whole}\n# EVOLVE-BLOCK-END\n'


def _code(function: cst.FunctionDef) -> str:
    return cst.Module(body=[function]).code


def _table(tune: Mapping[str, Sequence[Scalar]]) -> str:
    rows = [f'"{name}": {tuple(values)!r}' for name, values in tune.items()]
    line = "{" + ", ".join(rows) + "}"
    return line if len(line) < 100 else "{\n    " + ",\n    ".join(rows) + ",\n}"


def _reached(functions: Mapping[str, str], entry: str) -> set[str]:
    seen, waiting = set[str](), [entry]
    while waiting:
        name = waiting.pop()
        if name in functions and name not in seen:
            seen.add(name)
            waiting += [n.id for n in ast.walk(ast.parse(functions[name])) if isinstance(n, ast.Name)]
    return seen


def _constants(
    file: File, body: str, kernels: set[str], functions: Mapping[str, str], observed: Mapping[str, Json]
) -> str:
    """As values: a kernel reads tl.constexpr, host code reads plain literals."""
    lines = []
    read = {n.id for n in ast.walk(ast.parse(body)) if isinstance(n, ast.Name)}
    in_jit = {n.id for k in kernels for n in ast.walk(ast.parse(functions[k])) if isinstance(n, ast.Name)}
    for name in file.assigned:
        if name not in read or name in functions:
            continue
        if name not in observed["constants"]:
            if all(name in bound_in(f) for f in _readers(name, functions)):
                continue
            line = file.assigned[name].lineno
            raise file.refuse(
                line, f"`{name}` is no number, text or dtype; a candidate's module level holds only these."
            )
        value = observed["constants"][name]
        text = repr(tuple(value) if isinstance(value, list) else value)
        lines.append(f"{name} = tl.constexpr({text})" if name in in_jit else f"{name} = {text}")
    return "\n".join(lines)


def _readers(name: str, functions: Mapping[str, str]) -> list[ast.FunctionDef]:
    trees = [f for text in functions.values() for f in ast.parse(text).body if isinstance(f, ast.FunctionDef)]
    return [f for f in trees if any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(f))]


# --- What the screen still has against it -----------------------------------------------------------------------------


def _screened(file: File, text: str, entry: str) -> None:
    try:
        screen(text, entry=entry)
    except Ruling as ruling:
        raise AdoptError(f"{file.path} cannot be adopted as it is:\n{told(file, text, ruling.feedback)}") from ruling


def told(file: File, text: str, feedback: str) -> str:
    """The screen's lines, with the user's own line where there is one."""
    return "\n".join(f"  {_placed(file, text, line)}" for line in feedback.splitlines())


def _placed(file: File, text: str, complaint: str) -> str:
    found = re.match(r"line (\d+): (.*)", complaint)
    if not found:
        return complaint
    lines, number = text.splitlines(), int(found[1])
    wanted = lines[number - 1].strip()
    theirs = [line.strip() for line in file.text.splitlines()]
    if wanted in theirs:
        return f"{file.path}:{theirs.index(wanted) + 1}: {found[2]}"
    near = difflib.get_close_matches(wanted, theirs, n=1, cutoff=0.5)
    place = f"{file.path}:{theirs.index(near[0]) + 1}" if near else str(file.path)
    return f"{place}: `{wanted}`: {found[2]}"
