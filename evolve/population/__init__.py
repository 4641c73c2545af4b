"""Whom to breed from: `population.py` is the fold over events, `cells.py` the index over OpenEvolve's database,
`rankings.py` one population a ranking key."""

from evolve.population.cells import Selection
from evolve.population.population import Population
from evolve.population.rankings import Rankings

__all__ = ["Population", "Rankings", "Selection"]
