"""From a call to the kernel or to the library.

The public function finds a call by its guard in KNOWN; only what is not there comes here. `call` decides by the table,
once for each kind of call, and leaves in KNOWN what later ones run: a replay of the kernel's launches, or the library's
function itself, so that a call which the table gives to the library costs next to nothing more. Under torch.compile and
for tensors that are none (fake, traced, batched) the operator stands in the graph and the same decision is taken inside
it when it runs. Gradients: a registered backward where there is one, else the library's own operations.
"""

import threading
from contextlib import nullcontext
from importlib import import_module
from subprocess import SubprocessError

import torch
import torch.autograd.forward_ad as forward_ad
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor

from . import _choice
from ._choice import (
    GRADIENT,
    LIBRARY,
    NAME,
    NAMES,
    OP,
    TABLE,
    choose,
    library_for,
    returned,
    shapes_of,
    tell_broken,
    tensors_of,
)
from ._known import Known, included, modes
from ._out import into, listed, takes

KNOWN, OUTS, OPS = Known(), Known(), Known()  # of the function, of the function with out=, of the operator
RESTING = []  # not empty where nothing but the library can ever run
PLAIN = frozenset({torch.Tensor, torch.nn.Parameter})
# What torch itself traces with. Other subclasses (DTensor, quantised ones) know the library's operations and not ours.
TRACED = PLAIN | {FakeTensor, FunctionalTensor}
SCALARS = (bool, int, float, str)
INDEXED = 3  # so many tensors count for the index; the guard compares all
# What a thread includes when nothing intercepts operations: outside and inside of inference mode.
QUIET = frozenset({torch._C.DispatchKeySet(torch._C.DispatchKey.BackendSelect).raw_repr()})
QUIET |= {(torch._C.DispatchKeySet(torch._C.DispatchKey.BackendSelect) | torch._C.DispatchKeySet(
    torch._C.DispatchKey.ADInplaceOrView)).raw_repr()}  # fmt: skip
_lock = threading.Lock()
_hosts = {}


# --- The public function's way ----------------------------------------------------------------------------------------


def call(arguments, out=None):
    """Everything that the function's own look-up does not answer."""
    tensors = tensors_of(arguments)
    if torch.compiler.is_compiling():
        return _traced(arguments, tensors, out)
    if not all(type(t) in TRACED for t in tensors):
        return into(out, LIBRARY(*arguments))  # what is no tensor it refuses in its own words
    if transformed():
        return into(out, LIBRARY(*arguments))
    for each in listed(out):
        if not isinstance(each, torch.Tensor):
            raise TypeError(f"{OP}(): argument 'out' must be Tensor, not {type(each).__name__}")
    if modes() or included().raw_repr() not in QUIET or not all(type(t) in PLAIN for t in (*tensors, *listed(out))):
        return into(out, _through(*arguments))
    index = index_of(arguments)
    if out is not None:
        return _with_out(index, arguments, tensors, out)
    run = KNOWN.find(index, tensors)
    if run is not None:
        return run(*arguments)
    result, run = _decided(arguments, tensors)
    if run is not None and index is not None:
        KNOWN.keep(index, tensors, run)
    return result


def index_of(arguments):
    """As the function in __init__.py computes it. None: never found again."""
    total = 0
    for i in TABLE.tensors[:INDEXED]:
        total = total * 31 + arguments[i].numel()
    scalars = tuple(a for i, a in enumerate(arguments) if i not in TABLE.tensors)
    if not all(type(a) in SCALARS for a in scalars):
        return None
    return (total, *scalars) if scalars else total


def way(arguments):
    """What a call like this one runs since it was decided: "replay", "again" (the host function), "library", ..."""
    run = KNOWN.find(index_of(arguments), tensors_of(arguments))
    return "library" if run in (LIBRARY, _choice.DIRECT) else getattr(run, "__name__", "nothing yet")


def transformed():
    """Whether torch.func (vmap, grad, jvp) or forward-mode differentiation is at work: the library's operations have
    rules for all of it, of any order, and a kernel would drop tangents without a word."""
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def _through(*arguments):
    return LIBRARY(*arguments) if transformed() else _public(OPERATOR(*arguments))


def _traced(arguments, tensors, out):
    if not all(type(t) in TRACED for t in tensors) or (GRADIENT is None and _wants_gradient(tensors)):
        return into(out, LIBRARY(*arguments))
    return into(out, _public(OPERATOR(*arguments)))


def _wants_gradient(tensors):
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _decided(arguments, tensors):
    """The result of a call of a new kind, and what runs the next one of its kind; None if that is not sure."""
    gradient = _wants_gradient(tensors)
    if gradient and GRADIENT is None:
        return LIBRARY(*arguments), LIBRARY
    if torch._C._is_any_autocast_enabled() and torch.is_autocast_enabled(tensors[0].device.type):
        run = _under_autocast(arguments, tensors[0].device.type)
        return run(*arguments), run
    choice = choose(arguments)
    if not choice.kernel:
        if _choice.rests():
            RESTING.append(NAME)
        return LIBRARY(*arguments), misaligned if choice.passing else library_for(arguments)
    if gradient:
        return _through(*arguments), _through
    if not choice.eager and not _choice.FORCE:
        run = _launchbound(choice, arguments)
        return run(*arguments), run
    return _first(choice, arguments)


