"""A plan as bytes for the driver: held against what Triton's compiler writes into real cubins, without a GPU."""

import ctypes
import json
import random
import re
import struct
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from evolve.errors import MachineryError
from evolve.judge.gpu.driver import Cuda, Function, aligned, encode
from evolve.judge.gpu.launch import Program, pointer_of
from evolve.judge.gpu.memory import Memory
from evolve.judge.plan import Descriptor, Launch, Plan, Root, View

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


@triton.jit
def mixed(a_desc, c_ptr, M, N, scale, flag, big, BM: tl.constexpr, BN: tl.constexpr):
    pid = tl.program_id(0)
    out = tl.make_tensor_descriptor(c_ptr, [M, N], [N, 1], [BM, BN])
    x = a_desc.load([pid * BM, 0]) * scale
    if flag:
        x += big
    out.store([pid * BM, 0], x.to(tl.float16))


SIGNATURE = {
    "a_desc": "tensordesc<fp16[64,64]>",
    "c_ptr": "*fp16",
    "M": "i32",
    "N": "i32",
    "scale": "fp32",
    "flag": "i1",
    "big": "i64",
    "BM": "constexpr",
    "BN": "constexpr",
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(folder))
        attrs = {(1,): [["tt.divisibility", 16]], (3,): [["tt.divisibility", 16]]}
        source = ASTSource(mixed, SIGNATURE, {"BM": 64, "BN": 64}, attrs)
        kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    home = tmp_path_factory.mktemp("kernel")
    (home / "kernel.cubin").write_bytes(kernel.asm["cubin"])
    metadata = next(p for n, p in kernel.metadata_group.items() if n.endswith(".json"))
    (home / "kernel.json").write_text(Path(metadata).read_text())
    return home


def parameter_sizes(cubin):
    """From the cubin's own table, first parameter first."""
    text = subprocess.run([CUOBJDUMP, "-elf", cubin], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"Ordinal : 0x([0-9a-f]+)\s+Offset\s*: 0x[0-9a-f]+\s+Size\s*: 0x([0-9a-f]+)", text)
    return tuple(size for _, size in sorted((int(n, 16), int(size, 16)) for n, size in found))


class Recorder:
    """A driver that keeps what it was asked to launch."""

    def __init__(self, parameters=None):
        self.parameters = parameters
        self.launched, self.filled, self.maps = [], [], []

    def load(self, folder):
        metadata = json.loads((Path(folder) / "kernel.json").read_text())
        return Function(handle=1, name=metadata["name"], metadata=metadata, parameters=self.parameters)

    def launch(self, function, grid, parameters, stream):
        self.launched.append((function.name, grid, parameters, stream))

    def fill(self, pointer, byte, nbytes, stream):
        self.filled.append((pointer, byte, nbytes))

    def tensor_map(self, meta, pointer, shape, strides, nan):
        self.maps.append((meta, pointer, tuple(shape), tuple(strides), nan))
        return aligned(128, 64)


def plan(**more):
    a = View(root="in0", offset=64, shape=(128, 64), stride=(64, 1), dtype="float16")
    c = View(root="out0", offset=32, shape=(128, 64), stride=(64, 1), dtype="float16")
    arguments = (
        ("a_desc", Descriptor(view=a, block_shape=(64, 64), padding="nan")),
        ("c_ptr", c),
        ("M", 128),
        ("N", 64),
        ("scale", 0.5),
        ("flag", True),
        ("big", -(2**40)),
    )
    launch = Launch(
        kernel="mixed",
        grid=(2, 1, 1),
        arguments=arguments,
        signature=tuple(SIGNATURE.items()),
        constexprs=(("BM", 64), ("BN", 64)),
        options=(("num_warps", 4),),
        ttir="t",
    )
    roots = (
        Root(name="in0", kind="input", nbytes=16512, argument=0),
        Root(name="out0", kind="output", nbytes=16448, zeroed=True),
    )
    return Plan(workload="w", parameters=(), roots=roots, launches=(launch,), outputs=(c,), **more)


def values_of(parameters, kinds):
    return [kind.from_address(address).value for kind, address in zip(kinds, parameters, strict=True)]


@pytest.mark.skipif(not CUOBJDUMP.exists(), reason="this triton wheel brings no cuobjdump")
def test_our_layout_is_the_cubins(compiled):
    driver = Recorder(parameter_sizes(compiled / "kernel.cubin"))
    assert len(driver.parameters) == 13
    program = Program(driver, plan(), [str(compiled)], {})
    program.bind({"in0": 1 << 20, "out0": 1 << 21}, lambda nbytes: 1 << 22).run(0)
    assert len(driver.launched) == 1


