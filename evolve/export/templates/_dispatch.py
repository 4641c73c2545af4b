"""From a call to the kernel or to the library.

The public function looks a call up in FAST by its shapes, strides, dtypes and devices; only what is not there comes
here. `call` decides by the table, once for each key, and leaves in FAST what later calls run. Under torch.compile and
for tensors that are none (fake, traced, batched) the operator stands in the graph and the same decision is taken inside
it when it runs. Gradients: a registered backward where there is one, else the library's own operations.
"""

import logging
import os
import threading
from importlib import import_module

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor

from . import baseline
from ._table import Choice, Table, Unfit

NAME = __package__
TABLE = Table()
OP = TABLE.spec["op"]
NAMES = tuple(name for name, _ in TABLE.arguments)
LIBRARY = baseline.library
GRADIENT = getattr(baseline, "gradient", None)
FORCE = os.environ.get(f"{NAME.upper()}_FORCE", "")
if FORCE not in ("", "baseline", "kernel"):
    raise ValueError(f"{NAME.upper()}_FORCE={FORCE}: expected baseline or kernel, or nothing.")
LOG = logging.getLogger(NAME)
FAST = {}  # key -> what runs; the key is made in __init__.py
MOST_KEYS = 8192
PLAIN = frozenset({torch.Tensor, torch.nn.Parameter})
# What torch itself traces with. Other subclasses (DTensor, quantised ones) know the library's operations and not ours.
KNOWN = PLAIN | {FakeTensor, FunctionalTensor}
# What a thread includes when nothing intercepts operations: outside and inside of inference mode.
QUIET = frozenset({torch._C.DispatchKeySet(torch._C.DispatchKey.BackendSelect).raw_repr()})
QUIET |= {(torch._C.DispatchKeySet(torch._C.DispatchKey.BackendSelect) | torch._C.DispatchKeySet(
    torch._C.DispatchKey.ADInplaceOrView)).raw_repr()}  # fmt: skip
included = torch._C._dispatch_tls_local_include_set
_told = set()
_lock = threading.Lock()
_hosts = {}


# --- The public function's way ----------------------------------------------------------------------------------------


def call(key, arguments, out=None):
    """Everything that FAST does not answer."""
    tensors = [arguments[i] for i in TABLE.tensors]
    if torch.compiler.is_compiling():
        return _traced(arguments, tensors, out)
    if not all(type(t) in KNOWN for t in tensors):
        return _into(out, LIBRARY(*arguments))  # what is no tensor it refuses in its own words
    if included().raw_repr() not in QUIET or not all(type(t) in PLAIN for t in tensors):
        return _into(out, _public(OPERATOR(*arguments), arguments))
    if torch._C._is_any_autocast_enabled() and torch.is_autocast_enabled(tensors[0].device.type):
        return _into(out, _public(OPERATOR(*arguments), arguments))
    if _wants_gradient(tensors):
        if out is not None:
            raise RuntimeError(f"{OP}(): functions with out=... arguments don't support automatic differentiation, "
                               "but one of the arguments requires grad.")  # fmt: skip
        return LIBRARY(*arguments) if GRADIENT is None else _public(OPERATOR(*arguments), arguments)
    return _eager(key, arguments, out)


def _traced(arguments, tensors, out):
    if not all(type(t) in KNOWN for t in tensors) or (GRADIENT is None and _wants_gradient(tensors)):
        return _into(out, LIBRARY(*arguments))
    return _into(out, _public(OPERATOR(*arguments), arguments))


def _wants_gradient(tensors):
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _eager(key, arguments, out=None, *, op=False):
    """`op`: inside a graph's operator, where nobody waits for the host and answers must lie as the fake says."""
    key = key if _ordinary(arguments) else None
    if out is not None and key is not None and ("out", *key) in FAST and _takes(out, arguments):
        return _same(FAST["out", *key](*arguments, *_listed(out)), out)
    choice = choose(arguments)
    if not choice.kernel:
        if key is not None:
            _keep(key, LIBRARY)
        return _into(out, LIBRARY(*arguments))
    if out is not None and not _takes(out, arguments):
        return _into(out, _eager(key, arguments, op=op))
    if not choice.eager and not op and not FORCE and not torch._C._cuda_isCurrentStreamCapturing():
        if key is not None:
            _keep(key, _Launchbound(key))
        return _into(out, LIBRARY(*arguments))
    return _run(key, choice, arguments, out)


def _ordinary(arguments):
    """What a key does not say: where memory begins, and lazy signs. Other calls are decided each time anew."""
    tensors = [arguments[i] for i in TABLE.tensors]
    return all(t.data_ptr() % TABLE.alignment == 0 and not t.is_neg() and not t.is_conj() for t in tensors)


