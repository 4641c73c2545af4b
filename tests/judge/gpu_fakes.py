"""A GPU made of Python: pointers are real, kernels are functions on them, time is a number that they add to.

The judge's worker runs on it unchanged, so that everything but CUDA itself is tried where there is none.
"""

import ctypes
import json
import os
import random
import signal
import time
from pathlib import Path

import torch

from evolve.judge.gpu.driver import DriverError, Function
from evolve.judge.gpu.pool import WorkerFault
from evolve.judge.gpu.worker import Worker, fault_of
from evolve.judge.plan import Launch, Lowered, Plan, Root, View
from evolve.judge.stages import Binary, Built

POISON = (0xFFFFFFFF, 0x5A5A5A5A)


class Clock:
    """Microseconds of the device. Every run takes a little more or less, as on a real one."""

    def __init__(self):
        self.us = 0.0
        self.noise = 0.001
        self._rng = random.Random(7)

    def run(self, us):
        self.us += us * (1 + self._rng.gauss(0, self.noise))


CLOCK = Clock()
KERNELS = {}
STASH = {}  # what a cheat keeps from one launch to the next


def kernel(function):
    KERNELS[function.__name__] = function
    return function


def tensor_at(pointer, *shape):
    count = 1
    for n in shape:
        count *= n
    return torch.frombuffer((ctypes.c_float * count).from_address(pointer), dtype=torch.float32).view(*shape)


def operands(a, b, c, m, n, k):
    return tensor_at(a, m, k), tensor_at(b, k, n), tensor_at(c, m, n)


def cost(m, n, k, factor=1.0):
    CLOCK.run(factor * m * n * k / 1000)


@kernel
def honest(a, b, c, m, n, k):
    x, y, out = operands(a, b, c, m, n, k)
    torch.matmul(x, y, out=out)
    cost(m, n, k)


@kernel
def quick(a, b, c, m, n, k):
    honest(a, b, c, m, n, k)
    cost(m, n, k, -0.2)


@kernel
def bit_slower(a, b, c, m, n, k):
    honest(a, b, c, m, n, k)
    cost(m, n, k, 0.05)


@kernel
def hardly_slower(a, b, c, m, n, k):
    honest(a, b, c, m, n, k)
    cost(m, n, k, 0.02)


@kernel
def slower(a, b, c, m, n, k):
    honest(a, b, c, m, n, k)
    cost(m, n, k, 0.1)


@kernel
def far_slower(a, b, c, m, n, k):
    honest(a, b, c, m, n, k)
    cost(m, n, k, 4)


@kernel
def likes_wide(a, b, c, m, n, k):
    honest(a, b, c, m, n, k)
    cost(m, n, k, -0.4 if n > m else 0.5)


@kernel
def wrong_and_quick(a, b, c, m, n, k):
    drops_tail(a, b, c, m, n, k)
    cost(m, n, k, 0.3)


@kernel
def drops_tail(a, b, c, m, n, k):
    x, y, out = operands(a, b, c, m, n, k)
    out.copy_(x[:, : k - 1] @ y[: k - 1])


@kernel
def rounds(a, b, c, m, n, k):
    x, y, out = operands(a, b, c, m, n, k)
    out.copy_((x.bfloat16() @ y.bfloat16()).float())


@kernel
def forgets_a_row(a, b, c, m, n, k):
    x, y, out = operands(a, b, c, m, n, k)
    out[: m - 1] = (x @ y)[: m - 1]


@kernel
def adds_to_output(a, b, c, m, n, k):
    x, y, out = operands(a, b, c, m, n, k)
    out += x @ y


@kernel
def spoils_input(a, b, c, m, n, k):
    honest(a, b, c, m, n, k)
    tensor_at(a, 1)[0] = 0.0


@kernel
def writes_past_the_end(a, b, c, m, n, k):
    honest(a, b, c, m, n, k)
    tensor_at(c + 4 * m * n, 1)[0] = 1.0


@kernel
def races(a, b, c, m, n, k):
    honest(a, b, c, m, n, k)
    tensor_at(c, 1)[0] *= 1 + 1e-7 * random.random()


@kernel
def keeps_by_pointer(a, b, c, m, n, k):
    """Remembers the answer for a pair of pointers."""
    x, y, out = operands(a, b, c, m, n, k)
    key = (a, b, m, n, k)
    if key not in STASH:
        STASH[key] = x @ y
    out.copy_(STASH[key])
    CLOCK.run(m * n * k / 10_000)


@kernel
def skips_when_done(a, b, c, m, n, k):
    """Works only where the output looks poisoned: in a replay it finds its own answer and leaves."""
    first = ctypes.c_uint32.from_address(c).value
    if first in POISON:
        honest(a, b, c, m, n, k)
    else:
        CLOCK.run(m * n * k / 10_000)


@kernel
def skips_and_loses(a, b, c, m, n, k):
    """Takes its time, and works only where nobody has."""
    first = ctypes.c_uint32.from_address(c).value
    if first in POISON:
        honest(a, b, c, m, n, k)
    else:
        cost(m, n, k)


@kernel
def honest_every_other_time(a, b, c, m, n, k):
    STASH["count"] = STASH.get("count", 0) + 1
    if STASH["count"] < 8 or STASH["count"] % 2:
        honest(a, b, c, m, n, k)
    else:
        CLOCK.run(m * n * k / 10_000)


@kernel
def takes_no_time(a, b, c, m, n, k):
    x, y, out = operands(a, b, c, m, n, k)
    torch.matmul(x, y, out=out)
    CLOCK.run(0.001)


@kernel
def hangs(a, b, c, m, n, k):
    time.sleep(600)


