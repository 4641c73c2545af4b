"""The registered operator: what torch.compile, torch.export, autocast and autograd see of the package.

One opaque operator, whose answers are dense and row-major whatever runs inside, because a graph must know their strides
before. The decision between kernel and library is taken when it runs, as for the function.
"""

import torch

from ._choice import GRADIENT, LIBRARY, NAMES, OP, SPACE, TABLE, choose, shapes_of, tensors_of
from ._dispatch import (
    OPS,
    PLAIN,
    QUIET,
    _decided_in_graph,
    _wants_gradient,
    autocast_keys,
    changed,
    index_of,
    rounded,
    rounds,
    transformed,
)
from ._known import included, modes
from ._out import into, listed


def _fake(*arguments):
    """What the operator returns, by shape: always dense and row-major. Unknown calls ask the library."""
    if TABLE.spec["returns"] == "()":
        return None
    shapes = shapes_of(arguments)
    device = arguments[TABLE.tensors[0]].device
    if shapes is None:
        made = LIBRARY(*arguments)
        shapes, device = [(t.shape, t.dtype) for t in listed(made)], listed(made)[0].device
    return _packed([torch.empty(shape, dtype=dtype, device=device) for shape, dtype in shapes])


def _compute(*arguments):
    index, tensors = index_of(arguments), tensors_of(arguments)
    found = OPS.latest.get(index)
    run = found[1] if found is not None and found[0](*tensors) else OPS.find(index, tensors)
    if run is not None and not modes():
        return _packed(listed(run(*arguments)))
    made, run = _decided_in_graph(arguments)
    if run is not None and index is not None and included().raw_repr() in QUIET:
        OPS.keep(index, tensors, settled if run is LIBRARY else run)
    return _packed([_settled(t, arguments) for t in listed(made)])


def settled(*arguments):
    return [_settled(t, arguments) for t in listed(LIBRARY(*arguments))]


def _settled(tensor, arguments):
    """As the fake promised: dense, and no input's memory."""
    if TABLE.spec["returns"] == "()":
        return tensor
    tensor = tensor.contiguous()
    inputs = {arguments[i].untyped_storage().data_ptr() for i in TABLE.tensors}
    return tensor.clone() if tensor.untyped_storage().data_ptr() in inputs and tensor.numel() else tensor


def _packed(made):
    if TABLE.spec["returns"] in ("Tensor", "()"):
        return made[0] if TABLE.spec["returns"] == "Tensor" else None
    return list(made) if TABLE.spec["returns"] == "Tensor[]" else tuple(made)


def _public(made):
    """What the operator returns, as the function returns it."""
    if made is None or isinstance(made, torch.Tensor):
        return made
    return made[0] if len(made) == 1 else tuple(made)


def _out(*arguments, out):
    into(out if TABLE.spec["returns"] == "Tensor" else tuple(out), _public(_compute(*arguments)))


def _inplace(keys, *arguments):
    """Autograd is told of what is written, whatever writes it."""
    changed(arguments)
    with torch._C._AutoDispatchBelowADInplaceOrView():
        return OPERATOR.redispatch(keys & torch._C._after_ADInplaceOrView_keyset, *arguments)


def _for_good(arguments):
    """Whether a graph is traced for fixed sizes that the table gives to the library: then the library's own operations
    stand in it, which a compiler can fuse with others."""
    tensors = tensors_of(arguments)
    if TABLE.written or all(type(t) in PLAIN for t in tensors):
        return False
    fixed = all(type(n) is int for t in tensors for n in (*t.shape, *t.stride()))
    return fixed and not choose(arguments, placed=False).kernel


def _autograd(*arguments):
    """Without a backward of its own: the library's operations where a gradient is wanted."""
    if _wants_gradient(tensors_of(arguments)) or transformed():
        return _packed(listed(LIBRARY(*arguments)))
    if _for_good(arguments):
        return _packed([t.contiguous() for t in listed(LIBRARY(*arguments))])
    with torch._C._AutoDispatchBelowAutograd():
        return OPERATOR(*arguments)


def _backward(ctx, *grads):
    tensors, plain = list(ctx.saved_tensors), dict(ctx.plain)
    inputs = [plain[i] if i in plain else tensors.pop(0) for i in range(len(NAMES))]
    return tuple(GRADIENT(grads[0] if len(grads) == 1 else grads, *inputs))


def _setup(ctx, inputs, output):
    ctx.plain = [(i, v) for i, v in enumerate(inputs) if not isinstance(v, torch.Tensor)]
    ctx.save_for_backward(*(v for v in inputs if isinstance(v, torch.Tensor)))


def _autocast(kind):
    def run(*arguments):
        """Inputs are rounded first where that is what the library does under autocast; else the library runs."""
        dtype = torch.get_autocast_dtype(kind)
        if not rounds(kind, dtype):
            return _packed(listed(LIBRARY(*arguments)))
        with torch._C._ExcludeDispatchKeyGuard(autocast_keys(kind)):
            return OPERATOR(*(rounded(a, dtype) for a in arguments))

    return run


def _register():
    library = torch.library.Library(SPACE, "DEF")
    signature, returns = TABLE.spec["schema"], TABLE.spec["returns"]
    library.define(f"{OP}({signature}) -> {returns}", tags=(torch.Tag.pt2_compliant_tag,))
    library.impl(OP, _compute, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{SPACE}::{OP}", _fake, lib=library)
    if GRADIENT is None:
        library.impl(OP, _autograd, "Autograd")
    else:
        torch.library.register_autograd(f"{SPACE}::{OP}", _backward, setup_context=_setup, lib=library)
    if TABLE.written:
        library.impl(OP, _inplace, "ADInplaceOrView", with_keyset=True)
    library.impl(OP, _autocast("cuda"), "AutocastCUDA")
    library.impl(OP, _autocast("cpu"), "AutocastCPU")
    if returns in ("Tensor", "Tensor[]"):
        kind = "Tensor(a!)" if returns == "Tensor" else "Tensor(a!)[]"
        library.define(f"{OP}.out({signature}, *, {kind} out) -> ()")
        library.impl(f"{OP}.out", _out, "CompositeExplicitAutograd")
    return library


_LIBRARY = _register()  # as long as it lives the operator does
OPERATOR = getattr(getattr(torch.ops, SPACE), OP).default
