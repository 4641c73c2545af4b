"""What a candidate may name: the printed lists behind the screen.

Every path is spelled out. A pattern ("anything under tl") would let a candidate reach `tl.core.builtins.exec`,
`torch.os` or `triton.knobs`; a list cannot. The lists were taken from triton 3.6 and 3.7 and torch 2.11 and 2.13
and then thinned by hand: what runs Python while compiling, prints, asserts on the device, forges a pointer or asks
about the machine is left out. A name that exists in only one version is on the list; the other refuses it while
lowering. Here stand only names and the advice that goes with the popular wrong ones; how they may be used is the
affair of `dialect.py`.
"""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# --- Imports: (statement as it must be written) -> the name it binds -------------------------------------------------

IMPORTS = {
    "import torch": "torch",
    "import triton": "triton",
    "import triton.language as tl": "tl",
    "from triton.tools.tensor_descriptor import TensorDescriptor": "TensorDescriptor",
    "from triton.language.extra import libdevice": "libdevice",
}
MODULES = frozenset({"torch", "triton", "tl", "libdevice"})

# --- Bare names ------------------------------------------------------------------------------------------------------

BUILTINS = words("range min max len int float bool abs tuple")

# Triton's compiler falls back to a namespace of its own for a name that is bound later in the function, `getattr`
# among them. A candidate that could bind these would read the compiler's instead.
UNBINDABLE = (
    BUILTINS
    | words("getattr setattr delattr hasattr isinstance list print exec eval compile open globals locals")
    | words("vars dir type object super breakpoint input memoryview callable ValueError")
)

# --- Host code -------------------------------------------------------------------------------------------------------

DTYPES = words(
    """bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 short int long half float double float16 bfloat16 float32
    float64 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz"""
)
ALLOCATORS = words("empty zeros empty_like zeros_like empty_strided new_empty new_zeros")
ALLOCATOR_KEYWORDS = frozenset({"size", "stride", "dtype", "device"})

TL_DTYPES = words(
    """int1 int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 bfloat16 float32 float64 float8e4b15 float8e4b8
    float8e4nv float8e5 float8e5b16"""
)

HOST_PATHS = (
    frozenset(f"torch.{name}" for name in DTYPES | {"empty", "zeros", "empty_like", "zeros_like", "empty_strided"})
    | frozenset(f"tl.{name}" for name in TL_DTYPES)
    | frozenset({"triton.cdiv", "triton.next_power_of_2", "TensorDescriptor", "TensorDescriptor.from_tensor"})
)

# On tensors and dtypes. All of these allocate, make views or answer from metadata; `contiguous` and `reshape` may copy,
# which lowering refuses by name where it happens.
HOST_ATTRIBUTES = words(
    """shape stride dtype device view reshape t T mT transpose permute numel element_size itemsize size dim ndim
    is_contiguous contiguous expand squeeze unsqueeze flatten unflatten narrow select movedim swapaxes new_empty
    new_zeros is_floating_point"""
)

# --- Jit code --------------------------------------------------------------------------------------------------------

TL_FUNCTIONS = words(
    """abs add advance arange argmax argmin associative_scan assume atomic_add atomic_and atomic_cas atomic_max
    atomic_min atomic_or atomic_xchg atomic_xor broadcast broadcast_to cast cat cdiv ceil clamp constexpr cos cumprod
    cumsum
    debug_barrier div_rn dot dot_scaled erf exp exp2 expand_dims fdiv flip floor fma full gather histogram interleave
    join load load_tensor_descriptor log log2 make_block_ptr make_tensor_descriptor map_elementwise max max_constancy
    max_contiguous maximum min minimum mul multiple_of num_programs pair_uniform_to_normal permute philox program_id
    rand rand4x randint randint4x randn randn4x range ravel reduce reduce_or reshape rsqrt sigmoid sin softmax sort
    split sqrt sqrt_rn squeeze static_assert static_range store store_tensor_descriptor sub sum swizzle2d topk trans
    uint_to_uniform_float umulhi unsqueeze view where xor_sum zeros zeros_like"""
)
TL_MATH = words("abs ceil cos div_rn erf exp exp2 fdiv floor fma log log2 rsqrt sin sqrt sqrt_rn umulhi")

