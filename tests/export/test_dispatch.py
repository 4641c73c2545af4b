"""The package's way from a call to a kernel, on a GPU made of Python: looked up, recorded, replayed, refused."""

import importlib
import json
import logging
import random
import shutil

import pytest
import torch

from . import fake_cuda
from .conftest import fresh

NAMES = iter(f"fast_fake_{i}" for i in range(100))


def row(m, n, k, *, runs="kernel", eager="kernel", device=fake_cuda.NAME, layout=("01", "01"), **tried):
    from importlib.metadata import version

    parameters = {"BLOCK_M": 32, **tried}
    return {
        "device": device,
        "triton": ".".join(version("triton").split(".")[:2]),
        "dtypes": ["float16", "float16"],
        "layout": list(layout),
        "flags": {},
        "sizes": {"M": m, "N": n, "K": k},
        "workload": f"{m}x{n}x{k}",
        "kernels": "kernels",
        "parameters": parameters if runs == "kernel" else "baseline",
        "tried": parameters,
        "eager": eager,
        "verified": True,
        "why": "as told",
    }


@pytest.fixture
def gpu(package, tmp_path, monkeypatch):
    """Imports a copy of the package under a name of its own, with rows and a kernel of ours."""

    def make(*rows, **environment):
        name = next(NAMES)
        folder = tmp_path / name
        shutil.copytree(package.folder, folder, ignore=shutil.ignore_patterns("__pycache__"))
        table = json.loads((folder / "dispatch.json").read_text())
        (folder / "dispatch.json").write_text(json.dumps({**table, "rows": list(rows)}))
        (folder / "kernels.py").write_text(fake_cuda.KERNELS)
        monkeypatch.syspath_prepend(str(tmp_path))
        for key, value in environment.items():
            monkeypatch.setenv(f"{name.upper()}_{key}", value)
        module = importlib.import_module(name)
        state = fake_cuda.install(monkeypatch, module)
        state.module, state.call = module, module.matmul
        return state

    return make


def tensors(m=64, n=32, k=48, dtype=torch.float16):
    generator = torch.Generator().manual_seed(m * n * k)
    return torch.randn((m, k), generator=generator).to(dtype), torch.randn((k, n), generator=generator).to(dtype)


def right(out, a, b):
    assert out.dtype == a.dtype
    torch.testing.assert_close(out.float(), a.float() @ b.float(), rtol=1e-2, atol=1e-2)


def ways():
    return [way for _, _, way in fake_cuda.LAUNCHES]


def test_the_first_call_is_recorded_and_others_are_replayed(gpu):
    state = gpu(row(64, 32, 48, BLOCK_N=16))
    for _ in range(3):
        a, b = tensors()
        right(state.call(a, b), a, b)
    assert fake_cuda.LAUNCHES[0] == ("matmul_kernel", (2, 2), "looked up")
    assert fake_cuda.LAUNCHES[1:] == [("matmul_kernel", (2, 2, 1), "replayed")] * 2


def test_a_replay_reads_and_writes_the_tensors_of_its_own_call(gpu):
    state = gpu(row(64, 64, 64))
    a, b = tensors(64, 64, 64)
    first = state.call(a, b)
    kept = first.clone()
    second = state.call(b, a)
    right(second, b, a)
    assert torch.equal(first, kept)
    assert second.data_ptr() != first.data_ptr()


DESCRIPTOR = "from triton.tools.tensor_descriptor import TensorDescriptor"
DESCRIBED = (
    fake_cuda.KERNELS.replace("import torch\n", f"import torch\n{DESCRIPTOR}\n", 1)
    .replace("        a, b, c, M, N, K,", "        of(a), of(b.T if b.stride(0) == 1 else b), of(c), M, N, K,")
    .replace("def matmul(", "def of(x):\n    return TensorDescriptor.from_tensor(x, [8, 8])\n\n\ndef matmul(")
)


