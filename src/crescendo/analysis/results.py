"""How a run's test came out: for a terminal, and as files."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table
from torch import Tensor

from crescendo.analysis.plan import Plan, short_number
from crescendo.errors import UserError


def write_confusion_matrix(path: Path, matrix: Tensor, class_names: Sequence[str]) -> None:
    """Numbers of test images as csv: a row for each true class, a column for each answer."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["true \\ answered", *class_names])
        for name, row in zip(class_names, matrix.tolist(), strict=True):
            writer.writerow([name, *row])


def read_confusion_matrix(directory: Path) -> tuple[list[str], npt.NDArray[np.int64]] | None:
    """A run's class names and numbers of test images [classes, classes]; None where it has none.

    Raises:
        UserError: the file is something else.
    """
    path = directory / "confusion_matrix.csv"
    if not path.is_file():
        return None
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file))
        matrix = np.array([row[1:] for row in rows], dtype=np.int64)
        if matrix.shape != (len(header) - 1,) * 2:
            raise ValueError(f"it has shape {matrix.shape} under {len(header) - 1} names")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    return header[1:], matrix


def show_result(
    plan: Plan, summary: Mapping[str, Any], accuracies: Mapping[str, float], directory: Path
) -> Table:
    """The end of a run."""
    metrics = summary["metrics"]
    table = Table(title=f"{plan.net}: result", title_justify="left", show_header=False)
    table.add_column(justify="right", style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("test accuracy", f"{metrics['test/accuracy']:.4f}")
    table.add_row("top-5 accuracy", f"{metrics['test/accuracy_top5']:.4f}")
    table.add_row("calibration error", f"{metrics['test/calibration_error']:.4f}")
    table.add_row("test loss", f"{metrics['test/loss']:.4f}")
    weakest = sorted(accuracies, key=accuracies.__getitem__)[:3]
    table.add_row("weakest classes", ", ".join(f"{name}: {accuracies[name]:.3f}" for name in weakest))
    validation = f"{metrics['val/accuracy']:.4f}" if "val/accuracy" in metrics else "-"
    table.add_row("validation accuracy", f"{validation} (best, epoch {summary['best_epoch'] + 1})")
    table.add_row("parameters", f"{plan.parameters:,}")
    table.add_row("MACs", f"{short_number(plan.evaluation_macs)} at {plan.evaluation_resolution} px")
    spent = f"{short_number(summary['train_macs'])} MACs, {summary['cpu_seconds']:.0f} CPU seconds"
    table.add_row("training", f"{spent}, {summary['images_per_second']:.0f} images/s")
    if summary.get("compile_seconds"):
        table.add_row("compiling", f"{summary['compile_seconds']:.0f} s more")
    table.add_row("peak memory", f"{summary['peak_memory_bytes'] / 2**20:.0f} MiB")
    table.add_row("run", str(directory))
    return table
