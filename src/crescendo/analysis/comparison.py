"""Runs beside each other: grouped by what differs, with mean and spread over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from omegaconf import OmegaConf
from rich.table import Table

from crescendo.analysis.plan import short_number
from crescendo.resume import FREE
from crescendo.runs import read_config, read_summary

# What two runs may differ in and still be the same experiment.
INCIDENTAL = ("seed", *FREE)


@dataclass(frozen=True)
class Row:
    """Runs that differ in nothing but their seeds.

    Attributes:
        differences: the settings in which the groups compared differ, with this group's values.
        accuracies: test accuracy of each finished run, in 0..1.
        seconds: of each finished run.
        unfinished: "<status> <directory>" of each other run.
    """

    differences: Mapping[str, Any]
    accuracies: Sequence[float]
    seconds: Sequence[float]
    parameters: int | None
    macs: int | None
    unfinished: Sequence[str]


def compare(directories: Sequence[Path]) -> list[Row]:
    """Group runs by configuration, the best mean test accuracy first."""
    groups: dict[str, list[Path]] = {}
    settings: dict[str, dict[str, Any]] = {}
    for directory in directories:
        flat = _flat(OmegaConf.to_container(read_config(directory)))
        key = repr(sorted(flat.items()))
        settings[key] = flat
        groups.setdefault(key, []).append(directory)
    differing = _differing(list(settings.values()))
    rows = [_row({name: settings[key].get(name) for name in differing}, runs) for key, runs in groups.items()]
    return sorted(rows, key=lambda row: mean(row.accuracies) if row.accuracies else -1, reverse=True)


def show_comparison(rows: Sequence[Row]) -> Table:
    """The comparison for a terminal."""
    table = Table()
    names = list(rows[0].differences)
    for name in names or ["run"]:
        table.add_column(name, overflow="fold")
    for heading in ("runs", "test accuracy", "parameters", "MACs", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        labels = [_short(row.differences[name]) for name in names] or ["all"]
        table.add_row(
            *labels,
            str(len(row.accuracies)),
            spread(row.accuracies, 4) if row.accuracies else "-",
            f"{row.parameters:,}" if row.parameters else "-",
            short_number(row.macs) if row.macs else "-",
            spread(row.seconds, 1) if row.seconds else "-",
        )
    unfinished = [run for row in rows for run in row.unfinished]
    if unfinished:
        table.caption = "not counted: " + ", ".join(unfinished)
        table.caption_justify = "left"
    return table


def spread(values: Sequence[float], digits: int) -> str:
    """Mean, and the standard deviation of a sample where there is more than one value."""
    text = f"{mean(values):.{digits}f}"
    return f"{text} ± {stdev(values):.{digits}f}" if len(values) > 1 else text


def _row(differences: Mapping[str, Any], directories: Sequence[Path]) -> Row:
    summaries = {directory: read_summary(directory) for directory in directories}
    finished = [summary for summary in summaries.values() if summary["status"] == "finished"]
    tested = [summary for summary in finished if "test/accuracy" in summary["metrics"]]
    first = tested[0] if tested else {}
    return Row(
        differences=differences,
        accuracies=[summary["metrics"]["test/accuracy"] for summary in tested],
        seconds=[summary["seconds"] for summary in tested],
        parameters=first.get("parameters"),
        macs=first.get("macs"),
        unfinished=[
            f"{summary['status']} {directory}"
            for directory, summary in summaries.items()
            if summary not in tested
        ],
    )


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
