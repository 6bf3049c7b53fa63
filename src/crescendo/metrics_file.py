"""metrics.csv: what was logged, a row a step."""

import csv
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

# Columns that a clock has measured, and that are never the same twice.
MEASURED = (
    *("train/images_per_second", "train/seconds", "data/wait", "memory/peak_bytes"),
    "bn_refresh/seconds",
)


class MetricsFile(Logger):
    """metrics.csv of the run directory: one row a logged step, columns as they first appear.

    When a column is new the file is written anew with it; else rows are appended. Of a file that is
    there already, the first `kept` rows stay: what they tell is trained, the others will come again.
    """

    def __init__(self, directory: Path, kept: int = 0) -> None:
        super().__init__()
        self.path = directory / "metrics.csv"
        self._columns: list[str] = []
        self._rows: list[dict[str, Any]] = []
        if self.path.exists():
            self._cut(kept)

    @property
    def rows(self) -> int:
        """Number of rows, on rank 0."""
        return len(self._rows)

    def numbers(self) -> Iterator[tuple[int, dict[str, float]]]:
        """The step and the numbers of each row, on rank 0."""
        for row in self._rows:
            known = {name: float(value) for name, value in row.items() if value not in ("", None)}
            yield int(known.pop("step")), known

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration is config.yaml."""

    @rank_zero_only
    def _cut(self, kept: int) -> None:
        with self.path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["step"] and None not in row.values()]
        self._rows = rows[:kept]
        self._columns = [key for key in (rows[0] if rows else ()) if any(row[key] for row in self._rows)]
        self._rows = [{key: row[key] for key in self._columns} for row in self._rows]
        self._write()

    def _write(self) -> None:
        """Whole or not at all."""
        partial = self.path.with_name(".metrics.csv.partial")
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(self._rows)
        partial.replace(self.path)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {"step": step, **metrics}
        new = [column for column in row if column not in self._columns]
        self._rows.append(row)
        self._columns += new
        if new:
            self._write()
            return
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerow(row)
