"""Runs a host function once and turns what it did into the same launches without it.

`kernel[grid](...)` looks up a compiled kernel by all its arguments each time. Here a call's shapes, strides, dtypes and
numbers are the key already, so everything but addresses is known from the first time on: allocate, launch, return. The
host function only allocates, makes views and launches (the judge refused it otherwise), so nothing of it is lost. What
cannot be replayed for certain is not: the host function itself then runs each time.
"""

import contextvars
import threading
import types
from subprocess import SubprocessError

import torch
import triton
from torch.utils._python_dispatch import TorchDispatchMode
from triton.errors import TritonError
from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

ALLOCATES = {"aten::empty", "aten::empty_strided", "aten::empty_like", "aten::new_empty", "aten::new_empty_strided"}
ALLOCATES |= {"aten::empty_permuted"}
ZEROES = {"aten::zeros", "aten::zeros_like", "aten::new_zeros"}
# What a kernel that cannot be built or launched raises: a missing C compiler, another ptxas, too little shared memory.
FAILURES = (OSError, RuntimeError, SubprocessError, TritonError)
_now = threading.local()


class Host:
    """The entry of one kernels module. Its functions see a copy of the module's names in which each kernel also writes
    down its launches; the module itself, and what kernels call, stay as they are."""

    FAILURES = FAILURES

    def __init__(self, module, entry, shapes, returned=None):
        """`shapes(arguments)` says (shape, dtype) of each output, for an entry that wants them given; `returned(made)`
        what a function that writes into its arguments returns."""
        names = dict(vars(module))
        for name, value in vars(module).items():
            if isinstance(value, JITFunction):
                names[name] = _Watched(value)
            elif isinstance(value, types.FunctionType) and value.__globals__ is vars(module):
                names[name] = _moved(value, names)
        self.entry, self.shapes = names[entry], shapes
        self.returned = returned or _alone
        self.positional = self.entry.__code__.co_argcount
        self.reserved = "NUM_SMS" in (self.entry.__kwdefaults__ or {})

    def parameters(self, chosen, device):
        if not self.reserved:
            return dict(chosen)
        return {**chosen, "NUM_SMS": torch.cuda.get_device_properties(device).multi_processor_count}

    def call(self, arguments, parameters):
        """With an allocator for kernels that want memory of their own, in a context that leaves the caller's alone."""
        return contextvars.copy_context().run(self._enter, arguments, parameters)

    def _enter(self, arguments, parameters):
        triton.set_allocator(_allocate)
        if self.positional == len(arguments):
            return self.returned(self.entry(*arguments, **parameters))
        device = next(a.device for a in arguments if isinstance(a, torch.Tensor))
        given = [torch.empty(shape, dtype=dtype, device=device) for shape, dtype in self.shapes(arguments)]
        self.entry(*arguments, *given, **parameters)
        return given[0] if len(given) == 1 else tuple(given)

    def record(self, arguments, parameters):
        """The result of a call, and what happened in it."""
        _now.launches = launches = []
        watch = _Allocations()
        try:
            with watch:
                result = self.call(arguments, parameters)
        finally:
            _now.launches = None
        return result, Record(arguments, result, launches, watch)


def _alone(made):
    return made[0] if isinstance(made, list | tuple) and len(made) == 1 else made


def _moved(function, names):
    made = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _allocate(nbytes, alignment, stream):
    return torch.empty(nbytes, dtype=torch.int8, device="cuda")


class _Watched:
    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        launch = self.kernel[grid]

        def run(*args, **kwargs):
            compiled = launch(*args, **kwargs)
            found = getattr(_now, "launches", None)
            if found is not None:
                found.append((self.kernel, compiled, grid, args, kwargs))
            return compiled

        return run

    def __getattr__(self, name):
        return getattr(self.kernel, name)


class _Allocations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.made = []  # (tensor, zeroed)
        self.computes = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name in ALLOCATES or name in ZEROES:
            self.made.append((made, name in ZEROES))
        elif not isinstance(made, torch.Tensor) or not any(_shares(made, a) for a in args):
            self.computes = self.computes or not isinstance(made, list | tuple)
        return made


def _shares(one, other):
    return isinstance(other, torch.Tensor) and _storage(one) == _storage(other)


def _storage(tensor):
    return tensor.untyped_storage()._cdata


