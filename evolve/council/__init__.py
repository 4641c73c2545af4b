"""Who proposes: members with weights. `council.py` asks them, `weights.py` chooses, `budget.py` says when to stop,
`registry.py` finds them by name; every other file is a member, but for `contract.py`, which says what a member owes."""

from evolve.council.council import Council, Seat

__all__ = ["Council", "Seat"]
