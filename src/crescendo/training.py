"""One training, from its configuration to summary.json."""

import logging
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig
from rich import get_console

from crescendo.analysis.mistakes import Matrix
from crescendo.analysis.plan import show_plan
from crescendo.analysis.results import show_result, write_confusion_matrix
from crescendo.answers import write_answers
from crescendo.checkpoints import AtomicCheckpointIO, clean_partials, find_checkpoint, load_best
from crescendo.classifier import ImageClassifier
from crescendo.compilation import CompileClock, compile_net
from crescendo.config import validate
from crescendo.curriculum.callback import CurriculumCallback
from crescendo.data import ImageData
from crescendo.devices import (
    check_devices,
    describe_machine,
    peak_memory_bytes,
    precision_of,
    set_up_ddp,
    set_up_kernels,
    trainer_settings,
)
from crescendo.errors import Interrupted, UserError
from crescendo.experiment import Experiment, around_validation, plain_values, prepare
from crescendo.interruption import Interruption, Signals, signals_noted
from crescendo.metrics_file import MetricsFile
from crescendo.models.weights import ENUM
from crescendo.nonfinite import NonFiniteError, Windows
from crescendo.planning import plan_training, refuse_lengths_beside_budget
from crescendo.ranks import is_rank_zero, new_run_directory, shared_choice
from crescendo.resume import find_run, requeued_run, resumed_config
from crescendo.runs import (
    JOB_DIRECTORY_VARIABLE,
    RUN_DIRECTORY_VARIABLE,
    Run,
    recording,
    storage_errors,
)
from crescendo.step_metrics import StepMetrics
from crescendo.step_time import StepTime
from crescendo.sweeps.pruning import TrialPruning, is_trial
from crescendo.targets import build, check_arguments
from crescendo.tracking import (
    ProgressBar,
    begin_loggers,
    finish_loggers,
    show_messages,
    show_test,
)
from crescendo.validation import StatisticsDrift

log = logging.getLogger(__name__)


def run(
    config: DictConfig, overrides: Sequence[str] | None = None, choices: Mapping[str, str] | None = None
) -> dict[str, float]:
    """Train, test and record one run; its metrics.

    Args:
        overrides: that led to the configuration; by default what Hydra says was typed.
        choices: the option of each group; by default what Hydra composed it of.

    Raises:
        UserError: the configuration asks for what cannot be.
    """
    overrides = _overrides() if overrides is None else list(overrides)
    choices = _choices() if choices is None else choices
    validate(config)
    config.trainer.precision = precision_of(config.trainer)
    if config.data.get("root"):
        config.data.root = _absolute(config.data.root)
    if config.weights is not None and not ENUM.fullmatch(config.weights):
        config.weights = _absolute(config.weights)  # as the run records it, which may outlive them
    config.resume = config.resume or requeued_run(config)
    if config.resume is not None:
        directory = _told_directory() or shared_choice(
            lambda: find_run(config, rank_zero=is_rank_zero()), rank_zero=is_rank_zero()
        )
        config = resumed_config(config, overrides, directory)
        validate(config)
    check_arguments(config)
    check_devices(config.trainer)
    set_up_kernels(tf32=config.get("tf32", False))
    if config.budget is not None and config.resume is None:
        refuse_lengths_beside_budget(config, overrides)
    show_messages()
    experiment, speeds, batch, ranks = plan_training(config, overrides)
    if is_rank_zero():
        found = batch.line if batch else None
        get_console().print(show_plan(experiment.plan, speeds, config.budget, found))
    if config.plan:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        return {}
    config.data.class_names = experiment.class_names  # so that the run is used without its data
    directory = _directory(config)
    with (
        signals_noted(config.stop_seconds) as signals,
        storage_errors(directory),  # of summary.json, too
        recording(directory, config, overrides, choices, rank_zero=is_rank_zero()) as run,
        storage_errors(directory),
    ):
        signals.watch(ranks)
        return _train(config, experiment, run, signals)


