"""The data of a run: splits, samplers and loaders."""

import copy
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import Dataset

from crescendo.curriculum.schedule import Curriculum
from crescendo.data.decoding import ImageError
from crescendo.data.faults import Fault, Faults, Replacements
from crescendo.data.images import Images, Sets, split, stratified_share
from crescendo.data.loading import Loader
from crescendo.data.sampler import Draws, EvaluationSampler, TrainingSampler
from crescendo.data.transforms import Transform
from crescendo.errors import UserError


class Batch(NamedTuple):
    """uint8 images [n, C, R, R], labels int64 [n], and the samples' indices int64 [n]."""

    images: Tensor
    labels: Tensor
    indices: Tensor


class AddressedDataset(Dataset[Any]):
    """Maps draws to a batch: a function of its arguments alone, in whichever process it runs."""

    def __init__(self, images: Images, transform: Transform) -> None:
        self.images, self.transform = images, transform
        self._replacements = Replacements(len(images.labels), transform.seed)

    def __len__(self) -> int:
        return len(self.images.labels)

    def __getitems__(self, draws: Draws) -> tuple[Batch | None, list[Fault]]:
        """What a loader calls with all that its batch sampler yielded at once: the batch, if anything of it
        can be read, and what cannot.
        """
        while True:
            readable, replaced = self._replacements.apply(draws)
            faults = [
                Fault(self.images.name(index), index, reason, instead) for index, reason, instead in replaced
            ]
            if not len(readable.indices):
                return None, faults
            try:
                images = self.images.batch(readable, self.transform)
            except ImageError as error:
                self._replacements.add(error.index, str(error))
                continue
            labels = torch.from_numpy(self.images.labels[readable.indices])
            return Batch(images, labels, torch.from_numpy(readable.indices)), faults


