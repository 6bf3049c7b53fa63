"""The worst mistakes of a comparison's runs: the images that were most surely taken for something else."""

import base64
import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from crescendo.analysis.comparison import Row
from crescendo.answers import Answers, read_answers
from crescendo.data.datamodule import AddressedDataset
from crescendo.data.sampler import Draws
from crescendo.errors import UserError
from crescendo.evaluation import load_config
from crescendo.experiment import build_transform, plain_values
from crescendo.runs import read_config
from crescendo.targets import build

LARGEST = 96  # px of a thumbnail's side
PIXELS = 48  # up to this side every pixel counts: png, else jpeg
SHOWN = 18  # mistakes of each group


class Mistake(NamedTuple):
    """A test image that some of a group's runs got wrong.

    Attributes:
        place: of its thumbnail.
        answer: the surest wrong one, with its probability.
        wrong, runs: how many runs got it wrong, and of how many.
    """

    place: str
    label: str
    answer: str
    probability: float
    wrong: int
    runs: int


@dataclass(frozen=True)
class Gallery:
    """The worst mistakes by group's label, in the comparison's order; the images as data URIs by place.

    Attributes:
        notes: what is left out, and why.
    """

    mistakes: Mapping[str, Sequence[Mistake]]
    thumbnails: Mapping[str, str]
    notes: Sequence[str]


def make_gallery(rows: Sequence[Row], *, trust: bool = False) -> Gallery:
    """The gallery of the groups' finished runs, and of all together where they have one data set.

    Args:
        trust: build sources of images of any package.
    """
    mistakes: dict[str, list[Mistake]] = {}
    shown: dict[str, tuple[Path, set[int]]] = {}  # by data set: a run of it, and the images that are shown
    notes: list[str] = []
    tested: list[tuple[str, list[tuple[str, list[Path]]]]] = [
        (row.label, list(_by_data(row.directories).items())) for row in rows if row.directories
    ]
    everything = _by_data([directory for row in rows for directory in row.directories])
    if len(tested) > 1:
        tested.insert(0, ("all runs", list(everything.items())))
    for label, sets in tested:
        found: list[Mistake] = []
        for data, directories in sets:
            answers = {run: read_answers(run) for run in directories}
            known = [mine for mine in answers.values() if mine is not None]
            without = [run.name for run, mine in answers.items() if mine is None]
            if without and label != "all runs":
                notes.append(f"{label}: {len(without)} of {len(answers)} runs recorded no predictions.csv.")
            if not known or any(mine.labels.tolist() != known[0].labels.tolist() for mine in known):
                continue
            names = _class_names(directories[0])
            own = _worst(known, data, names)
            shown.setdefault(data, (directories[0], set()))[1].update(int(m.place.split(":")[1]) for m in own)
            found += own
        if found:
            mistakes[label] = found
    thumbnails: dict[str, str] = {}
    for data, (run, images) in shown.items():
        try:
            pictures = _thumbnails(run, sorted(images), trust=trust)
        except (UserError, OSError) as error:
            notes.append(f"Without images, since the test set cannot be read here: {error}")
        else:
            thumbnails |= {f"{data}:{index}": picture for index, picture in pictures.items()}
    return Gallery(mistakes, thumbnails, notes)


def _by_data(directories: Sequence[Path]) -> dict[str, list[Path]]:
    """Runs by the test set that they have in common, numbered."""
    sets: dict[str, list[Path]] = {}
    for directory in directories:
        sets.setdefault(_data_of(directory), []).append(directory)
    return sets


def _data_of(directory: Path) -> str:
    """A short name for a run's test images: of the data set and of what its source is given."""
    data = read_config(directory).data
    source = {name: value for name, value in plain_values(data.source).items() if name != "root"}
    return f"{data.name}-{zlib.crc32(repr(sorted(source.items())).encode()):08x}".replace(":", "-")


def _class_names(directory: Path) -> list[str]:
    data = read_config(directory).data
    return [str(name) for name in data.class_names or range(data.num_classes)]


def _worst(answers: Sequence[Answers], data: str, names: Sequence[str]) -> list[Mistake]:
    """The images with the largest mean probability of what they are not."""
    first = answers[0]
    sure = np.stack([np.where(mine.wrong, mine.probabilities, 0.0) for mine in answers])
    order = np.argsort(-sure.mean(0), kind="stable")[:SHOWN]
    worst = []
    for place in order:
        surest = int(sure[:, place].argmax())
        if sure[surest, place] == 0:
            break
        worst.append(
            Mistake(
                f"{data}:{first.indices[place]}",
                names[first.labels[place]],
                names[answers[surest].answers[place]],
                float(sure[surest, place]),
                int((sure[:, place] > 0).sum()),
                len(answers),
            )
        )
    return worst


def _thumbnails(run: Path, indices: Sequence[int], *, trust: bool) -> dict[int, str]:
    """Test images as evaluation sees them, small, as data URIs.

    Raises:
        UserError: the data set is not there, or is another one by now.
    """
    config = load_config(run, trust=trust)
    answers = read_answers(run)
    test = AddressedDataset(build(config.data.source, "data.source").test, build_transform(config))
    if answers is None or len(test) <= answers.indices.max():
        raise UserError(f"{config.data.name} has {len(test)} test images, the runs were tested on others.")
    side = min(config.data.native_size, LARGEST)
    batch = test.__getitems__(Draws(np.asarray(indices, dtype=np.int64), None, side))
    known = dict(zip(answers.indices.tolist(), answers.labels.tolist(), strict=True))
    if batch.labels.tolist() != [known[index] for index in indices]:
        raise UserError(f"{config.data.name} has other labels by now.")
    pixels = batch.images.permute(0, 2, 3, 1).numpy()
    return {index: _data_uri(image) for index, image in zip(indices, pixels, strict=True)}


def _data_uri(pixels: npt.NDArray[Any]) -> str:
    """uint8 [H, W, C] as a data URI."""
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))
    buffer = io.BytesIO()
    kind = "png" if max(image.size) <= PIXELS else "jpeg"
    image.save(buffer, kind, **({"optimize": True} if kind == "png" else {"quality": 80}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
