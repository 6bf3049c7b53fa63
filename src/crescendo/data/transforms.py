"""From stored images to a uint8 batch at the resolution of the draw.

Every random number is addressed by (seed, epoch, index): see crescendo.randomness. Images stay uint8
here; normalisation, mixup, cutmix and erasing happen on the device.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as vision

from crescendo.data import randaugment
from crescendo.data.boxes import Pixels, Size
from crescendo.data.decoding import ImageError
from crescendo.data.sampler import Draws
from crescendo.errors import UserError
from crescendo.randomness import uniform

Numbers = npt.NDArray[np.float64]
Box = tuple[int, int, int, int]  # left, top, width, height in pixels

CROP_RATIO = (3 / 4, 4 / 3)  # width over height, Szegedy et al. 2014, section 6
CROP_ATTEMPTS = 10

# ImageNet's principal components of RGB values in 0..1 (Krizhevsky et al. 2012, section 4.1)
RGB_EIGENVALUES = torch.tensor([0.2175, 0.0188, 0.0045])
RGB_EIGENVECTORS = torch.tensor(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)

# The uniform numbers of a sample, by what they decide.
FLIP, SHIFT, LIGHT, PLACE = 0, slice(1, 3), slice(3, 9), slice(9, 11)
CROP = slice(11, 11 + 2 * CROP_ATTEMPTS)
RANDAUGMENT = slice(CROP.stop, CROP.stop + randaugment.NUMBERS)
NUMBERS = RANDAUGMENT.stop
REPEAT = 2**32  # more than there are epochs: each repeat of an image within one has an address of its own


class Regions(Protocol):
    """Images that are not in memory, and that hand out parts of themselves."""

    def size(self, index: int) -> Size:
        """Of the upright image, without decoding it. Raises ImageError."""
        ...

    def region(self, index: int, box: Box, size: Size, *, fast: bool) -> Pixels:
        """What is in `box`, at `size`; `fast` allows a little noise. Raises ImageError."""
        ...


@dataclass(frozen=True)
class Augmentation:
    """A data set's base augmentation, the same at every stage.

    Attributes:
        shift: largest translation as a share of the side, in whole pixels, zeros moving in.
        flip: mirror left and right for half of the images.
        crop_area: range of the share of the area that a random crop covers (Szegedy et al. 2014);
            None takes the whole image, its middle square if it is not square.
        lighting: standard deviation of AlexNet's colour shift along the principal components.
    """

    shift: float = 0.0
    flip: bool = False
    crop_area: Sequence[float] | None = None
    lighting: float = 0.0


@dataclass(frozen=True)
class Transform:
    """How the images of one data set become a batch [n, C, R, R] of uint8, in channels_last order.

    Attributes:
        in_channels: 1 or 3.
        fit: "resize" stretches or shrinks to R; "pad" only shrinks, and centres on black.
        eval_crop: share of the short side that evaluation sees, cut from the centre.
        augmentation: for draws with an epoch.
        seed: of the augmentation.
    """

    in_channels: int
    fit: Literal["resize", "pad"] = "resize"
    eval_crop: float = 1.0
    augmentation: Augmentation = Augmentation()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.augmentation.lighting > 0 and self.in_channels != 3:
            raise UserError(
                f"data.augmentation.lighting={self.augmentation.lighting:g} shifts colours along RGB's "
                f"principal components: images of data.in_channels={self.in_channels} have none. Set it to 0."
            )
        if self.fit == "pad" and (self.augmentation.crop_area is not None or self.eval_crop < 1):
            raise UserError(
                "data.fit=pad shows whole images: it needs data.augmentation.crop_area=null and "
                "data.eval_crop=1.0."
            )

    def numbers(self, draws: Draws) -> Numbers | None:
        """The draws' random numbers [n, NUMBERS]; None in evaluation."""
        if draws.epoch is None:
            return None
        epochs = draws.epoch if draws.repeats is None else draws.epoch + REPEAT * draws.repeats
        return uniform(self.seed, epochs, draws.indices, NUMBERS)

    def stored(self, images: Tensor, draws: Draws) -> Tensor:
        """A batch from equally large stored images, uint8 [n, C, H, W]."""
        numbers = self.numbers(draws)
        height, width = images.shape[-2:]
        if numbers is not None and self.augmentation.crop_area is not None:
            boxes = [self._box(width, height, row) for row in numbers]
            cut = [vision.crop(image, *_corner(box)) for image, box in zip(images, boxes, strict=True)]
            images = torch.stack([self._fit(image[None], draws.resolution)[0] for image in cut])
            return self._augment(images, numbers, draws, shift=True)
        if self.fit == "resize":
            share = self.eval_crop if numbers is None else 1.0
            images = vision.crop(images, *_corner(_centre(width, height, share)))
        if numbers is not None:
            images = _shift(images, numbers[:, SHIFT], self.augmentation.shift)
        images = self._fit(images, draws.resolution)
        return images if numbers is None else self._augment(images, numbers, draws, shift=False)

    def read(self, regions: Regions, draws: Draws) -> Tensor:
        """A batch from images of any size, of which no more is read than what it shows.

        Raises:
            ImageError: one cannot be read; tells its index.
        """
        numbers = self.numbers(draws)
        rows = [None] * len(draws.indices) if numbers is None else numbers
        side = draws.resolution
        batch = np.zeros((len(draws.indices), side, side, self.in_channels), dtype=np.uint8)
        for pixels, index, row in zip(batch, draws.indices.tolist(), rows, strict=True):
            try:
                image = self._read(regions, index, row, side)
            except ImageError as error:
                raise ImageError(str(error), index) from error
            height, width = image.shape[:2]
            top, left = (side - height) // 2, (side - width) // 2
            pixels[top : top + height, left : left + width] = image.reshape(height, width, -1)
        images = torch.from_numpy(batch).permute(0, 3, 1, 2)
        return images if numbers is None else self._augment(images, numbers, draws, shift=True)

    def _read(self, regions: Regions, index: int, row: Numbers | None, resolution: int) -> Pixels:
        width, height = regions.size(index)
        if self.fit == "pad":
            scale = min(1.0, resolution / max(width, height))
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            return regions.region(index, (0, 0, width, height), size, fast=row is not None)
        box = self._box(width, height, row)
        return regions.region(index, box, (resolution, resolution), fast=row is not None)

    def _box(self, width: int, height: int, row: Numbers | None) -> Box:
        if row is None:
            return _centre(width, height, self.eval_crop)
        if self.augmentation.crop_area is None:
            return _centre(width, height, 1.0)
        return random_crop(width, height, row, self.augmentation.crop_area)

    def _fit(self, images: Tensor, resolution: int) -> Tensor:
        height, width = images.shape[-2:]
        size = [resolution, resolution]
        if self.fit == "pad":
            scale = min(1.0, resolution / max(height, width))
            size = [max(1, round(height * scale)), max(1, round(width * scale))]
        if size != [height, width]:
            images = vision.resize(images, size, antialias=True)
        return _pad_to(images, resolution).contiguous(memory_format=torch.channels_last)

    def _augment(self, images: Tensor, numbers: Numbers, draws: Draws, *, shift: bool) -> Tensor:
        if shift:
            images = _shift(images, numbers[:, SHIFT], self.augmentation.shift)
        if self.augmentation.flip:
            images = images.clone()
            for place in np.flatnonzero(numbers[:, FLIP] < 0.5).tolist():
                images[place] = images[place].flip(2)  # one by one is faster than a batch
        images = randaugment.rand_augment(images, numbers[:, RANDAUGMENT], draws.randaugment)
        if self.augmentation.lighting > 0:
            images = _light(images, numbers[:, LIGHT], self.augmentation.lighting)
        return images.contiguous(memory_format=torch.channels_last)


