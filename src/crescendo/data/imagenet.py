"""ImageNet's 1,000 classes (Russakovsky et al. 2015, arXiv:1409.0575) as its publishers lay it out."""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from crescendo.data.folders import PARTS, Labelled, class_directories, file_sets
from crescendo.data.images import Sets
from crescendo.data.index import load_index
from crescendo.data.listing import FileIndex
from crescendo.errors import UserError, no_directory

DEVKIT = Path("ILSVRC2012_devkit_t12")
META = DEVKIT / "data" / "meta.mat"
GROUND_TRUTH = DEVKIT / "data" / "ILSVRC2012_validation_ground_truth.txt"
SYNSETS = Path("LOC_synset_mapping.txt")
SOLUTION = Path("LOC_val_solution.csv")
SYNSET = re.compile(r"n\d{8}")  # WordNet's number of a noun
TRAIN, TEST = PARTS.index("train"), PARTS.index("test")


def imagenet(root: str, in_channels: int = 3) -> Sets:
    """train/<synset>/*.JPEG, and val/<synset>/*.JPEG or val/*.JPEG with the publishers' labels.

    The publishers' validation images are the test: ImageNet's own test labels are not public. What a run
    validates on is split off the training images. Labels of a flat val/ come from the unpacked devkit
    (`ILSVRC2012_devkit_t12` in root) or from the localisation challenge's `LOC_val_solution.csv`; names of
    classes from the devkit or `LOC_synset_mapping.txt`, else they are the synsets.

    Raises:
        UserError: train/ or val/ is not there, or val/ is flat and its labels cannot be found.
    """
    index = load_index(Path(root), progress=True)
    return file_sets(index, label_imagenet(index), in_channels, test_fraction=0.0)


def is_imagenet(root: Path) -> bool:
    """Are there labels that only the publishers' layout has, or synsets below train/ and val/ alone?"""
    if any((root / name).exists() for name in (GROUND_TRUTH, SOLUTION)):
        return True
    parts = [root / "train", root / "val"]
    if (root / "test").exists() or not all(part.is_dir() for part in parts):
        return False
    names = {path.name for part in parts for path in part.iterdir() if path.is_dir()}
    return bool(names) and all(SYNSET.fullmatch(name) for name in names)


def label_imagenet(index: FileIndex) -> Labelled:
    """Files by their synsets.

    Raises:
        UserError: as `imagenet`.
    """
    root = index.root
    for part in ("train", "val"):
        if not (root / part).is_dir():
            raise no_directory(root / part)
    synsets = class_directories(str(root / "train"))
    label_of = {synset: label for label, synset in enumerate(synsets)}
    parts, labels = np.full(len(index), -1, np.int8), np.zeros(len(index), np.int32)
    flat: Mapping[str, str] | None = None
    for place, parent in enumerate(index.directories.all()):
        part, *below = Path(parent).parts or (".",)
        files = slice(*np.searchsorted(index.directory_of, (place, place + 1)))
        if part in ("train", "val") and below and below[0] in label_of:
            parts[files] = TRAIN if part == "train" else TEST
            labels[files] = label_of[below[0]]
        elif part == "val" and not below and files.start < files.stop:
            flat = _validation_synsets(root)
            for file in range(files.start, files.stop):
                synset = flat.get(Path(index.names.name(file)).stem)
                if synset in label_of:
                    parts[file], labels[file] = TEST, label_of[synset]
    if not (parts == TEST).any():
        raise UserError(f"{root / 'val'} holds no image of the {len(synsets)} classes of {root / 'train'}.")
    return Labelled(parts, labels, class_names(root, synsets))


def class_names(root: Path, synsets: Sequence[str]) -> list[str]:
    """The first word for each synset, where the publishers' files are there to tell; else the synset."""
    words: dict[str, str] = {}
    if (root / META).exists():
        words = {synset: word for _, synset, word in _read_meta(root / META)}
    elif (root / SYNSETS).exists():
        lines = (root / SYNSETS).read_text(encoding="utf-8").splitlines()
        words = dict(line.split(" ", 1) for line in lines if " " in line)
    names = [words.get(synset, synset).split(",")[0] for synset in synsets]
    # two kinds of crane and two maillots: a name that is not unique says which
    return [
        f"{name} ({synset})" if names.count(name) > 1 else name
        for name, synset in zip(names, synsets, strict=True)
    ]


def _validation_synsets(root: Path) -> dict[str, str]:
    """The synset of each validation image, by its file name without extension."""
    if (root / SOLUTION).exists():
        with (root / SOLUTION).open(newline="", encoding="utf-8") as file:
            return {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(file)}
    if (root / GROUND_TRUTH).exists() and (root / META).exists():
        synset_of = {number: synset for number, synset, _ in _read_meta(root / META)}
        numbers = (root / GROUND_TRUTH).read_text().split()
        return {
            f"ILSVRC2012_val_{image:08}": synset_of[int(number)] for image, number in enumerate(numbers, 1)
        }
    raise UserError(
        f"{root / 'val'} is flat, and its labels are not there: unpack {DEVKIT}.tar.gz in {root}, "
        f"put {SOLUTION} there, or move the images into a directory for each synset."
    )


def _read_meta(path: Path) -> list[tuple[int, str, str]]:
    """Number, synset and words of the classes; the numbers are the publishers', 1 to 1000."""
    synsets = loadmat(path, squeeze_me=True)["synsets"]
    return [
        (int(row["ILSVRC2012_ID"]), str(row["WNID"]), str(row["words"]))
        for row in synsets
        if int(row["num_children"]) == 0
    ]