def _decided_in_graph(arguments):
    """The same for the operator, which runs where nobody waits for the host, and has its gradients elsewhere."""
    choice = choose(arguments)
    if choice.kernel:
        return _first(choice, arguments)
    return LIBRARY(*arguments), None if choice.passing else LIBRARY


def _with_out(index, arguments, tensors, out):
    outs = listed(out)
    if _wants_gradient((*tensors, *outs)):
        raise RuntimeError(f"{OP}(): functions with out=... arguments don't support automatic differentiation, "
                           "but one of the arguments requires grad.")  # fmt: skip
    run = OUTS.find(index, (*tensors, *outs))
    if run is not None:
        run(*arguments, *outs)
        return out
    if not takes(out, arguments):
        return into(out, call(arguments))
    made, run = _decided(arguments, tensors)
    writes = getattr(run, "into", None)
    if writes is not None and index is not None:
        OUTS.keep(index, (*tensors, *outs), writes)
    return into(out, made)


def _under_autocast(arguments, kind):
    """Inputs are rounded first where that is what the library does under autocast; else the library runs."""
    dtype = torch.get_autocast_dtype(kind)
    if not rounds(kind, dtype) or not choose([rounded(a, dtype) for a in arguments]).kernel:
        return LIBRARY

    def rounding(*given):
        with torch._C._ExcludeDispatchKeyGuard(autocast_keys(kind)):
            return call([rounded(a, dtype) for a in given])

    return rounding


def rounds(kind, dtype):
    return kind == "cuda" and str(dtype).removeprefix("torch.") in TABLE.autocast


def rounded(value, dtype):
    wanted = isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype is not torch.float64
    return value.to(dtype) if wanted and value.is_cuda else value


def autocast_keys(kind):
    return torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, f"Autocast{kind.upper()}"))


def aligned(tensors):
    return all(t.data_ptr() % TABLE.alignment == 0 for t in tensors)


def misaligned(*arguments):
    """Kept for calls whose memory begins where the kernel was not verified; one that is aligned is decided anew."""
    tensors = tensors_of(arguments)
    if not aligned(tensors):
        return LIBRARY(*arguments)
    result, run = _decided(arguments, tensors)
    if run is not None:
        KNOWN.keep(index_of(arguments), tensors, run)
    return result


def _launchbound(choice, arguments):
    """In a CUDA graph the kernel is faster, outside of one the launch costs more than the kernel saves. The kernel is
    built and loaded at once, since a graph that is being captured may be no time for it."""
    library, capturing = library_for(arguments), torch._C._cuda_isCurrentStreamCapturing
    kernels = []
    if not capturing():
        copies = [a.clone() if n in TABLE.written else a for n, a in zip(NAMES, arguments)]
        kernels.append(_first(choice, copies)[1] or LIBRARY)

    def launchbound(*given):
        if not capturing():
            return library(*given)
        if not kernels:
            result, run = _first(choice, given)
            kernels.append(run or LIBRARY)
            return result
        return kernels[0](*given)

    return launchbound


# --- Running the kernel -----------------------------------------------------------------------------------------------


def changed(arguments):
    """Autograd is told what was written, so that it notices where that was needed as it had been."""
    if TABLE.written:
        torch._C._increment_version([a for n, a in zip(NAMES, arguments) if n in TABLE.written])


def _first(choice, arguments):
    """The result of a kernel's call, and what runs the next one like it."""
    tensors = tensors_of(arguments)
    if not aligned(tensors) or transformed():
        return LIBRARY(*arguments), None
    device = tensors[0].device
    host = host_of(choice.kernels)
    parameters = host.parameters(choice.parameters, device)

    def again(*given):
        """As the first time: for a profiler's hooks, and where memory begins elsewhere."""
        inputs = given[: len(NAMES)]
        if not aligned(tensors_of(inputs)) or transformed():
            made = LIBRARY(*inputs)
        else:
            with current(device):
                made = host.call(inputs, parameters)
        changed(inputs)
        return into(given[len(NAMES) :] or None, made)

    if included().raw_repr() not in QUIET:
        return again(*arguments), None
    try:
        with current(device):
            result, record = host.record(arguments, parameters)
    except (OSError, RuntimeError, SubprocessError) as why:
        if _choice.FORCE or isinstance(why, torch.OutOfMemoryError):
            raise
        tell_broken(choice.kernels, why)
        return LIBRARY(*arguments), None
    changed(arguments)
    if record.aliased():
        return result, again if len({*map(id, tensors)}) < len(tensors) else None  # the guard knows twins, not overlaps
    with current(device):
        replay = record.replay(NAMES, again, TABLE.alignment, TABLE.written)
    return result, again if replay is None else replay


def current(device):
    """As torch's own operations do, for tensors on another device than the current one."""
    return nullcontext() if torch.cuda.current_device() == device.index else torch.cuda.device(device)


def host_of(kernels):
    with _lock:
        if kernels not in _hosts:
            from ._replay import Host

            settled = returned if TABLE.written else None
            _hosts[kernels] = Host(import_module(f".{kernels}", NAME), OP, shapes_of, settled)
        return _hosts[kernels]


# Last, because the operator is made of what stands above.
from ._operator import OPERATOR, _public  # noqa: E402
