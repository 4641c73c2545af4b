"""Whom to breed from: `population.py` is the fold over events, `cells.py` the index over OpenEvolve's database."""

from evolve.population.cells import Selection
from evolve.population.population import Population

__all__ = ["Population", "Selection"]
