"""What an image directory holds: its files, and what their headers say."""

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rich.progress import track

from crescendo.data.decoding import EXTENSIONS, ImageError, read_header
from crescendo.errors import UserError, no_directory

FEW = 2000  # files that are not worth starting processes for
CHUNK = 500  # files that a process is given at once

Integers = npt.NDArray[np.int64]


class Names(NamedTuple):
    """Many strings without an object for each: UTF-8 one behind the other, and where each ends."""

    text: npt.NDArray[np.uint8]
    ends: Integers

    @classmethod
    def of(cls, names: Sequence[str]) -> "Names":
        encoded = [os.fsencode(name) for name in names]
        ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def name(self, place: int) -> str:
        start = self.ends[place - 1] if place else 0
        return os.fsdecode(self.text[start : self.ends[place]].tobytes())

    def all(self) -> list[str]:
        text, start, names = self.text.tobytes(), 0, []
        for end in self.ends.tolist():
            names.append(os.fsdecode(text[start:end]))
            start = end
        return names


def printable(name: str) -> str:
    """A name of any bytes, for a terminal."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class FileIndex:
    """The image files below `root`, by directory and name.

    Attributes:
        directories: names relative to root, "." for itself.
        directory_times: when each last gained, lost or renamed an entry, in ns.
        directory_of: of each file, its place in `directories`, ascending.
        names: of the files in their directories.
        widths, heights: in px, upright; 0 if the header could not be read.
        sizes: in bytes.
        times: when each was last written, in ns.
        faults: reasons, by the place of a file whose header could not be read.
    """

    root: Path
    directories: Names
    directory_times: Integers
    directory_of: npt.NDArray[np.int32]
    names: Names
    widths: npt.NDArray[np.int32]
    heights: npt.NDArray[np.int32]
    sizes: Integers
    times: Integers
    faults: dict[int, str]

    def __len__(self) -> int:
        return len(self.names)

    def path(self, place: int) -> Path:
        return self.root / self.name(place)

    def name(self, place: int) -> str:
        """Relative to root, as a user would write it."""
        return str(Path(self.directories.name(self.directory_of[place]), self.names.name(place)))

    def faults_of(self, places: Integers) -> dict[int, str]:
        """The faults among the files at `places`, by their position there."""
        if not self.faults:
            return {}
        known = np.isin(places, list(self.faults))
        return {int(position): self.faults[int(places[position])] for position in np.flatnonzero(known)}

    def is_current(self) -> bool:
        """A cheap look: has any directory gained, lost or renamed an entry?"""
        for name, time in zip(self.directories.all(), self.directory_times.tolist(), strict=True):
            try:
                if os.stat(self.root / name).st_mtime_ns != time:
                    return False
            except OSError:
                return False
        return True

    def digest(self) -> str:
        """Tells sets of files apart: names, bytes, and times of change."""
        digest = hashlib.sha256()
        for array in (*self.directories, *self.names, self.directory_of, self.sizes, self.times):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]


def index_files(root: Path, known: FileIndex | None = None, *, progress: bool = False) -> FileIndex:
    """List the image files of `root` and read their headers, or take what `known` has of them.

    Raises:
        UserError: root is not a directory.
    """
    if not root.is_dir():
        raise no_directory(root)
    directories, files = _list_files(root)
    names = [name for _, name, _, _ in files]
    directory_of = np.array([directory for directory, *_ in files], dtype=np.int32)
    sizes = np.array([size for *_, size, _ in files], dtype=np.int64)
    times = np.array([time for *_, time in files], dtype=np.int64)
    extents = np.zeros((len(files), 2), dtype=np.int32)
    faults: dict[int, str] = {}
    relative = [os.path.join(directories[place][0], name) for place, name, _, _ in files]
    fresh = _take_known(relative, sizes, times, known, extents, faults)
    for place, header in zip(fresh, _headers([root / relative[i] for i in fresh], progress), strict=True):
        if isinstance(header, str):
            faults[place] = header
        else:
            extents[place] = header
    return FileIndex(
        root,
        Names.of([name for name, _ in directories]),
        np.array([time for _, time in directories], dtype=np.int64),
        directory_of,
        Names.of(names),
        extents[:, 0].copy(),
        extents[:, 1].copy(),
        sizes,
        times,
        faults,
    )


def find_images(root: Path) -> list[Path]:
    """The image files of a directory and all below it, in order.

    Raises:
        UserError: there are none.
    """
    directories, files = _list_files(root)
    if not files:
        raise UserError(f"{root} has no image files ({', '.join(sorted(EXTENSIONS))}).")
    return [root / directories[place][0] / name for place, name, *_ in files]


def _list_files(root: Path) -> tuple[list[tuple[str, int]], list[tuple[int, str, int, int]]]:
    """Directories (name, time) in order, and files (place of the directory, name, bytes, time)."""
    directories: list[tuple[str, int]] = []
    files: list[tuple[int, str, int, int]] = []
    seen = set()  # links may lead around in a circle
    before = {str(root): os.stat(root)}  # what comes while a directory is read is noticed next time
    for place, below, entries in os.walk(root, followlinks=True, onerror=_refuse):
        state = before.pop(place)
        if (state.st_dev, state.st_ino) in seen:
            below.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        below[:] = sorted(name for name in below if name[0] != ".")
        before |= {(path := os.path.join(place, name)): os.stat(path) for name in below}
        directories.append((os.path.relpath(place, root), state.st_mtime_ns))
        for name in sorted(entries):
            if name[0] == "." or os.path.splitext(name)[1].lower() not in EXTENSIONS:
                continue
            try:
                found = os.stat(os.path.join(place, name))
            except OSError:
                found = os.lstat(os.path.join(place, name))  # a link to nothing: reading it tells
            if not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
                continue  # a pipe, which would be waited for
            files.append((len(directories) - 1, name, found.st_size, found.st_mtime_ns))
    return directories, files


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename} cannot be listed: {error.strerror}.") from error


def _take_known(
    relative: Sequence[str],
    sizes: Integers,
    times: Integers,
    known: FileIndex | None,
    extents: npt.NDArray[np.int32],
    faults: dict[int, str],
) -> list[int]:
    """Fill in what `known` says of files that did not change; the places of all others."""
    if known is None:
        return list(range(len(relative)))
    parents = known.directories.all()
    before = {
        os.path.join(parents[directory], name): place
        for place, (directory, name) in enumerate(
            zip(known.directory_of.tolist(), known.names.all(), strict=True)
        )
    }
    fresh = []
    for place, name in enumerate(relative):
        old = before.get(name)
        if old is None or known.sizes[old] != sizes[place] or known.times[old] != times[place]:
            fresh.append(place)
        elif old in known.faults:
            fresh.append(place)  # it may be readable by now
        else:
            extents[place] = known.widths[old], known.heights[old]
    return fresh


def _headers(paths: Sequence[Path], progress: bool) -> Iterator[tuple[int, int] | str]:
    """Width and height of each file, or why it has none."""
    if len(paths) < FEW:
        yield from map(_header, paths)
        return
    with ProcessPoolExecutor() as pool:
        headers = pool.map(_header, paths, chunksize=CHUNK)
        yield from track(headers, "reading headers", total=len(paths), disable=not progress)


def _header(path: Path) -> tuple[int, int] | str:
    try:
        return read_header(path)[:2]
    except ImageError as error:
        return str(error)
