"""TTIR text held against a closed vocabulary: every word of a module is on a list, or the module is refused.

MLIR has more ways to write an operation than one pattern can find: quoted, aliased, without its dialect, over several
lines. So nothing is searched for; the text is cut into words and each must be one that Triton 3.6 or 3.7 writes for an
honest kernel. What is on the list and may still forge a pointer (bitcasts, external calls, nested pointers, functions
without a body, attributes of the module) is then looked at by shape. Whether a kernel computes the right thing is not
asked here; nor are its locations read, which are stripped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from evolve.judge.allowed import words

MAX_TEXT = 4 * 1024 * 1024

OPERATIONS = words(
    """arith.addf arith.addi arith.andi arith.bitcast arith.ceildivsi arith.cmpf arith.cmpi arith.constant arith.divf
    arith.divsi arith.divui arith.extf arith.extsi arith.extui arith.fptosi arith.fptoui arith.maximumf arith.maxnumf
    arith.maxsi arith.maxui arith.minimumf arith.minnumf arith.minsi arith.minui arith.mulf arith.muli arith.negf
    arith.ori arith.remf arith.remsi arith.remui arith.select arith.shli arith.shrsi arith.shrui arith.sitofp arith.subf
    arith.subi arith.truncf arith.trunci arith.uitofp arith.xori cf.br cf.cond_br gpu.barrier llvm.intr.assume
    math.absf math.absi math.ceil math.cos math.erf math.exp math.exp2 math.floor math.fma math.log math.log2 math.rsqrt
    math.sin math.sqrt scf.condition scf.for scf.if scf.while scf.yield tt.addptr tt.advance tt.atomic_cas tt.atomic_rmw
    tt.bitcast tt.broadcast tt.call tt.cat tt.clampf tt.descriptor_gather tt.descriptor_load tt.descriptor_reduce
    tt.descriptor_scatter tt.descriptor_store tt.dot tt.dot_scaled tt.expand_dims tt.extern_elementwise tt.fp_to_fp
    tt.func tt.gather tt.get_num_programs tt.get_program_id tt.histogram tt.join tt.load tt.make_range
    tt.make_tensor_descriptor tt.make_tensor_ptr tt.map_elementwise.return tt.mulhiui tt.precise_divf tt.precise_sqrt
    tt.reduce.return tt.reshape tt.return tt.scan.return tt.splat tt.split tt.store tt.trans tt.unsplat ttg.barrier
    ub.poison"""
)
QUOTED = frozenset({'"tt.reduce"', '"tt.scan"', '"tt.map_elementwise"'})  # these have no shorter form
ATTRIBUTES = words(
    """tt.constancy tt.contiguity tt.disallow_acc_multi_buffer tt.divisibility tt.flatten tt.loop_unroll_factor
    tt.num_stages tt.warp_specialize tt.pointer_range llvm.loop_annotation allow_reorder efficient_layout axis
    boundaryCheck cacheModifier end evictionPolicy fastMath inputPrecision isVolatile libname libpath lhs
    maxNumImpreciseAcc noinline order pack padding propagateNan pure reverse rhs rounding start symbol disable
    versioningDisable licm lhs_k_pack rhs_k_pack overflowFlags fastmath nsw nuw none contract"""
)
KEYWORDS = words(
    """module public private attributes array dense true false to do else step iter_args scale tensor unsigned x y z eq
    ne slt sle sgt sge ult ule ugt uge oeq ogt oge olt ole one ord ueq une uno acq_rel acquire release relaxed cta
    gpu sys add and exch fadd max min or umax umin xor inc dec ca cg cs cv wb wt evict_first evict_last all local
    nan tf32 tf32x3 ieee bf16x3 bf16x6 rtne rtz e2m1 e4m3 e5m2 e2m3 e3m2"""
)
ELEMENTS = words(
    "i1 i8 i16 i32 i64 si8 si16 si32 si64 ui8 ui16 ui32 ui64 f16 bf16 f32 f64 fp16 "
    "f8E5M2 f8E4M3FN f8E4M3FNUZ f8E5M2FNUZ f8E4M3B11FNUZ"
)
WORDS = OPERATIONS | ATTRIBUTES | KEYWORDS | ELEMENTS
ALIASES = words("#loop_annotation #loop_licm #llvm.loop_annotation #llvm.loop_licm")
TYPES = words("!tt.ptr !tt.tensordesc")
LIBRARY = {"cuda": re.compile(r'"__nv_[a-z0-9_]+"'), "hip": re.compile(r'"__ocml_[a-z0-9_]+"')}

NAME = r"(?:#loc\d*)"
STRING = r'"(?:[^"\\\n]|\\[^\n])*"'
FILE = rf"{STRING}(?:\({NAME}\)|:\d+:\d+(?: to (?::|\d+:)\d+)?)?"
PLACE = rf"(?:unknown|{NAME}|callsite\({NAME} at {NAME}\)|fused\[{NAME}(?:, {NAME})*\]|{FILE})"
LOCATION = rf"(?<![\w.$%@#!^\"-])loc\({PLACE}\)"
# One pass from left to right: a string is taken whole before anything in it could look like a location, and so is a
# location before anything in it could look like a string's end.
DRESSING = re.compile(rf"({STRING})|^#loc\d* = {LOCATION}$|{LOCATION}|//[^\n]*", re.MULTILINE)

BARE = r"(?<![\w.$%@#!^-])"  # not the tail of another word
SSA = r"%[\w$.-]+"
SYMBOL = r'@(?:[A-Za-z_][\w$.]*|"[\w$.,()\[\] =<>*:-]*")'
TOKEN = re.compile(
    rf"({STRING}|{SSA}(?:#\d+)?|{SYMBOL}|\^\w+|#[A-Za-z_][\w$.]*|![A-Za-z_][\w$.]*|[A-Za-z_][\w$.]*|->|"
    r"-?(?:0x[0-9A-Fa-f]+|\d+(?:\.\d*(?:[eE][-+]?\d+)?)?)|[{}()\[\]<>,:=*])|(\S)"
)
DIMENSIONS = re.compile(r"x(?:\d+x)*(\w*)")


class Unlisted(ValueError):
    """The module holds something that no honest kernel needs; the message says what."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    type: str  # without spaces: "!tt.ptr<bf16>"
    divisibility: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Module:
    """One module that was let through. `text` has no locations; `canonical` has no names either."""

    kernel: str
    parameters: tuple[Parameter, ...]
    text: str
    canonical: str


