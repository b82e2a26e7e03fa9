"""From bytes to pixels, checked against Pillow and torchvision."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps
from torchvision.transforms import functional

from gauntlet.data.decoding import Form, decode, turned
from gauntlet.data.resizing import Resize
from gauntlet.errors import UserError


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind)
    return sink.getvalue()


def test_lossless_images_come_back(pictures, png):
    for channels in (1, 3):
        pixels = pictures(1, 8, channels)[0]
        assert np.array_equal(decode(png(pixels), Form(channels, 8), "here"), pixels)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_modes_are_converted(pictures, mode, channels):
    image = Image.fromarray(pictures(1)[0]).convert(mode)
    pixels = decode(encoded(image, "TIFF" if mode == "CMYK" else "PNG"), Form(channels, 8), "here")
    expected = np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(8, 8, channels)
    assert np.array_equal(pixels, expected)


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (31, 47), (20, 20), (16, 300)])
def test_resizing_is_that_of_torchvision(shape):
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    expected = functional.center_crop(functional.resize(image, [20]), [16])
    found = decode(encoded(image), Form(3, 16, Resize(20)), "here")
    assert np.array_equal(found, np.asarray(expected))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("tag", range(10))
def test_images_are_turned_as_pillow_turns_them(pictures, kind, tag):
    exif = Image.Exif()
    exif[0x0112] = tag
    sink = io.BytesIO()
    Image.fromarray(pictures(1)[0]).save(sink, kind, exif=exif)
    stored = Image.open(io.BytesIO(sink.getvalue()))
    upright = np.asarray(ImageOps.exif_transpose(stored))
    assert np.array_equal(decode(sink.getvalue(), Form(3, 8, upright=True), "here"), upright)
    assert np.array_equal(decode(sink.getvalue(), Form(3, 8), "here"), np.asarray(stored))
    assert turned(sink.getvalue()) == (2 <= tag <= 8 and kind != "TIFF")  # which Pillow itself turns on loading


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_tags_turn_nothing(pictures):
    sink = io.BytesIO()
    Image.fromarray(pictures(1)[0]).save(sink, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert not turned(sink.getvalue())
    assert decode(sink.getvalue(), Form(3, 8, upright=True), "here").shape == (8, 8, 3)


def test_another_size_is_refused(pictures, png):
    with pytest.raises(UserError, match=r"^here: the image is 8x8, not 9x9; check dataset.size"):
        decode(png(pictures(1)[0]), Form(3, 9), "here")


def test_more_than_eight_bits_are_refused():
    image = Image.fromarray(np.full((8, 8), 40000, dtype=np.uint16))
    with pytest.raises(UserError, match="here: the image has more than 8 bits"):
        decode(encoded(image), Form(1, 8), "here")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF"])
def test_broken_bytes_are_a_single_line(pictures, kind):
    whole = encoded(Image.fromarray(pictures(1, 32)[0]), kind)
    for length in (0, 3, len(whole) // 4, len(whole) // 2):
        with pytest.raises(UserError, match=r"^here: the image cannot be decoded \(.+\); repair it") as error:
            decode(whole[:length], Form(3, 32), "here")
        assert "\n" not in str(error.value)
