"""Hydra's search-space syntax as Optuna's distributions.

| override                                  | distribution |
|-------------------------------------------|--------------|
| interval(a,b), tag(log, interval(a,b))    | float from a to b, uniform, or uniform in its logarithm |
| int(interval(a,b)), with tag(log, ...)    | integer from a to b, both included |
| range(a,b,step)                           | one of the values of Hydra's own grid: b is excluded |
| 1,2,3  choice(a,b)  glob(resnet*)         | one of these, without an order |
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, ValueType
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from crescendo.errors import UserError


@dataclass(frozen=True)
class Space:
    """What a study searches: `fixed` overrides are those of every trial."""

    fixed: Sequence[str]
    searched: dict[str, BaseDistribution]

    @classmethod
    def parse(cls, overrides: list[str]) -> "Space":
        """The space that overrides describe; the last one of a key counts.

        Raises:
            UserError: nothing is searched, or a sweep has no distribution.
        """
        by_key = {
            each.get_key_element(): each for each in OverridesParser.create().parse_overrides(overrides)
        }
        searched = {key: _distribution(each) for key, each in by_key.items() if each.is_sweep_override()}
        if not searched:
            raise UserError(
                "a study has nothing to search: give a value such as "
                "optimizer.lr='tag(log, interval(0.001,0.1))' or model=resnet20,plain20."
            )
        fixed = [each.input_line or "" for key, each in by_key.items() if key not in searched]
        return cls(fixed, searched)

    def overrides(self, values: dict[str, object]) -> list[str]:
        """A trial's overrides from the values of what is searched."""
        return [*self.fixed, *(f"{key}={values[key]}" for key in self.searched)]

    def corners(self) -> list[list[str]]:
        """A few trials in which each choice comes once, and the lowest of each interval."""
        choices = {
            key: each.choices if isinstance(each, CategoricalDistribution) else (each.low,)  # type: ignore[attr-defined]
            for key, each in self.searched.items()
        }
        most = max(map(len, choices.values()))
        return [
            self.overrides({key: each[min(turn, len(each) - 1)] for key, each in choices.items()})
            for turn in range(most)
        ]


def listed(overrides: Sequence[Override]) -> list[str]:
    """The overrides that count, the last one of each key, as a study records them.

    A group's options take the place of a pattern such as glob(resnet*), which is the sweep's to resolve.
    """
    by_key = {each.get_key_element(): each for each in overrides}
    return [
        f"{key}=choice({','.join(each.sweep_string_iterator())})"
        if each.value_type == ValueType.GLOB_CHOICE_SWEEP
        else each.input_line or ""
        for key, each in by_key.items()
    ]


def _distribution(override: Override) -> BaseDistribution:
    """The distribution of one swept override.

    Raises:
        UserError: it has a tag other than log, or bounds that Optuna refuses.
    """
    sweep = override.value()
    tags: set[str] = getattr(sweep, "tags", set())
    if tags - {"log"}:
        raise UserError(f"{override.input_line}: the only tag is log, as in tag(log, interval(0.001,0.1)).")
    log = "log" in tags
    try:
        if isinstance(sweep, IntervalSweep):
            assert sweep.start is not None
            assert sweep.end is not None
            if isinstance(sweep.start, int) and isinstance(sweep.end, int):
                return IntDistribution(sweep.start, sweep.end, log=log)
            return FloatDistribution(sweep.start, sweep.end, log=log)
        if isinstance(sweep, RangeSweep):
            return _grid(sweep, log)
        if log:
            raise ValueError("a choice has no logarithm")
        # Sorted: shuffle() would give another order at each reading, and Optuna minds it.
        return CategoricalDistribution(sorted(set(override.sweep_string_iterator())))
    except ValueError as error:
        raise UserError(f"{override.input_line}: {error}") from error


def _grid(sweep: RangeSweep, log: bool) -> BaseDistribution:
    """From the lowest to the highest value that Hydra's range has."""
    values = sorted(sweep.range())
    if not values:
        raise ValueError("the range is empty")
    if all(isinstance(value, int) for value in values):
        return IntDistribution(values[0], values[-1], step=abs(int(sweep.step)), log=log)
    if log:
        raise ValueError("a range of fractions has no logarithm in Optuna: take an interval")
    step = abs(Decimal(str(sweep.step)))  # in decimals, so that the highest is a whole number of steps away
    low = Decimal(str(values[0]))
    return FloatDistribution(float(low), float(low + step * (len(values) - 1)), step=float(step))
