"""How many epochs a budget of time or computation pays for. Pure, as the schedule is."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from crescendo.curriculum.schedule import Stage

SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
MACS = {"MMAC": 1e6, "GMAC": 1e9, "TMAC": 1e12, "PMAC": 1e15, "EMAC": 1e18}


@dataclass(frozen=True)
class Budget:
    """What a training may cost: seconds or multiply-accumulates."""

    amount: float
    kind: Literal["seconds", "macs"]

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """From "90s", "20min", "1.5h", "2d", "300GMAC", "5TMAC" and their like.

        Raises:
            ValueError: it is not a positive number with one of these units.
        """
        match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)", text)
        number, unit = (float(match[1]), match[2]) if match else (0.0, "")
        if number > 0 and unit in SECONDS:
            return cls(number * SECONDS[unit], "seconds")
        if number > 0 and unit.removesuffix("s") in MACS:
            return cls(number * MACS[unit.removesuffix("s")], "macs")
        raise ValueError(f"a number above 0 and a unit ({', '.join([*SECONDS, *MACS])}): 20min, 5TMAC")

    def __str__(self) -> str:
        """As it is typed: whole seconds, or MACs to a hundredth of their unit, rounded up."""
        if self.kind == "seconds":
            return f"{math.ceil(self.amount)}s"
        unit = next((unit for unit, size in reversed(MACS.items()) if self.amount >= size), "MMAC")
        return f"{math.ceil(self.amount / MACS[unit] * 100) / 100:g}{unit}"


@dataclass(frozen=True)
class TrainingCost:
    """What trainings with stages like these cost, in seconds or in multiply-accumulates.

    Attributes:
        stages: for which it is known, and
        per_epoch: what an epoch of each costs.
        per_validation: what a validation costs.
        validate_every: epochs from one validation to the next.
        once: what a training costs beside them, however long it is.
    """

    stages: Sequence[Stage]
    per_epoch: Sequence[float]
    per_validation: float = 0.0
    validate_every: int = 1
    once: float = 0.0

    def of(self, stages: Sequence[Stage]) -> float:
        """The cost of a whole training."""
        validations = sum(stage.epochs for stage in stages) // self.validate_every
        epochs = sum(stage.epochs * self.of_epoch(stage) for stage in stages)
        return self.once + epochs + validations * self.per_validation

    def of_epoch(self, stage: Stage) -> float:
        """The cost of an epoch: of the known stage with its resolution and knobs, if there is one.

        Else by the area of the image, as convolutions cost: on the line between the nearest of the
        known resolutions, which begins at 0.
        """
        by_area = {0: 0.0}
        for known, cost in zip(self.stages, self.per_epoch, strict=True):
            if (known.resolution, known.knobs) == (stage.resolution, stage.knobs):
                return cost
            by_area[known.resolution**2] = cost
        area = stage.resolution**2
        lines = list(pairwise(sorted(by_area)))
        low, high = next((line for line in lines if area <= line[1]), lines[-1])
        return by_area[low] + (area - low) / (high - low) * (by_area[high] - by_area[low])


def fit_epochs(
    cost: TrainingCost, stages_of: Callable[[int], Sequence[Stage]], budget: float, fewest: int
) -> int | None:
    """The largest number of epochs, `fewest` or more, whose training costs at most `budget`.

    None if not even the fewest fit. Where a longer training may cost less, since its stages are drawn anew,
    a number that fits and whose next does not.

    Args:
        stages_of: the stages of a training with so many epochs.
    """

    def fits(epochs: int) -> bool:
        return cost.of(stages_of(epochs)) <= budget

    return largest(fits, fewest, stride=fewest)


def largest(fits: Callable[[int], bool], fewest: int, stride: int) -> int | None:
    """The largest number that fits, `fewest` or more, where all below it do; None if not even that one fits.

    Args:
        stride: from `fewest` to the number that is tried next; it doubles from there on.
    """
    if not fits(fewest):
        return None
    low, high = fewest, fewest + stride
    while fits(high):
        stride *= 2
        low, high = high, high + stride
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
