"""`evolve doctor`: is this machine fit to search on, and what is to be done about it.

What is said of the machine comes from `facts.py`; here are a configuration's own needs, and the view. Calibration of a
GPU is the judge's affair, and of a key it is only asked whether there is one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from evolve.config import OPTIONS, CommandOptions, OpenAIOptions, RunConfig, load_config
from evolve.errors import ConfigError, ProblemError
from evolve.problem import load_problem
from evolve.terminal import facts
from evolve.terminal.facts import Finding, State


def examine(config: Path | None = None) -> list[Finding]:
    """Everything. With a configuration, also what its run would need."""
    files, loaded = file_findings(config) if config else ([], None)
    return [
        *facts.version_findings(),
        *facts.gpu_findings(facts.nvml(), facts.installed("torch")),
        *facts.tool_findings(facts.triton_tools()),
        *facts.protection_findings(facts.protections()),
        *facts.machine_findings(),
        *member_findings(loaded, os.environ),
        *files,
    ]


def member_findings(config: RunConfig | None, environ: Mapping[str, str]) -> list[Finding]:
    """Whether each member could be asked: its key is set or not, its program found or not."""
    if config is None:
        there = (
            "set"
            if environ.get("OPENAI_API_KEY", "").strip()
            else "not set; only members at OpenAI's own address need it"
        )
        return [Finding(part="members", name="OPENAI_API_KEY", state="ok", found=there)]
    findings = []
    for member in config.council:
        if isinstance(member.options, OpenAIOptions):
            findings.append(_key(member.name, member.options.api_key_env, environ))
        elif isinstance(member.options, CommandOptions):
            findings.append(_program(member.name, member.options.command[0]))
        else:
            found = "needs no key" if member.member in OPTIONS else f"{member.member} is asked for when a run starts"
            findings.append(Finding(part="members", name=member.name, state="ok", found=found))
    return findings


def _program(member: str, program: str) -> Finding:
    if shutil.which(program):
        return Finding(part="members", name=member, state="ok", found=f"{program} is there")
    todo = f"Install {program}, or write its full path in `command`."
    return Finding(part="members", name=member, state="fail", found=f"{program} is not found", todo=todo)


def _key(member: str, variable: str | None, environ: Mapping[str, str]) -> Finding:
    if variable is None:
        return Finding(part="members", name=member, state="ok", found="its server is asked without a key")
    value = environ.get(variable, "")
    if not value.strip():
        todo = f"`export {variable}=...` in the shell that runs evolve; no file needs to hold it."
        return Finding(part="members", name=member, state="fail", found=f"{variable} is not set", todo=todo)
    if value != value.strip():
        todo = "Set it again without the space or line end around it."
        return Finding(part="members", name=member, state="warn", found=f"{variable} has blanks around it", todo=todo)
    return Finding(part="members", name=member, state="ok", found=f"{variable} is set")


def file_findings(path: Path) -> tuple[list[Finding], RunConfig | None]:
    try:
        config = load_config(path)
    except ConfigError as error:
        return [Finding(part="files", name="configuration", state="fail", found=str(error))], None
    findings = [Finding(part="files", name="configuration", state="ok", found=str(path))]
    findings += [Finding(part="files", name="configuration", state="warn", found=w) for w in config.warnings]
    try:
        variant = load_problem(config.problem).variant(config.variant)
        findings.append(Finding(part="files", name="problem", state="ok", found=f"{config.problem}, {variant.name}"))
    except ProblemError as error:
        findings.append(Finding(part="files", name="problem", state="fail", found=str(error)))
    return findings, config


# --- The view ---------------------------------------------------------------------------------------------------------

COLOURS: Mapping[State, str] = {"ok": "green", "warn": "yellow", "fail": "red"}


def show(findings: Sequence[Finding], console: Console) -> int:
    """A line each, and under it what to do. The exit status: 1 if anything failed."""
    width = max((len(f.name) for f in findings), default=0)
    part = ""
    for finding in findings:
        if finding.part != part:
            part = finding.part
            console.print(Text(f"\n{part}", style="bold"))
        line = Text("  ").append(f"{finding.state:<4}", style=COLOURS[finding.state])
        console.print(line.append(f"  {finding.name:<{width}}  {finding.found}"), soft_wrap=True)
        if finding.todo:
            console.print(Text(" " * (width + 10) + finding.todo, style="italic"), soft_wrap=True)
    failed, warned = (sum(f.state == kind for f in findings) for kind in ("fail", "warn"))
    console.print(Text(f"\n{_count(failed, 'failure')}, {_count(warned, 'warning')}.", style="bold"))
    return int(failed > 0)


def _count(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"
