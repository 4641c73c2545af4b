"""What a candidate may not say, said otherwise or left out.

Left out is what has no effect on the answer: checks of the machine, prints, annotations, contexts that choose a device.
Said otherwise is what a candidate writes in its own way: constants, device queries, `math`, grids, exceptions. One
transformer, because what a piece of syntax may become depends on whether it stands in a kernel or in host code.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

import libcst as cst
from libcst.metadata import CodeRange, MetadataWrapper, PositionProvider

from evolve.adopt.rewrite.questions import asks, both, bound_in, known_value, longer, only_raises, read_in
from evolve.adopt.rewrite.reading import DEVICE_FACTS, File, Needed, dotted
from evolve.judge import allowed
from evolve.types import Json

CONTEXTS = (
    "torch.cuda.device",
    "torch.cuda.device_of",
    "torch.no_grad",
    "torch.inference_mode",
    "torch.cuda.stream",
)
WRAPPERS = ("torch.no_grad", "torch.inference_mode", "functools.lru_cache", "functools.cache", "torch.compiler.disable")
SAID = ("print", "warnings.warn", "torch.cuda.synchronize", "tl.device_print", "tl.static_print", "tl.device_assert")
MATH = {"math.pi": "3.141592653589793", "math.inf": 'float("inf")', "math.e": "2.718281828459045"}
MATH |= {"torch.inf": 'float("inf")', "math.nan": 'float("nan")'}
FACTS = {"multi_processor_count": "NUM_SMS", "multiprocessor_count": "NUM_SMS"}


class Cleaning(cst.CSTTransformer):
    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self, file: File, needed: Needed, facts: Mapping[str, Json], device: str) -> None:
        super().__init__()
        self.file, self.needed, self.facts, self.device = file, needed, facts, device
        self.notes: list[str] = []
        self.queries = False  # whether NUM_SMS is asked for anywhere
        self._stack: list[str] = []
        self._properties: set[str] = set()
        self._bound: set[str] = set()
        self._still: set[int] = set()  # names that are no expressions: attributes, keywords, parameters
        self._in_jit = read_in(file, needed.kernels)

    # --- where we are ---

    @property
    def jit(self) -> bool:
        return bool(self._stack) and self._stack[0] in self.needed.kernels

    def line(self, node: cst.CSTNode) -> int:
        place = self.get_metadata(PositionProvider, node, None)
        return place.start.line if isinstance(place, CodeRange) else 1

    def code(self, node: cst.CSTNode) -> str:
        return " ".join(self.file.module.code_for_node(node).split())

    def note(self, node: cst.CSTNode, text: str) -> None:
        self.notes.append(f"line {self.line(node)}: {text}")

    def path(self, node: cst.BaseExpression) -> str:
        name = dotted(node)
        return self.file.path_of(name) if name else ""

    # --- functions ---

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
        self._stack.append(node.name.value)
        self._still.add(id(node.name))
        if len(self._stack) == 1:
            self._properties = set()
            self._bound = bound_in(self.file.functions[node.name.value])

    def visit_Param(self, node: cst.Param) -> None:
        self._still.add(id(node.name))

    def visit_Attribute(self, node: cst.Attribute) -> None:
        self._still.add(id(node.attr))

    def visit_Arg(self, node: cst.Arg) -> None:
        self._still.add(id(node.keyword))

    def leave_FunctionDef(self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef) -> Any:
        if len(self._stack) > 1:
            self._stack.pop()
            return self._nested(original_node, updated_node)
        if not self.jit:
            self._decorators(original_node)
        decorators = [cst.Decorator(cst.parse_expression("triton.jit"))] if self.jit else []
        lead = [*updated_node.leading_lines, *updated_node.lines_after_decorators]
        self._stack.pop()
        return updated_node.with_changes(
            decorators=decorators, returns=None, leading_lines=lead, lines_after_decorators=[]
        )

    def _decorators(self, node: cst.FunctionDef) -> None:
        for decorator in node.decorators:
            call = decorator.decorator
            name = self.path(call.func if isinstance(call, cst.Call) else call)
            if name not in WRAPPERS:
                raise self.file.refuse(
                    self.line(decorator),
                    f"the decorator `@{self.code(call)}` around {node.name.value}: what it does cannot come along; "
                    "name the function inside it.",
                )
            self.note(decorator, f"`@{self.code(call)}` is left out")

    def _nested(self, original: cst.FunctionDef, updated: cst.FunctionDef) -> Any:
        """A grid written as a function is a lambda."""
        body = updated.body.body
        only = body[0].body[0] if len(body) == 1 and isinstance(body[0], cst.SimpleStatementLine) else None
        if not isinstance(only, cst.Return) or only.value is None or len(updated.params.params) != 1:
            raise self.file.refuse(
                self.line(original),
                f"the function {original.name.value} inside another one; move it to the top level, or make it one "
                "`return`.",
            )
        name, argument = updated.name.value, updated.params.params[0].name.value
        made = cst.parse_statement(f"{name} = lambda {argument}: {self.file.module.code_for_node(only.value)}")
        return cst.ensure_type(made, cst.SimpleStatementLine).with_changes(leading_lines=updated.leading_lines)

    def leave_Param(self, original_node: cst.Param, updated_node: cst.Param) -> cst.Param:
        kept = updated_node.annotation if self.jit and self._constexpr(original_node.annotation) else None
        if kept is not None:
            kept = kept.with_changes(annotation=cst.parse_expression("tl.constexpr"))
        equal = (
            cst.MaybeSentinel.DEFAULT
            if kept is not None
            else cst.AssignEqual(whitespace_before=cst.SimpleWhitespace(""), whitespace_after=cst.SimpleWhitespace(""))
        )
        if updated_node.default is None:
            equal = cst.MaybeSentinel.DEFAULT
        return updated_node.with_changes(annotation=kept, equal=equal)

    def _constexpr(self, annotation: cst.Annotation | None) -> bool:
        if annotation is None:
            return False
        node = annotation.annotation
        if isinstance(node, cst.SimpleString):
            return str(node.evaluated_value).rpartition(".")[2] == "constexpr"
        return self.path(node) == "tl.constexpr"

    # --- statements ---

    def leave_AnnAssign(self, original_node: cst.AnnAssign, updated_node: cst.AnnAssign) -> Any:
        if self.jit and self._constexpr(original_node.annotation):
            return updated_node.with_changes(
                annotation=updated_node.annotation.with_changes(annotation=cst.parse_expression("tl.constexpr"))
            )
        if updated_node.value is None:
            return cst.RemoveFromParent()
        return cst.Assign(targets=[cst.AssignTarget(updated_node.target)], value=updated_node.value)

    def leave_Assert(self, original_node: cst.Assert, updated_node: cst.Assert) -> Any:
        if self.jit:
            self.note(original_node, f"`{self.code(original_node)}` is left out: it checks on the device")
            return cst.RemoveFromParent()
        if asks(self.code(original_node.test), self.file):
            self.note(
                original_node, f"of `{self.code(original_node)}` what asks about the machine or a type is left out"
            )
            kept = [
                new for old, new in both(original_node.test, updated_node.test) if not asks(self.code(old), self.file)
            ]
            if not kept:
                return cst.RemoveFromParent()
            whole = " and ".join(self.file.module.code_for_node(k) for k in kept)
            updated_node = updated_node.with_changes(test=cst.parse_expression(whole))
        message = updated_node.msg
        if message is not None and not isinstance(message, cst.SimpleString | cst.FormattedString):
            return updated_node.with_changes(msg=None, comma=cst.MaybeSentinel.DEFAULT)
        return updated_node

    def leave_Raise(self, original_node: cst.Raise, updated_node: cst.Raise) -> cst.Raise:
        call = updated_node.exc
        arguments = call.args if isinstance(call, cst.Call) else []
        texts = [a for a in arguments if isinstance(a.value, cst.SimpleString | cst.FormattedString)]
        made = cst.Call(func=cst.Name("ValueError"), args=texts or [cst.Arg(cst.SimpleString('"unsupported"'))])
        return updated_node.with_changes(exc=made, cause=None)

    def leave_FormattedStringExpression(
        self, original_node: cst.FormattedStringExpression, updated_node: cst.FormattedStringExpression
    ) -> cst.FormattedStringExpression:
        return updated_node.with_changes(format_spec=None, conversion=None, equal=None)

    def leave_If(self, original_node: cst.If, updated_node: cst.If) -> Any:
        if not self.jit and asks(self.code(original_node.test), self.file) and only_raises(original_node.body):
            self.note(
                original_node, f"`if {self.code(original_node.test)}: raise` is left out: it asks about the machine"
            )
            return updated_node.orelse.body if isinstance(updated_node.orelse, cst.Else) else cst.RemoveFromParent()
        known = None if self.jit else known_value(self.file.module.code_for_node(updated_node.test))
        if known is not None and not isinstance(updated_node.orelse, cst.If):
            self.note(
                original_node, f"`if {self.code(original_node.test)}` is {known} on the GPU that candidates run on"
            )
            other = updated_node.orelse.body.body if isinstance(updated_node.orelse, cst.Else) else []
            kept = updated_node.body.body if known else other
            return cst.FlattenSentinel(kept) if kept else cst.RemoveFromParent()
        if not updated_node.body.body and updated_node.orelse is None:
            return cst.RemoveFromParent()
        if not updated_node.body.body:
            return updated_node.with_changes(body=cst.IndentedBlock([cst.parse_statement("pass")]))
        return updated_node

    def leave_For(self, original_node: cst.For, updated_node: cst.For) -> Any:
        if not updated_node.body.body:
            return cst.RemoveFromParent()
        return updated_node

    def leave_Expr(self, original_node: cst.Expr, updated_node: cst.Expr) -> Any:
        call = original_node.value
        if isinstance(call, cst.Call):
            name = self.path(call.func)
            logs = name.rpartition(".")[2] in ("debug", "info", "warning", "warning_once") and not self.jit
            if name in SAID or logs:
                self.note(original_node, f"`{self.code(original_node)}` is left out")
                return cst.RemoveFromParent()
        return updated_node

    def leave_With(self, original_node: cst.With, updated_node: cst.With) -> Any:
        for item in original_node.items:
            name = self.path(item.item.func) if isinstance(item.item, cst.Call) else self.path(item.item)
            if name not in CONTEXTS:
                raise self.file.refuse(
                    self.line(original_node),
                    f"`with {self.code(item.item)}`: what it does cannot come along; leave it out.",
                )
        self.note(original_node, f"`with {self.code(original_node.items[0].item)}` is left out")
        return cst.FlattenSentinel(updated_node.body.body)

    def visit_Try(self, node: cst.Try) -> None:
        raise self.file.refuse(
            self.line(node), "`try`: a candidate has no failures to handle; keep the one way you use."
        )

    def visit_While(self, node: cst.While) -> None:
        if not self.jit:
            raise self.file.refuse(
                self.line(node), "`while` in host code; write `for i in range(...)` with a bound known from the sizes."
            )

    def visit_Assign(self, node: cst.Assign) -> None:
        if isinstance(node.value, cst.Call) and self.path(node.value.func) in DEVICE_FACTS:
            self._properties |= {t.target.value for t in node.targets if isinstance(t.target, cst.Name)}

    def leave_Assign(self, original_node: cst.Assign, updated_node: cst.Assign) -> Any:
        value, target = original_node.value, original_node.targets[0].target
        if isinstance(value, cst.Call) and self.path(value.func) in DEVICE_FACTS:
            return cst.RemoveFromParent()
        mine = target.value if isinstance(target, cst.Name) else ""
        if isinstance(updated_node.value, cst.Name) and updated_node.value.value == mine:  # NUM_SMS = NUM_SMS
            return cst.RemoveFromParent()
        return updated_node

    # --- expressions ---

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> cst.BaseExpression:
        name = original_node.value
        if id(original_node) in self._still or name in self._bound:
            return updated_node
        if name in self.needed.sms and name in self.file.assigned:
            return self._num_sms(original_node)
        if name in self.facts["dtypes"] and name in self.file.assigned:
            return cst.parse_expression(self.facts["dtypes"][name])
        if not self.jit and name in self._in_jit and name in self.facts["constants"]:
            return cst.parse_expression(repr(self.facts["constants"][name]))
        return self._spelt(updated_node, name)

    def _spelt(self, node: cst.BaseExpression, name: str) -> cst.BaseExpression:
        """The name by which a candidate calls it."""
        if name.partition(".")[0] not in self.file.imported:
            return node
        path = self.file.path_of(name)
        last = path.rpartition(".")[2]
        if path.startswith("tl.math.") and last not in allowed.TL_MATH:
            path = f"tl.{last}" if last in allowed.TL_FUNCTIONS else f"libdevice.{last}"
        path = MATH.get(path, path)
        return node if path == name else cst.parse_expression(path)

    def leave_Attribute(self, original_node: cst.Attribute, updated_node: cst.Attribute) -> cst.BaseExpression:
        attribute = original_node.attr.value
        if attribute == "is_cuda" and not self.jit:
            return cst.Name("True")
        if attribute == "type" and not self.jit and dotted(original_node).endswith(".device.type"):
            return cst.SimpleString('"cuda"')
        if self._properties_of(original_node.value):
            return self._fact(original_node, attribute)
        name = dotted(original_node)
        if name and name.partition(".")[0] not in self._bound:
            return self._spelt(updated_node, name)
        return updated_node

    def leave_Subscript(self, original_node: cst.Subscript, updated_node: cst.Subscript) -> cst.BaseExpression:
        if self._properties_of(original_node.value):
            key = self.code(original_node.slice[0]).strip("\"'")
            return self._fact(original_node, key)
        return updated_node

    def _properties_of(self, node: cst.BaseExpression) -> bool:
        if isinstance(node, cst.Call):
            return self.path(node.func) in DEVICE_FACTS
        return isinstance(node, cst.Name) and node.value in self._properties

    def _fact(self, node: cst.BaseExpression, name: str) -> cst.BaseExpression:
        if name in FACTS:
            return self._num_sms(node)
        raise self.file.refuse(
            self.line(node),
            f"`{self.code(node)}` asks the device for {name}; a candidate may ask for the number of multiprocessors "
            "only. Write the number.",
        )

    def _num_sms(self, node: cst.BaseExpression) -> cst.Name:
        self.queries = True
        self.note(node, f"`{self.code(node)}` is NUM_SMS, which the judge and the exported module fill in")
        return cst.Name("NUM_SMS")

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> cst.BaseExpression:
        name = self.path(original_node.func)
        if dotted(original_node.func) in self.needed.sms:
            return self._num_sms(original_node)
        if name == "torch.cuda.get_device_capability":
            self.note(original_node, "the device's capability is written as (9, 0)")
            return cst.parse_expression("(9, 0)")
        if self.jit:
            return updated_node
        if name == "torch.cuda.is_available":
            return cst.Name("True")
        if name.startswith("math."):
            return self._math(original_node, updated_node, name)
        if name.startswith("torch.") and name.rpartition(".")[2] in allowed.ALLOCATORS:
            return self._allocation(updated_node, name.rpartition(".")[2])
        if isinstance(original_node.func, cst.Subscript):
            return self._launch(original_node, updated_node)
        return updated_node

    def _math(self, original: cst.Call, updated: cst.Call, name: str) -> cst.BaseExpression:
        argument = updated.args[0].value if updated.args else None
        text = self.file.module.code_for_node(argument) if argument is not None else ""
        if name == "math.sqrt":
            return cst.parse_expression(f"(({text}) ** 0.5)")
        quotient = isinstance(argument, cst.BinaryOperation) and isinstance(argument.operator, cst.Divide)
        if name == "math.ceil" and quotient:
            assert isinstance(argument, cst.BinaryOperation)
            sides = (self.file.module.code_for_node(n) for n in (argument.left, argument.right))
            return cst.parse_expression(f"triton.cdiv({', '.join(sides)})")
        if name == "math.prod":
            return updated
        raise self.file.refuse(
            self.line(original),
            f"`{self.code(original)}`: host code has no math module; write the number, or compute it in a kernel.",
        )

    def _allocation(self, call: cst.Call, name: str) -> cst.Call:
        """On the device of an argument, and with nothing but sizes and types."""
        kept = []
        for argument in call.args:
            word = argument.keyword.value if argument.keyword else None
            if word is not None and word not in allowed.ALLOCATOR_KEYWORDS:
                continue
            if word == "device" and not (
                isinstance(argument.value, cst.Attribute) and argument.value.attr.value == "device"
            ):
                argument = argument.with_changes(value=cst.parse_expression(self.device))
            kept.append(argument)
        words = {a.keyword.value for a in kept if a.keyword}
        if "device" not in words and name in ("empty", "zeros", "empty_strided"):
            kept = longer(kept, f"device={self.device}")
        if kept:
            kept[-1] = kept[-1].with_changes(comma=call.args[-1].comma)
        return call.with_changes(args=kept)

    def _launch(self, original: cst.Call, updated: cst.Call) -> cst.Call:
        kernel = original.func.value if isinstance(original.func, cst.Subscript) else None
        if not isinstance(kernel, cst.Name) or kernel.value not in self.needed.kernels:
            return updated
        parameters = {a.arg for a in self.file.functions[kernel.value].args.args}
        kept: list[cst.Arg] = []
        for argument in updated.args:
            if argument.star == "**":
                raise self.file.refuse(self.line(original), "`**` in a launch; write each keyword out.")
            word = argument.keyword.value if argument.keyword else None
            if word is None or word in allowed.LAUNCH_OPTIONS or word in parameters:
                kept += self._spread(argument)
            else:
                self.note(original, f"the launch option `{word}` is left out")
        return updated.with_changes(args=kept)

    def _spread(self, argument: cst.Arg) -> Sequence[cst.Arg]:
        """`*x.stride()[:3]` is x.stride(0), x.stride(1), x.stride(2): then every parameter has its argument."""
        if argument.star != "*":
            return [argument]
        node = ast.parse(self.file.module.code_for_node(argument.value).strip(), mode="eval").body
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
            upper, value = node.slice.upper, node.value
            plain = node.slice.lower is None and node.slice.step is None
            count = upper.value if isinstance(upper, ast.Constant) else None
            if plain and isinstance(count, int) and isinstance(value, ast.Call) and not value.args:
                whose = ast.unparse(value.func)
                made = [f"{whose}({i})" for i in range(count)]
                return [
                    cst.Arg(cst.parse_expression(m), comma=cst.Comma(whitespace_after=cst.SimpleWhitespace(" ")))
                    for m in made[:-1]
                ] + [argument.with_changes(star="", value=cst.parse_expression(made[-1]))]
        return [argument]


def cleaned(
    file: File, needed: Needed, facts: Mapping[str, Json], device: str
) -> tuple[dict[str, cst.FunctionDef], Cleaning]:
    """The needed functions, one by one: what is wrong with the others is nobody's business."""
    wrapper = MetadataWrapper(file.module)
    cleaning = Cleaning(file, needed, facts, device)
    made = {}
    with cleaning.resolve(wrapper):
        for node in wrapper.module.body:
            if isinstance(node, cst.FunctionDef) and node.name.value in needed.functions:
                made[node.name.value] = cst.ensure_type(node.visit(cleaning), cst.FunctionDef)
    return made, cleaning
