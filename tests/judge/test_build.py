"""The builder: what it makes, what it refuses, and that nothing of it survives."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from evolve.errors import MachineryError
from evolve.judge.build import Builder
from evolve.judge.plan import Launch, Lowered, Plan
from evolve.judge.sass import code_digest
from evolve.judge.stages import Ruling
from evolve.judge.targets import find
from evolve.types import Verdict, digest_of

ROOT = Path(__file__).parents[2]

# 2^19 elements in one block of one warp: legal, and nothing that a compiler ends in a minute.
ENDLESS = """module { tt.func public @k(%p: !tt.ptr<f32>) {
 %r = tt.make_range {end = 524288 : i32, start = 0 : i32} : tensor<524288xi32>
 %s = tt.splat %p : !tt.ptr<f32> -> tensor<524288x!tt.ptr<f32>>
 %a = tt.addptr %s, %r : tensor<524288x!tt.ptr<f32>>, tensor<524288xi32>
 %v = tt.load %a : tensor<524288x!tt.ptr<f32>>
 %w = math.sin %v : tensor<524288xf32>
 tt.store %a, %w : tensor<524288x!tt.ptr<f32>>
 tt.return } }"""
SMALL = ENDLESS.replace("524288", "1024")


def lowered(*texts, **options):
    launches = tuple(
        Launch(
            kernel="k",
            grid=(1, 1, 1),
            arguments=(),
            signature=(("p", "*fp32"),),
            constexprs=(),
            options=tuple(sorted(options.items())),
            ttir=digest_of(text),
        )
        for text in texts
    )
    plan = Plan(workload="w", parameters=(), roots=(), launches=launches, outputs=())
    return Lowered(plans=(plan,), modules={digest_of(text): text for text in texts})


def refused(builder, low):
    with pytest.raises(Ruling) as caught:
        builder.build(low)
    assert caught.value.stage == "build"
    return caught.value


def ours(cache):
    """Processes that work inside a cache."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if str(cache) in os.readlink(process / "cwd"):
                    found.append(int(process.name))
            except OSError:
                continue
    return found


def gone(cache, seconds=5.0):
    end = time.monotonic() + seconds
    while ours(cache) and time.monotonic() < end:
        time.sleep(0.05)
    return not ours(cache)


@pytest.fixture
def fresh(tmp_path):
    def make(timeout=30.0, target="sm_90", workers=2):
        made.append(Builder(cache=tmp_path / "cache", target=find(target), workers=workers, timeout=timeout))
        return made[-1]

    made = []
    yield make
    for builder in made:
        builder.close()


def shape(sanity, tile=(128, 256, 64), warps=8, stages=3, kernel="seed", own=None):
    return sanity.Shape(kernel=kernel, tile=tile, warps=warps, stages=stages, own=own)


def workload(sanity, m=4096, n=4096, k=4096):
    return sanity.Workload(name="w", params={"M": m, "N": n, "K": k, "dtype": "bfloat16"})


def test_machine_code_is_that_of_the_ordinary_path(builder, sanity, lowering, sm_90, tmp_path, monkeypatch):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    low = sanity.lowered(shape(sanity), workload(sanity), sm_90)
    launch = low.plans[0].launches[0]
    made = builder.build(low).of(launch)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "ordinary"))
    kernel = lowering.module(ROOT / "seeds" / "matmul.py").matmul_kernel
    constants = dict(launch.constexprs)
    signature = {name: dict(launch.signature).get(name, "constexpr") for name in kernel.arg_names}
    divisible = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names) if name not in constants}
    ordinary = triton.compile(
        ASTSource(kernel, signature, constants, divisible),
        target=GPUTarget("cuda", 90, 32),
        options=dict(launch.options),
    )
    (tmp_path / "ordinary.cubin").write_bytes(ordinary.asm["cubin"])
    assert made.sass == code_digest(tmp_path / "ordinary.cubin")
    assert (made.shared_bytes, made.threads) == (ordinary.metadata.shared, 256)
    assert made.instructions["HGMMA"] > 0
    assert made.registers > 100


def test_what_a_gpu_process_needs_lies_in_the_folder(builder):
    made = builder.build(lowered(SMALL, num_warps=4))
    (binary,) = made.binaries.values()
    names = {path.name for path in Path(binary.path).iterdir()}
    assert {"kernel.cubin", "kernel.json", "kernel.ttir", "kernel.ptx"} <= names
    assert not {"triton", "tmp"} & names
    assert binary.name == "k"
    assert binary.threads == 128


