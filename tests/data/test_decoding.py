import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from crescendo.data import boxes, jpeg
from crescendo.data.decoding import ImageError, read_header, read_image, read_region

ORANGE = (250, 120, 40)
ON_WHITE = (252, 187, 147)  # half of it, half white
LUMA = 150  # (299 * 250 + 587 * 120 + 114 * 40) / 1000 is 149.75


@pytest.fixture
def decoder(request, monkeypatch):
    if request.param == "simplejpeg":
        pytest.importorskip("simplejpeg")
    monkeypatch.setattr(jpeg, "HAS_SIMPLEJPEG", request.param == "simplejpeg")


decoders = pytest.mark.parametrize("decoder", ["pillow", "simplejpeg"], indirect=True)


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
    expected, luma = (ON_WHITE, 202) if mode == "RGBA" else (ORANGE, LUMA)
    assert pixels(path, 3) == pytest.approx(np.broadcast_to(expected, (4, 6, 3)), abs=1)
    assert pixels(path, 1) == pytest.approx(np.full((4, 6), luma), abs=1)


def test_what_is_transparent_is_white_as_a_viewer_shows_it(tmp_path):
    path = tmp_path / "drawing.png"
    Image.new("RGBA", (6, 4), (0, 0, 0, 0)).save(path)
    assert (pixels(path, 3) == 255).all()


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
    plain("P").save(path, transparency=bytes([128, 128]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixels(path, 3) == pytest.approx(np.broadcast_to(ON_WHITE, (4, 6, 3)), abs=1)


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
@decoders
def test_what_is_truncated_is_no_image(tmp_path, decoder, extension, kept):
    image, name = complete(extension)
    path = tmp_path / name
    image.save(path)
    content = path.read_bytes()
    part = content[: int(len(content) * kept)]
    with pytest.raises(ImageError):
        read_image(part, 3)
    with pytest.raises(ImageError):
        read_region(part, (8, 8, 16, 16), (8, 8), 3, (32, 32))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"this is text", "it is not an image in a format that can be read"),
        (b"\x89PNG\r\n\x1a\n", "it is not an image in a format that can be read"),
    ],
)
def test_what_is_no_image_says_why(tmp_path, content, reason):
    path = tmp_path / "notes.png"
    path.write_bytes(content)
    for source in (path, content):
        with pytest.raises(ImageError, match=reason):
            read_image(source, 3)
        with pytest.raises(ImageError, match=reason):
            read_header(source)


def test_what_is_not_there_says_so(tmp_path):
    with pytest.raises(ImageError, match="it is not there"):
        read_image(tmp_path / "missing.png", 3)


def test_the_bytes_count_and_not_the_extension(tmp_path):
    path = tmp_path / "photograph.png"
    plain("RGB").save(path, format="bmp")
    assert read_header(path) == (6, 4, "BMP")
    assert (pixels(path, 3) == ORANGE).all()


def bomb(width, height):
    """A PNG's header that claims this size."""
    image = io.BytesIO()
    Image.new("L", (1, 1)).save(image, format="png")
    content = bytearray(image.getvalue())
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def test_a_decompression_bomb_is_not_decoded():
    with pytest.raises(ImageError, match="too large to be decoded safely"):
        read_header(bomb(30_000, 30_000))
    with pytest.raises(ImageError, match="too large to be decoded safely"):
        read_image(bomb(30_000, 30_000), 3)


@pytest.mark.parametrize("size", [(30_000, 12), (1, 500), (1, 1)])
@pytest.mark.parametrize("extension", ["png", "jpg"])
@decoders
def test_very_wide_and_very_thin_images_are_images(tmp_path, decoder, extension, size):
    path = tmp_path / f"strip.{extension}"
    Image.new("RGB", size, ORANGE).save(path, quality=95)
    assert read_header(path)[:2] == size
    side = min(size)
    region = read_region(path.read_bytes(), (0, 0, side, side), (16, 16), 3, size)
    assert np.asarray(region).astype(int) == pytest.approx(np.broadcast_to(ORANGE, (16, 16, 3)), abs=4)


