"""Parts of JPEGs by simplejpeg (libjpeg-turbo), where it is installed: pip install "crescendo[jpeg]"."""

from importlib.util import find_spec

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from crescendo.data.boxes import Box, Pixels, Size, cut, divided, reduction_for

HAS_SIMPLEJPEG = find_spec("simplejpeg") is not None
BEGIN = b"\xff\xd8"
FILL, START_OF_SCAN, APPLICATION = b"\xff", b"\xda", b"\xe1"  # behind the 0xff of a marker


def is_plain(content: bytes, whole: Size) -> bool:
    """Whether simplejpeg sees it as Pillow does: a JPEG of the size `whole`, upright, in grey or RGB."""
    if not HAS_SIMPLEJPEG or not content.startswith(BEGIN) or _may_be_turned(content):
        return False
    import simplejpeg

    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return False
    return (width, height) == whole and colours in ("Gray", "RGB", "YCbCr")


def _may_be_turned(content: bytes) -> bool:
    """Whether a segment before the pixels is of the kind that EXIF and XMP are, or they are not come to."""
    place = len(BEGIN)
    while content[place : place + 1] == b"\xff":
        marker = content[place + 1 : place + 2]
        if marker == START_OF_SCAN:
            return False
        if marker in (APPLICATION, b""):
            return True
        length = 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        place += 1 if marker == FILL else length
    return True


def read_part(
    content: bytes, box: Box, size: Size, in_channels: int, whole: Size, *, fast: bool = False
) -> Pixels | None:
    """What is in `box` of a JPEG of the size `whole`, as stored; None where libjpeg has any complaint.

    Args:
        fast: take the fast transform and upsampling: a sixth of the decoding less, for some 45 dB of noise.
    """
    reduction = reduction_for(box, size)
    box = divided(box, reduction)
    left, top, width, height = box
    exact = all(value.is_integer() for value in box)
    colours = "GRAY" if in_channels == 1 else "RGB" if exact else "RGBX"
    pixels = _decode(content, colours, whole, reduction, fast)
    if pixels is None:
        return None
    if exact:
        return resize(pixels[int(top) : int(top + height), int(left) : int(left + width)], size)
    # Pillow alone resizes parts of pixels. The fourth byte lets it take the array without a copy.
    mode, packed = ("L", "L") if in_channels == 1 else ("RGBX", "RGB")
    part, inner = cut(Image.frombuffer(mode, pixels.shape[1::-1], pixels, "raw", mode, 0, 1), box)
    resized = part.resize(size, Image.Resampling.BILINEAR, inner).tobytes("raw", packed)
    return np.frombuffer(resized, np.uint8).reshape(*size[::-1], *([] if mode == "L" else [3]))


def _decode(content: bytes, colours: str, whole: Size, reduction: int, fast: bool) -> Pixels | None:
    """A JPEG at 1 / `reduction` of `whole`, which is its size."""
    import simplejpeg

    width, height = -(-whole[0] // reduction), -(-whole[1] // reduction)
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(
            content,
            colorspace=colours,
            min_width=width,
            min_height=height,
            fastdct=fast,
            fastupsample=fast,
        )
    except ValueError:
        return None
    if pixels.shape[:2] != (height, width):
        return None
    return pixels[:, :, 0] if colours == "GRAY" else pixels


def resize(pixels: Pixels, size: Size) -> Pixels:
    """Antialiased bilinear, as Pillow's to the last bit but one, in a third of its time."""
    images = torch.from_numpy(np.atleast_3d(pixels))[None].permute(0, 3, 1, 2)  # seen to be channels_last
    resized = F.interpolate(images, size[::-1], mode="bilinear", antialias=True)
    array: Pixels = resized[0].permute(1, 2, 0).numpy()
    return array if pixels.ndim == 3 else array[:, :, 0]
