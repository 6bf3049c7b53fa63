"""Reading every image once, to say what is wrong with a data set before a training meets it."""

import hashlib
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Group, RenderableType
from rich.progress import track
from rich.table import Column, Table
from rich.text import Text

from crescendo.data.decoding import ImageError, read_content, read_header, read_image
from crescendo.data.folders import PARTS, Labelled, label_by_directory
from crescendo.data.imagenet import is_imagenet, label_imagenet
from crescendo.data.index import load_index, read_index, refresh
from crescendo.data.listing import CHUNK, FileIndex, printable
from crescendo.data.packs import Pack
from crescendo.errors import UserError

EXAMPLES = 20  # of a list that is printed
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
QUANTILE_NAMES = ("smallest", "5%", "median", "95%", "largest")
ENDINGS = {
    "JPEG": (".jpg", ".jpeg"),
    "MPO": (".jpg", ".jpeg"),  # what some cameras write
    "PPM": (".ppm", ".pgm"),
    "TIFF": (".tif", ".tiff"),
}


class Reading(NamedTuple):
    """What one file gave: a digest of its pixels and what is odd about it, or why it cannot be read."""

    digest: bytes = b""
    fault: str = ""
    remark: str = ""


@dataclass(frozen=True)
class Findings:
    """Of a directory or a pack.

    Attributes:
        images: how many files were read.
        problem: why the directory cannot be trained on as it is; empty if it can.
        faults: reasons, by file.
        remarks: of files that can be read, and are not what they seem.
        classes: images of each class, by part: train, val, test.
        sides: the short and the long sides at QUANTILES, in px.
        duplicates: groups of files with the same pixels.
        across: those groups that lie in several parts: training on what is tested.
        stale: whether a pack's source has changed; None for a directory, or if the source is not there.
    """

    images: int
    problem: str
    faults: dict[str, str]
    remarks: dict[str, str]
    classes: dict[str, dict[str, int]]
    sides: dict[str, list[int]]
    duplicates: list[list[str]]
    across: list[list[str]]
    stale: bool | None = None


