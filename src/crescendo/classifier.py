"""The LightningModule around any net: normalisation, mixing, loss, metrics, optimizer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, cast

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
)

from crescendo import batch_norm, mixing
from crescendo.answers import Answers, GatheredAnswers
from crescendo.curriculum.schedule import Stage
from crescendo.data.datamodule import Batch
from crescendo.finetuning import Finetuning
from crescendo.freezing import frozen_parameters
from crescendo.models.layers import Net, WithAuxiliary
from crescendo.nonfinite import Window
from crescendo.optim import OptimizerFactory, Schedule, fusing_fits, make_optimizer
from crescendo.randomness import seed_device, seed_of
from crescendo.regularization import apply_to_net


class ImageClassifier(L.LightningModule):
    """Trains `net`, which maps images [N, C, R, R] to logits [N, classes].

    Args:
        net: any net of crescendo.models.
        optimizer: makes the optimizer from parameter groups.
        schedule: of the learning rate.
        mean, std: of each channel, for images in 0..1.
        num_classes: number of classes.
        loss: of training and validation; crescendo.mixing has what there is.
        seed: of what is drawn on the device: dropout, drop path, mixing.
        channels_last: memory format of the weights; the images come in it.
        finetuning: what of the net is trained; what never is needs no gradient from here on.

    Attributes:
        stage: the curriculum's stage that is being trained.
        skipped: batches that are not trained on.
        validation: metrics of this epoch's validation; empty before it.
        validated_statistics: of batch norm, where this epoch's validation had other ones than the training;
            they are saved with its weights.
        confusion_matrix: of the last test, [classes, classes]: numbers of images, rows are true.
        answers: of the last test, for each image; both are of all devices.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: Net,
        optimizer: OptimizerFactory,
        schedule: Schedule,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        num_classes: int,
        loss: mixing.Loss = "cross_entropy",
        seed: int = 0,
        channels_last: bool = True,
        finetuning: Finetuning | None = None,
    ) -> None:
        super().__init__()
        self.finetuning, self._epoch = finetuning or Finetuning(), 0
        self.finetuning.freeze(net)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.net: Net = net.to(memory_format=self.memory_format)
        self.optimizer_factory, self.schedule = optimizer, schedule
        self.seed, self.loss = seed, loss
        self.validation: dict[str, float] = {}
        self.validated_statistics: batch_norm.Statistics = {}
        self.skipped: Sequence[Window] = ()
        self.stage = Stage(index=0, first_epoch=0, epochs=0, resolution=0)
        self._frozen: Sequence[nn.Parameter] = ()
        for name, values in {"mean": mean, "std": std}.items():
            in_bytes = torch.tensor(values, dtype=torch.float32)[:, None, None] * 255
            self.register_buffer(name, in_bytes, persistent=False)
        self.train_sums = TrainingSums()
        self.val_metrics = _evaluation_metrics(num_classes, "val/")
        self.stage_metrics = _evaluation_metrics(num_classes, "val_stage/")
        self.test_metrics = _evaluation_metrics(num_classes, "test/")
        self.test_metrics["calibration_error"] = MulticlassCalibrationError(
            num_classes, n_bins=15, validate_args=False
        )
        self.confusion = MulticlassConfusionMatrix(num_classes, validate_args=False)
        self.confusion_matrix: Tensor | None = None
        self.gathered_answers = GatheredAnswers()
        self.answers: Answers | None = None

    def enter(self, stage: Stage, epoch: int | None = None) -> None:
        """Take over a stage, in its first epoch or in `epoch`: the net's rates now, the rest next step."""
        self.stage, self._epoch = stage, stage.first_epoch if epoch is None else epoch
        apply_to_net(self.net, stage.knobs)
        alone = self.finetuning.trains_head_alone(self._epoch)
        self._frozen = frozen_parameters(self.net, "head" if alone else stage.trained)
        if self.finetuning.is_on and self.training:
            self.train()

    def train(self, mode: bool = True) -> Self:
        """Into train mode, but for what fine-tuning keeps as it is."""
        super().train(mode)
        if mode:
            self.finetuning.hold(self.net, self._epoch)
        return self

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 [N, C, R, R] to floats of mean 0 and deviation 1, in the net's memory format."""
        floats = images.to(self.mean.dtype, memory_format=self.memory_format)
        return floats.sub_(self.mean).div_(self.std)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, classes] of uint8 images.

        Never compiled: only training steps are, which all have one shape at a stage. Here the mode and the
        smaller last batch would take two graphs more for a small part of the time.
        """
        with torch.compiler.set_stance("force_eager"):
            return self.net(self.normalise(images))

    def augment(self, batch: Batch) -> tuple[Tensor, mixing.Targets]:
        """What the net trains on: a batch normalised, mixed and erased as strongly as the stage says."""
        strength = self.stage.knobs.get
        images, targets = mixing.mix(
            self.normalise(batch.images),
            batch.labels,
            strength("mixup", 0.0),
            strength("cutmix", 0.0),
        )
        return mixing.erase(images, strength("random_erasing", 0.0)), targets

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self._is_skipped(batch_idx):  # all ranks have gradients to exchange, and none of them counts
            return 0 * torch.stack([weights.sum() for weights in self.net.parameters()]).sum()
        seed_device(seed_of(self.seed, self.current_epoch, batch_idx, self.global_rank), self.device)
        images, targets = self.augment(batch)
        smoothing = self.stage.knobs.get("label_smoothing", 0.0)

        def loss_of(logits: Tensor) -> Tensor:
            return mixing.LOSSES[self.loss](logits, targets, smoothing)

        output = self.net(images)
        if isinstance(output, WithAuxiliary):
            logits, loss = output.logits, output.loss(loss_of)
        else:
            logits, loss = output, loss_of(output)
        self.train_sums.add(loss.detach(), mixing.count_correct(logits.detach(), targets), len(images))
        return loss

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """A step that is skipped counts, for the schedule, and changes nothing."""
        if not self._is_skipped(batch_idx):
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        elif optimizer_closure is not None:
            optimizer_closure()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Optimizers pass over a parameter without a gradient: neither decay nor momentum moves it.

        The backward pass is that of every stage, so DDP's static graph and a compiled net stay as they are.
        """
        for parameter in self._frozen:
            parameter.grad = None

    def _is_skipped(self, batch_idx: int) -> bool:
        return any((self.current_epoch, batch_idx) in window for window in self.skipped)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._update(self.val_metrics, self(batch.images), batch.labels)

    def stage_validation_step(self, batch: Batch) -> None:
        """One batch of the validation at the stage's own resolution."""
        self._update(self.stage_metrics, self(batch.images), batch.labels)

    def log_stage_validation(self) -> None:
        """Its end, for all devices."""
        self._log_and_reset(self.stage_metrics)

    def on_train_epoch_start(self) -> None:
        """Statistics that a stage freezes are the same on all devices."""
        self.validation, self.validated_statistics = {}, {}
        if self.trainer.world_size > 1:
            batch_norm.share_from_rank_zero(self.net)

    def on_validation_epoch_start(self) -> None:
        """All devices validate rank 0's statistics of batch norm, averaged or not: those are saved."""
        if self.trainer.world_size > 1:
            batch_norm.share_from_rank_zero(self.net)

    def on_validation_epoch_end(self) -> None:
        self.validation = self._log_and_reset(self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        logits = self(batch.images)
        self._update(self.test_metrics, logits, batch.labels)
        self.confusion.update(logits, batch.labels)
        self.gathered_answers.update(logits, batch.labels, batch.indices)

    def on_test_epoch_end(self) -> None:
        self._log_and_reset(self.test_metrics)
        self.confusion_matrix, self.answers = self.confusion.compute(), self.gathered_answers.compute()
        self.confusion.reset()
        self.gathered_answers.reset()

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Probabilities [N, classes]."""
        return self(batch.images).softmax(1)

    def make_optimizer(self) -> Optimizer:
        """A fresh optimizer of the net's parameters."""
        trainer = self._trainer
        may_fuse = trainer is None or fusing_fits(
            trainer.precision, clips=trainer.gradient_clip_val is not None
        )
        return make_optimizer(
            self.optimizer_factory, self.net, rates=self.finetuning.rates(self.net), may_fuse=may_fuse
        )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.make_optimizer()
        epochs = self.trainer.max_epochs or 1
        _ = self.trainer.estimated_stepping_batches  # makes the trainer count its batches
        steps_per_epoch = -(-self.trainer.num_training_batches // self.trainer.accumulate_grad_batches)

        def factor(step: int) -> float:
            """In the middle of a step: neither the first nor the last is lost to a rate of 0."""
            return self.schedule.factor((step + 0.5) / steps_per_epoch, epochs)

        scheduler = LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint knows how its weights validated, and what each device has added up so far.

        Its state_dict is what was validated; running_statistics are those that the training goes on with.
        """
        checkpoint["validation"] = self.validation
        weights = checkpoint["state_dict"]  # the averages, under EMA
        checkpoint["running_statistics"] = {name: weights[name] for name in self.validated_statistics}
        checkpoint["state_dict"] = weights | self.validated_statistics
        sums = cast(Tensor, self.all_gather(self.train_sums.state().to(self.device)))
        checkpoint["train_sums"] = sums.reshape(self.trainer.world_size, -1).cpu()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over this device's share; with another number of devices the first takes all."""
        self.validation = checkpoint["validation"]
        checkpoint["state_dict"].update(checkpoint["running_statistics"])
        rows: Tensor = checkpoint["train_sums"]
        if len(rows) != self.trainer.world_size:
            rows = torch.cat(
                (rows.sum(0, keepdim=True), torch.zeros(self.trainer.world_size - 1, rows.shape[1]))
            )
        self.train_sums.load_state(rows[self.trainer.global_rank].to(self.device))

    def _update(self, metrics: MetricCollection, logits: Tensor, labels: Tensor) -> None:
        logits = logits.float()
        losses = mixing.losses_of_each(self.loss, logits, labels)
        probabilities = logits.softmax(1)  # torchmetrics would have to guess which of the two it got
        for name, metric in metrics.items(keep_base=True):
            if name == "loss":
                metric.update(losses)
            else:
                metric.update(probabilities, labels)

    def _log_and_reset(self, metrics: MetricCollection) -> dict[str, float]:
        values = metrics.compute()
        self.log_dict(values)
        metrics.reset()
        return {name: float(value) for name, value in values.items()}


class TrainingSums:
    """Loss and right answers since they were last taken: added up on the device, read seldom.

    Reading is what makes the host wait for the device, so steps only add.
    """

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        self._images = 0

    def add(self, loss: Tensor, correct: Tensor, images: int) -> None:
        """One batch: its mean loss, and how many of its answers were right."""
        batch = torch.stack((loss.float() * images, correct))
        self._sums = batch if self._sums is None else self._sums.add_(batch)
        self._images += images

    def take(self, reduce: Callable[[Tensor], Tensor]) -> tuple[float, float, int]:
        """Sum of the losses, of the right answers, and number of images; starts again from zero.

        `reduce` adds a tensor up over the devices.
        """
        if self._sums is None:
            return 0.0, 0.0, 0
        loss, correct, count = reduce(self.state()).tolist()
        self._sums, self._images = None, 0
        return loss, correct, round(count)

    def state(self) -> Tensor:
        """Loss, right answers and images added up so far, [3]."""
        if self._sums is None:
            return torch.zeros(3)
        return torch.cat((self._sums, self._sums.new_tensor([self._images])))

    def load_state(self, state: Tensor) -> None:
        """Go on adding to what `state` gave."""
        self._sums, self._images = state[:2].clone(), round(float(state[2]))


def _evaluation_metrics(num_classes: int, prefix: str) -> MetricCollection:
    metrics: Mapping[str, Any] = {
        "loss": MeanMetric(nan_strategy="disable"),
        "accuracy": MulticlassAccuracy(num_classes, average="micro", validate_args=False),
        "accuracy_top5": MulticlassAccuracy(
            num_classes, average="micro", top_k=min(5, num_classes), validate_args=False
        ),
    }
    return MetricCollection(dict(metrics), prefix=prefix, compute_groups=False)