def build_trainer(
    config: DictConfig,
    run: Run,
    experiment: Experiment,
    signals: Signals,
    clock: CompileClock,
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
        *([StepTime(run)] if config.get("measure_step") else []),  # first: what others do is no step
        CurriculumCallback(experiment.curriculum),
        StepMetrics(
            experiment.curriculum,
            run,
            config.trainer.log_every_n_steps,
            experiment.plan.macs_at,
            clock,
            experiment.plan.passes,
        ),
        StatisticsDrift(),
        *around_validation(config, experiment.data, experiment.plan.evaluation_macs, run.summary),
        *configured.values(),
        *([TrialPruning(run)] if is_trial(run.directory) else []),
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
        trainer_settings(config.trainer),
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
        "machine": describe_machine(),
    }
    for line in plan.not_applied_lines:
        log.warning("%s", line)
    if config.resume is not None:
        clean_partials(run.directory)
    loggers: list[Logger] = []
    failed = True
    try:
        trainer, classifier, data = _fit(config, experiment, run, signals, loggers)
        best = load_best(run.directory)
        classifier.load_state_dict(best["state_dict"])  # the averages, under EMA
        metrics = dict(best["validation"])
        if not run.pruned:
            trainer.test(classifier, data, verbose=False)
            tested = trainer.callback_metrics
            metrics |= {name: float(value) for name, value in tested.items() if name.startswith("test/")}
        if not math.isfinite(metrics.get("test/loss", 0.0)):
            log.warning(
                "test/loss is not finite after %d steps, and the weights are: the running statistics of "
                "batch norm may not have followed them yet, which adds up in a deep net. Train longer.",
                best["global_step"],
            )
        run.summary |= {
            "metrics": metrics,
            "best_epoch": min(best["epoch"], config.trainer.max_epochs - 1),
            "peak_memory_bytes": peak_memory_bytes(trainer.strategy.root_device),
            "faulty_images": len(data.faults),
        }
        if not run.pruned and trainer.is_global_zero:
            accuracies = _record_test(classifier, run.directory, experiment.class_names)
            classifier.to(trainer.strategy.root_device)  # Lightning left it on the CPU
            show_test(loggers, classifier, data.test, experiment.class_names, plan.evaluation_resolution)
        failed = False
        if torch.distributed.is_initialized():  # else its threads outlive what they use, now and then
            torch.distributed.destroy_process_group()
    except (RuntimeError, ConnectionError, EOFError) as error:
        if signals.agreed and signals.told:  # saved: a worker that ended, too, is no failure
            raise Interrupted(signals.told) from error
        lost = signals.lost_rank(seconds=2.0) if _is_of_communication(error) else None
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
        finish_loggers(loggers, sys.exc_info()[1], pruned=run.pruned)
    if run.pruned and trainer.is_global_zero:
        log.info("pruned after epoch %d: %s", trainer.current_epoch, run.directory)
    elif trainer.is_global_zero:
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
    clock = CompileClock()
    if config.compile:
        clock.watch()
    while True:
        if config.on_nonfinite == "skip":
            windows.skip_all()
        path, checkpoint = find_checkpoint(run.directory) or (None, None)
        if config.resume is not None or windows.skipped:
            step = checkpoint["global_step"] if checkpoint else 0
            log.info("resumed: %s goes on after step %d", run.directory, step)
        classifier, data = experiment.classifier, experiment.data
        data.faults.keep_in(run.directory / "faulty_images.csv")
        if config.compile:
            compile_net(classifier.net, experiment.graphs, config.compile)
        classifier.skipped = windows.skipped
        run.summary["skipped_windows"] = len(windows.skipped)
        trainer = build_trainer(config, run, experiment, signals, clock, checkpoint)
        if config.logger and is_rank_zero():
            if not loggers:  # last, so that nothing fails between its start and the training
                logger = build(config.logger, "logger", run=run, config=plain_values(config))
                loggers += [logger] if logger is not None else []
            begin_loggers(loggers, next(each for each in trainer.loggers if isinstance(each, MetricsFile)))
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


def _record_test(
    classifier: ImageClassifier, directory: Path, class_names: Sequence[str]
) -> dict[str, float]:
    """Write what the last test answered; the accuracy of each class."""
    matrix, answers = classifier.confusion_matrix, classifier.answers
    assert matrix is not None
    assert answers is not None
    write_answers(directory, answers)
    write_confusion_matrix(directory / "confusion_matrix.csv", matrix, class_names)
    return Matrix(class_names, matrix.cpu().numpy()).accuracies


def _is_of_communication(error: Exception) -> bool:
    """Whether another rank may be the reason; an error of one's own is one that all ranks may have."""
    if isinstance(error, torch.distributed.DistError | ConnectionError):
        return True
    return any(sign in str(error) for sign in ("gloo", "Connection closed", "Connection reset"))


def _worker_error(error: BaseException | None) -> str | None:
    """What torch said of a loader worker that is gone: anywhere in the chain, since a signal brings it.

    torch says nothing of one that goes while it hands a batch over.
    """
    if isinstance(error, ConnectionError | EOFError):
        return "A DataLoader worker ended while it handed a batch over."
    while error is not None:
        if "DataLoader worker" in str(error):
            return str(error).splitlines()[0]
        error = error.__cause__ or error.__context__
    return None


def _go_on(run: Run) -> str:
    return f"To go on from the last checkpoint: python train.py resume={run.directory}"


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
        parent, rank_zero = Path(config.runs_dir) / config.name, is_rank_zero()
        directory = shared_choice(lambda: new_run_directory(parent, rank_zero=rank_zero), rank_zero=rank_zero)
    directory = directory.absolute()
    os.environ[RUN_DIRECTORY_VARIABLE] = str(directory)
    return directory


def _told_directory() -> Path | None:
    """The directory that rank 0 told this rank."""
    told = os.environ.get(RUN_DIRECTORY_VARIABLE)
    return Path(told) if told and not is_rank_zero() else None


def _absolute(path: str) -> str:
    """So that the run can be used from any directory."""
    return str(Path(path).expanduser().absolute())


def _overrides() -> list[str]:
    """What was typed, where Hydra runs."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def _choices() -> dict[str, str]:
    """The option of each group of conf/, where Hydra runs; Hydra's own groups are none of the run."""
    chosen = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    known = {str(group): option for group, option in chosen.items() if option is not None}
    return {group: str(option) for group, option in known.items() if not group.startswith("hydra/")}
