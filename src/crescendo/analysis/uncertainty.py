"""How sure a result is: intervals and tests over seeds, and over test images."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from statistics import mean, stdev
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, ttest_1samp, wilcoxon
from scipy.stats import t as student

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

RESAMPLES = 1000
# Differences that are equal but for rounding have no spread to test against.
ROUNDING = 1e-12


class Interval(NamedTuple):
    """A mean and half of its 95% interval by Student's t; None where there is one value alone."""

    mean: float
    half: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval":
        if len(values) < 2:
            return cls(mean(values), None)
        quantile = float(student.ppf(0.975, len(values) - 1))
        return cls(mean(values), quantile * stdev(values) / len(values) ** 0.5)

    def show(self, digits: int, sign: str = "") -> str:
        text = f"{self.mean:{sign}.{digits}f}"
        return text if self.half is None else f"{text} ± {self.half:.{digits}f}"


class PairedTest(StrEnum):
    """A two-sided test of whether paired differences centre on 0.

    Wilcoxon's signed ranks assume no normal distribution, and cannot fall below p = 2 / 2^n with n pairs:
    below six pairs it finds nothing at 5%.
    """

    T = "t"
    WILCOXON = "wilcoxon"

    @property
    def full_name(self) -> str:
        return {"t": "paired t-test", "wilcoxon": "Wilcoxon signed-rank test"}[self.value]

    def p_value(self, differences: Sequence[float]) -> float | None:
        """None where there are fewer than two pairs, or where they have no spread."""
        if len(differences) < 2 or max(differences) - min(differences) < ROUNDING:
            return None
        if self is PairedTest.T:
            return float(ttest_1samp(differences, 0.0).pvalue)
        return float(wilcoxon(differences).pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p values adjusted for their number: A simple sequentially rejective multiple test procedure.
    Sture Holm, 1979, Scandinavian Journal of Statistics 6. None stays, and does not count.
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(order):
        highest = max(highest, min(1.0, p * (len(order) - rank)))
        adjusted[place] = highest
    return adjusted


class McNemar(NamedTuple):
    """Two nets on the same images (McNemar 1947, Psychometrika 12): exact, two-sided.

    Attributes:
        only_first, only_second: numbers of images that one alone has right.
        p: of so uneven a split if both were equally good.
    """

    only_first: int
    only_second: int
    p: float

    @classmethod
    def of(cls, first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> "McNemar":
        """From whether each image is right, by either net."""
        only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
        differing = only_first + only_second
        p = float(binomtest(only_first, differing, 0.5).pvalue) if differing else 1.0
        return cls(only_first, only_second, p)


def bootstrap(
    statistic: Callable[[Indices], Floats], size: int, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Floats, Floats]:
    """Both ends of the 95% percentile intervals of several statistics (Efron 1979): resampled together.

    Args:
        statistic: of the samples with these indices; nan where it has no value, which is passed over.
        size: number of samples.
    """
    rng = np.random.default_rng(seed)
    values = np.stack([statistic(rng.integers(0, size, size)) for _ in range(resamples)])
    known = ~np.isnan(values).all(0)
    low, high = np.full((2, values.shape[1]), np.nan)
    low[known], high[known] = np.nanquantile(values[:, known], (0.025, 0.975), axis=0)
    return low, high
