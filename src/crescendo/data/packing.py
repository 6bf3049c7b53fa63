"""Making a pack: copies of each image at each level, by several processes, shard by shard.

Each shard that is done leaves a record beside it. A build that was interrupted goes on behind those; the
records become the pack's index when all are there, and pack.json is what makes it a pack.
"""

import io
import json
import os
import shutil
import zlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from rich.filesize import decimal
from rich.progress import track
from rich.table import Table

from crescendo.data.boxes import Size
from crescendo.data.decoding import ImageError, read_content, read_image
from crescendo.data.folders import Labelled, label_by_directory
from crescendo.data.imagenet import is_imagenet, label_imagenet
from crescendo.data.index import read_index, refresh, to_arrays
from crescendo.data.listing import FileIndex
from crescendo.data.packs import (
    ARRAYS,
    BUILDING,
    FACTS,
    ORIGINAL,
    PackFacts,
    copy_size,
    read_facts,
    shard_path,
)
from crescendo.errors import UserError
from crescendo.storage import whole_file, write_whole

SHARD_IMAGES = 1000  # at least
MOST_SHARDS = 128  # of a level: each is a file that every loader worker keeps open
SAMPLE = 64  # images that an estimate packs
LONGEST = 65_500  # px of a JPEG's side, in libjpeg


