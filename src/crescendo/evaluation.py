"""A run's best checkpoint, used again: from the run directory alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning.fabric import Fabric
from omegaconf import DictConfig
from torch import Tensor
from torch.nn import functional as F

from crescendo.analysis.costs import check_resolution
from crescendo.analysis.scores import Outcome
from crescendo.checkpoints import load_checkpoint
from crescendo.classifier import ImageClassifier
from crescendo.composing import with_data
from crescendo.config import validate
from crescendo.data import ImageData
from crescendo.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from crescendo.data.datamodule import Batch
from crescendo.data.decoding import read_image
from crescendo.data.sampler import Draws
from crescendo.errors import UserError
from crescendo.experiment import build_classifier, build_curriculum, build_transform, prepare
from crescendo.runs import best_checkpoint, read_config
from crescendo.targets import check_arguments, users_mistakes

SHIFT = 1 / 32  # of the side, for averaging over shifts


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
    config.weights = None  # the checkpoint's replace what the training started from
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


@dataclass(frozen=True)
class TrainedRun:
    """A run's best checkpoint on a device, and the images that it is tested on.

    Attributes:
        resolution: px, of its evaluation.
        flips: whether its training mirrored images.
    """

    directory: Path
    classifier: ImageClassifier
    data: ImageData
    class_names: Sequence[str]
    resolution: int
    flips: bool

    @classmethod
    def load(
        cls, run: Path, accelerator: str = "auto", *, trust: bool = False, data: Sequence[str] = ()
    ) -> "TrainedRun":
        """Read a run and its data set.

        Raises:
            UserError: the run, its data set or the accelerator is not there; the data's classes are others.
        """
        config = load_config(run, trust=trust, data=data)
        with users_mistakes("--accelerator"):
            device = Fabric(accelerator=accelerator, devices=1).device
        trained_on = config.data.class_names
        if data:
            config.data.class_names = None  # as the data has them
        experiment = prepare(config)
        names = list(experiment.class_names)
        if trained_on is None or names == [str(number) for number in range(len(names))]:
            names = list(trained_on or names)  # the data names none
        elif names != list(trained_on):
            different = sorted(set(names) ^ set(trained_on)) or names
            raise UserError(f"the data and {run} differ in classes: {', '.join(different)}.")
        load_weights(experiment.classifier, run)
        resolution = experiment.curriculum.evaluation_resolution
        assert resolution is not None
        flips = bool(config.data.augmentation.flip)
        return cls(run, experiment.classifier.eval().to(device), experiment.data, names, resolution, flips)

    def batches(self, resolution: int | None = None) -> Iterator[Batch]:
        """The test images, on the CPU: at a resolution, or at that of the run's evaluation."""
        yield from self.data.test_at(resolution or self.resolution)

    @torch.inference_mode()
    def log_probabilities(self, images: Tensor) -> Tensor:
        """Of uint8 images [n, C, R, R]: [n, classes], float32 on the CPU."""
        return self.classifier(images.to(self.classifier.device)).float().log_softmax(1).cpu()

    def test(self) -> Outcome:
        """Every test image as the run's own test saw it."""
        labels, answers = [], []
        for batch in self.batches():
            labels.append(batch.labels)
            answers.append(self.log_probabilities(batch.images))
        return Outcome(torch.cat(answers).numpy(), torch.cat(labels).numpy())

    def test_averaged(self) -> Outcome:
        """Test-time augmentation: the mean of the probabilities over views of each image (make_views)."""
        labels, answers = [], []
        for batch in self.batches():
            views = make_views(batch.images, flips=self.flips)
            labels.append(batch.labels)
            answers.append(torch.stack([self.log_probabilities(view).exp() for view in views]).mean(0).log())
        return Outcome(torch.cat(answers).numpy(), torch.cat(labels).numpy())

    def right_at(self, resolutions: Sequence[int]) -> np.ndarray:
        """Whether each test image is right at each resolution: [images, resolutions], 0 or 1.

        Fixing the train-test resolution discrepancy.  Touvron, Vedaldi, Douze, Jegou, 2019.
        arXiv:1906.06423, section 3: the best is often above the last one that was trained at.

        Raises:
            UserError: the net does not take one of them.
        """
        for resolution in resolutions:
            problem = check_resolution(self.classifier.net, resolution)
            if problem is not None:
                raise UserError(f"--resolutions {resolution}: {problem}.")
        columns = [
            torch.cat([self._right(batch.images, batch.labels) for batch in self.batches(resolution)])
            for resolution in resolutions
        ]
        return torch.stack(columns, 1).double().numpy()

    def right_corrupted(self) -> dict[str, np.ndarray]:
        """Whether each test image is right under each corruption: [images, severities], 0 or 1."""
        right: dict[str, list[Tensor]] = {name: [] for name in CORRUPTIONS}
        for batch in self.batches():
            for name, parts in right.items():
                seen = [
                    corrupt(batch.images, name, severity, batch.indices.numpy()) for severity in SEVERITIES
                ]
                parts.append(torch.stack([self._right(images, batch.labels) for images in seen], 1))
        return {name: torch.cat(parts).double().numpy() for name, parts in right.items()}

    def _right(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.log_probabilities(images).argmax(1) == labels


def make_views(images: Tensor, *, flips: bool) -> list[Tensor]:
    """What test-time augmentation averages over, of images [n, C, R, R]: as they are and moved by SHIFT of
    the side in four directions, edges repeated; each mirrored, too, with `flips`.
    """
    reach = max(1, round(SHIFT * images.shape[-1]))
    side = images.shape[-1]
    padded = F.pad(images.float(), (reach, reach, reach, reach), mode="replicate").to(images.dtype)
    corners = [(reach, reach), (0, reach), (2 * reach, reach), (reach, 0), (reach, 2 * reach)]
    views = [padded[:, :, top : top + side, left : left + side] for top, left in corners]
    return views + [view.flip(-1) for view in views] if flips else views


def same_images(first: Outcome, second: Outcome, names: tuple[Path, Path]) -> None:
    """Check that two runs were tested on the same images, as far as their labels tell.

    Raises:
        UserError: they were not.
    """
    if not np.array_equal(first.labels, second.labels):
        raise UserError(
            f"{names[0]} and {names[1]} are tested on different images ({len(first.labels)} and "
            f"{len(second.labels)}, or in another order): --data gives both the same."
        )


def predict_files(
    run: Path, files: Sequence[Path], top: int, *, trust: bool = False
) -> list[list[tuple[str, float]]]:
    """The `top` most probable classes of each file with their probabilities, most probable first.

    The run's data set is not needed.
    """
    config = load_config(run, trust=trust)
    classifier = build_classifier(config).eval()
    load_weights(classifier, run)
    resolution = build_curriculum(config, classifier.net).evaluation_resolution
    assert resolution is not None
    transform, names = build_transform(config), config.data.class_names
    answers = []
    for start in range(0, len(files), config.data.eval_batch_size):
        part = files[start : start + config.data.eval_batch_size]
        images = [read_image(file, config.data.in_channels) for file in part]
        batch = transform.decoded(images, Draws(np.arange(len(part)), None, resolution))
        with torch.inference_mode():
            best = classifier(batch).softmax(1).topk(min(top, len(names)))
        answers += [
            [(names[label], value) for label, value in zip(labels, values, strict=True)]
            for labels, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
    return answers
