"""What a configuration describes, built: data, net, classifier, curriculum, and whether they go together."""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from omegaconf import DictConfig, OmegaConf

from crescendo.analysis.costs import TRAINING_PASSES, count_macs_on_meta, shapes_of
from crescendo.analysis.plan import Plan, TrainedPart, check_net_follows, make_plan
from crescendo.checkpoints import has_checkpoint
from crescendo.classifier import ImageClassifier
from crescendo.config import typed_settings
from crescendo.curriculum.schedule import Curriculum
from crescendo.data import Augmentation, ImageData, Transform
from crescendo.data.images import Sets
from crescendo.errors import UserError
from crescendo.finetuning import Finetuning
from crescendo.models.layers import Net
from crescendo.probe import limited_steps
from crescendo.regularization import Regularization
from crescendo.scaling.coefficients import UNSCALED, Scaling
from crescendo.scaling.nets import check_resolution_scales, scaled_arguments
from crescendo.starting_weights import class_names_of, load_starting_weights
from crescendo.targets import build, build_partial, find_target, users_mistakes
from crescendo.validation import StageValidation, StatisticsRefresh

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Experiment:
    """What a configuration describes, built: everything but the trainer."""

    data: ImageData
    classifier: ImageClassifier
    curriculum: Curriculum
    plan: Plan
    class_names: Sequence[str]

    @property
    def graphs(self) -> int:
        """The most that a training compiles: one a stage, and two where fine-tuning changes in a stage."""
        return len(self.curriculum.plan) + (self.classifier.finetuning.head_epochs > 0)


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
    regularization = Regularization(**plain_values(config.regularization))
    finetuning = classifier.finetuning
    not_applied = regularization.not_applied(classifier.net, finetuning.idle_layers(classifier.net))
    where = " in what is trained" if finetuning.method == "head" else ""
    _refuse_knobs_without_owner(not_applied, classifier.net.name, where, overrides)
    warmup_epochs = getattr(classifier.schedule, "warmup_epochs", 0)
    if warmup_epochs > config.trainer.max_epochs:
        raise UserError(
            f"lr_schedule.warmup_epochs={warmup_epochs:g} is longer than "
            f"trainer.max_epochs={config.trainer.max_epochs}."
        )
    if finetuning.head_epochs >= config.trainer.max_epochs:
        raise UserError(
            f"finetuning.head_epochs={finetuning.head_epochs} leaves none of trainer.max_epochs="
            f"{config.trainer.max_epochs} to train all layers in: give fewer, or finetuning=linear_probe."
        )
    curriculum = build_curriculum(config, classifier.net)
    check_net_follows(classifier.net, curriculum)
    if earlier is not None:
        data = earlier.data.under(curriculum, config.data.batch_size)
        class_names = earlier.class_names
    else:
        data, class_names = build_data(config, curriculum)
    weights = _starting_weights(config)
    if weights is not None and not shapes_only:
        _settle_head(classifier, weights, class_names)
    plan = make_plan(
        classifier.net,
        curriculum,
        classifier.schedule,
        in_channels=config.data.in_channels,
        lr=config.optimizer.lr * finetuning.head_lr_factor,
        batch_size=config.data.batch_size,
        steps_per_epoch=limited_steps(data, config.trainer.limit_train_batches),
        max_steps=config.trainer.max_steps,
        validate_every=config.trainer.check_val_every_n_epoch,
        not_applied=not_applied,
        scaling=build_scaling(config),
        passes=1 if finetuning.method == "head" else TRAINING_PASSES,
        parts=trained_parts(classifier, config.optimizer.lr) if finetuning.is_on else (),
        head_epochs=finetuning.head_epochs,
    )
    return Experiment(data, classifier, curriculum, plan, class_names)


def build_classifier(config: DictConfig) -> ImageClassifier:
    """The configured net, initialised from the seed or from `weights`, with its optimizer and schedule."""
    L.seed_everything(config.seed, verbose=False)
    net, finetuning = build_net(config), build_finetuning(config)
    weights = _starting_weights(config)
    if weights is not None:
        loaded = load_starting_weights(net, weights, fresh_head=finetuning.fresh_head)
        if finetuning.head == "keep" and loaded.fresh and finetuning.is_on:
            raise UserError(
                f"finetuning.head=keep: the head of weights={weights} has another number of classes "
                f"than data.num_classes={config.data.num_classes}. Take finetuning.head=fresh."
            )
        log.info("%s: %s", weights, loaded)
    return ImageClassifier(
        net,
        build_partial(config.optimizer, "optimizer"),
        build(config.lr_schedule, "lr_schedule"),
        mean=config.data.mean,
        std=config.data.std,
        num_classes=config.data.num_classes,
        loss=config.get("loss", "cross_entropy"),  # a run from before there was a choice has none
        seed=config.seed,
        channels_last=config.channels_last,
        finetuning=finetuning,
    )


def build_finetuning(config: DictConfig) -> Finetuning:
    """The configured one; none in the configuration of a run from before there was a choice."""
    return Finetuning(**plain_values(config.finetuning)) if "finetuning" in config else Finetuning()