def test_a_repeat_is_a_hit_also_of_another_builder(fresh, tmp_path):
    first = fresh().build(lowered(SMALL, num_warps=4))
    stamp = (Path(next(iter(first.binaries.values())).path) / "kernel.cubin").stat().st_mtime_ns
    second = fresh()
    second._server.close()  # a hit asks no compiler
    again = second.build(lowered(SMALL, num_warps=4))
    assert again.binaries == first.binaries
    assert (Path(next(iter(again.binaries.values())).path) / "kernel.cubin").stat().st_mtime_ns == stamp


def test_options_target_and_text_are_part_of_the_key(builder, fresh):
    keys = {
        builder.key(SMALL, (("num_warps", 4),)),
        builder.key(SMALL, (("num_warps", 8),)),
        builder.key(SMALL + " ", (("num_warps", 4),)),
        fresh(target="sm_80").key(SMALL, (("num_warps", 4),)),
    }
    assert len(keys) == 4


def test_lines_and_names_do_not_change_the_machine_code(builder):
    other = SMALL.replace("@k", "@another_name").replace("tt.return", "tt.return loc(#l)") + '\n#l = loc("x.py":7:3)'
    a, b = builder.build(lowered(SMALL, other, num_warps=4)).binaries.values()
    assert a.key != b.key
    assert a.sass == b.sass
    different = next(iter(builder.build(lowered(SMALL.replace("sin", "cos"), num_warps=4)).binaries.values()))
    assert different.sass != a.sass


def test_a_hang_is_stopped_and_names_the_limit(fresh, tmp_path):
    builder = fresh(timeout=4.0)  # enough for a small one on a busy machine
    builder.build(lowered(SMALL, num_warps=4))  # the server is warm
    started = time.monotonic()
    ruling = refused(builder, lowered(ENDLESS, num_warps=1))
    assert ruling.verdict is Verdict.TIMEOUT
    assert "4 s" in ruling.feedback
    assert time.monotonic() - started < 12
    assert len(ours(tmp_path)) == 1  # the server
    assert builder.build(lowered(SMALL, num_warps=8)).binaries


def test_a_crash_is_a_verdict_and_the_server_lives(builder):
    ruling = refused(builder, lowered("module { }", num_warps=4))
    assert ruling.verdict is Verdict.BUILD_ERROR
    assert "SIGSEGV" in ruling.feedback
    assert builder.build(lowered(SMALL, num_warps=4)).binaries


def test_a_refusal_carries_the_candidates_line(builder):
    tan = 'math.tan %v : tensor<1024xf32> loc("candidate.py":41:8)'
    ruling = refused(builder, lowered(SMALL.replace("math.sin %v : tensor<1024xf32>", tan), num_warps=4))
    assert ruling.verdict is Verdict.BUILD_ERROR
    assert ruling.evidence["line"] == 41
    assert ruling.feedback.startswith("k, line 41: the compiler refused it: failed to legalize operation 'math.tan'")
    assert not [word for word in ("Traceback", "staging", "module {") if word in ruling.feedback]


def test_a_line_of_the_text_is_not_taken_for_the_candidates(builder):
    ruling = refused(builder, lowered(SMALL.replace("1024", "1000"), num_warps=4))
    assert "power-of-two" in ruling.feedback
    assert "line" not in ruling.evidence


def test_ptxas_refusals_say_what_to_do(builder, sanity, sm_90):
    low = sanity.lowered(shape(sanity), workload(sanity), sm_90)
    options = (("maxnreg", 32), *low.plans[0].launches[0].options)
    launch = replace(low.plans[0].launches[0], options=options)
    ruling = refused(builder, Lowered(plans=(replace(low.plans[0], launches=(launch,)),), modules=low.modules))
    assert "Insufficient registers" in ruling.feedback
    assert "maxnreg" in ruling.feedback
    assert "Repro command" not in ruling.feedback
    assert len(ruling.feedback) < 2000


def test_shared_memory_and_threads_are_held_against_the_chip(builder, sanity, sm_90):
    low = sanity.lowered(shape(sanity, stages=6), workload(sanity), sm_90)
    ruling = refused(builder, low)
    assert ruling.verdict is Verdict.BUILD_ERROR
    assert "needs 294912 B of shared memory, sm_90 has 232448: fewer stages or smaller tiles" in ruling.feedback
    assert "2048 threads" in refused(builder, lowered(SMALL.replace("1024", "4096"), num_warps=64)).feedback