def test_every_argument_arrives(compiled):
    driver = Recorder()
    asked = []
    program = Program(driver, plan(), [str(compiled)], {})
    bound = program.bind({"in0": 1 << 20, "out0": 1 << 21}, lambda nbytes: asked.append(nbytes) or 1 << 22)
    bound.run(77)
    name, grid, parameters, stream = driver.launched[0]
    assert (name, grid, stream) == ("mixed", (2, 1, 1), 77)
    assert driver.filled == [(1 << 21, 0, 16448)]
    meta, pointer, shape, strides, nan = driver.maps[0]
    assert (pointer, shape, strides, nan) == ((1 << 20) + 128, (128, 64), (64, 1), True)
    assert meta["block_size"] == [64, 64]
    c = ctypes
    kinds = [c.c_int32, c.c_int32, c.c_int64, c.c_int64, c.c_uint64, c.c_int32, c.c_int32, c.c_float, c.c_int8]
    kinds += [c.c_int64, c.c_uint64, c.c_uint64]
    expected = [128, 64, 64, 1, (1 << 21) + 64, 128, 64, 0.5, 1, -(2**40), 1 << 22, 0]
    assert values_of(parameters[1:], kinds) == expected
    assert asked == [2 * json.loads((compiled / "kernel.json").read_text())["global_scratch_size"]]
    assert program.scratch_bytes == asked[0] > 0


def test_a_layout_that_differs_is_machinery_not_a_launch(compiled):
    driver = Recorder((8, 8))
    program = Program(driver, plan(), [str(compiled)], {})
    with pytest.raises(MachineryError, match="lays them out in a way that is not known"):
        program.bind({"in0": 1 << 20, "out0": 1 << 21}, lambda nbytes: 1 << 22)
    assert not driver.launched


def test_a_missing_kernel_is_machinery(tmp_path):
    with pytest.raises(MachineryError, match="not in the builder's cache"):
        Program(Recorder(), plan(), [str(tmp_path)], {})


def test_kernels_are_loaded_once_a_process(compiled):
    driver, loaded = Recorder(), {}
    Program(driver, plan(), [str(compiled)], loaded)
    first = loaded[str(compiled)]
    Program(driver, plan(), [str(compiled)], loaded)
    assert loaded[str(compiled)] is first


@pytest.mark.parametrize(
    ("kind", "value", "size", "raw"),
    [
        ("fp32", 1.5, 4, struct.pack("<f", 1.5)),
        ("fp64", 1.5, 8, struct.pack("<d", 1.5)),
        ("fp16", 1.5, 2, struct.pack("<e", 1.5)),
        ("bf16", 1.0, 2, b"\x80\x3f"),
        ("u1", True, 1, b"\x01"),
        ("u64", 2**64 - 1, 8, b"\xff" * 8),
        ("i8", -1, 1, b"\xff"),
    ],
)
def test_scalars_by_type(kind, value, size, raw):
    from evolve.judge.gpu.launch import _plain

    packed = _plain(value, kind, {})
    assert ctypes.sizeof(packed) == size
    assert ctypes.string_at(ctypes.addressof(packed), size) == raw


def test_an_unknown_type_is_machinery():
    from evolve.judge.gpu.launch import _plain

    with pytest.raises(MachineryError, match="cannot pass"):
        _plain(1, "i128", {})


def test_pointers_count_elements_not_bytes():
    view = View(root="r", offset=3, shape=(1,), stride=(1,), dtype="bfloat16")
    assert pointer_of(view, {"r": 1000}) == 1006


class Encoded:
    def call(self, name, room, kind, rank, address, sizes, steps, box, ones, interleave, swizzle, promotion, fill):
        self.got = {
            "kind": kind.value,
            "rank": rank.value,
            "address": address.value,
            "sizes": list(sizes),
            "steps": list(steps),
            "box": list(box),
            "swizzle": swizzle.value,
            "fill": fill.value,
        }


def test_tensor_maps_go_innermost_first_and_strides_in_bytes():
    driver = Encoded()
    meta = {"swizzle": 3, "elem_size": 2, "elem_type": 8, "block_size": [64, 32], "fp4_padded": False}
    room = encode(driver, meta, 4096, [100, 200], [256, 1], True)
    assert driver.got == {
        "kind": 10,
        "rank": 2,
        "address": 4096,
        "sizes": [200, 100],
        "steps": [512],
        "box": [32, 64],
        "swizzle": 3,
        "fill": 1,
    }
    assert ctypes.addressof(room) % 64 == 0
    assert ctypes.sizeof(room) == 128


class FakeLibrary:
    """Where libcuda would be: keeps the structures it is handed, byte for byte."""

    def __init__(self):
        self.seen = {}

    def __getattr__(self, name):
        def function(*arguments):
            self.seen[name] = arguments
            return 0

        return function


