import csv
import logging
import socket
import time

import lightning as L
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from crescendo import tracking
from crescendo.classifier import ImageClassifier
from crescendo.curriculum import Curriculum
from crescendo.curriculum.callback import CurriculumCallback
from crescendo.data import ImageData, Transform
from crescendo.data.sources import Sets, StoredImages
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
    steps = tracking.StepMetrics(curriculum, run, every_n_steps=3)
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


class FakeWandb:
    """What `_server_answers` asks of the wandb package."""

    def __init__(self, key: bool, url: str = "") -> None:
        self.key = key
        self.settings = OmegaConf.create({"base_url": url})

    def login(self, prompt: bool, verify: bool) -> bool:
        assert not prompt
        assert not verify
        return self.key

    def setup(self):
        return self


def test_without_a_key_no_connection_is_tried(monkeypatch):
    monkeypatch.setattr(socket, "create_connection", lambda *_: pytest.fail("connected"))
    assert not tracking._server_answers(FakeWandb(key=False))


def test_with_a_key_and_a_server_the_run_is_online():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert tracking._server_answers(FakeWandb(key=True, url=f"http://127.0.0.1:{port}"))


def test_with_a_key_and_no_server_the_run_goes_on_offline(caplog):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    begin = time.perf_counter()
    with caplog.at_level(logging.WARNING, logger="crescendo"):
        logging.getLogger("crescendo").propagate = True
        assert not tracking._server_answers(FakeWandb(key=True, url=f"http://127.0.0.1:{port}"))
    assert time.perf_counter() - begin < 3
    assert "127.0.0.1 does not answer" in caplog.text


def test_wandb_gets_the_configuration_and_stays_in_the_run_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = Run(tmp_path / "run")
    run.directory.mkdir()
    logger = tracking.weights_and_biases(run, {"seed": 3}, "crescendo", None, "sweep", ["quick"])
    logger.log_metrics({"loss": 1.0}, step=0)
    assert logger.experiment.config["seed"] == 3
    assert logger.experiment.group == "sweep"
    assert run.summary["wandb_id"] == logger.experiment.id
    tracking.finish_loggers([logger], failed=False)
    assert list((run.directory / "wandb").glob("offline-run-*"))


def test_peak_memory_is_in_bytes():
    assert 10**7 < tracking.peak_memory_bytes() < 10**12