def check_directory(
    root: Path, workers: int | None = None, *, refresh_index: bool = False, progress: bool = False
) -> Findings:
    """Decode every image below `root`.

    Raises:
        UserError: root is no directory.
    """
    known = read_index(root) if refresh_index else None
    index = refresh(root, known, progress=progress) if refresh_index else load_index(root, progress=progress)
    problem, labelled = "", None
    try:
        labelled = label_imagenet(index) if is_imagenet(root) else label_by_directory(index)
    except UserError as error:
        problem = str(error)
    paths = [index.path(place) for place in range(len(index))]
    with ProcessPoolExecutor(workers) as pool:
        results = pool.map(read_file, paths, chunksize=CHUNK // 10)
        readings = list(track(results, "reading images", total=len(paths), disable=not progress))
    names = [index.name(place) for place in range(len(index))]
    groups: dict[bytes, list[int]] = {}
    for place, reading in enumerate(readings):
        if reading.digest:
            groups.setdefault(reading.digest, []).append(place)
    duplicates = [group for group in groups.values() if len(group) > 1]
    across = (
        []
        if labelled is None
        else [
            group for group in duplicates if len({int(labelled.parts[place]) for place in group} - {-1}) > 1
        ]
    )
    return Findings(
        len(index),
        problem,
        {name: reading.fault for name, reading in zip(names, readings, strict=True) if reading.fault},
        {name: reading.remark for name, reading in zip(names, readings, strict=True) if reading.remark},
        count_classes(labelled),
        _sides(index),
        [[names[place] for place in group] for group in duplicates],
        [[names[place] for place in group] for group in across],
    )


def read_file(path: Path) -> Reading:
    """Decode one file."""
    try:
        content = read_content(path)
        header = read_header(content)
        pixels = read_image(content, None)
    except ImageError as error:
        return Reading(fault=str(error))
    digest = hashlib.blake2b(repr((pixels.size, pixels.mode)).encode(), digest_size=16)
    digest.update(pixels.tobytes())
    endings = ENDINGS.get(header.format, (f".{header.format.lower()}",))
    is_named = path.suffix.lower() in endings
    return Reading(digest.digest(), remark="" if is_named else f"it is a {header.format} by its content")


def check_pack(
    root: Path, workers: int | None = None, *, refresh_index: bool = False, progress: bool = False
) -> Findings:
    """Compare every byte of a pack with its checksum, and its files with those of its source.

    Raises:
        UserError: it is unfinished, or a shard is missing or has another size.
    """
    pack, source = Pack.open(root), None
    faults = {pack.index.name(place): reason for place, reason in pack.index.faults.items()}
    shards = range(0, len(pack.index), pack.facts.shard_images)

    def damage(level: int, start: int) -> dict[str, str]:
        found = {}
        for place in range(start, min(start + pack.facts.shard_images, len(pack.index))):
            try:
                if pack.extents[level].lengths[place]:
                    pack.content(level, place)
            except ImageError as error:
                found[pack.index.name(place)] = str(error)
        return found

    with ThreadPoolExecutor(workers) as pool:
        jobs = [pool.submit(damage, level, start) for level in pack.extents for start in shards]
        for job in track(as_completed(jobs), "reading shards", total=len(jobs), disable=not progress):
            faults |= job.result()
    if Path(pack.facts.source).is_dir():
        place = Path(pack.facts.source)
        source = refresh(place, read_index(place)) if refresh_index else load_index(place)
    return Findings(
        len(pack.index),
        "",
        faults,
        {},
        count_classes(pack.labelled),
        _sides(pack.index),
        [],
        [],
        stale=None if source is None else pack.is_stale(source),
    )


def count_classes(labelled: Labelled | None) -> dict[str, dict[str, int]]:
    """Images of each class, by part; parts without images are left out."""
    if labelled is None:
        return {}
    counts = {}
    for number, part in enumerate(PARTS):
        labels = labelled.labels[labelled.parts == number]
        if len(labels):
            of_class = np.bincount(labels, minlength=len(labelled.class_names)).tolist()
            counts[part] = dict(zip(labelled.class_names, of_class, strict=True))
    return counts


def _sides(index: FileIndex) -> dict[str, list[int]]:
    readable = index.widths > 0
    sides = np.stack((index.widths, index.heights))[:, readable]
    if not sides.size:
        return {}
    return {
        name: np.quantile(side, QUANTILES, method="nearest").astype(int).tolist()
        for name, side in (("short", sides.min(0)), ("long", sides.max(0)))
    }


def show_findings(findings: Findings) -> RenderableType:
    """For the terminal; of long lists the beginning."""
    parts: list[RenderableType] = [f"{findings.images:,} images"]
    if findings.classes:
        names = list(next(iter(findings.classes.values())))
        table = Table("class", *(Column(part, justify="right") for part in findings.classes))
        for name in names:
            table.add_row(
                Text(printable(name)), *(f"{counts[name]:,}" for counts in findings.classes.values())
            )
        parts.append(table)
    if findings.sides:
        table = Table("side, px", *(Column(name, justify="right") for name in QUANTILE_NAMES))
        for name, values in findings.sides.items():
            table.add_row(name, *(f"{value:,}" for value in values))
        parts.append(table)
    parts += _listed("cannot be read", [f"{name}: {reason}" for name, reason in findings.faults.items()])
    parts += _listed("can be read", [f"{name}: {remark}" for name, remark in findings.remarks.items()])
    copies = sum(len(group) - 1 for group in findings.duplicates)
    parts += _listed(
        f"groups with the same pixels, {copies:,} files too many", list(map(" = ".join, findings.duplicates))
    )
    parts += _listed("groups lie in several parts", list(map(" = ".join, findings.across)))
    if findings.problem:
        parts.append(Text(f"it cannot be trained on: {findings.problem}"))
    if findings.stale:
        parts.append("stale: the source has changed since it was packed")
    return Group(*parts)


def _listed(title: str, lines: list[str]) -> list[Text]:
    if not lines:
        return []
    more = [f"  and {len(lines) - EXAMPLES:,} more: --json shows all"] if len(lines) > EXAMPLES else []
    shown = [f"{len(lines):,} {title}:", *(f"  {printable(line)}" for line in lines[:EXAMPLES]), *more]
    return [Text(line) for line in shown]