LIBDEVICE = words(
    """abs acos acosh add_rd add_rn add_ru add_rz asin asinh atan atan2 atanh brev byte_perm cbrt ceil clz copysign cos
    cosh cospi cyl_bessel_i0 cyl_bessel_i1 div_rd div_rn div_ru div_rz double2float_rd double2float_rn double2float_ru
    double2float_rz double2hiint double2int_rd double2int_rn double2int_ru double2int_rz double2ll_rd double2ll_rn
    double2ll_ru double2ll_rz double2loint double2uint_rd double2uint_rn double2uint_ru double2uint_rz double2ull_rd
    double2ull_rn double2ull_ru double2ull_rz double_as_longlong erf erfc erfcinv erfcx erfinv exp exp10 exp2 expm1
    fast_cosf fast_dividef fast_exp10f fast_expf fast_log10f fast_log2f fast_logf fast_powf fast_sinf fast_tanf
    fast_tanhf fdim ffs finitef float2int_rd float2int_rn float2int_ru float2int_rz float2ll_rd float2ll_rn float2ll_ru
    float2ll_rz float2uint_rd float2uint_rn float2uint_ru float2uint_rz float2ull_rd float2ull_rn float2ull_ru
    float2ull_rz float_as_int float_as_uint floor fma fma_rd fma_rn fma_ru fma_rz fmod hadd hiloint2double hypot ilogb
    int2double_rn int2float_rd int2float_rn int2float_ru int2float_rz int_as_float isfinited isinf isnan j0 j1 jn ldexp
    lgamma ll2double_rd ll2double_rn ll2double_ru ll2double_rz ll2float_rd ll2float_rn ll2float_ru ll2float_rz llrint
    llround log log10 log1p log2 logb longlong_as_double mul24 mul_rd mul_rn mul_ru mul_rz mulhi nearbyint nextafter
    norm3d norm4d normcdf normcdfinv popc pow rcbrt rcp64h rcp_rd rcp_rn rcp_ru rcp_rz remainder rhadd rhypot rint
    rnorm3d rnorm4d round rsqrt rsqrt_rn sad saturatef scalbn signbit sin sinh sinpi sqrt sqrt_rd sqrt_rn sqrt_ru
    sqrt_rz sub_rd sub_rn sub_ru sub_rz tan tanh tgamma trunc uint2double_rn uint2float_rd uint2float_rn uint2float_ru
    uint2float_rz uint_as_float ull2double_rd ull2double_rn ull2double_ru ull2double_rz ull2float_rd ull2float_rn
    ull2float_ru ull2float_rz y0 y1 yn"""
)

JIT_PATHS = (
    frozenset(f"tl.{name}" for name in TL_FUNCTIONS | TL_DTYPES)
    | frozenset(f"tl.math.{name}" for name in TL_MATH)
    | frozenset(f"libdevice.{name}" for name in LIBDEVICE)
    | frozenset({"tl.PropagateNan.NONE", "tl.PropagateNan.ALL"})
    | frozenset({"triton.cdiv", "triton.next_power_of_2"})
)

# On tensors, pointers, dtypes, tuples and descriptors inside jit code. Not `handle`, `to_ir`, `with_element_ty`: they
# reach the compiler's own objects.
JIT_ATTRIBUTES = words(
    """to cast dtype type element_ty scalar primitive_bitwidth itemsize shape numel T trans reshape view permute split
    ravel expand_dims broadcast_to flip gather scatter histogram store load advance block_shape strides item
    atomic_add atomic_and atomic_cas atomic_max atomic_min atomic_or atomic_xchg atomic_xor associative_scan reduce
    reduce_or sum max min argmax argmin cumsum cumprod sort softmax sigmoid xor_sum abs ceil floor cdiv cos sin exp exp2
    log log2 sqrt sqrt_rn rsqrt erf logical_and logical_or is_floating is_int is_int_signed is_int_unsigned is_ptr
    is_block is_fp8 is_fp16 is_bf16 is_fp32 is_fp64"""
)

# These take a jit function as an argument; nothing else does.
TAKES_FUNCTION = frozenset({"tl.reduce", "tl.associative_scan", "tl.map_elementwise"})

# --- Launches --------------------------------------------------------------------------------------------------------

LAUNCH_OPTIONS = frozenset({"num_warps", "num_stages", "num_ctas", "maxnreg"})
RESERVED = "NUM_SMS"

# --- Advice for the names that people and models reach for -----------------------------------------------------------

NUM_SMS_HINT = (
    "device queries are not answered while judged; add the keyword-only parameter NUM_SMS=132 to the entry: "
    "the judge and the exported module fill it with the number of multiprocessors"
)
TUNE_HINT = (
    'declare TUNE = {"BLOCK_M": (64, 128), "num_warps": (4, 8)} and give the entry keyword-only parameters of these '
    "names; the tuner chooses per workload (`evolve init NAME --kernel FILE:FUNCTION` converts a file)"
)
_HOST_COMPUTES = "the host function may allocate, make views and launch; compute inside a kernel"

