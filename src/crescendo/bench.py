"""Measures a configured training's step, part by part, and the settings that may make it shorter.

The steps are the training's own, at the last stage, which is the dearest: its loader, net, knobs, optimizer,
precision, metrics.csv and progress bar, and not W&B. Nothing is left on disk.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import cast

import lightning as L
import torch
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import ProgressBar
from omegaconf import DictConfig, OmegaConf
from torch.optim import Optimizer

from crescendo.analysis.profile import describe_device
from crescendo.analysis.step_times import PARTS, Lever, StepTimes, measure_peak, operations_per_second
from crescendo.compilation import compile_net
from crescendo.curriculum.callback import CurriculumCallback
from crescendo.curriculum.schedule import Curriculum, Stage
from crescendo.devices import (
    now,
    peak_since_reset,
    precision_of,
    reset_peak,
    set_up_kernels,
    trainer_settings,
)
from crescendo.errors import UserError
from crescendo.experiment import Experiment, prepare
from crescendo.metrics_file import MetricsFile
from crescendo.probe import FIRST_STEPS, limited_steps
from crescendo.runs import Run
from crescendo.step_metrics import StepMetrics
from crescendo.targets import build, check_arguments

# What saves, ends or schedules a training; the rest of its callbacks is part of a step.
LEFT_OUT = (lightning_callbacks.Checkpoint, lightning_callbacks.EarlyStopping)


@dataclass(frozen=True)
class Bench:
    """A training's step on this machine.

    Attributes:
        resolution: px of the last stage.
        operations: floating-point operations per second of the step.
        peak: that products of matrices reach here, in the step's precision.
        levers: those that were tried; empty without.
    """

    net: str
    resolution: int
    times: StepTimes
    operations: float
    peak: float
    precision: str
    device: str
    levers: Sequence[Lever]


@dataclass(frozen=True)
class LastStage(Curriculum):
    """The last stage of a curriculum, for two epochs: one to time whole steps, one to time their parts."""

    @property
    def plan(self) -> tuple[Stage, ...]:
        return (replace(super().plan[-1], first_epoch=0, epochs=2),)


class Clock:
    """The marks of a step: when each of its parts began, and the last one ended."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.whole: list[float] = []
        self.parts: dict[str, list[float]] = {part: [] for part in PARTS}
        self.peak_bytes = 0
        self._apart = False  # whether parts are told apart: the second epoch
        self._step = 0
        self._since = 0.0
        self._running = dict.fromkeys(PARTS, 0.0)

    def begin(self, device: torch.device, *, apart: bool) -> None:
        """An epoch."""
        self._apart, self._step = apart, 0
        self._running = dict.fromkeys(PARTS, 0.0)
        self._since = now(device)

    def mark(self, part: str, device: torch.device) -> None:
        """A part is over."""
        if self._apart:
            at = now(device)
            self._running[part] += at - self._since
            self._since = at

    def end(self, device: torch.device) -> None:
        """A step is over."""
        self._step += 1
        if self._apart:
            if self._step > 1:  # workers begin before the first
                for part, seconds in self._running.items():
                    self.parts[part].append(seconds)
            self._running = dict.fromkeys(PARTS, 0.0)
        elif self._step == FIRST_STEPS:
            reset_peak(device)
            self._since = now(device)
        elif self._step == self.steps:
            self.whole.append((now(device) - self._since) / (self.steps - FIRST_STEPS))
            self.peak_bytes = peak_since_reset(device)


class FirstMarks(L.Callback):
    """Stands before all other callbacks."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.clock.begin(pl_module.device, apart=trainer.current_epoch > 0)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        self.clock.mark("data", pl_module.device)

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: torch.Tensor
    ) -> None:
        self.clock.mark("forward", pl_module.device)

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.clock.mark("backward", pl_module.device)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        self.clock.mark("backward", pl_module.device)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self.clock.mark("optimizer", pl_module.device)


class LastMark(L.Callback):
    """Stands behind all other callbacks."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self.clock.mark("logging", pl_module.device)
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.clock.end(pl_module.device)


