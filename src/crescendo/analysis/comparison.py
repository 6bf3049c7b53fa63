"""Runs beside each other: grouped by what differs, and held against one of the groups over paired seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from crescendo.analysis.grouping import group_runs
from crescendo.analysis.uncertainty import Interval, PairedTest, holm
from crescendo.errors import UserError
from crescendo.runs import read_config, read_summary

# Of accuracy: what a cheaper reference may lack of the best, and an equal row of the reference.
TOLERANCE = 0.002


class Reference(StrEnum):
    """Which group the others are held against.

    FIXED is the cheapest within TOLERANCE of the most accurate of those that train at one resolution.
    AUTO is that where there is one, else the most accurate of all.
    """

    AUTO = "auto"
    FIXED = "fixed"
    BEST = "best"
    FIRST = "first"


class Saving(NamedTuple):
    """A row against the reference, paired over the seeds that both have.

    Attributes:
        difference: test accuracy minus the reference's.
        p: of the test of these differences, before it is adjusted for how many there are.
        macs, cpu_seconds: of training, as shares of the reference's; None where a run has not recorded them.
    """

    difference: Interval
    p: float | None
    macs: float | None
    cpu_seconds: float | None

    @property
    def equal_accuracy(self) -> bool:
        """Not lower by more than TOLERANCE, nor beyond the interval: its upper end reaches 0."""
        return (
            self.difference.half is not None
            and self.difference.mean >= -TOLERANCE
            and self.difference.mean + self.difference.half >= 0
        )


@dataclass(frozen=True)
class Row:
    """Runs that differ in nothing but their seeds.

    Attributes:
        differences, settings: what tells the groups apart, and all settings that differ, with this group's
            values (crescendo.analysis.grouping.Group).
        place: of its first run among all that were compared.
        directories, seeds: of each finished run; what follows is in their order.
        accuracies: on the test images, in 0..1.
        seconds: of the whole run.
        train_macs: of the training and its refreshes of batch norm's statistics.
        cpu_seconds: of the training alone.
        images_per_second: of the training alone. These three are None where a run has not recorded them.
        one_resolution: whether every epoch trains at the same.
        unfinished: "<status> <directory>" of each other run.
    """

    differences: Mapping[str, Any]
    settings: Mapping[str, Any]
    place: int
    directories: Sequence[Path]
    seeds: Sequence[int]
    accuracies: Sequence[float]
    seconds: Sequence[float]
    train_macs: Sequence[float | None]
    cpu_seconds: Sequence[float | None]
    images_per_second: Sequence[float | None]
    one_resolution: bool
    parameters: int | None
    macs: int | None
    unfinished: Sequence[str]

    @property
    def label(self) -> str:
        """The group in a few words."""
        parts = [_in_words(name, value) for name, value in self.differences.items() if value is not None]
        return ", ".join(parts) or ("as it is" if self.differences else "all runs")


@dataclass(frozen=True)
class Comparison:
    """Groups, the most accurate first, and how they stand against one of them.

    Attributes:
        savings: of each row against the reference; None for itself, and where they share no seed.
        p_values: of the same, adjusted for their number by Holm's method.
        missing: "<status> <directory>" of jobs of a sweep that never became a run.
    """

    rows: Sequence[Row]
    reference: Row | None
    savings: Sequence[Saving | None]
    p_values: Sequence[float | None]
    test: PairedTest
    missing: Sequence[str] = ()

    @property
    def unfinished(self) -> list[str]:
        return [*(run for row in self.rows for run in row.unfinished), *self.missing]


def compare(directories: Sequence[Path]) -> list[Row]:
    """Group runs by configuration, the best mean test accuracy first."""
    rows = [
        _row(
            group.directories,
            differences=group.differences,
            settings=group.changed,
            place=place,
            one_resolution=group.settings.get("curriculum.stages") == 1
            and not group.settings.get("curriculum.fixres"),
        )
        for place, group in enumerate(group_runs(directories))
    ]
    return sorted(rows, key=lambda row: mean(row.accuracies) if row.accuracies else -1, reverse=True)


def hold_against(
    rows: Sequence[Row],
    choice: Reference = Reference.AUTO,
    test: PairedTest = PairedTest.T,
    missing: Sequence[str] = (),
) -> Comparison:
    """Each group against the reference, paired over the seeds that both have.

    Raises:
        UserError: `choice` fits no group with a result.
    """
    reference = find_reference(rows, choice) if len(rows) > 1 else None
    savings = [
        None if reference is None or row is reference else saving(row, reference, test) for row in rows
    ]
    p_values = holm([None if found is None else found.p for found in savings])
    return Comparison(rows, reference, savings, p_values, test, missing)


def find_reference(rows: Sequence[Row], choice: Reference = Reference.AUTO) -> Row | None:
    """What the others are held against; None where no group has a result.

    Raises:
        UserError: there are results, and `choice` fits none.
    """
    tested = [row for row in rows if row.accuracies]
    if not tested:
        return None
    if choice is Reference.FIRST:
        return min(tested, key=lambda row: row.place)
    fixed = [row for row in tested if row.one_resolution]
    if choice is Reference.FIXED and not fixed:
        raise UserError("--reference fixed: no group trains at one resolution alone. Try best or first.")
    if choice is Reference.BEST or not fixed:
        return max(tested, key=lambda row: mean(row.accuracies))
    best = max(fixed, key=lambda row: mean(row.accuracies))
    level = mean(best.accuracies) - TOLERANCE

    def cost(row: Row) -> float:
        return mean(spent or math.inf for spent in row.train_macs)

    near = [row for row in fixed if mean(row.accuracies) >= level and cost(row) < cost(best)]
    return min(near, key=cost, default=best)


def saving(row: Row, reference: Row, test: PairedTest = PairedTest.T) -> Saving | None:
    """`row` against `reference`, by seeds; None where they have no seed in common."""
    places = {seed: place for place, seed in enumerate(reference.seeds)}
    pairs = [(place, places[seed]) for place, seed in enumerate(row.seeds) if seed in places]
    if not pairs:
        return None

    def share(ours: Sequence[float | None], theirs: Sequence[float | None]) -> float | None:
        spent = [(ours[mine], theirs[other]) for mine, other in pairs]
        ratios = [mine / other for mine, other in spent if mine is not None and other]
        return mean(ratios) if len(ratios) == len(pairs) else None

    differences = [row.accuracies[mine] - reference.accuracies[other] for mine, other in pairs]
    return Saving(
        Interval.of(differences),
        test.p_value(differences),
        share(row.train_macs, reference.train_macs),
        share(row.cpu_seconds, reference.cpu_seconds),
    )


def _in_words(name: str, value: Any) -> str:
    """An option says what it is by its own name; a number or a list does not."""
    is_option = isinstance(value, str) and value[:1].isalpha() and value not in ("true", "false", "null")
    return short_value(value) if is_option else f"{name.rpartition('.')[2]} {value}"


def short_value(value: Any) -> str:
    """A setting's value in a few letters: a dotted target by its last name."""
    text = "-" if value is None else str(value)
    return text.rpartition(".")[2] if isinstance(value, str) and text.startswith("crescendo.") else text


def _row(directories: Sequence[Path], **what: Any) -> Row:
    summaries = {directory: read_summary(directory) for directory in directories}
    done = {
        directory: summary
        for directory, summary in summaries.items()
        if summary["status"] == "finished" and "test/accuracy" in summary["metrics"]
    }
    tested = list(done.values())
    first = tested[0] if tested else {}
    return Row(
        **what,
        directories=list(done),
        seeds=[read_config(directory).seed for directory in done],
        accuracies=[summary["metrics"]["test/accuracy"] for summary in tested],
        seconds=[summary["seconds"] for summary in tested],
        train_macs=[_spent_macs(summary) for summary in tested],
        cpu_seconds=[summary["cpu_seconds"] for summary in tested],
        images_per_second=[summary["images_per_second"] for summary in tested],
        parameters=first.get("parameters"),
        macs=first.get("macs"),
        unfinished=[
            f"{summary['status']} {directory}"
            for directory, summary in summaries.items()
            if directory not in done
        ],
    )


def _spent_macs(summary: Mapping[str, Any]) -> float | None:
    spent = summary["train_macs"]
    return None if spent is None else spent + (summary.get("bn_refresh_macs") or 0)
