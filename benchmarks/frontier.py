"""Accuracy against cost, from the rows that progressive.py measured: the points, the saving, the picture.

- The reference is the cheapest fixed budget within 0.2 points of the best fixed one, by the mean validation
  accuracy over the seeds.
- The match is the cheapest progressive budget whose mean validation accuracy is not below the reference's.
- Told are the match's test accuracy minus the reference's, and its MACs and CPU seconds as shares of the
  reference's: means over the seeds that both have, with 95% intervals by Student's t.
"""

import csv
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, StrMethodFormatter

from crescendo.analysis.comparison import TOLERANCE
from crescendo.analysis.uncertainty import Interval

ARMS = ("fixed", "progressive")


class Result(NamedTuple):
    """A row of the results: one run. `settings` tells those apart that were trained in another way."""

    data: str
    arm: str
    budget: int
    epochs: int
    seed: int
    val_accuracy: float
    test_accuracy: float
    train_macs: int
    cpu_seconds: float
    settings: str


def append(path: Path, result: Result) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(Result._fields)
        writer.writerow(result)
    print(*result, flush=True)


def read_results(path: Path) -> list[Result]:
    if not path.exists():
        return []
    types = Result.__annotations__
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Result(**{name: types[name](value) for name, value in row.items()})
            for row in csv.DictReader(file)
        ]


@dataclass(frozen=True)
class Point:
    """The runs of one arm and budget, by seed."""

    arm: str
    epochs: int
    runs: dict[int, Result]

    def mean(self, field: str) -> float:
        return mean(getattr(run, field) for run in self.runs.values())

    def interval(self, field: str) -> Interval:
        return Interval.of([getattr(run, field) for run in self.runs.values()])


def points_of(results: Sequence[Result]) -> dict[str, list[Point]]:
    """The points of each arm, the cheapest first."""
    runs: dict[tuple[str, int], dict[int, Result]] = {}
    for result in results:
        runs.setdefault((result.arm, result.epochs), {})[result.seed] = result
    points = sorted(
        (Point(*key, own) for key, own in runs.items()), key=lambda point: point.mean("train_macs")
    )
    return {arm: [point for point in points if point.arm == arm] for arm in ARMS}


def find_match(points: dict[str, list[Point]]) -> tuple[Point, Point | None]:
    """The reference, and the progressive point that matches it if there is one."""
    best = max(point.mean("val_accuracy") for point in points["fixed"])
    reference = next(point for point in points["fixed"] if point.mean("val_accuracy") >= best - TOLERANCE)
    level = reference.mean("val_accuracy")
    matches = (point for point in points["progressive"] if point.mean("val_accuracy") >= level)
    return reference, next(matches, None)


def paired(ours: Point, theirs: Point, field: str) -> list[tuple[float, float]]:
    seeds = sorted(set(ours.runs) & set(theirs.runs))
    return [(getattr(ours.runs[seed], field), getattr(theirs.runs[seed], field)) for seed in seeds]


def table(results: Sequence[Result]) -> str:
    """The points as markdown, and the saving."""
    points = points_of(results)
    lines = [
        f"{results[0].data}\n",
        "| arm | epochs | seeds | validation | test | training MACs | CPU seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for point in itertools.chain(*points.values()):
        accuracies = [_percent(point.interval(field)) for field in ("val_accuracy", "test_accuracy")]
        lines.append(
            f"| {point.arm} | {point.epochs} | {len(point.runs)} | {' | '.join(accuracies)} "
            f"| {point.mean('train_macs') / 1e12:.3f} T | {point.mean('cpu_seconds'):.1f} |"
        )
    if not all(points.values()):
        return "\n".join(lines)
    reference, match = find_match(points)
    lines.append(f"\nreference: fixed, {reference.epochs} epochs")
    if match is None:
        return "\n".join([*lines, "match: none, no progressive budget reaches its validation accuracy"])
    accuracy = Interval.of([ours - theirs for ours, theirs in paired(match, reference, "test_accuracy")])
    shares = {
        field: Interval.of([ours / theirs for ours, theirs in paired(match, reference, field)])
        for field in ("train_macs", "cpu_seconds")
    }
    lines += [
        f"match: progressive, {match.epochs} epochs, test accuracy {_percent(accuracy, '+')} points",
        f"share of the MACs {shares['train_macs'].show(3)}, of the CPU seconds "
        f"{shares['cpu_seconds'].show(3)}",
    ]
    return "\n".join(lines) + "\n"


def draw(results: Sequence[Result], picture: Path) -> None:
    """Test accuracy against MACs and CPU seconds: a row for each data set."""
    names = list(dict.fromkeys(result.data for result in results))
    figure, rows = plt.subplots(
        len(names), 2, figsize=(8, 3.2 * len(names)), sharey="row", squeeze=False, layout="constrained"
    )
    for name, axes in zip(names, rows, strict=True):
        points = points_of([result for result in results if result.data == name])
        for axis, (field, unit, label) in zip(
            axes,
            (("train_macs", 1e12, "training MACs, 10¹²"), ("cpu_seconds", 1, "CPU seconds of training")),
            strict=True,
        ):
            for arm, colour in zip(ARMS, ("tab:grey", "tab:red"), strict=True):
                intervals = [point.interval("test_accuracy") for point in points[arm]]
                axis.errorbar(
                    [point.mean(field) / unit for point in points[arm]],
                    [100 * interval.mean for interval in intervals],
                    yerr=[100 * (interval.half or 0) for interval in intervals],
                    color=colour,
                    marker="o",
                    markersize=4,
                    capsize=2,
                    label=arm,
                )
            axis.set_xscale("log")
            axis.xaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
            axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.xaxis.set_minor_formatter(StrMethodFormatter("{x:g}"))
            axis.set_xlabel(label)
        axes[0].set_ylabel(f"{name}\ntest accuracy, %")
        axes[0].legend(loc="lower right")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)


def _percent(interval: Interval, sign: str = "") -> str:
    half = None if interval.half is None else 100 * interval.half
    return Interval(100 * interval.mean, half).show(2, sign)
