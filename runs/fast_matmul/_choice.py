"""What runs for a call, kernel or library: the word of dispatch.json, of the environment, and of what is here.

Nothing is run here. What became of a decision, and how it is found again, stands in _dispatch.py.
"""

import logging
import os

import torch

from . import baseline
from ._table import Choice, Table, Unfit

NAME = __package__
SPACE = NAME.replace(".", "_")  # of the operator, where the package is a part of another one
SWITCH = f"{NAME.rpartition('.')[2].upper()}_FORCE"
TABLE = Table()
OP = TABLE.spec["op"]
NAMES = tuple(name for name, _ in TABLE.arguments)
RESULTS = TABLE.spec["results"]  # by output: the argument that it is written into, or None
DIRECT = getattr(torch, TABLE.spec["direct"] or "", None)
GRADIENT = getattr(baseline, "gradient", None)
FORCE = os.environ.get(SWITCH, "")
if FORCE not in ("", "baseline", "kernel"):
    raise ValueError(f"{SWITCH}={FORCE}: expected baseline or kernel, or nothing.")
LOG = logging.getLogger(NAME)
_told = set()
_broken = {}  # kernels that could not be built or launched here, and why


# --- The library ------------------------------------------------------------------------------------------------------


def returned(made):
    """Of what a call gives, what is not written into one of its arguments: None, a tensor, or several."""
    listed = list(made) if isinstance(made, list | tuple) else [] if made is None else [made]
    if len(listed) == len(RESULTS):
        listed = [each for each, name in zip(listed, RESULTS) if name is None]
    return tuple(listed) if len(listed) > 1 else listed[0] if listed else None


def library(*arguments):
    return returned(baseline.library(*arguments))


LIBRARY = library if TABLE.written else baseline.library


def library_for(arguments):
    """The library's call for ones like these: the problem's own function is spared where torch's does."""
    tensors = tensors_of(arguments)
    known = [str(t.dtype).removeprefix("torch.") for t in tensors] in TABLE.spec["dtypes"]
    ranks = all(t.ndim == len(TABLE.spec["dims"][NAMES[i]]) for i, t in zip(TABLE.tensors, tensors))
    return DIRECT if DIRECT is not None and known and ranks else LIBRARY


def tensors_of(arguments):
    return tuple(arguments[i] for i in TABLE.tensors)


# --- The choice -------------------------------------------------------------------------------------------------------


def choose(arguments, placed=True):
    """The table's word on a call, with the reason. Only a forced kernel that cannot be raises."""
    try:
        described = TABLE.describe(arguments, placed)
        device, triton = torch.cuda.get_device_name(described.device), triton_version()
        if FORCE == "kernel":
            if described.astray:
                raise Unfit(described.astray)
            return TABLE.choose(described, device, triton, FORCE)
    except Unfit as why:
        if FORCE == "kernel" and any(arguments[i].is_cuda for i in TABLE.tensors):
            raise RuntimeError(f"{SWITCH}=kernel, but the kernel does not take this call: {why}") from None
        return Choice(False, str(why))
    if FORCE == "baseline":
        return Choice(False, "forced")
    if not TABLE.knows(device, triton):
        _tell_once(device, triton)
        return Choice(False, f"{device} with Triton {triton} is not verified")
    choice = TABLE.choose(described, device, triton)
    if choice.kernel and choice.kernels in _broken:
        return Choice(False, f"the kernel cannot be built or launched here: {_broken[choice.kernels]}")
    return choice


def triton_version():
    try:
        import triton
    except ImportError:
        return "none"
    return ".".join(triton.__version__.split(".")[:2])


def rests():
    """Whether no call can ever run the kernel here: then the function leaves the table alone."""
    if FORCE:
        return FORCE == "baseline"
    if not torch.backends.cuda.is_built():
        return True
    return torch.cuda.is_initialized() and not any(
        TABLE.knows(torch.cuda.get_device_name(i), triton_version()) for i in range(torch.cuda.device_count())
    )


def _tell_once(device, triton):
    if (device, triton) not in _told:
        _told.add((device, triton))
        LOG.warning(
            "%s: no verified row for %s with Triton %s, so the library runs. `evolve refresh %s` verifies and tunes "
            "it here.", NAME, device, triton, os.path.dirname(os.path.abspath(__file__))
        )  # fmt: skip


def tell_broken(kernels, why):
    """A kernel that cannot be had here, for want of a C compiler say, must not take down what worked without it."""
    _broken[kernels] = f"{type(why).__name__}: {why}"
    LOG.warning("%s: the kernel cannot be built or launched here, so the library runs. %s", NAME, _broken[kernels])


def shapes_of(arguments):
    """(shape, dtype) of each output by the rule that was found when the package was made; None where it knows none."""
    spec, sizes, by_name = TABLE.spec, {}, dict(zip(NAMES, arguments))
    flags = {name: by_name[name] for name, kind in TABLE.arguments if kind == "flag"}
    found = next((o["outputs"] for o in spec["outputs"] if o["flags"] == flags), None)
    tensors = [by_name[NAMES[i]] for i in TABLE.tensors]
    if found is None or [str(t.dtype).removeprefix("torch.") for t in tensors] not in spec["dtypes"]:
        return None
    for name, tensor in ((NAMES[i], arguments[i]) for i in TABLE.tensors):
        dims = spec["dims"][name]
        if len(dims) != tensor.ndim:
            return None
        for dim, size in zip(dims, tensor.shape):
            first = sizes.setdefault(dim, size)
            if isinstance(first, int) and isinstance(size, int) and first != size:
                return None  # the library says what is wrong
            torch._check(first == size)
    if any(isinstance(n, str) and n not in sizes for o in found for n in o["shape"]):
        return None
    return [([sizes[n] if isinstance(n, str) else n for n in o["shape"]], getattr(torch, o["dtype"])) for o in found]
