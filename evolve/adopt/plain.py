"""`evolve init NAME`: a problem, a seed and a configuration that run at once, with a guiding comment a field.

What they compute is an RMS norm, small enough to be read in a minute and to be replaced part by part.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from evolve.adopt.place import Place, config_text, template


def texts(place: Place) -> Mapping[Path, str]:
    values = {"name": place.name}
    return {
        place.problem: template("problem.txt", values),
        place.seed: template("seed.txt", values),
        place.config: config_text(place, about=f"{place.name}: runs as it is.", variant="bf16"),
    }
