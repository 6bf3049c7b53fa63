"""One training, from its configuration to summary.json."""

import logging
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from rich import get_console

from crescendo.analysis.plan import Plan, check_net_follows, make_plan, show_plan
from crescendo.analysis.preview import batches_as_seen, draw_preview
from crescendo.analysis.results import class_accuracies, show_result, write_confusion_matrix
from crescendo.analysis.speed import Speeds
from crescendo.checkpoints import AtomicCheckpointIO, clean_partials, find_checkpoint, load_checkpoint
from crescendo.classifier import ImageClassifier
from crescendo.config import validate
from crescendo.curriculum.budget import Budget, fit_epochs
from crescendo.curriculum.callback import CurriculumCallback
from crescendo.curriculum.schedule import Curriculum, Stage
from crescendo.data import Augmentation, ImageData, Transform
from crescendo.data.sources import Sets
from crescendo.devices import check_devices, set_up_ddp
from crescendo.errors import UserError
from crescendo.interruption import Interruption, Signals, signals_noted
from crescendo.models import load_weights
from crescendo.models.layers import Net
from crescendo.nonfinite import NonFiniteError, Windows
from crescendo.probe import limited, probe
from crescendo.ranks import new_run_directory, shared_choice
from crescendo.regularization import Regularization
from crescendo.resume import find_run, requeued_run, resumed_config
from crescendo.runs import (
    JOB_DIRECTORY_VARIABLE,
    RUN_DIRECTORY_VARIABLE,
    Run,
    best_checkpoint,
    recording,
    storage_errors,
)
from crescendo.targets import build, build_partial, check_arguments, users_mistakes
from crescendo.tracking import (
    MetricsFile,
    ProgressBar,
    StepMetrics,
    finish_loggers,
    peak_memory_bytes,
    show_messages,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
    config.resume = config.resume or requeued_run(config)
    if config.resume is not None:
        directory = _told_directory() or shared_choice(
            lambda: find_run(config, rank_zero=_is_rank_zero()), rank_zero=_is_rank_zero()
        )
        config = resumed_config(config, overrides, directory)
        validate(config)
    check_arguments(config)
    check_devices(config.trainer)
    if config.budget is not None and config.resume is None:
        _refuse_lengths_beside_budget(config, overrides)
    show_messages()
    if config.data.get("root"):
        config.data.root = _absolute(config.data.root)
    if config.weights is not None and Path(config.weights).expanduser().exists():
        config.weights = _absolute(config.weights)
    experiment, speeds = plan_training(config, overrides)
    if _is_rank_zero():
        get_console().print(show_plan(experiment.plan, speeds, config.budget))
    if config.plan:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        return {}
    config.data.class_names = experiment.class_names  # so that the run is used without its data
    directory = _directory(config)
    with (
        signals_noted(config.stop_seconds) as signals,
        storage_errors(directory),  # of summary.json, too
        recording(directory, config, overrides, rank_zero=_is_rank_zero()) as run,
        storage_errors(directory),
    ):
        return _train(config, experiment, run, signals)


def plan_training(config: DictConfig, overrides: Sequence[str]) -> tuple[Experiment, Speeds | None]:
    """What is going to be trained, and the speeds if they were to be measured.

    A new run under `budget` gets the trainer.max_epochs that it pays for, in `config`; one that is resumed
    has them.

    Raises:
        UserError: the budget is too small for one epoch of each stage.
    """
    budget = Budget.parse(config.budget) if config.budget is not None and config.resume is None else None
    if budget is not None:  # long enough to be built, until it is known
        config.trainer.max_epochs = max(config.trainer.max_epochs, _fewest_epochs(config))
    measured = config.plan == "probe" or (budget is not None and budget.kind == "seconds")
    only_planned = bool(config.plan) and not measured and config.weights is None
    experiment = prepare(config, overrides, shapes_only=only_planned)
    speeds = None
    if measured:
        callbacks = [build(node, f"callbacks.{name}") for name, node in config.callbacks.items()]
        speeds = probe(
            config.trainer, callbacks, experiment.classifier, experiment.data, experiment.curriculum
        )
    if budget is not None:
        config.trainer.max_epochs = _epochs_within(budget, config, experiment, speeds)
        experiment = prepare(config, overrides, shapes_only=bool(config.plan), earlier=experiment)
    return experiment, speeds


def _epochs_within(budget: Budget, config: DictConfig, experiment: Experiment, speeds: Speeds | None) -> int:
    plan, net = experiment.plan, experiment.classifier.net
    cost = plan.training_seconds(speeds) if budget.kind == "seconds" and speeds else plan.training_macs

    def stages_of(epochs: int) -> Sequence[Stage]:
        return build_curriculum(config, net, epochs).plan

    fewest = _fewest_epochs(config)
    epochs = fit_epochs(cost, stages_of, budget.amount, fewest)
    if epochs is None:
        least = cost.of(stages_of(fewest))
        shown = f"{math.ceil(least)}s" if budget.kind == "seconds" else f"{math.ceil(least / 1e6)}MMAC"
        raise UserError(
            f"budget={config.budget} is too small for {fewest} epochs, the fewest that these stages and "
            f"their warm-up take: give budget={shown} or more."
        )
    return epochs


def _fewest_epochs(config: DictConfig) -> int:
    """One for each stage, and the warm-up."""
    warmup_epochs = config.lr_schedule.get("warmup_epochs", 0)
    return max(config.curriculum.stages, math.ceil(warmup_epochs))


def _refuse_lengths_beside_budget(config: DictConfig, overrides: Sequence[str]) -> None:
    """A budget gives the epochs: a length beside it is a contradiction."""
    typed = {override.split("=")[0].lstrip("+~") for override in overrides}
    if "trainer.max_epochs" in typed:
        raise UserError(
            f"budget={config.budget} sets trainer.max_epochs, trainer.max_epochs={config.trainer.max_epochs} "
            f"was given beside it: leave one of them out."
        )
    if config.trainer.max_steps != -1:
        raise UserError(
            f"budget={config.budget} counts whole epochs, and trainer.max_steps={config.trainer.max_steps} "
            f"ends the training before: leave one of them out."
        )


def prepare(
    config: DictConfig,
    overrides: Sequence[str] = (),
    *,
    shapes_only: bool = False,
    earlier: Experiment | None = None,
) -> Experiment:
    """Build data, net and classifier, and check that they go together.

    Args:
        config: validated.
        overrides: what was typed; a knob given there must have an owner in the net.
        shapes_only: build the net without numbers, on the meta device: its plan is all that is asked for.
        earlier: of the same data, which is not read again.
    """
    with torch.device("meta") if shapes_only else nullcontext():
        classifier = build_classifier(config)
    with users_mistakes("optimizer"):
        classifier.make_optimizer()
    not_applied = Regularization(**_values(config.regularization)).not_applied(classifier.net)
    _refuse_knobs_without_owner(not_applied, classifier.net.name, overrides)
    warmup_epochs = getattr(classifier.schedule, "warmup_epochs", 0)
    if warmup_epochs > config.trainer.max_epochs:
        raise UserError(
            f"lr_schedule.warmup_epochs={warmup_epochs:g} is longer than "
            f"trainer.max_epochs={config.trainer.max_epochs}."
        )
    curriculum = build_curriculum(config, classifier.net)
    check_net_follows(classifier.net, curriculum)
    if earlier is not None:
        data, class_names = earlier.data.under(curriculum), earlier.class_names
    else:
        data, class_names = build_data(config, curriculum)
    plan = make_plan(
        classifier.net,
        curriculum,
        classifier.schedule,
        in_channels=config.data.in_channels,
        lr=config.optimizer.lr,
        batch_size=config.data.batch_size,
        steps_per_epoch=limited(data.steps_per_epoch, config.trainer.limit_train_batches),
        max_steps=config.trainer.max_steps,
        validate_every=config.trainer.check_val_every_n_epoch,
        not_applied=not_applied,
    )
    return Experiment(data, classifier, curriculum, plan, class_names)


def preview_training(config: DictConfig, overrides: Sequence[str], images: int) -> "Figure":
    """Its schedule and so many images of a batch at each stage, as one picture.

    Args:
        config: validated.
    """
    check_arguments(config)
    experiment = prepare(config, overrides)
    classifier, curriculum = experiment.classifier, experiment.curriculum
    steps = curriculum.epochs * experiment.plan.steps_per_epoch
    samples = min(steps, 1000)
    rates = [
        config.optimizer.lr
        * classifier.schedule.factor((i + 0.5) * curriculum.epochs / samples, curriculum.epochs)
        for i in range(samples)
    ]
    batches = batches_as_seen(classifier, experiment.data, images)
    return draw_preview(f"{config.data.name}, {experiment.plan.net}", curriculum, rates, batches)


def build_classifier(config: DictConfig) -> ImageClassifier:
    """The configured net, initialised from the seed or from `weights`, with its optimizer and schedule."""
    L.seed_everything(config.seed, verbose=False)
    net = build(config.model, "model")
    if config.weights is not None:
        log.info("%s: %s", config.weights, load_weights(net, config.weights))
    return ImageClassifier(
        net,
        build_partial(config.optimizer, "optimizer"),
        build(config.lr_schedule, "lr_schedule"),
        mean=config.data.mean,
        std=config.data.std,
        num_classes=config.data.num_classes,
        seed=config.seed,
        channels_last=config.channels_last,
    )


def build_curriculum(config: DictConfig, net: Net, epochs: int | None = None) -> Curriculum:
    """The configured curriculum, with the knobs that apply to `net`; of another length, if one is given."""
    knobs = Regularization(**_values(config.regularization)).ramps(net)
    return build(
        config.curriculum,
        "curriculum",
        epochs=epochs or config.trainer.max_epochs,
        knobs=knobs,
        smallest=net.min_resolution,
    )


def build_transform(config: DictConfig) -> Transform:
    """How the configured data set's images become batches."""
    return Transform(
        in_channels=config.data.in_channels,
        fit=config.data.fit,
        eval_crop=config.data.eval_crop,
        augmentation=Augmentation(**_values(config.data.augmentation)),
        seed=config.seed,
    )


def build_data(config: DictConfig, curriculum: Curriculum) -> tuple[ImageData, list[str]]:
    """The configured data set, read and split, and the names of its classes.

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
    names = config.data.class_names or sets.class_names or range(config.data.num_classes)
    if len(names) != config.data.num_classes:
        raise UserError(
            f"data.class_names has {len(names)} names for data.num_classes={config.data.num_classes}."
        )
    return data, [str(name) for name in names]


def build_trainer(
    config: DictConfig,
    run: Run,
    experiment: Experiment,
    signals: Signals,
    checkpoint: Mapping[str, Any] | None = None,
) -> L.Trainer:
    """Lightning's Trainer with our callbacks and metrics.csv.

    Args:
        checkpoint: what the training goes on from; metrics.csv keeps what was logged before it.

    Raises:
        UserError: the checkpoint has averaged weights, and no callback goes on averaging.
    """
    configured = {name: build(node, f"callbacks.{name}") for name, node in config.callbacks.items()}
    callbacks = [
        CurriculumCallback(experiment.curriculum),
        StepMetrics(experiment.curriculum, run, config.trainer.log_every_n_steps),
        *configured.values(),
        Interruption(signals, configured["checkpoint"], run.directory),
    ]
    if not config.trainer.enable_progress_bar:
        callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
    averages = any(isinstance(callback, WeightAveraging) for callback in callbacks)
    if checkpoint and "averaging_state" in checkpoint and not averages:
        raise UserError(
            f"{run.directory} has averaged weights, and no callback goes on averaging: add callbacks=ema."
        )
    trainer: L.Trainer = build(
        config.trainer,
        "trainer",
        callbacks=callbacks,
        logger=[MetricsFile(run.directory, kept=checkpoint["metrics_rows"] if checkpoint else 0)],
        plugins=[AtomicCheckpointIO()],
        default_root_dir=run.directory,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    set_up_ddp(trainer)
    return trainer


def _train(config: DictConfig, experiment: Experiment, run: Run, signals: Signals) -> dict[str, float]:
    plan = experiment.plan
    run.summary |= {
        "parameters": plan.parameters,
        "macs": plan.evaluation_macs,
        "not_applied": list(plan.not_applied),
    }
    for knob in plan.not_applied:
        log.warning("%s has no %s: not applied", plan.net, knob.replace("_", " "))
    if config.resume is not None:
        clean_partials(run.directory)
    loggers: list[Logger] = []
    failed = True
    try:
        trainer, classifier, data = _fit(config, experiment, run, signals, loggers)
        best = load_checkpoint(best_checkpoint(run.directory))
        classifier.load_state_dict(best["state_dict"])  # the averages, under EMA
        trainer.test(classifier, data, verbose=False)
        metrics = best["validation"] | {
            name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")
        }
        if not math.isfinite(metrics["test/loss"]):
            log.warning(
                "test/loss is not finite after %d steps, and the weights are: the running statistics of "
                "batch norm may not have followed them yet, which adds up in a deep net. Train longer.",
                best["global_step"],
            )
        run.summary |= {
            "metrics": metrics,
            "best_epoch": min(best["epoch"], config.trainer.max_epochs - 1),
            "peak_memory_bytes": peak_memory_bytes(),
        }
        failed = False
        if torch.distributed.is_initialized():  # else its threads outlive what they use, now and then
            torch.distributed.destroy_process_group()
    except RuntimeError as error:
        lost = signals.lost_rank(seconds=2.0)
        if lost is not None:
            raise UserError(f"{lost}: see its messages above. {_go_on(run)}") from error
        worker = _worker_error(error)
        if worker is not None:
            raise UserError(
                f"{worker} The system kills a process when memory runs out: try fewer "
                f"data.num_workers or a smaller data.batch_size. {_go_on(run)}"
            ) from error
        raise
    finally:
        if failed and not signals.agreed:
            signals.kill_children()  # they wait for this rank in a collective
        finish_loggers(loggers, failed=failed)
    if trainer.is_global_zero:
        matrix = classifier.confusion_matrix
        assert matrix is not None
        write_confusion_matrix(run.directory / "confusion_matrix.csv", matrix, experiment.class_names)
        accuracies = class_accuracies(matrix, experiment.class_names)
        get_console().print(show_result(plan, run.summary, accuracies, run.directory))
    return metrics


def _fit(
    config: DictConfig, experiment: Experiment, run: Run, signals: Signals, loggers: list[Logger]
) -> tuple[L.Trainer, ImageClassifier, ImageData]:
    """Train to the end, from the run's newest checkpoint if it has one.

    Where the loss is not finite, on_nonfinite=skip begins again there, without the draws around it.

    Args:
        loggers: the configured one is put here when the training is about to start.
    """
    windows = Windows(run.directory)
    while True:
        if config.on_nonfinite == "skip":
            windows.skip_all()
        path, checkpoint = find_checkpoint(run.directory) or (None, None)
        if config.resume is not None or windows.skipped:
            step = checkpoint["global_step"] if checkpoint else 0
            log.info("resumed: %s goes on after step %d", run.directory, step)
        classifier, data = experiment.classifier, experiment.data
        classifier.skipped = windows.skipped
        run.summary["skipped_windows"] = len(windows.skipped)
        trainer = build_trainer(config, run, experiment, signals, checkpoint)
        if config.logger and _is_rank_zero():
            if not loggers:  # last, so that nothing fails between its start and the training
                logger = build(config.logger, "logger", run=run, config=_values(config))
                loggers += [logger] if logger is not None else []
            trainer.loggers = [*trainer.loggers, *loggers]
        try:
            trainer.fit(classifier, data, ckpt_path=path)
        except NonFiniteError as error:
            batches = data.training_sampler().batches(error.window.epoch)
            images = batches[error.window.first : error.window.last + 1].flatten().tolist()
            windows.met(error.window, images)
            if config.on_nonfinite == "stop":
                raise UserError(
                    f"{error}; its images are in {windows.path}. The checkpoint before it is kept. Lower "
                    f"optimizer.lr, set trainer.gradient_clip_val, or go on without these images: "
                    f"python train.py resume={run.directory} on_nonfinite=skip"
                ) from error
            log.warning("%s: left out", error)
            experiment = prepare(config)
        else:
            return trainer, classifier, data


def _worker_error(error: BaseException | None) -> str | None:
    """What torch said of a loader worker that is gone: anywhere in the chain, since a signal brings it."""
    while error is not None:
        if "DataLoader worker" in str(error):
            return str(error).splitlines()[0]
        error = error.__cause__ or error.__context__
    return None


def _go_on(run: Run) -> str:
    return f"To go on from the last checkpoint: python train.py resume={run.directory}"


def _refuse_knobs_without_owner(knobs: Sequence[str], net: str, overrides: Sequence[str]) -> None:
    """A knob that was typed and that the net has no layer for is a mistake, not a warning."""
    typed = {override.split("=")[0].lstrip("+~") for override in overrides}
    for knob in knobs:
        if any(name.startswith(f"regularization.{knob}") for name in typed):
            raise UserError(
                f"regularization.{knob} was given, but {net} has no {knob.replace('_', ' ')}: leave it out."
            )


def _directory(config: DictConfig) -> Path:
    """Where this run writes: rank 0 makes the directory, and tells the ranks that it starts."""
    told = _told_directory()
    if told is not None:
        return told
    job = os.environ.pop(JOB_DIRECTORY_VARIABLE, None)
    if config.resume is not None:
        directory = Path(config.resume)
    elif job:
        directory = Path(job)
    else:
        parent, rank_zero = Path(config.runs_dir) / config.name, _is_rank_zero()
        directory = shared_choice(lambda: new_run_directory(parent, rank_zero=rank_zero), rank_zero=rank_zero)
    directory = directory.absolute()
    os.environ[RUN_DIRECTORY_VARIABLE] = str(directory)
    return directory


def _told_directory() -> Path | None:
    """The directory that rank 0 told this rank."""
    told = os.environ.get(RUN_DIRECTORY_VARIABLE)
    return Path(told) if told and not _is_rank_zero() else None


def _absolute(path: str) -> str:
    """So that the run can be used from any directory."""
    return str(Path(path).expanduser().absolute())


def _is_rank_zero() -> bool:
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]  # a function that carries it
    return rank == 0


def _values(node: DictConfig) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))


def _overrides() -> list[str]:
    """What was typed, where Hydra runs."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
