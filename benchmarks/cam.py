"""Whether a class activation map lies on the object: scenes with known boxes, a small net, its maps' peaks.

    python benchmarks/cam.py --seed 0 [--train 2000] [--test 500] [overrides of train.py ...]

A scene is 48 px: a shape (the object), a smaller one of another class (the distractor), and lines, dots and
dull patches behind them. The label is the larger shape's, so a net has to find both. Where the net's
answer is right, told are the share of maps whose largest value lies inside the object's box, that of the
distractor's box, and what chance gives: the boxes' mean share of the image.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from first_run import train
from PIL import Image, ImageDraw

from crescendo.analysis.cam import class_maps, enlarged, peaks
from crescendo.analysis.overlay import draw_columns
from crescendo.evaluation import load_run
from crescendo.explanation import explain_run

CLASSES = ("cross", "disc", "ring", "square", "triangle")  # as data=folder sorts them
SIDE = 48  # px of a scene
FINER = 4  # times, while it is drawn
OBJECT = (13, 20)  # px of a side, from and to
DISTRACTOR = (0.4, 0.55)  # of the object's side

TRAINING = (
    "data=folder",
    f"data.native_size={SIDE}",
    "data.eval_crop=1.0",  # the net sees the whole scene, pixel for pixel
    "data.augmentation.crop_area=null",
    "data.batch_size=32",
    "data.num_workers=0",
    "model=resnet20",
    "model.width=8",
    "curriculum=constant",
    f"curriculum.resolution.end={SIDE}",
    "regularization=none",
    "trainer=cpu",
    "trainer.max_epochs=12",
    "trainer.enable_progress_bar=false",
    "logger=csv",
)


class Box(NamedTuple):
    """In px; right and bottom lie outside."""

    left: int
    top: int
    right: int
    bottom: int

    def holds(self, row: int, column: int) -> bool:
        return self.left <= column < self.right and self.top <= row < self.bottom

    def meets(self, other: "Box") -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    @property
    def share(self) -> float:
        """Of the scene."""
        return (self.right - self.left) * (self.bottom - self.top) / SIDE**2


class Scene(NamedTuple):
    file: Path
    label: int
    object: Box
    distractor: Box


class Result(NamedTuple):
    """Of test scenes: accuracy of all; of those answered right, shares of peaks in a box, and chance."""

    accuracy: float
    on_object: float
    on_distractor: float
    chance: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the scenes and of the training")
    parser.add_argument("--train", type=int, default=2000, help="scenes")
    parser.add_argument("--test", type=int, default=500, help="scenes")
    parser.add_argument("--picture", type=Path, help="a scene of each class and the maps of every stage")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        run, scenes = train_on_scenes(
            Path(place), arguments.seed, arguments.train, arguments.test, arguments.overrides
        )
        result = look(run, scenes)
        if arguments.picture:
            files = [scene.file for scene in scenes[: len(CLASSES)]]
            figure = draw_columns(
                [file.parent.name for file in files], explain_run(load_run(run), files, stage="all")
            )
            figure.savefig(arguments.picture, dpi=100, facecolor="white")
    print("| seed | accuracy | peaks in the object's box | by chance | in the distractor's box |")
    print(
        f"| {arguments.seed} | {result.accuracy:.1%} | {result.on_object:.1%} | {result.chance:.1%} "
        f"| {result.on_distractor:.1%} |"
    )


def train_on_scenes(
    place: Path, seed: int, training: int, test: int, overrides: Sequence[str] = ()
) -> tuple[Path, list[Scene]]:
    """Make scenes and train a net on them: its run, and the test scenes."""
    rng = np.random.default_rng(seed)
    make_scenes(place / "scenes" / "train", training, rng)
    scenes = make_scenes(place / "scenes" / "test", test, rng)
    return train(seed, [*TRAINING, f"data.root={place / 'scenes'}", *overrides], place / "runs"), scenes


def look(run: Path, scenes: Sequence[Scene]) -> Result:
    """Where the peaks of a run's maps lie, each map that of the scene's class."""
    trained = load_run(run)
    assert tuple(trained.class_names) == CLASSES
    assert trained.resolution == SIDE
    classifier, right, found = trained.classifier, [], []
    for batch in trained.batches([scene.file for scene in scenes]):
        part = scenes[len(right) : len(right) + len(batch)]
        labels = [scene.label for scene in part]
        with torch.inference_mode():
            right += (classifier(batch).argmax(1) == torch.tensor(labels)).tolist()
        maps = class_maps(classifier.net, classifier.normalise(batch), labels)
        found += peaks(enlarged(maps, SIDE)).tolist()
    answered = [
        (scene, *peak) for scene, is_right, peak in zip(scenes, right, found, strict=True) if is_right
    ]
    return Result(
        accuracy=len(answered) / len(scenes),
        on_object=float(np.mean([scene.object.holds(row, column) for scene, row, column in answered])),
        on_distractor=float(
            np.mean([scene.distractor.holds(row, column) for scene, row, column in answered])
        ),
        chance=float(np.mean([scene.object.share for scene, *_ in answered])),
    )


def make_scenes(directory: Path, count: int, rng: np.random.Generator) -> list[Scene]:
    """Draw scenes into a directory for each class, the classes in turns."""
    scenes = []
    for name in CLASSES:
        (directory / name).mkdir(parents=True)
    for index in range(count):
        label = index % len(CLASSES)
        other = (label + rng.integers(1, len(CLASSES))) % len(CLASSES)
        side = int(rng.integers(OBJECT[0], OBJECT[1] + 1))
        box = _place(side, rng)
        while True:
            beside = _place(round(side * rng.uniform(*DISTRACTOR)), rng)
            if not beside.meets(box):
                break
        image = _background(rng)
        pen = ImageDraw.Draw(image)
        _draw_clutter(pen, rng)
        draw_shape(pen, CLASSES[other], beside, _colour(rng))
        draw_shape(pen, CLASSES[label], box, _colour(rng))
        file = directory / CLASSES[label] / f"{index:05}.png"
        image.resize((SIDE, SIDE), Image.Resampling.BOX).save(file)
        scenes.append(Scene(file, label, box, beside))
    return scenes


def _place(side: int, rng: np.random.Generator) -> Box:
    left, top = rng.integers(0, SIDE - side + 1, 2).tolist()
    return Box(left, top, left + side, top + side)


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = rng.integers(0, 256, 3).tolist()
    return red, green, blue


def _background(rng: np.random.Generator) -> Image.Image:
    """Dull patches that run into each other."""
    patches = Image.fromarray(rng.integers(80, 176, (5, 5, 3), dtype=np.uint8))
    return patches.resize((SIDE * FINER, SIDE * FINER), Image.Resampling.BICUBIC)


def _draw_clutter(pen: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    for _ in range(6):
        ends = rng.integers(0, SIDE * FINER, 4).tolist()
        pen.line(ends, fill=_colour(rng), width=int(rng.integers(1, 2 * FINER)))
    for _ in range(8):
        x, y = rng.integers(0, SIDE * FINER, 2).tolist()
        width, height = (FINER * rng.integers(1, 6, 2)).tolist()
        pen.ellipse((x, y, x + width, y + height), fill=_colour(rng))


def draw_shape(pen: ImageDraw.ImageDraw, name: str, box: Box, colour: tuple[int, int, int]) -> None:
    """A shape that reaches all sides of its box."""
    left, top, right, bottom = (FINER * edge for edge in box)
    right, bottom = right - 1, bottom - 1  # PIL's ends lie inside
    third = (right - left) // 3
    if name == "disc":
        pen.ellipse((left, top, right, bottom), fill=colour)
    elif name == "ring":
        pen.ellipse((left, top, right, bottom), outline=colour, width=third // 2)
    elif name == "square":
        pen.rectangle((left, top, right, bottom), fill=colour)
    elif name == "triangle":
        pen.polygon(((left, bottom), ((left + right) // 2, top), (right, bottom)), fill=colour)
    else:
        pen.rectangle((left + third, top, right - third, bottom), fill=colour)
        pen.rectangle((left, top + third, right, bottom - third), fill=colour)


if __name__ == "__main__":
    main()
