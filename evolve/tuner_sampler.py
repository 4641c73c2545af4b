"""Optuna's TPE as the tuner asks it: over positions in lists of values. It knows no kernel and no budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from evolve.types import Scalar

Key: TypeAlias = tuple[tuple[str, str], ...]
STARTUP = (3, 10)  # random points before TPE has something to go by: a quarter of the budget, within these


def are_numbers(values: Sequence[Scalar]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


class Sampler:
    """Numbers keep their order, so that it sees that 128 lies between 64 and 256; what has no order is categorical;
    what has one value is left out."""

    def __init__(self, space: Mapping[str, tuple[Scalar, ...]], random_seed: int, points: int) -> None:
        import optuna  # late: whoever never tunes does not pay for it

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._space = optuna, space
        kinds = optuna.distributions
        self._distributions: dict[str, Any] = {
            name: kinds.IntDistribution(0, len(values) - 1)
            if are_numbers(values)
            else kinds.CategoricalDistribution(range(len(values)))
            for name, values in space.items()
            if len(values) > 1
        }
        startup = max(STARTUP[0], min(STARTUP[1], points // 4))
        sampler = optuna.samplers.TPESampler(seed=random_seed, multivariate=True, n_startup_trials=startup)
        self._study = optuna.create_study(sampler=sampler)
        self._taken: dict[Key, Any] = {}
        self._last: Any = None

    def ask(self) -> dict[str, Scalar]:
        """A proposal; unless it is taken, the next one makes it void."""
        if self._last is not None:
            self._study.tell(self._last, state=self._optuna.trial.TrialState.FAIL)
        self._last = self._study.ask(self._distributions)
        return {name: values[self._last.params.get(name, 0)] for name, values in self._space.items()}

    def take(self, key: Key) -> None:
        self._taken[key], self._last = self._last, None

    def tell(self, key: Key, point: Mapping[str, Scalar], value: float) -> None:
        if key in self._taken:
            self._study.tell(self._taken.pop(key), value)
            return
        places = {name: _place(self._space[name], point[name]) for name in self._distributions}
        if None not in places.values():  # a start outside the space teaches nothing about positions in it
            make = self._optuna.trial.create_trial
            self._study.add_trial(make(params=places, distributions=self._distributions, value=value))


def _place(values: Sequence[Scalar], value: Scalar) -> int | None:
    return next((i for i, each in enumerate(values) if repr(each) == repr(value)), None)
