"""A run's best checkpoint, used again: from the run directory alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from lightning.fabric import Fabric
from omegaconf import DictConfig
from torch import Tensor

from crescendo.checkpoints import load_checkpoint
from crescendo.classifier import ImageClassifier
from crescendo.composing import with_data
from crescendo.config import validate
from crescendo.data.images import GivenFiles
from crescendo.errors import UserError
from crescendo.experiment import build_classifier, build_curriculum, build_transform
from crescendo.runs import best_checkpoint, read_config
from crescendo.targets import check_arguments, users_mistakes


def load_config(run: Path, *, trust: bool = False, data: Sequence[str] = ()) -> DictConfig:
    """A run's configuration, checked like one that was typed: it may come from elsewhere.

    Args:
        trust: build targets of any package.
        data: overrides of its data (crescendo.composing.with_data).
    """
    config = read_config(run)
    config.trust = trust
    if data:
        config = with_data(config, data)
    validate(config)
    check_arguments(config)
    config.weights = None  # the checkpoint's replace what the training started from,
    config.finetuning = {}  # and whoever explains it may want gradients of all of it
    return config


def load_weights(classifier: ImageClassifier, run: Path) -> None:
    """Load a run's best checkpoint.

    Raises:
        UserError: it cannot be read, or does not fit.
    """
    path = best_checkpoint(run)
    weights = load_checkpoint(path)["state_dict"]
    try:
        classifier.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{path} does not fit the net of {run / 'config.yaml'}: {error}") from error


def find_device(accelerator: str) -> torch.device:
    """The device that Lightning takes for an accelerator.

    Raises:
        UserError: there is none such here.
    """
    with users_mistakes("--accelerator"):
        return Fabric(accelerator=accelerator, devices=1).device


@dataclass(frozen=True)
class TrainedRun:
    """A run's best checkpoint and what it takes to use it, without its data set.

    Attributes:
        config: the run's, validated.
        classifier: in eval mode.
        resolution: of evaluation.
    """

    directory: Path
    config: DictConfig
    classifier: ImageClassifier
    resolution: int

    @property
    def class_names(self) -> list[str]:
        """By label."""
        return list(self.config.data.class_names)

    def batches(
        self, files: Sequence[Path], size: int | None = None, num_workers: int = 0
    ) -> Iterator[Tensor]:
        """Image files as the net sees them in evaluation, uint8 [n, C, R, R]; n is data.eval_batch_size.

        Raises:
            UserError: a file cannot be read as an image.
        """
        data, images = self.config.data, GivenFiles(files, self.config.data.in_channels)
        transform = build_transform(self.config)
        return images.batches(transform, self.resolution, size or data.eval_batch_size, num_workers)


def load_run(run: Path, *, trust: bool = False) -> TrainedRun:
    """A run's best checkpoint, ready for use.

    Raises:
        UserError: the directory is no run, names what is not built without `trust`, or has no checkpoint.
    """
    config = load_config(run, trust=trust)
    classifier = build_classifier(config).eval()
    load_weights(classifier, run)
    resolution = build_curriculum(config, classifier.net).evaluation_resolution
    assert resolution is not None
    return TrainedRun(run, config, classifier, resolution)


class Answer(NamedTuple):
    """A class by its name, and how probable the net finds it."""

    class_name: str
    probability: float


def predict_files(
    run: Path,
    files: Sequence[Path],
    top: int,
    accelerator: str = "cpu",
    *,
    num_workers: int | None = None,
    trust: bool = False,
) -> list[list[Answer]]:
    """The `top` most probable classes of each file, most probable first. The run's data set is not needed.

    Args:
        num_workers: processes that load; as many as the run's evaluation by default.

    Raises:
        UserError: as load_run; a file cannot be read; there is no such accelerator.
    """
    trained = load_run(run, trust=trust)
    names = trained.class_names
    if num_workers is None:
        num_workers = trained.config.data.num_workers
    device = find_device(accelerator)
    classifier = trained.classifier.to(device)
    answers = []
    for batch in trained.batches(files, num_workers=num_workers):
        with torch.inference_mode():
            best = classifier(batch.to(device)).float().softmax(1).topk(min(top, len(names)))
        answers += [
            [Answer(names[label], value) for label, value in zip(labels, values, strict=True)]
            for labels, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
    return answers
