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
from crescendo.analysis.mistakes import surest_mistakes
from crescendo.answers import Answers, read_answers
from crescendo.data.decoding import ImageError
from crescendo.data.sampler import Draws
from crescendo.errors import UserError
from crescendo.evaluation import load_config
from crescendo.experiment import build_transform, plain_values
from crescendo.runs import read_config
from crescendo.targets import build

LARGEST = 96  # px of a thumbnail's side
PIXELS = 48  # up to this side every pixel counts: png, else jpeg


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
    """The worst mistakes by group's label, those of all runs first; the images as data URIs by place.

    Attributes:
        notes: what is left out, and why.
    """

    mistakes: Mapping[str, Sequence[Mistake]]
    thumbnails: Mapping[str, str]
    notes: Sequence[str]


class TestSet:
    """Test images that runs have in common.

    Attributes:
        run: one of them.
        shown: the images that are in the gallery.
    """

    def __init__(self, number: int, run: Path, answers: Answers) -> None:
        data = read_config(run).data
        self.number, self.run, self.answers = number, run, answers
        self.names = [str(name) for name in data.class_names or range(data.num_classes)]
        self.shown: set[int] = set()

    def place(self, index: int) -> str:
        return f"{self.number}:{index}"

    def name(self, label: int) -> str:
        return self.names[label] if label < len(self.names) else str(label)

    def worst(self, tested: Sequence[Answers]) -> list[Mistake]:
        """The images with the largest mean probability of what they are not."""
        worst = []
        for at, sure in surest_mistakes(tested):
            surest = max(range(len(tested)), key=sure.__getitem__)
            index = int(self.answers.indices[at])
            self.shown.add(index)
            worst.append(
                Mistake(
                    self.place(index),
                    self.name(int(self.answers.labels[at])),
                    self.name(int(tested[surest].answers[at])),
                    sure[surest],
                    sum(probability > 0 for probability in sure),
                    len(tested),
                )
            )
        return worst


def make_gallery(rows: Sequence[Row], *, trust: bool = False) -> Gallery:
    """The gallery of each group's finished runs, and of all together.

    Args:
        trust: build sources of images of any package.
    """
    answers: dict[Path, Answers] = {}
    sets: dict[str, TestSet] = {}
    set_of: dict[Path, TestSet] = {}
    notes: list[str] = []
    for row in rows:
        found = {run: read_answers(run) for run in row.directories}
        known = {run: mine for run, mine in found.items() if mine is not None}
        if len(known) < len(found):
            without = len(found) - len(known)
            notes.append(f"{row.label}: {without} of {len(found)} runs recorded no predictions.csv.")
        for run, mine in known.items():
            set_of[run] = sets.setdefault(_images_of(run, mine), TestSet(len(sets), run, mine))
        answers |= known
    groups = [(row.label, [run for run in row.directories if run in answers]) for row in rows]
    if len(groups) > 1:
        groups.insert(0, ("all runs", list(answers)))
    mistakes = {}
    for label, runs in groups:
        by_set = {images: [answers[run] for run in runs if set_of[run] is images] for images in sets.values()}
        mistakes[label] = [one for images, own in by_set.items() if own for one in images.worst(own)]
    thumbnails: dict[str, str] = {}
    for images in sets.values():
        try:
            pictures = _thumbnails(images, trust=trust)
        except (UserError, OSError) as error:
            notes.append(f"Without images, since the test set cannot be read here: {error}")
        else:
            thumbnails |= {images.place(index): picture for index, picture in pictures.items()}
    return Gallery({label: found for label, found in mistakes.items() if found}, thumbnails, notes)


def _images_of(run: Path, answers: Answers) -> str:
    """What two runs have in common that were tested on the same images: data, source, labels.

    Not the directory, which may have moved.
    """
    data = read_config(run).data
    source = {name: value for name, value in plain_values(data.source).items() if name != "root"}
    labels = zlib.crc32(np.stack([answers.indices, answers.labels]).tobytes())
    return repr((data.name, sorted(source.items(), key=repr), labels))


def _thumbnails(images: TestSet, *, trust: bool) -> dict[int, str]:
    """Test images as evaluation sees them, small, as data URIs by index.

    Raises:
        UserError: the data set is not there, or is another one by now.
    """
    indices = np.array(sorted(images.shown), dtype=np.int64)
    if not len(indices):
        return {}
    config = load_config(images.run, trust=trust)
    test = build(config.data.source, "data.source").test
    if len(test.labels) <= indices.max():
        raise UserError(
            f"{config.data.name} has {len(test.labels)} test images, the runs were tested on more."
        )
    tested = images.answers.labels[np.searchsorted(images.answers.indices, indices)]
    if test.labels[indices].tolist() != tested.tolist():
        raise UserError(f"{config.data.name} has other labels by now.")
    draws = Draws(indices, None, min(config.data.native_size, LARGEST))
    try:
        pixels = test.batch(draws, build_transform(config)).permute(0, 2, 3, 1).numpy()
    except ImageError as error:
        raise UserError(f"{test.name(error.index)}: {error}.") from error
    return {int(index): _data_uri(image) for index, image in zip(indices, pixels, strict=True)}


def _data_uri(pixels: npt.NDArray[Any]) -> str:
    """uint8 [H, W, C] as a data URI."""
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))
    buffer = io.BytesIO()
    kind = "png" if max(image.size) <= PIXELS else "jpeg"
    image.save(buffer, kind, **({"optimize": True} if kind == "png" else {"quality": 80}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
