import numpy as np
import pytest
import torch
from torch.nn import functional as F

from crescendo.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt

INDICES = np.arange(4)


def images(channels=3, side=32):
    """Smooth random patterns."""
    coarse = torch.rand(4, channels, 11, 11, generator=torch.Generator().manual_seed(0))
    return (F.interpolate(coarse, size=(side, side), mode="bilinear") * 255).to(torch.uint8)


def distance(one, other):
    return float((one.float() - other.float()).square().mean().sqrt())


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize(("channels", "side"), [(3, 64), (1, 8), (3, 33)])
def test_each_severity_is_further_from_the_image(name, channels, side):
    clean = images(channels, side)
    seen = [corrupt(clean, name, severity, INDICES) for severity in SEVERITIES]
    assert all(one.dtype == torch.uint8 and one.shape == clean.shape for one in seen)
    distances = [distance(one, clean) for one in seen]
    if side == 64:
        assert distances[0] > 0
        assert distances == sorted(set(distances))
    assert torch.equal(clean, images(channels, side))


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "impulse_noise", "motion_blur"])
def test_an_image_is_corrupted_alike_whatever_its_batch(name):
    clean = images()
    whole = corrupt(clean, name, 3, INDICES)
    assert torch.equal(corrupt(clean[2:3], name, 3, INDICES[2:3]), whole[2:3])
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(corrupt(clean, name, 3, INDICES, seed=1), whole)


def test_strengths_by_hand():
    grey = torch.full((1, 1, 32, 32), 100, dtype=torch.uint8)
    assert corrupt(grey, "brightness", 5, INDICES[:1]).unique().tolist() == [202]  # 100 + .4 * 255
    half = grey.clone()
    half[..., :16] = 200
    # means 150: 12% of a distance of 50 is left
    assert corrupt(half, "contrast", 5, INDICES[:1]).unique().tolist() == [144, 156]
    black_or_white = corrupt(grey.expand(1, 3, 32, 32), "impulse_noise", 5, INDICES[:1]) != 100
    assert float(black_or_white.float().mean()) == pytest.approx(0.2, abs=0.03)
    noisy = corrupt(grey.expand(1, 3, 32, 32), "gaussian_noise", 3, INDICES[:1]).float()
    assert float(noisy.std()) == pytest.approx(0.12 * 255, rel=0.1)
    assert corrupt(half, "pixelate", 5, INDICES[:1])[0, 0, 0].unique().tolist() == [100, 200]  # 8 px


@pytest.mark.parametrize("name", ["gaussian_blur", "defocus_blur", "motion_blur", "zoom_blur", "pixelate"])
def test_what_is_flat_stays_flat(name):
    flat = torch.full((2, 3, 32, 32), 90, dtype=torch.uint8)
    assert corrupt(flat, name, 5, INDICES[:2]).unique().tolist() == [90]
