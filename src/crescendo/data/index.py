"""The index of an image directory, kept on disk beside the images.

Crop boxes are drawn before anything is decoded, so the size of every image has to be known. Reading 1.3
million headers takes minutes: it is done once, by several processes, and again only for what has changed. A
directory whose time has changed is noticed when an index is loaded; a file that was replaced in place is
noticed by `refresh`, or when it is drawn.
"""

import hashlib
import os
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from crescendo.data.listing import FileIndex, Names, index_files
from crescendo.errors import UserError
from crescendo.storage import whole_file

VERSION = 1
ARRAYS = ("directory_times", "directory_of", "widths", "heights", "sizes", "times")
PLACE = Path(".crescendo") / "index.npz"  # below the directory


def load_index(root: Path, *, progress: bool = False) -> FileIndex:
    """The index of `root`, from disk if it is there and current, else made and saved.

    Raises:
        UserError: root is not a directory.
    """
    saved = read_index(root)
    return saved if saved is not None and saved.is_current() else refresh(root, saved, progress=progress)


def refresh(root: Path, known: FileIndex | None = None, *, progress: bool = False) -> FileIndex:
    """List the files of `root` anew and save the index; headers are read where names, bytes or times differ.

    Raises:
        UserError: root is not a directory.
    """
    if root.is_dir():
        with suppress(OSError):  # then the index goes to the user's cache
            (root / PLACE).parent.mkdir(exist_ok=True)  # which changes the time of the root
    index = index_files(root, known, progress=progress)
    save_index(index)
    return index


def read_index(root: Path) -> FileIndex | None:
    """What is on disk of `root`'s index, current or not; None if there is nothing that can be used."""
    for path in index_places(root):
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                if int(stored["version"]) == VERSION:
                    return from_arrays(root, dict(stored))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            continue  # not there, or damaged: it is made again
    return None


def save_index(index: FileIndex) -> Path:
    """Write the index below its root, or in the user's cache if that cannot be written; says where.

    Raises:
        UserError: neither can be written.
    """
    beside, cached = index_places(index.root)
    try:
        beside.parent.mkdir(exist_ok=True)
        return _write(beside, index)
    except OSError:
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            return _write(cached, index)
        except OSError as error:
            raise UserError(
                f"the index of {index.root} can be written neither to {beside} nor to {cached}: {error}"
            ) from error


def _write(path: Path, index: FileIndex) -> Path:
    with whole_file(path) as file:
        np.savez(file, allow_pickle=False, **to_arrays(index))
    return path


def to_arrays(index: FileIndex) -> dict[str, Any]:
    """What np.savez writes of an index."""
    arrays = {name: getattr(index, name) for name in ARRAYS}
    names = {
        "directories": index.directories,
        "names": index.names,
        "faults": Names.of([*index.faults.values()]),
    }
    for kind, strings in names.items():
        arrays |= {f"{kind}_text": strings.text, f"{kind}_ends": strings.ends}
    return arrays | {"fault_places": np.array([*index.faults], dtype=np.int64), "version": np.int64(VERSION)}


def from_arrays(root: Path, stored: dict[str, Any]) -> FileIndex:
    """The index that `to_arrays` gave. Raises KeyError where an array is missing."""
    directories, names, reasons = (
        Names(stored[f"{kind}_text"], stored[f"{kind}_ends"]) for kind in ("directories", "names", "faults")
    )
    faults = dict(zip(stored["fault_places"].tolist(), reasons.all(), strict=True))
    arrays = {name: stored[name] for name in ARRAYS}
    return FileIndex(root=root, directories=directories, names=names, faults=faults, **arrays)


def index_places(root: Path) -> tuple[Path, Path]:
    """Where the index of `root` may be: beside its images, or in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    address = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    return root / PLACE, cache / "crescendo" / f"{address}.npz"
