"""Calls that were decided before are found again, and none that only looks like one: torch's guard and the same in
Python, in every state of a thread that torch has."""

import importlib
import threading

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .conftest import fresh


@pytest.fixture(params=["torch's", "in Python"])
def known(request, imported, monkeypatch):
    module = importlib.import_module(f"{imported.__name__}._known")
    assert module.GUARDS is not None  # of the torch that is pinned
    if request.param == "in Python":
        monkeypatch.setattr(module, "GUARDS", None)
    return module


class Seen(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def graded(t):
    return t.clone().requires_grad_()


A, B = torch.randn(4, 6), torch.randn(6, 8)
OTHERS = {
    "dtype": lambda: (A.double(), B),
    "shape": lambda: (torch.randn(6, 4), B),
    "strides": lambda: (torch.randn(6, 4).T, B),
    "device": lambda: (A.to("meta"), B),
    "gradient": lambda: (graded(A), B),
    "parameter": lambda: (torch.nn.Parameter(A, requires_grad=False), B),
    "sign": lambda: (A._neg_view(), B),
    "sparse": lambda: (A.to_sparse(), B),
    "no tensor": lambda: (A, None),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_guard_refuses_what_is_decided_otherwise(name, known):
    check = known.guard((A, B))
    assert check(A.clone(), B.clone())
    assert not check(*OTHERS[name]())
    assert check(A, B)


def test_a_guard_refuses_other_states_of_the_thread(known):
    check = known.guard((A, B))
    refused = []
    for state in (torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16), Seen()):
        with state:
            refused.append(check(A, B))
    torch.vmap(lambda x: refused.append(check(A, B)) or x)(A)
    torch.func.grad(lambda x: refused.append(check(A, B)) or x.sum())(A)
    assert refused == [False] * 5
    assert check(A, B)


def test_what_torch_s_guard_does_not_say_is_asked(known):
    x = graded(A)
    with torch.no_grad():
        check = known.guard((x, B))
        assert check(x, B)
        with torch.enable_grad():
            assert not check(x, B)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        check = known.guard((A, B))
        assert check(A, B)
        with torch.autocast("cpu", dtype=torch.float16):
            assert not check(A, B)


def test_one_tensor_twice_is_a_kind_of_its_own(known):
    square, other = torch.randn(4, 4), torch.randn(4, 4)
    twins, apart = known.guard((square, square)), known.guard((square, other))
    assert twins(other, other)
    assert not twins(square, other)
    assert apart(other, square)
    calls = known.Known()
    calls.keep(1, (square, other), "apart")
    calls.keep(1, (square, square), "twins")
    assert [calls.find(1, pair) for pair in ((other, other), (other, square))] == ["twins", "apart"]


def test_a_guard_keeps_no_tensor_alive(known):
    import weakref

    x = torch.randn(3, 3)
    gone = weakref.ref(x)
    check = known.guard((x, B))
    del x
    assert gone() is None
    assert check(torch.randn(3, 3), B)


def test_calls_that_share_sizes_are_told_apart_and_their_number_is_bounded(known, monkeypatch):
    monkeypatch.setattr(known, "MOST", 3)
    monkeypatch.setattr(known, "MOST_ALIKE", 2)
    calls = known.Known()
    tensors = {n: torch.empty(n, 12 // n) for n in (1, 2, 3)}
    for n, t in tensors.items():
        calls.keep(12, (t,), n)
    assert [calls.find(12, (t,)) for t in tensors.values()] == [None, 2, 3]
    assert calls.latest[12][1] == 3
    for n in range(5):
        calls.keep(n, (A,), n)
    assert [calls.find(n, (A,)) for n in range(5)] == [None, None, 2, 3, 4]
    assert set(calls.latest) == {2, 3, 4}


def test_threads_may_keep_and_find_at_once(known, monkeypatch):
    monkeypatch.setattr(known, "MOST", 8)
    calls, wrong = known.Known(), []
    tensors = [torch.empty(n, 3) for n in range(1, 40)]

    def work():
        for _ in range(20):
            for n, t in enumerate(tensors):
                found = calls.find(n, (t,))
                if found is None:
                    calls.keep(n, (t,), n)
                elif found != n:
                    wrong.append((n, found))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []
    assert len(calls._all) <= 8


def test_the_function_finds_what_was_kept_at_once(package, imported):
    """The index that is written into the function is the one that calls are kept under: else all would be slow."""
    dispatch = importlib.import_module(f"{imported.__name__}._dispatch")
    dispatch.RESTING.clear()
    imported.matmul(A, B)
    index, tensors = dispatch.index_of((A, B)), (A, B)
    assert f".get({package_index(package)})" in (package.folder / "__init__.py").read_text()
    assert index == eval(package_index(package), {"a": A, "b": B})
    assert dispatch.KNOWN.latest[index][0](*tensors)
    assert dispatch.way((A, B)) == "library"


def package_index(package):
    return "a.numel() * 31 + b.numel()"


def test_a_call_for_the_library_costs_little_more_than_the_library(package):
    """A ratio in one process, the least of many short spells; the bounds leave room for a restless machine."""
    rests, asks = map(float, fresh(COST, package.folder.parent).split())
    assert rests < 1.5
    assert asks < 2.2


COST = """
import timeit, torch, fast_matmul
from fast_matmul import _dispatch
a, b = torch.randn(2, 2), torch.randn(2, 2)
def ratio():
    spells = [[timeit.timeit(lambda: f(a, b), number=100) for f in (fast_matmul.matmul, _dispatch.LIBRARY)]
              for _ in range(400)]
    return min(ours for ours, _ in spells) / min(theirs for _, theirs in spells)
fast_matmul.matmul(a, b)
assert _dispatch.RESTING
print(ratio())
_dispatch.RESTING.clear()
_dispatch._choice.rests = lambda: False
fast_matmul.matmul(a, b)
print(ratio())
"""
