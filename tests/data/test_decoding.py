import warnings

import numpy as np
import pytest
from PIL import Image

from crescendo.data.decoding import read_image
from crescendo.errors import UserError

ORANGE = (250, 120, 40)
LUMA = 150  # (299 * 250 + 587 * 120 + 114 * 40) / 1000 is 149.75


def pixels(path, in_channels):
    return np.asarray(read_image(path, in_channels)).astype(int)


def plain(mode):
    image = Image.new("RGB", (6, 4), ORANGE)
    if mode == "P":
        return image.quantize(8)
    if mode == "RGBA":
        image.putalpha(128)
        return image
    return image.convert(mode)


@pytest.mark.parametrize(("mode", "extension"), [("RGB", "png"), ("RGBA", "png"), ("P", "png"), ("P", "gif")])
def test_colours_survive_any_encoding(tmp_path, mode, extension):
    path = tmp_path / f"image.{extension}"
    plain(mode).save(path)
    assert pixels(path, 3) == pytest.approx(np.broadcast_to(ORANGE, (4, 6, 3)), abs=1)
    assert pixels(path, 1) == pytest.approx(np.full((4, 6), LUMA), abs=1)


def test_cmyk_becomes_rgb(tmp_path):
    path = tmp_path / "print.jpg"
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(path, quality=95)
    assert pixels(path, 3) == pytest.approx(np.broadcast_to((255, 0, 0), (8, 8, 3)), abs=8)


def test_grey_becomes_what_the_net_takes(tmp_path):
    path = tmp_path / "grey.png"
    Image.new("L", (6, 4), 77).save(path)
    assert (pixels(path, 1) == 77).all()
    assert pixels(path, 3).shape == (4, 6, 3)
    assert (pixels(path, 3) == 77).all()


def test_a_palette_with_transparency_needs_no_warning(tmp_path):
    path = tmp_path / "palette.png"
    plain("P").save(path, transparency=bytes([0, 128]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixels(path, 3) == pytest.approx(np.broadcast_to(ORANGE, (4, 6, 3)), abs=1)


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_16_bits_of_grey_are_scaled_and_not_cut_off(tmp_path, extension):
    path = tmp_path / f"deep.{extension}"
    ramp = np.linspace(0, 65535, 16).astype(np.uint16).reshape(4, 4)
    Image.fromarray(ramp).save(path)
    assert pixels(path, 1).ravel() == pytest.approx(np.linspace(0, 255, 16), abs=1)


@pytest.mark.parametrize(
    ("orientation", "bright"), [(1, (0, 0)), (3, (-1, -1)), (6, (0, -1)), (8, (-1, 0)), (2, (0, -1))]
)
def test_a_rotated_photograph_comes_upright(tmp_path, orientation, bright):
    path = tmp_path / "photograph.jpg"
    array = np.zeros((16, 24), np.uint8)
    array[:8, :8] = 255  # above left
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(array).save(path, exif=exif, quality=95)
    upright = pixels(path, 1)
    assert upright.shape == ((24, 16) if orientation in (6, 8) else (16, 24))
    assert upright[bright] > 200
    assert (upright > 128).mean() == pytest.approx(1 / 6, abs=0.02)


def complete(extension):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return Image.fromarray(noise), f"broken.{extension}"


@pytest.mark.parametrize("extension", ["jpg", "png", "gif", "bmp", "webp", "ppm", "tif"])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_truncated_file_is_named(tmp_path, extension, kept):
    image, name = complete(extension)
    path = tmp_path / name
    image.save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(UserError, match=name):
        read_image(path, 3)


@pytest.mark.parametrize("content", [b"", b"this is text", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_named(tmp_path, content):
    path = tmp_path / "notes.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"notes\.png"):
        read_image(path, 3)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"missing\.png"):
        read_image(tmp_path / "missing.png", 3)
