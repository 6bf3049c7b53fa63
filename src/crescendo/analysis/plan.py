"""What a training will do, known before it starts: its stages, their cost, what will not apply."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import nn

from crescendo.analysis.costs import (
    TRAINING_PASSES,
    check_resolution,
    count_macs_on_meta,
    on_meta,
)
from crescendo.analysis.speed import Speeds
from crescendo.curriculum.budget import TrainingCost
from crescendo.curriculum.schedule import Curriculum, Ramp, Stage
from crescendo.errors import UserError
from crescendo.optim import Schedule
from crescendo.scaling.coefficients import UNSCALED, Scaling

MOST_ROWS = 16  # of stages that are shown: of more, the first and the last


class TrainedPart(NamedTuple):
    """A part of a net that is fine-tuned: its parameters, how many of them learn, and their highest rate."""

    name: str
    parameters: int
    trained: int
    lr: float


@dataclass(frozen=True)
class Plan:
    """A training's stages and costs.

    Attributes:
        macs: multiply-accumulates of one image's forward pass at each stage's resolution.
        constant: the one stage of curriculum=constant.
        constant_macs: multiply-accumulates of one image's forward pass at its resolution.
        evaluation_macs: the same at the resolution of evaluation.
        learning_rates: the highest of each stage; of a net that is fine-tuned, its head's.
        lr: what the schedule is of: the optimizer's; of a net that is fine-tuned, its head's.
        not_applied: knobs that are on and that the net has no layer for.
        max_steps: optimizer steps after which the training stops at the latest; -1 is no bound.
        validate_every: epochs from one validation to the next.
        scaling: what made the net and the resolutions larger than they are by themselves.
        passes: forward passes that a training step takes as many multiply-accumulates as.
        parts: of a net that is fine-tuned, from its head to the images.
        head_epochs: that train the head alone before all layers are trained.
        only_warms_up: the learning rate still rises at the end.
    """

    net: str
    parameters: int
    stages: tuple[Stage, ...]
    macs: tuple[int, ...]
    constant: Stage
    constant_macs: int
    evaluation_resolution: int
    evaluation_macs: int
    learning_rates: tuple[float, ...]
    lr: float
    batch_size: int
    steps_per_epoch: int
    not_applied: Sequence[str]
    max_steps: int = -1
    validate_every: int = 1
    scaling: Scaling = UNSCALED
    passes: int = TRAINING_PASSES
    parts: tuple[TrainedPart, ...] = ()
    head_epochs: int = 0
    only_warms_up: bool = False

    @property
    def macs_at(self) -> dict[int, int]:
        """`macs` by resolution, px."""
        return {stage.resolution: macs for stage, macs in zip(self.stages, self.macs, strict=True)}

    @property
    def not_applied_lines(self) -> list[str]:
        """One for each of `not_applied`."""
        where = " in what is trained" if self.passes == 1 else ""
        return [
            f"{self.net} has no {name.replace('_', ' ')}{where}: not applied" for name in self.not_applied
        ]

    @property
    def cost(self) -> float:
        """Training's MACs as a share of what every epoch at the end of the range would take."""
        return self.training_macs.of(self.stages) / self.training_macs.of([self.constant])

    @property
    def training_macs(self) -> TrainingCost:
        """Multiply-accumulates of the training's steps; validations are not counted."""
        images = self.passes * self.batch_size * self.steps_per_epoch
        macs = (*self.macs, self.constant_macs)
        return TrainingCost((*self.stages, self.constant), [images * each for each in macs])

    def training_seconds(self, speeds: Speeds) -> TrainingCost:
        """Seconds of the training's steps and validations."""
        return speeds.cost(self.steps_per_epoch, self.validate_every)