# By path prefix, longest first match. "{}" is never substituted: these are whole sentences after "is not on the list".
HINTS = {
    "triton.autotune": TUNE_HINT,
    "triton.Config": TUNE_HINT,
    "triton.heuristics": f"compute the value in the host function and pass it as a constexpr, or {TUNE_HINT}",
    "triton.constexpr_function": "it would run Python while compiling; compute the value in the host function",
    "triton.set_allocator": "the judge and the exported module provide an allocator; delete the call",
    "triton.runtime": NUM_SMS_HINT,
    "torch.cuda": NUM_SMS_HINT,
    "triton.language": "write tl",
    "triton.jit": "it is used as a bare decorator only: @triton.jit above the kernel",
    "triton.testing": "the judge times; delete it",
    "torch": _HOST_COMPUTES,
    "triton": "host code may use triton.cdiv and triton.next_power_of_2 of it",
    "tl.inline_asm_elementwise": "inline assembly is refused; write it in Triton",
    "tl.device_print": "printing is refused; delete it",
    "tl.static_print": "printing is refused; delete it",
    "tl.device_assert": "write tl.static_assert, or mask the access",
    "tl.pointer_type": "pointers come from the kernel's arguments only",
    "tl.constexpr_function": "it would run Python while compiling; compute the value in the host function",
    "tl.core": "use the name directly under tl",
    "tl.standard": "use the name directly under tl",
    "tl.extra": "write `from triton.language.extra import libdevice` and libdevice.<name>",
    "tl": "use the operations of triton.language that compute, load and store",
    "libdevice": "use one of libdevice's mathematical functions",
}

ATTRIBUTE_HINTS = {
    "data_ptr": "pass the tensor itself to the kernel",
    "is_meta": "a candidate must not know when it is judged; delete it",
    "is_cuda": "inputs are always where they belong; delete the check",
    "to": "converting computes; convert inside a kernel with x.to(tl.float32)",
    "clone": _HOST_COMPUTES,
    "copy_": _HOST_COMPUTES,
    "fill_": "allocate with torch.zeros, or fill inside a kernel",
    "zero_": "allocate with torch.zeros, or fill inside a kernel",
    "sum": f"{_HOST_COMPUTES} (scratch from split-K is added up by a second kernel)",
    "matmul": _HOST_COMPUTES,
    "mm": _HOST_COMPUTES,
    "append": "build the tuple in one expression",
    "format": "write the text out",
    "handle": "that is the compiler's own object",
    "to_ir": "that is the compiler's own object",
}

# Bare names that are not a candidate's own.
NAME_HINTS = {
    "getattr": "write the attribute out",
    "print": "delete it",
    "super": "delete it",
    "isinstance": "the problem says what the arguments are; delete the check",
    "sum": "write the sum out",
    "math": "write the number out, or use tl.math in a kernel",
    "np": "write the number out",
    "os": "a candidate reaches nothing but its arguments",
    "__name__": "a candidate has no main program; delete it",
}

# By the name of the syntax node.
CONSTRUCTS = {
    "While": "`while` in host code; write `for i in range(...)` with a bound known from the sizes.",
    "With": "`with`; there is nothing to enter here: delete it.",
    "Try": "`try`; a candidate has no failures to hide: delete it.",
    "TryStar": "`try`; a candidate has no failures to hide: delete it.",
    "Delete": "`del`; memory is planned by the judge: delete the line.",
    "Global": "`global`; a candidate keeps no state between calls: pass values as arguments.",
    "Nonlocal": "`nonlocal`; a candidate keeps no state between calls: pass values as arguments.",
    "FunctionDef": "a nested function; move it to module level.",
    "AsyncFunctionDef": "an async function; write a plain `def` at module level.",
    "ClassDef": "a class; write module-level functions.",
    "Import": "an import inside a function; the allowed imports stand at module level.",
    "ImportFrom": "an import inside a function; the allowed imports stand at module level.",
    "Match": "`match`; write if/elif.",
    "Lambda": "`lambda`, which is allowed only as a grid: `grid = lambda META: (...)`; write the expression out.",
    "NamedExpr": "`:=`; assign on a line of its own.",
    "JoinedStr": "an f-string; write plain text (f-strings are allowed in the message of a host assert or raise).",
    "Dict": "a dict; pass the values by name.",
    "DictComp": "a dict comprehension; write the values out.",
    "Set": "a set; write a tuple.",
    "SetComp": "a set comprehension; write a tuple.",
    "ListComp": "a comprehension in jit code; write a loop over tl.static_range.",
    "GeneratorExp": "a comprehension in jit code; write a loop over tl.static_range.",
    "Await": "`await`; delete it.",
    "Yield": "`yield`; return the outputs.",
    "YieldFrom": "`yield`; return the outputs.",
    "Break": "`break`; bound the loop by its range.",
    "Continue": "`continue`; put the rest of the body under an `if`.",
    "Assert": "`assert` in jit code; write tl.static_assert, or check in the host function.",
    "Raise": "`raise` in jit code; check in the host function.",
    "TypeAlias": "a type alias; delete it.",
}