def trained_parts(classifier: ImageClassifier, lr: float) -> tuple[TrainedPart, ...]:
    """What of each part is trained, and how fast, from the head to the images; `lr` is the optimizer's."""
    return tuple(
        TrainedPart(
            part.name,
            sum(each.numel() for each in part.parameters),
            sum(each.numel() for each in part.parameters if each.requires_grad),
            lr * share,
        )
        for part, share in classifier.finetuning.shares(classifier.net)
    )


def _starting_weights(config: DictConfig) -> str | None:
    """`weights`, which a run that goes on from its checkpoint needs no more."""
    resumed = config.get("resume")
    return None if resumed and has_checkpoint(Path(resumed)) else config.weights


def _settle_head(classifier: ImageClassifier, weights: str, class_names: Sequence[str]) -> None:
    """Take over the weights' head, too, where it tells the same classes apart."""
    finetuning = classifier.finetuning
    if finetuning.fresh_head and finetuning.head == "auto" and class_names_of(weights) == list(class_names):
        load_starting_weights(classifier.net, weights)
        log.info("%s: its classes are those of the data, so it keeps its head", weights)


def build_net(config: DictConfig) -> Net:
    """The configured net, as deep and wide as `scaling` makes it."""
    arguments = plain_values(config.model)
    changed = scaled_arguments(find_target(arguments, "model"), arguments, build_scaling(config).factors)
    return build(arguments | changed, "model")


def build_scaling(config: DictConfig) -> Scaling:
    """The configured scaling; none in the configuration of a run from before there was one."""
    return Scaling(**plain_values(config.scaling)) if "scaling" in config else UNSCALED


def build_curriculum(config: DictConfig, net: Net, epochs: int | None = None) -> Curriculum:
    """The configured curriculum, with the knobs that apply to `net`; of another length, if one is given.

    Its resolutions are as large as `scaling` makes them.
    """
    knobs = Regularization(**plain_values(config.regularization)).ramps(net)
    scaling = build_scaling(config)
    curriculum: Curriculum = build(
        config.curriculum,
        "curriculum",
        epochs=epochs or config.trainer.max_epochs,
        knobs=knobs,
        smallest=net.min_resolution,
        seed=config.seed,
    )
    assert curriculum.evaluation_resolution is not None
    factor = scaling.resolution_factor(curriculum.evaluation_resolution)
    if factor != 1:
        check_resolution_scales(net)
    scaled = curriculum.scaled(factor)
    if scaling.resolution not in (None, scaled.evaluation_resolution):
        raise UserError(
            f"scaling.resolution={scaling.resolution}: must be a multiple of "
            f"curriculum.multiple_of={curriculum.multiple_of}, such as {scaled.evaluation_resolution}."
        )
    return scaled


def evaluation_resolution(config: DictConfig, net: Net) -> int:
    """The px of validation and test."""
    resolution = build_curriculum(config, net).evaluation_resolution
    assert resolution is not None
    return resolution


def count_configured_macs(config: DictConfig) -> int:
    """Multiply-accumulates of the configured net at the resolution of evaluation; no number is computed."""
    net = shapes_of(build_net, config)
    return count_macs_on_meta(net.eval(), evaluation_resolution(config, net), config.data.in_channels)


def around_validation(
    config: DictConfig, data: ImageData, evaluation_macs: int, summary: dict[str, Any]
) -> list[L.Callback]:
    """What `validate_stage` and `bn_refresh` add to validations of `data`; what that costs: `summary`."""
    callbacks: list[L.Callback] = [StageValidation(data)] if config.validate_stage else []
    if config.bn_refresh > 0:
        callbacks.append(
            StatisticsRefresh(data, summary, config.bn_refresh, config.bn_refresh_when, evaluation_macs)
        )
    return callbacks


def build_transform(config: DictConfig) -> Transform:
    """How the configured data set's images become batches."""
    return Transform(
        in_channels=config.data.in_channels,
        fit=config.data.fit,
        eval_crop=config.data.eval_crop,
        augmentation=Augmentation(**plain_values(config.data.augmentation)),
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
        sampler=config.data.sampler,
        on_error=config.data.on_error,
        max_errors=config.data.max_errors,
    )
    names = config.data.class_names or sets.class_names or range(config.data.num_classes)
    if len(names) != config.data.num_classes:
        raise UserError(
            f"data.class_names has {len(names)} names for data.num_classes={config.data.num_classes}."
        )
    return data, [str(name) for name in names]


def _refuse_knobs_without_owner(knobs: Sequence[str], net: str, where: str, overrides: Sequence[str]) -> None:
    """A knob that was typed and that the net has no layer for is a mistake, not a warning."""
    typed = typed_settings(overrides)
    for knob in knobs:
        if any(name.startswith(f"regularization.{knob}") for name in typed):
            raise UserError(
                f"regularization.{knob} was given, but {net} has no {knob.replace('_', ' ')}{where}: "
                f"leave it out."
            )


def plain_values(node: DictConfig) -> dict[str, Any]:
    """The values below a node, without OmegaConf."""
    return cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))