def make_plan(
    net: nn.Module,
    curriculum: Curriculum,
    schedule: Schedule,
    *,
    in_channels: int,
    lr: float,
    batch_size: int,
    steps_per_epoch: int,
    not_applied: Sequence[str],
    max_steps: int = -1,
    validate_every: int = 1,
    scaling: Scaling = UNSCALED,
    passes: int = TRAINING_PASSES,
    parts: tuple[TrainedPart, ...] = (),
    head_epochs: int = 0,
) -> Plan:
    """Plan a training. Nothing is computed with numbers: nets are counted on the meta device."""
    stages = curriculum.plan
    evaluation_resolution = curriculum.evaluation_resolution
    assert evaluation_resolution is not None
    constant = curriculum.constant
    resolutions = {constant.resolution, evaluation_resolution, *(stage.resolution for stage in stages)}
    shadow = on_meta(net).eval()
    macs = {resolution: count_macs_on_meta(shadow, resolution, in_channels) for resolution in resolutions}
    return Plan(
        net=getattr(net, "name", "") or type(net).__name__,
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        stages=stages,
        macs=tuple(macs[stage.resolution] for stage in stages),
        constant=constant,
        constant_macs=macs[constant.resolution],
        evaluation_resolution=evaluation_resolution,
        evaluation_macs=macs[evaluation_resolution],
        learning_rates=tuple(lr * _peak(schedule, stage, curriculum.epochs) for stage in stages),
        lr=lr,
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
        max_steps=max_steps,
        validate_every=validate_every,
        not_applied=tuple(not_applied),
        scaling=scaling,
        passes=passes,
        parts=parts,
        head_epochs=head_epochs,
        only_warms_up=getattr(schedule, "warmup_epochs", 0) >= curriculum.epochs,
    )


def check_net_follows(net: nn.Module, curriculum: Curriculum) -> None:
    """Refuse a curriculum with a resolution that the net cannot take, before anything is trained.

    Raises:
        UserError: names the stage, its resolution, what the net takes, and the override to paste.
    """
    smallest = getattr(net, "min_resolution", 1)
    largest = getattr(net, "max_resolution", None)
    ramp = curriculum.resolution_ramp
    one_number = not isinstance(curriculum.resolution, Mapping | Ramp)
    for stage in curriculum.plan:
        reason = check_resolution(net, stage.resolution)
        if reason is None or stage.trained != "all":  # of which the resolution is that of evaluation
            continue
        if one_number:
            overrides = f"curriculum.resolution={smallest if stage.resolution < smallest else largest}"
        elif largest is not None:
            overrides = "curriculum=constant"
            if not smallest <= ramp.end <= largest:
                overrides += f" curriculum.resolution.end={largest}"
        else:
            ends = {"start": ramp.start, "end": ramp.end}
            overrides = " ".join(
                f"curriculum.resolution.{end}={smallest}"
                for end, resolution in ends.items()
                if resolution < smallest
            )
        raise UserError(f"{reason}, stage {stage.index} uses {stage.resolution}: add {overrides}")
    evaluation = curriculum.evaluation_resolution
    assert evaluation is not None
    reason = check_resolution(net, evaluation)
    if reason is not None:
        nearest = smallest if evaluation < smallest else largest
        raise UserError(
            f"{reason}, evaluation uses {evaluation}: add curriculum.evaluation_resolution={nearest}"
        )