@dataclass(frozen=True)
class Plan:
    """What is to be packed, and how."""

    files: FileIndex
    labelled: Labelled
    facts: PackFacts

    @property
    def shards(self) -> int:
        return -(-len(self.files) // self.facts.shard_images)

    @property
    def stored_levels(self) -> list[int]:
        return [*self.facts.levels, *([ORIGINAL] if self.facts.originals else [])]


def plan_pack(source: Path, levels: Sequence[int], quality: int, originals: bool) -> Plan:
    """List the source, and what a pack of it would be.

    Raises:
        UserError: the source is no directory of classes; levels that are not rising or positive.
    """
    if not levels or list(levels) != sorted(set(levels)) or levels[0] < 1:
        raise UserError(
            f"--levels {','.join(map(str, levels))}: must be rising short sides in px, as 112,224."
        )
    source = source.absolute()
    index = refresh(source, read_index(source), progress=True)  # a file may have been written over
    labelled = label_imagenet(index) if is_imagenet(source) else label_by_directory(index)
    facts = PackFacts(
        source=str(source),
        digest=index.digest(),
        levels=list(levels),
        originals=originals,
        quality=quality,
        shard_images=max(SHARD_IMAGES, -(-len(index) // MOST_SHARDS)),
        class_names=list(labelled.class_names),
    )
    return Plan(index, labelled, facts)


def estimate(plan: Plan) -> dict[int, int]:
    """Bytes of each level, by packing a few images that lie evenly in the list."""
    places = np.unique(np.linspace(0, len(plan.files) - 1, SAMPLE).astype(int)).tolist()
    totals, read = dict.fromkeys(plan.stored_levels, 0), 0
    for place in places:
        try:
            copies = make_copies(plan, place)
        except ImageError:
            continue  # it will be left out, and is told then
        read += 1
        for level, content in copies.items():
            totals[level] += len(content)
    estimated = {level: round(total * len(plan.files) / max(1, read)) for level, total in totals.items()}
    if plan.facts.originals:
        estimated[ORIGINAL] = int(plan.files.sizes.sum())
    return estimated


def show_estimate(plan: Plan, estimated: dict[int, int]) -> Table:
    """What a pack will take on disk, level by level."""
    table = Table(title=f"{len(plan.files):,} images of {len(plan.facts.class_names)} classes")
    table.add_column("level")
    table.add_column("estimated size", justify="right")
    for level, total in estimated.items():
        table.add_row(f"{level} px" if level else "original", decimal(total))
    table.add_row("all", decimal(sum(estimated.values())))
    return table


def check_space(estimated: dict[int, int], target: Path) -> None:
    """Raises UserError if the disk has less room than is estimated."""
    place = next(parent for parent in (target.absolute(), *target.absolute().parents) if parent.exists())
    free, needed = shutil.disk_usage(place).free, sum(estimated.values())
    if needed > free:
        raise UserError(
            f"{target} would take about {decimal(needed)}, and {place} has {decimal(free)} left: choose "
            f"fewer --levels, --drop-original, or another disk."
        )


def build_pack(plan: Plan, target: Path, workers: int | None = None, *, progress: bool = False) -> list[str]:
    """Make the pack, or go on with one that was interrupted; the images that could not be read, with reasons.

    Raises:
        UserError: target holds something else, or the disk is full.
    """
    _claim(plan, target)
    (target / "records").mkdir(exist_ok=True)
    missing = [shard for shard in range(plan.shards) if not _record(target, shard).exists()]
    with ProcessPoolExecutor(workers, initializer=_remember, initargs=(plan,)) as pool:
        jobs = [pool.submit(_write_remembered, target, shard) for shard in missing]
        try:
            done = track(as_completed(jobs), "packing", total=len(jobs), disable=not progress)
            for job in done:
                job.result()
        except OSError as error:
            pool.shutdown(cancel_futures=True)
            raise UserError(
                f"{target} cannot be written: {error.strerror or error}. The same command goes on from here."
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return _finish(plan, target)


def _claim(plan: Plan, target: Path) -> None:
    """Make sure that `target` is ours to write to."""
    wanted = json.dumps(asdict(plan.facts), indent=2)
    building = target / BUILDING
    if (target / FACTS).exists():
        there = read_facts(target)
        what = "these files" if there == plan.facts else f"other files, levels or quality ({there.source})"
        raise UserError(f"{target} is a finished pack of {what}: nothing is done. Give another directory.")
    if building.exists():
        if json.loads(building.read_text(encoding="utf-8")) != json.loads(wanted):
            raise UserError(
                f"{target} is the unfinished pack of other files, levels or quality: remove it, or give "
                f"another directory."
            )
        return
    if target.exists() and any(target.iterdir()):
        raise UserError(f"{target} is not empty: give a directory that is, or a new one.")
    target.mkdir(parents=True, exist_ok=True)
    write_whole(building, wanted)


_remembered: list[Plan] = []  # in the processes of a build: sent once, not with every shard


def _remember(plan: Plan) -> None:
    _remembered.append(plan)


def _write_remembered(target: Path, shard: int) -> None:
    write_shard(_remembered[0], target, shard)


def write_shard(plan: Plan, target: Path, shard: int) -> None:
    """Pack one shard's images at all levels; its record is written last."""
    start = shard * plan.facts.shard_images
    places = range(start, min(start + plan.facts.shard_images, len(plan.files)))
    levels = plan.stored_levels
    lengths = np.zeros((len(levels), len(places)), np.int64)
    checksums = np.zeros((len(levels), len(places)), np.uint32)
    faults: dict[int, str] = {}
    with ExitStack() as stack:
        files = {}
        for level in levels:
            path = shard_path(target, level, shard)
            path.parent.mkdir(exist_ok=True)
            files[level] = stack.enter_context(whole_file(path))
        for column, place in enumerate(places):
            try:
                copies = make_copies(plan, place)
            except ImageError as error:
                faults[place] = str(error)
                continue
            for row, level in enumerate(levels):
                content = copies.get(level, b"")
                files[level].write(content)
                lengths[row, column], checksums[row, column] = len(content), zlib.crc32(content)
    with whole_file(_record(target, shard)) as record:
        reasons = np.array(list(faults.values()), dtype=np.str_)
        np.savez(
            record,
            lengths=lengths,
            checksums=checksums,
            faulty=np.array([*faults], np.int64),
            reasons=reasons,
        )


def make_copies(plan: Plan, place: int) -> dict[int, bytes]:
    """The image files of the levels that an image has.

    A level that is not smaller than the image would be a copy of it: the original serves there, or, where the
    originals are dropped, one copy in its own size. Nor is there a copy that would be too wide for a JPEG.

    Raises:
        ImageError: the image cannot be read, is not of the size that is listed, or cannot be copied at all.
    """
    facts, content = plan.facts, read_content(plan.files.path(place))
    image = read_image(content, None)
    listed = int(plan.files.widths[place]), int(plan.files.heights[place])
    if image.size != listed:
        raise ImageError(f"it has {image.width}x{image.height} px, and had {listed[0]}x{listed[1]}")
    short, copies = min(image.size), {}
    for level in facts.levels:
        size = copy_size(image.size, level)
        if max(size) <= LONGEST and (level < short or not facts.originals):
            copies[level] = _encode(image, size, facts.quality)
        if level >= short:
            break
    if facts.originals:
        copies[ORIGINAL] = content
    if not copies:
        raise ImageError(f"a side of {max(image.size):,} px is more than the {LONGEST:,} of a JPEG")
    return copies


def _encode(image: Image.Image, size: Size, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(buffer, "jpeg", quality=quality)
    return buffer.getvalue()


def _finish(plan: Plan, target: Path) -> list[str]:
    """Join the shards' records to the pack's index; what is left of the build goes."""
    records = []
    for shard in range(plan.shards):
        with np.load(_record(target, shard), allow_pickle=False) as stored:
            records.append(dict(stored))
    faults = dict(plan.files.faults)
    for record in records:
        faults |= dict(zip(record["faulty"].tolist(), record["reasons"].tolist(), strict=True))
    arrays = to_arrays(replace(plan.files, faults=faults))
    arrays |= {"parts": plan.labelled.parts, "labels": plan.labelled.labels}
    for row, level in enumerate(plan.stored_levels):
        lengths = [record["lengths"][row] for record in records]
        arrays[f"lengths_{level}"] = np.concatenate(lengths)
        arrays[f"offsets_{level}"] = np.concatenate([np.cumsum(each) - each for each in lengths])
        arrays[f"checksums_{level}"] = np.concatenate([record["checksums"][row] for record in records])
    with whole_file(target / ARRAYS) as file:
        np.savez(file, allow_pickle=False, **arrays)
    os.replace(target / BUILDING, target / FACTS)
    shutil.rmtree(target / "records")
    return [f"{plan.files.name(place)}: {reason}" for place, reason in sorted(faults.items())]


def _record(target: Path, shard: int) -> Path:
    return target / "records" / f"{shard:05}.npz"