def test_the_launch_structure_has_the_drivers_layout(monkeypatch):
    library = FakeLibrary()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    cuda = Cuda(0)
    metadata = {"num_warps": 8, "num_ctas": 2, "shared": 1000}
    function = Function(handle=5, name="k", metadata=metadata, parameters=None)
    cuda.launch(function, (3, 2, 1), (ctypes.c_void_p * 1)(), 99)
    config = ctypes.string_at(ctypes.addressof(library.seen["cuLaunchKernelEx"][0]._obj), 52)
    assert struct.unpack_from("<7I", config) == (6, 2, 1, 256, 1, 1, 1000)
    stream, attributes = struct.unpack_from("<QQ", config, 32)
    assert stream == 99
    assert struct.unpack_from("<I", config, 48) == (2,)
    cluster, policy = (ctypes.string_at(attributes + 72 * i, 72) for i in (0, 1))
    assert struct.unpack_from("<I4x3I", cluster) == (4, 2, 1, 1)
    assert struct.unpack_from("<I4xI", policy) == (5, 1)


def test_the_memory_structures_have_the_drivers_layout(monkeypatch):
    library = FakeLibrary()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    cuda = Cuda(3)
    cuda.map(1 << 21, 1 << 21)
    properties = ctypes.string_at(ctypes.addressof(library.seen["cuMemCreate"][2]._obj), 32)
    assert struct.unpack("<4iQ8x", properties) == (1, 0, 1, 3, 0)
    access = ctypes.string_at(ctypes.addressof(library.seen["cuMemSetAccess"][2]._obj), 12)
    assert struct.unpack("<3i", access) == (1, 3, 3)


def test_addresses_are_never_given_twice(monkeypatch):
    cuda = Cuda.__new__(Cuda)
    cuda._next = cuda._end = 0
    reserved = []
    monkeypatch.setattr(cuda, "_reserve", lambda n: reserved.append(n) or (len(reserved) << 45), raising=False)
    given = [cuda.place(1 << 30, 4096) for _ in range(600)]
    assert given == sorted(set(given))
    assert all(b - a >= (1 << 30) + 4096 for a, b in pairwise(given))
    assert 1 < len(reserved) < 10


# --- memory ---------------------------------------------------------------------------------------------------------


class HostPages:
    """Pages of 4 KiB out of one large buffer, to see where things are put."""

    granularity = 4096

    def __init__(self):
        self.store = torch.zeros(1 << 24, dtype=torch.uint8)
        self.base = -(-self.store.data_ptr() // 4096) * 4096
        self.next = self.base
        self.mapped = {}

    def place(self, nbytes, gap):
        pointer = self.next + gap
        self.next = pointer + nbytes
        return pointer

    def map(self, pointer, nbytes):
        self.mapped[pointer] = nbytes
        return pointer

    def unmap(self, pointer, nbytes, handle):
        assert self.mapped.pop(handle) == nbytes


@pytest.fixture
def paged(monkeypatch):
    pages = HostPages()

    def over(pointer, nbytes, device):
        start = pointer - pages.store.data_ptr()
        return pages.store[start : start + nbytes]

    monkeypatch.setattr("evolve.judge.gpu.memory.over", over)
    return Memory("cpu", pages, random.Random(1)), pages


def test_buffers_end_where_their_pages_end_and_never_touch(paged):
    memory, pages = paged
    buffers = [memory.allocate(n) for n in (1, 512, 4096, 5000)]
    for buffer in buffers:
        start = max(p for p in pages.mapped if p <= buffer.pointer)
        end = start + pages.mapped[start]
        assert buffer.pointer % 512 == 0
        assert 0 <= end - (buffer.pointer + buffer.nbytes) < 512
    spans = sorted(pages.mapped.items())
    assert all(a + n + pages.granularity <= b for (a, n), (b, _) in pairwise(spans))
    assert memory.kind == "unmapped gaps and canaries"
    assert memory.nbytes == 9609
    memory.free()
    assert not pages.mapped


@pytest.mark.parametrize("paged_memory", [True, False])
@pytest.mark.parametrize("where", ["before", "after", "inside"])
def test_a_byte_outside_is_seen_and_one_inside_is_not(paged, paged_memory, where):
    memory = paged[0] if paged_memory else Memory("cpu", None, random.Random(1))
    buffer = memory.allocate(1000)
    assert memory.untouched()
    start = buffer.body.storage_offset() - buffer.whole.storage_offset()
    index = {"before": start - 1, "after": start + 1000, "inside": start + 500}[where]
    buffer.whole[index] = buffer.whole[index] ^ 1
    assert memory.untouched() == (where == "inside")
