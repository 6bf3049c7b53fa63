"""A run again, from its own record, and whether the same came out."""

import csv
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crescendo.answers import read_answers
from crescendo.checkpoints import BEST, LAST, load_checkpoint
from crescendo.errors import UserError
from crescendo.metrics_file import MEASURED
from crescendo.ranks import is_rank_zero
from crescendo.runs import RUN_DIRECTORY_VARIABLE, read_choices, read_config, read_overrides, read_summary
from crescendo.training import run as train

CHANGED = "+"  # behind a revision whose files had been changed


@dataclass(frozen=True)
class Reproduction:
    """Two runs of one configuration.

    Attributes:
        circumstances: what was not as it had been: revision, packages, machine.
        differences: what did not come out the same, bit by bit.
    """

    original: Path
    directory: Path
    circumstances: list[str]
    differences: list[str]


def reproduce(original: Path, *, runs_dir: str | None = None, trust: bool = False) -> Reproduction | None:
    """Train by a run's configuration again, as a run of its own, and hold the two against each other.

    Args:
        runs_dir: the directory of the new run; the original's setting by default, from the working directory.
        trust: build targets of any package.

    Returns:
        None on every rank but 0.

    Raises:
        UserError: the run did not finish, or its configuration cannot be trained here.
    """
    status = read_summary(original)["status"]
    if status != "finished":
        raise UserError(f"{original} is {status}: there is no end that could be reached again.")
    config = read_config(original)
    config.trust, config.resume = trust, None
    config.budget = None  # its epochs are on record,
    config.trainer.find_batch_size = False  # and its batch
    config.runs_dir = runs_dir or config.runs_dir
    train(config, read_overrides(original), read_choices(original))
    if not is_rank_zero():
        return None
    directory = Path(os.environ[RUN_DIRECTORY_VARIABLE])
    return Reproduction(
        original,
        directory,
        list(circumstances(read_summary(original), read_summary(directory))),
        [*weights(original, directory), *metrics(original, directory), *answers(original, directory)],
    )


def circumstances(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    """What two summaries say of where they were made, as far as both say it."""
    revisions = first["git_revision"], second["git_revision"]
    if revisions[0] != revisions[1]:
        yield f"revision {revisions[0]}, now {revisions[1]}"
    elif str(revisions[0]).endswith(CHANGED):
        yield f"revision {revisions[0]}: with changes that no commit holds, then and now"
    for part in ("packages", "machine"):
        before, now = first.get(part) or {}, second.get(part) or {}
        for name in before.keys() & now.keys():
            if before[name] != now[name]:
                yield f"{name} {before[name]}, now {now[name]}"


def weights(first: Path, second: Path) -> Iterator[str]:
    """How the tensors of both checkpoints differ."""
    for name in (BEST, LAST):
        old, new = (load_checkpoint(run / "checkpoints" / name)["state_dict"] for run in (first, second))
        if old.keys() != new.keys():
            yield f"{name}: another net, {', '.join(sorted(old.keys() ^ new.keys())[:3])} ..."
            continue
        apart = {key: _distance(old[key], new[key]) for key in old if not torch.equal(old[key], new[key])}
        if apart:
            furthest = max(apart, key=apart.__getitem__)
            yield (
                f"{name}: {len(apart)} of {len(old)} tensors, at most by {apart[furthest]:.2g} ({furthest})"
            )


def _distance(first: torch.Tensor, second: torch.Tensor) -> float:
    if first.shape != second.shape:
        return float("inf")
    return float((first.double() - second.double()).abs().max())


def metrics(first: Path, second: Path) -> Iterator[str]:
    """Where metrics.csv differs first, in what no clock has measured."""
    old, new = (_rows(run / "metrics.csv") for run in (first, second))
    for before, now in zip(old, new, strict=False):
        for column in [name for name in before if before[name] != now.get(name)]:
            step, value = before["step"], now.get(column)
            yield f"metrics.csv: from step {step} on; {column} is {value}, was {before[column]}"
            return
    if len(old) != len(new):
        yield f"metrics.csv: {len(new)} rows, were {len(old)}"


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in rows]


def answers(first: Path, second: Path) -> Iterator[str]:
    """How many test images are answered otherwise, or less surely."""
    old, new = read_answers(first), read_answers(second)
    if old is None or new is None:
        return  # a run from before they were kept
    if not np.array_equal(old.indices, new.indices):
        yield f"predictions.csv: {len(new.indices)} test images, were {len(old.indices)}"
        return
    other = int((old.answers != new.answers).sum())
    if other:
        yield f"predictions.csv: {other} of {len(old.answers)} images are answered otherwise"
    elif not np.array_equal(old.probabilities, new.probabilities):
        apart = np.abs(old.probabilities - new.probabilities).max()
        yield f"predictions.csv: the same answers, with probabilities that differ by up to {apart:.2g}"