class Record:
    def __init__(self, arguments, result, launches, watch):
        self.arguments, self.result, self.launches, self.watch = arguments, result, launches, watch
        self.results = list(result) if isinstance(result, list | tuple) else [] if result is None else [result]

    def aliased(self):
        """Inputs that share memory: another call with the same key need not."""
        found = [_storage(a) for a in self.arguments if isinstance(a, torch.Tensor)]
        return len(set(found)) < len(found)

    def replay(self, names, otherwise, alignment, written=()):
        """A function of the same arguments, with another that also takes the outputs as its `into`; None where a replay
        would not be certain. `otherwise` is called where one is out of place: under a profiler, with tangents, for
        memory that does not begin on a multiple of `alignment`, or outputs that overlap an input. `written` are the
        arguments that are changed in place."""
        if self.watch.computes or not self.launches or self.aliased():
            return None
        try:
            return _Writer(self, names, otherwise, alignment, written).function()
        except (AttributeError, LookupError, TypeError, ValueError):
            return None  # a Triton whose insides look different, or an argument that is no plain pointer or number


class _Writer:
    """The source of the replay: as straight as a person would write it for this one call."""

    def __init__(self, record, names, otherwise, alignment, written):
        self.record, self.names, self.alignment, self.written = record, names, alignment, sorted(written)
        self.index, self.described = torch.cuda.current_device(), False
        hooks = triton.knobs.runtime
        self.space = {
            "empty_strided": torch.empty_strided,
            "get_device": torch._C._cuda_getDevice,
            "get_stream": torch._C._cuda_getCurrentRawStream,
            "enter": hooks.launch_enter_hook.calls,
            "leave": hooks.launch_exit_hook.calls,
            "otherwise": otherwise,
            "describe": _describe,
            "forward_ad": torch.autograd.forward_ad,
            "changed": torch._C._increment_version,
            "device": next(a.device for a in record.arguments if isinstance(a, torch.Tensor)),
        }
        self.inputs = {_storage(a): n for n, a in zip(names, record.arguments) if isinstance(a, torch.Tensor)}
        self.places = {_storage(t): number for number, (t, _) in enumerate(record.watch.made)}
        self.outputs = [self._output(t) for t in record.results]
        self.scratch = any(c.metadata.global_scratch_size for _, c, _, _, _ in record.launches)

    def function(self):
        made = self._function("replay", ())
        if not any(isinstance(o, str) for o in self.outputs):
            made.into = self._function("replay_out", tuple(f"out{i}" for i in range(len(self.outputs))))
        return made

    def _function(self, name, outs):
        given = dict(zip(self.outputs, outs))
        space = dict(self.space)
        used = set(self.outputs)
        body = [self._launch(i, launch, space, used) for i, launch in enumerate(self.record.launches)]
        taken = sorted({*self.inputs.values()})
        everything = ", ".join((*self.names, *outs))
        pointers = [f"p_{n}" for n in taken] + [f"p_{o}" for o in outs]
        lines = [
            f"def {name}({everything}):",
            *(f"    p_{n} = {n}.data_ptr()" for n in (*taken, *outs)),
            f"    if get_device() != {self.index}:",
            f"        return elsewhere({everything})",
            f"    if ({' | '.join(pointers)}) % {self.alignment} or enter or leave or forward_ad._current_level >= 0:",
            f"        return otherwise({everything})",
            *(line for n in taken for o in given for line in self._overlap(n, o, given[o], everything)),
            f"    stream = get_stream({self.index})",
            *(line for i in sorted(i for i in used if isinstance(i, int)) for line in self._allocate(i, space, given)),
            *body,
            *([f"    changed(({', '.join(self.written)},))"] if self.written else []),  # so that autograd notices
            f"    return {self._returned(given)}",
        ]
        exec("\n".join(lines), space)
        made = self._in_context(space[name]) if self.scratch else space[name]
        made = self._careful(made) if self.described else made

        def elsewhere(*arguments):
            with torch.cuda.device(self.index):
                return made(*arguments)

        space["elsewhere"] = elsewhere
        return made

    def _overlap(self, name, number, out, everything):
        """An output may be any memory, and a kernel that reads what it has written already is wrong."""
        span = _span(self.record.arguments[self.names.index(name)])
        yield f"    if p_{out} < p_{name} + {span} and p_{name} < p_{out} + {_span(self.record.watch.made[number][0])}:"
        yield f"        return otherwise({everything})"

    def _allocate(self, number, space, given):
        tensor, zeroed = self.record.watch.made[number]
        if number in given:
            yield f"    t{number} = {given[number]}"
        else:
            space[f"size{number}"], space[f"stride{number}"] = tuple(tensor.shape), tensor.stride()
            space[f"dtype{number}"] = tensor.dtype
            made = f"empty_strided(size{number}, stride{number}, dtype=dtype{number}, device=device)"
            yield f"    t{number} = {made}"
        if zeroed:
            yield f"    t{number}.zero_()"
        yield f"    q{number} = t{number}.data_ptr()"

    def _launch(self, i, launch, space, used):
        kernel, compiled, grid, args, kwargs = launch
        known = {k: v for k, v in kwargs.items() if k in kernel.signature.parameters}
        bound = kernel.signature.bind(*args, **known)
        bound.apply_defaults()
        sizes = grid(bound.arguments) if callable(grid) else grid
        sizes = (*sizes, 1, 1)[:3]
        space[f"run{i}"], space[f"function{i}"] = compiled.run, compiled.function
        space[f"packed{i}"] = compiled.packed_metadata
        values = [self._value(i, n, v, space, used) for n, v in bound.arguments.items()]
        start = f"{', '.join(str(int(n)) for n in sizes)}, stream, function{i}, packed{i}, None, None, None"
        return f"    run{i}({start}, {', '.join(values)})"

    def _value(self, i, name, value, space, used):
        if isinstance(value, torch.Tensor):
            return self._pointer(value, used)
        if isinstance(value, TensorDescriptor):
            if self.written:
                raise TypeError(name)  # see _careful
            self.described = True
            space[f"d{i}_{name}"] = {n: v for n, v in vars(value).items() if n != "base"}
            return f"describe(d{i}_{name}, {self._pointer(value.base, used)})"
        key = f"c{i}_{name}"
        space[key] = value
        return key

    def _pointer(self, tensor, used):
        storage = _storage(tensor)
        if storage in self.inputs:
            name = self.inputs[storage]
            base = self.record.arguments[self.names.index(name)]
            return _plus(f"p_{name}", tensor.data_ptr() - base.data_ptr())
        number = self.places[storage]
        used.add(number)
        return _plus(f"q{number}", tensor.data_ptr() - self.record.watch.made[number][0].data_ptr())

    def _output(self, tensor):
        """The number of the allocation that it is, or the name of the argument."""
        for name, argument in zip(self.names, self.record.arguments):
            if tensor is argument:
                return name
        made = self.record.watch.made[self.places[_storage(tensor)]][0]
        if (tensor.shape, tensor.stride(), tensor.data_ptr()) != (made.shape, made.stride(), made.data_ptr()):
            raise ValueError("an output that is a part of what was allocated")
        return self.places[_storage(tensor)]

    def _returned(self, given):
        values = [f"t{o}" if isinstance(o, int) else o for o in self.outputs] or ["None"]
        return f"({', '.join(values)},)" if isinstance(self.record.result, list | tuple) else values[0]

    def _careful(self, function):
        """A Triton whose launcher asks more of a descriptor than ours has gets real ones, each time."""
        otherwise = self.space["otherwise"]

        def replay(*arguments):
            try:
                return function(*arguments)
            except (AttributeError, TypeError):
                return otherwise(*arguments)

        return replay

    def _in_context(self, function):
        context = contextvars.copy_context()
        context.run(triton.set_allocator, _allocate)

        def replay(*arguments):
            return context.copy().run(function, *arguments)

        return replay


class _At:
    """All that a launcher asks of a descriptor's tensor."""

    __slots__ = ("at",)

    def __init__(self, at):
        self.at = at

    def data_ptr(self):
        return self.at


def _describe(facts, at):
    """A descriptor of other memory, without the checks that the recorded one has passed."""
    made = object.__new__(TensorDescriptor)
    made.__dict__.update(facts, base=_At(at))
    return made


def _span(tensor):
    """Bytes from the first element to the end of the last."""
    return tensor.element_size() * (1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride())))


def _plus(name, offset):
    return f"{name} + {offset}" if offset else name
