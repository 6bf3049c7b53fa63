"""What a test got wrong: by class, by pair of classes, and image by image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from crescendo.answers import Answers

MOST_CLASSES = 100  # of a confusion matrix that is drawn, and rows of a table of classes
MOST_PAIRS = 10
SHOWN = 18  # images of each gallery


class Pair(NamedTuple):
    """A mistake that is made often: true class, answer, share of the true class's images."""

    label: str
    answer: str
    share: float


class ClassResult(NamedTuple):
    """How a class's test images were answered.

    Attributes:
        accuracy: share of its images that was right.
        precision: share of right ones among its answers; None where it is never the answer.
        taken_for: the most frequent wrong answer, and its share of the class's images; None without mistakes.
    """

    name: str
    images: int
    accuracy: float
    precision: float | None
    taken_for: tuple[str, float] | None


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix: numbers of test images, of one run or added up over several; rows are true."""

    names: Sequence[str]
    counts: npt.NDArray[np.int64]

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """Of each true class's images."""
        return self.counts / np.maximum(self.counts.sum(1, keepdims=True), 1)

    @property
    def accuracies(self) -> dict[str, float]:
        known = zip(self.names, self.counts.sum(1), self.shares.diagonal(), strict=True)
        return {name: float(share) for name, images, share in known if images}

    def pairs(self, most: int = MOST_PAIRS) -> list[Pair]:
        """The most frequent mistakes."""
        shares = self._wrong
        pairs = []
        for place in np.argsort(-shares, axis=None, kind="stable")[:most]:
            true, answer = np.unravel_index(place, shares.shape)
            pairs.append(Pair(self.names[true], self.names[answer], float(shares[true, answer])))
        return [pair for pair in pairs if pair.share > 0]

    def classes(self) -> list[ClassResult]:
        """Each class with test images, the one with the lowest accuracy first."""
        images, answered, wrong = self.counts.sum(1), self.counts.sum(0), self._wrong
        results = []
        for label, name in enumerate(self.names):
            if images[label]:
                right, other = int(self.counts[label, label]), int(wrong[label].argmax())
                share = float(wrong[label, other])
                results.append(
                    ClassResult(
                        name,
                        int(images[label]),
                        right / int(images[label]),
                        right / int(answered[label]) if answered[label] else None,
                        (self.names[other], share) if share else None,
                    )
                )
        return sorted(results, key=lambda result: result.accuracy)

    @property
    def _wrong(self) -> npt.NDArray[np.float64]:
        return self.shares - np.diag(self.shares.diagonal())


def surest_mistakes(tested: Sequence[Answers], most: int = SHOWN) -> list[tuple[int, list[float]]]:
    """The images with the largest mean probability of what they are not, over runs that share their test set.

    Returns:
        Of each its place in the answers, and every run's probability of its answer: 0 where it is right.
    """
    sure = np.stack([np.where(mine.wrong, mine.probabilities, 0.0) for mine in tested])
    order = np.argsort(-sure.mean(0), kind="stable")[:most]
    return [(int(at), sure[:, at].tolist()) for at in order if sure[:, at].any()]
