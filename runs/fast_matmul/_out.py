"""`out=`: whether a kernel may write there itself; else a result in it, with torch's words where that does not fit."""

import torch

from ._choice import OP, TABLE, shapes_of, tensors_of

# As torch's own messages call them.
SPELT = {torch.float32: "float", torch.float64: "double", torch.int32: "int", torch.int64: "long int"}
SPELT |= {torch.float16: "c10::Half", torch.bfloat16: "c10::BFloat16", torch.float8_e4m3fn: "c10::Float8_e4m3fn"}


def listed(out):
    return () if out is None else tuple(out) if isinstance(out, list | tuple) else (out,)


def takes(out, arguments):
    """Whether the kernel may write there itself: no input lies there, and it is laid out as a fresh result."""
    given = tensors_of(arguments)
    storages = {t.untyped_storage().data_ptr() for t in given}
    specs = shapes_of(arguments)
    outs = listed(out)
    return specs is not None and len(specs) == len(outs) and all(
        (o.shape, o.dtype, o.device) == (torch.Size(shape), dtype, given[0].device)
        and o.is_contiguous()
        and o.data_ptr() % TABLE.alignment == 0
        and o.untyped_storage().data_ptr() not in storages
        for o, (shape, dtype) in zip(outs, specs)
    )  # fmt: skip


def into(out, result):
    """`result` as the caller wants it: as it is, or in `out`, with torch's words where that does not fit."""
    if out is None:
        return result
    if len(listed(out)) != len(listed(result)):
        raise TypeError(f"{OP}(): expected {len(listed(result))} tensors as out, but got {len(listed(out))}")
    for target, made in zip(listed(out), listed(result)):
        if target.dtype != made.dtype:
            wanted, given = (SPELT.get(d, str(d).removeprefix("torch.")) for d in (made.dtype, target.dtype))
            raise RuntimeError(f"Expected out tensor to have dtype {wanted}, but got {given} instead")
        if target.device != made.device:
            raise RuntimeError(f"Expected out tensor to be on {made.device}, but got {target.device} instead")
        torch.ops.aten.alias_copy.out(made, out=target)  # which resizes as torch does, and warns as it does
    return out