class _Launchbound:
    """In a CUDA graph the kernel is faster, outside of one the launch costs more than the kernel saves."""

    def __init__(self, key):
        self.key = ("graph", *key)

    def __call__(self, *arguments):
        if not torch._C._cuda_isCurrentStreamCapturing():
            return LIBRARY(*arguments)
        found = FAST.get(self.key)
        return found(*arguments) if found is not None else _run(self.key, choose(arguments), arguments)


def choose(arguments):
    """The table's word on a call, with the reason. Only a forced kernel that cannot be raises."""
    try:
        described = TABLE.describe(arguments)
        device, triton = torch.cuda.get_device_name(described.device), triton_version()
        if FORCE == "kernel":
            return TABLE.choose(described, device, triton, FORCE)
    except Unfit as why:
        if FORCE == "kernel" and any(arguments[i].is_cuda for i in TABLE.tensors):
            raise RuntimeError(f"{NAME.upper()}_FORCE=kernel, but the kernel does not take this call: {why}") from None
        return Choice(False, str(why))
    if FORCE == "baseline":
        return Choice(False, "forced")
    if not TABLE.knows(device, triton):
        _tell_once(device, triton)
        return Choice(False, f"{device} with Triton {triton} is not verified")
    return TABLE.choose(described, device, triton)


def triton_version():
    try:
        import triton
    except ImportError:
        return "none"
    return ".".join(triton.__version__.split(".")[:2])


def _tell_once(device, triton):
    if (device, triton) not in _told:
        _told.add((device, triton))
        LOG.warning(
            "%s: no verified row for %s with Triton %s, so the library runs. `evolve refresh %s` verifies and tunes "
            "it here.", NAME, device, triton, os.path.dirname(os.path.abspath(__file__))
        )  # fmt: skip


# --- Running the kernel -----------------------------------------------------------------------------------------------


def _run(key, choice, arguments, out=None):
    device = next(arguments[i] for i in TABLE.tensors).device
    if device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            return _run(None, choice, arguments, out)
    host = host_of(choice.kernels)
    parameters = host.parameters(choice.parameters, device)
    if key is None or included().raw_repr() not in QUIET:
        return _into(out, host.call(arguments, parameters))
    result, record = host.record(arguments, parameters)

    def again(*given):
        """As the first time: for a profiler's hooks, or when another device is current."""
        inputs = given[: len(NAMES)]
        if torch.cuda.current_device() == device.index:
            made = host.call(inputs, parameters)
        else:
            with torch.cuda.device(device):
                made = host.call(inputs, parameters)
        return _into(given[len(NAMES) :] or None, made)

    if not record.aliased():
        replay = record.replay(NAMES, again)
        _keep(key, again if replay is None else replay[0])
        if replay is not None and replay[1] is not None:
            _keep(("out", *key), replay[1])
    return _into(out, result)


def host_of(kernels):
    with _lock:
        if kernels not in _hosts:
            from ._replay import Host

            _hosts[kernels] = Host(import_module(f".{kernels}", NAME), OP, shapes_of)
        return _hosts[kernels]


def _keep(key, function):
    while len(FAST) >= MOST_KEYS:
        FAST.pop(next(iter(FAST)), None)
    FAST[key] = function


def _listed(out):
    return tuple(out) if isinstance(out, list | tuple) else (out,)


def _takes(out, arguments):
    """Whether the kernel may write there itself: no input lies there, and it is laid out as a fresh result."""
    given = [arguments[i] for i in TABLE.tensors]
    storages = {t.untyped_storage().data_ptr() for t in given}
    specs = shapes_of(arguments)
    outs = _listed(out)
    return specs is not None and len(specs) == len(outs) and all(
        (o.shape, o.dtype, o.device) == (torch.Size(shape), dtype, given[0].device)
        and o.is_contiguous()
        and o.data_ptr() % TABLE.alignment == 0
        and o.untyped_storage().data_ptr() not in storages
        for o, (shape, dtype) in zip(outs, specs)
    )  # fmt: skip


def _into(out, result):
    """`result` as the caller wants it: as it is, or in `out`, with torch's words where that does not fit."""
    if out is None:
        return result
    for target, made in zip(_listed(out), _listed(result)):
        if target.dtype != made.dtype:
            raise RuntimeError(f"Expected out tensor to have dtype {made.dtype}, but got {target.dtype} instead")
        if target.device != made.device:
            raise RuntimeError(f"Expected out tensor to be on {made.device}, but got {target.device} instead")
        if target.shape != made.shape:
            raise RuntimeError(f"Expected out tensor to have shape {[*made.shape]}, but got {[*target.shape]} instead")
        target.copy_(made)
    return out


def _same(_, out):
    return out


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


def _keys(argument):
    if isinstance(argument, torch.Tensor):
        return argument.shape, argument.stride(), argument.dtype, argument.get_device()
    return (argument,)


# Last, because the operator is made of what stands above.
from ._operator import OPERATOR, _public  # noqa: E402