def test_descriptors_made_by_the_host_are_made_anew_for_each_replay(gpu, monkeypatch):
    """Of other memory, with the shape and strides that the call's kind has."""
    state = gpu(row(64, 32, 48), row(64, 64, 64))
    host = state.dispatch._hosts
    module = importlib.import_module(f"{state.module.__name__}.kernels")
    exec(compile(DESCRIBED, module.__file__, "exec"), vars(module))
    assert not host
    for _ in range(3):
        a, b = tensors()
        out = state.call(a, b)
        right(out, a, b)
        assert state.call(a, b).data_ptr() != out.data_ptr()
    assert ways() == ["looked up", *["replayed"] * 5]
    into = torch.empty(64, 32, dtype=torch.float16)
    for _ in range(2):
        right(state.call(a, b, out=into), a, b)
    own = fake_cuda.pointer

    def asks_more(value):
        return own(value if not hasattr(value, "block_shape") else value.base.device and value)

    monkeypatch.setattr(fake_cuda, "pointer", asks_more)  # a launcher that ours would not do for
    right(state.call(a, b), a, b)
    assert ways()[-1] == "looked up"


def test_inputs_that_share_memory_are_not_recorded_for_others(gpu):
    """`f(x, x)` must not leave behind a replay that reads x twice."""
    state = gpu(row(64, 64, 64))
    x, y = tensors(64, 64, 64)
    right(state.call(x, x), x, x)
    right(state.call(x, y), x, y)
    right(state.call(x, y), x, y)
    right(state.call(x, x), x, x)
    assert ways() == ["looked up", "looked up", "replayed", "looked up"]


@pytest.mark.parametrize(
    "change",
    [
        lambda a, b: (a.T.contiguous().T, b),  # another layout
        lambda a, b: (torch.cat([a, a], 1)[:, ::2], b),  # not dense
        lambda a, b: (torch.cat([a.flatten()[:1], a.flatten()])[1:].view(a.shape), b),  # off by two bytes
        lambda a, b: (a.float(), b.float()),
        lambda a, b: (a[:0], b),
        lambda a, b: (a[None], b),
        lambda a, b: (torch.complex(a.float(), a.float()).conj().imag, b.float()),  # a lazy sign
    ],
    ids=["layout", "strided", "misaligned", "dtype", "empty", "rank", "negative"],
)
def test_what_was_not_verified_takes_the_library(change, gpu):
    state = gpu(row(64, 32, 48))
    a, b = tensors()
    state.call(a, b)
    fake_cuda.LAUNCHES.clear()
    for _ in range(2):
        x, y = change(a, b)
        assert torch.equal(state.call(x, y), torch.matmul(x, y))
    assert ways() == []
    right(state.call(a, b), a, b)  # and has not spoilt the key of ordinary calls
    assert ways() == ["replayed"]


def test_the_nearest_row_decides_and_far_ones_do_not(gpu):
    state = gpu(row(64, 32, 48), row(1024, 1024, 64, runs="baseline"))
    assert state.dispatch.choose(tensors(70, 32, 48)).kernel
    assert not state.dispatch.choose(tensors(900, 1000, 64)).kernel
    assert "too far" in state.dispatch.choose(tensors(2, 2, 48)).why


def test_rows_of_other_devices_and_tritons_are_not_for_here(gpu, monkeypatch):
    """One package for two devices: each runs at its own parameters, and a third runs the library."""
    other = "NVIDIA H100 80GB HBM3"
    elsewhere = row(64, 32, 48, BLOCK_M=8)
    elsewhere["triton"] = "9.9"
    state = gpu(row(64, 32, 48), row(64, 32, 48, device=other, BLOCK_M=16), elsewhere, row(64, 32, 64, runs="baseline"))
    a, b = tensors()
    for name, grid in ((fake_cuda.NAME, (2, 1)), (other, (4, 1))):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_, name=name: name)
        state.dispatch.KNOWN.clear()
        right(state.call(a, b), a, b)
        assert fake_cuda.LAUNCHES[-1][1] == grid
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA B200")
    assert not state.dispatch.choose((a, b)).kernel


def test_nothing_is_asked_where_nothing_can_run(gpu, monkeypatch, caplog):
    """On an unlisted device the table is out of the way after the first call, and it is told all the same."""
    state = gpu(row(64, 32, 48, device="NVIDIA H100 80GB HBM3"))
    monkeypatch.undo()
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    a, b = tensors()
    state.call(a, b)
    assert not state.dispatch.RESTING  # CUDA was not touched yet: nobody knows what is there
    for names in ([fake_cuda.NAME, "NVIDIA H100 80GB HBM3"], [fake_cuda.NAME] * 2):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda i=0, names=names: names[i])
        state.dispatch.KNOWN.clear()
        assert torch.equal(state.call(a, b), a @ b)
        assert bool(state.dispatch.RESTING) is (names[1] == fake_cuda.NAME)
    monkeypatch.setattr(state.dispatch, "choose", None)  # not asked again
    x, y = tensors(7, 5, 3)
    assert torch.equal(state.call(x, y), x @ y)
    x.requires_grad_()
    state.call(x, y).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("kind", ["compiler", "memory"])
