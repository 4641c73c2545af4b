"""Plans as JSON: what is written is read back, and nothing else is."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.judge.plan import Descriptor, Launch, Lowered, Plan, Root, View
from evolve.judge.plan_json import PlanError, decode, encode

NAMES = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
INTS = st.integers(-(2**63), 2**64 - 1)
SCALARS = st.one_of(st.booleans(), INTS, st.floats(allow_nan=False), NAMES)
NUMBERS = st.one_of(st.booleans(), INTS, st.floats(allow_nan=False))
LENGTHS = st.lists(INTS, max_size=4).map(tuple)
VIEWS = st.builds(View, root=NAMES, offset=INTS, shape=LENGTHS, stride=LENGTHS, dtype=NAMES)
DESCRIPTORS = st.builds(Descriptor, view=VIEWS, block_shape=LENGTHS, padding=NAMES)
ROOTS = st.builds(
    Root,
    name=NAMES,
    kind=st.sampled_from(["input", "output", "scratch"]),
    nbytes=INTS,
    argument=st.none() | INTS,
    zeroed=st.booleans(),
)


def several(each: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(each, max_size=3).map(tuple)


LAUNCHES = st.builds(
    Launch,
    kernel=NAMES,
    grid=st.tuples(INTS, INTS, INTS),
    arguments=several(st.tuples(NAMES, st.one_of(VIEWS, DESCRIPTORS, NUMBERS))),
    signature=several(st.tuples(NAMES, NAMES)),
    constexprs=several(st.tuples(NAMES, st.none() | SCALARS)),
    options=several(st.tuples(NAMES, INTS)),
    ttir=NAMES,
)
PLANS = st.builds(
    Plan,
    workload=NAMES,
    parameters=several(st.tuples(NAMES, SCALARS)),
    roots=several(ROOTS),
    launches=several(LAUNCHES),
    outputs=several(VIEWS),
)
LOWERED = st.builds(Lowered, plans=several(PLANS), modules=st.dictionaries(NAMES, NAMES, max_size=3))


@given(LOWERED)
@settings(deadline=None, max_examples=150)
def test_what_is_written_is_read_back(lowered: Lowered) -> None:
    again = decode(encode(lowered))
    assert again == lowered
    assert repr(again) == repr(lowered)  # which tells 1, 1.0 and True apart


@given(st.text(max_size=200))
@settings(deadline=None)
def test_any_text_is_answered(text: str) -> None:
    with pytest.raises(PlanError):
        decode(text)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["plans", "modules", "x"]), inner)
    ),
    max_leaves=20,
)


@given(JSON)
@settings(deadline=None)
def test_any_json_is_answered(value: object) -> None:
    if value != {"plans": [], "modules": {}}:
        with pytest.raises(PlanError):
            decode(json.dumps(value))


VIEW = View(root="in0", offset=0, shape=(4,), stride=(1,), dtype="float32")
LAUNCH = Launch(
    kernel="k",
    grid=(1, 1, 1),
    arguments=(("x", VIEW), ("d", Descriptor(view=VIEW, block_shape=(4,))), ("n", 3)),
    signature=(("x", "*fp32"), ("d", "tensordesc<fp32[4]>"), ("n", "i32")),
    constexprs=(("BLOCK", None),),
    options=(("num_warps", 4),),
    ttir="abc",
)
PLAN = Plan(
    workload="w",
    parameters=(("BLOCK", 4),),
    roots=(Root(name="in0", kind="input", nbytes=16, argument=0),),
    launches=(LAUNCH,),
    outputs=(VIEW,),
)
RAW = encode(Lowered(plans=(PLAN,), modules={"abc": "module {}"}))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"offset":0', '"offset":true', "offset"),
        ('"offset":0', '"offset":0.0', "offset"),
        ('"offset":0', '"offset":"0"', "offset"),
        ('"offset":0', '"offset":36893488147419103232', "64 bits"),
        ('"offset":0', '"offset":0,"stream":1', "stream"),
        ('"offset":0,', "", "is none of View"),
        ('"offset":0', '"offset":0,"offset":1', "twice"),
        ('"grid":[1,1,1]', '"grid":[1,1]', "2 items where 3 belong"),
        ('"kind":"input"', '"kind":"pointer"', "'pointer' is none of"),
        ('"zeroed":false', '"zeroed":0', "zeroed"),
        ('"kernel":"k"', '"kernel":null', "kernel"),
        ('"kernel":"k"', '"kernel":"' + "k" * 2000 + '"', "too long"),
        ('"kernel":"k"', '"kernel":"\\ud800"', "no text"),
        ('["n",3]', '["n",null]', "is none of"),
        ('["n",3]', '["n",[3]]', "is none of"),
        ('["n",3]', '["n",{}]', "is none of"),
        ('"outputs":', '"output":', "output"),
        ('"modules":{"abc":"module {}"}', '"modules":{"abc":3}', "modules"),
        ('"modules":{"abc":"module {}"}', '"modules":[]', "modules"),
        ("{", "[" * 100_000, "nested|JSON"),
        ('"nbytes":16', '"nbytes":' + "9" * 5000, "JSON|digits"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(old: str, new: str, said: str) -> None:
    assert old in RAW
    with pytest.raises(PlanError) as caught:
        decode(RAW.replace(old, new, 1))
    assert any(word in str(caught.value) for word in said.split("|")), caught.value


def test_defaults_may_be_left_out() -> None:
    short = RAW.replace(',"argument":0,"zeroed":false', "").replace(',"padding":"zero"', "")
    assert short != RAW
    assert decode(short).plans[0].roots == (replace(PLAN.roots[0], argument=None),)


def test_the_text_is_bounded() -> None:
    with pytest.raises(PlanError, match="at most"):
        decode(" " * (64 * 1024 * 1024 + 1))
    with pytest.raises(PlanError, match="20001 items"):
        decode(
            RAW.replace('"grid"', '"options":[' + ",".join(['["a",1]'] * 20_001) + '],"grid"').replace(
                ',"options":[["num_warps",4]]', ""
            )
        )
