"""The doctor says what is there, what is not, and what to do; and never what a key is."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from evolve.config import parse_config
from evolve.terminal import doctor, facts
from evolve.terminal.facts import GIB, Finding, State

ROOT = Path(__file__).parent.parent.parent
GOOD = {
    "torch": "2.13.0",
    "triton": "3.7.1",
    "openevolve": "0.4.0",
    "openai": "3.51.0",
    "libcst": "1.9",
    "optuna": "5.0",
}


def states(findings: list[Finding]) -> dict[str, State]:
    return {f.name: f.state for f in findings}


def shown(findings: list[Finding]) -> tuple[int, str]:
    out = io.StringIO()
    return doctor.show(findings, Console(file=out, width=40)), out.getvalue()


# --- Versions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("torch", "triton"), [("2.13.0+cpu", "3.7.1"), ("2.13.1", "3.7.1"), ("2.11.0", "3.6.0")])
def test_a_tried_pair_is_fine(torch: str, triton: str) -> None:
    found = facts.version_findings({**GOOD, "torch": torch, "triton": triton}.get)
    assert set(states(found).values()) == {"ok"}


@pytest.mark.parametrize(
    ("torch", "triton"), [("2.14.0", "3.8.0"), ("2.13.0", "3.7.0"), ("2.13.0", "3.9.0"), ("2.12", "3.6")]
)
def test_an_untried_pair_warns_and_names_the_tried_ones(torch: str, triton: str) -> None:
    found = facts.version_findings({**GOOD, "torch": torch, "triton": triton}.get)
    pair = next(f for f in found if f.state != "ok")
    assert (pair.name, pair.state) == ("torch with triton", "warn")
    assert "2.11 with 3.6 and 2.13 with 3.7.1" in pair.found


def test_what_is_missing_or_too_old_fails_with_what_to_do() -> None:
    found = facts.version_findings({**GOOD, "triton": None, "torch": "2.10.1", "openevolve": "0.10"}.get)
    bad = {f.name: f for f in found if f.state != "ok"}
    assert set(bad) == {"triton", "torch", "torch with triton"} - {"torch with triton"}
    assert bad["triton"].found == "not installed"
    assert bad["torch"].todo == "Install 2.11 or later."


# --- The GPU ----------------------------------------------------------------------------------------------------------


class NVMLError(Exception):
    pass


def fake_nvml(**changes: Any) -> SimpleNamespace:
    one = {
        "NVMLError": NVMLError,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "580.1",
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda i: i,
        "nvmlDeviceGetName": lambda h: "NVIDIA H200",
        "nvmlDeviceGetCudaComputeCapability": lambda h: (9, 0),
        "nvmlDeviceGetMemoryInfo": lambda h: SimpleNamespace(free=139 * GIB, total=140 * GIB),
        "nvmlDeviceGetComputeRunningProcesses": lambda h: [],
    }
    return SimpleNamespace(**{**one, **changes})


def fails(*_: object) -> None:
    raise NVMLError("Driver/library version mismatch")


def test_no_gpu_is_fine_and_says_so() -> None:
    for nvml in (None, fake_nvml(nvmlInit=fails), fake_nvml(nvmlDeviceGetCount=lambda: 0)):
        (found,) = facts.gpu_findings(nvml, "2.13.0+cpu")
        assert found.state == "ok"
        assert "none, which is fine" in found.found


def test_a_gpu_is_named_with_its_memory() -> None:
    found = facts.gpu_findings(fake_nvml(), "2.13.0")
    assert states(found) == {"driver": "ok", "GPU 0": "ok"}
    assert found[1].found == "NVIDIA H200, sm_90, 139 of 140 GiB free"


def test_what_is_wrong_with_a_gpu_is_named() -> None:
    busy = fake_nvml(nvmlDeviceGetComputeRunningProcesses=lambda h: [SimpleNamespace(pid=4711)])
    assert "Processes 4711 use it too" in facts.gpu_findings(busy, "2.13.0")[1].todo
    old = fake_nvml(nvmlDeviceGetCudaComputeCapability=lambda h: (7, 5))
    assert facts.gpu_findings(old, "2.13.0")[1].state == "warn"
    assert states(facts.gpu_findings(fake_nvml(), "2.13.0+cpu"))["torch"] == "warn"
    broken = facts.gpu_findings(fake_nvml(nvmlDeviceGetMemoryInfo=fails), "2.13.0")
    assert states(broken) == {"GPU": "fail"}
    assert "version mismatch" in broken[0].found


# --- Tools, protections, room -----------------------------------------------------------------------------------------


def test_tools_of_the_wheel_are_found_without_importing_it() -> None:
    before = set(sys.modules)
    found = facts.tool_findings(facts.triton_tools())
    assert "triton" not in set(sys.modules) - before
    assert [f.name for f in found] == ["ptxas", "cuobjdump", "nvdisasm", "ncu"]


def test_missing_tools_are_named(tmp_path: Path) -> None:
    (tmp_path / "cuobjdump").touch(mode=0o755)
    (tmp_path / "nvdisasm").touch(mode=0o644)
    assert states(facts.tool_findings(tmp_path)) == {
        "ptxas": "fail",
        "cuobjdump": "ok",
        "nvdisasm": "warn",
        "ncu": "ok",
    }
    assert states(facts.tool_findings(None))["ptxas"] == "fail"


@pytest.mark.skipif(sys.platform != "linux", reason="asks a Linux kernel")
def test_protections_are_really_asked_for_and_change_nothing_here() -> None:
    before = Path("/proc/self/ns/user").readlink()
    found = facts.protections()
    assert list(found) == [
        "user namespace", "pid namespace", "mount namespace", "network namespace",
        "seccomp filter", "resource limits", "death with the parent",
    ]  # fmt: skip
    assert found["resource limits"] == ""
    assert found["death with the parent"] == ""
    assert not any("probe itself failed" in reason for reason in found.values())
    assert Path("/proc/self/ns/user").readlink() == before


def test_a_protection_that_is_not_to_be_had_warns_with_why_and_what_to_do() -> None:
    good, bad = facts.protection_findings({"seccomp filter": "", "pid namespace": "Operation not permitted"})
    assert (good.state, bad.state) == ("ok", "warn")
    assert bad.found == "not to be had: Operation not permitted"
    assert "unjailed" in bad.todo


@pytest.mark.parametrize(("free", "state"), [(0.2, "fail"), (3, "warn"), (50, "ok")])
def test_room_on_disk(free: float, state: State, tmp_path: Path) -> None:
    asked = []

    def usage(path: Path) -> SimpleNamespace:
        asked.append(path)
        return SimpleNamespace(free=free * GIB)

    found = facts.machine_findings(tmp_path / "not" / "there", usage)
    assert [f.state for f in found if f.name.startswith("disk")] == [state, state]
    assert asked[0] == tmp_path


# --- Members and files ------------------------------------------------------------------------------------------------


def config_of(council: str) -> Any:
    return parse_config(
        f"problem: p\nseeds: [s]\nbudget: {{steps: 1}}\ncouncil: {council}", "x.yaml", check_files=False
    )


def test_keys_are_present_or_not_and_never_shown() -> None:
    config = config_of(
        "[rules, {member: openai, model: a}, {member: openai, model: b, api_key_env: B_KEY},"
        " {member: openai, model: c, api_key_env: C_KEY}, {member: openai, model: d, api_base: 'http://localhost:1'}]"
    )
    environ = {"OPENAI_API_KEY": "sk-secret-one", "B_KEY": " sk-secret-two\n", "C_KEY": ""}
    found = doctor.member_findings(config, environ)
    assert states(found) == {"rules": "ok", "a": "ok", "b": "warn", "c": "fail", "d": "ok"}
    assert "export C_KEY=" in next(f.todo for f in found if f.name == "c")
    assert "secret" not in shown(found)[1]
    assert "secret" not in shown(doctor.member_findings(None, environ))[1]


def test_a_command_must_be_there() -> None:
    found = doctor.member_findings(config_of(f"[{{member: command, command: [{sys.executable}]}}]"), {})
    assert [f.state for f in found] == ["ok"]
    found = doctor.member_findings(config_of("[{member: command, command: [no-such-agent]}]"), {})
    assert [f.state for f in found] == ["fail"]


def test_files_that_do_not_load_fail_with_their_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "x.yaml"
    config.write_text("problem: p.py\ncouncil: [mailbox]\nbudget: {steps: 1}\ncheckpoint_interval: 5\n")
    found, loaded = doctor.file_findings(config)
    assert loaded is None
    assert "p.py: no such file" in found[0].found
    (tmp_path / "p.py").write_text("1 / 0\n")
    found, loaded = doctor.file_findings(config)
    assert loaded is not None
    assert [(f.name, f.state) for f in found] == [
        ("configuration", "ok"),
        ("configuration", "warn"),
        ("problem", "fail"),
    ]
    assert "p.py:1: does not load: ZeroDivisionError" in found[2].found


# --- The view ---------------------------------------------------------------------------------------------------------


def test_the_exit_status_is_1_only_when_something_failed() -> None:
    one = {state: Finding(part="p", name="n", state=state, found="f", todo="t") for state in ("ok", "warn", "fail")}
    assert shown([one["ok"], one["warn"]])[0] == 0
    status, text = shown(list(one.values()))
    assert status == 1
    assert "1 failure, 1 warning." in text
    assert text.count("\np\n") == 1


def test_the_whole_examination_names_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = doctor.examine()
    assert list(dict.fromkeys(f.part for f in found)) == [
        "versions",
        "GPU",
        "tools",
        "protections",
        "machine",
        "members",
    ]
    assert all(f.todo for f in found if f.state == "fail")
