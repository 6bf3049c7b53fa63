"""Reading image files."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from crescendo.errors import UserError

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})


def read_image(path: Path | str, in_channels: int) -> Image.Image:
    """The image in `path`, upright, in grey (1 channel) or RGB (3).

    Raises:
        UserError: the file cannot be read as an image; names the file and the reason.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            if upright.mode in ("I", "F"):
                raise ValueError(f"its pixels have 32 bits (mode {upright.mode}); save it with 8 or 16")
            return upright.convert("L" if in_channels == 1 else "RGB")
    except UnidentifiedImageError:
        raise UserError(f"{path} is not an image in a format that can be read.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