def test_the_users_environment_does_not_reach_a_compiler(fresh, builder, monkeypatch):
    for name, value in (("PTXAS_OPTIONS", "--no-such-option"), ("DISABLE_PTXAS_OPT", "1"), ("TRITON_KERNEL_DUMP", "1")):
        monkeypatch.setenv(name, value)
    made = next(iter(fresh().build(lowered(SMALL, num_warps=4)).binaries.values()))
    assert made.sass == next(iter(builder.build(lowered(SMALL, num_warps=4)).binaries.values())).sass


def test_one_failure_among_many_is_its_own(builder):
    each = builder.build_each(lowered(SMALL, "module { garbage", num_warps=4))
    good, bad = each.values()
    assert good.name == "k"
    assert isinstance(bad, Ruling)


def test_asked_twice_at_once_it_compiles_once(fresh):
    builder, made = fresh(), []
    threads = [
        threading.Thread(target=lambda: made.append(builder.build(lowered(SMALL, num_warps=2)))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({next(iter(b.binaries.values())).path for b in made}) == 1
    assert len(made) == 4
    assert list((builder.cache / "staging").iterdir()) == [builder._server.folder]


def test_a_server_that_died_is_started_again(fresh):
    builder = fresh()
    os.kill(builder._server._process.pid, signal.SIGKILL)
    builder._server._process.wait()
    assert builder.build(lowered(SMALL, num_warps=4)).binaries


def test_close_leaves_nothing_even_in_the_middle(fresh, tmp_path):
    builder, ended = fresh(timeout=60), []

    def build():
        try:
            builder.build(lowered(ENDLESS, num_warps=1))
        except (Ruling, MachineryError) as error:
            ended.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    end = time.monotonic() + 20
    while len(ours(tmp_path)) < 3 and time.monotonic() < end:
        time.sleep(0.05)
    assert len(ours(tmp_path)) >= 3  # server, supervisor, compiler
    builder.close()
    builder.close()
    thread.join(20)
    assert not thread.is_alive()
    assert gone(tmp_path)
    assert isinstance(ended[0], MachineryError)


def test_a_killed_builder_leaves_nothing(tmp_path):
    script = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path; import test_build as t\n"
        "b = t.Builder(cache=Path(sys.argv[1]), target=t.find('sm_90'), workers=1, timeout=60)\n"
        "b.build(t.lowered(t.ENDLESS, num_warps=1))\n"
    )
    cache = tmp_path / "cache"
    process = subprocess.Popen([sys.executable, "-c", script, str(cache), str(Path(__file__).parent), str(ROOT)])
    end = time.monotonic() + 30
    while len(ours(cache)) < 3 and time.monotonic() < end:
        time.sleep(0.05)
    assert len(ours(cache)) >= 3
    process.kill()
    process.wait()
    assert gone(cache)
    left = list((cache / "staging").iterdir())
    assert left
    Builder(cache=cache, target=find("sm_90"), workers=1, timeout=5).close()
    assert not list((cache / "staging").iterdir())


def test_a_cache_open_to_others_is_refused(tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    cache.chmod(0o755)
    with pytest.raises(MachineryError, match="chmod 700"):
        Builder(cache=cache, target=find("sm_90"), workers=1, timeout=5)


@pytest.mark.parametrize("target", ["sm_80", "sm_89", "sm_100", "gfx942"])
def test_other_chips_build(fresh, sanity, target):
    builder = fresh(target=target)
    low = sanity.lowered(shape(sanity, tile=(64, 64, 32), warps=4, stages=2), workload(sanity), find(target))
    made = builder.build(low).of(low.plans[0].launches[0])
    tensor = {"sm_100": "UTCHMMA", "gfx942": "MFMA"}.get(target, "HMMA")
    assert made.instructions[tensor] > 0
    assert made.registers > 0
    assert len(made.sass) == 16


def test_a_lean_build_counts_nothing_and_is_completed_when_somebody_asks(fresh):
    builder = fresh()
    low = lowered(SMALL, num_warps=4)
    (made,) = builder.build_each(low, lean=True).values()
    assert made.instructions == {}
    assert made.registers > 0
    (full,) = builder.build(low).binaries.values()
    assert full.instructions["total"] > 0
    assert replace(full, instructions={}) == made, "one compile, the same machine code"
    (again,) = builder.build_each(low, lean=True).values()
    assert again == full