class ImageData(L.LightningDataModule):
    """Training, validation and test images of a data set, and the loaders that address them.

    Args:
        sets: the images; the test images are only tested on.
        transform: how they become batches.
        curriculum: gives every training batch its resolution.
        seed: of the order and of the augmentation.
        batch_size: images per optimizer step, over all devices.
        eval_batch_size: images per batch and device in evaluation.
        parts: pieces that a global batch is processed in (gradient accumulation).
        num_workers: loader processes for each device; 0 loads in the training process.
        val_fraction: share of the training images to validate on, where `sets` has no validation.
        fraction: share of the training images that is left to train on.
        split_seed: of both splits; runs of different `seed` share their splits.
        on_error, max_errors: what becomes of images that cannot be read: see crescendo.data.faults.
        sampler: what an epoch draws: "uniform", each image at most once, "balanced", each class equally
            often, or "repeated", a third of the images three times each.

    Raises:
        UserError: a batch size that the images or the devices cannot fill; images that cannot be read.
    """

    def __init__(
        self,
        sets: Sets,
        transform: Transform,
        curriculum: Curriculum,
        seed: int,
        *,
        batch_size: int,
        eval_batch_size: int,
        parts: int = 1,
        num_workers: int = 0,
        val_fraction: float = 0.1,
        fraction: float = 1.0,
        split_seed: int = 0,
        on_error: Literal["raise", "skip"] = "raise",
        max_errors: int = 100,
        sampler: Literal["uniform", "balanced", "repeated"] = "uniform",
    ) -> None:
        super().__init__()
        training, validation = sets.training, sets.validation
        if validation is None:
            kept, held_out = split(training.labels, val_fraction, split_seed)
            training, validation = training.subset(kept), training.subset(held_out)
        if fraction < 1:
            training = training.subset(stratified_share(training.labels, fraction, split_seed))
        _check_batch_size(batch_size, len(training.labels), parts)
        self.training, self.validation, self.test = (
            AddressedDataset(images, transform) for images in (training, validation, sets.test)
        )
        self.faults = Faults(on_error, max_errors)
        for images in (training, validation, sets.test):
            self.faults.refuse_known(
                [Fault(images.name(index), index, reason, None) for index, reason in images.faults().items()]
            )
        self.curriculum, self.seed = curriculum, seed
        self.batch_size, self.eval_batch_size, self.parts = batch_size, eval_batch_size, parts
        self.num_workers, self.sampler = num_workers, sampler
        self._position = (0, 0)

    def under(self, curriculum: Curriculum, batch_size: int | None = None) -> "ImageData":
        """The same images and splits, nothing read again, for a training by another curriculum or batch.

        Raises:
            UserError: a batch size that the images cannot fill.
        """
        other = copy.copy(self)
        other.curriculum, other.trainer = curriculum, None
        other.batch_size = batch_size or self.batch_size
        _check_batch_size(other.batch_size, len(self.training), self.parts)
        return other

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch, the same on any number of devices."""
        return len(self.training) // self.batch_size

    def state_dict(self) -> dict[str, int]:
        """The epoch that a resumed training begins with, and how many batches of it were trained on."""
        assert self.trainer is not None
        loop = self.trainer.fit_loop
        epoch: Any = loop.epoch_progress.current  # typed without its `processed`
        ended = epoch.processed > epoch.completed  # the epoch's last hooks are running
        return {
            "epoch": epoch.processed,
            "batches": 0 if ended else loop.epoch_loop.batch_progress.current.ready,
        }

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Lightning makes the loader's iterator, and workers fetch ahead, before it sets the epoch."""
        self._position = (state_dict["epoch"], state_dict["batches"])

    def train_dataloader(self) -> Loader:
        sampler = self.training_sampler()
        sampler.go_on(*self._position)
        return self._loader(self.training, sampler)

    def training_sampler(self) -> TrainingSampler:
        """What draws this rank's share.

        Raises:
            UserError: the global batch cannot be shared out.
        """
        rank, ranks = self._rank()
        if self.batch_size % (ranks * self.parts):
            raise UserError(
                f"data.batch_size={self.batch_size} is the global batch: it must be a multiple of "
                f"{ranks} devices x trainer.accumulate_grad_batches={self.parts}."
            )
        return TrainingSampler(
            len(self.training),
            self.batch_size,
            self.curriculum,
            self.seed,
            parts=self.parts,
            rank=rank,
            ranks=ranks,
            balance=self.training.images.labels if self.sampler == "balanced" else None,
            repeat=self.sampler == "repeated",
        )

    def val_dataloader(self) -> Loader:
        return self._evaluation_loader(self.validation, self._evaluation_resolution)

    def test_dataloader(self) -> Loader:
        return self._evaluation_loader(self.test, self._evaluation_resolution)

    def validation_at(self, resolution: int) -> Loader:
        """The validation images at another resolution, to go through once."""
        return self._evaluation_loader(self.validation, resolution, once=True)

    def test_at(self, resolution: int) -> Loader:
        """The test images at a resolution, to go through once."""
        return self._evaluation_loader(self.test, resolution, once=True)

    def training_as_evaluated(self, epoch: int, batches: int) -> Loader:
        """This rank's share of an epoch's first `batches` global batches, as evaluation would see their
        images: at its resolution, without augmentation. To go through once.
        """
        rank, ranks = self._rank()
        first = self.training_sampler().batches(epoch)[: batches * self.parts]
        draws = [Draws(batch[rank::ranks], None, self._evaluation_resolution) for batch in first]
        return self._loader(self.training, draws, once=True)

    @property
    def _evaluation_resolution(self) -> int:
        resolution = self.curriculum.evaluation_resolution
        assert resolution is not None
        return resolution

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _evaluation_loader(self, dataset: AddressedDataset, resolution: int, *, once: bool = False) -> Loader:
        rank, ranks = self._rank()
        sampler = EvaluationSampler(len(dataset), self.eval_batch_size, resolution, rank=rank, ranks=ranks)
        return self._loader(dataset, sampler, once=once)

    def _loader(self, dataset: AddressedDataset, draws: Iterable[Draws], *, once: bool = False) -> Loader:
        return Loader(
            dataset,
            draws,
            self.faults,
            num_workers=self.num_workers,
            device=self.trainer.strategy.root_device if self.trainer else torch.device("cpu"),
            once=once,
        )


def _check_batch_size(batch_size: int, images: int, parts: int) -> None:
    if batch_size > images:
        raise UserError(
            f"data.batch_size={batch_size} is more than the {images} training "
            f"images: no global batch would be full."
        )
    if batch_size % parts:
        raise UserError(
            f"data.batch_size={batch_size} cannot be split into "
            f"trainer.accumulate_grad_batches={parts} equal parts."
        )
