"""A pack: the images of a directory as a mipmap, smaller copies of each in a few large files.

A stage at 128 px then reads the copy whose short side is 160 px, not the photograph. Each level is a
directory of shards, which are images one behind the other and are mapped into memory; arrays in index.npz say
where each image begins, how long it is and what its CRC-32 is. The copies are JPEG, upright; the originals
are the files as they were. docs/data.md says why no other container.
"""

import json
import logging
import mmap
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crescendo.data.boxes import Box, Pixels, Size
from crescendo.data.decoding import ImageError, read_region
from crescendo.data.folders import Labelled, make_sets
from crescendo.data.images import IndexedImages, Sets
from crescendo.data.index import from_arrays, load_index
from crescendo.data.listing import FileIndex
from crescendo.errors import UserError, no_directory

log = logging.getLogger(__name__)

VERSION = 1
FACTS, ARRAYS = "pack.json", "index.npz"
BUILDING = "pack.building"  # the facts of a pack that is not whole yet
ORIGINAL = 0  # the level of the files as they were


@dataclass(frozen=True)
class PackFacts:
    """pack.json.

    Attributes:
        source: the directory that was packed.
        digest: of its names, bytes and times.
        levels: short sides of the copies in px, ascending.
        originals: whether the files are there as they were.
        quality: of the copies' JPEG, 1 to 100.
        shard_images: images of a shard.
    """

    source: str
    digest: str
    levels: Sequence[int]
    originals: bool
    quality: int
    shard_images: int
    class_names: Sequence[str]
    version: int = VERSION


