"""Parameter groups, optimizers of them, and learning-rate schedules. A config names the optimizer's class.

A schedule is a frozen value with `factor(progress)`: the share of the optimizer's learning rate at
`progress` epochs. The plan prints it, LambdaLR applies it before every step.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import pairwise
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer

from crescendo.errors import UserError

OptimizerFactory = Callable[..., Optimizer]
Rates = Sequence[tuple[Sequence[nn.Parameter], float]]  # parameters, and their share of the learning rate


def parameter_groups(net: nn.Module, rates: Rates | None = None) -> list[dict[str, Any]]:
    """Two groups: weights of convolutions and linear layers decay; norms, biases and gains do not.

    By tensor rank: whatever has one axis (or none) is a norm, a bias or a gain, under any name. With `rates`
    two for each of them, in their order; lr_factor is what their learning rate is of the optimizer's.
    """
    groups: list[dict[str, Any]] = []
    for members, factor in rates or [(list(net.parameters()), 1.0)]:
        parameters = [parameter for parameter in members if parameter.requires_grad]
        own = {} if factor == 1 else {"lr_factor": factor}
        groups += [
            {"params": [parameter for parameter in parameters if parameter.ndim > 1], **own},
            {
                "params": [parameter for parameter in parameters if parameter.ndim <= 1],
                "weight_decay": 0.0,
                **own,
            },
        ]
    return [group for group in groups if group["params"]]


def fusing_fits(precision: str, *, clips: bool) -> bool:
    """Whether a training can take fused steps, which undo the scale of 16-mixed too late for clipping."""
    return not (clips and precision == "16-mixed")


def is_undecided(factory: OptimizerFactory) -> bool:
    """Whether its optimizer can be fused, and nobody has said if it is to be."""
    fused = signature(factory).parameters.get("fused")
    return fused is not None and fused.default is None


def make_optimizer(
    factory: OptimizerFactory, net: nn.Module, *, rates: Rates | None = None, may_fuse: bool = True
) -> Optimizer:
    """An optimizer of the net's parameters, fused where torch has that and all weights are on GPUs.

    Schedules multiply each group's own rate: the optimizer's, or the share of it that `rates` gives.
    A fused step is one pass over the weights, in a few kernels. A `fused` that the factory was given stays.
    Elsewhere torch chooses: on a CPU it takes weights one by one, bit for bit as ever.
    """
    if may_fuse and is_undecided(factory) and all(parameter.is_cuda for parameter in net.parameters()):
        optimizer = factory(parameter_groups(net, rates), fused=True)
    else:
        optimizer = factory(parameter_groups(net, rates))
    for group in optimizer.param_groups:
        if "lr_factor" in group:
            group["lr"] *= group.pop("lr_factor")
    return optimizer


class Schedule(Protocol):
    """A learning rate's course over a training."""

    def factor(self, epoch: float, epochs: float) -> float:
        """The share of the learning rate at `epoch` (fractions count) of `epochs`."""
        ...


def _warm_up(epoch: float, warmup_epochs: float) -> float:
    return min(1.0, epoch / warmup_epochs) if warmup_epochs > 0 else 1.0


def _after_warm_up(epoch: float, epochs: float, warmup_epochs: float) -> float:
    """How much of the time after the warm-up has passed, in 0..1."""
    return min(1.0, max(0.0, epoch - warmup_epochs) / max(epochs - warmup_epochs, 1e-9))


@dataclass(frozen=True)
class Constant:
    """Linear warm-up from 0, then 1."""

    warmup_epochs: float = 0.0

    def factor(self, epoch: float, epochs: float) -> float:
        return _warm_up(epoch, self.warmup_epochs)


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up from 0, 1 up to the share `hold` of the training, then half a cosine to `final`.

    Loshchilov & Hutter 2017, arXiv:1608.03983.
    """

    warmup_epochs: float = 0.0
    final: float = 0.0
    hold: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.hold < 1:
            raise UserError(f"lr_schedule.hold={self.hold:g}: must be 0 or more, and less than 1.")

    def factor(self, epoch: float, epochs: float) -> float:
        done = _after_warm_up(epoch, epochs, max(self.warmup_epochs, self.hold * epochs))
        cosine = self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2
        return _warm_up(epoch, self.warmup_epochs) * cosine


@dataclass(frozen=True)
class OneCycle:
    """Half a cosine from `start` up to 1 at the share `peak` of the training, and down to `final`.

    Smith & Topin 2018, arXiv:1708.07120, with cosines for lines; momentum does not cycle.
    """

    peak: float = 0.3
    start: float = 0.04
    final: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.peak < 1:
            raise UserError(f"lr_schedule.peak={self.peak:g}: must lie between 0 and 1.")

    def factor(self, epoch: float, epochs: float) -> float:
        done = min(1.0, epoch / epochs)
        if done < self.peak:
            low, fall = self.start, 1 - done / self.peak
        else:
            low, fall = self.final, (done - self.peak) / (1 - self.peak)
        return low + (1 - low) * (1 + math.cos(math.pi * fall)) / 2


@dataclass(frozen=True)
class Exponential:
    """Linear warm-up from 0, then times `gamma` after each `every_epochs`.

    As in TensorFlow's training code the decay counts from the start: after 5 epochs of warm-up, at .97 per
    2.4 epochs, the rate goes on with .97^2.
    """

    gamma: float
    every_epochs: float = 1.0
    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1:
            raise UserError(f"lr_schedule.gamma={self.gamma:g}: must be above 0 and at most 1.")
        if self.every_epochs <= 0:
            raise UserError(f"lr_schedule.every_epochs={self.every_epochs:g}: must be above 0.")

    def factor(self, epoch: float, epochs: float) -> float:
        if epoch < self.warmup_epochs:
            return epoch / self.warmup_epochs
        return self.gamma ** math.floor(epoch / self.every_epochs)


@dataclass(frozen=True)
class Step:
    """Linear warm-up from 0, then times `gamma` at each milestone, a share of the training.

    `gamma` is one for all milestones, or one for each.
    """

    milestones: Sequence[float]
    gamma: float | Sequence[float] = 0.1
    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        inside = all(0 < milestone < 1 for milestone in self.milestones)
        if not inside or any(a >= b for a, b in pairwise(self.milestones)):
            raise UserError(
                f"lr_schedule.milestones={list(self.milestones)}: must be rising shares of the "
                f"training between 0 and 1, such as [0.5, 0.75]."
            )
        if isinstance(self.gamma, Sequence) and len(self.gamma) != len(self.milestones):
            raise UserError(
                f"lr_schedule.gamma={list(self.gamma)}: must be one number, or one for each of "
                f"lr_schedule.milestones={list(self.milestones)}."
            )

    def factor(self, epoch: float, epochs: float) -> float:
        passed = sum(epoch >= milestone * epochs for milestone in self.milestones)
        if isinstance(self.gamma, Sequence):
            return _warm_up(epoch, self.warmup_epochs) * math.prod(self.gamma[:passed])
        return _warm_up(epoch, self.warmup_epochs) * self.gamma**passed
