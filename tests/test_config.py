"""A configuration is read strictly, says where each value comes from, and comes back equal from what a run keeps."""

# ruff: noqa: E501 -- a table of slips and sentences reads best with a row a line
from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import openevolve.config
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evolve.config import RunConfig, dump, flat, load_config, parse_config, plain
from evolve.config import openevolve as other
from evolve.config.text import scalar
from evolve.config.tree import EDIT_KINDS, OPTIONS, TARGETS
from evolve.errors import ConfigError

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
HEAD = "problem: evaluators/matmul.py\nseeds: [seeds/matmul.py]\n"
BUDGET = "budget: {steps: 9}\n"


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def config_of(more: str, *overrides: str, head: str = HEAD + BUDGET) -> RunConfig:
    return parse_config(head + more, "x.yaml", overrides)


def refusal(more: str, *overrides: str, head: str = HEAD + BUDGET) -> str:
    with pytest.raises(ConfigError) as caught:
        config_of(more, *overrides, head=head)
    return str(caught.value)


def origins(config: RunConfig) -> dict[str, str]:
    return {key: origin for key, _, origin in flat(config)}


# --- What ships -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_shipped_config_loads_is_short_and_survives_the_run_folder(path: Path) -> None:
    config = load_config(path)
    assert config.warnings == ()
    assert len(path.read_text().splitlines()) <= 25
    assert parse_config(dump(config), "again.yaml") == config
    assert config.name == path.stem


def test_the_quickstart_needs_neither_gpu_nor_key() -> None:
    config = load_config("configs/quickstart.yaml")
    assert config.backend == "auto"
    assert [m.member for m in config.council] == ["rules"]
    assert "api_key_env" not in dump(config)


def test_only_openais_own_address_gets_openais_key_by_default() -> None:
    local = next(m for m in load_config("configs/local-server.yaml").council if m.member == "openai")
    assert local.options.api_key_env is None
    assert config_of("council: [{member: openai, model: m}]").council[0].options.api_key_env == "OPENAI_API_KEY"