def test_a_kernel_that_cannot_be_built_is_told_once_and_the_library_runs(kind, gpu, monkeypatch, caplog):
    """A container without a C compiler is where that happens."""
    from triton.runtime.errors import OutOfResources

    state = gpu(row(64, 32, 48), row(64, 64, 64, eager="baseline"))

    def fails(self, grid):
        if kind == "memory":
            raise OutOfResources(300_000, 232_448, "shared memory (no C compiler)")
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")

    monkeypatch.setattr(fake_cuda.FakeKernel, "__getitem__", fails)
    with caplog.at_level(logging.WARNING):
        for m, n, k in ((64, 32, 48), (64, 32, 48), (65, 32, 48), (64, 64, 64), (64, 64, 64)):
            a, b = tensors(m, n, k)
            assert torch.equal(state.call(a, b), a @ b)
    assert len(caplog.records) == 1
    assert "C compiler" in caplog.text
    state = gpu(row(64, 32, 48), FORCE="kernel")
    with pytest.raises((RuntimeError, OutOfResources), match="C compiler"):
        state.call(*tensors())


def test_memory_that_runs_out_is_no_fault_of_the_kernel(gpu, monkeypatch):
    state = gpu(row(64, 32, 48))

    def full(self, grid):
        raise torch.OutOfMemoryError("full")

    with monkeypatch.context() as full_now:
        full_now.setattr(fake_cuda.FakeKernel, "__getitem__", full)
        with pytest.raises(torch.OutOfMemoryError):
            state.call(*tensors())
    a, b = tensors()
    right(state.call(a, b), a, b)
    assert ways() == ["looked up"]


def test_tensors_of_another_device_than_the_current_one(gpu, monkeypatch):
    """As with torch's operations one need not say `torch.cuda.device`: layers of one model lie on several GPUs."""
    state = gpu(row(64, 32, 48))
    now = ["another"]

    class On:
        def __init__(self, device):
            self.wanted = device.index if isinstance(device, torch.device) else device

        def __enter__(self):
            self.before, now[0] = now[0], self.wanted

        def __exit__(self, *_):
            now[0] = self.before

    monkeypatch.setattr(torch.cuda, "device", On)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: now[0])
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: now[0])
    own = fake_cuda.FakeKernel._work

    def works(self, values):
        assert now[0] is None  # the kernel's own device
        return own(self, values)

    monkeypatch.setattr(fake_cuda.FakeKernel, "_work", works)
    for _ in range(3):
        a, b = tensors()
        right(state.call(a, b), a, b)
        assert now == ["another"]
    now[0] = None
    right(state.call(a, b), a, b)
    assert ways() == ["looked up", "replayed", "replayed", "replayed"]


def test_a_misaligned_call_does_not_decide_for_aligned_ones(gpu):
    state = gpu(row(64, 32, 48))
    a, b = tensors()
    astray = torch.cat([a.flatten()[:1], a.flatten()])[1:].view(a.shape)
    for _ in range(2):
        assert torch.equal(state.call(astray, b), a @ b)
    assert ways() == []
    assert state.dispatch.way((astray, b)) == "misaligned"  # known, and not asked the table each time
    for _ in range(3):
        right(state.call(a, b), a, b)
    assert ways() == ["looked up", "replayed", "replayed"]
    assert torch.equal(state.call(astray, b), a @ b)
    assert ways() == ["looked up", "replayed", "replayed"]


