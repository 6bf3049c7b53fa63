"""Averaged weights: Lightning's on the net's own device, and TensorFlow's, which follow quickly at first."""

from typing import Any

import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
from torch import Tensor


class _BesideTheNet(WeightAveraging):
    """Lightning's callback makes the average before the trainer moves the net to its GPU: on the CPU, to
    which each step would copy all weights.
    """

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_fit_start(trainer, pl_module)
        assert self._average_model is not None
        self._average_model.module.to(pl_module.device)  # not its counter, which the host reads each step


class MovingAveraging(_BesideTheNet, EMAWeightAveraging):
    """Lightning's exponential moving average of weights and buffers, on the device of the net."""


class WarmedAveraging(_BesideTheNet):
    """An exponential moving average of weights and buffers whose decay rises to `decay`.

    After optimizer step n (from 1) it is min(decay, (1 + n) / (10 + n)), as in TensorFlow's
    ExponentialMovingAverage that is told the number of updates; the average starts at the initial weights. A
    fixed decay of .9999 would hold on to these for tens of thousands of steps.

    Args:
        decay: that the average ends with, at least 0 and below 1.

    Raises:
        ValueError: a decay outside its bounds.
    """

    def __init__(self, decay: float = 0.9999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay:g}: must be at least 0 and below 1")
        super().__init__(multi_avg_fn=self._approach)
        self.decay = decay
        self._steps = 0

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            assert self._average_model is not None
            self._average_model.n_averaged.fill_(1)  # at 0 the first update would replace the initial weights

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        if step_idx is None:
            return False
        self._steps = step_idx + 1  # the trainer's count: right after a resume, and no tensor on a device
        return True

    def _approach(self, averages: list[Tensor], current: list[Tensor], _: object) -> None:
        share = 1 - min(self.decay, (1 + self._steps) / (10 + self._steps))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, current, share)
        else:
            torch._foreach_copy_(averages, current)  # counters