# --- What bad input gets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("database: {popluation_size: 3}", 'x.yaml:4: unknown key "popluation_size" in database; did you mean "population_size"?'),
        ("databse: {}", 'x.yaml:4: unknown key "databse"; did you mean "database"?'),
        ("population_size: 3", 'unknown key "population_size"; it belongs into database: write "database.population_size".'),
        ("zzz: 3", 'x.yaml:4: unknown key "zzz"; remove it'),
        ("warnings: []", 'unknown key "warnings"'),
        ("llm: {modles: []}", 'unknown key "modles" in llm; did you mean "models"?'),
        ("llm: {models: [{nam: a}]}", 'unknown key "nam" in llm.models.0; did you mean "name"?'),
        ("council: [{member: openai, model: x, temperture: 1}]", 'in council.0; did you mean "temperature"?'),
        ("council: [{mmeber: rules}]", 'did you mean "member"?'),
        ("council: [{member: opnai}]", 'got the text "opnai"; did you mean "openai"?'),
        ("council: [{member: rules, kinds: [dif]}]", 'unknown key "dif" in council.0.kinds; did you mean "diff"?'),
        ("council: [{member: openai}]", "council.0 has no `model`, which it needs, for example `model: gpt-5`."),
        ("council: [{member: openai, model: m, price: {usd_per_million_in: 1}}]", "council.0.price has no `usd_per_million_out`"),
        ("council: [{member: command, command: claude -p}]", "council.0.command: expected a list, got the text"),
        ("council: rules", "council: expected a list, got the text"),
        ("council: []", "council is empty"),
        ("council: [[1]]", "council.0: expected a section of keys with values, got a list (1)."),
        ("council: [{member: rules, name: a}, {member: mailbox, name: a}]", '2 members are named "a"'),
        ("council: [{member: rules, weight: 0}]", "every member has weight 0"),
        ("council: [{member: rules, weight: -1}]", "council.0.weight: expected at least 0, got -1."),
        ("council: [{member: rules, name: a b}]", "council.0.name"),
        ("evaluator: 5", "x.yaml:4: evaluator: expected a section of keys with values, got 5."),
        ("evaluator: {timeout: 5 minutes}", 'evaluator.timeout: expected a number, got the text "5 minutes"; write the number'),
        ("evaluator: {timeout: .inf}", "x.yaml:4: .inf: expected a number that is finite"),
        ("evaluator: {timeout: .nan}", "x.yaml:4: .nan: expected a number that is finite"),
        ("evaluator: {timeout: 0}", "evaluator.timeout: expected more than 0, got 0."),
        ('random_seed: "7"', 'random_seed: expected a whole number, got the text "7"; write the number without quotes'),
        ("random_seed: true", "random_seed: expected a whole number, got true."),
        ("random_seed: 1.5", "random_seed: expected a whole number, got 1.5."),
        ("random_seed: 1e-3", "random_seed: expected a whole number, got 0.001."),
        ("variant: 16", "variant: expected text, got 16; put it in quotes."),
        ("variant: off", "variant: expected text, got false; put it in quotes."),
        ("tuner: {enabled: 1}", "tuner.enabled: expected true or false, got 1."),
        ("strategy: evolutoin", 'strategy: expected one of evolution, best_of_n, got the text "evolutoin"; did you mean "evolution"?'),
        ("target: sm_9", "target: expected one of sm_80, sm_89, sm_90, sm_100, gfx942"),
        ("backend: gpus", 'or package.module:Name, got the text "gpus"; did you mean "gpu"?'),
        ("workloads: [{name: a}]", "workloads.0 has no `params`"),
        ("workloads: [{name: a, params: {M: [1]}}]", "workloads.0.params.M: expected a number, text, true or false, got a list (1)."),
        ("workloads: [{name: a, params: {}, rôle: time}]", 'unknown key "rôle" in workloads.0; did you mean "role"?'),
        ("workloads: [{name: a, params: {}}, {name: a, params: {}}]", '2 workloads are named "a"'),
        ("workloads: [{name: a, params: {}, weight: 0}]", "workloads.0.weight: expected a number above 0, got 0."),
        ("workloads: [{name: a, params: {}, role: check}]", 'no workload has role "time"'),
        ("database: {migration_rate: 2}", "database.migration_rate: expected at most 1, got 2."),
        ("database: {population_size: 2000}", "database.population_size: expected at most 1000, got 2000."),
        ("database: {exploration_ratio: 0.5}", "add up to 1.2; expected at most 1."),
        ("prompt: {kinds: {diff: 0}}", "every edit kind has weight 0"),
        ("prompt: {template_dir: nowhere}", "x.yaml:4: prompt.template_dir: nowhere: no such folder"),
        ("ray: {address: auto}", "write `executor: ray`"),
        ("early_stopping_patience: 0", "early_stopping_patience: expected at least 1, got 0."),
        ("max_iterations: 5", "max_iterations and budget.steps (x.yaml:3) mean the same and differ"),
        ("a:\n\tb: 1", "x.yaml:5: a tab where YAML wants spaces; replace it by spaces."),
        ("random_seed: 1\nrandom_seed: 2", 'x.yaml:5: key "random_seed" stands twice, first at x.yaml:4; remove one.'),
        ("a: [1", "x.yaml:4: is not YAML: expected ',' or ']'"),
        ("a: 1\n---\nb: 1", "a configuration is one document"),
        ("? {a: b}", "x.yaml:4: expected a word as key"),
        ("a: !!python/name:os.system", "unknown tag"),
        ("a: *nowhere", "x.yaml:4: is not YAML"),
        ("a: &b [*b]", "x.yaml:4"),
        ("a: {<<: {b: 1}}", "`<<` is not supported"),
        ("a: \x07", "x.yaml:4: a character that YAML does not allow (code 7)"),
        ("a: " + "[" * 5000, "nested"),
        ('a: "\\ud800"', "surrogate"),
    ],
)  # fmt: skip
def test_a_slip_gets_a_sentence_with_its_place(text: str, sentence: str) -> None:
    assert sentence in refusal(text)


def test_all_slips_are_told_at_once() -> None:
    said = refusal("random_seed: x\nevaluator: {timeout: 0}\nprompt: {max_chars: 7}\n")
    assert [line.split(":")[1] for line in said.splitlines()] == ["4", "5", "6"]


def test_what_is_missing_is_named() -> None:
    assert "the file has no `problem`, which it needs, for example `problem: evaluators/matmul.py`." in refusal(
        "", head=BUDGET
    )
    assert "no budget, so the run would never end" in refusal("", head=HEAD)
    assert "name a file in `seeds`, or a member that drafts" in refusal(
        "", head="problem: evaluators/matmul.py\n" + BUDGET
    )


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    cases = {"empty.yaml": b"", "only.yaml": b"# a comment\n", "list.yaml": b"- a\n", "latin.yaml": b"a: 1\nb: \xff\n"}
    said = {}
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
    for path in [*(tmp_path / name for name in cases), tmp_path / "none.yaml", tmp_path]:
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        said[path.name] = str(caught.value)
    assert "empty.yaml: is empty" in said["empty.yaml"]
    assert "only.yaml: is empty" in said["only.yaml"]
    assert "list.yaml:1: expected keys with values" in said["list.yaml"]
    assert "latin.yaml:2: is not UTF-8 text" in said["latin.yaml"]
    assert "none.yaml: no such file" in said["none.yaml"]
    assert "is a folder" in said[tmp_path.name]


