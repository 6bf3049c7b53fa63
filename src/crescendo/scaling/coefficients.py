"""How much larger a net is made, as arithmetic.

EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks.  Mingxing Tan, Quoc V. Le, 2019.
arXiv:1905.11946, section 3.3, equation 3: depth alpha^phi, width beta^phi, resolution gamma^phi, under
alpha * beta^2 * gamma^2 ~ 2, each 1 or more: a net's MACs grow with its depth and with the squares of width
and resolution, so each step of phi about doubles them. One axis alone doubles them by depth 2, width
sqrt(2) or resolution sqrt(2): phi = 2 is then depth 4, width 2 or resolution 2, as in Table 3.
"""

import math
from dataclasses import dataclass
from itertools import product
from typing import Literal

from crescendo.errors import UserError

Method = Literal["none", "depth", "width", "resolution", "compound"]

AXES = {"alpha": "depth", "beta": "width", "gamma": "resolution"}
TOLERANCE = 0.1  # of alpha * beta^2 * gamma^2 around 2; the paper's is 1.92
ROUNDING = 1e-9  # 1.9 is off by 0.1, whatever floats say


@dataclass(frozen=True)
class Factors:
    """What a net's depth, width and resolution are multiplied by."""

    depth: float = 1.0
    width: float = 1.0
    resolution: float = 1.0


@dataclass(frozen=True)
class Coefficients:
    """The factors of phi = 1; by default those that the paper found for EfficientNet-B0.

    Raises:
        UserError: one is below 1.
    """

    alpha: float = 1.2
    beta: float = 1.1
    gamma: float = 1.15

    def __post_init__(self) -> None:
        for name in AXES:
            value = getattr(self, name)
            if not 1 <= value < math.inf:
                raise UserError(f"{name}={value:g}: must be a number, 1 or more; 1 leaves its axis as it is.")

    @property
    def product(self) -> float:
        """alpha * beta^2 * gamma^2: about how many times the MACs each step of phi costs."""
        return self.alpha * self.beta**2 * self.gamma**2

    def check_product(self) -> None:
        """Refuse coefficients that do not about double the MACs.

        Raises:
            UserError: their product is off from 2 by more than TOLERANCE.
        """
        if abs(self.product - 2) > TOLERANCE + ROUNDING:
            raise UserError(
                f"alpha={self.alpha:g}, beta={self.beta:g}, gamma={self.gamma:g}: alpha * beta^2 * gamma^2 "
                f"is {self.product:.3g}, and must be 2 within {TOLERANCE:g}, so that phi counts doublings of "
                f"the MACs. The paper's are 1.2, 1.1 and 1.15."
            )

    def at(self, phi: float) -> Factors:
        """The factors of a phi of 0 or more; 0 leaves the net as it is."""
        return Factors(self.alpha**phi, self.beta**phi, self.gamma**phi)


def coefficient_grid(step: float, tolerance: float) -> list[Coefficients]:
    """All whose values are 1, 1 + step, 1 + 2 step, ... and whose product is 2 within a share of it.

    Step 1 of section 3.3: at phi = 1 each of them about doubles the MACs.
    """
    most = 2 * tolerance + ROUNDING
    values = [round(1 + step * count, 9) for count in range(int((1 + most) / step + ROUNDING) + 1)]
    grid = [Coefficients(*each) for each in product(values, repeat=3)]
    return [each for each in grid if abs(each.product - 2) <= most]


@dataclass(frozen=True)
class Scaling:
    """The settings of the group `scaling`: an option's method, phi, and the coefficients of its axes.

    Attributes:
        resolution: px of the evaluation, in place of gamma^phi times the curriculum's: the one that a
            search solved for equal MACs.

    Raises:
        UserError: a phi, a coefficient or a resolution that cannot be, or that the method does not use.
    """

    method: Method = "none"
    phi: float = 0.0
    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 1.0
    resolution: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.phi < math.inf:
            raise UserError(
                f"scaling.phi={self.phi:g}: must be a number, 0 or more. For a smaller net: model.width=0.5."
            )
        if self.method == "none" and self.phi > 0:
            raise UserError(
                f"scaling.phi={self.phi:g}: scaling=none scales nothing. Add scaling=compound, or depth, "
                f"width, resolution."
            )
        for name, axis in AXES.items():
            value = getattr(self, name)
            if self.method not in (axis, "compound") and value != 1:
                raise UserError(
                    f"scaling.{name}={value:g}: it scales the {axis}, and scaling={self.method} does not. "
                    f"scaling=compound takes all three."
                )
        if self.resolution is not None and self.method not in ("resolution", "compound"):
            raise UserError(
                f"scaling.resolution={self.resolution}: scaling={self.method} scales no resolution. "
                f"scaling=resolution and scaling=compound do."
            )
        try:
            if self.method == "compound":
                self.coefficients.check_product()
            _ = self.coefficients
        except UserError as error:
            raise UserError(f"scaling.{error}") from error

    @property
    def coefficients(self) -> Coefficients:
        return Coefficients(self.alpha, self.beta, self.gamma)

    @property
    def factors(self) -> Factors:
        return self.coefficients.at(self.phi)

    def resolution_factor(self, unscaled: int) -> float:
        """What every resolution of a curriculum is multiplied by that is evaluated at `unscaled` px.

        Raises:
            UserError: the resolution that is set is smaller.
        """
        if self.resolution is None:
            return self.factors.resolution
        if self.resolution < unscaled:
            raise UserError(
                f"scaling.resolution={self.resolution}: must be {unscaled} px or more, those of the "
                f"evaluation without scaling. For smaller images: curriculum.resolution.end."
            )
        return self.resolution / unscaled


UNSCALED = Scaling()
