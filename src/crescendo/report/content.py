"""What the page shows, read from the runs: plain values that go into it as JSON and into its tables."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np
import numpy.typing as npt

from crescendo.analysis.comparison import Comparison, Row, short_value
from crescendo.analysis.comparison_table import Cells, cells_of, notes_of
from crescendo.analysis.curves import COSTS, Band, Curves, read_curves, thinned
from crescendo.analysis.mistakes import MOST_CLASSES, MOST_PAIRS, Matrix
from crescendo.analysis.results import read_confusion_matrix
from crescendo.analysis.uncertainty import Interval

POINTS = 200  # of a curve


@dataclass(frozen=True)
class Classes:
    """Accuracy by class (rows) and group (columns), None where a group has no such class."""

    rows: Sequence[tuple[str, Sequence[float | None]]]
    left_out: int


@dataclass(frozen=True)
class Content:
    """The page's tables, and `plots`: what its script draws.

    Attributes:
        groups: labels.
        settings: the settings that differ, and each group's value.
        runs: of each group its finished runs: seed, accuracy, seconds, directory.
        pairs: the most frequent mistakes: group, true class, answer, share of the true class's images.
    """

    groups: Sequence[str]
    cells: Cells
    notes: Sequence[str]
    settings: Sequence[tuple[str, Sequence[str]]]
    runs: Sequence[tuple[str, Sequence[tuple[int, float, float, str]]]]
    unfinished: Sequence[str]
    classes: Classes
    pairs: Sequence[tuple[str, str, str, float]]
    plots: Mapping[str, Any]


def read_content(comparison: Comparison) -> Content:
    """Read what the runs of a comparison left behind."""
    rows = comparison.rows
    matrices = [_matrix(row) for row in rows]
    curves = [[read_curves(run) for run in row.directories] for row in rows]
    return Content(
        groups=[row.label for row in rows],
        cells=cells_of(comparison),
        notes=notes_of(comparison),
        settings=[(name, [short_value(row.settings[name]) for row in rows]) for name in rows[0].settings],
        runs=[
            (
                row.label,
                [
                    (seed, accuracy, seconds, str(run))
                    for seed, accuracy, seconds, run in zip(
                        row.seeds, row.accuracies, row.seconds, row.directories, strict=True
                    )
                ],
            )
            for row in rows
        ],
        unfinished=comparison.unfinished,
        classes=_classes(matrices),
        pairs=_pairs([row.label for row in rows], matrices),
        plots={
            "groups": [row.label for row in rows],
            "frontier": [_point(row) for row in rows],
            "curves": [
                [_curve(seed, own) for seed, own in zip(row.seeds, group, strict=True)]
                for row, group in zip(rows, curves, strict=True)
            ],
            "matrices": [
                None
                if matrix is None or len(matrix.names) > MOST_CLASSES
                else {
                    "names": list(matrix.names),
                    "shares": _rounded(matrix.shares),
                    "counts": matrix.counts.tolist(),
                }
                for matrix in matrices
            ],
        },
    )


def _matrix(row: Row) -> Matrix | None:
    found = [read for read in map(read_confusion_matrix, row.directories) if read is not None]
    if not found:
        return None
    names = found[0][0]
    return Matrix(names, np.sum([counts for other, counts in found if other == names], axis=0))


def _classes(matrices: Sequence[Matrix | None]) -> Classes:
    """The classes in their order; of too many those with the lowest mean accuracy."""
    accuracies = [{} if matrix is None else matrix.accuracies for matrix in matrices]
    names = list(dict.fromkeys(name for group in accuracies for name in group))
    rows = [(name, [group.get(name) for group in accuracies]) for name in names]
    if len(rows) <= MOST_CLASSES:
        return Classes(rows, 0)
    rows.sort(key=lambda row: mean(value for value in row[1] if value is not None))
    return Classes(rows[:MOST_CLASSES], len(rows) - MOST_CLASSES)


def _pairs(groups: Sequence[str], matrices: Sequence[Matrix | None]) -> list[tuple[str, str, str, float]]:
    known = [(group, matrix) for group, matrix in zip(groups, matrices, strict=True) if matrix is not None]
    pairs = [(group, *pair) for group, matrix in known for pair in matrix.pairs()]
    return sorted(pairs, key=lambda pair: -pair[3])[:MOST_PAIRS]


def _point(row: Row) -> dict[str, Any]:
    """A group's place in the plot of accuracy against cost: each run's, and the mean's with its interval."""
    interval = Interval.of(row.accuracies) if row.accuracies else None
    count = len(row.accuracies)
    return {
        "accuracies": row.accuracies,
        "seeds": row.seeds,
        "mean": interval and interval.mean,
        "half": interval and interval.half,
        "costs": {
            "train_macs": list(row.train_macs),
            "cpu_seconds": list(row.cpu_seconds),
            "parameters": [row.parameters] * count,
            "macs": [row.macs] * count,
        },
    }


def _curve(seed: int, curves: Curves) -> dict[str, Any]:
    train, val = (
        thinned(len(costs["epoch"]), POINTS) if len(costs["epoch"]) else np.array([], dtype=np.int64)
        for costs in (curves.training_costs, curves.validation_costs)
    )
    return {
        "seed": seed,
        "training": {name: _rounded(values[train]) for name, values in curves.training.items()},
        "training_costs": {name: _rounded(curves.training_costs[name][train]) for name in COSTS},
        "validation": {name: _rounded(values[val]) for name, values in curves.validation.items()},
        "validation_costs": {name: _rounded(curves.validation_costs[name][val]) for name in COSTS},
        "bands": [_band(band) for band in curves.bands],
    }


def _band(band: Band) -> dict[str, Any]:
    return {
        "resolution": band.resolution,
        **{name: _rounded(np.array([band.start[name], band.end[name]])) for name in COSTS},
    }


def _rounded(values: npt.NDArray[np.float64]) -> list[Any]:
    """Five digits, null for what is not finite."""
    if values.ndim > 1:
        return [_rounded(row) for row in values]
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values.tolist()]
