import csv
import io
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from crescendo.analysis.plan import make_plan
from crescendo.analysis.results import show_result, write_confusion_matrix
from crescendo.curriculum.schedule import Curriculum
from crescendo.optim import Constant

MATRIX = torch.tensor([[3, 1, 0], [0, 2, 0], [4, 0, 6]])  # rows are true
NAMES = ["cat", "dog, small", "owl"]


def test_the_confusion_matrix_reads_back(tmp_path):
    path = tmp_path / "confusion_matrix.csv"
    write_confusion_matrix(path, MATRIX, NAMES)
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header[1:] == NAMES
    assert rows == [["cat", "3", "1", "0"], ["dog, small", "0", "2", "0"], ["owl", "4", "0", "6"]]


def test_the_result_as_shown():
    plan = make_plan(
        nn.Conv2d(3, 2, 1),
        Curriculum(2, 32),
        Constant(),
        in_channels=3,
        lr=0.1,
        batch_size=4,
        steps_per_epoch=5,
        not_applied=(),
    )
    summary = {
        "metrics": {
            "test/accuracy": 0.98765,
            "test/accuracy_top5": 1.0,
            "test/calibration_error": 0.0123,
            "test/loss": 0.04567,
            "val/accuracy": 0.5,
        },
        "best_epoch": 1,
        "images_per_second": 1234.6,
        "train_macs": 1_860_000,
        "cpu_seconds": 12.3,
        "peak_memory_bytes": 3 * 2**20,
    }
    accuracies = {"a": 0.9, "b": 0.2, "c": 0.5, "d": 0.4}
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(show_result(plan, summary, accuracies, Path("runs/digits/1")))
    text = console.export_text()
    for expected in (
        "0.9877",
        "0.0123",
        "0.0457",
        "b: 0.200, d: 0.400, c: 0.500",
        "0.5000 (best, epoch 2)",
        "6.14k at 32 px",
        "1.86M MACs, 12 CPU seconds, 1235 images/s",
        "3 MiB",
        "runs/digits/1",
    ):
        assert expected in text
    without = {**summary, "metrics": {k: v for k, v in summary["metrics"].items() if k != "val/accuracy"}}
    console.print(show_result(plan, without, accuracies, Path("runs/digits/1")))
    assert "- (best, epoch 2)" in console.export_text()
