"""Which samples a batch holds, and at which resolution: policy travels with the batch, not beside it.

A worker is told everything that it needs with each batch, so a new stage is exact with persistent
workers and any prefetch, and no loader is ever rebuilt.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from crescendo.curriculum.schedule import Curriculum
from crescendo.randomness import permutation, seed_of

Indices = npt.NDArray[np.int64]

REPEATS = 3  # of an image where the sampler repeats (Wightman et al. 2021, arXiv:2110.00476, Table 2)


class Draws(NamedTuple):
    """One rank's share of a batch: which samples, and how they are to be seen.

    `epoch` addresses the augmentation's random numbers; None is evaluation, without augmentation.
    `randaugment` is RandAugment's magnitude. `repeats` says how often each sample was drawn before in the
    epoch, where that may be: each time it is augmented in another way.
    """

    indices: Indices
    epoch: int | None
    resolution: int
    randaugment: float = 0.0
    repeats: Indices | None = None


def balanced_order(labels: Indices, count: int, seed: int, epoch: int) -> Indices:
    """`count` indices, shuffled, of each class equally many or one more: a function of (seed, epoch).

    A class with fewer images than that goes through all of them before one comes again; of one with more,
    each epoch draws others.
    """
    generator = np.random.Generator(np.random.Philox(seed_of(seed, epoch)))
    sizes = np.unique_counts(labels).counts
    classes = np.split(labels.argsort(kind="stable"), sizes.cumsum()[:-1])
    shares = np.full(len(classes), count // len(classes))
    shares[generator.permutation(len(classes))[: count % len(classes)]] += 1
    drawn = []
    for images, share in zip(classes, shares, strict=True):
        passes = -(-share // len(images))
        drawn.append(generator.permuted(np.tile(images, (passes, 1)), axis=1).ravel()[:share])
    return generator.permutation(np.concatenate(drawn))


def repeated_order(size: int, count: int, seed: int, epoch: int) -> Indices:
    """`count` indices, each image REPEATS times in a row, of a third of the images: others in each epoch.

    Repeated augmentation (Hoffer et al. 2019, arXiv:1901.09335; Berman et al. 2019, arXiv:1902.05509): the
    gradients of one image in several augmentations meet in one step.
    """
    drawn = permutation(seed, epoch, size)[: -(-count // REPEATS)]
    return np.repeat(drawn, REPEATS)[:count]


def repeats(order: Indices) -> Indices:
    """How often each entry of `order` came before it, in its shape."""
    flat = order.ravel()
    by_index = flat.argsort(kind="stable")
    firsts, counts = np.unique(flat[by_index], return_index=True, return_counts=True)[1:]
    numbers = np.empty_like(flat)
    numbers[by_index] = np.arange(len(flat)) - np.repeat(firsts, counts)
    return numbers.reshape(order.shape)


class TrainingSampler:
    """Batches of an epoch's permutation, shared out over the ranks.

    The permutation is a function of (seed, epoch), a global batch is the same on any number of
    devices, and each rank takes every `ranks`-th sample of it. The last incomplete global batch is
    left out: other samples in each epoch.

    Args:
        size: number of training images.
        batch_size: images per optimizer step, over all devices.
        parts: pieces that a global batch is processed in (gradient accumulation).
        balance: the images' labels: an epoch draws each of their classes equally often, in as many batches.
        repeat: an epoch draws a third of the images, each three times in a row, in as many batches.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        curriculum: Curriculum,
        seed: int,
        *,
        parts: int = 1,
        rank: int = 0,
        ranks: int = 1,
        balance: Indices | None = None,
        repeat: bool = False,
    ) -> None:
        self.size, self.batch_size, self.parts = size, batch_size, parts
        self.balance, self.repeat = balance, repeat
        self.curriculum, self.seed = curriculum, seed
        self.rank, self.ranks = rank, ranks
        self.epoch = 0
        self._done = (0, 0)

    @property
    def sampler(self) -> "TrainingSampler":
        """Where Lightning looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def go_on(self, epoch: int, batches: int) -> None:
        """Begin with `epoch`, whose first `batches` were trained on already: they are not drawn again."""
        self.epoch, self._done = epoch, (epoch, batches)

    def __len__(self) -> int:
        """Batches of a whole epoch, whatever was done of it."""
        return self.size // self.batch_size * self.parts

    def batches(self, epoch: int) -> Indices:
        """The indices of an epoch's batches over all ranks, [batches, images]."""
        count = self.size // self.batch_size * self.batch_size
        if self.balance is not None:
            order = balanced_order(self.balance, count, self.seed, epoch)
        elif self.repeat:
            order = repeated_order(self.size, count, self.seed, epoch)
        else:
            order = permutation(self.seed, epoch, self.size)[:count]
        return order.reshape(len(self), -1)

    def __iter__(self) -> Iterator[Draws]:
        if self.epoch == self.curriculum.epochs:
            return  # a training that is done, of which the test is left
        stage = self.curriculum.at(self.epoch)
        magnitude = stage.knobs.get("randaugment", 0.0)
        epoch, done = self._done
        share = slice(self.rank, None, self.ranks)
        batches = self.batches(self.epoch)
        again = repeats(batches) if self.repeat or self.balance is not None else None
        for number in range(done if self.epoch == epoch else 0, len(batches)):
            before = None if again is None else again[number, share]
            yield Draws(batches[number, share], self.epoch, stage.resolution, magnitude, before)


class EvaluationSampler:
    """Every sample once, in order, over the ranks: nothing is padded, so nothing counts twice."""

    def __init__(self, size: int, batch_size: int, resolution: int, *, rank: int = 0, ranks: int = 1) -> None:
        self.indices = np.arange(rank, size, ranks)
        self.batch_size, self.resolution = batch_size, resolution

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[Draws]:
        for start in range(0, len(self.indices), self.batch_size):
            yield Draws(self.indices[start : start + self.batch_size], None, self.resolution)