def test_a_key_in_a_file_is_refused_and_never_repeated() -> None:
    for text in ("llm: {api_key: sk-secret}", "llm: {models: [{name: a, api_key: sk-secret}]}"):
        said = refusal(text)
        assert "a key never stands in a file" in said
        assert "sk-secret" not in said
    assert "sk-secret" not in refusal("", "llm.api_key=sk-secret")


def test_anchors_cannot_ask_for_a_billion_values() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))
    assert "more than 20000 values" in refusal(bomb)


def test_problem_and_seed_files_must_exist_unless_nobody_will_run_them() -> None:
    head = "problem: evaluators/none.py\nseeds: [seeds/none.py, runs/a-001:best]\n" + BUDGET
    said = refusal("", head=head)
    assert "x.yaml:1: problem: evaluators/none.py: no such file" in said
    assert "x.yaml:2: seeds: seeds/none.py: no such file" in said
    assert "runs/a-001" not in said
    assert parse_config(head, "x.yaml", check_files=False).problem == "evaluators/none.py"


# --- What a value means, and where it comes from ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("1e-3", 1e-3), ("1E6", 1000000), ("1.0e-3", 1e-3), (".5", 0.5), ("5.", 5.0), ("1_000", 1000), ("-7", -7), ("+7", 7),
        ("010", 10), ("1:30", "1:30"), ("2024-01-01", "2024-01-01"), ("0x10", "0x10"), ("~", None), ("", None), ("No", False),
        ("on", True), ("e5", "e5"), ("1e", "1e"), ("-", "-"), (".", "."), ("sm_90", "sm_90"), ("1e999", float("inf")),
    ],
)  # fmt: skip
def test_bare_words_mean_what_they_look_like(word: str, value: Any) -> None:
    assert scalar(word) == value
    assert type(scalar(word)) is type(value)


def test_numbers_that_yaml_1_1_reads_as_text_are_numbers() -> None:
    assert config_of("convergence_threshold: 1e-3").convergence_threshold == 1e-3
    assert config_of("database: {population_size: 1e2}").database.population_size == 100


def test_every_value_knows_its_origin() -> None:
    config = config_of("database:\n  num_islands: 3\nmax_iterations: 9\n", "prompt.max_chars=5000", head=HEAD)
    found = origins(config)
    assert found["database.num_islands"] == "x.yaml:4"
    assert found["budget.steps"] == "x.yaml:5, as max_iterations"
    assert found["prompt.max_chars"] == "--set"
    assert found["database.archive_size"] == "default"
    assert all(found.values())
    assert {key.split(".")[0] for key in found} == set(plain(config))


def test_short_forms() -> None:
    config = parse_config(
        "problem: evaluators/matmul.py\nseeds: seeds/matmul.py\nprompt:\nbudget: {hours: 0.5}\n", "x.yaml"
    )
    assert config.seeds == ("seeds/matmul.py",)
    assert config.budget.seconds == 1800
    member = config_of("council: [{member: command, command: [claude, -p], kinds: [diff, fix]}]").council[0]
    assert member.name == "claude"
    assert member.kinds == {"diff": 1.0, "fix": 1.0}
    assert member.options.command == ("claude", "-p")


def test_members_get_names_of_their_own() -> None:
    config = config_of(
        "council: [rules, rules, {member: openai, model: a/B c}, {member: my.pkg:Thing, depth: {x: [1]}}]"
    )
    assert [m.name for m in config.council] == ["rules", "rules-2", "B-c", "Thing"]
    assert config.council[3].options == {"depth": {"x": [1]}}


# --- --set ------------------------------------------------------------------------------------------------------------


def test_set_wins_over_the_file_by_either_name() -> None:
    assert config_of("", "budget.steps=5").budget.steps == 5
    assert config_of("", "max_iterations=5").budget.steps == 5
    assert config_of("", "budget.steps=5", "max_iterations=5").budget.steps == 5
    assert config_of("max_iterations: 7\n", "budget.steps=5", head=HEAD).budget.steps == 5
    assert "mean the same and differ" in refusal("", "budget.steps=5", "max_iterations=6")


