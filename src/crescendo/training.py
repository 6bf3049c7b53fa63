"""One training, from its configuration to summary.json."""

import csv
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from rich import get_console
from rich.logging import RichHandler
from rich.table import Table

from crescendo.analysis.plan import Plan, check_net_follows, make_plan, short_number, show_plan
from crescendo.checkpoints import AtomicCheckpointIO
from crescendo.classifier import ImageClassifier
from crescendo.config import build, build_partial, validate
from crescendo.curriculum.callback import CurriculumCallback
from crescendo.curriculum.schedule import Curriculum
from crescendo.data import Augmentation, ImageData, Transform
from crescendo.data.sources import Sets
from crescendo.errors import UserError
from crescendo.regularization import Regularization
from crescendo.runs import RUN_DIRECTORY_VARIABLE, Run, best_checkpoint, new_directory, recording
from crescendo.tracking import MetricsFile, StepMetrics, finish_loggers, peak_memory_bytes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Experiment:
    """What a configuration describes, built: everything but the trainer."""

    data: ImageData
    classifier: ImageClassifier
    curriculum: Curriculum
    plan: Plan
    class_names: Sequence[str]


def run(config: DictConfig) -> dict[str, float]:
    """Train, test and record one run; its metrics.

    Raises:
        UserError: the configuration asks for what cannot be.
    """
    overrides = _overrides()
    validate(config)
    _show_messages()
    if config.data.get("root"):
        config.data.root = str(Path(config.data.root).expanduser().absolute())
    if config.plan:
        get_console().print(show_plan(prepare(config, overrides).plan))
        return {}
    directory = _directory(config)
    with recording(directory, config, overrides, rank_zero=_is_rank_zero()) as run:
        return _train(config, overrides, run)


def prepare(config: DictConfig, overrides: Sequence[str] = ()) -> Experiment:
    """Build data, net and classifier, and check that they go together.

    Args:
        config: validated.
        overrides: what was typed; a knob given there must have an owner in the net.
    """
    L.seed_everything(config.seed, verbose=False)
    net = build(config.model, "model")
    regularization = Regularization(**_values(config.regularization))
    not_applied = regularization.not_applied(net)
    for knob in not_applied:
        if any(override.split("=")[0].startswith(f"regularization.{knob}") for override in overrides):
            raise UserError(
                f"regularization.{knob} was given, but {net.name} has no {knob.replace('_', ' ')}."
            )
    curriculum = build(
        config.curriculum,
        "curriculum",
        epochs=config.trainer.max_epochs,
        knobs=regularization.ramps(net),
    )
    check_net_follows(net, curriculum)
    data, sets = build_data(config, curriculum)
    schedule = build(config.lr_schedule, "lr_schedule")
    classifier = ImageClassifier(
        net,
        build_partial(config.optimizer, "optimizer"),
        schedule,
        mean=config.data.mean,
        std=config.data.std,
        num_classes=config.data.num_classes,
        seed=config.seed,
        channels_last=config.channels_last,
    )
    plan = make_plan(
        net,
        curriculum,
        schedule,
        in_channels=config.data.in_channels,
        lr=config.optimizer.lr,
        batch_size=config.data.batch_size,
        steps_per_epoch=data.steps_per_epoch,
        not_applied=not_applied,
    )
    return Experiment(data, classifier, curriculum, plan, class_names(config, sets))


def build_transform(config: DictConfig) -> Transform:
    """How the configured data set's images become batches."""
    return Transform(
        in_channels=config.data.in_channels,
        fit=config.data.fit,
        eval_crop=config.data.eval_crop,
        augmentation=Augmentation(**_values(config.data.augmentation)),
        seed=config.seed,
    )


def build_data(config: DictConfig, curriculum: Curriculum) -> tuple[ImageData, Sets]:
    """The configured data set, read and split.

    Raises:
        UserError: it is not there, or has other classes than the configuration says.
    """
    sets: Sets = build(config.data.source, "data.source")
    classes = int(max(sets.training.labels.max(), sets.test.labels.max())) + 1
    if classes > config.data.num_classes:
        raise UserError(
            f"{config.data.name} has {classes} classes, data.num_classes={config.data.num_classes}."
        )
    data = ImageData(
        sets,
        build_transform(config),
        curriculum,
        config.seed,
        batch_size=config.data.batch_size,
        eval_batch_size=config.data.eval_batch_size,
        parts=config.trainer.accumulate_grad_batches,
        num_workers=config.data.num_workers,
        val_fraction=config.data.val_fraction,
        fraction=config.data.fraction,
        split_seed=config.data.split_seed,
    )
    return data, sets


def class_names(config: DictConfig, sets: Sets) -> list[str]:
    """The configured names, else the data set's own, else numbers."""
    names = config.data.class_names or sets.class_names or range(config.data.num_classes)
    return [str(name) for name in names]


