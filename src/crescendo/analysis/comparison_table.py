"""A comparison of runs as a table: for a terminal of any width, as markdown, as csv.

Where the runs recorded what their training cost, the table has the shape of Tables 12 and 13 of Tan & Le
2021 (arXiv:2104.00298): a row for each way to train, its accuracy, its cost, and what it saves.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table

from crescendo.analysis.comparison import Comparison, Row, Saving, short_value
from crescendo.analysis.plan import short_number
from crescendo.analysis.uncertainty import Interval

# The columns that a narrow terminal goes without, the first of them first.
EXPENDABLE = (
    *("images/s", "seconds", "std", "MACs", "parameters", "CPU s", "train MACs"),
    "cost at equal accuracy",
)
ENDLESS = 10_000  # columns of a terminal


class Cells(NamedTuple):
    """A comparison's headings and cells: first those that name a group, then its numbers."""

    names: list[str]
    headings: list[str]
    labels: list[list[str]]
    numbers: list[list[str]]


def cells_of(comparison: Comparison) -> Cells:
    """The table.

    "test accuracy" is the mean over seeds with its 95% interval by Student's t, "std" their deviation.
    Against the reference, paired over seeds: "difference" in test accuracy with its 95% interval, "p" of its
    test, and "cost at equal accuracy", the share of the reference's training MACs / CPU seconds where the
    accuracy is equal (Saving.equal_accuracy), else "-".
    """
    rows = comparison.rows
    names = list(rows[0].differences)
    headings = ["runs", "test accuracy", "std", "parameters", "MACs"]
    headings += ["train MACs", "CPU s", "images/s", "seconds"]
    if comparison.reference is not None:
        headings += ["difference", "p", "cost at equal accuracy"]
    numbers = []
    for row, against, p in zip(rows, comparison.savings, comparison.p_values, strict=True):
        cells = [
            str(len(row.accuracies)),
            Interval.of(row.accuracies).show(4) if row.accuracies else "-",
            f"{stdev(row.accuracies):.4f}" if len(row.accuracies) > 1 else "-",
            short_number(row.parameters) if row.parameters else "-",
            short_number(row.macs) if row.macs else "-",
            _mean_number(row.train_macs),
            _mean_number(row.cpu_seconds),
            _mean_number(row.images_per_second),
            f"{mean(row.seconds):.1f}" if row.seconds else "-",
        ]
        if row is comparison.reference:
            cells += ["reference", "", "1"]
        elif comparison.reference is not None:
            cells += _against(against, p)
        numbers.append(cells)
    labels = [[short_value(row.differences[name]) for name in names] or ["all"] for row in rows]
    return Cells(names or ["run"], headings, labels, numbers)


class ComparisonTable:
    """The comparison for a terminal, as many columns as its width takes."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison, self.cells = comparison, cells_of(comparison)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        there = [heading for heading in EXPENDABLE if heading in self.cells.headings]
        for dropped in range(len(there) + 1):
            for merged in (False, True):
                table = self._table(there[:dropped], merged=merged)
                wanted = Measurement.get(console, options.update(max_width=ENDLESS), table).maximum
                if wanted <= options.max_width:
                    yield from self._with_notes(table, there[:dropped])
                    return
        yield from self._with_notes(self._table(there, merged=True), there)

    def _table(self, dropped: Sequence[str], *, merged: bool) -> Table:
        """Without the columns `dropped`; merged: with one column that lists what differs, line by line."""
        names, headings, labels, numbers = self.cells
        table = Table()
        for name in ["run"] if merged else names:
            table.add_column(name, overflow="fold")
        kept = [place for place, heading in enumerate(headings) if heading not in dropped]
        for place in kept:
            heading = headings[place].replace("at equal ", "at equal\n")
            table.add_column(heading, justify="right", no_wrap=True)
        for row, label, cells in zip(self.comparison.rows, labels, numbers, strict=True):
            if merged and row.differences:
                pairs = zip(names, label, strict=True)
                label = ["\n".join(f"{name} {value}" for name, value in pairs)]
            table.add_row(*label, *(cells[place] for place in kept))
        return table

    def _with_notes(self, table: Table, dropped: Sequence[str]) -> RenderResult:
        yield table
        yield from (*notes_of(self.comparison), *_not_counted(self.comparison))
        if dropped:
            yield f"left out at this width: {', '.join(dropped)} (--markdown has all)"


def notes_of(comparison: Comparison) -> list[str]:
    """What the table's numbers are."""
    notes = ["±: half of the 95% interval by Student's t over seeds"]
    if comparison.reference is not None:
        tests = sum(p is not None for p in comparison.p_values)
        notes.append(
            f"difference: from {comparison.reference.label}, over the seeds that both have; "
            f"p: {comparison.test.full_name}" + (f", adjusted for {tests} tests (Holm)" if tests > 1 else "")
        )
    return notes


def _not_counted(comparison: Comparison) -> list[str]:
    return ["not counted:", *(f"  {run}" for run in comparison.unfinished)] if comparison.unfinished else []


def write_markdown(comparison: Comparison, path: Path) -> None:
    """The whole table as markdown."""
    names, headings, labels, numbers = cells_of(comparison)
    lines = markdown_table(
        names, headings, [[*label, *row] for label, row in zip(labels, numbers, strict=True)]
    )
    lines += ["", *(f"{note}  " for note in (*notes_of(comparison), *_not_counted(comparison)))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def markdown_table(names: Sequence[str], headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table whose first columns name a row; the others are numbers."""
    rule = [*["---"] * len(names), *["---:"] * len(headings)]
    return [_line(cells) for cells in ([*names, *headings], rule, *rows)]


def write_runs(rows: Sequence[Row], path: Path) -> None:
    """A csv of the finished runs: in what they differ, their seed, test accuracy, costs and directory.

    "parameters" and "macs", of one image at the resolution of evaluation, are the same in all runs of a row.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        costs = ["test_accuracy", "seconds", "train_macs", "cpu_seconds", "images_per_second"]
        writer.writerow([*rows[0].differences, "seed", *costs, "parameters", "macs", "run"])
        for row in rows:
            measured = (row.seconds, row.train_macs, row.cpu_seconds, row.images_per_second)
            for *values, run in zip(row.seeds, row.accuracies, *measured, row.directories, strict=True):
                writer.writerow([*row.differences.values(), *values, row.parameters, row.macs, run])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _against(against: Saving | None, p: float | None) -> list[str]:
    if against is None:
        return ["-", "-", "-"]
    shares = [against.macs, against.cpu_seconds]
    costs = " / ".join("-" if share is None else f"{share:.2f}" for share in shares)
    return [
        against.difference.show(4, "+"),
        "-" if p is None else ("<.001" if p < 0.001 else f"{p:.3f}"),
        costs if against.equal_accuracy else "-",
    ]


def _mean_number(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return short_number(mean(known)) if known and len(known) == len(values) else "-"
