"""What surrounds a validation, and a switch of stages: statistics of batch norm, the stage's own resolution.

These callbacks come before those that a user configures: averaged weights (WeightAveraging) are in place
from before a validation's first batch until that callback's on_validation_epoch_end, so what is put in here
at the first batch and taken out at the end is put into the weights that are validated.
"""

import time
from itertools import islice
from typing import Any, Literal

import lightning as L
import torch

from crescendo import batch_norm
from crescendo.classifier import ImageClassifier
from crescendo.data import ImageData


class StageValidation(L.Callback):
    """Validates at the stage's own resolution, too, where it is not that of evaluation: val_stage/accuracy.

    With the statistics of the training, and before the validation that picks the best checkpoint.
    """

    def __init__(self, data: ImageData) -> None:
        self.data = data
        self._has_run = False

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        assert isinstance(pl_module, ImageClassifier)
        resolution = pl_module.stage.resolution
        self._has_run = (
            resolution != self.data.curriculum.evaluation_resolution and not trainer.sanity_checking
        )
        if batch_idx > 0 or not self._has_run:
            return
        for images in islice(self.data.validation_at(resolution), int(trainer.num_val_batches[0])):
            with trainer.precision_plugin.val_step_context():
                pl_module.stage_validation_step(trainer.strategy.batch_to_device(images))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, ImageClassifier)
        if self._has_run:
            pl_module.log_stage_validation()


class StatisticsRefresh(L.Callback):
    """Takes the statistics of batch norm anew for a validation, from training images as evaluation sees them:
    at its resolution and without augmentation, since it is evaluation's activations that they are to fit.

    They are validated and saved as the checkpoint's state_dict. The training goes on with its own, so that
    its weights are bitwise those of a run without a refresh. The images are the first of the epoch's
    permutation: the same for any number of workers, fresh or resumed.

    Args:
        batches: global batches to take them from.
        when: always, or only where the epoch's resolution was another than that of evaluation.
        macs: multiply-accumulates of one image at the resolution of evaluation.
        summary: of the run, which gets bn_refresh_seconds and bn_refresh_macs.
    """

    def __init__(
        self,
        data: ImageData,
        summary: dict[str, Any],
        batches: int,
        when: Literal["always", "resized"],
        macs: int,
    ) -> None:
        self.data, self.summary = data, summary
        self.batches, self.when, self.macs = batches, when, macs
        self._trained: batch_norm.Statistics = {}  # set aside while the refreshed ones are in place
        self._cost = {"seconds": 0.0, "macs": 0}
        self._total = {"seconds": 0.0, "macs": 0}

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        assert isinstance(pl_module, ImageClassifier)
        resized = pl_module.stage.resolution != self.data.curriculum.evaluation_resolution
        is_due = (resized or self.when == "always") and not trainer.sanity_checking
        if pl_module.finetuning.trains_head_alone(trainer.current_epoch):
            is_due = False  # the head is trained on the statistics of the weights that it starts from
        if batch_idx > 0:
            return
        self._cost = {"seconds": 0.0, "macs": 0}
        if not is_due or not batch_norm.statistics(pl_module):
            return
        begin = time.perf_counter()
        self._trained = batch_norm.copy_of(pl_module)
        loader = self.data.training_as_evaluated(trainer.current_epoch, self.batches)
        batches = (trainer.strategy.batch_to_device(batch).images for batch in loader)
        with trainer.precision_plugin.val_step_context():
            images = batch_norm.refresh(pl_module, batches, trainer.world_size)
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        self._cost = {
            "seconds": time.perf_counter() - begin,
            "macs": images * trainer.world_size * self.macs,
        }

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, ImageClassifier)
        if not self._trained:
            return
        pl_module.validated_statistics = batch_norm.copy_of(pl_module)
        self.put_back(pl_module)
        self._total = {name: self._total[name] + cost for name, cost in self._cost.items()}
        costs = {f"bn_refresh/{name}": float(cost) for name, cost in self._cost.items()}
        pl_module.log_dict(costs, rank_zero_only=True)
        self._summarize()

    @property
    def seconds(self) -> float:
        """What the newest validation's took."""
        return self._cost["seconds"]

    def put_back(self, pl_module: L.LightningModule) -> None:
        """The training's own statistics, if others are in their place."""
        if self._trained:
            batch_norm.put(pl_module, self._trained)
            self._trained = {}

    def state_dict(self) -> dict[str, Any]:
        """What all refreshes of the run took, in every process that trained it."""
        return dict(self._total)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._total = dict(state_dict)
        self._summarize()

    def _summarize(self) -> None:
        self.summary |= {
            "bn_refresh_seconds": round(self._total["seconds"], 3),
            "bn_refresh_macs": self._total["macs"],
        }


class StatisticsDrift(L.Callback):
    """Logs how far the statistics of batch norm moved at a switch: from the end of a stage to the end of the
    next one's first epoch, as bn_drift/mean and bn_drift/variance (crescendo.batch_norm.drift).
    """

    def __init__(self) -> None:
        self._before: batch_norm.Statistics = {}

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, ImageClassifier)
        switches = 0 < trainer.current_epoch == pl_module.stage.first_epoch
        self._before = batch_norm.copy_of(pl_module) if switches else {}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._before or batch_idx + 1 < trainer.num_training_batches:
            return
        # What a checkpoint held is on the CPU.
        before = {name: value.to(pl_module.device) for name, value in self._before.items()}
        mean, variance = batch_norm.drift(before, batch_norm.statistics(pl_module))
        self._before = {}
        for logger in trainer.loggers:
            values = {"epoch": trainer.current_epoch, "bn_drift/mean": mean, "bn_drift/variance": variance}
            logger.log_metrics(values, step=trainer.global_step - 1)  # counted as Lightning does

    def state_dict(self) -> dict[str, Any]:
        """A training that goes on inside the first epoch of a stage knows how the last one ended."""
        return dict(self._before)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before = dict(state_dict)
