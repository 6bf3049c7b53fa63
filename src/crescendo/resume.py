"""Going on with a run that was interrupted: which run, under which configuration.

A resumed run has its own configuration, whatever the defaults are by now; only what is typed beside
`resume=` is compared with it.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from crescendo.config import typed_settings
from crescendo.errors import UserError
from crescendo.runs import REQUEUED, find_runs, is_held, read_config, read_summary
from crescendo.targets import resolved

# What may differ from the run's own configuration: it changes what is seen or where, not what is trained.
FREE = (
    "callbacks.checkpoint.every_n_minutes",
    "callbacks.checkpoint.every_n_steps",
    "callbacks.progress",
    "data.class_names",
    "data.num_workers",
    "data.root",
    "logger",
    "name",
    "on_nonfinite",
    "plan",
    "resume",
    "resume_override",
    "runs_dir",
    "stop_seconds",
    "trainer.enable_progress_bar",
    "trust",
)

log = logging.getLogger(__name__)


def find_run(config: DictConfig, *, rank_zero: bool) -> Path:
    """The directory of the run that `resume` names; `auto` is the newest unfinished one of `name`.

    A job of a sweep is left to `crescendo sweep resume`, which keeps its record.

    Args:
        rank_zero: whether this process is to hold the run; others do not mind that rank 0 does by now.

    Raises:
        UserError: it is no run, it is finished, or a living process holds it; or `auto` finds none.
    """
    if config.resume == "auto":
        if int(os.environ.get("SLURM_NTASKS", 1)) > 1 and "SLURM_STEP_ID" in os.environ:
            raise UserError(
                "resume=auto: the tasks of an srun cannot agree on a run: give resume=<run directory>."
            )
        return _newest_unfinished(Path(config.runs_dir) / config.name, rank_zero=rank_zero)
    directory = Path(config.resume).expanduser().absolute()
    read_config(directory)  # refuses what is no run
    if read_summary(directory)["status"] == "finished":
        raise UserError(f"{directory} is finished: there is nothing to resume.")
    if rank_zero and is_held(directory):
        raise UserError(f"{directory} is held by a living process: wait for it, or stop it.")
    return directory


def requeued_run(config: DictConfig) -> str | None:
    """The run that this SLURM job trained before it was requeued; None for a job that was not."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or int(os.environ.get("SLURM_RESTART_COUNT", 0)) == 0:
        return None
    for directory in _by_age(Path(config.runs_dir) / config.name):
        note = directory / REQUEUED
        if note.is_file() and note.read_text(encoding="utf-8") == job:
            return None if read_summary(directory)["status"] == "finished" else str(directory)
    return None


def _by_age(place: Path) -> list[Path]:
    """The runs below a place, the newest first."""
    runs = find_runs([place]) if place.is_dir() and any(place.rglob("config.yaml")) else []
    return sorted(runs, key=lambda run: (run / "config.yaml").stat().st_mtime, reverse=True)


def _newest_unfinished(place: Path, *, rank_zero: bool) -> Path:
    runs = [run for run in _by_age(place) if not (run.parent / "sweep.yaml").exists()]
    for directory in runs:
        held = rank_zero and is_held(directory)
        if read_summary(directory)["status"] != "finished" and not held:
            return directory
    raise UserError(
        f"resume=auto: {place.absolute()} has no unfinished run ({len(runs)} finished or running). "
        "Jobs of a sweep are for crescendo sweep resume."
    )


def resumed_config(config: DictConfig, overrides: Sequence[str], directory: Path) -> DictConfig:
    """The run's own configuration, with what was typed and is free to differ.

    Args:
        config: as composed from what was typed; `resume_override` lets everything typed through.
        overrides: what was typed.

    Raises:
        UserError: something typed would change the training; each difference is shown.
    """
    theirs = read_config(directory)
    typed = _typed(config, overrides)
    if theirs.get("budget") and theirs.budget == config.budget:  # which gave the run its epochs
        config.trainer.max_epochs = theirs.trainer.max_epochs
    if theirs.trainer.get("find_batch_size") and config.trainer.get("find_batch_size"):
        bounded = "data.batch_size" in typed_settings(overrides)
        if not bounded or config.data.batch_size >= theirs.data.batch_size:  # which was found once
            config.data.batch_size = theirs.data.batch_size
    if config.weights is not None and config.weights == theirs.get("weights"):
        for key in {"data.mean", "data.std"} - typed_settings(overrides):  # which the run took from them
            OmegaConf.update(config, key, OmegaConf.select(theirs, key), merge=False)
    given, own = (dict(_leaves(resolved(each))) for each in (config, theirs))
    differences = {
        key: f"{key}: {own.get(key)!r} in the run, {given.get(key)!r} was given"
        for key in sorted(given.keys() | own.keys())
        if _within(key, typed) and not _within(key, FREE) and given.get(key) != own.get(key)
    }
    if differences and not config.resume_override:
        raise UserError(
            f"{directory} cannot be resumed with another configuration:\n  "
            + "\n  ".join(differences.values())
            + "\nLeave these out, or add resume_override=true to go on with them."
        )
    for difference in differences.values():
        log.warning("resumed with another configuration: %s", difference)
    for key in typed:
        if differences or _within(key, FREE):
            OmegaConf.update(theirs, key, OmegaConf.select(config, key), merge=False, force_add=True)
    theirs.resume, theirs.plan = str(directory), config.plan
    theirs.trust = config.trust  # as typed: a run does not vouch for itself
    return theirs


def _typed(config: DictConfig, overrides: Sequence[str]) -> list[str]:
    """The settings that were typed; an option that sets others, such as experiment=, stands for all."""
    keys = [override.split("=")[0].lstrip("+~").split("@")[0] for override in overrides]
    missing = object()
    if any(OmegaConf.select(config, key, default=missing) is missing for key in keys):
        return [str(key) for key in config]
    return keys


def _within(key: str, places: Sequence[str]) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in places)


def _leaves(values: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", value
