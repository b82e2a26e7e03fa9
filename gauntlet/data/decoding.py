"""From encoded bytes to pixels."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from gauntlet.errors import UserError, reason

Pixels = NDArray[np.uint8]

MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Form:
    """The shape that every image is brought to.

    channels: 1 (grey) or 3 (RGB); other modes are converted, transparency is dropped.
    size: height and width in pixels.
    resize: None, and images must have that size as they are; or the length that the shorter side is resized to
        (bilinear, antialiased) before `size` x `size` is cut out of the centre.
    """

    channels: int
    size: int
    resize: int | None = None

    def reading(self) -> dict[str, str | int | None]:
        """The options as they count for a digest."""
        return {"channels": self.channels, "size": self.size, "resize": self.resize}


def decode(data: bytes, form: Form, where: str) -> Pixels:
    """uint8 [size, size, channels].

    Raises:
        UserError: the bytes are no image, hold more than 8 bits a channel, or the image has another size.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode.startswith(("I", "F")):
                raise UserError(f"{where}: the image has more than 8 bits a channel; convert it to 8 bits first")
            plain = image.convert(MODES[form.channels])
    except (UserError, MemoryError):
        raise
    except Exception as cause:  # Pillow's readers raise whatever broken bytes lead them to
        why = "not an image" if isinstance(cause, UnidentifiedImageError) else reason(cause)
        raise UserError(
            f"{where}: the image cannot be decoded ({why}); repair it, or leave it out with dataset.indices"
        ) from None
    if form.resize is not None:
        plain = _centre(plain, form.size, form.resize)
    if plain.size != (form.size, form.size):
        width, height = plain.size
        raise UserError(f"{where}: the image is {width}x{height}, not {form.size}x{form.size}; check dataset.size")
    return np.asarray(plain).reshape(form.size, form.size, form.channels)


def _centre(image: Image.Image, size: int, resize: int) -> Image.Image:
    """Resize the shorter side, then cut out the centre, rounding as the usual ImageNet evaluation does."""
    shorter = min(image.size)
    width, height = (resize if side == shorter else int(resize * side / shorter) for side in image.size)
    scaled = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return scaled.crop((left, top, left + size, top + size))
