"""What a problem that `evolve init` wrote needs to use the user's own files, unedited.

`load` imports a function of theirs, `inputs` calls their make_inputs or get_inputs wherever tensors are wanted (on a
GPU, on the CPU, on meta), `Original` calls their kernel as it is called today. Nothing here is about one problem, and
nothing is inferred here: what was inferred stands in the problem's file.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from evolve.errors import ProblemError
from evolve.problem import TensorSpec
from evolve.types import Workload, digest_of

FLOATS = "floats"  # the workload's parameter that says in which half precision the user's bfloat16 is to come


class Sizes(dict[str, Any]):
    """A workload as the user's make_inputs gets it: `w["M"]`, `w.M`, `**w` and `w.name` all work."""

    def __init__(self, workload: Workload) -> None:
        super().__init__({k: v for k, v in workload.params.items() if k != FLOATS})
        self.name = workload.name
        self.params = dict(self)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"workload {self.name} has no {name}; it has {', '.join(self)}") from None


# --- Their files ------------------------------------------------------------------------------------------------------


def module(path: Path) -> ModuleType:
    """By its path, once a process; what lies beside it can be imported by it, as when it is run itself."""
    file = path.resolve()
    name = f"evolve_own_{file.stem}_{digest_of(str(file))}"
    if name in sys.modules:
        return sys.modules[name]
    if not file.is_file():
        raise ProblemError(f"{path}: no such file; it was there when evolve init read it. Put it back, or adopt anew.")
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    try:
        spec.loader.exec_module(made)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return made


def load(here: str | Path, target: str) -> tuple[ModuleType, Any]:
    """ "../my.py:fn", relative to the file `here`: its module and the function."""
    path, _, name = target.rpartition(":")
    found = module(Path(here).parent / path)
    try:
        return found, getattr(found, name)
    except AttributeError:
        raise ProblemError(f"{path}: it has no {name} any more; name another in {here}, or adopt anew.") from None


# --- Inputs -----------------------------------------------------------------------------------------------------------


class Elsewhere(TorchFunctionMode):
    """Tensors are made where they are asked for, whatever device the user's file names."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = torch.device(device)

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.Tensor.to and len(args) > 1 and isinstance(args[1], str | torch.device):
            args = (args[0], self.device, *args[2:])
        if given.get("device") is not None:
            given["device"] = self.device
        if self.device.type == "meta":
            given.pop("generator", None)  # nothing is drawn
        return func(*args, **given)


class _Torch(ModuleType):
    """What their file calls torch, but that a generator for meta is to be had: nothing is drawn from it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def Generator(device: Any = "cpu") -> torch.Generator:
        return torch.Generator("cpu" if torch.device(device).type == "meta" else device)


def _asked_for_meta(file: ModuleType) -> None:
    """For good, and in their file alone: several threads may ask it for inputs at once."""
    if getattr(file, "torch", None) is torch:
        file.torch = _Torch("torch")  # type: ignore[attr-defined]


def inputs(
    file: ModuleType,
    names: Sequence[str],
    workload: Workload,
    device: str,
    random_seed: int,
    *,
    varied: Sequence[str] = (),
) -> dict[str, Any]:
    """What their make_inputs gives for this workload, by name. `names` are the parameters that a sequence of values is
    for. Tensors in `varied` are the same for every seed as their file makes them, and are drawn at random instead."""
    made = named(_made(file, workload, device, random_seed), names)
    floats = workload.params.get(FLOATS)
    if floats and floats != "bfloat16":
        made = {name: _recast(value, getattr(torch, str(floats))) for name, value in made.items()}
    for number, name in enumerate(varied):
        made[name] = vary(made[name], random_seed + number)
    return made


def named(made: Any, names: Sequence[str]) -> dict[str, Any]:
    if isinstance(made, Mapping):
        return dict(made)
    values = list(made) if isinstance(made, tuple | list) else [made]
    if len(values) > len(names):
        raise ProblemError(f"make_inputs gives {len(values)} values for {len(names)} parameters: {', '.join(names)}.")
    return dict(zip(names, values, strict=False))


def _made(file: ModuleType, workload: Workload, device: str, random_seed: int) -> Any:
    if device != "meta":
        return _drawn(file, workload, device, random_seed)
    try:
        return _drawn(file, workload, "meta", random_seed)
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        pass
    # Shapes without memory on a CPU that answers everything. It is imported late: that takes seconds.
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        made = _drawn(file, workload, "cpu", random_seed)
    return _each(made, _shadow)


def _drawn(file: ModuleType, workload: Workload, device: str, random_seed: int) -> Any:
    """Their own random state is theirs; the process's is put back."""
    _asked_for_meta(file)
    sizes = Sizes(workload)
    there = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=there), torch.device(device), Elsewhere(device):
        torch.manual_seed(random_seed)
        if hasattr(file, "make_inputs"):
            return file.make_inputs(sizes, device, random_seed)
        with sized(file, sizes):
            return file.get_inputs()


