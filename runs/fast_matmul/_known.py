"""Calls that were decided before, found again by their sizes and one guard.

The guard is torch's own, which compiled code runs under: one call compares types, dtypes, devices, shapes, strides,
whether gradients are required, and through the dispatch keys what might intercept an operation (tracing, functorch,
autocast, inference mode, lazy signs). In Python the same takes ten times as long; it stands here for a torch that has
the guard no more. Not in a guard: modes written in Python (torch's overlooks those that compiled code may), which the
caller asks; grad mode and autocast's dtype, asked only where they matter; and where memory begins, which whatever runs
a kernel asks itself.
"""

import threading

import torch

try:
    GUARDS = torch._C._dynamo.guards.TensorGuards
except AttributeError:
    GUARDS = None
MOST, MOST_ALIKE = 8192, 64
included = torch._C._dispatch_tls_local_include_set
modes = torch._C._len_torch_dispatch_stack
excluded = torch._C._dispatch_tls_local_exclude_set


class Known:
    """`latest[index]` is (guard, what runs) of the last call with these sizes; others of the same index are behind."""

    def __init__(self):
        self.latest, self._all, self._lock = {}, {}, threading.Lock()

    def find(self, index, tensors):
        for entry in self._all.get(index, ()):
            if entry[0](*tensors):
                self.latest[index] = entry
                return entry[1]
        return None

    def keep(self, index, tensors, run):
        entry = (guard(tensors), run)
        with self._lock:
            others = [e for e in self._all.get(index, ()) if not e[0](*tensors)]
            while len(self._all) >= MOST and index not in self._all:
                oldest = next(iter(self._all))
                self.latest.pop(oldest, None)
                del self._all[oldest]
            self._all[index] = (entry, *others)[:MOST_ALIKE]
            self.latest[index] = entry

    def clear(self):
        with self._lock:
            self.latest.clear()
            self._all.clear()


def guard(tensors):
    """A function that says whether other tensors, here and now, are like these are here and now."""
    places = [next(j for j, other in enumerate(tensors) if other is t) for t in tensors]
    if places != [*range(len(tensors))]:
        return _with_twins(places, tensors)
    check = in_python(tensors) if GUARDS is None else _torchs(tensors)
    if any(t.requires_grad for t in tensors):
        check = _and(torch.is_grad_enabled, torch.is_grad_enabled(), check)
    kind = tensors[0].device.type
    if torch._C._is_any_autocast_enabled() and torch.is_autocast_enabled(kind):
        check = _and(lambda: torch.get_autocast_dtype(kind), torch.get_autocast_dtype(kind), check)
    return check


def _with_twins(places, tensors):
    """For `f(x, x)`: torch's guard takes no tensor twice."""
    first = sorted({*places})
    check = guard([tensors[i] for i in first])
    return lambda *others: (
        all(o is others[i] for o, i in zip(others, places)) and check(*(others[i] for i in first))
    )  # fmt: skip


def _torchs(tensors):
    return GUARDS(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None).check


def in_python(tensors):
    """What torch's guard says, for tensors that own the keys of a usual device."""
    wanted = [_facts(t) for t in tensors]
    return lambda *others: len({*map(id, others)}) == len(others) and [_facts(t) for t in others] == wanted


def _facts(tensor):
    if not isinstance(tensor, torch.Tensor):
        return None
    keys = (torch._C._dispatch_keys(tensor) | included()) - excluded()
    return (
        type(tensor), keys.raw_repr(), tensor.dtype, tensor.device, tensor.shape, tensor.stride(), tensor.requires_grad
    )  # fmt: skip


def _and(ask, answer, check):
    return lambda *tensors: ask() == answer and check(*tensors)
