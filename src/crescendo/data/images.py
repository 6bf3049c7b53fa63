"""Labelled images, in memory or in files, that hand out batches of draws; and how they are split."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from crescendo.data.boxes import Box, Pixels, Size
from crescendo.data.decoding import ImageError, read_content, read_header, read_region
from crescendo.data.listing import FileIndex
from crescendo.data.loading import as_it_is
from crescendo.data.sampler import Draws
from crescendo.data.transforms import Transform
from crescendo.errors import UserError

Indices = npt.NDArray[np.int64]


class Images(Protocol):
    """Images and their labels, int64 [N]."""

    @property
    def labels(self) -> Indices: ...

    def subset(self, indices: Indices) -> "Images": ...

    def batch(self, draws: Draws, transform: Transform) -> Tensor:
        """uint8 [n, C, R, R]. Raises ImageError for an image that cannot be read; it tells the index."""
        ...

    def name(self, index: int) -> str:
        """Where a user finds the image."""
        ...

    def faults(self) -> dict[int, str]:
        """What is known of images that cannot be read: reasons by index."""
        ...


@dataclass(frozen=True)
class StoredImages:
    """Images of one size in memory, uint8 [N, C, H, W], and labels int64 [N]."""

    images: Tensor
    labels: Indices

    def subset(self, indices: Indices) -> "StoredImages":
        return StoredImages(self.images[torch.from_numpy(indices)], self.labels[indices])

    def batch(self, draws: Draws, transform: Transform) -> Tensor:
        return transform.stored(self.images[torch.from_numpy(draws.indices)], draws)

    def name(self, index: int) -> str:
        return f"image {index}"

    def faults(self) -> dict[int, str]:
        return {}


@dataclass(frozen=True)
class IndexedImages(ABC):
    """Images of any size that an index describes.

    Attributes:
        index: of a directory.
        places: the index's entries that are meant, int64 [N].
        labels: int64 [N].
    """

    index: FileIndex
    places: Indices
    labels: Indices
    in_channels: int

    def subset(self, indices: Indices) -> Self:
        return replace(self, places=self.places[indices], labels=self.labels[indices])

    def batch(self, draws: Draws, transform: Transform) -> Tensor:
        return transform.read(self, draws)

    def size(self, index: int) -> Size:
        place = int(self.places[index])
        if place in self.index.faults:
            raise ImageError(self.index.faults[place])
        return int(self.index.widths[place]), int(self.index.heights[place])

    @abstractmethod
    def region(self, index: int, box: Box, size: Size, *, fast: bool) -> Pixels: ...

    @abstractmethod
    def name(self, index: int) -> str: ...

    def faults(self) -> dict[int, str]:
        return self.index.faults_of(self.places)


class ImageFiles(IndexedImages):
    """Images that are files, decoded when they are drawn."""

    def region(self, index: int, box: Box, size: Size, *, fast: bool) -> Pixels:
        content = read_content(self.index.path(int(self.places[index])))
        return read_region(content, box, size, self.in_channels, self.size(index), fast=fast)

    def name(self, index: int) -> str:
        return str(self.index.path(int(self.places[index])))


@dataclass(frozen=True)
class GivenFiles:
    """A few image files, to be looked at without labels."""

    paths: Sequence[Path]
    in_channels: int

    def size(self, index: int) -> Size:
        return read_header(self.paths[index])[:2]

    def region(self, index: int, box: Box, size: Size, *, fast: bool) -> Pixels:
        return read_region(
            read_content(self.paths[index]), box, size, self.in_channels, self.size(index), fast=fast
        )

    def batches(
        self, transform: Transform, resolution: int, size: int, num_workers: int = 0
    ) -> Iterator[Tensor]:
        """All of them as evaluation sees them, in order, uint8 [n, C, R, R] with n = `size` or fewer.

        Args:
            num_workers: processes that load, where there is more than one batch.

        Raises:
            UserError: a file cannot be read; names it and the reason.
        """
        everything = np.arange(len(self.paths))
        draws = [
            Draws(everything[start : start + size], None, resolution)
            for start in range(0, len(everything), size)
        ]
        loader = DataLoader(
            _Reader(self, transform),
            batch_sampler=draws,  # type: ignore[arg-type]  # draws are lists of samples to our datasets alone
            collate_fn=as_it_is,
            num_workers=num_workers if len(draws) > 1 else 0,
        )
        for read in loader:
            if isinstance(read, UserError):
                raise read
            yield read


class _Reader(Dataset[Any]):
    """Reads draws of files; a file that cannot be read is handed over as the mistake that it is."""

    def __init__(self, files: GivenFiles, transform: Transform) -> None:
        self.files, self.transform = files, transform

    def __getitems__(self, draws: Draws) -> Tensor | UserError:
        try:
            return self.transform.read(self.files, draws)
        except ImageError as error:
            return UserError(f"{self.files.paths[error.index]}: {error}.")


@dataclass(frozen=True)
class Sets:
    """The images of a data set. `validation` is None where the publishers give none.

    `class_names` is None where a data set's yaml gives them.
    """

    training: Images
    test: Images
    validation: Images | None = None
    class_names: Sequence[str] | None = None


def split(labels: Indices, share: float | int, seed: int) -> tuple[Indices, Indices]:
    """Two disjoint, seeded, stratified sets of indices; the second has `share` of all (or so many)."""
    everything = np.arange(len(labels))
    try:
        first, second = train_test_split(everything, test_size=share, random_state=seed, stratify=labels)
    except ValueError as error:
        raise UserError(
            f"{len(labels)} images of {len(np.unique(labels))} classes cannot be split by {share}: {error}"
        ) from error
    return np.sort(first), np.sort(second)


def stratified_share(labels: Indices, share: float, seed: int) -> Indices:
    """Seeded indices of `share` of each class's samples, at least one of each, sorted."""
    order = np.random.default_rng(seed).permutation(len(labels))
    kept = [
        own[: max(1, round(share * len(own)))]
        for own in (order[labels[order] == label] for label in np.unique(labels))
    ]
    return np.sort(np.concatenate(kept))