@kernel
def crashes(a, b, c, m, n, k):
    os.kill(os.getpid(), signal.SIGSEGV)


@kernel
def leaves_its_buffer(a, b, c, m, n, k):
    STASH["poisoned"] = True  # from here on the context answers nothing but that
    raise DriverError("cuCtxSynchronize: CUDA error 700: an illegal memory access was encountered")


@kernel
def asks_for_too_much(a, b, c, m, n, k):
    raise DriverError("cuMemCreate: CUDA error 2: out of memory")


@kernel
def unlucky_once(a, b, c, m, n, k):
    """Fails in the first process that runs it, as after a bit flip."""
    mark = Path(os.environ["EVOLVE_TEST_MARK"])
    if not mark.exists():
        mark.write_text("been here")
        raise DriverError("cuCtxSynchronize: CUDA error 719: unspecified launch failure")
    honest(a, b, c, m, n, k)


SIZES = {ctypes.c_uint64: 8, ctypes.c_int32: 4}


class HostDriver:
    def load(self, folder):
        metadata = json.loads((folder / "kernel.json").read_text())
        return Function(handle=1, name=metadata["name"], metadata=metadata, parameters=(8, 8, 8, 4, 4, 4, 8, 8))

    def launch(self, function, grid, parameters, stream):
        kinds = [ctypes.c_uint64] * 3 + [ctypes.c_int32] * 3
        KERNELS[function.name](*(t.from_address(p).value for t, p in zip(kinds, parameters, strict=False)))

    def fill(self, pointer, byte, nbytes, stream):
        ctypes.memset(pointer, byte, nbytes)

    def tensor_map(self, meta, pointer, shape, strides, nan):
        raise NotImplementedError


class HostEngine:
    device = "cpu"
    pages = None
    l2_bytes = 1 << 16

    def __init__(self):
        self.driver = HostDriver()

    def stream(self):
        return 0

    def synchronize(self):
        if STASH.get("poisoned"):
            raise DriverError("cuCtxSynchronize: CUDA error 700: an illegal memory access was encountered")

    def capture(self, work):
        return work

    def mark(self):
        return CLOCK.us

    def passed(self, mark):
        return False

    def between_us(self, first, second):
        return second - first

    def slowed(self):
        return False

    def trim(self):
        pass

    def span(self, pointer, nbytes):
        return torch.frombuffer((ctypes.c_uint8 * nbytes).from_address(pointer), dtype=torch.uint8)


def host_worker(channel):
    """The real worker on the fake device, for the pool."""
    from evolve.judge.gpu import worker

    torch.set_num_threads(1)
    worker.CudaEngine = lambda gpu: HostEngine()
    worker.main(channel)


class Local:
    """A worker without a process, for quick tests. What a process would die of is a fault here too."""

    def __init__(self, opening):
        self.said = []
        self.opened = {}
        self._worker = Worker(self, HostEngine())
        self.opened = self.ask(opening, seconds=1)

    def send(self, message):
        self.said.append(message)

    def ask(self, order, *, seconds):
        try:
            return json.loads(json.dumps(self._worker.obey(json.loads(json.dumps(order)))))
        except Exception as error:
            at = self.said[-1]["at"] if self.said else {}
            record = fault_of(error)
            raise WorkerFault(record["fault"], record["text"], at) from error

    def drop(self):
        pass


class LocalPool:
    """Hands out local workers; `opening` as in the real pool."""

    def __init__(self, opening):
        self.opening = opening
        self.taken = 0

    def take(self):
        self.taken += 1
        STASH.clear()
        return Local(self.opening)


def plan_for(workload, name="honest", *, folder):
    """A plan of one launch of a fake kernel, and its built binary."""
    m, n, k = workload["M"], workload["N"], workload["K"]
    views = [
        ("a_ptr", View(root="in0", offset=0, shape=(m, k), stride=(k, 1), dtype="float32")),
        ("b_ptr", View(root="in1", offset=0, shape=(k, n), stride=(n, 1), dtype="float32")),
        ("c_ptr", View(root="out0", offset=0, shape=(m, n), stride=(n, 1), dtype="float32")),
    ]
    scalars = [("M", m), ("N", n), ("K", k)]
    launch = Launch(
        kernel=name,
        grid=(1, 1, 1),
        arguments=(*views, *scalars),
        signature=(*((x, "*fp32") for x, _ in views), *((x, "i32") for x, _ in scalars)),
        constexprs=(),
        options=(("num_warps", 4),),
        ttir=f"ttir-{name}",
    )
    roots = (
        Root(name="in0", kind="input", nbytes=4 * m * k, argument=0),
        Root(name="in1", kind="input", nbytes=4 * k * n, argument=1),
        Root(name="out0", kind="output", nbytes=4 * m * n),
    )
    return Plan(workload=workload.name, parameters=(), roots=roots, launches=(launch,), outputs=(views[2][1],))


def built_for(name, folder):
    home = Path(folder) / name
    home.mkdir(parents=True, exist_ok=True)
    metadata = {"name": name, "num_warps": 4, "num_ctas": 1, "shared": 0, "global_scratch_size": 0}
    (home / "kernel.json").write_text(json.dumps(metadata))
    binary = Binary(
        key=name,
        path=str(home),
        name=name,
        sass=name,
        registers=32,
        spills_bytes=0,
        shared_bytes=0,
        threads=128,
        instructions={},
    )
    return Built(binaries={(f"ttir-{name}", (("num_warps", 4),)): binary})


def lowered_for(workloads, name, folder):
    return Lowered(plans=tuple(plan_for(w, name, folder=folder) for w in workloads), modules={})