def build_trainer(config: DictConfig, run: Run, experiment: Experiment) -> L.Trainer:
    """Lightning's Trainer with our callbacks, and loggers on rank 0."""
    loggers: list[Logger] = [MetricsFile(run.directory)]
    if config.logger and _is_rank_zero():
        loggers.append(build(config.logger, "logger", run=run, config=_values(config)))
    callbacks = [
        CurriculumCallback(experiment.curriculum),
        StepMetrics(experiment.curriculum, run, config.trainer.log_every_n_steps),
        *(build(node, f"callbacks.{name}") for name, node in config.callbacks.items()),
    ]
    return build(
        config.trainer,
        "trainer",
        callbacks=callbacks,
        logger=loggers,
        plugins=[AtomicCheckpointIO()],
        default_root_dir=run.directory,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _train(config: DictConfig, overrides: Sequence[str], run: Run) -> dict[str, float]:
    experiment = prepare(config, overrides)
    plan = experiment.plan
    run.summary |= {
        "parameters": plan.parameters,
        "macs": plan.evaluation_macs,
        "not_applied": list(plan.not_applied),
    }
    if _is_rank_zero():
        get_console().print(show_plan(plan))
        for knob in plan.not_applied:
            log.warning("%s has no %s: not applied", plan.net, knob.replace("_", " "))
    trainer = build_trainer(config, run, experiment)
    failed = True
    try:
        try:
            trainer.fit(experiment.classifier, experiment.data)
        except SystemExit:
            if trainer.interrupted:  # Lightning turns a KeyboardInterrupt into exit code 1
                raise KeyboardInterrupt from None
            raise
        best = best_checkpoint(run.directory)
        trainer.test(experiment.classifier, experiment.data, ckpt_path=best, verbose=False)
        checkpoint = torch.load(best, weights_only=True, mmap=True)
        metrics = checkpoint["validation"] | {
            name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")
        }
        run.summary |= {
            "metrics": metrics,
            "best_epoch": checkpoint["epoch"],
            "peak_memory_bytes": peak_memory_bytes(),
        }
        failed = False
    finally:
        finish_loggers(trainer.loggers, failed=failed)
    if trainer.is_global_zero:
        write_confusion_matrix(run.directory, experiment)
        get_console().print(show_result(run, experiment))
    return metrics


def write_confusion_matrix(directory: Path, experiment: Experiment) -> None:
    """confusion_matrix.csv: numbers of test images, a row for each true class, a column for each answer."""
    matrix = experiment.classifier.confusion.compute().tolist()
    with (directory / "confusion_matrix.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["true \\ answered", *experiment.class_names])
        for name, row in zip(experiment.class_names, matrix, strict=True):
            writer.writerow([name, *row])


def show_result(run: Run, experiment: Experiment) -> Table:
    """The end of a run, for a terminal."""
    summary, metrics = run.summary, run.summary["metrics"]
    table = Table(title=f"{experiment.plan.net}: result", title_justify="left", show_header=False)
    table.add_column(justify="right", style="bold")
    table.add_column()
    table.add_row("test accuracy", f"{metrics['test/accuracy']:.4f}")
    table.add_row("test top-5 accuracy", f"{metrics['test/accuracy_top5']:.4f}")
    table.add_row("test calibration error", f"{metrics['test/calibration_error']:.4f}")
    table.add_row("test loss", f"{metrics['test/loss']:.4f}")
    weakest = weakest_classes(experiment)
    table.add_row("weakest classes", ", ".join(f"{name} {share:.3f}" for name, share in weakest))
    table.add_row(
        "validation accuracy",
        f"{metrics['val/accuracy']:.4f} in epoch {summary['best_epoch'] + 1}, the best",
    )
    table.add_row("parameters", f"{summary['parameters']:,}")
    table.add_row("MACs", f"{short_number(summary['macs'])} at {experiment.plan.evaluation_resolution} px")
    table.add_row("training speed", f"{summary['images_per_second']:.0f} images/s")
    table.add_row("peak memory", f"{summary['peak_memory_bytes'] / 2**20:.0f} MiB")
    table.add_row("run", str(run.directory))
    return table


def weakest_classes(experiment: Experiment, count: int = 3) -> list[tuple[str, float]]:
    """The classes with the lowest test accuracy, lowest first."""
    matrix = experiment.classifier.confusion.compute().double()
    shares = (matrix.diagonal() / matrix.sum(1).clamp_min(1)).tolist()
    return sorted(zip(experiment.class_names, shares, strict=True), key=lambda pair: pair[1])[:count]


def _directory(config: DictConfig) -> Path:
    """Where this run writes: rank 0 makes the directory, and tells the ranks that it starts."""
    told = os.environ.get(RUN_DIRECTORY_VARIABLE)
    if told and not _is_rank_zero():
        return Path(told)
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        directory = Path(HydraConfig.get().runtime.output_dir)
    else:
        directory = new_directory(Path(config.runs_dir) / config.name)
    directory = directory.absolute()
    os.environ[RUN_DIRECTORY_VARIABLE] = str(directory)
    return directory


def _is_rank_zero() -> bool:
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]  # a function that carries it
    return rank == 0


def _values(node: DictConfig) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))


def _overrides() -> list[str]:
    """What was typed, where Hydra runs."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def _show_messages() -> None:
    """Send our messages to the console, above a live progress bar; Lightning's only where they warn."""
    ours = logging.getLogger("crescendo")
    ours.setLevel(logging.INFO)
    if not ours.handlers:
        handler = RichHandler(show_path=False, show_level=False, log_time_format="%H:%M:%S")
        handler.addFilter(lambda record: record.name != "crescendo.traceback")
        ours.addHandler(handler)
    ours.propagate = False
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.captureWarnings(True)