def random_crop(width: int, height: int, row: Numbers, area: Sequence[float]) -> Box:
    """A box by the rule of torchvision's RandomResizedCrop, from a row of uniform numbers.

    Ten tries at a box of a share of the area in `area` and a ratio in CROP_RATIO; if none fits, the
    largest box in the centre with the nearest ratio.
    """
    low, high = math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])
    place, tries = row[PLACE].tolist(), row[CROP].reshape(CROP_ATTEMPTS, 2).tolist()
    for of_area, of_ratio in tries:
        pixels = width * height * (area[0] + of_area * (area[1] - area[0]))
        ratio = math.exp(low + of_ratio * (high - low))
        wide, tall = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            return int(place[0] * (width - wide + 1)), int(place[1] * (height - tall + 1)), wide, tall
    wide = min(width, max(1, round(height * CROP_RATIO[1])))
    tall = min(height, max(1, round(width / CROP_RATIO[0])))
    return (width - wide) // 2, (height - tall) // 2, wide, tall


def _centre(width: int, height: int, share: float) -> Box:
    """A square box of `share` of the short side, in the centre."""
    side = max(1, round(min(width, height) * share))
    return (width - side) // 2, (height - side) // 2, side, side


def _corner(box: Box) -> tuple[int, int, int, int]:
    """A box in torchvision's order: top, left, height, width."""
    left, top, width, height = box
    return top, left, height, width


def _pad_to(images: Tensor, resolution: int) -> Tensor:
    height, width = images.shape[-2:]
    if (height, width) == (resolution, resolution):
        return images
    top, left = (resolution - height) // 2, (resolution - width) // 2
    return F.pad(images, (left, resolution - width - left, top, resolution - height - top))


def _shift(images: Tensor, numbers: Numbers, share: float) -> Tensor:
    """Translate each image by up to `share` of its side in both directions."""
    height, width = images.shape[-2:]
    reach = int(share * min(height, width) + 0.5)
    if reach == 0:
        return images
    offsets = torch.from_numpy((numbers * (2 * reach + 1)).astype(np.int64))  # 0 .. 2 reach
    rows = torch.arange(height) + offsets[:, 0, None]
    columns = torch.arange(width) + offsets[:, 1, None]
    each = torch.arange(len(images))[:, None, None]
    padded = F.pad(images, (reach, reach, reach, reach))
    return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _light(images: Tensor, numbers: Numbers, deviation: float) -> Tensor:
    """AlexNet's colour shift: normal multiples (Box-Muller) of the principal components of RGB."""
    radius = np.sqrt(-2 * np.log1p(-numbers[:, :3]))
    normal = torch.from_numpy(radius * np.cos(2 * math.pi * numbers[:, 3:])).float()
    colour = (normal * deviation * RGB_EIGENVALUES) @ RGB_EIGENVECTORS.T * 255
    lit = images.float() + colour[:, :, None, None]
    return lit.round_().clamp_(0, 255).to(torch.uint8)