@dataclass(frozen=True)
class Extents:
    """Where the images of a level lie in their shards; a length of 0 is an image that the level has not."""

    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    checksums: npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Pack:
    """A pack that is open for reading. Shards are mapped where they are first read, in each process."""

    root: Path
    facts: PackFacts
    index: FileIndex
    labelled: Labelled
    extents: dict[int, Extents]
    _maps: dict[tuple[int, int], mmap.mmap] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, root: Path) -> "Pack":
        """Read the index of a pack.

        Raises:
            UserError: there is none, it is unfinished, or a shard is missing or has another size.
        """
        facts = read_facts(root)
        levels = [*facts.levels, *([ORIGINAL] if facts.originals else [])]
        try:
            with (root / ARRAYS).open("rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = dict(stored)
            pack = cls(
                root,
                facts,
                from_arrays(Path(facts.source), arrays),
                Labelled(arrays["parts"], arrays["labels"], facts.class_names),
                {
                    level: Extents(*(arrays[f"{name}_{level}"] for name in Extents.__dataclass_fields__))
                    for level in levels
                },
            )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{root / ARRAYS} cannot be read: {error}. Make the pack anew.") from error
        pack._check_sizes()
        return pack

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}

    @cached_property
    def short_sides(self) -> npt.NDArray[np.int32]:
        return np.minimum(self.index.widths, self.index.heights)

    def level_for(self, place: int, box: Box, size: Size, tolerance: float) -> int:
        """The smallest with `tolerance` pixels in `box` for each that is asked for, else the largest."""
        enough = tolerance * max(size[0] / box[2], size[1] / box[3])
        short = int(self.short_sides[place])
        largest = ORIGINAL
        for level in self.facts.levels:
            if self.extents[level].lengths[place]:
                largest = level
                if min(level, short) >= enough * short:
                    return level
        return ORIGINAL if self.facts.originals else largest

    def region(
        self,
        place: int,
        box: Box,
        size: Size,
        in_channels: int,
        tolerance: float = 1.0,
        *,
        fast: bool = False,
    ) -> Pixels:
        """What `box` of the upright original shows, at `size`, from the level that `level_for` says.

        Raises:
            ImageError: the image could not be read when it was packed, or its shard is damaged.
        """
        if place in self.index.faults:
            raise ImageError(self.index.faults[place])
        whole = int(self.index.widths[place]), int(self.index.heights[place])
        level = self.level_for(place, box, size, tolerance)
        content = self.content(level, place)
        if level == ORIGINAL:
            return read_region(content, box, size, in_channels, whole, fast=fast)
        copy = copy_size(whole, level)
        across, down = copy[0] / whole[0], copy[1] / whole[1]
        scaled = box[0] * across, box[1] * down, box[2] * across, box[3] * down
        return read_region(content, scaled, size, in_channels, copy, fast=fast)

    def content(self, level: int, place: int) -> bytes:
        """An image file's bytes.

        Raises:
            ImageError: they are not those that were written.
        """
        extents, shard = self.extents[level], place // self.facts.shard_images
        path = shard_path(self.root, level, shard)
        if (level, shard) not in self._maps:
            try:
                with path.open("rb") as file:
                    self._maps[level, shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:  # it went, or was emptied, after the pack was opened
                raise ImageError(f"shard {path} cannot be read ({error})") from error
        start = int(extents.offsets[place])
        content = self._maps[level, shard][start : start + int(extents.lengths[place])]
        if zlib.crc32(content) != extents.checksums[place]:
            raise ImageError(f"shard {path} is damaged at byte {start}")
        return content

    def is_stale(self, current: FileIndex) -> bool:
        """Whether the source, of which this is the index, has other files than were packed."""
        return current.digest() != self.facts.digest

    def _check_sizes(self) -> None:
        for level, extents in self.extents.items():
            ends = extents.offsets + extents.lengths
            for shard, start in enumerate(range(0, len(self.index), self.facts.shard_images)):
                path = shard_path(self.root, level, shard)
                expected = int(ends[start : start + self.facts.shard_images].max(initial=0))
                found = path.stat().st_size if path.exists() else -1
                if found != expected and not (expected == 0 and found == -1):
                    raise UserError(
                        f"{path} is damaged: it "
                        + (f"has {found} bytes, and should have {expected}" if found >= 0 else "is not there")
                        + f". Make the pack anew: crescendo pack {self.facts.source} <directory>"
                    )


@dataclass(frozen=True)
class PackedImages(IndexedImages):
    """Images of a pack.

    Attributes:
        tolerance: pixels that a copy must have for each pixel of the result, in each direction.
    """

    pack: Pack
    tolerance: float

    def region(self, index: int, box: Box, size: Size, *, fast: bool) -> Pixels:
        place = int(self.places[index])
        return self.pack.region(place, box, size, self.in_channels, self.tolerance, fast=fast)

    def name(self, index: int) -> str:
        return f"{self.pack.root}:{self.index.name(int(self.places[index]))}"


def packed(root: str, in_channels: int = 3, tolerance: float = 1.0, test_fraction: float = 0.15) -> Sets:
    """What `crescendo pack` made, split as its source would be.

    Raises:
        UserError: there is no pack, or a shard of it is damaged.
    """
    pack = Pack.open(Path(root))
    warn_if_stale(pack)
    return make_sets(
        pack.labelled,
        lambda places, labels: PackedImages(pack.index, places, labels, in_channels, pack, tolerance),
        test_fraction,
    )


def warn_if_stale(pack: Pack) -> None:
    """Say so if the source is there and has changed: by the times of its directories, then by its files."""
    source = Path(pack.facts.source)
    if source.is_dir() and not pack.index.is_current() and pack.is_stale(load_index(source)):
        log.warning(
            "%s is stale: %s has changed since it was packed. Make the pack anew, in another directory.",
            pack.root,
            source,
        )


def is_pack(root: Path) -> bool:
    return (root / FACTS).exists() or (root / BUILDING).exists()


def read_facts(root: Path) -> PackFacts:
    """pack.json of a pack.

    Raises:
        UserError: it is not there, or of another version.
    """
    if not root.is_dir():
        raise no_directory(root)
    if not (root / FACTS).exists():
        unfinished = (root / BUILDING).exists()
        raise UserError(
            f"{root} is an unfinished pack: give the same crescendo pack command again, it goes on."
            if unfinished
            else f"{root} is not a pack: make one by crescendo pack <directory> {root}"
        )
    try:
        facts = PackFacts(**json.loads((root / FACTS).read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise UserError(f"{root / FACTS} cannot be read: {error}") from error
    if facts.version != VERSION:
        raise UserError(f"{root} is a pack of version {facts.version}, this is for {VERSION}: make it anew.")
    return facts


def copy_size(whole: Size, level: int) -> Size:
    """Of the copy at a level: never larger than the original."""
    scale = min(1.0, level / min(whole))
    return max(1, round(whole[0] * scale)), max(1, round(whole[1] * scale))


def shard_path(root: Path, level: int, shard: int) -> Path:
    return root / (f"level-{level}" if level else "original") / f"{shard:05}.shard"
