"""The arithmetic of compound scaling, and every setting that cannot be."""

import math

import pytest

from crescendo.errors import UserError
from crescendo.scaling.coefficients import Coefficients, Factors, Scaling


def test_the_papers_coefficients():
    assert Coefficients().product == pytest.approx(1.92027)
    assert Coefficients().at(0) == Factors(1, 1, 1)
    assert Coefficients().at(1) == Factors(1.2, 1.1, 1.15)
    factors = Coefficients().at(2)
    assert (factors.depth, factors.width, factors.resolution) == pytest.approx((1.44, 1.21, 1.3225))


@pytest.mark.parametrize(
    ("method", "coefficient", "factors"),
    [
        ("depth", {"alpha": 2.0}, (4, 1, 1)),
        ("width", {"beta": math.sqrt(2)}, (1, 2, 1)),
        ("resolution", {"gamma": math.sqrt(2)}, (1, 1, 2)),
    ],
)
def test_phi_2_of_one_axis_is_the_papers_table_3(method, coefficient, factors):
    scaled = Scaling(method, phi=2, **coefficient).factors
    assert (scaled.depth, scaled.width, scaled.resolution) == pytest.approx(factors)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "compound", "alpha": 0.9}, "scaling.alpha=0.9: must be a number, 1 or more"),
        ({"method": "width", "beta": math.nan}, "scaling.beta=nan: must be a number, 1 or more"),
        ({"method": "compound", "phi": -1, "alpha": 2}, "scaling.phi=-1: must be a number, 0 or more"),
        ({"method": "compound", "phi": math.inf}, "scaling.phi=inf: must be a number"),
        ({"phi": 1}, "scaling.phi=1: scaling=none scales nothing. Add scaling=compound"),
        ({"alpha": 1.2}, "scaling.alpha=1.2: it scales the depth, and scaling=none does not"),
        ({"resolution": 40}, "scaling.resolution=40: scaling=none scales no resolution"),
        ({"method": "depth", "resolution": 40}, "scaling.resolution=40: scaling=depth scales no resolution"),
        ({"method": "depth", "alpha": 2, "gamma": 1.1}, "scaling.gamma=1.1: it scales the resolution"),
        (
            {"method": "compound", "alpha": 1.5, "beta": 1.1, "gamma": 1.15},
            "scaling.alpha=1.5, beta=1.1, gamma=1.15: alpha * beta^2 * gamma^2 is 2.4, and must be 2 within",
        ),
    ],
)
def test_what_cannot_be_is_named(settings, message):
    with pytest.raises(UserError) as refusal:
        Scaling(**settings)
    assert message in str(refusal.value)


@pytest.mark.parametrize(("alpha", "accepted"), [(1.89, False), (1.9, True), (2.1, True), (2.11, False)])
def test_the_product_is_2_within_a_tenth(alpha, accepted):
    coefficients = Coefficients(alpha, 1, 1)
    if accepted:
        coefficients.check_product()
    else:
        with pytest.raises(UserError, match="must be 2 within"):
            coefficients.check_product()


def test_a_resolution_that_is_given_takes_the_place_of_gammas():
    assert Scaling("compound", 1, 1.2, 1.1, 1.15).resolution_factor(32) == 1.15
    scaling = Scaling("compound", 1, 1.2, 1.1, 1.15, resolution=40)
    assert scaling.resolution_factor(32) == 1.25
    assert scaling.factors == Factors(1.2, 1.1, 1.15)
    with pytest.raises(UserError, match=r"scaling\.resolution=40: must be 48 px or more"):
        scaling.resolution_factor(48)
