"""What a search for coefficients compares, as the record of its sweep keeps it. Without torch.

EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks.  Mingxing Tan, Quoc V. Le, 2019.
arXiv:1905.11946, section 3.3, step 1: phi is 1, and a small grid search finds alpha, beta and gamma.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt

from crescendo.config import Group, checked
from crescendo.errors import UserError
from crescendo.scaling.coefficients import TOLERANCE, Coefficients

Coefficient = Annotated[float, Field(ge=1)]


def _count(value: object) -> object:
    """A whole number, or one with a unit."""
    if not isinstance(value, str):
        return value
    from crescendo.scaling.budgets import COUNTS, parse_quantity  # heavy, and for a unit alone

    try:
        return parse_quantity("", value, COUNTS)
    except UserError as error:
        raise ValueError(f"must be a number above 0, with a unit if any: {', '.join(COUNTS)[2:]}") from error


class SearchSettings(Group):
    """What is searched: hydra.sweeper.coefficients.

    Attributes:
        step: between the values of a coefficient, which begin at 1.
        tolerance: of alpha * beta^2 * gamma^2 around 2, as a share; scaling=compound allows no more.
        macs: of one image, which all candidates shall have; None for twice those of the net as it is.
        macs_tolerance: a share of them; a candidate that stays further away at every resolution is left out.
    """

    step: Annotated[float, Field(ge=0.02, le=1)]
    tolerance: Annotated[float, Field(gt=0, le=TOLERANCE / 2)]
    macs: Annotated[PositiveInt | None, BeforeValidator(_count)]
    macs_tolerance: Annotated[float, Field(gt=0, lt=1)]

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> "SearchSettings":
        """The settings that these values are.

        Raises:
            UserError: names each setting that is wrong.
        """
        return checked(cls, "hydra.sweeper.coefficients", values)


class Net(Group):
    """What a net costs at a resolution in px: parameters, and multiply-accumulates of one image."""

    resolution: PositiveInt
    macs: PositiveInt
    parameters: NonNegativeInt


class Triple(Group):
    """Coefficients of the grid."""

    alpha: Coefficient
    beta: Coefficient
    gamma: Coefficient

    @classmethod
    def of(cls, coefficients: Coefficients) -> "Triple":
        return cls(alpha=coefficients.alpha, beta=coefficients.beta, gamma=coefficients.gamma)

    @property
    def coefficients(self) -> Coefficients:
        return Coefficients(self.alpha, self.beta, self.gamma)

    def __str__(self) -> str:
        return f"alpha={self.alpha:g} beta={self.beta:g} gamma={self.gamma:g}"


class Candidate(Triple):
    """A net to train.

    Attributes:
        by_gamma: the net at the resolution that gamma gives, rounded.
        solved: the same net at the resolution that brings its MACs closest to those that all share.
        same: other coefficients of the grid that come to the same net, and so to the same resolution.
    """

    by_gamma: Net
    solved: Net
    same: list[Triple]

    @property
    def overrides(self) -> list[str]:
        """What a training of it is told."""
        values = [f"scaling.{name}={getattr(self, name)!r}" for name in ("alpha", "beta", "gamma")]
        return ["scaling=compound", *values, f"scaling.resolution={self.solved.resolution}"]

    def stands_for(self, coefficients: Coefficients) -> bool:
        return coefficients in (self.coefficients, *(other.coefficients for other in self.same))


class LeftOut(Triple):
    """Coefficients whose net has no resolution with the MACs that all share."""

    why: str


class Search(Group):
    """A search before its first training.

    Attributes:
        base: the net as it is, at the resolution of its evaluation.
        macs: what all candidates are brought to.
        native_size: px of the data; beyond it images are enlarged.
    """

    settings: SearchSettings
    base: Net
    macs: PositiveInt
    native_size: PositiveInt
    candidates: Annotated[list[Candidate], Field(min_length=1)]
    left_out: list[LeftOut]
