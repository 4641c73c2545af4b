"""From a file as people write it to a candidate: what is said otherwise, left out, and refused where."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

from evolve.adopt.evaluator import Draft
from evolve.adopt.observe import Named
from evolve.adopt.place import Place
from evolve.adopt.rewrite.reading import File
from evolve.adopt.rewrite.seed import seed_of
from evolve.errors import AdoptError
from evolve.judge.screen import screen
from evolve.problem import load_problem

HEAD = """\
import math
import functools
import torch
import triton
import triton.language as tl
"""
KERNEL = """
@triton.jit
def scale_kernel(x_ptr, y_ptr, n, factor, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n)
    tl.store(y_ptr + i, x * factor, mask=i < n)
"""
HOST = """
def scale(x, factor):
    y = torch.empty_like(x)
    scale_kernel[(triton.cdiv(x.numel(), 1024),)](x, y, x.numel(), factor, BLOCK=1024)
    return y
"""
KNOWN = {"x": True, "factor": False}


def observed(source, **more):
    """What the child would say of a file whose entry is scale(x, factor): roles, and the values of its globals."""
    tree = ast.parse(source)
    functions = {f.name: f for f in tree.body if isinstance(f, ast.FunctionDef)}
    jit = [n for n, f in functions.items() if any("jit" in ast.unparse(d) for d in f.decorator_list)]
    nothing = {"configs": [], "keys": [], "heuristics": [], "hooks": [], "order": []}
    signature = [
        {"name": a.arg, "kind": "POSITIONAL_OR_KEYWORD", "required": True} for a in functions["scale"].args.args
    ]
    facts = {
        "constants": {},
        "dtypes": {},
        "kernels": dict.fromkeys(jit, nothing),
        "signature": signature,
        "fixed": {},
        "arguments": [
            {"name": n, "tensor": KNOWN.get(n, True), "role": "value" if KNOWN.get(n, True) else "scalar"}
            for n in (a.arg for a in functions["scale"].args.args)
        ],
    }
    return {**facts, **more}


def adopted(body, head=HEAD, **more):
    source = head + body
    made = seed_of(File(Path("my.py"), source), "scale", observed(source, **more), about="scale")
    screen(made.source, entry="scale")
    return made


def config(**kwargs):
    options = {n: kwargs.pop(n) for n in ("num_warps", "num_stages") if n in kwargs}
    return {"kwargs": kwargs, "options": options, "pre_hook": False}


def host(*lines, signature="x, factor"):
    body = "\n".join(f"    {line}" for line in lines)
    launch = "    scale_kernel[(triton.cdiv(x.numel(), 1024),)](x, y, x.numel(), factor, BLOCK=1024)\n    return y\n"
    return KERNEL + f"\ndef scale({signature}):\n{body}\n    y = torch.empty_like(x)\n{launch}"


def test_a_kernel_that_was_never_tuned_gets_its_warps_tuned():
    made = screen(adopted(KERNEL + HOST).source, entry="scale")
    assert made.tune == {"num_warps": (1, 2, 4, 8, 16)}
    assert made.defaults == {"num_warps": 4}


def test_a_block_size_on_a_line_of_its_own_is_a_tunable():
    body = KERNEL + HOST.replace("    y =", "    BLOCK = 1024\n    y =").replace("1024),)", "BLOCK),)")
    made = screen(adopted(body.replace("BLOCK=1024", "BLOCK=BLOCK")).source, entry="scale")
    assert made.tune["BLOCK"] == (512, 1024, 2048)
    assert made.defaults["BLOCK"] == 1024


def test_configurations_become_tune_keywords_and_starting_points():
    told = {
        "scale_kernel": {
            "configs": [config(BLOCK=256), config(BLOCK=512, num_warps=8, waves_per_eu=2)],
            "keys": ["n"],
            "heuristics": [],
            "hooks": ["reset_to_zero"],
            "order": ["autotune"],
        }
    }
    body = KERNEL.replace("@triton.jit", "@triton.autotune(configs=make(), key=['n'])\n@triton.jit")
    body += HOST.replace("1024),)", "META['BLOCK']),)").replace("[(", "[lambda META: (").replace(", BLOCK=1024", "")
    made = adopted(body, kernels=told)
    found = screen(made.source, entry="scale")
    assert found.tune == {"BLOCK": (256, 512), "num_warps": (4, 8)}
    assert found.defaults == {"BLOCK": 256, "num_warps": 4}
    assert list(made.starts) == [{"BLOCK": 256, "num_warps": 4}, {"BLOCK": 512, "num_warps": 8}]
    assert "autotune" not in made.source
    assert any("reset_to_zero" in note for note in made.notes)


def test_two_kernels_keep_parameters_of_one_name_apart():
    second = KERNEL.replace("scale_kernel", "other_kernel")
    told = {
        name: {
            "configs": [config(BLOCK=b), config(BLOCK=2 * b)],
            "keys": [],
            "heuristics": [],
            "hooks": [],
            "order": ["autotune"],
        }
        for name, b in (("scale_kernel", 256), ("other_kernel", 32))
    }
    body = HOST.replace(", BLOCK=1024", "").replace("    return", "    other_kernel[(1,)](x, y, 1, factor)\n    return")
    made = adopted(KERNEL + second + body, kernels=told)
    assert screen(made.source, entry="scale").tune == {"BLOCK": (256, 512), "OTHER_KERNEL_BLOCK": (32, 64)}
    assert "BLOCK=OTHER_KERNEL_BLOCK" in made.source
    assert len(made.starts) == 3


def test_heuristics_become_what_the_launch_computes():
    body = KERNEL.replace(
        "@triton.jit", "@triton.heuristics({'BLOCK': lambda a: triton.next_power_of_2(a['n'])})\n@triton.jit"
    )
    made = adopted(body + HOST.replace(", BLOCK=1024", ""))
    assert "BLOCK=triton.next_power_of_2(x.numel())" in made.source


def test_a_heuristic_of_several_statements_becomes_a_host_function():
    choose = "\ndef choose(args):\n    if args['n'] > 4096:\n        return 1024\n    return 256\n"
    body = choose + KERNEL.replace("@triton.jit", "@triton.heuristics({'BLOCK': choose})\n@triton.jit")
    made = adopted(body + HOST.replace(", BLOCK=1024", ""))
    assert "def choose(n):" in made.source
    assert "BLOCK=choose(x.numel())" in made.source


@pytest.mark.parametrize(
    "query",
    [
        "torch.cuda.get_device_properties(x.device).multi_processor_count",
        "triton.runtime.driver.active.utils.get_device_properties(0)['multiprocessor_count']",
        "sms()",
        "SMS",
    ],
)
def test_the_number_of_multiprocessors_is_asked_of_the_judge(query):
    head = HEAD + "SMS = torch.cuda.get_device_properties(0).multi_processor_count\n"
    head += "@functools.cache\ndef sms():\n    return torch.cuda.get_device_properties(0).multi_processor_count\n"
    made = adopted(KERNEL + HOST.replace("triton.cdiv(x.numel(), 1024)", query), head)
    assert screen(made.source, entry="scale").reserved == ("NUM_SMS",)
    assert "[(NUM_SMS,)]" in made.source


def test_a_variable_of_properties_is_followed_and_helpers_pass_the_number_on():
    body = (
        KERNEL
        + "\ndef grid_of(x):\n    props = torch.cuda.get_device_properties(x.device)\n"
        + "    return (props.multi_processor_count * 2,)\n"
        + HOST.replace("(triton.cdiv(x.numel(), 1024),)", "grid_of(x)")
    )
    made = adopted(body)
    assert "def grid_of(x, *, NUM_SMS):" in made.source
    assert "grid_of(x, NUM_SMS=NUM_SMS)" in made.source


def test_what_asks_about_the_machine_is_left_out_and_said():
    made = adopted(
        host(
            "assert x.is_cuda and x.device.type == 'cuda'",
            "if not isinstance(x, torch.Tensor):",
            "    raise TypeError('no tensor')",
            "if x.ndim > 2:",
            "    raise RuntimeError(f'{x.ndim!r} dimensions')",
            "print(x.shape)",
            "with torch.cuda.device(x.device):",
            "    half = math.sqrt(x.shape[0])",
            "d: int = x.shape[0]",
        )
    )
    assert "is_cuda" not in made.source
    assert "raise ValueError(f" in made.source
    assert "((x.shape[0]) ** 0.5)" in made.source
    assert "d = x.shape[0]" in made.source
    assert len(made.notes) == 4


def test_globals_become_constants_of_the_kind_that_their_reader_needs():
    kernel = KERNEL.replace("x * factor", "x * factor * LOG2E")
    body = kernel + HOST.replace("1024),)", "LIMIT),)") + "\nUNUSED = {}\n"
    head = HEAD + "LOG2E: tl.constexpr = math.log2(math.e)\nLIMIT = 4 * 256\nDTYPE = torch.float32\n"
    body = body.replace("empty_like(x)", "empty_like(x, dtype=DTYPE)")
    made = adopted(body, head, constants={"LOG2E": 1.4427, "LIMIT": 1024}, dtypes={"DTYPE": "torch.float32"})
    assert "LOG2E = tl.constexpr(1.4427)" in made.source
    assert "LIMIT = 1024" in made.source
    assert "dtype=torch.float32" in made.source
    assert "UNUSED" not in made.source


def test_names_that_are_pythons_own_get_another():
    body = KERNEL.replace("x_ptr", "input").replace("input, y_ptr", "input, y_ptr")
    launch = HOST.replace(
        "(x, y, x.numel(), factor, BLOCK=1024)", "(input=x, y_ptr=y, n=x.numel(), factor=factor, BLOCK=1024)"
    )
    made = adopted(body + launch)
    assert "input_=x" in made.source
    assert "def scale_kernel(input_, y_ptr" in made.source


def test_other_spellings_of_imports():
    head = "import torch as th\nimport triton as tr\nfrom triton import cdiv, jit\nimport triton.language as T\n"
    head += "from triton.language.extra.cuda import libdevice as lib\n"
    body = (KERNEL + HOST).replace("@triton.jit", "@jit").replace("tl.", "T.").replace("torch.", "th.")
    body = body.replace("triton.cdiv", "cdiv").replace("x * factor", "lib.tanh(x) * T.math.exp(factor)")
    made = adopted(body, head)
    assert "libdevice.tanh(x) * tl.math.exp(factor)" in made.source
    assert "triton.cdiv(x.numel(), 1024)" in made.source
    assert "from triton.language.extra import libdevice" in made.source


def test_comments_and_layout_stay():
    kernel = KERNEL.replace("    x = tl.load", "    # one element a lane\n    x = tl.load").replace(
        "x_ptr, y_ptr,", "\n    x_ptr,  # read\n    y_ptr,  # written\n   "
    )
    made = adopted(kernel + HOST)
    assert "    # one element a lane\n    x = tl.load" in made.source
    assert "y_ptr,  # written" in made.source


# --- Refused, with the reason and the line ---------------------------------------------------------------------------

REFUSED = {
    "try": (host("try:", "    pass", "except ValueError:", "    pass"), "my.py:14: `try`"),
    "while": (host("while factor > 1:", "    factor = factor / 2"), "my.py:14: `while`"),
    "autocast": (host("with torch.autocast('cuda'):", "    pass"), r"my.py:14: `with torch.autocast\('cuda'\)`"),
    "nested": (host("def f(a, b):", "    return a"), "my.py:14: the function f inside another one"),
    "shared memory": (
        host("n = torch.cuda.get_device_properties(0).shared_memory_per_block"),
        "my.py:14: .* asks the device for shared_memory_per_block",
    ),
    "math": (host("h = math.log(x.shape[0])"), r"my.py:14: `math.log\(x.shape\[0\]\)`"),
    "computes": (host("factor = x.sum()"), r"my.py:14: `.sum` is not on the list"),
    "library": (host("z = torch.nn.functional.relu(x)"), r"my.py:14: .*torch.nn.functional.relu"),
    "options": (KERNEL + HOST.replace("BLOCK=1024)", "**{'BLOCK': 1024})"), r"my.py:15: `\*\*` in a launch"),
    "decorator": (
        KERNEL + HOST.replace("def scale", "@torch.compile\ndef scale"),
        "my.py:13: the decorator `@torch.compile`",
    ),
    "state": (
        KERNEL + HOST.replace("    y =", "    CACHE[0] = 1\n    y =") + "\nCACHE = {}\n",
        "my.py:19: `CACHE` is no number",
    ),
    "no kernel": ("\ndef scale(x, factor):\n    return x\n", "my.py:7: scale launches no kernel of this file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_adopted_is_refused_with_its_line(case):
    body, said = REFUSED[case]
    with pytest.raises(AdoptError, match=said):
        adopted(body)


def test_a_function_of_another_file_cannot_come_along():
    with pytest.raises(AdoptError, match=r"my.py:15: `helper` comes from helpers"):
        adopted(KERNEL + HOST.replace("    y =", "    helper(x)\n    y ="), HEAD + "from helpers import helper\n")


def test_a_hook_before_each_launch_is_refused():
    hooked = {
        "configs": [{**config(BLOCK=256), "pre_hook": True}],
        "keys": [],
        "heuristics": [],
        "hooks": [],
        "order": [],
    }
    with pytest.raises(AdoptError, match=r"my.py:8: the configurations of scale_kernel have a pre_hook"):
        adopted(KERNEL + HOST, kernels={"scale_kernel": hooked})


def test_branches_for_another_machine_fall_away():
    made = adopted(
        host(
            "if x.device.type == 'xpu':",
            "    factor = x.sum()",
            "if not x.is_cuda:",
            "    return torch.mul(x, factor)",
            "if torch.cuda.get_device_capability()[0] >= 9:",
            "    factor = factor * 2",
            "else:",
            "    factor = factor.item()",
        )
    )
    assert "    factor = factor * 2\n" in made.source
    assert "sum" not in made.source
    assert "torch.mul" not in made.source


def test_what_never_changes_is_written_into_the_seed_and_given_to_the_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = HEAD + KERNEL + HOST.replace("def scale(x, factor)", "def scale(x, factor, mode)")
    source = source.replace("    y = torch", "    assert mode == 'plain'\n    y = torch")
    more = {"arguments": [], "fixed": {"mode": "'plain'"}}
    told = observed(source, **more)
    told["arguments"] = [
        {"name": "x", "tensor": True, "dtype": "float32", "role": "value", "why": "", "varied": False},
        {"name": "factor", "tensor": False, "role": "scalar", "why": ""},
    ]
    norm = {"kind": "norm", "strict": 1e-5, "at_most": 2e-5, "tf32": False, "rounded_inside": False}
    output = {"returned": 0, "argument": None, "source": ["result", 0], "name": "out", "shape": "tuple(x.shape)"}
    workload = {"name": "w", "params": {"n": 8}, "role": "time", "mode": "cold", "weight": 1.0}
    told |= {
        "outputs": [{**output, "dtype": "float32", "stride": None, "comparator": norm}],
        "reference": {"arguments": {"x": "x", "factor": "factor", "kind": "mode"}, "narrow": False},
        "names": ["x", "factor", "mode"],
        "call": ["x", "factor", "mode"],
        "families": ["given"],
        "left_out": {},
        "floats": None,
        "derived": True,
        "workloads": [workload],
        "interpreted": [{**workload, "name": "small"}],
    }
    Path("my.py").write_text(source)
    Path("ref.py").write_text(
        "import torch\ndef make_inputs(w, device, seed):\n    return torch.ones(w['n'], device=device), 2.0, 'plain'\n"
        "def right(x, factor, kind):\n    assert kind == 'plain'\n    return x * factor\n"
    )
    made = seed_of(File(Path("my.py"), source), "scale", told, about="scale")
    place = Place(name="scale")
    kernel, reference = Named.of("my.py:scale", "--kernel"), Named.of("ref.py:right", "--reference")
    draft = Draft(place=place, kernel=kernel, reference=reference, observed=told, seed=made, gpu=False)
    place.write({place.problem: draft.text()})
    problem = load_problem(place.problem)
    assert "mode = 'plain'" in made.source
    assert [a.name for a in problem.arguments] == ["x", "factor"]
    x, factor = problem.make_inputs(problem.workloads[0], "cpu", 1)
    assert torch.equal(problem.reference(x.double(), factor), x.double() * 2)
    assert problem.outputs(problem.workloads[0])[0].shape == (8,)
    digest = problem.digest
    Path("ref.py").write_text(Path("ref.py").read_text() + "\n")
    assert load_problem(place.problem).digest != digest  # the user's files are part of the problem
