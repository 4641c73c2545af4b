"""The first stage: may this file be run at all, even in a jail? It reads the source as data and executes nothing.

Covers the bytes, the module level, the entry and `TUNE`; `dialect.py` reads function bodies, `allowed.py` holds the
lists. Whatever is given, the answer is a `Screened` or a REJECTED that says where, what, and what to write instead.
What it cannot see, on purpose: values. Whether a view fits its storage is the gate's affair, whether an operation
computes is lowering's, and whether the numbers are right is for the check.
"""

from __future__ import annotations

import ast
import math
import re
import unicodedata
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from evolve.judge import allowed
from evolve.judge.dialect import Body, check_binding
from evolve.judge.literals import MAX_INT, MAX_TEXT, Complaints, Names, brief, dotted, is_constexpr, is_literal
from evolve.judge.stages import Ruling, Screened
from evolve.types import Scalar, Verdict, digest_of

MAX_BYTES = 100_000
MAX_NODES = 50_000
MAX_DEPTH = 80  # ast.unparse takes several Python frames a level, and the interpreter's limit is 1000
MAX_FUNCTIONS = 100
MAX_CHOICES = 64

COOKIE = re.compile(r"^[ \t]*#.*?coding[:=][ \t]*[-_.a-zA-Z0-9]+")


def screen(source: bytes | str, *, entry: str) -> Screened:
    """The screened candidate, or `Ruling(REJECTED)`. Nothing else is ever raised, whatever the bytes."""
    try:
        tree = parse(text_of(source))
        return examined(tree, entry)
    except (RecursionError, MemoryError):
        reject("the file is nested too deeply or too large to read; write plainer code.")


def reject(feedback: str) -> NoReturn:
    raise Ruling(Verdict.REJECTED, feedback, stage="screen")


# --- Bytes ------------------------------------------------------------------------------------------------------------


def text_of(source: bytes | str) -> str:
    if len(source) > MAX_BYTES:
        reject(f"the file has {len(source)} bytes; at most {MAX_BYTES} are read. Write a smaller candidate.")
    try:
        raw = source.encode("utf-8") if isinstance(source, str) else source
        text = raw.decode("utf-8")
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        reject(f"the file is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8.")
    text = text.replace("\r\n", "\n")
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        hidden = hidden_character(line)
        if hidden:
            reject(f"line {number}: the character {hidden} is not allowed in a candidate; delete it.")
        if line.endswith("\\"):
            reject(f"line {number}: a backslash at the line's end; put the expression in parentheses instead.")
    for number, line in enumerate(lines[:2], 1):
        if COOKIE.match(line):
            reject(f"line {number}: an encoding cookie; candidates are UTF-8: delete the comment.")
    return text


def hidden_character(line: str) -> str:
    """Control characters (NUL, form feed), byte-order marks and marks that reorder text: what a reader cannot see.
    Lone surrogates cannot be here: the text was UTF-8."""
    if line.isascii() and line.isprintable():
        return ""
    for char in line:
        if char != "\t" and unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp"):
            return f"U+{ord(char):04X} ({unicodedata.name(char, 'control character')})"
    return ""


