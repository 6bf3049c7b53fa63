"""The largest batch whose training step fits into a device's memory, worked out from shapes alone."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Literal

import torch
from torch import nn

from crescendo.analysis.costs import on_meta
from crescendo.analysis.memory import OptimizerFactory, StepMemory, estimate_step_memory
from crescendo.optim import Rates

MULTIPLE = 8  # of images that a device takes at a time, where they are so many
MIXED_COPIES = 5  # of a batch in floats, while it is mixed and erased before the net sees it
CHORDS = 4  # that are drawn before the interval is halved


@dataclass(frozen=True)
class Demand:
    """Bytes that a device needs for a step.

    Attributes:
        step: of forward pass, backward pass and optimizer.
        beside: what the training holds meanwhile.
    """

    step: StepMemory
    beside: int

    @property
    def total(self) -> int:
        return self.step.peak + self.beside


@dataclass(frozen=True)
class StepShapes:
    """What decides the memory of a training's steps, but for how many images they have.

    Attributes:
        net: is only looked at.
        resolution: px; the training's highest, where a step takes most.
        autocast: what mixed precision computes in.
        weights: the precision that weights and images are converted to.
        batches: that are there as uint8, the step's own among them.
        averages: copies of the weights that are averaged beside the training.
        exchanged: copies of the gradients that data parallel training makes, in buckets.
        mixed: whether batches are mixed or erased on the device.
        train_mode: puts a copy of the net into the mode of its training.
        rates: of such a copy's parameters.
    """

    net: nn.Module
    optimizer: OptimizerFactory
    resolution: int
    in_channels: int
    device: torch.device
    autocast: torch.dtype | None = None
    weights: torch.dtype = torch.float32
    batches: int = 1
    averages: int = 0
    exchanged: int = 0
    mixed: bool = False
    train_mode: Callable[[nn.Module], object] = nn.Module.train
    rates: Callable[[nn.Module], Rates | None] = lambda net: None

    def demand(self, images: int) -> Demand:
        """Of a step of so many images.

        Raises:
            ValueError: they are too few for batch norm.
        """
        step = estimate_step_memory(
            on_meta(self.net).to(self.weights),
            self.resolution,
            images,
            self.optimizer,
            self.in_channels,
            autocast=self.autocast,
            device=self.device,
            train_mode=self.train_mode,
            rates=self.rates,
        )
        numbers = images * self.in_channels * self.resolution**2
        beside = self.averages * step.weights + self.exchanged * step.gradients
        beside += self.batches * (numbers + 2 * 8 * images)  # labels and indices are int64
        before = step.weights + step.gradients + step.optimizer
        before += MIXED_COPIES * numbers * self.weights.itemsize if self.mixed else 0
        return Demand(
            StepMemory(step.weights, step.gradients, step.optimizer, max(step.peak, before)), beside
        )


@dataclass(frozen=True)
class BatchFit:
    """A global batch that fits, and why no larger one was taken.

    Attributes:
        images: that each device takes at a time, and
        devices, parts: how many times that is the global batch.
        limit: what no larger one keeps: the memory, the training images, or the largest that was allowed.
        resolution: px, at which a step takes most.
        needed: bytes of a device, estimated.
        free: bytes, of the device that has least.
        margin: share of them that is left free.
        tried: whether a real step at that size passed.
    """

    images: int
    devices: int
    parts: int
    limit: Literal["memory", "images", "bound"]
    resolution: int
    needed: int
    free: int
    margin: float
    tried: bool = False

    @property
    def batch_size(self) -> int:
        return self.images * self.devices * self.parts

    @property
    def line(self) -> str:
        """For the plan."""
        factors = [f"{self.devices} devices"] if self.devices > 1 else []
        factors += [f"{self.parts} parts"] if self.parts > 1 else []
        product = " x ".join([*factors, f"{self.images}"])
        why = {
            "memory": "the most that fits",
            "images": "the training has no more images",
            "bound": "no more are allowed",
        }
        return (
            f"data.batch_size={self.batch_size}{f' ({product})' if factors else ''}: {why[self.limit]}; at "
            f"{self.resolution} px a step takes about {mebibytes(self.needed)} of the "
            f"{mebibytes(self.free)} that are free, {self.margin:.0%} of them kept back"
            f"{', and one has passed' if self.tried else ''}"
        )


def mebibytes(size: int) -> str:
    """1.5 -> 2 MiB."""
    return f"{size / 2**20:,.0f} MiB"


def rounded_down(images: int) -> int:
    """To a multiple of 8, where that leaves any: what GPUs' matrix units take whole."""
    return images // MULTIPLE * MULTIPLE if images >= MULTIPLE else images


def largest_fitting(demand: Callable[[int], int], allowed: float, fewest: int, most: int) -> int | None:
    """The largest number of images, rounded down unless it is `most`, whose demand is at most `allowed`.

    The peak is the highest of several moments, each affine in the batch, so that it is convex: what a line
    between a number that fits and one that does not says to fit, fits. It is exact where both peak at the
    same moment, so a handful of demands suffice. None if not even `fewest` fit.
    """
    demand = cache(demand)
    if demand(most) <= allowed:
        return most
    if fewest >= most or demand(fewest) > allowed:
        return None
    low, high = fewest, most
    for attempt in count():
        if rounded_down(high - 1) <= low:
            return low
        middle = (low + high) // 2
        if attempt < CHORDS:
            slope = (demand(high) - demand(low)) / (high - low)
            middle = low + int((allowed - demand(low)) / slope)
        following = low + 1 if low < MULTIPLE else rounded_down(low) + MULTIPLE
        images = max(following, rounded_down(min(middle, high - 1)))
        if demand(images) <= allowed:
            low = images
        else:
            high = images
    raise AssertionError("counting has no end")