@lru_cache(maxsize=512)  # a tuner shows the same text once a warp count, a depth and a workload
def read_module(text: str, *, backend: str) -> Module:
    """The module, or `Unlisted`."""
    if len(text) > MAX_TEXT:
        raise Unlisted(f"{len(text)} characters of TTIR; at most {MAX_TEXT} are read")
    bare = DRESSING.sub(lambda found: found.group(1) or "", text)
    for token, stray in set(TOKEN.findall(bare)):
        listed(token, stray, backend)
    if bare.count("{") != bare.count("}"):
        raise Unlisted("braces that do not match; was the text cut off?")
    one_module(bare)
    no_forged_pointers(bare)
    library_calls(bare)
    kernel, parameters = functions(bare)
    return Module(kernel=kernel, parameters=parameters, text=bare, canonical=canonical(bare))


def listed(token: str, stray: str, backend: str) -> None:
    if stray:
        raise Unlisted(f"the character {stray!a}")
    first = token[0]
    if first.isalpha() or first == "_":
        dims = DIMENSIONS.fullmatch(token)
        if token not in WORDS and not (dims and (not dims[1] or dims[1] in ELEMENTS)):
            raise Unlisted(f"the word `{token[:100]}`" + (f"; {why(token)}" if why(token) else ""))
    elif first == '"':
        if token != '""' and token not in QUOTED and not LIBRARY[backend].fullmatch(token):
            raise Unlisted(f"the text {token[:100]}" + (f"; {why(token)}" if why(token) else ""))
    elif first == "#" and re.sub(r"\d+$", "", token) not in ALIASES:
        raise Unlisted(f"the attribute `{token[:100]}`")
    elif first == "!" and token not in TYPES:
        raise Unlisted(f"the type `{token[:100]}`")


def why(token: str) -> str:
    reasons = {
        "int_to_ptr": "a kernel gets its pointers as arguments",
        "ptr_to_int": "addresses are not a kernel's affair",
        "elementwise_inline_asm": "inline assembly is refused",
        "print": "printing is refused",
        "assert": "device assertions are refused; mask the access",
        "nvvm": "write it in Triton",
    }
    return next((reason for part, reason in reasons.items() if part in token), "")


def one_module(bare: str) -> None:
    loops = r"(?:#loop_\w+ = #llvm\.loop_\w+<[\w\s=,#]*>\s*)*"
    if not re.match(rf"\s*{loops}module\s*\{{", bare) or len(re.findall(rf"{BARE}module\b", bare)) != 1:
        raise Unlisted("something other than one plain `module {` around the functions")


# --- Pointers ---------------------------------------------------------------------------------------------------------

CAST = re.compile(
    rf"{BARE}(?:tt|arith)\.bitcast\s+{SSA}(?:#\d+)?\s*(?:\{{[^{{}}]*\}}\s*)?:\s*([^\n%]*?)\s*(?:->|\bto\b)\s*([^\n%]*)"
)
POINTER = re.compile(r"(?:tensor<(?:\d+x)+)?!tt\.ptr<(\w+)>>?")
WIDTHS = {"i1": 1, "i8": 8, "i16": 16, "i32": 32, "i64": 64, "f16": 16, "bf16": 16, "f32": 32, "f64": 64}


def no_forged_pointers(bare: str) -> None:
    squeezed = re.sub(r"\s+", "", bare)
    if re.search(r"<!|<tensor<(?:\d+x)*!", squeezed):
        raise Unlisted("a pointer to pointers; pass each tensor as an argument of its own")
    if re.search(r"!tt\.ptr<(?:tensor<[^<>]*>|\w+),", squeezed) or re.search(r":<\w+,\d", squeezed):
        raise Unlisted("a pointer into another address space")
    casts = CAST.findall(bare)
    if len(casts) != len(re.findall(rf"{BARE}(?:tt|arith)\.bitcast\b", bare)):
        raise Unlisted("a bitcast in a form that Triton does not write")
    for source, target in casts:
        pointer_cast(source.strip(), target.strip())


