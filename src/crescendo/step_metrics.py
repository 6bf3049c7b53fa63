"""What is logged of a training's steps, and what the training took."""

import logging
import math
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor

from crescendo.analysis.costs import TRAINING_PASSES
from crescendo.classifier import ImageClassifier
from crescendo.compilation import CompileClock
from crescendo.curriculum.schedule import Curriculum
from crescendo.data.loading import Loader
from crescendo.devices import peak_memory_bytes
from crescendo.metrics_file import MetricsFile
from crescendo.nonfinite import NonFiniteError, Window, all_finite
from crescendo.runs import Run
from crescendo.stopwatch import Stopwatch

# How far the training is, by each thing that it takes: what a curve can be drawn against.
PROGRESS = ("epoch", "train/epochs", "train/images", "train/macs", "train/seconds")

log = logging.getLogger(__name__)


class StepMetrics(L.Callback):
    """Logs the training every `every_n_steps` optimizer steps, and an epoch's line at its end.

    Only at those steps is anything read from the device. The columns of PROGRESS are what was trained up to
    the row, by all devices, and its seconds without validation; memory/peak_bytes is the most of rank 0 so
    far. What all of it took goes to the summary: images_per_second, also without what `clock` saw of
    torch.compile; data_wait, the share of the same time that rank 0 waited for
    batches; train_macs; and cpu_seconds of all ranks, without those of loader workers.

    Args:
        macs: multiply-accumulates of one image's forward pass at each of the curriculum's resolutions.
        passes: forward passes that a step takes as many of as.
    """

    def __init__(
        self,
        curriculum: Curriculum,
        run: Run,
        every_n_steps: int,
        macs: Mapping[int, int],
        clock: CompileClock | None = None,
        passes: int = TRAINING_PASSES,
    ) -> None:
        self.passes = passes
        self.curriculum, self.run, self.every_n_steps, self.macs = curriculum, run, every_n_steps, macs
        self._clock, self._compile_seconds = clock or CompileClock(), 0.0
        self.shown: dict[str, float] = {}  # the newest values, for the progress bar
        self._images, self._seconds, self._waited = 0, 0.0, 0.0
        self._train_macs, self._cpu_seconds = 0, 0.0
        self._steps, self._rate = 0, 0.0
        self._epoch_sums, self._epoch_seconds = [0.0, 0.0, 0], 0.0
        self._stopwatch, self._waiting = Stopwatch(), Stopwatch()
        self._unchecked = 0  # the first batch of the epoch that is not known to have been finite

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._epoch_sums, self._epoch_seconds = [0.0, 0.0, 0], 0.0
        self._unchecked = 0
        self._stopwatch.go((0.0, 0.0))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A training that goes on inside an epoch has no on_train_epoch_start for it."""
        self._steps = trainer.global_step
        self._unchecked = _batches_done(trainer)
        self._stopwatch.go()
        assert isinstance(trainer.train_dataloader, Loader)
        trainer.train_dataloader.waiting = self._waiting

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Nothing that is not finite is saved; and how much of metrics.csv is from before the checkpoint.

        Raises:
            NonFiniteError: on every device, if that is so on any.
        """
        assert isinstance(pl_module, ImageClassifier)
        sums = pl_module.train_sums.state().to(pl_module.device)
        wrong = ~all_finite(pl_module, sums)
        if trainer.strategy.reduce(wrong.int(), reduce_op="sum") > 0:
            raise NonFiniteError(self._window(trainer))
        self._unchecked = _batches_done(trainer)
        checkpoint["metrics_rows"] = sum(
            logger.rows for logger in trainer.loggers if isinstance(logger, MetricsFile)
        )

    def state_dict(self) -> dict[str, Any]:
        """What the epoch and the run have added up so far, in every process that trained them."""
        return {
            "epoch_sums": list(self._epoch_sums),
            "epoch_seconds": self._epoch_seconds,
            "images": self._images,
            "seconds": self._seconds,
            "compile_seconds": self._compile_seconds,
            "train_macs": self._train_macs,
            "cpu_seconds": self._cpu_seconds,
            "waited": self._waited,
            "unread": [*self._stopwatch.reading(), self._waiting.reading()[0]],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._epoch_sums = list(state_dict["epoch_sums"])
        self._epoch_seconds = state_dict["epoch_seconds"]
        self._images, self._seconds = state_dict["images"], state_dict["seconds"]
        self._compile_seconds = state_dict["compile_seconds"]
        self._train_macs, self._cpu_seconds = state_dict["train_macs"], state_dict["cpu_seconds"]
        self._waited = state_dict["waited"]
        seconds, cpu_seconds, waited = state_dict["unread"]
        self._stopwatch.hold((seconds, cpu_seconds))
        self._waiting.hold((waited, 0.0))
        self._summarize()  # the training may be done, and only its test be left

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # The schedule steps before the end. The first group is the head's, where rates differ.
        self._rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if trainer.global_step == self._steps:
            return  # a part of a global batch
        self._steps = trainer.global_step
        if batch_idx + 1 >= trainer.num_training_batches or self._steps % self.every_n_steps == 0:
            self._read(trainer, pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stopwatch.hold()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stopwatch.go()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, ImageClassifier)
        loss, correct, images = self._epoch_sums
        accuracy = pl_module.validation.get("val/accuracy")
        if images == 0 or not trainer.is_global_zero:
            return
        log.info(
            "epoch %*d/%d  %d px  loss %.3f  accuracy %.3f  val %s  %4.0f images/s",
            len(str(self.curriculum.epochs)),
            trainer.current_epoch + 1,
            self.curriculum.epochs,
            pl_module.stage.resolution,
            loss / images,
            correct / images,
            "-" if accuracy is None else f"{accuracy:.4f}",
            images / self._epoch_seconds,
        )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._read(trainer, pl_module)  # what a stop inside an epoch left
        self._summarize()

    def _summarize(self) -> None:
        self.run.summary |= {
            "images_per_second": round(self._images / max(self._seconds, 1e-9), 1),
            "data_wait": round(self._waited / max(self._seconds, 1e-9), 4),
            "compile_seconds": round(self._compile_seconds, 1),
            "train_macs": self._train_macs,
            "cpu_seconds": round(self._cpu_seconds, 3),
        }

    def _window(self, trainer: L.Trainer) -> Window:
        """The batches since the last look."""
        last = trainer.fit_loop.epoch_loop.batch_idx
        return Window(trainer.current_epoch, min(self._unchecked, last), last, trainer.global_step)

    def _read(self, trainer: L.Trainer, classifier: L.LightningModule) -> None:
        assert isinstance(classifier, ImageClassifier)

        def over_devices(sums: Tensor) -> Tensor:
            return trainer.strategy.reduce(sums, reduce_op="sum")

        loss, correct, images = classifier.train_sums.take(over_devices)
        seconds, cpu_seconds = self._stopwatch.reading()
        self._stopwatch.go((0.0, 0.0))
        waited, _ = self._waiting.reading()
        self._waiting.hold((0.0, 0.0))
        compiling = self._clock.take()
        self._compile_seconds += compiling
        seconds -= compiling
        if not math.isfinite(loss):
            raise NonFiniteError(self._window(trainer))
        # What its own step made of the weights, the newest loss does not tell.
        self._unchecked = max(self._unchecked, _batches_done(trainer) - trainer.accumulate_grad_batches)
        if images == 0:
            return
        stage = classifier.stage
        self._images += images
        self._train_macs += self.passes * images * self.macs[stage.resolution]
        self._seconds += seconds
        self._waited += waited
        self._cpu_seconds += float(over_devices(torch.tensor(cpu_seconds, device=classifier.device)))
        self._epoch_seconds += seconds
        self._epoch_sums = [
            total + value for total, value in zip(self._epoch_sums, (loss, correct, images), strict=True)
        ]
        self.shown = {"loss": loss / images, "accuracy": correct / images, "speed": images / seconds}
        metrics = {
            "epoch": trainer.current_epoch,
            "train/epochs": trainer.current_epoch + _batches_done(trainer) / trainer.num_training_batches,
            "train/images": self._images,
            "train/loss": self.shown["loss"],
            "train/accuracy": self.shown["accuracy"],
            "train/images_per_second": self.shown["speed"],
            "train/macs": self._train_macs,
            "train/seconds": self._seconds,
            "data/wait": waited / seconds,
            "memory/peak_bytes": peak_memory_bytes(classifier.device),
            "lr": self._rate,
            "curriculum/stage": stage.index,
            "curriculum/resolution": stage.resolution,
            **{f"regularization/{name}": value for name, value in stage.knobs.items()},
        }
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step - 1)  # counted as Lightning does


def _batches_done(trainer: L.Trainer) -> int:
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready
