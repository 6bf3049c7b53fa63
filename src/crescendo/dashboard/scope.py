"""Which runs the workspace shows, and what of their settings. Settings are named as on the command line."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crescendo.analysis.grouping import group_runs
from crescendo.config import Settings
from crescendo.errors import UserError, did_you_mean
from crescendo.runs import find_runs, read_config

WANDB = "crescendo.wandb_run.weights_and_biases"  # conf/logger/wandb.yaml
# Runs that share these differ in little but their seeds.
CHOICES = ("data", "model", "regularization", "curriculum")
AXES = (*CHOICES, "optimizer.lr", "optimizer.weight_decay", "data.batch_size", "trainer.max_epochs")


@dataclass(frozen=True)
class Scope:
    """What all panels have in common.

    Attributes:
        group_by: settings that the runs of a group share; what is left to differ should be their seeds.
        axes: settings that the parallel coordinates show.
        sweep: W&B's group of the runs that are shown; all of the project's where it is None.
    """

    group_by: Sequence[str] = CHOICES
    axes: Sequence[str] = AXES
    sweep: str | None = None


def scope_of(
    sweep: Path | None = None, group_by: Sequence[str] | None = None, axes: Sequence[str] | None = None
) -> Scope:
    """All runs, or those of a sweep by what differs between them, unless other settings are given.

    Raises:
        UserError: there is no such setting; or the directory holds no run that was logged to W&B.
    """
    known = list(Settings.model_fields)
    for option, given in (("group-by", group_by), ("axis", axes)):
        for setting in given or ():
            first = setting.partition(".")[0]
            if first not in known:
                raise UserError(f"--{option} {setting}: no such setting.{did_you_mean(first, known)}")
    if sweep is None:
        return Scope(group_by or CHOICES, axes or AXES)
    runs = find_runs([sweep])
    loggers = [logger for run in runs if (logger := read_config(run).logger).get("_target_") == WANDB]
    if not loggers:
        raise UserError(f"--sweep {sweep}: none of its runs was logged to W&B (logger=wandb).")
    differing = [setting.lstrip("+") for setting in group_runs(runs)[0].differences]
    group = loggers[0].get("group") or sweep.resolve().name
    return Scope(group_by or differing or CHOICES, axes or differing or AXES, group)


def in_config(setting: str) -> str:
    """Where a run's W&B config has a setting: a group's option and a plain value at the top."""
    return f"settings.{setting}" if "." in setting else setting
