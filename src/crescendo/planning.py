"""What a training is going to be, before it starts: its stages, speed, length within a budget, picture."""

import logging
import math
from collections.abc import Sequence
from subprocess import Popen
from typing import TYPE_CHECKING, NamedTuple

from omegaconf import DictConfig

from crescendo.analysis.batch_fit import BatchFit
from crescendo.analysis.preview import batches_as_seen, draw_preview
from crescendo.analysis.speed import Speeds
from crescendo.batch_size import find_batch_size, learning_rate_line
from crescendo.compilation import compile_net
from crescendo.config import typed_settings
from crescendo.curriculum.budget import Budget, fit_epochs
from crescendo.curriculum.schedule import Stage
from crescendo.devices import trainer_settings
from crescendo.errors import UserError
from crescendo.experiment import (
    Experiment,
    around_validation,
    build_curriculum,
    build_finetuning,
    prepare,
)
from crescendo.probe import probe
from crescendo.ranks import is_rank_zero
from crescendo.resolvers import fewest_epochs
from crescendo.starting_weights import follow_weights
from crescendo.targets import build, check_arguments

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)


class Planned(NamedTuple):
    """What is going to be trained.

    Attributes:
        speeds: where they were to be measured.
        batch: where it was to be found.
        ranks: the processes that either started, which wait for the training.
    """

    experiment: Experiment
    speeds: Speeds | None
    batch: BatchFit | None
    ranks: list[Popen[bytes]]


def plan_training(config: DictConfig, overrides: Sequence[str]) -> Planned:
    """Prepare a training, and measure it first where that is asked for.

    A new run under `budget` gets the trainer.max_epochs that it pays for, in `config`, and one under
    trainer.find_batch_size the data.batch_size that fits; one that is resumed has them.

    Raises:
        UserError: the budget is too small for one epoch of each stage, or the memory for the smallest batch.
    """
    if config.resume is None:  # a run that is resumed did so when it began
        follow_weights(config, overrides)
    budget = Budget.parse(config.budget) if config.budget is not None and config.resume is None else None
    if budget is not None:  # long enough to be built, until it is known
        config.trainer.max_epochs = max(config.trainer.max_epochs, _fewest_epochs(config))
    measured = config.plan == "probe" or (budget is not None and budget.kind == "seconds")
    found = config.trainer.get("find_batch_size", False) and config.resume is None
    configured, rate = config.data.batch_size, config.optimizer.lr
    if found:  # small enough to be built, until it is known
        config.data.batch_size = config.trainer.accumulate_grad_batches
    only_planned = bool(config.plan) and not measured and config.weights is None
    experiment = prepare(config, overrides, shapes_only=only_planned and not found)
    speeds: Speeds | None = None
    batch: BatchFit | None = None
    ranks: list[Popen[bytes]] = []
    if found:
        bound = configured if "data.batch_size" in typed_settings(overrides) else None
        batch, ranks = find_batch_size(config, experiment, bound)
        config.data.batch_size = batch.batch_size
        if is_rank_zero() and batch.batch_size != configured:
            log.info(learning_rate_line(rate, configured, config.optimizer.lr, batch.batch_size))
        experiment = prepare(config, overrides, shapes_only=only_planned, earlier=experiment)
    if measured:
        callbacks = [build(node, f"callbacks.{name}") for name, node in config.callbacks.items()]
        if config.compile:
            compile_net(experiment.classifier.net, experiment.graphs, config.compile)
        macs = experiment.plan.evaluation_macs
        speeds, started = probe(
            trainer_settings(config.trainer),
            callbacks,
            lambda data: around_validation(config, data, macs, {}),
            experiment.classifier,
            experiment.data,
            experiment.curriculum,
        )
        ranks = ranks + started
    if budget is not None:
        config.trainer.max_epochs = _epochs_within(budget, config, experiment, speeds)
        only_shapes = bool(config.plan) and config.weights is None
        experiment = prepare(config, overrides, shapes_only=only_shapes, earlier=experiment)
    return Planned(experiment, speeds, batch, ranks)


def _epochs_within(budget: Budget, config: DictConfig, experiment: Experiment, speeds: Speeds | None) -> int:
    plan, net = experiment.plan, experiment.classifier.net
    cost = plan.training_seconds(speeds) if budget.kind == "seconds" and speeds else plan.training_macs

    def stages_of(epochs: int) -> Sequence[Stage]:
        return build_curriculum(config, net, epochs).plan

    fewest = _fewest_epochs(config)
    epochs = fit_epochs(cost, stages_of, budget.amount, fewest)
    if epochs is None:
        least = cost.of(stages_of(fewest))
        raise UserError(
            f"budget={config.budget} is too small for {fewest} epochs, the fewest that these stages and "
            f"their warm-up take: give budget={Budget(least, budget.kind)} or more."
        )
    return epochs


def _fewest_epochs(config: DictConfig) -> int:
    """One for each stage, the warm-up, and one for all layers behind those that train the head alone."""
    stages, fixres = config.curriculum.stages, config.curriculum.get("fixres", 0.0)
    fewest = fewest_epochs(stages, fixres, build_finetuning(config).head_epochs)
    return max(fewest, math.ceil(config.lr_schedule.get("warmup_epochs", 0)))


def refuse_lengths_beside_budget(config: DictConfig, overrides: Sequence[str]) -> None:
    """A budget gives the epochs: a length beside it is a contradiction."""
    if "trainer.max_epochs" in typed_settings(overrides):
        raise UserError(
            f"budget={config.budget} sets trainer.max_epochs, trainer.max_epochs={config.trainer.max_epochs} "
            f"was given beside it: leave one of them out."
        )
    if config.trainer.max_steps != -1:
        raise UserError(
            f"budget={config.budget} counts whole epochs, and trainer.max_steps={config.trainer.max_steps} "
            f"ends the training before: leave one of them out."
        )


def preview_training(config: DictConfig, overrides: Sequence[str], images: int) -> "Figure":
    """Its schedule and so many images of a batch at each stage, as one picture.

    Args:
        config: validated.

    Raises:
        UserError: its budget is one of time, or its batch what fits: both would have to be measured.
    """
    check_arguments(config)
    if config.budget is not None:
        refuse_lengths_beside_budget(config, overrides)
        if Budget.parse(config.budget).kind == "seconds":
            raise UserError(
                f"budget={config.budget}: a preview measures nothing. Give the trainer.max_epochs that "
                f"python train.py plan=probe budget={config.budget} finds, or a budget of MACs."
            )
    if config.trainer.get("find_batch_size"):
        raise UserError(
            "trainer.find_batch_size=true: a preview measures nothing. Give the data.batch_size that "
            "python train.py plan=true trainer.find_batch_size=true finds."
        )
    experiment = plan_training(config, overrides).experiment
    classifier, curriculum = experiment.classifier, experiment.curriculum
    steps = curriculum.epochs * experiment.plan.steps_per_epoch
    samples = min(steps, 1000)
    rates = [
        experiment.plan.lr
        * classifier.schedule.factor((i + 0.5) * curriculum.epochs / samples, curriculum.epochs)
        for i in range(samples)
    ]
    batches = batches_as_seen(classifier, experiment.data, images)
    return draw_preview(f"{config.data.name}, {experiment.plan.net}", curriculum, rates, batches)
