"""The two languages that a candidate may write: host code (allocate, make views, launch) and jit code (Triton).

Walks one function at a time and lists what does not belong, each with its line and what to write instead. Types are
not known here: `x.view(...)` is allowed by the name `view`, whatever x is, which is why every name on the lists of
`allowed.py` must be harmless on anything that a listed name can produce. What the names do with real values is for
lowering to see, in its jail.
"""

from __future__ import annotations

import ast

from evolve.judge import allowed
from evolve.judge.literals import (
    MAX_EXPONENT,
    Complaints,
    Names,
    brief,
    dotted,
    has_power,
    is_constexpr,
    is_literal,
    small_literal,
)
from evolve.judge.scope import Scope


class Body:
    """One function's body. `calls` collects the file's own functions that it calls, so that recursion can be found."""

    def __init__(self, function: ast.FunctionDef, names: Names, complaints: Complaints, *, jit: bool) -> None:
        self.names = names
        self.jit = jit
        self.complaints = complaints
        self.scope = Scope(function, names, complaints, jit=jit)
        self.calls: set[str] = set()
        self.block(function.body)

    def refuse(self, node: ast.AST) -> None:
        kind = type(node).__name__
        text = allowed.CONSTRUCTS.get(
            kind, f"{kind} does not belong in {self.scope.word}; write it with plain statements."
        )
        self.complaints.add(node, text)

    # --- Statements ---------------------------------------------------------------------------------------------------

    def block(self, body: list[ast.stmt]) -> None:
        for statement in body:
            self.statement(statement)

    def statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Pass():
                pass
            case ast.Assign():
                self.assign(node)
            case ast.AugAssign():
                self.operator(node, node.op, node.target, node.value)
                self.target(node.target)
                self.expr(node.value)
            case ast.AnnAssign() if self.jit:
                self.annotated(node)
            case ast.AnnAssign():
                self.complaints.add(node, "an annotation in host code; write `name = value`.")
            case ast.If():
                self.expr(node.test)
                self.block(node.body)
                self.block(node.orelse)
            case ast.For():
                self.loop(node)
            case ast.While() if self.jit and not node.orelse:
                self.expr(node.test)
                self.block(node.body)
            case ast.Return():
                if node.value is not None:
                    self.expr(node.value)
            case ast.Expr(value=ast.Call()):
                self.expr(node.value)
            case ast.Assert() if not self.jit:
                self.expr(node.test)
                self.message(node.msg)
            case ast.Raise() if not self.jit:
                self.raised(node)
            case ast.Expr():
                self.complaints.add(node, "a value that nobody takes; delete the line.")
            case _:
                self.refuse(node)

    def assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self.target(target)
        if isinstance(node.value, ast.Lambda) and not self.jit and all(isinstance(t, ast.Name) for t in node.targets):
            self.grid(node.value)
        else:
            self.expr(node.value)

    def annotated(self, node: ast.AnnAssign) -> None:
        if not is_constexpr(node.annotation):
            self.complaints.add(node, "an annotation other than tl.constexpr; delete it.")
        self.target(node.target)
        if node.value is not None:
            self.expr(node.value)

    def target(self, node: ast.expr) -> None:
        match node:
            case ast.Name():
                pass  # check_binding has seen it
            case ast.Tuple() | ast.List():
                for part in node.elts:
                    self.target(part)
            case ast.Subscript():
                self.complaints.add(
                    node, "an assignment into an object; a kernel writes tensors, and no state is kept."
                )
            case ast.Attribute():
                self.complaints.add(node, f"an assignment to the attribute `{node.attr}`; bind a plain name instead.")
            case _:
                self.complaints.add(node, "an assignment to something other than names; write `name = value`.")

    def loop(self, node: ast.For) -> None:
        self.target(node.target)
        self.iterable(node.iter)
        self.block(node.body)
        if node.orelse:
            self.complaints.add(node, "`else` after a loop; put it after the loop.")

    def iterable(self, node: ast.expr) -> None:
        ranges = ("range", "tl.range", "tl.static_range") if self.jit else ("range",)
        counted = isinstance(node, ast.Call) and ".".join(dotted(node.func)) in ranges
        if counted or (isinstance(node, ast.Tuple | ast.List) and not self.jit):
            self.expr(node)
        else:
            wanted = ", ".join(f"{r}(...)" for r in ranges) + ("" if self.jit else " or a literal tuple")
            self.complaints.add(node, f"a loop over `{brief(node)}`; loop over {wanted}.")

    def raised(self, node: ast.Raise) -> None:
        call = node.exc
        named = isinstance(call, ast.Call) and dotted(call.func) == ("ValueError",) and not call.keywords
        if not named or node.cause is not None:
            self.complaints.add(node, 'a raise of something else; write `raise ValueError("...")`.')
            return
        assert isinstance(call, ast.Call)
        for argument in call.args:
            self.message(argument)

    def message(self, node: ast.expr | None) -> None:
        """The text of an assert or raise: an f-string of plain values, without format specs (`{x:>999999999}`)."""
        if not isinstance(node, ast.JoinedStr):
            if node is not None:
                self.expr(node)
            return
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                self.expr(part.value)
                if part.format_spec is not None or part.conversion != -1:
                    self.complaints.add(node, "a format spec or conversion in an f-string; write {value} alone.")
            else:
                self.expr(part)

    # --- Expressions --------------------------------------------------------------------------------------------------

    def expr(self, node: ast.expr) -> None:
        match node:
            case ast.Constant():
                self.constant(node)
            case ast.Name():
                self.scope.name(node)
            case ast.Attribute():
                self.attribute(node)
            case ast.Call():
                self.call(node)
            case ast.BinOp():
                self.operator(node, node.op, node.left, node.right)
                self.each(node.left, node.right)
            case ast.UnaryOp():
                self.expr(node.operand)
            case ast.BoolOp():
                self.each(*node.values)
            case ast.Compare():
                self.each(node.left, *node.comparators)
            case ast.IfExp():
                self.each(node.test, node.body, node.orelse)
            case ast.Subscript():
                self.each(node.value, node.slice)
            case ast.Slice():
                self.each(*(part for part in (node.lower, node.upper, node.step) if part is not None))
            case ast.Tuple() | ast.List():
                self.each(*node.elts)
            case ast.Starred():
                self.expr(node.value)
            case ast.Dict() if not self.jit:
                self.dictionary(node)
            case ast.ListComp() | ast.GeneratorExp() if not self.jit:
                self.comprehension(node)
            case _:
                self.refuse(node)

    def each(self, *nodes: ast.expr) -> None:
        for node in nodes:
            self.expr(node)

    def constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bytes | complex) or (node.value is Ellipsis and self.jit):
            self.complaints.add(node, f"the literal `{brief(node)}`; write numbers, text, True, False or None.")

    def operator(self, node: ast.AST, op: ast.operator, left: ast.expr, right: ast.expr) -> None:
        if isinstance(op, ast.MatMult):
            self.complaints.add(node, "`@` multiplies matrices; write tl.dot inside a kernel.")
        if isinstance(op, ast.Pow) and not (small_literal(right) and not has_power(left)):
            self.complaints.add(
                node, f"`**` with anything but a literal exponent up to {MAX_EXPONENT} over a plain base; write it out."
            )

    def attribute(self, node: ast.Attribute) -> None:
        if self.scope.attribute(node):
            self.expr(node.value)
            self.scope.member(node, node.attr)

    def dictionary(self, node: ast.Dict) -> None:
        for key in node.keys:
            if key is None or not is_literal(key):
                self.complaints.add(node, "a dict whose keys are not literals; write the keys out.")
        self.each(*node.values)

    def comprehension(self, node: ast.ListComp | ast.GeneratorExp) -> None:
        for part in node.generators:
            self.target(part.target)
            self.iterable(part.iter)
            self.each(*part.ifs)
        self.expr(node.elt)

    # --- Calls and launches -------------------------------------------------------------------------------------------

    def call(self, node: ast.Call) -> None:
        function = node.func
        if isinstance(function, ast.Subscript) and not self.jit:
            self.launch(node, function)
        elif isinstance(function, ast.Name):
            self.call_name(function)
        elif isinstance(function, ast.Attribute):
            self.attribute(function)
            self.allocation(node, function)
        else:
            self.complaints.add(node, f"a call of `{brief(function)}`; call a function by its name.")
            self.expr(function)
        takes_function = isinstance(function, ast.Attribute) and self.combines(function)
        for argument in (*node.args, *(k.value for k in node.keywords)):
            if takes_function and isinstance(argument, ast.Name) and argument.id in self.names.kernels:
                self.calls.add(argument.id)
            else:
                self.expr(argument)
        for keyword in node.keywords:
            self.keyword(node, keyword.arg)

    def combines(self, function: ast.Attribute) -> bool:
        path = ".".join(dotted(function))
        return self.jit and (path in allowed.TAKES_FUNCTION or function.attr in ("reduce", "associative_scan"))

    def keyword(self, node: ast.AST, name: str | None) -> None:
        if name is None:
            self.complaints.add(node, "`**` in a call; write each keyword out.")
        elif name.startswith("_"):
            self.complaints.add(node, f"the keyword `{name}`: it is the compiler's own; delete it.")

    def call_name(self, function: ast.Name) -> None:
        name = function.id
        own = self.names.kernels if self.jit else self.names.helpers
        if name in self.scope.locals:
            self.complaints.add(function, f"a call of the local value `{name}`; call a function by its own name.")
        elif name in own:
            self.calls.add(name)
        elif name not in allowed.BUILTINS and not (name in self.scope.paths and name in self.names.imports):
            self.complaints.add(function, self.scope.unknown(name))

    def allocation(self, node: ast.Call, function: ast.Attribute) -> None:
        if self.jit or function.attr not in allowed.ALLOCATORS:
            return
        for keyword in node.keywords:
            if keyword.arg is not None and keyword.arg not in allowed.ALLOCATOR_KEYWORDS:
                self.complaints.add(node, f"`{keyword.arg}=` in an allocation; write dtype= and device= only.")
            if keyword.arg == "device" and not (
                isinstance(keyword.value, ast.Attribute) and keyword.value.attr == "device"
            ):
                self.complaints.add(node, "a device of its own; write device=a.device, with an argument's name for a.")

    def launch(self, node: ast.Call, function: ast.Subscript) -> None:
        kernel = function.value
        if not isinstance(kernel, ast.Name) or kernel.id not in self.names.kernels:
            known = ", ".join(self.names.kernels) or "none"
            self.complaints.add(
                node, f"a launch of `{brief(kernel)}`, which is no kernel of this file; its kernels are {known}."
            )
            return
        if isinstance(function.slice, ast.Lambda):
            self.grid(function.slice)
        else:
            self.expr(function.slice)
        parameters = self.names.kernels[kernel.id]
        for keyword in node.keywords:
            if keyword.arg is not None and keyword.arg not in allowed.LAUNCH_OPTIONS and keyword.arg not in parameters:
                options = ", ".join(sorted(allowed.LAUNCH_OPTIONS))
                self.complaints.add(
                    node,
                    f"the launch option `{keyword.arg}`; a launch takes {options} and the parameters of {kernel.id}.",
                )

    def grid(self, node: ast.Lambda) -> None:
        spec = node.args
        extra = spec.vararg or spec.kwarg or spec.kwonlyargs or spec.posonlyargs or spec.defaults
        if len(spec.args) != 1 or extra:
            self.complaints.add(node, "a lambda that is no grid; write `grid = lambda META: (...)`.")
        self.expr(node.body)
