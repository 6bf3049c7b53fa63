"""Scenes for class activation maps, whose boxes are known: a data set for data=scenes.

    python benchmarks/scenes.py <directory> [--seed 0] [--train 2000] [--test 500]

A scene is 48 px: a shape (the object), a smaller one of another class (the distractor), and lines, dots and
dull patches behind them. The label is the larger shape's, so a net has to find both.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("cross", "disc", "ring", "square", "triangle")  # as data=folder sorts them
SIDE = 48  # px of a scene
FINER = 4  # times, while it is drawn
OBJECT = (13, 20)  # px of a side, from and to
DISTRACTOR = (0.4, 0.55)  # of the object's side


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("directory", type=Path)
    add_options(parser)
    arguments = parser.parse_args()
    if arguments.directory.exists():
        parser.error(f"{arguments.directory} is there already")
    make_data_set(arguments.directory, arguments.seed, arguments.train, arguments.test)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=2000, help="scenes")
    parser.add_argument("--test", type=int, default=500, help="scenes")


def make_data_set(directory: Path, seed: int, training: int, test: int) -> list[Scene]:
    """Make `directory` with train/ and test/: the test scenes."""
    rng = np.random.default_rng(seed)
    make_scenes(directory / "train", training, rng)
    return make_scenes(directory / "test", test, rng)


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