def pointer_cast(source: str, target: str) -> None:
    if "!tt.ptr" not in source and "!tt.ptr" not in target:
        return
    before, after = POINTER.fullmatch(source), POINTER.fullmatch(target)
    if before and after:
        width = [WIDTHS.get(found[1], 8 if found[1].startswith("f8") else 0) for found in (before, after)]
        if width[0] == width[1] != 0 or width == [1, 8]:
            return
    raise Unlisted(f"a bitcast from `{source[:60]}` to `{target[:60]}`; pointers keep the width of what they point to")


def library_calls(bare: str) -> None:
    """External functions come from the library that Triton ships, never from a file."""
    calls = len(re.findall(rf"{BARE}tt\.extern_elementwise\b", bare))
    for name in ("libname", "libpath"):
        named = len(re.findall(rf"{BARE}{name}\b", bare))
        empty = len(re.findall(rf'{BARE}{name}\s*=\s*""', bare))
        if not calls == named == empty:
            raise Unlisted(f"an external call with a `{name}` of its own; use tl.* or libdevice.*")
    symbols = len(re.findall(rf'{BARE}symbol\s*=\s*"__\w+"', bare))
    if symbols != calls:
        raise Unlisted("an external call without a library function's name; use tl.* or libdevice.*")


# --- Functions --------------------------------------------------------------------------------------------------------

FUNC = re.compile(rf"{BARE}tt\.func\s+(public|private)\s+({SYMBOL})\s*\(")
TAIL = re.compile(r"\)\s*(?:->[^{}@]*?)?(?:attributes\s*\{\s*noinline\s*=\s*(?:true|false)\s*\}\s*)?\{")


def functions(bare: str) -> tuple[str, tuple[Parameter, ...]]:
    """The one public function. Every function has a body and every call goes to one of them: a declaration without a
    body would be linked to whatever the driver offers (`malloc`, `vprintf`)."""
    found = list(FUNC.finditer(bare))
    if len(found) != len(re.findall(rf"{BARE}tt\.func\b", bare)):
        raise Unlisted("a function in a form that Triton does not write")
    kernels = []
    for function in found:
        parameters, end = parameter_list(bare, function.end())
        if not TAIL.match(bare, end):
            raise Unlisted(f"the function {function[2][:100]} without a body")
        if function[1] == "public":
            kernels.append((function[2][1:].strip('"'), parameters))
    defined = [function[2] for function in found]
    called = re.findall(rf"{BARE}tt\.call\s+({SYMBOL})\s*\(", bare)
    if len(set(defined)) != len(defined) or not set(called) <= set(defined):
        raise Unlisted("a call of a function that this module does not define")
    if sum(token.startswith("@") for token, _ in TOKEN.findall(bare)) != len(found) + len(called):
        raise Unlisted("a symbol outside of functions and calls")
    if len(kernels) != 1:
        raise Unlisted(f"{len(kernels)} public functions where one kernel belongs")
    return kernels[0]


def parameter_list(bare: str, start: int) -> tuple[tuple[Parameter, ...], int]:
    """The parameters from behind the opening parenthesis, and where the closing one stands."""
    end = closing(bare, start)
    parameters = []
    for part in split(bare[start:end]):
        found = re.fullmatch(rf"\s*{SSA}\s*:\s*([^{{}}]+?)\s*(\{{[^{{}}]*\}})?\s*", part)
        if not found:
            raise Unlisted(f"the parameter `{part.strip()[:100]}`")
        claim = re.search(r"tt\.divisibility\s*=\s*(\d{1,9})\b", found[2] or "")
        parameters.append(Parameter(type=re.sub(r"\s+", "", found[1]), divisibility=int(claim[1]) if claim else 1))
    return tuple(parameters), end


def closing(bare: str, start: int) -> int:
    depth = 1
    for at in range(start, len(bare)):
        depth += {"(": 1, ")": -1}.get(bare[at], 0)
        if depth == 0:
            return at
    raise Unlisted("a function whose parameters never end")


def split(text: str) -> Iterator[str]:
    depth = begin = 0
    for at, char in enumerate(text):
        depth += {"<": 1, "{": 1, "(": 1, ">": -1, "}": -1, ")": -1}.get(char, 0)
        if char == "," and depth == 0:
            yield text[begin:at]
            begin = at + 1
    if text.strip():
        yield text[begin:]


def canonical(bare: str) -> str:
    """The text with values and functions numbered in order of appearance: names and layout do not make a new kernel."""
    numbers: dict[str, str] = {}

    def numbered(found: re.Match[str]) -> str:
        name = found[0]
        return numbers.setdefault(name, f"{name[0]}{len(numbers)}")

    return re.sub(r"\s+", " ", re.sub(rf"{SSA}|{SYMBOL}", numbered, bare)).strip()
