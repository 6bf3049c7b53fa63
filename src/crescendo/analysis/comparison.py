"""Runs beside each other: grouped by what differs, with mean and spread over seeds.

Where the runs recorded what their training cost, the table has the shape of Tables 12 and 13 of Tan & Le
2021 (arXiv:2104.00298): a row for each way to train, its accuracy, its cost, and what it saves.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from rich.table import Table
from scipy.stats import t as student

from crescendo.analysis.plan import short_number
from crescendo.resume import FREE
from crescendo.runs import read_config, read_summary

# Of accuracy: what a cheaper reference may lack of the best, and an equal row of the reference.
TOLERANCE = 0.002

# What two runs may differ in and still be the same experiment.
INCIDENTAL = ("seed", *FREE)


class Interval(NamedTuple):
    """A mean and half of its 95% interval by Student's t; None where there is one value alone."""

    mean: float
    half: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval":
        if len(values) < 2:
            return cls(mean(values), None)
        quantile = float(student.ppf(0.975, len(values) - 1))
        return cls(mean(values), quantile * stdev(values) / len(values) ** 0.5)

    def show(self, digits: int, sign: str = "") -> str:
        text = f"{self.mean:{sign}.{digits}f}"
        return text if self.half is None else f"{text} ± {self.half:.{digits}f}"


class Saving(NamedTuple):
    """A row against the reference, paired over the seeds that both have.

    Attributes:
        difference: test accuracy minus the reference's.
        macs, cpu_seconds: of training, as shares of the reference's; None where a run has not recorded them.
    """

    difference: Interval
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
        differences: the settings in which the groups compared differ, with this group's values.
        seeds: of each finished run; what follows is in their order.
        accuracies: on the test images, in 0..1.
        seconds: of the whole run.
        train_macs: of the training and its refreshes of batch norm's statistics.
        cpu_seconds: of the training alone. Both are None where a run has not recorded them.
        one_resolution: whether every epoch trains at the same.
        unfinished: "<status> <directory>" of each other run.
    """

    differences: Mapping[str, Any]
    seeds: Sequence[int]
    accuracies: Sequence[float]
    seconds: Sequence[float]
    train_macs: Sequence[float | None]
    cpu_seconds: Sequence[float | None]
    one_resolution: bool
    parameters: int | None
    macs: int | None
    unfinished: Sequence[str]


def compare(directories: Sequence[Path]) -> list[Row]:
    """Group runs by configuration, the best mean test accuracy first.

    An arm stands for all that it sets: where each group has an arm of its own, that alone is named.
    """
    groups: dict[str, list[Path]] = {}
    settings: dict[str, dict[str, Any]] = {}
    for directory in directories:
        flat = _flat(OmegaConf.to_container(read_config(directory)))
        if flat.get("budget") is not None:  # its length was fitted, on this machine and for this seed
            del flat["trainer.max_epochs"]
        key = repr(sorted(flat.items()))
        settings[key] = flat
        groups.setdefault(key, []).append(directory)
    differing = _differing(list(settings.values()))
    arms = [flat.get("arm") for flat in settings.values()]
    if "arm" in differing and None not in arms and len(set(arms)) == len(arms):
        differing = ["arm"]
    rows = [
        _row(
            {name: settings[key].get(name) for name in differing},
            runs,
            one_resolution=settings[key].get("curriculum.stages") == 1
            and not settings[key].get("curriculum.fixres"),
        )
        for key, runs in groups.items()
    ]
    return sorted(rows, key=lambda row: mean(row.accuracies) if row.accuracies else -1, reverse=True)


def find_reference(rows: Sequence[Row]) -> Row | None:
    """What the others are held against, of the rows that train at one resolution.

    The cheapest of those within TOLERANCE of the most accurate; where costs are not known, the most accurate.
    """
    fixed = [row for row in rows if row.one_resolution and row.accuracies]
    if not fixed:
        return None
    best = max(fixed, key=lambda row: mean(row.accuracies))
    level = mean(best.accuracies) - TOLERANCE

    def cost(row: Row) -> float:
        return mean(spent or math.inf for spent in row.train_macs)

    near = [row for row in fixed if mean(row.accuracies) >= level and cost(row) < cost(best)]
    return min(near, key=cost, default=best)


def saving(row: Row, reference: Row) -> Saving | None:
    """`row` against `reference`, by seeds; None where they have no seed in common."""
    places = {seed: place for place, seed in enumerate(reference.seeds)}
    pairs = [(place, places[seed]) for place, seed in enumerate(row.seeds) if seed in places]
    if not pairs:
        return None

    def share(ours: Sequence[float | None], theirs: Sequence[float | None]) -> float | None:
        spent = [(ours[mine], theirs[other]) for mine, other in pairs]
        ratios = [mine / other for mine, other in spent if mine is not None and other]
        return mean(ratios) if len(ratios) == len(pairs) else None

    return Saving(
        Interval.of([row.accuracies[mine] - reference.accuracies[other] for mine, other in pairs]),
        share(row.train_macs, reference.train_macs),
        share(row.cpu_seconds, reference.cpu_seconds),
    )


def show_comparison(rows: Sequence[Row]) -> Table:
    """The comparison for a terminal.

    The last two columns hold each row against the reference (find_reference), paired over seeds:
    "difference" in test accuracy with its 95% interval, and "cost at equal accuracy", the share of the
    reference's training MACs / CPU seconds where the accuracy is equal (Saving.equal_accuracy), else "-".
    """
    table = Table()
    names = list(rows[0].differences)
    for name in names or ["run"]:
        table.add_column(name, overflow="fold")
    headings = ["runs", "test accuracy", "95%", "parameters", "MACs", "train MACs", "CPU s", "seconds"]
    reference = find_reference(rows) if len(rows) > 1 else None
    if reference is not None:
        headings += ["difference", "cost at equal accuracy"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=heading not in headings[-1:])
    for row in rows:
        labels = [_short(row.differences[name]) for name in names] or ["all"]
        cells = [
            str(len(row.accuracies)),
            spread(row.accuracies, 4) if row.accuracies else "-",
            _half_width(row.accuracies),
            f"{row.parameters:,}" if row.parameters else "-",
            short_number(row.macs) if row.macs else "-",
            _mean_number(row.train_macs),
            _mean_number(row.cpu_seconds),
            spread(row.seconds, 1) if row.seconds else "-",
        ]
        if reference is not None:
            cells += ["reference", "1"] if row is reference else _saving_cells(saving(row, reference))
        table.add_row(*labels, *cells)
    unfinished = [run for row in rows for run in row.unfinished]
    if unfinished:
        table.caption = "not counted: " + ", ".join(unfinished)
        table.caption_justify = "left"
    return table


def write_runs(rows: Sequence[Row], path: Path) -> None:
    """A csv of the finished runs: in what they differ, their seed, test accuracy and costs."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            [*rows[0].differences, "seed", "test_accuracy", "seconds", "train_macs", "cpu_seconds"]
        )
        for row in rows:
            costs = zip(row.seeds, row.accuracies, row.seconds, row.train_macs, row.cpu_seconds, strict=True)
            writer.writerows([*row.differences.values(), *values] for values in costs)


