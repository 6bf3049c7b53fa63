"""The curves of a run, from its metrics.csv: against epochs, images, MACs or seconds of training."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crescendo.errors import UserError
from crescendo.runs import read_config

Floats = npt.NDArray[np.float64]

TRAINING = ("train/accuracy", "train/loss", "lr")
VALIDATION = ("val/accuracy", "val/loss")
COSTS = ("epoch", "images", "macs", "seconds")  # what a curve can be drawn against


@dataclass(frozen=True)
class Band:
    """A curriculum's stage: its resolution in px, and where it begins and ends, by cost."""

    resolution: int
    start: Mapping[str, float]
    end: Mapping[str, float]


@dataclass(frozen=True)
class Curves:
    """What a run logged.

    Attributes:
        training, validation: by column of metrics.csv, nan where a row has no value.
        training_costs, validation_costs: of the same rows, by name of COSTS: what had been trained by then,
            by all devices. Validation and compilation are not in the seconds.
        bands: the stages that were trained, in order.
    """

    training: Mapping[str, Floats]
    training_costs: Mapping[str, Floats]
    validation: Mapping[str, Floats]
    validation_costs: Mapping[str, Floats]
    bands: Sequence[Band]


def read_curves(run: Path) -> Curves:
    """The curves of a run, finished or not; empty before its first row.

    Raises:
        UserError: its metrics.csv is something else.
    """
    path = run / "metrics.csv"
    if not path.is_file():
        return _curves([], [], 1)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["step"] and None not in row.values()]
        training = [row for row in rows if row.get("train/loss")]
        validation = [row for row in rows if row.get("val/loss")]
        return _curves(training, validation, int(read_config(run).data.batch_size))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def thinned(count: int, most: int) -> npt.NDArray[np.int64]:
    """Indices of at most `most` of `count` points, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def _curves(
    training: Sequence[Mapping[str, str]], validation: Sequence[Mapping[str, str]], batch_size: int
) -> Curves:
    steps, epochs = _column(training, "step") + 1, _column(training, "epoch") + 1
    # Of an epoch that ended the last step is logged; one that did not has the smaller ratio.
    steps_per_epoch = float((steps / epochs).max()) if len(steps) else 1.0
    images = _column(training, "train/images")
    costs = {
        "epoch": steps / steps_per_epoch,
        "images": np.where(np.isnan(images), steps * batch_size, images),  # a run from before it was logged
        "macs": _column(training, "train/macs"),
        "seconds": _column(training, "train/seconds"),
    }
    validated = _column(validation, "step") + 1
    last = np.searchsorted(steps, validated, side="right") - 1
    known = (last >= 0) & (len(steps) > 0)
    at_validation = {
        name: np.where(known, values[last], np.nan) if len(values) else np.full(len(validated), np.nan)
        for name, values in costs.items()
    }
    return Curves(
        {name: _column(training, name) for name in TRAINING},
        costs,
        {name: _column(validation, name) for name in VALIDATION},
        at_validation,
        _bands(_column(training, "curriculum/stage"), _column(training, "curriculum/resolution"), costs),
    )


def _bands(stages: Floats, resolutions: Floats, costs: Mapping[str, Floats]) -> list[Band]:
    """A stage begins where the one before it ended."""
    if not len(stages):
        return []
    ends = [*np.flatnonzero(np.diff(stages) != 0), len(stages) - 1]
    bands: list[Band] = []
    for end in ends:
        start = bands[-1].end if bands else dict.fromkeys(costs, 0.0)
        bands.append(
            Band(int(resolutions[end]), start, {name: float(values[end]) for name, values in costs.items()})
        )
    return bands


def _column(rows: Sequence[Mapping[str, str]], name: str) -> Floats:
    return np.array([float(row.get(name) or "nan") for row in rows])
