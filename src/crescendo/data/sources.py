"""Data sets that fit into memory. Each function returns `Sets`; `data.source` in conf/data names one."""

import gzip
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from torchvision import datasets
from torchvision.transforms.v2 import functional as vision

from crescendo.data.images import Sets, StoredImages, split
from crescendo.errors import UserError

DIGITS_TEST_IMAGES = 360
DIGITS_TEST_SEED = 0  # fixed: the digits' test set is the same for everybody


def digits() -> Sets:
    """UCI handwritten digits (Alpaydin & Kaynak 1998), from scikit-learn: 1,437 + 360 of 8 x 8 px."""
    bunch = load_digits()
    pixels = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))[:, None]
    everything = StoredImages(pixels, bunch.target.astype(np.int64))
    training, test = split(everything.labels, DIGITS_TEST_IMAGES, DIGITS_TEST_SEED)
    return Sets(everything.subset(training), everything.subset(test))


def idx_images(name: str, root: str, download: bool = False) -> Sets:
    """MNIST's four idx files, plain or gzipped, in `root` or where torchvision keeps them.

    Args:
        name: "MNIST" or "FashionMNIST", torchvision's names.
        root: a directory with train-images-idx3-ubyte[.gz] and so on, or torchvision's root.
        download: let torchvision fetch what is missing.
    """
    if download:
        _torchvision_set(name, root, train=True, download=True)
    places = [Path(root), Path(root) / name / "raw"]
    place = next((place for place in places if _idx_file(place, "train-images-idx3-ubyte")), None)
    if place is None:
        raise UserError(
            f"data.root={root} has no {name}: train-images-idx3-ubyte[.gz] is neither there nor in "
            f"{places[1]}. Give the directory that holds it, or data.download=true."
        )
    return Sets(_idx_part(place, "train"), _idx_part(place, "t10k"))


def _idx_part(place: Path, part: str) -> StoredImages:
    images = _read_idx(place, f"{part}-images-idx3-ubyte")
    labels = _read_idx(place, f"{part}-labels-idx1-ubyte")
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise UserError(
            f"{place}: {part}-images has shape {images.shape} and {part}-labels {labels.shape}; "
            f"they should be (N, height, width) and (N,)."
        )
    return StoredImages(torch.from_numpy(images)[:, None], labels.astype(np.int64))


def _idx_file(place: Path, stem: str) -> Path | None:
    return next((path for path in (place / stem, place / f"{stem}.gz") if path.is_file()), None)


def _read_idx(place: Path, stem: str) -> npt.NDArray[np.uint8]:
    """An idx file: two zero bytes, type 8 (uint8), number of axes, big-endian sizes, values."""
    path = _idx_file(place, stem)
    if path is None:
        raise UserError(f"{place} has no {stem}[.gz]: the data set is incomplete.")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if content[:3] != b"\0\0\x08":
            raise ValueError("it is not an idx file of bytes")
        axes = content[3]
        shape = np.frombuffer(content, dtype=">i4", count=axes, offset=4)
        return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * axes).reshape(shape).copy()
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def cifar(name: str, root: str, download: bool = False) -> Sets:
    """CIFAR10 or CIFAR100 by torchvision's reader (checked against the publisher's md5 sums)."""
    parts = [_torchvision_set(name, root, train=train, download=download) for train in (True, False)]
    training, test = (
        StoredImages(
            torch.from_numpy(part.data).permute(0, 3, 1, 2),
            np.asarray(part.targets, dtype=np.int64),
        )
        for part in parts
    )
    return Sets(training, test, class_names=parts[0].classes)


def _torchvision_set(name: str, root: str, *, train: bool, download: bool) -> datasets.CIFAR10:
    try:
        return getattr(datasets, name)(root, train=train, download=download)
    except (RuntimeError, OSError) as error:
        hint = "Check the network." if download else "Give its directory, or data.download=true."
        raise UserError(f"data.root={root} has no complete {name}. {hint} ({error})") from error


def synthetic(samples: int, resolution: int, num_classes: int, in_channels: int) -> Sets:
    """Images with structure that can be learnt, the same on every machine.

    A class is a smooth random pattern; an image is that pattern rolled by up to an eighth of the
    side, times a contrast in 0.5 .. 1, under noise.
    """
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(num_classes, in_channels, 5, 5, generator=generator)
    patterns = vision.resize(coarse, [resolution, resolution], antialias=True)

    def draw(count: int) -> StoredImages:
        labels = torch.arange(count) % num_classes
        reach = resolution // 8
        rolls = torch.randint(-reach, reach + 1, (count, 2), generator=generator)
        contrast = 0.5 + torch.rand(count, generator=generator) / 2
        images = torch.empty(count, in_channels, resolution, resolution, dtype=torch.uint8)
        for i in range(count):
            pattern = patterns[labels[i]].roll(rolls[i].tolist(), dims=(1, 2))
            noise = 0.1 * torch.randn(pattern.shape, generator=generator)
            images[i] = ((0.5 + contrast[i] * (pattern - 0.5) + noise) * 255).clamp_(0, 255)
        return StoredImages(images, labels.numpy())

    return Sets(draw(samples), draw(max(samples // 4, 2 * num_classes)))
