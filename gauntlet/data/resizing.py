"""Resize images and cut out their center, as Pillow and torchvision do it."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from gauntlet.errors import UserError

LARGEST = 8192
"""Most pixels of a side: an image of that size takes 200 MB."""

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

CROPS = ("center", "squash")

WITHOUT_ANTIALIAS = ("nearest", "bilinear", "bicubic")
"""Interpolations that need not be antialiased; Pillow never does so to `nearest`."""


@dataclass(frozen=True)
class Resize:
    """How images are resized before the center is cut out of them.

    Args:
        length: of the shorter side afterwards, or of both sides.
        interpolation: nearest, bilinear, bicubic or lanczos.
        crop: `center`: the shorter side gets the length, the aspect ratio stays; `squash`: both sides get it.
        antialias: whether the filter widens as the image shrinks, as Pillow does it and torchvision on images; without
            it a pixel depends on its nearest neighbors alone, as in torch's `interpolate` and in OpenCV.
    """

    length: int
    interpolation: str = "bilinear"
    crop: str = "center"
    antialias: bool = True

    def check(self, size: int) -> None:
        """Refuse what leaves nothing to cut `size` from, what no memory holds, and what is unknown."""
        if self.length < size:
            raise UserError(
                f"dataset.resize={self.length} is below dataset.size={size}; give at least the size, or null"
            )
        if self.length > LARGEST:
            raise UserError(f"dataset.resize={self.length} is more than {LARGEST} pixels; give at most that")
        if self.interpolation not in INTERPOLATIONS:
            raise UserError(
                f"dataset.interpolation={self.interpolation} is unknown; choose {', '.join(INTERPOLATIONS)}"
            )
        if self.crop not in CROPS:
            raise UserError(f"dataset.crop={self.crop} is unknown; choose {' or '.join(CROPS)}")
        if not self.antialias and self.interpolation not in WITHOUT_ANTIALIAS:
            raise UserError(
                f"dataset.interpolation={self.interpolation} is always antialiased; leave dataset.antialias=true, or "
                f"choose {', '.join(WITHOUT_ANTIALIAS)}"
            )

    def reading(self) -> dict[str, str | int | None]:
        """Return the options as they count for a digest: what is as in version 0.1.0 is null, and so does not."""
        plain = self.antialias or self.interpolation == "nearest"
        return {
            "resize": self.length,
            "interpolation": None if self.interpolation == "bilinear" else self.interpolation,
            "crop": None if self.crop == "center" else self.crop,
            "antialias": None if plain else "none",
        }

    def __call__(self, image: Image.Image, size: int) -> Image.Image:
        """Return the center of the resized image, rounding as the usual ImageNet evaluation does.

        Raises:
            UserError: the image is so narrow that its longer side would be beyond all memory.
        """
        shorter = min(image.size)
        width, height = (
            self.length if self.crop == "squash" or side == shorter else int(self.length * side / shorter)
            for side in image.size
        )
        if width * height > LARGEST**2:
            raise UserError(
                f"the image of {image.width}x{image.height} would be resized to {width}x{height}; leave it out with "
                "dataset.indices, or set dataset.crop=squash"
            )
        scaled = self._scaled(image, width, height)
        left, top = round((width - size) / 2), round((height - size) / 2)
        return scaled.crop((left, top, left + size, top + size))

    def _scaled(self, image: Image.Image, width: int, height: int) -> Image.Image:
        if self.antialias or self.interpolation == "nearest":
            return image.resize((width, height), INTERPOLATIONS[self.interpolation])
        pixels = torch.from_numpy(np.array(image, np.float32).reshape(1, image.height, image.width, -1))
        scaled = functional.interpolate(
            pixels.permute(0, 3, 1, 2), (height, width), mode=self.interpolation, align_corners=False
        )
        rounded = scaled.round().clamp(0, 255).to(torch.uint8)[0].permute(1, 2, 0).contiguous().numpy()
        return Image.fromarray(rounded[..., 0] if image.mode == "L" else rounded)