def test_set_reaches_into_lists_and_makes_sections() -> None:
    config = config_of(
        "council: [rules]", "council.1.member=mailbox", "council.0={member: rules, weight: 2}", "seeds=[]"
    )
    assert [(m.member, m.weight) for m in config.council] == [("rules", 2.0), ("mailbox", 1.0)]
    assert config.seeds == ()
    assert config_of("", "council=[mailbox]").council[0].member == "mailbox"
    assert config_of("", "tuner.points=1e1").tuner.points == 10
    assert config_of("", "budget.usd=2", "budget.steps=").budget.steps is None


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("budget.steps", "--set budget.steps: expected KEY=VALUE"),
        ("=3", "--set =3: expected KEY=VALUE"),
        ("budget.stesp=3", '--set: unknown key "stesp" in budget; did you mean "steps"?'),
        ("budget.steps=x", '--set: budget.steps: expected a whole number, got the text "x"'),
        ("problem.a=3", '"a" would stand inside the text "evaluators/matmul.py" (x.yaml:1), which has no keys.'),
        ("seeds.7=a", 'the list has 1 entries; expected its number from 0, got "7".'),
        ("seeds.x=a", 'got "x".'),
        ("seeds=[", "--set"),
        ("problem=none.py", "--set: problem: none.py: no such file"),
    ],
)
def test_a_slip_in_set_gets_its_sentence(override: str, sentence: str) -> None:
    assert sentence in refusal("", override)


# --- Paths ------------------------------------------------------------------------------------------------------------


def test_paths_are_found_here_then_beside_the_file_then_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("repo/evaluators", "repo/configs", "repo/runs/x-001", "elsewhere/evaluators"):
        (tmp_path / name).mkdir(parents=True)
    text = "problem: evaluators/p.py\nbudget: {steps: 1}\ncouncil: [mailbox]\n"
    (tmp_path / "repo/evaluators/p.py").touch()
    (tmp_path / "repo/configs/x.yaml").write_text(text)
    monkeypatch.chdir(tmp_path / "repo")
    config = load_config("configs/x.yaml")
    assert config.problem == "evaluators/p.py"
    (tmp_path / "repo/runs/x-001/config.yaml").write_text(dump(config))
    monkeypatch.chdir(tmp_path / "repo/configs")
    assert os.path.samefile(load_config("x.yaml").problem, tmp_path / "repo/evaluators/p.py")
    monkeypatch.chdir(tmp_path)
    assert load_config("repo/configs/x.yaml").problem == "repo/evaluators/p.py"
    assert load_config("repo/runs/x-001/config.yaml").problem == "repo/evaluators/p.py"
    (tmp_path / "elsewhere/evaluators/p.py").touch()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_config("../repo/configs/x.yaml").problem == "evaluators/p.py"


# --- OpenEvolve -------------------------------------------------------------------------------------------------------


def their_keys(kind: Any = openevolve.config.Config, section: str = "") -> list[str]:
    keys = []
    for field in dataclasses.fields(kind):
        inner = getattr(kind(), field.name, None) if not section else None
        if dataclasses.is_dataclass(inner):
            keys += their_keys(type(inner), f"{field.name}.")
        elif not field.name.startswith("_"):
            keys.append(section + field.name)
    return keys


def ours() -> set[str]:
    config = parse_config(HEAD + BUDGET, "x.yaml")
    return {re.sub(r"\.\d+", "", key) for key, _, _ in flat(config)}


@pytest.mark.parametrize("key", their_keys())
def test_every_key_of_openevolve_is_honoured_or_named(key: str) -> None:
    section, _, name = key.rpartition(".")
    moved = {".".join(map(str, place)) for place in other.MOVED} | {"diff_based_evolution"}
    honoured = key in ours() or key in moved or (section == "llm" and name in other.OF_LLM)
    told = key in other.DEAD or key in other.UNSUPPORTED or section in other.UNSUPPORTED
    assert honoured != told, f"{key}: honoured {honoured}, told of {told}"


def test_the_tables_name_no_key_that_openevolve_does_not_have() -> None:
    theirs = {*their_keys(), "evolution_trace"}
    assert {*other.DEAD, *other.UNSUPPORTED, *other.AGREED} <= theirs


