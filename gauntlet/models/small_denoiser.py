"""A small network from images to images, which adds what it believes to be missing."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from gauntlet.errors import UserError
from gauntlet.models.layers import positive


class SmallDenoiser(nn.Module):
    """3x3 convolutions with ReLU at the resolution of the images; the last one's output is added to the image.

    Args:
        channels: of the images.
        width: channels inside.
        depth: convolutions, at least 2. Each sees one pixel further.

    Raises:
        UserError: a number that is out of range.
    """

    def __init__(self, channels: int, width: int = 32, depth: int = 5) -> None:
        super().__init__()
        positive(channels=channels, width=width)
        if depth < 2:
            raise UserError(f"model.depth={depth} must be at least 2")
        sizes = [channels, *[width] * (depth - 1)]
        inside = [(nn.Conv2d(a, b, 3, padding=1), nn.ReLU()) for a, b in pairwise(sizes)]
        self.layers = nn.Sequential(
            *(layer for pair in inside for layer in pair), nn.Conv2d(width, channels, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Pixels [B, channels, H, W] to the same form, in [0, 1]."""
        return torch.clamp(x + self.layers(x), 0, 1)
