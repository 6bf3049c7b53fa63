"""RandAugment: two random operations an image, all at one magnitude.

Cubuk, Zoph, Shlens & Le 2019, "RandAugment: Practical automated data augmentation with a reduced search
space", arXiv:1909.13719. Magnitudes are on the scale of Google's code: 10 is the full strength of its
table, fractions and larger values are allowed, and at 0 an image passes as it is. The operations are those
of the code that EfficientNetV2 was trained with, without Cutout, which the knob random_erasing is.

Deviations, so that a larger magnitude is always a stronger change, as progressive learning needs it: there,
a larger one keeps more bits in posterize and inverts less in solarize, and colour, contrast, brightness and
sharpness are the identity at 5 (here 1 plus or minus 0.9 at 10). Of the operations without a magnitude,
autocontrast and equalize are blended in by it, and invert happens to a share of the images: half inverted, an
image is grey all over. Translations are a share of the side (there 100 px, of about 224), and shears turn
about the centre.
"""

from collections.abc import Callable
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

FULL = 10.0  # the magnitude of the table below
OPERATIONS_AN_IMAGE = 2
NUMBERS = 2 * OPERATIONS_AN_IMAGE  # uniform numbers of an image: which operation and how, for each
GREY_FILL = 128  # of what moves in from outside
FURTHEST = 2 / 3  # share of its side that an image moves at most: Google's 250 of 380 px at magnitude 25

Apply = Callable[[Image.Image, float], Image.Image]


class Operation(NamedTuple):
    """What happens to an image at a magnitude.

    Attributes:
        strength: at magnitude 10, in the unit of `function`.
        varied: what differs from image to image: half of them get the negative strength ("sign"); or the
            strength is the share of the images that the whole of it happens to ("share"); or nothing.
        function: of the image and a strength.
    """

    name: str
    strength: float
    varied: Literal["sign", "share", ""]
    function: Apply

    def apply(self, image: Image.Image, magnitude: float, number: float) -> Image.Image:
        """The image changed; `number`, uniform in [0, 1), is the image's own."""
        strength = self.strength * magnitude / FULL
        if self.varied == "share":
            return self.function(image, 1.0) if number < strength else image
        return self.function(image, -strength if self.varied == "sign" and number < 0.5 else strength)


def _affine(image: Image.Image, matrix: tuple[float, float, float, float, float, float]) -> Image.Image:
    """Each pixel (x, y) of the result is the nearest to (ax + by + c, dx + ey + f), as in Google's code."""
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=_fill(image)
    )


def _fill(image: Image.Image) -> int | tuple[int, ...]:
    bands = len(image.getbands())
    return GREY_FILL if bands == 1 else (GREY_FILL,) * bands


def _rotate(image: Image.Image, degrees: float) -> Image.Image:
    return image.rotate(degrees, Image.Resampling.NEAREST, fillcolor=_fill(image))


def _shear_x(image: Image.Image, share: float) -> Image.Image:
    return _affine(image, (1, share, -share * image.height / 2, 0, 1, 0))


def _shear_y(image: Image.Image, share: float) -> Image.Image:
    return _affine(image, (1, 0, 0, share, 1, -share * image.width / 2))


def _translate_x(image: Image.Image, share: float) -> Image.Image:
    share = max(-FURTHEST, min(share, FURTHEST))
    return _affine(image, (1, 0, share * image.width, 0, 1, 0))


def _translate_y(image: Image.Image, share: float) -> Image.Image:
    share = max(-FURTHEST, min(share, FURTHEST))
    return _affine(image, (1, 0, 0, 0, 1, share * image.height))


def _mapped(image: Image.Image, values: npt.NDArray[np.float64]) -> Image.Image:
    """Each of the 256 levels becomes that of `values`, in every channel."""
    return image.point(values.clip(0, 255).round().astype(int).tolist() * len(image.getbands()))


LEVELS = np.arange(256, dtype=np.float64)