def test_scalars_of_other_types_than_were_verified_take_the_library(gpu, monkeypatch):
    """Triton builds another kernel for a 1 than for a 1.0; a tensor could be changed in place and still be found."""
    state = gpu(row(64, 32, 48))
    table, Unfit = state.dispatch.TABLE, state.table.Unfit
    more = [("eps", "number"), ("n", "size"), ("causal", "flag")]
    monkeypatch.setattr(table, "arguments", [*table.arguments, *more])
    good = (1e-5, 3, True)
    assert table.describe((*tensors(), *good)).flags == (("causal", True),)
    for place, bad in ((0, 1), (0, torch.tensor(1e-5)), (0, True), (1, 3.0), (1, True), (2, 1), (2, None)):
        given = list(good)
        given[place] = bad
        with pytest.raises(Unfit, match=f"{more[place][0]} is of type"):
            table.describe((*tensors(), *given))
    assert state.dispatch.index_of((*tensors(), torch.tensor(1e-5), 3, True)) is None


def test_a_launch_bound_row_takes_the_library_but_for_graphs(gpu):
    """The kernel is launched once, so that a graph that is being captured need not build and load it."""
    state = gpu(row(64, 32, 48, eager="baseline"))
    a, b = tensors()
    for _ in range(2):
        assert torch.equal(state.call(a, b), a @ b)
    assert state.dispatch.way((a, b)) == "launchbound"
    state.capturing = True
    for _ in range(2):
        right(state.call(a, b), a, b)
    assert ways() == ["looked up", "replayed", "replayed"]
    state.dispatch.KNOWN.clear()  # a capture without a warm-up
    for _ in range(2):
        right(state.call(a, b), a, b)
    assert ways()[3:] == ["looked up", "replayed"]


def test_an_unlisted_device_is_told_once_with_the_command(gpu, caplog):
    state = gpu(row(64, 32, 48, device="NVIDIA H100 80GB HBM3"))
    with caplog.at_level(logging.WARNING):
        for size in (64, 65, 66):
            x, y = tensors(size)
            assert torch.equal(state.call(x, y), x @ y)
    assert len(caplog.records) == 1
    assert "evolve refresh " in caplog.text
    assert fake_cuda.NAME in caplog.text


def test_force(gpu, caplog):
    a, b = tensors()
    state = gpu(row(64, 32, 48), FORCE="baseline")
    assert torch.equal(state.call(a, b), a @ b)
    assert ways() == []
    state = gpu(row(64, 32, 48, runs="baseline", device="another"), FORCE="kernel")
    right(state.call(a, b), a, b)
    assert ways() == ["looked up"]
    with pytest.raises(ValueError, match="expected baseline or kernel"):
        gpu(FORCE="both")


def test_out_is_written_in_place_where_it_can_be(gpu):
    state = gpu(row(64, 32, 48), row(64, 64, 64))
    a, b = tensors()
    for _ in range(3):
        out = torch.empty(64, 32, dtype=torch.float16)
        assert state.call(a, b, out=out) is out
        right(out, a, b)
    assert ways() == ["looked up", "replayed", "replayed"]
    x, y = tensors(64, 64, 64)
    expected = x.float() @ y.float()
    state.call(x, y, out=x)  # an input's own memory
    torch.testing.assert_close(x.float(), expected, rtol=1e-2, atol=1e-2)
    turned = torch.empty(32, 64, dtype=torch.float16).T
    right(state.call(a, b, out=turned), a, b)
    empty = torch.empty(0, dtype=torch.float16)
    right(state.call(a, b, out=empty), a, b)
    for wrong in (torch.empty(64, 32), torch.empty(64, 32, dtype=torch.int64), 3):
        with pytest.raises((RuntimeError, TypeError)) as theirs:
            torch.matmul(a, b, out=wrong)
        with pytest.raises(type(theirs.value)) as ours:
            state.call(a, b, out=wrong)
        assert str(ours.value) == str(theirs.value)
    with pytest.raises(RuntimeError, match="to be on cpu, but got meta"):
        state.call(a, b, out=torch.empty(64, 32, dtype=torch.float16, device="meta"))


def test_gradients_come_from_the_problem_s_backward(gpu):
    state = gpu(row(64, 32, 48))
    a, b = (t.requires_grad_() for t in tensors())
    out = state.call(a, b)
    out.sum().backward()
    assert ways() == ["looked up"]
    torch.testing.assert_close(a.grad, torch.ones_like(out) @ b.detach().T)
    with torch.no_grad():
        right(state.call(a, b), a, b)
    with pytest.raises(RuntimeError, match="don't support automatic differentiation"):
        state.call(a, b, out=torch.empty(64, 32, dtype=torch.float16))


