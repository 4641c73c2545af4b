"""R15: take back a move of the kinds that these rules make: an option of a loop, or a path behind a constexpr switch.

A lineage that took a bad turn early gets out of it without going back to the ancestor and losing what came after. It
looks at the text alone, and so also undoes what a model wrote in the same form.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.edits import Edits
from evolve.rules.parameters import space_of
from evolve.rules.source import Kernel, Source, lines_of
from evolve.rules.symbols import Scope, identifiers

REASON = "Take back {what}: the kernel is simpler without it, and what came after it may do better alone."
OPTIONS = ("warp_specialize", "flatten", "num_stages", "loop_unroll_factor", "disallow_acc_multi_buffer")


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    what: str
    kernel: Kernel
    loop: cst.For | None = None
    option: str = ""
    switch: str = ""


def rewrite(source: Source, context: Context) -> Applied:
    moves = [m for kernel in source.kernels.values() for m in (*_options(source, kernel), *_switches(source, kernel))]
    if not moves:
        raise No("There is no loop option and no constexpr switch to take back.")
    if context.tuned:
        moves = [m for m in moves if not _switched(source, m)]
        if not moves:
            raise No("The tuner turns every switch that there is by itself.")
    move = context.random.choice(moves)
    edits = Edits(source)
    if move.loop is not None:
        _drop_option(edits, move)
    else:
        _drop_switch(edits, move)
    return Applied(source=edits.result(), hypothesis=REASON.format(what=move.what))


def _switched(source: Source, move: Move) -> bool:
    """Whether a tunable decides on it, on the host or as the option's own value."""
    turned = {name for name, values in space_of(source).items() if False in values} & source.tunables.keys()
    given = {name: text for x in source.launches if x.kernel == move.kernel.name for name, text in x.arguments.items()}
    names = [move.switch] if move.switch else []
    for arg in move.loop.iter.args if move.loop is not None and isinstance(move.loop.iter, cst.Call) else ():
        if arg.keyword is not None and arg.keyword.value == move.option:
            names += identifiers(source.code(arg.value))
    texts = [given.get(name, name) for name in names]
    texts += [source.code(line) for text in texts if text.isidentifier() for line in _made(source, text)]
    return any(turned & set(_words(text)) for text in texts)


def _options(source: Source, kernel: Kernel) -> Iterator[Move]:
    for line in lines_of(kernel.node.body):
        if isinstance(line, cst.For) and isinstance(line.iter, cst.Call):
            for arg in line.iter.args:
                if arg.keyword is not None and arg.keyword.value in OPTIONS:
                    what = f"`{source.code(arg)}` of the loop over `{source.code(line.target)}`"
                    yield Move(what=what, kernel=kernel, loop=line, option=arg.keyword.value)


def _switches(source: Source, kernel: Kernel) -> Iterator[Move]:
    """Constexprs that only ever choose between two paths: dropping them leaves the `else`."""
    branches: dict[str, list[cst.If]] = {}
    for line in lines_of(kernel.node.body):
        if isinstance(line, cst.If) and isinstance(line.test, cst.Name) and line.test.value in kernel.constexprs:
            branches.setdefault(line.test.value, []).append(line)
    code, host = source.code(kernel.node), source.code(source.entry)
    for name, lines in branches.items():
        words = len(re.findall(rf"\b{name}\b", code)), len(re.findall(rf"\b{name}\b", host))
        own = words[0] == len(lines) + 1 and words[1] in (
            1,
            3,
        )  # `name=...` in the launch, with or without a line before
        if own and name not in source.tunables and all(_alternative(source, line) for line in lines):
            yield Move(what=f"the path behind `{name}`", kernel=kernel, switch=name)


def _alternative(source: Source, line: cst.If) -> bool:
    """Both branches access memory, the `else` by pointers; or there is no `else`, and descriptors are made."""
    first = source.code(line.body)
    if line.orelse is None:
        return "tl.make_tensor_descriptor(" in first and ".load(" not in first and ".store(" not in first
    second = source.code(line.orelse)
    return any(way in first and f"tl{way}" in second for way in (".load(", ".store("))