def show_plan(
    plan: Plan, speeds: Speeds | None = None, budget: str | None = None, batch: str | None = None
) -> RenderableType:
    """The plan as tables for a terminal, with what was measured, the budget that gave its epochs, and a line
    on the batch where it was found.
    """
    rising = [name for name in plan.stages[0].knobs if any(stage.knobs[name] > 0 for stage in plan.stages)]
    table = Table(title=f"{plan.net}, {plan.parameters:,} parameters", title_justify="left")
    for heading in ("stage", "epochs", "px", "MACs", "batch", "learning rate", *rising):
        table.add_column(heading.replace("_", " "), justify="right")
    half = MOST_ROWS // 2
    left_out = range(half, len(plan.stages) - half)
    for stage, macs, rate in zip(plan.stages, plan.macs, plan.learning_rates, strict=True):
        if stage.index in left_out:
            if stage.index == left_out[0]:
                table.add_row("...", f"{len(left_out)} more")
            continue
        last = stage.first_epoch + stage.epochs
        first = stage.first_epoch + 1
        table.add_row(
            f"{stage.index + 1}/{len(plan.stages)}",
            f"{first}" if first == last else f"{first}-{last}",
            f"{stage.resolution}",
            short_number(macs),
            f"{plan.batch_size}",
            f"{rate:.3g}",
            *(f"{stage.knobs[name]:.3g}" for name in rising),
        )
    shapes = len({stage.resolution for stage in plan.stages})
    lines = [
        f"{plan.steps_per_epoch} steps an epoch, {shapes} shape{'s' * (shapes > 1)} to compile, "
        f"evaluated at {plan.evaluation_resolution} px",
        f"{short_number(plan.training_macs.of(plan.stages))} MACs to train, "
        f"{plan.cost:.2f} of the MACs of curriculum=constant",
    ]
    if plan.scaling.method != "none":
        factors, solved = plan.scaling.factors, plan.scaling.resolution
        lines.append(
            f"scaling={plan.scaling.method}, phi {plan.scaling.phi:g}: depth x {factors.depth:.4g}, "
            f"width x {factors.width:.4g}, resolution "
            + (f"x {factors.resolution:.4g}" if solved is None else f"{solved} px in place of gamma's")
        )
    if plan.stages[-1].trained != "all":
        lines.append("the last stage trains the head and the batch norms alone")
    if budget:
        epochs = sum(stage.epochs for stage in plan.stages)
        lines.append(f"trainer.max_epochs={epochs}: the most that budget={budget} pays for")
    if batch:
        lines.append(batch)
    if plan.max_steps > 0:
        lines.append(f"stops after {plan.max_steps} steps: trainer.max_steps")
    lines += plan.not_applied_lines
    if plan.head_epochs:
        lines.append(f"the first {plan.head_epochs} epochs train the head alone")
    if plan.only_warms_up:
        lines.append("the learning rate rises to the end: lr_schedule.warmup_epochs takes the whole training")
    tables = [_show_parts(plan)] if plan.parts else []
    tables += [_show_speeds(plan, speeds)] if speeds else []
    return Group(table, *(Text(line) for line in lines), *tables)


def _show_parts(plan: Plan) -> RenderableType:
    trained = sum(part.trained for part in plan.parts)
    table = Table(title=f"fine-tuned: {trained:,} of {plan.parameters:,} parameters", title_justify="left")
    table.add_column("part")
    for heading in ("parameters", "trained", "learning rate"):
        table.add_column(heading, justify="right")
    for part in plan.parts:
        rate = f"{part.lr:.3g}" if part.trained else "-"
        table.add_row(part.name, f"{part.parameters:,}", f"{part.trained:,}", rate)
    return table


def _show_speeds(plan: Plan, speeds: Speeds) -> RenderableType:
    several = f"{speeds.devices} x " if speeds.devices > 1 else ""
    title = f"measured: {speeds.steps} steps a stage on {several}{speeds.device}"
    table = Table(title=title, title_justify="left")
    for heading in ("px", "seconds a step", "images/s", "peak memory", "an epoch's steps"):
        table.add_column(heading, justify="right")
    for speed in speeds.stages:
        table.add_row(
            f"{speed.stage.resolution}",
            f"{speed.step_seconds:.3g}",
            f"{plan.batch_size / speed.step_seconds:.3g}",
            f"{speed.peak_bytes / 2**20:.0f} MiB",
            duration(speed.step_seconds * plan.steps_per_epoch),
        )
    seconds = plan.training_seconds(speeds)
    total = seconds.of(plan.stages)
    validations = sum(stage.epochs for stage in plan.stages) // plan.validate_every
    return Group(
        table,
        Text(f"{duration(total)} to train, {total / seconds.of([plan.constant]):.2f} of curriculum=constant"),
        Text(
            f"with {validations} validations of {duration(speeds.validation_seconds)} "
            f"and {duration(seconds.once)} for first steps"
        ),
    )


def _peak(schedule: Schedule, stage: Stage, epochs: int, samples: int = 200) -> float:
    """The highest share of the learning rate within a stage."""
    return max(
        schedule.factor(stage.first_epoch + stage.epochs * sample / samples, epochs)
        for sample in range(samples)
    )


def short_number(value: float) -> str:
    """1234567 -> 1.23M."""
    for unit in ("", "k", "M", "G", "T"):
        if abs(float(f"{value:.3g}")) < 1000:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}P"


def duration(seconds: float) -> str:
    """1.23 s, 4 min 5 s, 2 h 30 min, 3 d 4 h."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    if seconds < 3600:
        return "{} min {} s".format(*divmod(round(seconds), 60))
    if seconds < 86400:
        return "{} h {} min".format(*divmod(round(seconds / 60), 60))
    return "{} d {} h".format(*divmod(round(seconds / 3600), 24))
