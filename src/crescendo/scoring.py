"""One evaluation of a run: its test, and what else of its answers is asked for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from crescendo.analysis.costs import check_resolution
from crescendo.analysis.score_tables import Against, Evaluation
from crescendo.analysis.scores import Outcome, score, shares_right
from crescendo.analysis.uncertainty import McNemar
from crescendo.classifier import ImageClassifier
from crescendo.data import ImageData
from crescendo.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from crescendo.data.datamodule import Batch
from crescendo.errors import UserError
from crescendo.evaluation import find_device, load_config, load_weights
from crescendo.experiment import prepare
from crescendo.tracking import show_messages

SHIFT = 1 / 32  # of the side, for averaging over shifts


@dataclass(frozen=True)
class EvaluatedRun:
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
    ) -> "EvaluatedRun":
        """Read a run and its data set.

        Raises:
            UserError: the run, its data set or the accelerator is not there; the data's classes are others.
        """
        config = load_config(run, trust=trust, data=data)
        device = find_device(accelerator)
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


def evaluate_run(
    run: Path,
    accelerator: str = "auto",
    *,
    trust: bool = False,
    data: Sequence[str] = (),
    resolutions: Sequence[int] = (),
    averaged: bool = False,
    corrupted: bool = False,
    other: Path | None = None,
) -> Evaluation:
    """Test a run's best checkpoint.

    Args:
        data: overrides of the data, of `other` as well.
        resolutions: px to test at, beside that of the run's evaluation.
        averaged: with test-time augmentation, too.
        corrupted: under common corruptions, too.
        other: a run to hold against this one, on the same images.
    """
    show_messages()
    trained = EvaluatedRun.load(run, accelerator, trust=trust, data=data)
    tested = trained.test()
    by_resolution, by_corruption = {}, {}
    if resolutions:
        right = trained.right_at(resolutions)
        by_resolution = dict(zip(resolutions, shares_right(right), strict=True))
    if corrupted:
        found = trained.right_corrupted()
        means = shares_right(np.stack([right.mean(1) for right in found.values()], 1))
        by_corruption = {
            name: (right.mean(0).tolist(), estimate)
            for (name, right), estimate in zip(found.items(), means, strict=True)
        }
    with_views = None
    if averaged:
        views = trained.test_averaged()
        with_views = (score(views, trained.class_names), hold_against(views, tested, "the plain test"))
    against = None
    if other is not None:
        theirs = EvaluatedRun.load(other, accelerator, trust=trust, data=data).test()
        same_images(tested, theirs, (run, other))
        against = hold_against(tested, theirs, str(other))
    return Evaluation(
        score(tested, trained.class_names),
        len(tested.labels),
        trained.resolution,
        with_views,
        by_resolution,
        by_corruption,
        against,
    )


def hold_against(ours: Outcome, theirs: Outcome, name: str) -> Against:
    """Two nets on the same images: the images are resampled for both at once."""
    columns = np.stack([theirs.right, ours.right.astype(np.float64) - theirs.right], 1)
    accuracy, difference = shares_right(columns)
    return Against(name, accuracy, difference, McNemar.of(ours.right, theirs.right))
