"""Where images come from. Each function here returns `Sets`; `data.source` in conf/data names one."""

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torchvision import datasets
from torchvision.transforms.v2 import functional as vision

from crescendo.data.decoding import EXTENSIONS, read_image
from crescendo.data.sampler import Draws
from crescendo.data.transforms import Transform
from crescendo.errors import UserError, no_directory

Indices = npt.NDArray[np.int64]
PARTS = ("train", "val", "test")
DIGITS_TEST_IMAGES = 360
DIGITS_TEST_SEED = 0  # fixed: the digits' test set is the same for everybody


@dataclass(frozen=True)
class StoredImages:
    """Images of one size in memory, uint8 [N, C, H, W], and labels int64 [N]."""

    images: Tensor
    labels: Indices

    def subset(self, indices: Indices) -> "StoredImages":
        return StoredImages(self.images[torch.from_numpy(indices)], self.labels[indices])

    def batch(self, draws: Draws, transform: Transform) -> Tensor:
        return transform.stored(self.images[torch.from_numpy(draws.indices)], draws)


@dataclass(frozen=True)
class ImageFiles:
    """Image files of any size, and labels int64 [N]."""

    paths: Sequence[Path]
    labels: Indices
    in_channels: int

    def subset(self, indices: Indices) -> "ImageFiles":
        return ImageFiles([self.paths[i] for i in indices], self.labels[indices], self.in_channels)

    def batch(self, draws: Draws, transform: Transform) -> Tensor:
        images = [read_image(self.paths[i], self.in_channels) for i in draws.indices]
        return transform.decoded(images, draws)


Images = StoredImages | ImageFiles


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


def folder(root: str, in_channels: int = 3, test_fraction: float = 0.15) -> Sets:
    """A directory for each class, or train/, val/ and test/ of such directories.

    Without test/, `test_fraction` of the images is set aside, seeded and stratified; the same images
    whatever the run's seed. Without val/, the data module splits it off.
    """
    base = Path(root)
    names = class_directories(root)
    parts = {part: base / part for part in PARTS if (base / part).is_dir()} if _is_parted(base) else {}
    if not parts:
        everything = _image_files(base, names, in_channels)
        training, test = split(everything.labels, test_fraction, seed=0)
        return Sets(everything.subset(training), everything.subset(test), class_names=names)
    sets = {part: _image_files(place, names, in_channels) for part, place in parts.items()}
    if "test" not in sets:
        training, test = split(sets["train"].labels, test_fraction, seed=0)
        sets["train"], sets["test"] = sets["train"].subset(training), sets["train"].subset(test)
    return Sets(sets["train"], sets["test"], sets.get("val"), class_names=names)


def class_directories(root: str) -> list[str]:
    """The names of the class directories in `root`, or in its train/, sorted."""
    base = Path(root)
    if not base.is_dir():
        raise no_directory(base)
    base = base / "train" if _is_parted(base) else base
    names = _directories(base)
    if len(names) < 2:
        raise UserError(f"{base} holds {len(names)} class directories: at least two are needed.")
    return names


def _directories(base: Path) -> list[str]:
    return sorted(path.name for path in base.iterdir() if path.is_dir() and path.name[0] != ".")


def _is_parted(base: Path) -> bool:
    """Does it hold train/, val/ and test/ and nothing else? A class may be called train, too."""
    names = _directories(base)
    if not names or not set(names) <= set(PARTS):
        return False
    if "train" not in names:
        raise UserError(f"{base} holds {' and '.join(names)}, but no train.")
    return True


def _image_files(base: Path, names: Sequence[str], in_channels: int) -> ImageFiles:
    found = _directories(base)
    if found != list(names):
        different = sorted(set(found) ^ set(names))
        raise UserError(f"{base} and its sister directories differ in classes: {', '.join(different)}.")
    paths, labels = [], []
    for label, name in enumerate(names):
        files = sorted(path for path in (base / name).rglob("*") if _is_image_file(path))
        if not files:
            raise UserError(
                f"class {name!r} is empty: {base / name} holds no image "
                f"({', '.join(sorted(EXTENSIONS))}). Add images or remove the directory."
            )
        paths += files
        labels += [label] * len(files)
    return ImageFiles(paths, np.asarray(labels, dtype=np.int64), in_channels)


def _is_image_file(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and path.name[0] != "." and path.is_file()


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
