"""Resized pixels are those of torchvision and Pillow, whatever the filter; defaults leave old digests alone."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional
from torchvision.transforms.functional import InterpolationMode

from gauntlet.data.decoding import Form, decode
from gauntlet.data.digest import canonical
from gauntlet.data.imagefolder import ImageFolder
from gauntlet.data.resizing import INTERPOLATIONS, Resize
from gauntlet.errors import UserError

SHAPES = [(40, 30), (30, 40), (31, 47), (20, 20), (16, 300), (7, 9)]


def image(shape, channels=3):
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, channels), dtype=np.uint8)
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)


def found(of, resize, channels=3):
    sink = io.BytesIO()
    of.save(sink, "PNG")
    return decode(sink.getvalue(), Form(channels, 16, resize), "here")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("crop", ["center", "squash"])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_images_are_resized_as_torchvision_does(shape, crop, interpolation):
    length = [20, 20] if crop == "squash" else [20]
    resized = functional.resize(image(shape), length, InterpolationMode(interpolation))
    expected = np.asarray(functional.center_crop(resized, [16]))
    assert np.array_equal(found(image(shape), Resize(20, interpolation, crop)), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_without_antialias_they_are_those_of_torchvision_on_tensors(shape, channels, interpolation):
    pixels = np.asarray(image(shape, channels)).reshape(*shape, channels)
    planes = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float()
    resized = functional.resize(planes, [20], InterpolationMode(interpolation), antialias=False)
    expected = functional.center_crop(resized, [16]).round().clamp(0, 255).permute(1, 2, 0).numpy()
    mine = found(image(shape, channels), Resize(20, interpolation, antialias=False), channels)
    assert np.array_equal(mine, expected.astype(np.uint8))


def test_the_options_tell_digests_apart_and_the_defaults_leave_them_as_they_were():
    readings = [
        canonical(Form(3, 16, resize).reading())
        for resize in (
            None,
            Resize(20),
            Resize(20, "bicubic"),
            Resize(20, "nearest"),
            Resize(20, "lanczos"),
            Resize(20, crop="squash"),
            Resize(20, antialias=False),
        )
    ]
    assert len(set(readings)) == len(readings)
    assert readings[1] == '{"channels":3,"resize":20,"size":16}'  # as in version 0.1.0
    assert readings[0] == '{"channels":3,"size":16}'


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"resize": 20, "interpolation": "cubic"}, "choose nearest, bilinear, bicubic, lanczos"),
        ({"resize": 20, "crop": "middle"}, "choose center or squash"),
        ({"resize": 20, "interpolation": "lanczos", "antialias": False}, "lanczos is always antialiased"),
        ({"interpolation": "bicubic"}, "there is none; set dataset.resize"),
        ({"antialias": False}, "there is none; set dataset.resize"),
        ({"crop": "squash"}, "there is none; set dataset.resize"),
        ({"resize": 0}, "dataset.resize=0 is below dataset.size=16"),
    ],
)
def test_what_has_no_effect_or_no_meaning_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        ImageFolder(path="somewhere", classes=2, size=16, **options)


def test_a_needle_that_no_memory_holds_is_refused():
    with pytest.raises(UserError, match=r"here: the image of 1x20000 would be resized to 8000x160000000"):
        found(image((20000, 1)), Resize(8000))
