"""Refresh what the pages take from others: `python -m evolve.dashboard.vendoring`, with npm at hand.

Each file lies in the repository as its maker minified it, so that no page needs a network and no install a bundler. The
manifest beside it says which version it is, its digest and its licence; a test holds the files to it. Not done here:
choosing newer versions. Change `PARTS` and run it.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "evolve/dashboard/static/vendor"
TESTS = ROOT / "tests/dashboard/vendor"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A package of npm and the files taken from it; `licence` is the text that has to travel along."""

    name: str
    version: str
    spdx: str
    files: tuple[str, ...]
    licence: str
    into: Path = SHIPPED


PARTS = (
    Part(name="htmx.org", version="2.0.10", spdx="0BSD", files=("dist/htmx.min.js",), licence="LICENSE"),
    Part(
        name="uplot",
        version="1.6.32",
        spdx="MIT",
        files=("dist/uPlot.iife.min.js", "dist/uPlot.min.css"),
        licence="LICENSE",
    ),
    Part(
        name="axe-core", version="4.14.1", spdx="MPL-2.0", files=("axe.min.js",), licence="LICENSE", into=TESTS
    ),  # looks for violations in tests; never served
)


def fetch(part: Part, scratch: Path) -> list[dict[str, str]]:
    """The part's files in their place, and their lines of the manifest."""
    packed = subprocess.run(
        ["npm", "pack", "--silent", f"{part.name}@{part.version}"],
        cwd=scratch, check=True, capture_output=True, text=True,
    )  # fmt: skip
    part.into.mkdir(parents=True, exist_ok=True)
    lines = []
    with tarfile.open(scratch / packed.stdout.strip().splitlines()[-1]) as archive:
        for inside in (*part.files, part.licence):
            member = archive.extractfile(f"package/{inside}")
            assert member is not None, f"{part.name} {part.version} has no {inside}"
            data = member.read()
            name = f"{part.name}.{Path(inside).name}" if inside == part.licence else Path(inside).name
            (part.into / name).write_bytes(data)
            lines.append({
                "file": name, "package": part.name, "version": part.version, "licence": part.spdx,
                "from": inside, "sha256": hashlib.sha256(data).hexdigest(),
            })  # fmt: skip
    return lines


def main() -> None:
    manifests: dict[Path, list[dict[str, str]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for part in PARTS:
            manifests.setdefault(part.into, []).extend(fetch(part, Path(scratch)))
    for folder, lines in manifests.items():
        (folder / "manifest.json").write_text(json.dumps(lines, indent=2) + "\n", encoding="utf-8")
        print(f"{folder.relative_to(ROOT)}: {', '.join(line['file'] for line in lines)}")


if __name__ == "__main__":
    main()
