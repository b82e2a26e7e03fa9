"""Rotations and translations of the image."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from gauntlet.threat_model.transformation import TransformationThreat


@dataclass(frozen=True)
class SpatialThreat(TransformationThreat):
    """The image, rotated about its center and then moved, as in Engstrom et al. 2019 (arXiv 1712.02779).

    Values are interpolated bilinearly; what comes in from outside is `low`, black.

    Args:
        norm: "spatial".
        eps: multiple of the limits, > 0.
        low, high, goal, target, factors: as in `Threat`.
        rotation: limit in degrees, to either side, >= 0.
        translation: limit as a share of height and width, in either direction of both, >= 0.

    Raises:
        UserError: a value outside its range.
    """

    KIND: ClassVar[str] = "spatial"
    LIMITS: ClassVar[dict[str, float]] = {"rotation": 180.0, "translation": 1.0}

    norm: str = "spatial"
    eps: str | float = 1.0
    rotation: float = 30.0
    translation: float = 0.1

    @property
    def axes(self) -> tuple[float, ...]:
        """Return the limits of rotation in degrees, and of translation down and to the right, as shares."""
        return self.rotation, self.translation, self.translation

    def transformed(self, x: Tensor, amounts: Tensor) -> Tensor:
        """Return the images, rotated counterclockwise and moved; amounts: degrees, and shares of height and width."""
        height, width = x.shape[2:]
        angle = amounts[:, 0] * (math.pi / 180)
        cos, sin, ratio = angle.cos(), angle.sin(), height / width
        down, right = 2 * amounts[:, 1], 2 * amounts[:, 2]  # in the coordinates of grid_sample, from -1 to 1
        # A pixel of the result shows the place that the inverse motion takes it to: R(-angle) (p - t).
        rows = (
            torch.stack([cos, -sin * ratio, -cos * right + sin * ratio * down], 1),
            torch.stack([sin / ratio, cos, -sin / ratio * right - cos * down], 1),
        )
        grid = functional.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
        return functional.grid_sample(x - self.low, grid, align_corners=False) + self.low