def parse(text: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an unknown escape in a docstring is nobody's business here
            tree = ast.parse(text)
    except SyntaxError as error:
        reject(f"line {error.lineno or 1}: this does not parse: {error.msg}. Return one complete Python file.")
    except ValueError as error:  # "source code string cannot contain null bytes" and its like
        reject(f"the file does not parse: {error}. Return one complete Python file.")
    measure(tree)
    return tree


def measure(tree: ast.Module) -> None:
    """Bounds on the tree before anything recursive looks at it."""
    level: list[ast.AST] = [tree]
    nodes = depth = 0
    while level:
        nodes, depth = nodes + len(level), depth + 1
        if depth > MAX_DEPTH:
            line = next((node.lineno for node in level if isinstance(node, ast.expr | ast.stmt)), 1)
            reject(f"line {line}: nested more than {MAX_DEPTH} levels deep; name the parts.")
        if nodes > MAX_NODES:
            reject(f"the file has more than {MAX_NODES} syntax nodes; write a smaller candidate.")
        level = [child for node in level for child in ast.iter_child_nodes(node)]


# --- The module level -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Module:
    """What the module level binds, in the making."""

    imports: set[str] = field(default_factory=set)
    kernels: dict[str, ast.FunctionDef] = field(default_factory=dict)
    helpers: dict[str, ast.FunctionDef] = field(default_factory=dict)
    constants: dict[str, bool] = field(default_factory=dict)
    tune: ast.Dict | None = None


def examined(tree: ast.Module, entry: str) -> Screened:
    strip_docstrings(tree)
    complaints = Complaints()
    check_sizes(tree, complaints)
    if complaints.found:  # before anything quotes them
        reject(complaints.lines())
    module = Module()
    for statement in tree.body:
        top_level(statement, module, complaints)
    names = Names(
        imports=frozenset(module.imports),
        kernels={name: parameters(node) for name, node in module.kernels.items()},
        helpers=frozenset(module.helpers),
        constants=module.constants,
    )
    check_functions(module, names, complaints)
    defaults = tunables(module, entry, complaints)
    tune = tune_of(module.tune, defaults, complaints)
    if complaints.found:
        reject(complaints.lines())
    source = stable(tree)
    return Screened(
        source=source,
        digest=digest_of(source),
        entry=entry,
        kernels=tuple(module.kernels),
        defaults={name: value for name, value in defaults.items() if name != allowed.RESERVED},
        tune=tune,
        reserved=(allowed.RESERVED,) if allowed.RESERVED in defaults else (),
    )


def check_sizes(tree: ast.Module, complaints: Complaints) -> None:
    """No literal is so large that writing it out, or computing with it, is work."""
    for node in ast.walk(tree):
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(value, int) and abs(value) > MAX_INT:
            complaints.add(node, "an integer of more than 64 bits; no size or address is that large.")
        elif isinstance(value, str) and len(value) > MAX_TEXT:
            complaints.add(node, f"a text of {len(value)} characters; write at most {MAX_TEXT}.")


def strip_docstrings(tree: ast.Module) -> None:
    """Text that stands alone says nothing to Triton, and Triton finds a kernel's source by a pattern: leave it none."""
    blocks: list[list[ast.stmt]] = [tree.body]
    while blocks:
        body = blocks.pop()
        for statement in body:
            inner = (getattr(statement, name, None) for name in ("body", "orelse"))
            blocks += [block for block in inner if isinstance(block, list)]
        kept = [s for s in body if not (isinstance(s, ast.Expr) and is_text(s.value))]
        if body and not kept and body is not tree.body:
            kept = [ast.copy_location(ast.Pass(), body[0])]
        body[:] = kept


def is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


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
    if name in module.constants or name in module.kernels or name in module.helpers or (name == "TUNE" and module.tune):
        complaints.add(node, f"`{name}` is bound twice; every module-level name is bound once.")
    if name == "TUNE" and isinstance(value, ast.Dict) and isinstance(node, ast.Assign):
        module.tune = value
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


# --- Functions --------------------------------------------------------------------------------------------------------


def parameters(node: ast.FunctionDef) -> tuple[str, ...]:
    return tuple(a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs))


def check_functions(module: Module, names: Names, complaints: Complaints) -> None:
    functions = {**module.kernels, **module.helpers}
    if len(functions) > MAX_FUNCTIONS:
        reject(f"the file defines {len(functions)} functions; at most {MAX_FUNCTIONS} are read.")
    for name in (*functions, *names.constants):
        here = functions.get(name) or ast.Pass()
        own = Names(imports=names.imports, kernels={}, helpers=frozenset(), constants={})
        check_binding(here, name, own, complaints)
    calls: dict[str, set[str]] = {}
    for name, node in functions.items():
        calls[name] = Body(node, names, complaints, jit=name in module.kernels).calls
    for name in recursive(calls):
        complaints.add(functions[name], f"`{name}` calls itself, directly or through others; write a loop.")


def recursive(calls: Mapping[str, Iterable[str]]) -> list[str]:
    """The functions from which a call leads back to themselves."""
    found = []
    for start in calls:
        seen: set[str] = set()
        waiting = list(calls[start])
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting += calls.get(name, ())
        if start in seen:
            found.append(start)
    return found


# --- The entry and its tunables ---------------------------------------------------------------------------------------


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


# --- What goes on -----------------------------------------------------------------------------------------------------


def stable(tree: ast.Module) -> str:
    """The source as it will be run. Written out and read again it must be the same program, or something was hidden in
    how it was written."""
    try:
        source = ast.unparse(tree) + "\n"
        again = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        reject(f"the file does not survive being written out plainly ({error}); write it with simpler literals.")
    if ast.dump(again) != ast.dump(tree):
        reject("the file means something else when written out plainly; write it with simpler literals and strings.")
    return source
