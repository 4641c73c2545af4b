"""The module level of a candidate: imports, constants, `TUNE`, `TUNED`, kernels and host functions, and how they are
declared.

Function bodies are read by `dialect.py`; whether the whole may go on is for `screen.py` to say.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from evolve.judge import allowed
from evolve.judge.literals import Complaints, brief, dotted, is_constexpr, is_literal


@dataclass(slots=True)
class Module:
    """What the module level binds, in the making."""

    imports: set[str] = field(default_factory=set)
    kernels: dict[str, ast.FunctionDef] = field(default_factory=dict)
    helpers: dict[str, ast.FunctionDef] = field(default_factory=dict)
    constants: dict[str, bool] = field(default_factory=dict)
    tune: ast.Dict | None = None
    tuned: ast.expr | None = None  # no function can see it, nor `TUNE`: they are read from here and bind nothing


def top_level(node: ast.stmt, module: Module, complaints: Complaints) -> None:
    match node:
        case ast.Import() | ast.ImportFrom():
            imported(node, module, complaints)
        case ast.FunctionDef():
            defined(node, module, complaints)
        case ast.Assign(targets=[ast.Name(id=name)]):
            bound(node, name, node.value, module, complaints)
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr()) if is_constexpr(node.annotation):
            assert node.value is not None
            bound(node, name, node.value, module, complaints)
        case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
            complaints.add(node, f"`{brief(node)}` at module level; write `NAME = literal` or tl.constexpr(literal).")
        case _:
            kind = type(node).__name__
            complaints.add(
                node,
                f"`{brief(node)}` ({kind}) at module level; a candidate holds imports, constants, TUNE and functions.",
            )


def imported(node: ast.Import | ast.ImportFrom, module: Module, complaints: Complaints) -> None:
    for alias in node.names:
        single = ast.copy_location(ast.Import(names=[alias]), node)
        if isinstance(node, ast.ImportFrom):
            single = ast.copy_location(ast.ImportFrom(module=node.module, names=[alias], level=node.level), node)  # type: ignore[assignment]
        statement = ast.unparse(single)
        if statement in allowed.IMPORTS:
            module.imports.add(allowed.IMPORTS[statement])
        else:
            complaints.add(node, f"`{brief(single)}`; a candidate imports exactly: {'; '.join(allowed.IMPORTS)}.")


def defined(node: ast.FunctionDef, module: Module, complaints: Complaints) -> None:
    jit = [d for d in node.decorator_list if dotted(d) == ("triton", "jit")]
    for decorator in node.decorator_list:
        if decorator not in jit:
            wrong_decorator(decorator, complaints)
    if len(jit) > 1:
        complaints.add(node, "@triton.jit twice; once is enough.")
    if node.name in module.kernels or node.name in module.helpers or node.name in module.constants:
        complaints.add(node, f"`{node.name}` is defined twice; every name is bound once.")
    kernel = bool(node.decorator_list)
    (module.kernels if kernel else module.helpers)[node.name] = node
    check_signature(node, complaints, jit=kernel)


def wrong_decorator(node: ast.expr, complaints: Complaints) -> None:
    path = ".".join(dotted(node.func if isinstance(node, ast.Call) else node))
    if path == "triton.jit":
        complaints.add(node, f"`@{brief(node)}`; the only decorator is the bare `@triton.jit`, without arguments.")
        return
    hint = allowed.HINTS.get(path, "the only decorator is the bare `@triton.jit`")
    complaints.add(node, f"the decorator `@{brief(node)}`; {hint}.")


def check_signature(node: ast.FunctionDef, complaints: Complaints, *, jit: bool) -> None:
    spec = node.args
    if len(spec.posonlyargs) + len(spec.args) + len(spec.kwonlyargs) > 200:
        complaints.add(node, f"`{node.name}` has more than 200 parameters; pass fewer.")
    if spec.vararg or spec.kwarg:
        complaints.add(node, f"`{node.name}` takes * or ** parameters; name each one.")
    if jit and (spec.posonlyargs or spec.kwonlyargs):
        complaints.add(node, f"kernel `{node.name}` has positional-only or keyword-only parameters; write plain ones.")
    for default in (*spec.defaults, *(d for d in spec.kw_defaults if d is not None)):
        if not is_literal(default):
            complaints.add(default, f"the default `{brief(default)}` runs code; defaults are literals.")
    for argument in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs):
        if argument.annotation is not None and not is_constexpr(argument.annotation):
            complaints.add(
                argument, f"the annotation `{brief(argument.annotation)}`; only tl.constexpr is written, delete it."
            )
    if node.returns is not None:
        complaints.add(node, f"the return annotation `{brief(node.returns)}`; delete it.")
    if getattr(node, "type_params", ()):
        complaints.add(node, f"`{node.name}` has type parameters; delete them.")


def bound(node: ast.stmt, name: str, value: ast.expr, module: Module, complaints: Complaints) -> None:
    twice = (name == "TUNE" and module.tune) or (name == "TUNED" and module.tuned)
    if name in module.constants or name in module.kernels or name in module.helpers or twice:
        complaints.add(node, f"`{name}` is bound twice; every module-level name is bound once.")
    if name == "TUNE" and isinstance(value, ast.Dict) and isinstance(node, ast.Assign):
        module.tune = value
        return
    if name == "TUNED":
        module.tuned = value
        return
    if name == "TUNE":
        complaints.add(node, f"TUNE is `{brief(value)}`; {allowed.TUNE_HINT}.")
    constexpr = isinstance(value, ast.Call) and is_constexpr(value.func)
    literal = value.args[0] if isinstance(value, ast.Call) and constexpr and len(value.args) == 1 else value
    if isinstance(value, ast.Call) and constexpr and value.keywords:
        complaints.add(node, "tl.constexpr takes one literal and no keywords.")
    if not is_literal(literal) or isinstance(literal, ast.List):
        complaints.add(node, f"`{name} = {brief(value)}` {why_not_constant(value)}")
    module.constants[name] = constexpr


def why_not_constant(value: ast.expr) -> str:
    if isinstance(value, ast.Dict | ast.List | ast.Set):
        return "could keep state between calls; a module-level constant is a number, text, or a tuple of these."
    return "is not a literal; write a number, text, a tuple of these, or tl.constexpr(literal)."


def parameters(node: ast.FunctionDef) -> tuple[str, ...]:
    return tuple(a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs))