def test_the_operator_runs_the_kernel_in_a_compiled_graph(gpu):
    state = gpu(row(64, 32, 48, eager="baseline"))  # nobody waits for the host there
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    compiled = torch.compile(lambda a, b: state.call(a, b) + 1, fullgraph=True, backend=counter)
    for m in (64, 32, 100, 2):
        a, b = tensors(m)
        torch._dynamo.mark_dynamic(a, 0)
        right(compiled(a, b) - 1, a, b)
    assert counter.frame_count == 1
    assert len(ways()) == 3  # 2 rows are too far from 64


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, for forward mode
def test_transforms_of_torch_take_the_library(gpu):
    """Whose rules are there for each of them, of any order; a kernel would drop tangents without a word."""
    import torch.autograd.forward_ad as forward_ad

    state = gpu(row(64, 32, 48))
    a, b = tensors()
    tangent = torch.ones_like(a)
    for _ in range(3):
        right(state.call(a, b), a, b)
    fake_cuda.LAUNCHES.clear()
    right(torch.vmap(state.call, in_dims=(0, None))(a[None], b)[0], a, b)
    assert torch.equal(torch.func.grad(lambda x: state.call(x, b).sum())(a), torch.ones(64, 32).half() @ b.T)
    assert torch.equal(torch.func.jvp(lambda x: state.call(x, b), (a,), (tangent,))[1], tangent @ b)
    for call in (state.call, state.dispatch.OPERATOR):
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(a, tangent)
            if call is state.call:  # the operator has a backward of its own, and says that it has no more
                assert torch.equal(forward_ad.unpack_dual(call(dual, b)).tangent, tangent @ b)
    assert ways() == []


def test_modes_and_subclasses_see_an_operator(gpu):
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    state = gpu(row(64, 32, 48))
    a, b = tensors()
    state.call(a, b)
    with FakeTensorMode() as mode:
        x, y = mode.from_tensor(a), mode.from_tensor(b)
        out = state.call(x, y)
        assert (out.shape, out.dtype, out.is_contiguous()) == ((64, 32), torch.float16, True)
    traced = make_fx(lambda x, y: state.call(x, y))(a, b)
    assert [n.target for n in traced.graph.nodes if n.op == "call_function"] == [state.dispatch.OPERATOR]


