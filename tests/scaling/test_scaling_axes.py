"""experiment=scaling_axes and scaling_curves: what their nets cost, and how much of the images they see."""

import pytest

from crescendo.analysis.costs import count_macs_on_meta, shapes_of
from crescendo.experiment import build_curriculum, build_net

# px, and MACs over base's
ARMS = {
    "base": (14, 1.0),
    "deeper": (14, 3.94),
    "wider": (14, 3.75),
    "larger": (28, 3.99),
    "compound_18px": (18, 3.84),
}
# of scaling_curves, as its note types them: px, and MACs over those of phi=0
CURVES = {
    "scaling=depth scaling.phi=1": (14, 2.06),
    "scaling=width scaling.phi=1": (14, 2.24),
    "scaling=resolution scaling.phi=1": (20, 1.85),
    "scaling=compound scaling.phi=1 scaling.resolution=17": (17, 2.11),
    "scaling=depth scaling.phi=2": (14, 4.17),
    "scaling=width scaling.phi=2": (14, 3.99),
    "scaling=resolution scaling.phi=2": (28, 3.64),
    "scaling=compound scaling.phi=1.5 scaling.resolution=16": (16, 3.61),
}


def cost(config):
    """The px of evaluation, and the MACs there."""
    net = shapes_of(build_net, config).eval()
    resolution = build_curriculum(config, net).evaluation_resolution
    return resolution, count_macs_on_meta(net, resolution, 1)


def test_the_arms_cost_about_four_times_the_base_within_the_images_own_pixels(configuration):
    found = {}
    for arm in ARMS:
        config = configuration("experiment=scaling_axes", f"arm={arm}")
        assert config.arm == arm
        found[arm] = cost(config)
        assert found[arm][0] <= config.data.native_size
    assert found["base"] == (14, 8_582_496)
    for arm, (resolution, macs) in ARMS.items():
        assert found[arm][0] == resolution
        assert found[arm][1] / found["base"][1] == pytest.approx(macs, abs=0.005)


def test_the_points_of_a_curve_cost_about_two_and_four_times_the_base(configuration):
    base = cost(configuration("experiment=scaling_curves"))
    assert base[0] == 14
    for typed, (resolution, macs) in CURVES.items():
        found = cost(configuration("experiment=scaling_curves", *typed.split()))
        assert found[0] == resolution <= 28
        assert found[1] / base[1] == pytest.approx(macs, abs=0.01)
