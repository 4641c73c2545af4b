"""What each key of an OpenEvolve 0.4 configuration becomes here: the same key, one of ours, or a warning that names it.

A key that would have changed who proposes or what it costs is refused where it cannot be honoured; one whose loss
changes nothing of the result warns. OpenEvolve itself is not imported: a test holds these tables against its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from evolve.config.nodes import Node, Place, at, put, said, without
from evolve.config.sentences import unknown_key
from evolve.errors import ConfigError

MOVED: Mapping[Place, tuple[Place, float]] = {  # to where, and times what
    ("max_iterations",): (("budget", "steps"), 1),
    ("evaluator", "parallel_evaluations"): (("concurrency", "cpu"), 1),
    ("budget", "hours"): (("budget", "seconds"), 3600),  # ours, for people
}

# Read by nothing in OpenEvolve 0.4.0 either, whatever its comments say.
DEAD = (
    "prompt.use_meta_prompting",
    "prompt.meta_prompt_weight",
    "database.in_memory",
    "database.diversity_metric",
    "evaluator.memory_limit_mb",
    "evaluator.cpu_limit",
    "evaluator.distributed",
    "evaluator.enable_artifacts",
    "evaluator.max_artifact_storage",
    "llm.system_message",
)

_JOURNAL = "the journal keeps every event of every step, prompts and replies included"
_TEMPLATES = "what a prompt says stands in text files; put your own into prompt.template_dir"
_JUDGE = "the judge's stages stop at the first failure and have limits of their own"
_CELLS = "cells come from traits of the built kernel, on the axes that the problem names"
_DIGESTS = "the judge finds the same candidate by its plan and its machine code"
_AGENTS = "an agent is a member of its own: `council: [{member: command, command: [...]}]`"
_SEEDED = "all randomness derives from random_seed and the step"

UNSUPPORTED: Mapping[str, str] = {
    "checkpoint_interval": f"{_JOURNAL}, as it happens",
    "log_level": "the screen says what happens, and the journal keeps it",
    "log_dir": _JOURNAL,
    "language": "candidates are Python files with Triton kernels",
    "file_suffix": "candidates are Python files",
    "max_code_length": "the judge's screen bounds a candidate's size",
    "enforce_evolve_blocks": "an edit outside the EVOLVE-BLOCK is always refused",
    "diff_pattern": "replies use SEARCH/REPLACE blocks",
    "early_stopping_metric": "the score is the only metric",
    "max_tasks_per_child": "every candidate has processes of its own",
    "evolution_trace": _JOURNAL,
    "llm.evaluator_models": "no model scores a candidate; the judge measures it",
    "llm.init_client": "a client of your own is a member: `member: package.module:Name`",
    "llm.random_seed": _SEEDED,
    "llm.max_budget_usd": _AGENTS,
    "llm.max_ai_credits": _AGENTS,
    "llm.allow_all_tools": _AGENTS,
    "prompt.system_message": _TEMPLATES,
    "prompt.evaluator_system_message": "no model scores a candidate; the judge measures it",
    "prompt.programs_as_changes_description": _TEMPLATES,
    "prompt.system_message_changes_description": _TEMPLATES,
    "prompt.initial_changes_description": _TEMPLATES,
    "prompt.use_template_stochasticity": _TEMPLATES,
    "prompt.template_variations": _TEMPLATES,
    "prompt.include_artifacts": "the judge's feedback is always in the prompt",
    "prompt.max_artifact_bytes": "prompt.max_chars bounds the whole prompt; errors keep their tail",
    "prompt.artifact_security_filter": "it would hide compiler messages; keys never reach a prompt",
    "prompt.suggest_simplification_after_chars": _TEMPLATES,
    "prompt.include_changes_under_chars": _TEMPLATES,
    "prompt.concise_implementation_max_lines": _TEMPLATES,
    "prompt.comprehensive_implementation_min_lines": _TEMPLATES,
    "prompt.diff_summary_max_line_len": _TEMPLATES,
    "prompt.diff_summary_max_lines": _TEMPLATES,
    "prompt.code_length_threshold": _TEMPLATES,
    "database.db_path": _JOURNAL,
    "database.log_prompts": _JOURNAL,
    "database.feature_dimensions": _CELLS,
    "database.feature_bins": _CELLS,
    "database.diversity_reference_size": _CELLS,
    "database.random_seed": _SEEDED,
    "database.artifacts_base_path": _JOURNAL,
    "database.artifact_size_threshold": _JOURNAL,
    "database.cleanup_old_artifacts": _JOURNAL,
    "database.artifact_retention_days": _JOURNAL,
    "database.max_snapshot_artifacts": _JOURNAL,
    "database.novelty_llm": _DIGESTS,
    "database.embedding_model": _DIGESTS,
    "database.embedding_api_base": _DIGESTS,
    "database.similarity_threshold": _DIGESTS,
    "evaluator.max_retries": "a candidate's verdict is final, and machinery that broke is retried",
    "evaluator.cascade_evaluation": _JUDGE,
    "evaluator.cascade_thresholds": _JUDGE,
    "evaluator.use_llm_feedback": "no model scores a candidate; the judge measures it",
    "evaluator.llm_feedback_weight": "no model scores a candidate; the judge measures it",
}

# Values that ask for what we do anyway: no warning.
AGREED: Mapping[str, tuple[Any, ...]] = {
    "enforce_evolve_blocks": (True,),
    "language": ("python", None),
    "file_suffix": (".py",),
    "early_stopping_metric": ("combined_score", "score"),
    "prompt.artifact_security_filter": (False,),
    "prompt.include_artifacts": (True,),
    "evaluator.use_llm_feedback": (False,),
}

# The keys of `llm` and of each of `llm.models` that an openai member has too; `llm`'s hold for all of its models.
SHARED = ("api_base", "temperature", "top_p", "max_tokens", "timeout", "retries", "retry_delay", "reasoning_effort")
OURS = ("api_key_env", "extra_body", "price")
OF_MODEL = (*SHARED, *OURS, "api_key", "name", "weight", "provider", "manual_mode")
IN_PAIRS = ("primary_model", "primary_model_weight", "secondary_model", "secondary_model_weight")
OF_LLM = (*OF_MODEL, *IN_PAIRS, "models")

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def fold(root: Node) -> tuple[Node, list[str]]:
    """The tree in our own keys alone, and a sentence for each key that has no effect."""
    warnings: list[str] = []
    root = _drop(root, warnings)
    for old, (new, factor) in MOVED.items():
        root = _move(root, old, new, factor)
    root = _edit_kinds(root)
    keys = dict(root.value)
    llm = keys.pop("llm", None)
    members = list(_members(llm)) if llm and llm.value is not None else []
    if members:
        council = keys.get("council") or Node(value=[], origin=members[0].origin)
        given = council.value if isinstance(council.value, list) else [council] if council.value is not None else []
        keys["council"] = replace(council, value=[*given, *members])
    return replace(root, value=keys), warnings


def _drop(root: Node, warnings: list[str]) -> Node:
    for key in (*UNSUPPORTED, *DEAD):
        for place in _places(root, key):
            node = at(root, place)
            if node is None:
                continue
            root = without(root, place)
            if key in AGREED and node.plain() in AGREED[key]:
                continue
            name = ".".join(map(str, place))
            if key in DEAD:
                warnings.append(
                    f'{node.origin}: "{name}" has no effect; OpenEvolve 0.4 reads it nowhere either. Remove it.'
                )
            else:
                warnings.append(
                    f'{node.origin}: "{name}" is OpenEvolve\'s and has no effect: {UNSUPPORTED[key]}. Remove it.'
                )
    return root


def _places(root: Node, key: str) -> list[Place]:
    """Where a key may stand: one of `llm` stands in each of its models too."""
    section, _, name = key.rpartition(".")
    places: list[Place] = [(*section.split("."), name) if section else (name,)]
    models = at(root, ("llm", "models"))
    if section == "llm" and models is not None and isinstance(models.value, list):
        places += [("llm", "models", i, name) for i in range(len(models.value))]
    return places


def _move(root: Node, old: Place, new: Place, factor: float) -> Node:
    node, there = at(root, old), at(root, new)
    if node is None:
        return root
    root = without(root, old)
    key, our_key = ".".join(map(str, old)), ".".join(map(str, new))
    if node.value is None:
        return root
    if factor != 1:
        if isinstance(node.value, bool) or not isinstance(node.value, int | float):
            raise ConfigError(f"{node.origin}: {key}: expected a number, got {said(node)}.")
        node = replace(node, value=node.value * factor)
    if there is not None and there.value not in (None, node.value):
        if (there.origin == "--set") == (node.origin == "--set"):
            raise ConfigError(
                f"{node.origin}: {key} and {our_key} ({there.origin}) mean the same and differ; keep {our_key} alone."
            )
        if there.origin == "--set":
            return root  # the command line wins over the file
    return put(root, new, replace(node, origin=f"{node.origin}, as {key}"), f"{node.origin}: {key}")


def _edit_kinds(root: Node) -> Node:
    """`diff_based_evolution: false` asks for whole files."""
    node = at(root, ("diff_based_evolution",))
    if node is None:
        return root
    root = without(root, ("diff_based_evolution",))
    if not isinstance(node.value, bool):
        raise ConfigError(f"{node.origin}: diff_based_evolution: expected true or false, got {said(node)}.")
    if node.value or at(root, ("prompt", "kinds")) is not None:
        return root
    origin = f"{node.origin}, as diff_based_evolution"
    kinds = {k: Node(value=w, origin=origin) for k, w in {"rewrite": 7.0, "crossover": 1.0, "explore": 1.0}.items()}
    return put(root, ("prompt", "kinds"), Node(value=kinds, origin=origin), origin)


def _members(llm: Node) -> Iterator[Node]:
    """Each of `llm.models` as an openai member, with what `llm` says for all of them."""
    if not isinstance(llm.value, dict):
        raise ConfigError(f"{llm.origin}: llm: expected a section with `models`, got {said(llm)}.")
    _only(llm, "llm", OF_LLM)
    shared = {k: v for k, v in _options(llm, "llm").items() if k not in ("model", "weight")}
    models = llm.value.get("models")
    if models is not None and models.value is not None:
        if not isinstance(models.value, list):
            raise ConfigError(f"{models.origin}: llm.models: expected a list of models, got {said(models)}.")
        for i, model in enumerate(models.value):
            where = f"llm.models.{i}"
            if not isinstance(model.value, dict):
                raise ConfigError(f"{model.origin}: {where}: expected keys such as `name: gpt-5`, got {said(model)}.")
            _only(model, where, OF_MODEL)
            yield _member(shared | _options(model, where), model.origin, where)
    for which in ("primary", "secondary"):
        name, weight = (llm.value.get(f"{which}_model{end}") for end in ("", "_weight"))
        if name is None or name.value is None or (weight is not None and weight.value == 0):
            continue
        chosen = {"model": _via(name, f"llm.{which}_model")}
        default = Node(value=1.0 if which == "primary" else 0.2, origin="default")
        chosen["weight"] = _via(weight, f"llm.{which}_model_weight") if weight and weight.value is not None else default
        yield _member(shared | chosen, name.origin, f"llm.{which}_model")


def _member(keys: dict[str, Node], origin: str, where: str) -> Node:
    if "model" not in keys:
        raise ConfigError(f"{origin}: {where}: has no name; write the model's, for example `name: gpt-5`.")
    kind = Node(value="openai", origin=f"{origin}, as {where}")
    return Node(value={"member": kind, **keys}, origin=kind.origin)


def _options(section: Node, where: str) -> dict[str, Node]:
    _refuse_other_clients(section, where)
    found: dict[str, Node] = {}
    for key, node in section.value.items():
        if node.value is None:
            continue  # OpenEvolve's way of saying: as in `llm`, or the default
        if key == "api_key":
            found["api_key_env"] = _key_variable(node, where)
        elif key in (*SHARED, *OURS, "weight"):
            found[key] = _via(node, f"{where}.{key}")
        elif key == "name":
            found["model"] = _via(node, f"{where}.{key}")
    return found


def _refuse_other_clients(section: Node, where: str) -> None:
    provider, manual = section.value.get("provider"), section.value.get("manual_mode")
    if provider is not None and provider.value not in (None, "openai"):
        raise ConfigError(f"{provider.origin}: {where}.provider: got {said(provider)}, expected openai; {_AGENTS}.")
    if manual is not None and manual.value not in (None, False):
        raise ConfigError(
            f"{manual.origin}: {where}.manual_mode: replies by hand are a member; write `council: [mailbox]`."
        )


def _key_variable(node: Node, where: str) -> Node:
    """`${NAME}` becomes the variable's name. The value itself is never repeated: it may be the key."""
    match = _VARIABLE.fullmatch(node.value) if isinstance(node.value, str) else None
    if match is None:
        raise ConfigError(
            f"{node.origin}: {where}.api_key: a key never stands in a file. Put it into an environment variable and "
            "write `api_key: ${OPENAI_API_KEY}`, or leave it out if the server asks for none."
        )
    return _via(replace(node, value=match[1]), f"{where}.api_key")


def _only(section: Node, where: str, known: tuple[str, ...]) -> None:
    for key, node in section.value.items():
        if key not in known:
            raise ConfigError(unknown_key(node.origin, key, where, known))


def _via(node: Node, key: str) -> Node:
    return replace(node, origin=f"{node.origin}, as {key}")