def _drop_option(edits: Edits, move: Move) -> None:
    assert move.loop is not None
    call = Scope(edits.source, move.kernel).tree(move.loop.iter)
    assert isinstance(call, ast.Call)
    gone = [k.value for k in call.keywords if k.arg == move.option]
    call.keywords = [k for k in call.keywords if k.arg != move.option]
    edits.expression(move.loop.iter, ast.unparse(call))
    code = edits.source.code(move.kernel.node)
    for name in identifiers(ast.unparse(gone[0])) & move.kernel.constexprs if gone else ():
        if len(re.findall(rf"\b{name}\b", code)) == 2:  # its parameter, and what is gone
            _drop_parameters(edits, move.kernel, name)


def _drop_switch(edits: Edits, move: Move) -> None:
    """Each `if SWITCH` gives way to its `else`, and the parameter goes."""
    source = edits.source
    for line in _branches(source, move):
        edits.replace(line, _otherwise(source, line))
    whole = _words(source.code(move.kernel.node))
    gone = sum(
        (_words(source.code(x)) - _words(_otherwise(source, x)) for x in _branches(source, move)), Counter[str]()
    )
    others = sorted(move.kernel.constexprs - {move.switch} - set(source.tunables))
    alone = [name for name in others if whole[name] > 1 and whole[name] - gone[name] == 1]  # it served that path alone
    _drop_parameters(edits, move.kernel, move.switch, *alone)


def _branches(source: Source, move: Move) -> list[cst.If]:
    lines = lines_of(move.kernel.node.body)
    return [x for x in lines if isinstance(x, cst.If) and source.code(x.test) == move.switch]


def _drop_parameters(edits: Edits, kernel: Kernel, *names: str) -> None:
    """The kernel's parameters, what the launches give them, and on the host whatever served nothing else."""
    source = edits.source
    for param in kernel.node.params.params:
        if param.name.value in names:
            edits.remove(param)
    left = _words(source.code(source.entry))
    for launch in source.launches:
        if launch.kernel == kernel.name:
            given = [a for a in launch.call.args if a.keyword is not None and a.keyword.value in names]
            by_place = set(names) & set(launch.arguments) - {a.keyword.value for a in given if a.keyword is not None}
            if by_place:
                raise No(f"`{min(by_place)}` is given by position.")
            for arg in given:
                edits.remove(arg)
                left -= _words(source.code(arg).rstrip(","))
    for name in names:  # the switch first, because what it was made of may have served it alone
        for line in _made(source, name):
            if left[name] == 1:
                edits.replace(line, "")
                left -= _words(source.code(line.body[0]))
    drop_tunables(edits, left)


def _words(text: str) -> Counter[str]:
    return Counter(re.findall(r"[A-Za-z_]\w*", text))


def drop_tunables(edits: Edits, left: Counter[str]) -> None:
    """Keyword-only parameters that nothing in the entry reads any longer, and their place in TUNE."""
    source = edits.source
    before = _words(source.code(source.entry))
    for param in source.entry.params.kwonly_params:
        name = param.name.value
        if before[name] > 1 and left[name] == 1:
            edits.remove(param)
            for element in source.tune.elements if source.tune is not None else ():
                if isinstance(element, cst.DictElement) and source.code(element.key).strip("\"'") == name:
                    edits.remove(element)


def _made(source: Source, name: str) -> list[cst.SimpleStatementLine]:
    return [
        line
        for line in lines_of(source.entry.body)
        if isinstance(line, cst.SimpleStatementLine)
        and isinstance(line.body[0], cst.Assign)
        and source.code(line.body[0].targets[0].target) == name
    ]


def _otherwise(source: Source, line: cst.If) -> str:
    if line.orelse is None:
        return ""
    if isinstance(line.orelse, cst.If):
        raise No("The switch has an `elif`.")
    return "".join(source.module.code_for_node(x) for x in line.orelse.body.body)


RULE = Rule(name="undo", reason=REASON.format(what="an earlier move"), rewrite=rewrite, weight=0.4)