@pytest.mark.parametrize("extension", ["gif", "png", "webp"])
def test_of_an_animation_the_first_frame_is_read(tmp_path, extension):
    path = tmp_path / f"animation.{extension}"
    frames = [Image.new("RGB", (8, 8), colour) for colour in (ORANGE, "blue", "black")]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, lossless=True)
    assert pixels(path, 3) == pytest.approx(np.broadcast_to(ORANGE, (8, 8, 3)), abs=2)


# parts of images


def photograph(width=320, height=240):
    """Smooth, without repetition: every place looks different, and scaling changes little."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    waves = (np.sin(9 * x + 4 * y), np.cos(7 * y - 3 * x * x), np.sin(11 * x * y + 1))
    return Image.fromarray(np.stack([127 + 100 * wave for wave in waves], 2).astype(np.uint8))


def encoded(image, extension, **options):
    buffer = io.BytesIO()
    image.save(buffer, format={"jpg": "jpeg", "tif": "tiff"}.get(extension, extension), **options)
    return buffer.getvalue()


def by_hand(content, box, size, in_channels=3):
    """The whole image decoded, the box cut out, and that resized."""
    left, top, width, height = box
    whole = read_image(content, in_channels)
    return whole.crop((left, top, left + width, top + height)).resize(size, Image.Resampling.BILINEAR)


def difference(first, second):
    return np.abs(np.asarray(first).astype(float) - np.asarray(second)).mean()


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("box", [(0, 0, 320, 240), (37, 21, 200, 187), (301, 3, 19, 230), (100, 50, 30, 40)])
@decoders
def test_without_scaling_a_region_is_the_one_cut_by_hand(decoder, box, in_channels):
    content = encoded(photograph(), "png")
    region = read_region(content, box, (31, 47), in_channels, (320, 240))
    assert np.array_equal(np.asarray(region), np.asarray(by_hand(content, box, (31, 47), in_channels)))


@pytest.mark.parametrize("reduction", [2, 4, 8])
@pytest.mark.parametrize("in_channels", [1, 3])
@decoders
def test_a_scaled_jpeg_shows_the_same_box(decoder, reduction, in_channels):
    content = encoded(photograph(323, 237), "jpg", quality=95, subsampling=0)
    box = (37, 21, 203, 187)
    size = (203 // reduction, 187 // reduction)
    assert boxes.reduction_for(box, size) == reduction
    region = read_region(content, box, size, in_channels, (323, 237))
    assert difference(region, by_hand(content, box, size, in_channels)) < 0.6
    half_a_pixel = reduction // 2  # of the scaled image
    for aside in (37 - half_a_pixel, 37 + half_a_pixel):
        shifted = by_hand(content, (aside, 21, 203, 187), size, in_channels)
        assert difference(region, shifted) > 1.5 * difference(
            region, by_hand(content, box, size, in_channels)
        )


@pytest.mark.parametrize(
    ("size", "reduction"), [((203, 187), 1), ((102, 93), 1), ((101, 93), 2), ((50, 47), 2)]
)
def test_no_scale_has_fewer_pixels_than_are_asked_for(size, reduction):
    assert boxes.reduction_for((5, 7, 203, 187), size) == reduction


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["jpg", "png", "tif", "webp"])
@decoders
def test_a_region_of_a_turned_photograph_is_that_of_the_upright_one(decoder, orientation, extension):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"jpg": {"quality": 95, "subsampling": 0}, "webp": {"lossless": True}}.get(extension, {})
    content = encoded(photograph(320, 200), extension, exif=exif, **options)
    header = read_header(content)
    assert header[:2] == ((200, 320) if orientation >= 5 else (320, 200))
    box = (20, 40, 100, 120)
    region = read_region(content, box, (25, 40), 3, header[:2])
    assert difference(region, by_hand(content, box, (25, 40))) < 0.6


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("size", [(31, 47), (203, 187), (300, 200)])
def test_an_array_is_resized_as_pillow_does(size, in_channels):
    pixels = np.random.default_rng(0).integers(
        0, 256, (187, 203, 3)[: 2 if in_channels == 1 else 3], np.uint8
    )
    cut = pixels[5:, 11:]  # not contiguous, as boxes are
    expected = np.asarray(Image.fromarray(cut).resize(size, Image.Resampling.BILINEAR)).astype(int)
    resized = jpeg.resize(cut, size)
    assert resized.shape == expected.shape
    assert np.abs(resized - expected).max() <= 1


def test_fast_decoding_is_close_and_never_taken_unasked():
    simplejpeg = pytest.importorskip("simplejpeg")
    content = encoded(photograph(), "jpg", quality=90)
    box, size = (37, 21, 203, 187), (128, 128)
    exact = read_region(content, box, size, 3, (320, 240)).astype(float)
    fast = read_region(content, box, size, 3, (320, 240), fast=True)
    noise = np.mean((exact - fast) ** 2)
    assert 10 * np.log10(255**2 / max(noise, 1e-9)) > 40
    whole = np.asarray(simplejpeg.decode_jpeg(content))[21:208, 37:240]
    assert np.array_equal(exact, jpeg.resize(whole, size))


def turned(orientation, size=(240, 240), **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(photograph(*size), "jpg", exif=exif, quality=95, subsampling=0, **options)


def looks_as_pillow_shows_it(content, box=(20, 40, 100, 120), in_channels=3):
    whole = read_header(content)[:2]
    region = read_region(content, box, (25, 40), in_channels, whole)
    return difference(region, by_hand(content, box, (25, 40), in_channels)) < 0.6


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize(
    "content",
    [
        turned(3),  # a square tells nothing by its size
        turned(2, progressive=True),
        turned(3).replace(b"\xff\xe1", b"\xff\xff\xff\xe1", 1),  # any number of fill bytes may be there
        encoded(photograph(240, 240), "jpg", xmp=XMP, quality=95, subsampling=0),
        encoded(photograph(240, 240), "jpg", quality=95, progressive=True),
        encoded(photograph(240, 240).convert("L"), "jpg", quality=95),
        encoded(photograph(240, 240).convert("L"), "jpg", quality=95, progressive=True),
        encoded(photograph(240, 240), "mpo", save_all=True, append_images=[photograph()], quality=95),
    ],
    ids=["square", "progressive", "filled", "xmp", "coarse", "grey", "grey_progressive", "mpo"],
)
@decoders
def test_every_kind_of_jpeg_looks_as_pillow_shows_it(decoder, content, in_channels):
    assert looks_as_pillow_shows_it(content, in_channels=in_channels)


@decoders
def test_a_jpeg_that_is_cut_anywhere_is_damaged(decoder):
    content = turned(1, (64, 48))
    for end in range(len(content) - 2):
        with pytest.raises(ImageError):
            read_region(content[:end], (0, 0, 48, 48), (16, 16), 3, (64, 48))


@decoders
def test_what_pillow_reads_with_a_complaint_of_libjpeg_is_read(decoder):
    """Bytes that belong to nothing, before a segment."""
    content = encoded(photograph(240, 240), "jpg", quality=95, subsampling=0)
    place = content.index(b"\xff\xdb")
    assert looks_as_pillow_shows_it(content[:place] + b"abc" + content[place:])


def test_a_grey_map_of_16_bits_is_scaled(tmp_path):
    path = tmp_path / "deep.pgm"
    ramp = np.linspace(0, 65535, 16).astype(">u2")
    path.write_bytes(b"P5 4 4 65535\n" + ramp.tobytes())
    assert pixels(path, 1).ravel() == pytest.approx(np.linspace(0, 255, 16), abs=1)


def test_a_file_that_changed_its_size_is_told(tmp_path):
    with pytest.raises(ImageError, match="it has 320x240 px, and had 320x241"):
        read_region(encoded(photograph(), "png"), (0, 0, 9, 9), (3, 3), 3, (320, 241))


def test_a_print_of_cmyk_is_left_to_pillow():
    content = encoded(Image.new("CMYK", (64, 64), (0, 255, 255, 0)), "jpg", quality=95)
    region = np.asarray(read_region(content, (0, 0, 64, 64), (8, 8), 3, (64, 64))).astype(int)
    assert region == pytest.approx(np.broadcast_to((255, 0, 0), (8, 8, 3)), abs=8)
