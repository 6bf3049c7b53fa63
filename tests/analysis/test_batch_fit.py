"""The largest batch that fits: by hand, in few steps, and how it is told."""

import pytest
import torch
from torch import nn

from crescendo.analysis.batch_fit import BatchFit, StepShapes, largest_fitting


def affine(images):
    return 10 * images + 100


def kinked(images):
    """The optimizer's step is the peak of small batches, the end of the forward pass of larger ones."""
    return max(1000, 10 * images + 100)


@pytest.mark.parametrize(
    ("demand", "allowed", "most", "images"),
    [
        (affine, 5179, 10**6, 504),  # 507 fit
        (affine, 5180, 508, 508),  # the most, not rounded
        (affine, 5179, 508, 504),
        (affine, 180, 10**6, 8),
        (affine, 179, 10**6, 7),  # below 8 every number counts
        (affine, 110, 10**6, 1),
        (affine, 109, 10**6, None),
        (affine, 109, 1, None),
        (kinked, 5179, 10**6, 504),
        (kinked, 1050, 10**6, 88),  # 95 fit
        (kinked, 1000, 10**6, 88),  # 90 fit, and nothing tells 1 from 90
        (kinked, 999, 10**6, None),
    ],
)
def test_the_largest_batch_that_fits(demand, allowed, most, images):
    assert largest_fitting(demand, allowed, 1, most) == images


@pytest.mark.parametrize("demand", [affine, kinked])
def test_a_handful_of_steps_is_followed(demand):
    followed = []
    largest_fitting(lambda images: followed.append(images) or demand(images), 5179, 1, 10**6)
    assert len(followed) <= 6


def test_what_the_training_holds_beside_its_step():
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 10, bias=False))
    shapes = StepShapes(net, lambda groups: torch.optim.SGD(groups, lr=0.1), 4, 3, torch.device("cpu"))
    weights, image = 4 * 480, 48 + 16  # one byte a number, and two int64
    assert shapes.demand(8).beside == 8 * image
    several = StepShapes(
        net, shapes.optimizer, 4, 3, shapes.device, batches=2, averages=1, exchanged=1, mixed=True
    )
    assert several.demand(8).beside == 2 * 8 * image + weights + weights
    # Five copies of so many images are more than the step of so small a net.
    assert several.demand(800).step.peak == weights + weights + 5 * 4 * 48 * 800
    assert shapes.demand(800).step.peak < several.demand(800).step.peak


def test_the_plan_says_what_ends_it():
    fit = BatchFit(24, 4, 2, "memory", 32, needed=90 * 2**20, free=101 * 2**20, margin=0.1, tried=True)
    assert fit.batch_size == 192
    assert fit.line == (
        "data.batch_size=192 (4 devices x 2 parts x 24): the most that fits; at 32 px a step takes about "
        "90 MiB of the 101 MiB that are free, 10% of them kept back, and one has passed"
    )
    alone = BatchFit(24, 1, 1, "images", 32, needed=2**20, free=2**30, margin=0.3)
    assert alone.line.startswith("data.batch_size=24: the training has no more images; at 32 px")
    assert alone.line.endswith("30% of them kept back")
