"""A box of an image that is decoded at a fraction of its size: where it lies there, and what it touches."""

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

Box = tuple[float, float, float, float]  # left, top, width, height in pixels of the upright image
Size = tuple[int, int]  # width, height
Pixels = npt.NDArray[np.uint8]  # [height, width] or [height, width, 3]

REDUCTIONS = (8, 4, 2)  # what every libjpeg decodes at


def reduction_for(box: Box, size: Size) -> int:
    """The largest that leaves a pixel in `box` for each of `size`."""
    enough = min(box[2] / size[0], box[3] / size[1])
    return next((factor for factor in REDUCTIONS if factor <= enough), 1)


def divided(box: Box, reduction: int) -> Box:
    left, top, width, height = box
    return left / reduction, top / reduction, width / reduction, height / reduction


def cut(image: Image.Image, box: Box) -> tuple[Image.Image, Box]:
    """The pixels that a box touches, and its left, top, right and bottom in them."""
    left, top, width, height = box
    x, y = math.floor(left), math.floor(top)
    right, bottom = min(math.ceil(left + width), image.width), min(math.ceil(top + height), image.height)
    ends = min(left - x + width, right - x), min(top - y + height, bottom - y)
    return image.crop((x, y, right, bottom)), (left - x, top - y, *ends)
