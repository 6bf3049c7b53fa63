import csv
import time
from statistics import median

import lightning as L
import numpy as np
import pytest
import torch

from crescendo.classifier import ImageClassifier
from crescendo.curriculum import Curriculum
from crescendo.curriculum.callback import CurriculumCallback
from crescendo.data import ImageData, Transform
from crescendo.data.images import Sets, StoredImages
from crescendo.devices import peak_memory_bytes
from crescendo.metrics_file import MetricsFile
from crescendo.models import create_model
from crescendo.optim import Step
from crescendo.runs import Run
from crescendo.step_metrics import StepMetrics

IMAGES = StoredImages(torch.zeros(40, 1, 8, 8, dtype=torch.uint8), np.arange(40) % 2)

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_metrics_file_takes_new_columns_and_keeps_old_rows(tmp_path):
    metrics = MetricsFile(tmp_path)
    metrics.log_metrics({"loss": 2.0}, step=0)
    metrics.log_metrics({"loss": 1.0}, step=1)
    metrics.log_metrics({"accuracy": 0.5}, step=1)
    assert rows_of(metrics.path) == [
        {"step": "0", "loss": "2.0", "accuracy": ""},
        {"step": "1", "loss": "1.0", "accuracy": ""},
        {"step": "1", "loss": "", "accuracy": "0.5"},
    ]


def test_metrics_file_is_on_disk_after_every_row(tmp_path):
    metrics = MetricsFile(tmp_path)
    for step in range(3):
        metrics.log_metrics({"loss": float(step)}, step=step)
        assert rows_of(metrics.path)[-1] == {"step": str(step), "loss": str(float(step))}


def test_metrics_file_has_the_numbers_that_it_kept(tmp_path):
    metrics = MetricsFile(tmp_path)
    metrics.log_metrics({"train/images": 10.0}, step=0)
    metrics.log_metrics({"accuracy": 0.0}, step=0)
    metrics.log_metrics({"train/images": 20.0}, step=1)
    again = MetricsFile(tmp_path, kept=2)
    again.log_metrics({"accuracy": 0.5}, step=1)
    assert list(again.numbers()) == [(0, {"train/images": 10}), (0, {"accuracy": 0}), (1, {"accuracy": 0.5})]


def trained(place, images, every_n_steps=3, parts=2, callbacks=(), **settings):
    """Two epochs of four steps, as logged in `place`, and their summary."""
    curriculum = Curriculum(epochs=2, resolution=8)
    data = ImageData(
        Sets(images, IMAGES, IMAGES),
        *(Transform(1), curriculum, 0),
        batch_size=10,
        eval_batch_size=40,
        parts=parts,
        **settings,
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
    run = Run(place)
    steps = StepMetrics(curriculum, run, every_n_steps, macs={8: 1000})
    L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        accumulate_grad_batches=parts,
        log_every_n_steps=1,
        callbacks=[CurriculumCallback(curriculum), steps, *callbacks],
        logger=[MetricsFile(place)],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        default_root_dir=place,
    ).fit(classifier, data)
    return [row for row in rows_of(place / "metrics.csv") if row["lr"]], run.summary


def test_rows_count_optimizer_steps_and_name_the_rate_that_each_used(tmp_path):
    """With two parts a batch, a row for each step; the last epoch's rest is read at its end."""
    training, summary = trained(tmp_path, IMAGES)
    # four steps an epoch: every third, and each epoch's last
    assert [row["step"] for row in training] == ["2", "3", "5", "7"]
    assert [float(row["lr"]) for row in training] == pytest.approx([1, 1, 0.1, 0.1])
    # 3 x 1000 for each image of the steps so far, 10 a step
    assert [float(row["train/macs"]) for row in training] == [90_000, 120_000, 180_000, 240_000]
    assert [int(row["train/images"]) for row in training] == [30, 40, 60, 80]
    assert [float(row["train/epochs"]) for row in training] == [0.75, 1, 1.5, 2]
    assert all(10**7 < int(row["memory/peak_bytes"]) < 10**12 for row in training)
    seconds = [float(row["train/seconds"]) for row in training]
    assert 0 < seconds[0] < seconds[1] < seconds[2] < seconds[3]
    assert summary["images_per_second"] == pytest.approx(80 / seconds[3], abs=0.1)
    assert summary["train_macs"] == 3 * 1000 * 80  # two epochs of 40 images
    assert summary["cpu_seconds"] > 0


class SlowImages(StoredImages):
    """A batch of them takes a tenth of a second to load."""

    def batch(self, draws, transform):
        time.sleep(0.1)
        return super().batch(draws, transform)


class SlowSteps(L.Callback):
    """A step takes three tenths of a second, on top of what it does."""

    def on_train_batch_start(self, *_):
        time.sleep(0.3)


def test_the_wait_for_data_is_the_share_of_the_time_that_loading_takes(tmp_path):
    slow = SlowImages(IMAGES.images, IMAGES.labels)
    training, summary = trained(tmp_path, slow, every_n_steps=2, parts=1)
    waits = [float(row["data/wait"]) for row in training]
    assert len(waits) == 4
    assert all(0.3 < wait < 1 for wait in waits)  # 0.2 s of each two steps, and a tiny net's steps
    assert min(waits) <= summary["data_wait"] <= max(waits)


def test_with_workers_that_keep_up_there_is_hardly_a_wait(tmp_path):
    slow = SlowImages(IMAGES.images, IMAGES.labels)
    training, summary = trained(
        tmp_path, slow, every_n_steps=1, parts=1, callbacks=[SlowSteps()], num_workers=2
    )
    assert median(float(row["data/wait"]) for row in training) < 0.05
    assert 0 <= summary["data_wait"] < 0.2  # each epoch's first batch is waited for


def test_a_training_that_goes_on_has_waited_before(tmp_path):
    steps, other = (StepMetrics(Curriculum(2, 8), Run(tmp_path), every_n_steps=3, macs={}) for _ in range(2))
    state = steps.state_dict() | {"seconds": 10.0, "waited": 4.0, "unread": [3.0, 2.0, 1.5]}
    other.load_state_dict(state)
    assert other.run.summary["data_wait"] == 0.4
    assert other.state_dict() == state


def test_peak_memory_is_in_bytes():
    assert 10**7 < peak_memory_bytes(torch.device("cpu")) < 10**12