def test_a_graph_for_fixed_sizes_may_hold_the_library_s_operations(gpu):
    """A compiler can fuse those; a kernel's call, and one for sizes that change, stay one operator."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    state = gpu(row(64, 32, 48), row(256, 256, 256, runs="baseline"))
    for_good = importlib.import_module(f"{state.module.__name__}._operator")._for_good
    changes = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC, DimDynamic.STATIC])
    for sizes, expected in (((64, 32, 48), False), ((256, 256, 256), True), ((7, 5, 3), True)):
        a, b = tensors(*sizes)
        mode = FakeTensorMode(shape_env=ShapeEnv())
        x, y = mode.from_tensor(a, static_shapes=True), mode.from_tensor(b, static_shapes=True)
        assert for_good((x, y)) is expected
        other = FakeTensorMode(shape_env=ShapeEnv())
        z = other.from_tensor(a, symbolic_context=changes)
        assert type(z.shape[0]) is torch.SymInt
        assert not for_good((z, other.from_tensor(b, static_shapes=True)))
        assert not for_good((a, b))  # at work, and not traced: answers lie as the graph was told


def test_foreign_subclasses_take_the_library(gpu):
    """A sharded or quantised tensor knows torch.matmul, and not our operator."""
    state = gpu(row(64, 32, 48))

    class Foreign(torch.Tensor):
        seen = ()

        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            Foreign.seen += (func,)
            return super().__torch_function__(func, types, args, kwargs)

    a, b = tensors()
    assert torch.equal(state.call(a.as_subclass(Foreign), b), a @ b)
    assert torch.matmul in Foreign.seen
    assert ways() == []


def test_a_kernel_that_cannot_be_replayed_still_runs(gpu, monkeypatch):
    state = gpu(row(64, 32, 48))
    monkeypatch.setattr(fake_cuda.Compiled, "packed_metadata", property(lambda s: {}["gone"]), raising=False)
    monkeypatch.setattr(fake_cuda.Compiled, "__init__", lambda s, kernel: setattr(s, "function", 1))
    for _ in range(2):
        a, b = tensors()
        right(state.call(a, b), a, b)
    assert ways() == ["looked up", "looked up"]


def test_the_table_s_nearest_is_the_tuner_s(gpu):
    """The judge confirms at what `tuner.nearest` gives; the package must choose alike."""
    from evolve.tuner import distance

    theirs = gpu().table.distance
    rng = random.Random(5)
    for _ in range(300):
        one, other = ({n: rng.randrange(1, 1 << rng.randrange(1, 20)) for n in rng.sample("MNKD", 3)} for _ in range(2))
        assert theirs(one, other) == distance(one, other)


def test_bad_input_is_refused_in_torch_s_words(imported):
    a, b = torch.randn(4, 5), torch.randn(6, 7)
    for arguments in ((a, b), (a, 1), (a, b.to("meta")), (a.half(), b), (None, b)):
        with pytest.raises((RuntimeError, TypeError)) as theirs:
            torch.matmul(*arguments)
        with pytest.raises(type(theirs.value)) as ours:
            imported.matmul(*arguments)
        assert str(ours.value) == str(theirs.value)


def test_exported_programs_hold_one_operator(imported):
    class Model(torch.nn.Module):
        def forward(self, a, b):
            return imported.matmul(a, b)

    m = torch.export.Dim("m")
    program = torch.export.export(Model(), (torch.randn(4, 8), torch.randn(8, 3)), dynamic_shapes=({0: m}, None))
    assert str(program.graph_module.code).count("torch.ops.fast_matmul.matmul.default") == 1
    a, b = torch.randn(7, 8), torch.randn(8, 3)
    assert torch.equal(program.module()(a, b), a @ b)


def test_the_operator_is_registered_as_torch_wants_it(imported):
    op = torch.ops.fast_matmul.matmul
    a, b = torch.randn(4, 8), torch.randn(8, 3)
    torch.library.opcheck(op.default, (a.requires_grad_(), b))
    out = torch.empty(4, 3)
    op.out(a.detach(), b, out=out)
    assert torch.equal(out, a.detach() @ b)


def test_autocast_is_the_library_s(imported):
    a, b = torch.randn(4, 8), torch.randn(8, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert imported.matmul(a, b).dtype == torch.bfloat16
        assert torch.equal(imported.matmul(a, b), a @ b)


@pytest.mark.slow
def test_every_seed_runs_through_its_package_under_the_interpreter(tmp_path, monkeypatch):
    """Real kernels by the real host functions: arguments, flags, several outputs, NUM_SMS."""
    from evolve import exporting

    from .conftest import PROBLEMS, make_run

    monkeypatch.chdir(tmp_path)
    for name in PROBLEMS:
        make_run(tmp_path, name, variant="fp16")
        exporting.export(exporting.Order(targets=(name,)))
        shown = fresh(INTERPRETED.format(name=name, here=str(fake_cuda.__file__)), tmp_path, TRITON_INTERPRET="1")
        assert "forced" in shown


INTERPRETED = """
import importlib, types, torch
from evolve.problem import load_problem
from evolve.judge.gpu import answers
from evolve.judge.gpu.place import as_outputs
module = importlib.import_module("fast_{name}")
table, dispatch = (importlib.import_module("fast_{name}." + n) for n in ("_table", "_dispatch"))
table.Table._place = lambda self, name, tensor, device: tensor.device
torch.cuda.get_device_name = lambda *_: "NVIDIA H200"
torch.cuda.current_device = lambda: None
dispatch._choice.FORCE = "kernel"
dispatch.TABLE.spec["closed"] = {{}}
problem = load_problem("fast_{name}/problem.py")
variant = problem.variant("fp16")
for workload in problem.small(variant):
    arguments = problem.make_inputs(workload, "cpu", 5)
    try:
        choice = dispatch.choose(arguments)
    except (RuntimeError, table.Unfit) as why:
        print("not taken:", why)
        continue
    print(choice.why)
    assert choice.kernel
    made = as_outputs(getattr(module, problem.entry)(*arguments), problem.outputs(workload), {{}})
    held = answers.hold(problem, variant, workload, made, answers.reference_of(problem, workload, arguments), arguments,
                        family="given", baseline=lambda: None)
    assert not answers.wrong(held), answers.wrong(held)
"""
