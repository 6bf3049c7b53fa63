"""Reading a part of an image file at the size that is needed, and no more of it than that takes.

A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that still has a pixel for each that is asked for: by
Pillow's draft mode, or by simplejpeg (libjpeg-turbo) where it is installed: pip install "crescendo[jpeg]".
Scaled decoding maps each block of s x s pixels to one, so that a box divided by s is the same box.
"""

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from crescendo.data import jpeg
from crescendo.data.boxes import Box, Pixels, Size, cut, divided, reduction_for

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
ORIENTATION = 0x0112  # the EXIF tag

# What brings an image that was stored with an EXIF orientation upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What Pillow's readers raise on content that is damaged.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    NotImplementedError,
    struct.error,
    zlib.error,
)


class ImageError(ValueError):
    """An image that cannot be read. The message is the reason.

    Attributes:
        index: which one, as far as that is known.
    """

    def __init__(self, reason: str, index: int = -1) -> None:
        super().__init__(reason, index)
        self.index = index

    def __str__(self) -> str:
        return str(self.args[0])


class Header(NamedTuple):
    """What an image file says before its pixels; width and height are of the upright image."""

    width: int
    height: int
    format: str


def read_content(path: Path) -> bytes:
    """The bytes of an image file.

    Raises:
        ImageError: they cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError("it is not there") from None
    except OSError as error:
        raise ImageError(f"it cannot be read ({error.strerror or error})") from error


def read_header(source: Path | bytes) -> Header:
    """Size and format of an image; its pixels are not decoded.

    Raises:
        ImageError: it is no image, or too large.
    """
    with _open(source) as image:
        width, height = _upright_size(image.size, _orientation(image))
        return Header(width, height, str(image.format))


def read_image(source: Path | bytes, in_channels: int | None) -> Image.Image:
    """A whole image, upright, in grey (1 channel) or RGB (3), or in what it is of these (None).

    Raises:
        ImageError: it cannot be read.
    """
    with _open(source) as image:
        orientation = _orientation(image)
        try:
            return _upright(_colours(image, in_channels), orientation)
        except DAMAGE as error:
            raise ImageError(_reason(error)) from error


def read_region(
    content: bytes, box: Box, size: Size, in_channels: int, whole: Size, *, fast: bool = False
) -> Pixels:
    """The part of an image in `box`, upright, at `size`, in grey (1 channel) or RGB (3).

    Antialiased bilinear; pixels outside of the box have no part in it, or a fraction of one where it ends
    inside a pixel.

    Args:
        content: an image file's bytes.
        whole: the size that `box` was chosen for.
        fast: see crescendo.data.jpeg; Pillow has no such thing.

    Raises:
        ImageError: it cannot be read, or has another size than `whole`.
    """
    if jpeg.is_plain(content, whole):
        plain = jpeg.read_part(content, box, size, in_channels, whole, fast=fast)
        if plain is not None:
            return plain  # else Pillow says whether it can be read all the same
    with _open(content) as image:
        orientation = _orientation(image)
        upright = _upright_size(image.size, orientation)
        if upright != whole:
            raise ImageError(f"it has {upright[0]}x{upright[1]} px, and had {whole[0]}x{whole[1]}")
        box = _as_stored(box, upright, orientation)
        wanted = size[::-1] if orientation >= 5 else size
        try:
            part = None
            if jpeg.HAS_SIMPLEJPEG and isinstance(image, JpegImageFile) and image.mode in ("L", "RGB"):
                part = jpeg.read_part(content, box, wanted, in_channels, image.size, fast=fast)
            if part is not None and orientation == 1:
                return part
            seen = _part(image, box, wanted, in_channels) if part is None else Image.fromarray(part)
            return np.asarray(_upright(seen, orientation))
        except DAMAGE as error:
            raise ImageError(_reason(error)) from error


def _open(source: Path | bytes) -> ImageFile.ImageFile:
    """The header alone is read, whatever the name ends in."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of half a bomb, and of tags that do not matter
            image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except FileNotFoundError:
        raise ImageError("it is not there") from None
    except UnidentifiedImageError:
        empty = not (source if isinstance(source, bytes) else source.stat().st_size)
        raise ImageError(
            "it is empty" if empty else "it is not an image in a format that can be read"
        ) from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # Pillow's
        raise ImageError(f"it is too large to be decoded safely: more than {limit:,} pixels") from None
    except DAMAGE as error:
        raise ImageError(_reason(error)) from error
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):  # whose I has 16 bits
        image.close()
        raise ImageError(f"it has pixels of 32 bits (mode {image.mode}); save it with 8 or 16")
    return image


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"it cannot be read ({error.strerror})"
    return f"its content is damaged ({error or type(error).__name__})"


def _orientation(image: ImageFile.ImageFile) -> int:
    """1 to 8 as EXIF has it. Pillow turns TIFF itself, and looks for a PNG's behind all of its pixels."""
    if isinstance(image, TiffImageFile) or (image.format == "PNG" and "exif" not in image.info):
        return 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            orientation = image.getexif().get(ORIENTATION, 1)
    except DAMAGE:
        return 1  # the picture is not at fault
    return orientation if orientation in UPRIGHT else 1


def _upright_size(stored: Size, orientation: int) -> Size:
    return (stored[1], stored[0]) if orientation >= 5 else stored


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _as_stored(box: Box, upright: Size, orientation: int) -> Box:
    """Where a box of the upright image lies in the stored one."""
    left, top, width, height = box
    right, bottom = upright[0] - left - width, upright[1] - top - height  # from the other two sides
    left, top = {
        1: (left, top),
        2: (right, top),
        3: (right, bottom),
        4: (left, bottom),
        5: (top, left),
        6: (top, right),
        7: (bottom, right),
        8: (bottom, left),
    }[orientation]
    return (left, top, height, width) if orientation >= 5 else (left, top, width, height)


def _part(image: ImageFile.ImageFile, box: Box, size: Size, in_channels: int) -> Image.Image:
    """What is in `box` of an image, decoded by Pillow."""
    reduction = reduction_for(box, size) if isinstance(image, JpegImageFile) else 1
    if reduction > 1:
        image.draft("L" if in_channels == 1 else None, (image.width // reduction, image.height // reduction))
    part, inner = cut(image, divided(box, reduction))
    return _colours(part, in_channels).resize(size, Image.Resampling.BILINEAR, inner)


def _colours(image: Image.Image, in_channels: int | None) -> Image.Image:
    """Grey or RGB of 8 bits; transparent parts lie on white, as a viewer shows them."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        drawing = image.convert("RGBA")
        image = Image.new("RGBA", drawing.size, "white")
        image.alpha_composite(drawing)
    if in_channels is None:
        in_channels = 1 if image.mode in ("1", "L") else 3
    return image.convert("L" if in_channels == 1 else "RGB")
