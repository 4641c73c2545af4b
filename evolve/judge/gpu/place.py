"""One set of a workload's arguments, laid into guarded buffers as the problem made them: same storage, same strides.

Here a problem's tensors, a plan's roots and pointers meet. Nothing is launched or compared here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from evolve.errors import MachineryError
from evolve.judge.gpu.launch import ITEMSIZE, Allocate
from evolve.judge.gpu.memory import Buffer, Memory
from evolve.judge.plan import Plan, Root, View
from evolve.problem import Problem, TensorSpec
from evolve.types import Workload


class Placed:
    """`arguments` are the problem's, in its order and without those of role `out`, on guarded memory."""

    def __init__(self, memory: Memory, problem: Problem, workload: Workload, made: Sequence[Any]) -> None:
        self.problem, self.workload = problem, workload
        self._memory = memory
        self._buffers: dict[int, Buffer] = {}  # by address of the storage that the problem made
        self.arguments = tuple(self._place(a) if isinstance(a, torch.Tensor) else a for a in made)
        given = [a for a in problem.arguments if a.role != "out"]
        self.roles = {a.name: a.role for a in problem.arguments}
        self._by_name = dict(zip((a.name for a in given), self.arguments, strict=True))
        self._storage = {
            a.name: self._buffers[m.untyped_storage().data_ptr()]
            for a, m in zip(given, made, strict=True)
            if isinstance(m, torch.Tensor)
        }
        self._shared: dict[tuple[str, int], Buffer] = {}

    @property
    def buffers(self) -> list[Buffer]:
        return [*self._buffers.values(), *self._shared.values()]

    def _place(self, made: torch.Tensor) -> torch.Tensor:
        storage = made.untyped_storage()
        address = storage.data_ptr()
        if address not in self._buffers:
            buffer = self._memory.allocate(storage.nbytes())
            _fill(buffer, storage)
            self._buffers[address] = buffer
        return typed(self._buffers[address], made.dtype, made.shape, made.stride(), int(made.storage_offset()))

    def refill(self, made: Sequence[Any]) -> bool:
        """Other contents in the same buffers; False where the problem made other sizes this time."""
        storages = _storages(made)
        buffers = list(self._buffers.values())
        if [max(1, s.nbytes()) for s in storages] != [b.nbytes for b in buffers]:
            return False
        for storage, buffer in zip(storages, buffers, strict=True):
            _fill(buffer, storage)
        return True

    def untouched(self, made: Sequence[Any], *roles: str) -> list[str]:
        """Names of arguments of these roles that do not hold any more what the problem made: those written to."""
        given = [a for a in self.problem.arguments if a.role != "out"]
        wrong = []
        for argument, tensor in zip(given, made, strict=True):
            if argument.role in roles and isinstance(tensor, torch.Tensor):
                raw = _raw(tensor.untyped_storage())
                if not torch.equal(self._storage[argument.name].body[: raw.numel()], raw):
                    wrong.append(argument.name)
        return wrong

    def tensors(self, *roles: str) -> dict[str, torch.Tensor]:
        """Tensor arguments of these roles, by name."""
        found = self._by_name.items()
        return {n: t for n, t in found if self.roles[n] in roles and isinstance(t, torch.Tensor)}

    def storages(self, *roles: str) -> dict[str, Buffer]:
        return {n: b for n, b in self._storage.items() if self.roles[n] in roles}

    def roots(self, plan: Plan, scratch: Mapping[str, int] | None = None) -> dict[str, int]:
        """Pointers for a plan's roots. Outputs are made once a set and shared by all plans that want the same size, so
        that two kernels are measured on the same addresses; scratch is the caller's, or made here."""
        return {root.name: (scratch or {}).get(root.name) or self._root(plan, root).pointer for root in plan.roots}

    def _root(self, plan: Plan, root: Root) -> Buffer:
        if (root.argument is not None and root.kind == "input") or self._is_in_out(root):
            buffer = self._storage[self._name(root)]
            if buffer.nbytes != max(1, root.nbytes):
                raise MachineryError(
                    f"{self.problem.name}: {self._name(root)} of {plan.workload} takes {buffer.nbytes} bytes on the "
                    f"device and {root.nbytes} in the plan; make_inputs must give the same storage on every device."
                )
            return buffer
        return self.output(root.name, root.nbytes)

    def _is_in_out(self, root: Root) -> bool:
        return root.argument is not None and self._name(root) in self._storage

    def _name(self, root: Root) -> str:
        assert root.argument is not None
        return self.problem.arguments[root.argument].name

    def output(self, name: str, nbytes: int) -> Buffer:
        key = (name, nbytes)
        if key not in self._shared:
            self._shared[key] = self._memory.allocate(nbytes)
        return self._shared[key]

    def read(self, plan: Plan) -> tuple[torch.Tensor, ...]:
        """The plan's outputs, as views: valid until the next launch."""
        sizes = {root.name: root for root in plan.roots}
        return tuple(self._view(plan, sizes[v.root], v) for v in plan.outputs)

    def _view(self, plan: Plan, root: Root, view: View) -> torch.Tensor:
        return typed(self._root(plan, root), getattr(torch, view.dtype), view.shape, view.stride, view.offset)

    def written(self, plan: Plan) -> list[Buffer]:
        """Buffers that a plan has to fill: returned outputs, given ones, scratch. Not in_out, which is read first."""
        roots = [r for r in plan.roots if r.kind != "input" and not self._is_in_out(r)]
        return [self._root(plan, r) for r in roots]


def _storages(made: Sequence[Any]) -> list[torch.UntypedStorage]:
    """Each storage once, in order of appearance: arguments may be views of one."""
    found = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in made if isinstance(t, torch.Tensor)}
    return list(found.values())


def _raw(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _fill(buffer: Buffer, storage: torch.UntypedStorage) -> None:
    raw = _raw(storage)
    buffer.body[: raw.numel()].copy_(raw)


def typed(buffer: Buffer, dtype: torch.dtype, shape: Sequence[int], stride: Sequence[int], offset: int) -> torch.Tensor:
    whole = buffer.body[: buffer.nbytes // dtype.itemsize * dtype.itemsize].view(dtype)
    return whole.as_strided(tuple(shape), tuple(stride), offset + whole.storage_offset())


def scratch_for(plan: Plan, memory: Memory) -> dict[str, Buffer]:
    """Scratch of its own for one plan: no two kernels see each other's."""
    return {r.name: memory.allocate(r.nbytes) for r in plan.roots if r.kind == "scratch"}


def allocator(memory: Memory) -> Allocate:
    """For what kernels want besides the plan: room for descriptors they make themselves."""
    return lambda nbytes: memory.allocate(nbytes).pointer


def as_outputs(result: Any, specs: Sequence[TensorSpec], arguments: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a reference or baseline gave, in the problem's order. One that works in place returns nothing."""
    if result is None:
        return tuple(arguments[s.argument or s.name] for s in specs)
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def nbytes_of(specs: Sequence[TensorSpec]) -> int:
    total = 0
    for spec in specs:
        count = 1
        for size in spec.shape:
            count *= size
        total += count * ITEMSIZE[spec.dtype]
    return total
