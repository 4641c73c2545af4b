"""What a jail is made from: the folders to show, the environment to pass on, the users to map.

Decided here, outside, by the judge; carried out inside by `jailed/confine.py`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from evolve.errors import MachineryError

SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/sys/devices/system/cpu")
PASSED_ON = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TZ")  # the allow-list of the environment

# The packages above `jailed` without their own __init__: those may import what the jail does not show.
BOOT = """
import sys, types
for name, path in (("evolve", sys.argv[2]), ("evolve.judge", sys.argv[2] + "/judge")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [path]
sys.path[:] = sys.argv[3:]
from evolve.judge.jailed.server import main
main()
"""


def package() -> str:
    """Where evolve itself is imported from."""
    return str(Path(__file__).resolve().parent.parent)


def import_paths(show: Sequence[str]) -> list[str]:
    """Our own import path, without what is not a folder: inside, only the shown ones among them exist."""
    return [*map(str, show), *(str(Path(p).resolve()) for p in sys.path if p and Path(p).exists())]


def shown(paths: Sequence[str], show: Sequence[str]) -> list[str]:
    """Python, its libraries, and of evolve this package alone: problems, configurations and runs stay outside."""
    homes = [_home_of(name) for name in ("torch", "triton", "numpy")]
    standard = [p for p in paths if p.startswith((sys.base_prefix, sys.prefix))]
    return [*SYSTEM, sys.prefix, sys.base_prefix, *standard, *homes, f"{package()}/judge/jailed", *map(str, show)]


def _home_of(package: str) -> str:
    """The folder that it is imported from: site-packages, as a rule. Found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise MachineryError(f"{package} is not installed; `pip install -e .` installs everything.")
    return str(Path(spec.origin).resolve().parent.parent)


def environment(interpret: bool) -> dict[str, str]:
    kept = {k: os.environ[k] for k in PASSED_ON if k in os.environ}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    fixed = {
        "HOME": "/",
        "USER": "jail",
        "LOGNAME": "jail",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
    }
    return kept | threads | fixed | ({"TRITON_INTERPRET": "1"} if interpret else {})


def write_maps(pid: int) -> bool:
    """Root outside is never root inside's children: where we may, a second user who owns nothing is mapped for them."""
    uid, gid = os.geteuid(), os.getegid()
    choices = [(f"0 {uid} 1\n1 65534 1", f"0 {gid} 1\n1 65534 1")] if uid == 0 else []
    for users, groups in [*choices, (f"0 {uid} 1", f"0 {gid} 1")]:
        with suppress(OSError):
            Path(f"/proc/{pid}/setgroups").write_text("deny")
        try:
            Path(f"/proc/{pid}/uid_map").write_text(users)
            Path(f"/proc/{pid}/gid_map").write_text(groups)
        except OSError:
            continue
        return True
    return False
