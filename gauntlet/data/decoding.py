"""Decode images: from bytes to pixels."""

import io
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from gauntlet.data.resizing import Resize
from gauntlet.errors import UserError, reason

log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]

MODES = {1: "L", 3: "RGB"}

ORIENTATION = 0x0112
"""The EXIF tag that says how the stored pixels are turned."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Orientation -> what brings the image upright, as in Pillow's `ImageOps.exif_transpose`; 1 is upright."""

_MARKS = (b"xif", b"XIF", b"XIf", b"rientation", b"xmp")
"""One of these stands in every file that can hold an orientation: EXIF, eXIf, XMP."""


@dataclass(frozen=True)
class Form:
    """What every image is brought to.

    channels: 1 (gray) or 3 (RGB); other modes are converted, transparency is dropped.
    size: height and width in pixels.
    resize: None, and images must have that size as they are; or how they are resized and cut.
    upright: whether images are turned as their EXIF orientation says.
    border: pixels that are cut off at every side before the resize.
    """

    channels: int
    size: int
    resize: Resize | None = None
    upright: bool = False
    border: int = 0

    def reading(self) -> dict[str, str | int | None]:
        """Return the options as they count for a digest; whether an image is stored turned counts by itself."""
        resized = self.resize.reading() if self.resize else {"resize": None}
        return {"channels": self.channels, "size": self.size, **resized, "border": self.border or None}


def decode(data: bytes, form: Form, where: str) -> Pixels:
    """Return the pixels of an encoded image, uint8 [size, size, channels].

    Raises:
        UserError: the bytes are no image, hold more than 8 bits a channel, or the image has another size.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode.startswith(("I", "F")):
                raise UserError(f"{where}: the image has more than 8 bits a channel; convert it to 8 bits first")
            image.load()  # TIFF is turned by Pillow here
            turn = TURNS.get(orientation(image))
            plain = image.convert(MODES[form.channels])
    except (UserError, MemoryError):
        raise
    except Exception as cause:  # Pillow's readers raise whatever broken bytes lead them to
        why = "not an image" if isinstance(cause, UnidentifiedImageError) else reason(cause)
        raise UserError(
            f"{where}: the image cannot be decoded ({why}); repair it, or leave it out with dataset.indices"
        ) from None
    if turn is not None and form.upright:
        plain = plain.transpose(turn)
    elif turn is not None:
        _say_turned()
    if form.border:
        plain = _without_border(plain, form.border, where)
    if form.resize is not None:
        try:
            plain = form.resize(plain, form.size)
        except UserError as cause:
            raise UserError(f"{where}: {cause}") from None
    if plain.size != (form.size, form.size):
        width, height = plain.size
        raise UserError(f"{where}: the image is {width}x{height}, not {form.size}x{form.size}; check dataset.size")
    return np.asarray(plain).reshape(form.size, form.size, form.channels)


def _without_border(image: Image.Image, border: int, where: str) -> Image.Image:
    """Return the image without its outermost pixels. Raises UserError where nothing is left of it."""
    width, height = image.size
    if min(width, height) <= 2 * border:
        raise UserError(
            f"{where}: nothing is left of {width}x{height} pixels without a border of {border}; set dataset.border"
        )
    return image.crop((border, border, width - border, height - border))


@cache
def _say_turned() -> None:
    """Say once that images are read as they are stored."""
    log.warning(
        "some images are stored turned, and read as they are stored, as torchvision does; dataset.upright=true turns "
        "them as their EXIF orientation says"
    )


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an opened image; 1, upright, where it says none or its tags are damaged."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged tags lead Pillow's parsers anywhere, and say nothing about the pixels
        return 1
    return found if isinstance(found, int) else 1


def turned(data: bytes) -> bool:
    """Return whether encoded bytes are an image that `decode` turns; False for what is no image."""
    if not any(mark in data for mark in _MARKS):
        return False
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.format != "TIFF" and orientation(image) in TURNS
    except Exception:  # reading the image names the damage
        return False


def in_order(
    rows: NDArray[np.int64],
    encoded: Sequence[tuple[int, Any]],
    decoded: Callable[[tuple[int, Any]], Pixels],
    form: Form,
    spread: Callable[..., Iterable[Pixels]] = map,
) -> Pixels:
    """Return the images of rows that are read forward from files, uint8 [B, size, size, channels], ordered as `rows`.

    Args:
        encoded: row and bytes of each image, by ascending row.
        decoded: makes pixels of one of them.
        spread: `map`, or one that works in several threads.
    """
    pixels = np.empty((len(rows), form.size, form.size, form.channels), np.uint8)
    order = np.argsort(rows, kind="stable")
    for position, image in zip(order.tolist(), spread(decoded, encoded), strict=True):
        pixels[position] = image
    return pixels