def bench_training(
    compose: Callable[[Sequence[str]], DictConfig],
    overrides: Sequence[str],
    *,
    steps: int,
    rounds: int,
    levers: Sequence[str] | None,
) -> Bench:
    """Measure the training that `overrides` describe, and each lever beside it, in turns.

    Args:
        compose: the configuration of overrides, validated.
        steps: that are timed, of each measurement.
        rounds: in each of which the training is measured, and then each lever.
        levers: overrides; None are those that suit this training, an empty list tries none.

    Raises:
        UserError: the training is one of several devices, or its epoch has too few steps.
    """
    config = compose(overrides)
    _check(config)
    experiment = prepare(config, overrides)
    stage = experiment.plan.stages[-1]
    first = measure(config, experiment, steps)
    tried = usual_levers(config) if levers is None else levers
    ratios: dict[str, list[float]] = {lever: [] for lever in tried}
    impossible: dict[str, str] = {}
    measured = [first]
    for _ in range(rounds if tried else 0):
        base = measure(config, prepare(config, overrides), steps)
        measured.append(base)
        for lever in [each for each in tried if each not in impossible]:
            try:
                changed = compose([*overrides, lever])
                _check(changed)
                times = measure(changed, prepare(changed, [*overrides, lever]), steps)
            except (UserError, torch.OutOfMemoryError) as error:
                impossible[lever] = str(error).splitlines()[0]
            else:
                ratios[lever].append(times.images_per_second / base.images_per_second)
    times = sorted(measured, key=lambda each: each.seconds)[(len(measured) - 1) // 2]
    precision = precision_of(config.trainer)
    device = _device(config)
    return Bench(
        experiment.plan.net,
        stage.resolution,
        times,
        operations_per_second(times, experiment.plan.macs_at[stage.resolution], experiment.plan.passes),
        measure_peak(device, of_products(precision)),
        precision,
        describe_device(device),
        [Lever(lever, values, impossible.get(lever)) for lever, values in ratios.items()],
    )


def usual_levers(config: DictConfig) -> list[str]:
    """Settings of the machine, not of the recipe; and a larger batch, to show whether a device is filled."""
    precision = precision_of(config.trainer)
    workers = config.data.num_workers
    more = 2 * workers if workers else max(1, (os.cpu_count() or 1) - 1)
    levers = [
        f"data.batch_size={2 * config.data.batch_size}",
        f"data.num_workers={more}",
        f"channels_last={str(not config.channels_last).lower()}",
        f"trainer.precision={'32-true' if precision == 'bf16-mixed' else 'bf16-mixed'}",
    ]
    if not config.compile:
        levers.append("compile=true")
        if _device(config).type == "cuda" and config.trainer.accumulate_grad_batches == 1:
            levers.append("compile=reduce-overhead")
    return levers


def measure(config: DictConfig, experiment: Experiment, steps: int) -> StepTimes:
    """Train so many steps twice, at the last stage: for the time of the whole, and of its parts."""
    set_up_kernels(tf32=config.tf32)
    curriculum = LastStage.of(experiment.curriculum)
    data = experiment.data.under(curriculum)
    parts = config.trainer.accumulate_grad_batches
    count = min(FIRST_STEPS + steps, limited_steps(data, config.trainer.limit_train_batches))
    if count < FIRST_STEPS + 1:
        raise UserError(
            f"an epoch has {count} steps: {FIRST_STEPS} warm up, so there must be {FIRST_STEPS + 1} or more. "
            f"Give a smaller data.batch_size than {config.data.batch_size}, or more images."
        )
    classifier = experiment.classifier
    classifier.finetuning = classifier.finetuning.of_last_epochs
    if config.compile:
        compile_net(classifier.net, 1, config.compile)
    clock = Clock(count)
    with TemporaryDirectory() as place:
        run = Run(Path(place))
        configured = [build(node, f"callbacks.{name}") for name, node in config.callbacks.items()]
        left_out = LEFT_OUT if config.trainer.enable_progress_bar else (*LEFT_OUT, ProgressBar)
        limits = {
            "max_epochs": 2,
            "max_steps": -1,
            "limit_train_batches": count * parts,
            "limit_val_batches": 0,
            "num_sanity_val_steps": 0,
        }
        trainer: L.Trainer = build(
            cast(DictConfig, OmegaConf.merge(trainer_settings(config.trainer), limits)),
            "trainer",
            callbacks=[
                FirstMarks(clock),
                CurriculumCallback(curriculum),
                StepMetrics(curriculum, run, config.trainer.log_every_n_steps, experiment.plan.macs_at),
                *(callback for callback in configured if not isinstance(callback, left_out)),
                LastMark(clock),
            ],
            logger=[MetricsFile(run.directory)],
            default_root_dir=run.directory,
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(classifier, data)
    parts_seconds = {part: median(seconds) for part, seconds in clock.parts.items()}
    return StepTimes(clock.whole[0], parts_seconds, config.data.batch_size, clock.peak_bytes)


def of_products(precision: str) -> torch.dtype:
    """What convolutions and products of matrices are computed in."""
    if precision.startswith("bf16"):
        return torch.bfloat16
    return {"16": torch.float16, "64": torch.float64}.get(precision[:2], torch.float32)


def _device(config: DictConfig) -> torch.device:
    on_gpu = config.trainer.accelerator != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if on_gpu else "cpu")


def _check(config: DictConfig) -> None:
    check_arguments(config)
    if config.trainer.find_batch_size:
        raise UserError(
            "trainer.find_batch_size=true: crescendo bench measures the batch that is given: "
            "data.batch_size=256, say."
        )
    if config.trainer.devices != 1 or config.trainer.num_nodes != 1:
        raise UserError(
            f"trainer.devices={config.trainer.devices}: crescendo bench measures one device. Of several, "
            f"python train.py plan=probe tells the time of each stage."
        )
