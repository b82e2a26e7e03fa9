"""Random views of an image, and what the votes on them prove about every image nearby."""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from harness.errors import UserError
from harness.rng import Rng

Floats = NDArray[np.float64]


class Noise(Protocol):
    """A distribution of noisy copies and its radius map.

    Attributes:
        norm: of the ball.
    """

    norm: ClassVar[str]

    def __call__(self, x: Tensor, rng: Rng, draw: Tensor | int) -> Tensor:
        """A noisy copy of each image x [B, C, H, W]; draw: which of its copies, one number or int64 [B]."""

    def radius(self, share: Floats) -> Floats:
        """The ball in which a class keeps more than half of the votes of which it has `share` > 1/2 at the centre.

        Not positive where the share does not exceed 1/2.
        """


@dataclass(frozen=True)
class Gaussian:
    """x + N(0, sigma^2 I): l2 radius sigma Phi^-1(share). Cohen et al. 2019, arXiv 1902.02918.

    Args:
        sigma: in pixels of [0, 1], > 0; it is added before any normalisation.

    Raises:
        UserError: sigma is not a positive number.
    """

    norm: ClassVar[str] = "l2"

    sigma: float = 0.25

    def __post_init__(self) -> None:
        positive("sigma", self.sigma)

    def __call__(self, x: Tensor, rng: Rng, draw: Tensor | int) -> Tensor:
        return x + self.sigma * rng.normal(tuple(x.shape[1:]), draw, dtype=x.dtype)

    def radius(self, share: Floats) -> Floats:
        radii: Floats = self.sigma * special.ndtri(share)
        return radii


def positive(name: str, value: float) -> None:
    """Raises UserError unless the value is a positive finite number."""
    if not (value > 0 and math.isfinite(value)):
        raise UserError(f"{name}={value} must be a positive number: without noise nothing is certified")
