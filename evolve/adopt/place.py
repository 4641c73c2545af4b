"""Where `evolve init` writes: three files in the current folder, and none that is there already."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from evolve.errors import UsageError

NAME = re.compile(r"[a-z][a-z0-9_]{0,59}", re.ASCII)
# A problem's name names its entry and its kernels, and these already mean something in a candidate.
TAKEN = frozenset({"torch", "triton", "tl", "libdevice", "evaluate", "reference", "outputs", "make_inputs"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """The three files of a problem, relative to the folder that the user stands in."""

    name: str

    @property
    def problem(self) -> Path:
        return Path("evaluators") / f"{self.name}.py"

    @property
    def seed(self) -> Path:
        return Path("seeds") / f"{self.name}.py"

    @property
    def config(self) -> Path:
        return Path("configs") / f"{self.name}.yaml"

    def write(self, texts: Mapping[Path, str]) -> None:
        """All or none as far as that can be foreseen: `free` has looked before the work began."""
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(text)


def free(name: str, *, seed: bool = True) -> Place:
    """The place, if nothing is there yet."""
    if not NAME.fullmatch(name) or keyword.iskeyword(name) or name in TAKEN:
        raise UsageError(
            f"{name!r} does not do as a problem's name: expected a Python name in small letters, digits and _, such as "
            "my_norm; the files become evaluators/NAME.py, seeds/NAME.py and configs/NAME.yaml."
        )
    place = Place(name=name)
    wanted = [place.problem, place.config, *([place.seed] if seed else [])]
    there = [str(path) for path in wanted if path.exists() or path.is_symlink()]
    if there:
        raise UsageError(f"{', '.join(there)}: there already, and nothing is overwritten; choose another NAME.")
    return place


def template(file: str, values: Mapping[str, str]) -> str:
    """One of `data/init`, filled in."""
    text = (files("evolve") / "data" / "init" / file).read_text(encoding="utf-8")
    return Template(text).substitute(values)


def config_text(
    place: Place,
    *,
    about: str,
    variant: str,
    seed: bool = True,
    council: str = "[rules]",
    steps: int = 60,
) -> str:
    return template(
        "config.txt",
        {
            "name": place.name,
            "about": about,
            "variant": variant,
            "seeds": f"[{place.seed}]" if seed else "[]  # none yet: the council drafts the first one",
            "council": council,
            "steps": str(steps),
        },
    )
