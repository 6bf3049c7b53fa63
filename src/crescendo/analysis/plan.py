"""What a training will do, known before it starts: its stages, their cost, what will not apply."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import nn

from crescendo.analysis.costs import check_resolution, count_macs, count_parameters
from crescendo.curriculum.schedule import Curriculum, Ramp, Stage
from crescendo.errors import UserError
from crescendo.optim import Schedule


@dataclass(frozen=True)
class Plan:
    """A training's stages and costs.

    Attributes:
        macs: multiply-accumulates of one image's forward pass at each stage's resolution.
        constant_macs: the same at the resolution of curriculum=constant, the end of the range.
        evaluation_macs: the same at the resolution of evaluation.
        learning_rates: the highest of each stage.
        not_applied: knobs that are on and that the net has no layer for.
        max_steps: optimizer steps after which the training stops at the latest; -1 is no bound.
    """

    net: str
    parameters: int
    stages: tuple[Stage, ...]
    macs: tuple[int, ...]
    constant_macs: int
    evaluation_resolution: int
    evaluation_macs: int
    learning_rates: tuple[float, ...]
    batch_size: int
    steps_per_epoch: int
    not_applied: Sequence[str]
    max_steps: int = -1

    @property
    def cost(self) -> float:
        """Training's MACs as a share of what every epoch at the end of the range would take."""
        epochs = sum(stage.epochs for stage in self.stages)
        spent = sum(stage.epochs * macs for stage, macs in zip(self.stages, self.macs, strict=True))
        return spent / (epochs * self.constant_macs)


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
) -> Plan:
    """Plan a training. Nothing is computed with numbers: nets are counted on the meta device."""
    stages = curriculum.plan
    evaluation_resolution = curriculum.evaluation_resolution
    assert evaluation_resolution is not None
    constant_resolution = round(curriculum.resolution_ramp.end)
    resolutions = {constant_resolution, evaluation_resolution, *(stage.resolution for stage in stages)}
    macs = {resolution: count_macs(net, resolution, in_channels) for resolution in resolutions}
    return Plan(
        net=getattr(net, "name", "") or type(net).__name__,
        parameters=count_parameters(net),
        stages=stages,
        macs=tuple(macs[stage.resolution] for stage in stages),
        constant_macs=macs[constant_resolution],
        evaluation_resolution=evaluation_resolution,
        evaluation_macs=macs[evaluation_resolution],
        learning_rates=tuple(lr * _peak(schedule, stage, curriculum.epochs) for stage in stages),
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
        max_steps=max_steps,
        not_applied=tuple(not_applied),
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


def show_plan(plan: Plan) -> RenderableType:
    """The plan as tables for a terminal."""
    rising = [name for name in plan.stages[0].knobs if any(stage.knobs[name] > 0 for stage in plan.stages)]
    table = Table(title=f"{plan.net}, {plan.parameters:,} parameters", title_justify="left")
    for heading in ("stage", "epochs", "px", "MACs", "batch", "learning rate", *rising):
        table.add_column(heading.replace("_", " "), justify="right")
    for stage, macs, rate in zip(plan.stages, plan.macs, plan.learning_rates, strict=True):
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
        f"{plan.cost:.2f} of the MACs of curriculum=constant",
    ]
    if plan.stages[-1].trained != "all":
        lines.append("the last stage trains the head and the batch norms alone")
    if plan.max_steps > 0:
        lines.append(f"stops after {plan.max_steps} steps: trainer.max_steps")
    lines += [f"{plan.net} has no {name.replace('_', ' ')}: not applied" for name in plan.not_applied]
    return Group(table, *(Text(line) for line in lines))


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
