"""Decorators become `TUNE`, keywords and host code.

Every kernel that was autotuned gets what its configurations set as keywords at each launch, named after the entry's
keyword-only parameters; what heuristics computed is computed in the launch, from the same arguments. Host functions
between the entry and a launch pass the tunables on.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import libcst as cst

from evolve.adopt.rewrite.reading import File, dotted
from evolve.judge import allowed
from evolve.types import Json, Scalar

WARPS: tuple[Scalar, ...] = (1, 2, 4, 8, 16)
POWERS = tuple(2**n for n in range(4, 13))


@dataclass(slots=True)
class Tunables:
    """What the entry may be asked for. `starts` are whole configurations, the first is the default."""

    default: dict[str, Scalar] = field(default_factory=dict)
    tune: dict[str, tuple[Scalar, ...]] = field(default_factory=dict)
    starts: list[dict[str, Scalar]] = field(default_factory=list)
    keywords: dict[str, dict[str, str]] = field(default_factory=dict)  # kernel -> keyword -> the tunable's name
    notes: list[str] = field(default_factory=list)


def tunables(file: File, kernels: Mapping[str, Json], needed: set[str]) -> Tunables:
    """From the configurations of all kernels. Two kernels with a parameter of one name keep them apart."""
    found = Tunables()
    for kernel in file.functions:
        if kernel not in needed:
            continue
        configs = kernels.get(kernel, {}).get("configs", [])
        if not configs:
            _plain(file, kernel, found)
            continue
        _refuse_hooks(file, kernel, configs)
        points = [_point(c, file, kernel) for c in configs]
        names = list(dict.fromkeys(n for p in points for n in p))
        mine = {n: n if n not in found.default else f"{kernel.strip('_').upper()}_{n}" for n in names}
        found.keywords[kernel] = mine
        usual = {"num_warps": 4, "num_stages": 3, "num_ctas": 1}
        rows = [{mine[n]: p.get(n, usual.get(n, 0)) for n in names} for p in points]
        for name in mine.values():
            values = tuple(sorted({row[name] for row in rows}, key=lambda v: (str(type(v)), v)))
            found.default[name] = rows[0][name]
            if len(values) > 1:
                found.tune[name] = values
        found.starts = _crossed(found.starts, rows)
        found.notes += _said(kernel, kernels[kernel], len(configs))
    return found


def _plain(file: File, kernel: str, found: Tunables) -> None:
    """A kernel that was never tuned gets its warps to be tuned, unless its launches compute them."""
    given = [{k.arg: k.value for k in call.keywords} for call in launches_of(file, kernel)]
    values = [g["num_warps"] for g in given if "num_warps" in g]
    literal = [v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, int)]
    if not given or len(literal) != len(values) or len(set(literal)) > 1:
        return
    default = literal[0] if literal else 4
    name = "num_warps" if "num_warps" not in found.default else f"{kernel.strip('_').upper()}_num_warps"
    found.keywords[kernel] = {"num_warps": name}
    found.default[name] = default
    found.tune[name] = WARPS if default in WARPS else (default,)


def launches_of(file: File, kernel: str) -> list[ast.Call]:
    calls = (n for n in ast.walk(file.tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Subscript))
    return [c for c in calls if isinstance(c.func, ast.Subscript) and dotted(c.func.value) == kernel]


def blocks(file: File, entry: str, needed: set[str], found: Tunables) -> list[str]:
    """A block size that the entry fixes in a line of its own (`BLOCK = 1024`) and gives to a kernel is a tunable."""
    function = file.functions[entry]
    lines = [s for s in function.body if isinstance(s, ast.Assign) and isinstance(s.targets[0], ast.Name)]
    stored = [n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    taken = []
    for line in lines:
        name, value = getattr(line.targets[0], "id", ""), getattr(line.value, "value", None)
        if type(value) is not int or value not in POWERS or stored.count(name) != 1 or name in found.default:
            continue
        calls = [c for kernel in needed for c in launches_of(file, kernel)]
        if any(isinstance(k.value, ast.Name) and k.value.id == name for c in calls for k in c.keywords):
            found.default[name] = value
            found.tune[name] = tuple(v for v in (value // 2, value, value * 2) if v in POWERS)
            taken.append(name)
    return taken


def _refuse_hooks(file: File, kernel: str, configs: Sequence[Json]) -> None:
    if any(c["pre_hook"] for c in configs):
        raise file.refuse(
            file.functions[kernel].lineno,
            f"the configurations of {kernel} have a pre_hook, which runs Python before each launch; do in the host "
            "function what it does.",
        )


def _point(config: Json, file: File, kernel: str) -> dict[str, Scalar]:
    """Parameters of the kernel, and options that a candidate may give."""
    parameters = {a.arg for a in file.functions[kernel].args.args}
    both = {**config["kwargs"], **config["options"]}
    return {n: v for n, v in both.items() if n in parameters or n in allowed.LAUNCH_OPTIONS}


def _crossed(starts: list[dict[str, Scalar]], rows: list[dict[str, Scalar]]) -> list[dict[str, Scalar]]:
    """With several kernels, each one's configurations beside the others' first."""
    if not starts:
        return rows
    return [{**s, **rows[0]} for s in starts] + [{**starts[0], **r} for r in rows[1:]]


def _said(kernel: str, told: Json, count: int) -> Iterator[str]:
    keys = ", ".join(told["keys"])
    yield (
        f"{kernel}: {count} configurations become TUNE and the tuner's starting points; it chose once for each "
        f"{keys or 'call'}, the tuner chooses for each workload"
    )
    if hooks := [h for h in told["hooks"] if h != "user_pre_hook"]:
        yield f"{kernel}: {', '.join(hooks)} of the autotuner is left out; every run here has inputs of its own"


# --- Launches ---------------------------------------------------------------------------------------------------------


class Launches(cst.CSTTransformer):
    """Adds the keywords to the launches of one function. `sub` gives what heuristics compute."""

    def __init__(self, file: File, tunable: Tunables, kernels: Mapping[str, Json], needed: set[str]) -> None:
        super().__init__()
        self.file, self.tunable, self.kernels, self.needed = file, tunable, kernels, needed
        self.used: set[str] = set()
        self.helpers: dict[str, str] = {}  # host functions that heuristics became

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> cst.Call:
        if not isinstance(updated_node.func, cst.Subscript):
            return updated_node
        kernel = dotted(updated_node.func.value)
        if kernel not in self.needed:
            return updated_node
        more = dict(self.tunable.keywords.get(kernel, {}))
        self.used |= set(more.values())
        given = self._given(kernel, updated_node)
        given.update(more)
        for name, text in self._heuristics(kernel, given):
            more[name] = given[name] = text
        return _with_keywords(updated_node, more)

    def _given(self, kernel: str, call: cst.Call) -> dict[str, str]:
        """Each parameter's argument in this launch, as text."""
        spec = self.file.functions[kernel].args
        parameters = [a.arg for a in spec.args]
        defaults = zip(reversed(parameters), reversed(spec.defaults), strict=False)
        found = {name: ast.unparse(value) for name, value in defaults}
        code = cst.Module(body=[]).code_for_node
        place = 0
        for argument in call.args:
            if argument.keyword is not None:
                found[argument.keyword.value] = code(argument.value)
            elif not argument.star and place is not None and place < len(parameters):
                found[parameters[place]] = code(argument.value)
                place += 1
            else:
                place = len(parameters)  # behind a star nobody knows
        return found

    def _heuristics(self, kernel: str, given: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        known = dict(given)
        for decorator in self.file.functions[kernel].decorator_list:
            if not isinstance(decorator, ast.Call) or not dotted(decorator.func).endswith("heuristics"):
                continue
            for name, function in self._entries(kernel, decorator):
                known[name] = self._computed(kernel, name, function, known)
                yield name, known[name]

    def _entries(self, kernel: str, decorator: ast.Call) -> Iterator[tuple[str, ast.expr]]:
        table: ast.expr | None = decorator.args[0] if decorator.args else decorator.keywords[0].value
        if isinstance(table, ast.Name):
            table = self.file.assigned.get(table.id)
        if not isinstance(table, ast.Dict) or not all(isinstance(k, ast.Constant) for k in table.keys):
            raise self.file.refuse(
                decorator.lineno, f"the heuristics of {kernel} are no dict that can be read here; write it out."
            )
        for key, value in zip(table.keys, table.values, strict=True):
            yield str(getattr(key, "value", "")), value

    def _computed(self, kernel: str, name: str, function: ast.expr, known: Mapping[str, str]) -> str:
        if isinstance(function, ast.Name) and function.id in self.file.functions:
            return self._helper(kernel, name, self.file.functions[function.id], known)
        if not isinstance(function, ast.Lambda) or len(function.args.args) != 1:
            raise self.file.refuse(
                function.lineno, f"the heuristic {name} of {kernel} is no lambda or function of this file; write one."
            )
        body = _Filled(self.file, kernel, function.args.args[0].arg, known).visit(function.body)
        return ast.unparse(body)

    def _helper(self, kernel: str, name: str, function: ast.FunctionDef, known: Mapping[str, str]) -> str:
        """A function of several statements stays one, with what it reads as parameters."""
        filling = _Filled(self.file, kernel, function.args.args[0].arg, known)
        body = [s for s in function.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
        if len(body) == 1 and isinstance(body[0], ast.Return) and body[0].value is not None:
            return ast.unparse(filling.visit(body[0].value))
        read = _Named(function.args.args[0].arg)
        made = ast.parse(ast.unparse(function)).body[0]
        assert isinstance(made, ast.FunctionDef)
        made.body = [read.visit(s) for s in made.body]
        made.args = ast.arguments(
            posonlyargs=[], args=[ast.arg(arg=p) for p in read.names], kwonlyargs=[], kw_defaults=[], defaults=[]
        )
        made.returns, made.decorator_list = None, []
        self.helpers[function.name] = ast.unparse(ast.fix_missing_locations(made))
        values = [filling.of(p, function.lineno) for p in read.names]
        return f"{function.name}({', '.join(values)})"


class _Filled(ast.NodeTransformer):
    """`args["K"]` becomes what the launch gives for K."""

    def __init__(self, file: File, kernel: str, name: str, known: Mapping[str, str]) -> None:
        self.file, self.kernel, self.name, self.known = file, kernel, name, known

    def of(self, key: str, line: int) -> str:
        if key not in self.known:
            raise self.file.refuse(line, f"a heuristic of {self.kernel} reads {key!r}, which its launch does not name.")
        return self.known[key]

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        if isinstance(node.value, ast.Name) and node.value.id == self.name and isinstance(node.slice, ast.Constant):
            return ast.parse(self.of(str(node.slice.value), node.lineno), mode="eval").body
        return self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        path = dotted(node)
        return ast.parse(self.file.path_of(path), mode="eval").body if path else node


class _Named(ast.NodeTransformer):
    def __init__(self, name: str) -> None:
        self.name = name
        self.names: list[str] = []

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        if isinstance(node.value, ast.Name) and node.value.id == self.name and isinstance(node.slice, ast.Constant):
            key = str(node.slice.value)
            self.names += [key] if key not in self.names else []
            return ast.Name(id=key, ctx=ast.Load())
        return self.generic_visit(node)


def _with_keywords(call: cst.Call, more: Mapping[str, str]) -> cst.Call:
    """Behind what the launch gives already, laid out as its last arguments are."""
    if isinstance(_number(call, "num_warps"), int) and "num_warps" in more:
        call = call.with_changes(args=_replaced(call.args, "num_warps", more["num_warps"]))
    there = {a.keyword.value for a in call.args if a.keyword}
    new = [
        cst.ensure_type(cst.parse_expression(f"f({n}={v})"), cst.Call).args[0]
        for n, v in more.items()
        if n not in there
    ]
    if not new:
        return call
    old = list(call.args)
    last = old[-1]
    space = last.comma.whitespace_after if isinstance(last.comma, cst.Comma) else cst.SimpleWhitespace(" ")
    before = old[-2].comma if len(old) > 1 else None
    between = before.whitespace_after if isinstance(before, cst.Comma) else cst.SimpleWhitespace(" ")
    if not isinstance(between, cst.ParenthesizedWhitespace):
        between = cst.SimpleWhitespace(" ")
    comma = cst.Comma(whitespace_after=between)
    end = cst.Comma(whitespace_after=space) if isinstance(last.comma, cst.Comma) else cst.MaybeSentinel.DEFAULT
    old[-1] = last.with_changes(comma=comma, whitespace_after_arg=cst.SimpleWhitespace(""))
    inner = [a.with_changes(comma=comma) for a in new[:-1]]
    final = new[-1].with_changes(comma=end, whitespace_after_arg=last.whitespace_after_arg)
    return call.with_changes(args=[*old, *inner, final])


def _number(call: cst.Call, name: str) -> int | None:
    values = [a.value for a in call.args if a.keyword is not None and a.keyword.value == name]
    return int(values[0].value) if values and isinstance(values[0], cst.Integer) else None


def _replaced(args: Sequence[cst.Arg], name: str, text: str) -> list[cst.Arg]:
    return [
        a.with_changes(value=cst.parse_expression(text)) if a.keyword is not None and a.keyword.value == name else a
        for a in args
    ]