def test_an_ordinary_openevolve_file_becomes_ours() -> None:
    config = config_of(
        """
max_iterations: 50
checkpoint_interval: 10
random_seed: 7
diff_based_evolution: false
language: python
llm:
  primary_model: big
  secondary_model: small
  secondary_model_weight: 0.3
  api_base: http://localhost:8000/v1
  api_key: ${MY_KEY}
  temperature: 0.7
  models:
    - {name: org/third, weight: 2, temperature: null, max_tokens: 100, random_seed: 3}
prompt: {num_top_programs: 3, system_message: hello}
database: {population_size: 50, in_memory: true}
evaluator: {timeout: 60, parallel_evaluations: 4, cascade_evaluation: false}
evolution_trace: {enabled: true}
""",
        head=HEAD,
    )
    assert config.budget.steps == 50
    assert config.concurrency.cpu == 4
    assert config.prompt.kinds.get("diff") is None
    assert config.prompt.kinds["rewrite"] > 0
    assert [(m.name, m.weight) for m in config.council] == [("third", 2), ("big", 1), ("small", 0.3)]
    assert all(m.options.api_key_env == "MY_KEY" and m.options.temperature == 0.7 for m in config.council)
    assert config.council[0].options.max_tokens == 100
    named = {re.findall('"(.+?)"', w)[0] for w in config.warnings}
    assert named == {
        "checkpoint_interval",
        "llm.models.0.random_seed",
        "prompt.system_message",
        "database.in_memory",
        "evaluator.cascade_evaluation",
        "evolution_trace",
    }
    assert all(w.startswith("x.yaml:") for w in config.warnings)
    assert origins(config)["council.1.model"] == "x.yaml:10, as llm.primary_model"


def test_who_proposes_is_never_lost_in_silence() -> None:
    assert "expected openai" in refusal("llm: {provider: claude_code, primary_model: m}")
    assert "council: [mailbox]" in refusal("llm: {manual_mode: true, primary_model: m}")
    assert "has no name" in refusal("llm: {models: [{weight: 1}]}")
    assert [m.name for m in config_of("council: [rules]\nllm: {primary_model: m}").council] == ["rules", "m"]


# --- Properties -------------------------------------------------------------------------------------------------------

KEYS = sorted({k.split(".")[-1] for k in (*ours(), *their_keys())} | {"member", "model", "hours", "name", "params"})
WORDS = [*OPTIONS, *EDIT_KINDS, *TARGETS, "1e-3", "no", "~", "a:b", "", "evolution", "${A}", "\x85", "é", "'", "#"]
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 10**20), st.floats(), st.sampled_from(WORDS), st.text(max_size=12)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=6), inner, max_size=6)
    ),
    max_leaves=25,
)


def loads_or_says(text: str, *overrides: str) -> None:
    with contextlib.suppress(ConfigError):
        config = parse_config(text, "x.yaml", overrides, check_files=False)
        assert reread(dump(config)) == config


def reread(text: str) -> RunConfig:
    try:
        return parse_config(text, "again.yaml", check_files=False)
    except ConfigError as error:
        raise AssertionError(f"{error}\n{text}") from error


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
@example("%YAML 9999999999999999999.1\n---\na: 1")
@example('a: "\\U99999999"')
@example("a: !!int ''")
@example("a: !!float ''\nb: !!bool maybe")
@example("? ? ? a")
@example("\ufeffproblem: x")
@example("a: " + "9" * 5000)
@example("!<tag:yaml.org,2002:map> x")
@example("problem: 'a\x00b'")
def test_any_text_is_a_configuration_or_a_sentence(text: str) -> None:
    loads_or_says(text)
    loads_or_says(HEAD + BUDGET + text)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6))
def test_any_values_under_known_keys_are_a_configuration_or_a_sentence(values: dict[str, Any]) -> None:
    loads_or_says(yaml.safe_dump({"problem": "p.py", "budget": {"steps": 3}, **values}, allow_unicode=True))


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30), VALUES)
def test_any_override_is_a_configuration_or_a_sentence(key: str, value: Any) -> None:
    loads_or_says(HEAD + BUDGET, f"{key}={value}")
    loads_or_says(HEAD + BUDGET, f"council.0.{key}={value}", f"prompt={value}")


@settings(max_examples=100, deadline=None)
@given(
    options=st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUES, max_size=3),
    variant=st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
    figure=st.floats(0, allow_infinity=False, allow_subnormal=True),
    params=st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=5), st.integers() | st.booleans(), max_size=4
    ),
)
def test_what_a_run_keeps_loads_to_an_equal_configuration(
    options: Any, variant: str, figure: float, params: Any
) -> None:
    member = {"member": "my.pkg:Thing", "name": "m", "weight": 1.0, **options}
    workload = {"name": variant, "params": params, "mode": "hot"}
    more = {"council": [member], "variant": variant, "convergence_threshold": figure, "workloads": [workload]}
    loads_or_says(yaml.safe_dump({"problem": "p", "budget": {"steps": 1}, **more}, allow_unicode=False))
