"""Data sets of image files: a directory for each class. `data.source` in conf/data names a function here."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from crescendo.data.decoding import EXTENSIONS
from crescendo.data.images import ImageFiles, Images, Indices, Sets, split
from crescendo.data.index import load_index
from crescendo.data.listing import FileIndex
from crescendo.errors import UserError, no_directory

PARTS = ("train", "val", "test")


class Labelled(NamedTuple):
    """What the files of an index are images of.

    Attributes:
        parts: of each file, its place in PARTS; -1 for a file that belongs to none.
        labels: of each file, its place in `class_names`.
    """

    parts: npt.NDArray[np.int8]
    labels: npt.NDArray[np.int32]
    class_names: Sequence[str]


def folder(root: str, in_channels: int = 3, test_fraction: float = 0.15) -> Sets:
    """A directory for each class, or train/, val/ and test/ of such directories.

    Without test/, `test_fraction` of the images is set aside, seeded and stratified; the same images
    whatever the run's seed. Without val/, the data module splits it off.

    Raises:
        UserError: there are fewer than two classes, an empty one, or other ones in train/ than beside it.
    """
    index = load_index(Path(root), progress=True)
    return file_sets(index, label_by_directory(index), in_channels, test_fraction)


def file_sets(index: FileIndex, labelled: Labelled, in_channels: int, test_fraction: float) -> Sets:
    """The files of an index, decoded when they are drawn."""
    return make_sets(
        labelled, lambda places, labels: ImageFiles(index, places, labels, in_channels), test_fraction
    )


def make_sets(
    labelled: Labelled, images_of: Callable[[Indices, Indices], Images], test_fraction: float
) -> Sets:
    """Training, validation and test images; without test images, `test_fraction` of the training's are."""

    def part(name: str) -> Images:
        places = np.flatnonzero(labelled.parts == PARTS.index(name))
        return images_of(places, labelled.labels[places].astype(np.int64))

    training, validation, test = part("train"), part("val"), part("test")
    if not len(test.labels):
        kept, set_aside = split(training.labels, test_fraction, seed=0)
        training, test = training.subset(kept), training.subset(set_aside)
    return Sets(training, test, validation if len(validation.labels) else None, labelled.class_names)


def label_by_directory(index: FileIndex) -> Labelled:
    """Files by the class directories that they lie in, at any depth.

    Raises:
        UserError: as `folder`.
    """
    names = class_directories(str(index.root))
    label_of = {name: label for label, name in enumerate(names)}
    parted = _is_parted(index.root)
    parents = index.directories.all()
    parts, labels = np.full(len(parents), -1, np.int8), np.zeros(len(parents), np.int32)
    for place, parent in enumerate(parents):
        steps = Path(parent).parts
        part, steps = (steps[0], steps[1:]) if parted and steps else ("train", steps)
        if steps and steps[0] in label_of:
            parts[place], labels[place] = PARTS.index(part), label_of[steps[0]]
    found = Labelled(parts[index.directory_of], labels[index.directory_of], names)
    for part in [part for part in PARTS if (index.root / part).is_dir()] if parted else ["train"]:
        _check_classes(index.root / part if parted else index.root, names, found, PARTS.index(part))
    return found


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


def _check_classes(base: Path, names: Sequence[str], found: Labelled, part: int) -> None:
    """Each part has each class, and an image of it."""
    others = _directories(base)
    if others != list(names):
        different = sorted(set(others) ^ set(names))
        raise UserError(f"{base} and its sister directories differ in classes: {', '.join(different)}.")
    counts = np.bincount(found.labels[found.parts == part], minlength=len(names))
    for name in [name for name, count in zip(names, counts, strict=True) if not count][:1]:
        raise UserError(
            f"class {name!r} is empty: {base / name} holds no image "
            f"({', '.join(sorted(EXTENSIONS))}). Add images or remove the directory."
        )
