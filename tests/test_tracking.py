import csv

import lightning as L
import numpy as np
import pytest
import torch

from crescendo import tracking
from crescendo.classifier import ImageClassifier
from crescendo.curriculum import Curriculum
from crescendo.curriculum.callback import CurriculumCallback
from crescendo.data import ImageData, Transform
from crescendo.data.images import Sets, StoredImages
from crescendo.models import create_model
from crescendo.optim import Step
from crescendo.runs import Run

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_metrics_file_takes_new_columns_and_keeps_old_rows(tmp_path):
    metrics = tracking.MetricsFile(tmp_path)
    metrics.log_metrics({"loss": 2.0}, step=0)
    metrics.log_metrics({"loss": 1.0}, step=1)
    metrics.log_metrics({"accuracy": 0.5}, step=1)
    assert rows_of(metrics.path) == [
        {"step": "0", "loss": "2.0", "accuracy": ""},
        {"step": "1", "loss": "1.0", "accuracy": ""},
        {"step": "1", "loss": "", "accuracy": "0.5"},
    ]


def test_metrics_file_is_on_disk_after_every_row(tmp_path):
    metrics = tracking.MetricsFile(tmp_path)
    for step in range(3):
        metrics.log_metrics({"loss": float(step)}, step=step)
        assert rows_of(metrics.path)[-1] == {"step": str(step), "loss": str(float(step))}


def test_rows_count_optimizer_steps_and_name_the_rate_that_each_used(tmp_path):
    """With two parts a batch, a row for each step; the last epoch's rest is read at its end."""
    images = StoredImages(torch.zeros(40, 1, 8, 8, dtype=torch.uint8), np.arange(40) % 2)
    curriculum = Curriculum(epochs=2, resolution=8)
    data = ImageData(
        Sets(images, images, images),
        *(Transform(1), curriculum, 0),
        batch_size=10,
        eval_batch_size=40,
        parts=2,
    )
    net = create_model("resnet20", 2, 1, width=4)
    classifier = ImageClassifier(
        net,
        lambda groups: torch.optim.SGD(groups, lr=1.0),
        Step(milestones=[0.5]),
        mean=[0.0],
        std=[1.0],
        num_classes=2,
    )
    run = Run(tmp_path)
    steps = tracking.StepMetrics(curriculum, run, every_n_steps=3, macs={8: 1000})
    L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        accumulate_grad_batches=2,
        log_every_n_steps=1,
        callbacks=[CurriculumCallback(curriculum), steps],
        logger=[tracking.MetricsFile(tmp_path)],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        default_root_dir=tmp_path,
    ).fit(classifier, data)
    training = [row for row in rows_of(tmp_path / "metrics.csv") if row["lr"]]
    # four steps an epoch: every third, and each epoch's last
    assert [row["step"] for row in training] == ["2", "3", "5", "7"]
    assert [float(row["lr"]) for row in training] == pytest.approx([1, 1, 0.1, 0.1])
    assert run.summary["images_per_second"] > 0
    assert run.summary["train_macs"] == 3 * 1000 * 80  # two epochs of 40 images
    assert run.summary["cpu_seconds"] > 0


def test_peak_memory_is_in_bytes():
    assert 10**7 < tracking.peak_memory_bytes() < 10**12