def _saving_cells(against: Saving | None) -> list[str]:
    if against is None:
        return ["-", "-"]
    shares = [against.macs, against.cpu_seconds]
    costs = " / ".join("-" if share is None else f"{share:.2f}" for share in shares)
    return [against.difference.show(4, "+"), costs if against.equal_accuracy else "-"]


def _half_width(values: Sequence[float]) -> str:
    half = Interval.of(values).half if values else None
    return "-" if half is None else f"± {half:.4f}"


def _mean_number(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return short_number(mean(known)) if known and len(known) == len(values) else "-"


def spread(values: Sequence[float], digits: int) -> str:
    """Mean, and the standard deviation of a sample where there is more than one value."""
    text = f"{mean(values):.{digits}f}"
    return f"{text} ± {stdev(values):.{digits}f}" if len(values) > 1 else text


def _row(differences: Mapping[str, Any], directories: Sequence[Path], *, one_resolution: bool) -> Row:
    summaries = {directory: read_summary(directory) for directory in directories}
    done = {
        directory: summary
        for directory, summary in summaries.items()
        if summary["status"] == "finished" and "test/accuracy" in summary["metrics"]
    }
    tested = list(done.values())
    first = tested[0] if tested else {}
    return Row(
        differences=differences,
        seeds=[read_config(directory).seed for directory in done],
        accuracies=[summary["metrics"]["test/accuracy"] for summary in tested],
        seconds=[summary["seconds"] for summary in tested],
        train_macs=[_spent_macs(summary) for summary in tested],
        cpu_seconds=[summary["cpu_seconds"] for summary in tested],
        one_resolution=one_resolution,
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


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Settings by dotted name, without the incidental ones."""
    if not isinstance(node, dict) or not node:
        return {prefix: node}
    flat: dict[str, Any] = {}
    for name, value in node.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        if not any(key == other or key.startswith(other + ".") for other in INCIDENTAL):
            flat |= _flat(value, key)
    return flat


def _differing(settings: Sequence[dict[str, Any]]) -> list[str]:
    names = dict.fromkeys(name for flat in settings for name in flat)
    return [name for name in names if len({repr(flat.get(name, "absent")) for flat in settings}) > 1]


def _short(value: Any) -> str:
    """A dotted target by its last name."""
    text = str(value)
    return text.rpartition(".")[2] if isinstance(value, str) and text.startswith("crescendo.") else text
