"""trainer.find_batch_size=true: the largest global batch that the devices' memory holds.

It is worked out from shapes and from what is free, so that nothing is ever tried on a CPU, where too much
takes the machine down with it. A GPU only refuses, so there a real step has to pass. All ranks take the same.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from subprocess import Popen
from typing import Literal, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from omegaconf import DictConfig, OmegaConf, open_dict

from crescendo.analysis.batch_fit import (
    BatchFit,
    Demand,
    StepShapes,
    largest_fitting,
    mebibytes,
    rounded_down,
)
from crescendo.analysis.free_memory import free_memory
from crescendo.curriculum.schedule import Curriculum, Stage
from crescendo.devices import trainer_settings
from crescendo.errors import UserError
from crescendo.experiment import Experiment
from crescendo.optim import fusing_fits, is_undecided
from crescendo.targets import build, build_partial
from crescendo.trial_step import step_passes

log = logging.getLogger(__name__)

# Shares of what is free that an estimate leaves: cuDNN's workspaces, fragments between tensors of several
# shapes, an estimate that is off by a tenth. On a CPU also what the system does not take back at once, and
# nothing is tried there.
MARGINS = {"cuda": 0.1, "cpu": 0.3}
STEP_DOWN = 0.9  # from a batch whose step ran out of memory to the next that is tried

# Of Lightning's precisions: what the weights are in, and what mixed precision computes in.
PRECISIONS: Mapping[str, tuple[torch.dtype, torch.dtype | None]] = {
    "64-true": (torch.float64, None),
    "32-true": (torch.float32, None),
    "16-true": (torch.float16, None),
    "bf16-true": (torch.bfloat16, None),
    "16-mixed": (torch.float32, torch.float16),
    "bf16-mixed": (torch.float32, torch.bfloat16),
}


def find_batch_size(
    config: DictConfig, experiment: Experiment, bound: int | None
) -> tuple[BatchFit, list[Popen[bytes]]]:
    """The largest batch of the training's stage with the highest resolution, on the configured devices.

    Args:
        experiment: its classifier is moved and trained where there is a GPU: it is not for the training.
        bound: the largest global batch that is allowed.

    Returns:
        The same on every rank; and the processes of the other ranks, where this one started them, which are
        left waiting for the training.

    Raises:
        UserError: not even the smallest batch fits, or the devices are of a kind that is not known here.
    """
    quiet = OmegaConf.merge(trainer_settings(config.trainer), {"enable_progress_bar": False})
    trainer: L.Trainer = build(
        cast(DictConfig, quiet),
        "trainer",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    _refuse_unknown(trainer, config.trainer)
    launcher = trainer.strategy.launcher

    def found() -> BatchFit:
        trainer.strategy.setup_environment()
        return _find(trainer, config, experiment, bound)

    fit = found() if launcher is None else launcher.launch(found, trainer=trainer)
    return fit, getattr(launcher, "procs", [])


def learning_rate_line(lr: float, configured: int, lr_now: float, found: int) -> str:
    """What becomes of the learning rate that belongs to the configured batch.

    One that is given per 256 images has followed. Another is left as it is, and the line tells what linear
    scaling (Goyal et al. 2017, section 2.1) would make of it.
    """
    if lr_now != lr:
        return (
            f"optimizer.lr={lr_now:.3g} follows the batch: it was {lr:.3g} for data.batch_size={configured}"
        )
    return (
        f"optimizer.lr={lr:g} is kept as it was for data.batch_size={configured}: scaled with the batch it "
        f"would be optimizer.lr={lr * found / configured:.3g}"
    )


def _refuse_unknown(trainer: L.Trainer, settings: DictConfig) -> None:
    spawned = any(way in settings.strategy for way in ("spawn", "fork", "notebook"))
    if spawned or not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        raise UserError(
            f"trainer.find_batch_size=true knows what a step takes on one device and under ddp, not under "
            f"trainer.strategy={settings.strategy}: set data.batch_size instead."
        )
    if trainer.strategy.root_device.type not in MARGINS:
        raise UserError(
            f"trainer.find_batch_size=true knows the memory of CUDA GPUs and of CPUs, not of "
            f"{trainer.strategy.root_device}: set data.batch_size instead."
        )
    if trainer.precision not in PRECISIONS:
        raise UserError(
            f"trainer.find_batch_size=true does not know what trainer.precision={trainer.precision} takes, "
            f"but {', '.join(PRECISIONS)}: set data.batch_size instead."
        )


def _find(trainer: L.Trainer, config: DictConfig, experiment: Experiment, bound: int | None) -> BatchFit:
    strategy, device = trainer.strategy, trainer.strategy.root_device
    together, parts = trainer.world_size, config.trainer.accumulate_grad_batches
    most, limit = _most_images(len(experiment.data.training), bound, together * parts)

    def least(value: int) -> int:
        """Over all ranks."""
        return int(strategy.reduce(torch.tensor(int(value), device=device), reduce_op="min"))

    strategy.barrier()  # they all hold their data, and what their devices need to talk to each other
    free = least(free_memory(device) // (trainer.num_devices if device.type == "cpu" else 1))
    margin = MARGINS[device.type]
    stage = highest_stage(experiment.curriculum)
    shapes = _shapes(trainer, config, experiment, stage)
    fewest = _fewest(shapes.demand, most)
    images = None
    if trainer.is_global_zero:
        images = largest_fitting(lambda each: shapes.demand(each).total, free * (1 - margin), fewest, most)
    images = strategy.broadcast(images)
    tried = device.type == "cuda"
    while tried and images is not None:
        # What the training has beside its step, and half of the margin, is there while one is tried.
        held = shapes.demand(images).beside + int(free * margin / 2)
        if least(step_passes(trainer, experiment.classifier, stage, images, config.data.in_channels, held)):
            break
        smaller = rounded_down(int(images * STEP_DOWN))
        if trainer.is_global_zero:
            log.info("a step of %d images ran out of memory: trying %d", images, smaller)
        images = smaller if smaller >= fewest else None
    if images is None:
        halved = ", or trainer.precision=bf16-mixed" if trainer.precision in ("32-true", "64-true") else ""
        raise UserError(
            f"trainer.find_batch_size=true: a step of {fewest} at {stage.resolution} px takes about "
            f"{mebibytes(shapes.demand(fewest).total)}, and {mebibytes(free)} are free, {margin:.0%} of them "
            f"kept back: take a smaller net or resolution{halved}."
        )
    return BatchFit(
        images=images,
        devices=together,
        parts=parts,
        limit=limit if images == most else "memory",
        resolution=stage.resolution,
        needed=shapes.demand(images).total,
        free=free,
        margin=margin,
        tried=tried,
    )


def highest_stage(curriculum: Curriculum) -> Stage:
    """The stage whose steps take most memory, at the highest resolution that the curriculum may come to.

    That may be drawn, and other stages are drawn for another number of epochs: both ends of the range count.
    """
    stage = max(curriculum.plan, key=lambda stage: stage.resolution)
    ramp = curriculum.resolution_ramp
    return replace(stage, resolution=max(stage.resolution, round(ramp.start), round(ramp.end)))


def _most_images(training: int, bound: int | None, shares: int) -> tuple[int, Literal["images", "bound"]]:
    """The most images of a device's part, and whether it is the `training` images that end there or `bound`.

    Raises:
        UserError: not even one image is left for each.
    """
    if bound is not None and bound <= training:
        if bound % shares:
            raise UserError(
                f"data.batch_size={bound}, beside trainer.find_batch_size=true the largest that is allowed, "
                f"must be a multiple of {shares} (devices x trainer.accumulate_grad_batches)."
            )
        return bound // shares, "bound"
    if training < shares:
        raise UserError(f"{training} training images are too few for {shares} parts of a batch.")
    return rounded_down(training // shares), "images"


def _fewest(demand: Callable[[int], Demand], most: int) -> int:
    """1, or where batch norm refuses that, 2."""
    try:
        demand(1)
    except ValueError as error:
        if most < 2:
            raise UserError(f"trainer.find_batch_size=true: {error}") from error
        return 2
    return 1


def _shapes(trainer: L.Trainer, config: DictConfig, experiment: Experiment, stage: Stage) -> StepShapes:
    device = trainer.strategy.root_device
    weights, autocast = PRECISIONS[str(trainer.precision)]
    optimizer = config.optimizer.copy()
    with open_dict(optimizer):
        if optimizer.get("fused"):  # none runs without a device
            del optimizer["fused"]  # where nothing is said, it is estimated as fused
    factory = build_partial(optimizer, "optimizer")
    if is_undecided(factory) and not fusing_fits(
        trainer.precision, clips=trainer.gradient_clip_val is not None
    ):
        factory = partial(factory, fused=False)
    callbacks = [build(node, f"callbacks.{name}") for name, node in config.callbacks.items()]
    loading = 2 * config.data.num_workers if device.type == "cpu" else 1  # ahead: torch's prefetch_factor
    mixing = ("mixup", "cutmix", "random_erasing")
    finetuning = experiment.classifier.finetuning
    return StepShapes(
        experiment.classifier.net,
        factory,
        stage.resolution,
        config.data.in_channels,
        device,
        autocast=autocast,
        weights=weights,
        batches=1 + loading,
        averages=sum(isinstance(callback, WeightAveraging) for callback in callbacks),
        exchanged=int(isinstance(trainer.strategy, DDPStrategy)),
        mixed=any(each.knobs.get(knob, 0) > 0 for each in experiment.curriculum.plan for knob in mixing),
        train_mode=finetuning.train_mode,
        rates=finetuning.rates,
    )
