"""A few training steps of every curriculum stage, to know what a training will take before it starts.

They are the training's own: its loader at the stage's resolution and magnitudes, its net, knobs, optimizer,
precision, devices and averages. Nothing is written.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from subprocess import Popen
from typing import cast

import lightning as L
from lightning.pytorch import callbacks as lightning_callbacks
from omegaconf import DictConfig, OmegaConf

from crescendo.analysis.profile import describe_device
from crescendo.analysis.speed import Speeds, StageSpeed
from crescendo.classifier import ImageClassifier
from crescendo.curriculum.callback import CurriculumCallback
from crescendo.curriculum.schedule import Curriculum, Stage
from crescendo.data import ImageData
from crescendo.devices import now, peak_since_reset, reset_peak, set_up_ddp
from crescendo.targets import build
from crescendo.validation import StatisticsRefresh

log = logging.getLogger(__name__)

FIRST_STEPS = 3  # of each stage: workers start, kernels are chosen, a net is compiled
MEASURED_STEPS = 10
VALIDATION_BATCHES = 10
MOST_STAGES = 12  # that are measured one by one; of more, one for each resolution

# What records, shows or ends a training, and neither slows a step nor changes it.
LEFT_OUT = (
    lightning_callbacks.Checkpoint,
    lightning_callbacks.DeviceStatsMonitor,
    lightning_callbacks.EarlyStopping,
    lightning_callbacks.LearningRateMonitor,
    lightning_callbacks.ProgressBar,
)


@dataclass(frozen=True)
class Rehearsal(Curriculum):
    """The stages of a curriculum, each for one epoch."""

    @property
    def plan(self) -> tuple[Stage, ...]:
        stages = super().plan
        if len(stages) > MOST_STAGES:  # the last of a resolution: the knobs are on there
            stages = tuple({stage.resolution: stage for stage in stages}.values())
        return tuple(replace(stage, first_epoch=epoch, epochs=1) for epoch, stage in enumerate(stages))


class StageTimer(L.Callback):
    """Times the optimizer steps of each epoch after the first, its memory, and the validation behind it.

    Args:
        refresh: takes statistics anew for validations: as long for few of their batches as for all.
    """

    def __init__(self, stages: Sequence[Stage], refresh: StatisticsRefresh | None) -> None:
        self.stages, self.refresh = stages, refresh
        self.speeds: list[StageSpeed] = []
        self.validations: list[tuple[float, float]] = []  # seconds of the batches, and of a refresh
        self._first = 0  # steps of the epoch that are not measured
        self._begun = self._warm = self._validating = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        steps = trainer.num_training_batches // trainer.accumulate_grad_batches
        self._first = min(FIRST_STEPS, int(steps) - 1)
        reset_peak(pl_module.device)
        self._begun = self._warm = now(pl_module.device)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        parts = trainer.accumulate_grad_batches
        if batch_idx + 1 == self._first * parts:
            self._warm = now(pl_module.device)
        if batch_idx + 1 == trainer.num_training_batches:
            measured = trainer.num_training_batches // parts - self._first
            seconds = (now(pl_module.device) - self._warm) / measured
            start = self._warm - self._begun - self._first * seconds
            peak = peak_since_reset(pl_module.device)
            stage = self.stages[trainer.current_epoch]
            self.speeds.append(StageSpeed(stage, seconds, max(0.0, start), peak))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validating = now(pl_module.device)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        seconds = now(pl_module.device) - self._validating
        refreshing = self.refresh.seconds if self.refresh is not None else 0.0
        self.validations.append((seconds - refreshing, refreshing))

    def validation_seconds(self, times: float) -> float:
        """The mean over the stages but the first, in which workers start; of so many times the batches."""
        later = self.validations[1:] or self.validations
        return mean(times * batches + refreshing for batches, refreshing in later)


def probe(
    settings: DictConfig,
    callbacks: Sequence[L.Callback],
    around_validation: Callable[[ImageData], Sequence[L.Callback]],
    classifier: ImageClassifier,
    data: ImageData,
    curriculum: Curriculum,
) -> tuple[Speeds, list[Popen[bytes]]]:
    """Train a few steps of each stage and validate behind them, on the configured devices.

    Args:
        settings: of the trainer.
        callbacks: the training's; those that record, show or end it are left out.
        around_validation: the training's for the data that are validated here.
        classifier: is trained, all of its layers where fine-tuning begins with the head alone.

    Returns:
        What rank 0 measured, on every rank; and the processes of the other ranks, which are left waiting.
    """
    rehearsal = Rehearsal.of(curriculum)
    classifier.finetuning = classifier.finetuning.of_last_epochs
    data = data.under(rehearsal)
    around = around_validation(data)
    refresh = next((callback for callback in around if isinstance(callback, StatisticsRefresh)), None)
    timer = StageTimer(rehearsal.plan, refresh)
    parts = settings.accumulate_grad_batches
    steps = min(FIRST_STEPS + MEASURED_STEPS, limited_steps(data, settings.limit_train_batches))
    validation_batches = limited(len(data.val_dataloader()), settings.limit_val_batches)
    limits = {
        "max_epochs": len(rehearsal.plan),
        "max_steps": -1,
        "limit_train_batches": steps * parts,
        "limit_val_batches": min(VALIDATION_BATCHES, validation_batches),
        "check_val_every_n_epoch": 1,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
    }
    trainer: L.Trainer = build(
        cast(DictConfig, OmegaConf.merge(settings, limits)),
        "trainer",
        callbacks=[
            CurriculumCallback(rehearsal),
            *around,
            *(callback for callback in callbacks if not isinstance(callback, LEFT_OUT)),
            timer,
        ],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    set_up_ddp(trainer)
    if trainer.is_global_zero:
        log.info("measuring %d steps of each stage", steps)
    trainer.fit(classifier, data)
    validation_seconds = 0.0
    if validation_batches:  # of this rank's share, how many times what was measured
        all_batches = limited(len(data.val_dataloader()), settings.limit_val_batches)
        validation_seconds = timer.validation_seconds(all_batches / int(trainer.num_val_batches[0]))
    reset_peak(classifier.device)
    speeds = Speeds(
        timer.speeds,
        steps=steps - min(FIRST_STEPS, steps - 1),
        validation_seconds=validation_seconds,
        device=describe_device(trainer.strategy.root_device),
        devices=trainer.world_size,
    )
    return trainer.strategy.broadcast(speeds), getattr(trainer.strategy.launcher, "procs", [])


def limited(batches: int, limit: int | float) -> int:
    """Batches under one of the trainer's limits: a number of batches, or a share."""
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def limited_steps(data: ImageData, limit: int | float) -> int:
    """Optimizer steps of an epoch under trainer.limit_train_batches, which counts parts of batches."""
    return math.ceil(limited(data.steps_per_epoch * data.parts, limit) / data.parts)
