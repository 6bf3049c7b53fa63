"""How good a net's answers on test images are, and how sure that is: over the images, by bootstrap."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from crescendo.analysis.uncertainty import bootstrap

BINS = 15  # of confidence: On Calibration of Modern Neural Networks.  Guo et al., 2017.  arXiv:1706.04599
Floats = npt.NDArray[np.float64]


class Outcome(NamedTuple):
    """A test: log probabilities float32 [N, classes] and labels int64 [N], in the order of the images."""

    log_probabilities: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    @property
    def answers(self) -> npt.NDArray[np.int64]:
        return self.log_probabilities.argmax(1)

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        return self.answers == self.labels


class Estimate(NamedTuple):
    """A value of all test images and both ends of its 95% bootstrap interval; None where it has none."""

    value: float
    low: float | None
    high: float | None


class Bin(NamedTuple):
    """Images whose answers are about as sure: their mean confidence and accuracy."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Scores:
    """Of one test.

    Attributes:
        metrics: by the name that summary.json has. The calibration error (15 bins of confidence) has no
            interval: a resampled bin is noisier than its original, so that resampled errors are too large.
        classes: accuracy of each class with test images.
        calibration: the bins that hold images.
    """

    metrics: Mapping[str, Estimate]
    classes: Mapping[str, Estimate]
    calibration: Sequence[Bin]


def score(tested: Outcome, class_names: Sequence[str]) -> Scores:
    """All scores, with intervals from the same 1,000 resamplings of the images."""
    labels, right = tested.labels, tested.right
    classes = len(class_names)
    losses = -np.take_along_axis(tested.log_probabilities, labels[:, None], 1)[:, 0].astype(np.float64)
    first = np.argsort(-tested.log_probabilities, axis=1, kind="stable")[:, : min(5, classes)]
    in_first = (first == labels[:, None]).any(1)
    of_images = np.stack([losses, right, in_first], 1)

    def statistics(chosen: npt.NDArray[np.int64]) -> Floats:
        images = np.bincount(labels[chosen], minlength=classes)
        correct = np.bincount(labels[chosen][right[chosen]], minlength=classes)
        shares = np.full(classes, np.nan)
        np.divide(correct, images, out=shares, where=images > 0)
        return np.concatenate((of_images[chosen].mean(0), shares))

    values = statistics(np.arange(len(labels)))
    low, high = bootstrap(statistics, len(labels))
    estimates = [Estimate(*map(float, ends)) for ends in zip(values, low, high, strict=True)]
    calibration_error = multiclass_calibration_error(
        torch.from_numpy(np.exp(tested.log_probabilities)), torch.from_numpy(labels), classes, n_bins=BINS
    )
    metrics = dict(zip(("test/loss", "test/accuracy", "test/accuracy_top5"), estimates[:3], strict=True))
    metrics["test/calibration_error"] = Estimate(float(calibration_error), None, None)
    of_classes = zip(class_names, estimates[3:], strict=True)
    return Scores(
        metrics,
        {name: estimate for name, estimate in of_classes if not np.isnan(estimate.value)},
        calibration_bins(tested),
    )


def calibration_bins(tested: Outcome) -> list[Bin]:
    """Equally wide bins of confidence, without the empty ones."""
    confidences = np.exp(tested.log_probabilities.max(1).astype(np.float64))
    numbers = np.minimum((confidences * BINS).astype(np.int64), BINS - 1)
    bins = []
    for number in np.unique(numbers):
        inside = numbers == number
        bins.append(
            Bin(
                number / BINS,
                (number + 1) / BINS,
                int(inside.sum()),
                float(confidences[inside].mean()),
                float(tested.right[inside].mean()),
            )
        )
    return bins


def shares_right(columns: npt.NDArray[np.float64]) -> list[Estimate]:
    """The mean of each column [images, columns] with its interval: columns are resampled together."""
    low, high = bootstrap(lambda chosen: columns[chosen].mean(0), len(columns))
    return [Estimate(*map(float, ends)) for ends in zip(columns.mean(0), low, high, strict=True)]