def _posterize(image: Image.Image, bits: float) -> Image.Image:
    """Take bits away, at most 7 of 8; a fraction of a bit goes that share of the way to the next."""
    whole, fraction = divmod(min(bits, 7.0), 1)
    kept, next_kept = (np.floor(LEVELS / 2**taken) * 2**taken for taken in (whole, whole + 1))
    return _mapped(image, kept + fraction * (next_kept - kept))


def _solarize(image: Image.Image, levels: float) -> Image.Image:
    """Invert the brightest `levels` of 256."""
    return _mapped(image, np.where(256 - levels <= LEVELS, 255 - LEVELS, LEVELS))


def _solarize_add(image: Image.Image, levels: float) -> Image.Image:
    """Brighten the darker half."""
    return _mapped(image, np.where(LEVELS < 128, LEVELS + levels, LEVELS))


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Apply:
    """PIL's enhancement by 1 + amount, 0.1 or more as in Google's code: by 0 an image is blank."""

    def apply(image: Image.Image, amount: float) -> Image.Image:
        return kind(image).enhance(max(0.1, 1 + amount))

    return apply


def _blended(whole: Callable[[Image.Image], Image.Image]) -> Apply:
    """An operation without a strength, blended in; 1 is all of it."""

    def apply(image: Image.Image, share: float) -> Image.Image:
        return Image.blend(image, whole(image), min(share, 1.0))

    return apply


OPERATIONS = (
    #         name            at 10   varied   unit: degrees, share of the other side, share of the side,
    Operation("rotate",       30.0,   "sign",  _rotate),
    Operation("shear_x",       0.3,   "sign",  _shear_x),
    Operation("shear_y",       0.3,   "sign",  _shear_y),
    Operation("translate_x",   0.45,  "sign",  _translate_x),
    Operation("translate_y",   0.45,  "sign",  _translate_y),
    #                                          bits, levels of 256, levels,
    Operation("posterize",     4.0,   "",      _posterize),
    Operation("solarize",    256.0,   "",      _solarize),
    Operation("solarize_add", 110.0,  "",      _solarize_add),
    #                                          factors: 1 plus this,
    Operation("contrast",      0.9,   "sign",  _enhanced(ImageEnhance.Contrast)),
    Operation("brightness",    0.9,   "sign",  _enhanced(ImageEnhance.Brightness)),
    Operation("sharpness",     0.9,   "sign",  _enhanced(ImageEnhance.Sharpness)),
    #                                          shares blended in, share of the images
    Operation("autocontrast",  1.0,   "",      _blended(ImageOps.autocontrast)),
    Operation("equalize",      1.0,   "",      _blended(ImageOps.equalize)),
    Operation("invert",        1.0,   "share", _blended(ImageOps.invert)),
    Operation("color",         0.9,   "sign",  _enhanced(ImageEnhance.Color)),
)  # fmt: skip


@cache
def operations_of(channels: int) -> tuple[Operation, ...]:
    """The table; images of one channel have no colour to change."""
    return tuple(each for each in OPERATIONS if channels == 3 or each.name != "color")


def rand_augment(images: Tensor, numbers: npt.NDArray[np.float64], magnitude: float) -> Tensor:
    """Two operations of the table on each image, at one magnitude.

    Args:
        images: uint8 [n, C, H, W], C of 1 or 3.
        numbers: uniform in [0, 1), [n, NUMBERS].
        magnitude: 0 or more; 10 is the table's.

    Returns:
        uint8 [n, C, H, W] in channels_last order; the images themselves at magnitude 0.
    """
    if magnitude == 0:
        return images
    table = operations_of(images.shape[1])
    result = torch.empty_like(images, memory_format=torch.channels_last)
    target = result.permute(0, 2, 3, 1).numpy()
    for index, pixels in enumerate(images.permute(0, 2, 3, 1).numpy()):
        image = Image.fromarray(np.ascontiguousarray(pixels.squeeze()))
        for which, number in numbers[index].reshape(OPERATIONS_AN_IMAGE, 2):
            image = table[int(which * len(table))].apply(image, magnitude, number)
        target[index] = np.asarray(image).reshape(pixels.shape)
    return result