@contextmanager
def sized(file: ModuleType, sizes: Mapping[str, Any]) -> Iterator[None]:
    """KernelBench's way: sizes are the file's own constants, which get_inputs reads."""
    before = {name: getattr(file, name) for name in sizes if hasattr(file, name)}
    for name in before:
        setattr(file, name, sizes[name])
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(file, name, value)


def _each(made: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(made, Mapping):
        return {name: change(value) for name, value in made.items()}
    return tuple(change(v) for v in made) if isinstance(made, tuple | list) else change(made)


def _shadow(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    whole = value.untyped_storage().nbytes() // value.element_size()
    base = torch.empty(whole, dtype=value.dtype, device="meta")
    return base.as_strided(value.size(), value.stride(), value.storage_offset())


def _recast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16 else value


def vary(tensor: torch.Tensor, random_seed: int) -> torch.Tensor:
    """Something else for each seed, of about the size that it had: a weight of ones must not be left out unseen."""
    if tensor.device.type == "meta":
        return tensor
    rng = torch.Generator(tensor.device).manual_seed(random_seed + 7919)
    drawn = torch.randn(tensor.shape, generator=rng, device=tensor.device)
    size = tensor.float().square().mean().sqrt()
    made = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    return made.copy_(drawn * torch.where(size > 0, size, torch.ones_like(size)))


# --- Calls ------------------------------------------------------------------------------------------------------------


class Original:
    """Their function, called as today, its autotuner at work. What that chose is kept on disk by Triton, because every
    candidate has a process of its own and would pay for it anew."""

    def __init__(self, here: str, target: str, *, in_place: Sequence[str] = ()) -> None:
        self._here, self._target, self._in_place = here, target, tuple(in_place)
        self._function: Callable[..., Any] | None = None
        self._tunes = False
        self._seen: set[tuple[Any, ...]] = set()

    def __call__(self, **arguments: Any) -> Any:
        tensors = [v for v in arguments.values() if isinstance(v, torch.Tensor)]
        if any(t.device.type != "cuda" for t in tensors):
            raise RuntimeError("the original is a Triton kernel and runs on a GPU")
        function = self._loaded()
        key = tuple((tuple(t.shape), t.dtype) for t in tensors)
        if self._tunes and self._in_place and key not in self._seen:
            # The autotuner runs a kernel many times over; one that works in place would find its own results.
            function(**{n: v.clone() if n in self._in_place else v for n, v in arguments.items()})
        self._seen.add(key)
        return function(**arguments)

    def _loaded(self) -> Callable[..., Any]:
        if self._function is None:
            file, self._function = load(self._here, self._target)
            for kernel in vars(file).values():
                if hasattr(kernel, "configs") and hasattr(kernel, "cache_results"):
                    kernel.cache_results = True
                    self._tunes = True
        return self._function


def single(value: Any) -> Any:
    """For a reference that does not take float64."""
    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.to(torch.float32) if floating else value


def written(specs: Sequence[TensorSpec], names: Sequence[str]) -> float:
    """Bytes of these outputs."""
    wanted = [s for s in specs if s.name in names]
    return float(sum(math.prod(s.shape) * getattr(torch, s.dtype).itemsize for s in wanted))


def briefing(reference: Callable[..., Any], about: str) -> str:
    """For those who write kernels: what the reference says, in its own words."""
    return f"{about} The reference, which says what is right:\n\n{textwrap.dedent(inspect.getsource(reference))}"


def tensors_of(result: Any) -> list[Any]:
    if result is None:
        return []
    return list(result) if isinstance(result, tuple | list) else [result]


def dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def nbytes(*tensors: Any) -> float:
    return float(sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor)))


def parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())


def not_compiled(workload: Workload) -> str | None:
    """Where torch.compile is no baseline."""
    if not torch.cuda.is_available():
        return "torch.compile is compared on a GPU"
    return "torch.compile is compared on timed workloads" if workload.role == "check" else None


# --- Comparing --------------------------------------------------------------------------------------------------------


def selection(
    position: int, *, softmax: bool = False, tolerance: float = 1e-6
) -> Callable[[Any, Any, Sequence[Any]], float]:
    """For Custom: the output holds indices of a selection along the last dimension of argument `position`. Another
    index is right where what it selects is as large, within float32's accuracy; none is selected twice. With `softmax`
    it is the probabilities that are compared: what underflows there ties, however far apart the logits are."""

    def error(out: torch.Tensor, ref: torch.Tensor, arguments: Sequence[Any]) -> float:
        source = arguments[position].to(torch.float64)
        source = torch.softmax(source, -1) if softmax else source
        mine, right = out.to(torch.int64), ref.to(torch.int64)
        if bool(((mine < 0) | (mine >= source.shape[-1])).any()):
            return float("inf")
        ordered = mine.sort(-1).values
        if bool((ordered[..., 1:] == ordered[..., :-1]).any()):
            return float("inf")
        apart = (source.gather(-1, mine) - source.gather(-1, right)).abs()
        allowed = tolerance * source.abs().amax(-1, keepdim=True).clamp_min(1e-3)
        return float((apart / allowed).max())

    return error
