"""experiment=scaling_axes: what its arms cost, and how much of the images they see."""

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


def test_the_arms_cost_about_four_times_the_base_within_the_images_own_pixels(configuration):
    found = {}
    for arm in ARMS:
        config = configuration("experiment=scaling_axes", f"arm={arm}")
        assert config.arm == arm
        net = shapes_of(build_net, config).eval()
        resolution = build_curriculum(config, net).evaluation_resolution
        assert resolution <= config.data.native_size
        found[arm] = (resolution, count_macs_on_meta(net, resolution, 1))
    assert found["base"] == (14, 8_582_496)
    for arm, (resolution, macs) in ARMS.items():
        assert found[arm][0] == resolution
        assert found[arm][1] / found["base"][1] == pytest.approx(macs, abs=0.005)
