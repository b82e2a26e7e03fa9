"""Changes of hue and saturation of the whole image."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gauntlet.errors import UserError
from gauntlet.threat_model.transformation import TransformationThreat


@dataclass(frozen=True)
class ColorThreat(TransformationThreat):
    """The image with the hue of all pixels turned, and their saturation moved, by one amount each.

    In HSV, whose brightness stays, as in the semantic examples of Hosseini and Poovendran 2018 (arXiv 1804.00499).

    Args:
        norm: "color".
        eps: multiple of the limits, > 0.
        low, high, goal, target, factors: as in `Threat`.
        hue: limit in turns of the color wheel, to either side, 0 to 0.5.
        saturation: limit, to either side, 0 to 1; saturation is clipped to [0, 1].

    Raises:
        UserError: a value outside its range, or images that are not red, green and blue.
    """

    KIND: ClassVar[str] = "color"
    LIMITS: ClassVar[dict[str, float]] = {"hue": 0.5, "saturation": 1.0}

    norm: str = "color"
    eps: str | float = 1.0
    hue: float = 0.1
    saturation: float = 0.3

    @property
    def axes(self) -> tuple[float, ...]:
        """Return the limits of hue and saturation."""
        return self.hue, self.saturation

    def check_reach(self, shape: tuple[int, ...]) -> None:
        """Refuse images without three channels; shape: (C, H, W)."""
        if shape[0] != 3:
            raise UserError(f"threat=color changes red, green and blue; these images have {shape[0]} channels")

    def transformed(self, x: Tensor, amounts: Tensor) -> Tensor:
        """Return the images in other colors; amounts: turns of hue and change of saturation."""
        span = self.high - self.low
        hue, saturation, value = _hsv((x - self.low) / span)
        turned = hue + amounts[:, 0].reshape(-1, 1, 1)
        # A grey pixel has no hue to show: it stays grey.
        moved = torch.where(saturation > 0, (saturation + amounts[:, 1].reshape(-1, 1, 1)).clamp(0, 1), 0.0)
        channels = []
        for offset in (5, 3, 1):
            k = (offset + 6 * turned) % 6
            channels.append(value - value * moved * torch.minimum(k, 4 - k).clamp(0, 1))
        return self.low + span * torch.stack(channels, 1)


def _hsv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return hue in [0, 1), saturation and value in [0, 1] of pixels in [0, 1], each [B, H, W]; x: [B, 3, H, W]."""
    red, green, blue = x.unbind(1)
    value, least = x.amax(1), x.amin(1)
    chroma = value - least
    safe = torch.where(chroma > 0, chroma, 1.0)
    sector = torch.where(
        value == red,
        (green - blue) / safe % 6,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    saturation = torch.where(value > 0, chroma / torch.where(value > 0, value, 1.0), 0.0)
    return torch.where(chroma > 0, sector / 6, 0.0), saturation, value
