"""The first stage: may this file be run at all, even in a jail? It reads the source as data and executes nothing.

Here stand the bytes and the whole. `toplevel.py` reads the module level, `dialect.py` function bodies, `scope.py` what
names mean there, `tunables.py` the entry and `TUNE`; `allowed.py` holds the lists. Whatever is given, the answer is a
`Screened` or a REJECTED that says where, what, and what to write instead. What the screen cannot see, on purpose:
values. Whether a view fits its storage is the gate's affair, whether an operation computes is lowering's, and whether
the numbers are right is for the check.
"""

from __future__ import annotations

import ast
import re
import unicodedata
import warnings
from collections.abc import Iterable, Mapping
from typing import NoReturn

from evolve.judge import allowed
from evolve.judge.dialect import Body
from evolve.judge.literals import MAX_INT, MAX_TEXT, Complaints, Names
from evolve.judge.scope import check_binding
from evolve.judge.stages import Ruling, Screened
from evolve.judge.toplevel import Module, parameters, top_level
from evolve.judge.tunables import tunables, tune_of, tuned_of
from evolve.syntax import parse as parsed
from evolve.types import Verdict, digest_of

MAX_BYTES = 100_000
MAX_NODES = 50_000
MAX_DEPTH = 80  # ast.unparse takes several Python frames a level, and the interpreter's limit is 1000
MAX_FUNCTIONS = 100

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
            tree = parsed(text)
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


# --- The tree ---------------------------------------------------------------------------------------------------------


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
    tuned = tuned_of(module.tuned, complaints)
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
        tuned=tuned,
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


# --- Functions --------------------------------------------------------------------------------------------------------


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


# --- What goes on -----------------------------------------------------------------------------------------------------


def stable(tree: ast.Module) -> str:
    """The source as it will be run. Written out and read again it must be the same program, or something was hidden in
    how it was written."""
    try:
        source = ast.unparse(tree) + "\n"
        again = parsed(source)
    except (SyntaxError, ValueError) as error:
        reject(f"the file does not survive being written out plainly ({error}); write it with simpler literals.")
    if ast.dump(again) != ast.dump(tree):
        reject("the file means something else when written out plainly; write it with simpler literals and strings.")
    return source
