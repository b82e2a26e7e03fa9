"""What a defense that decides by noisy votes is made of: the description that its certifier reads."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from certification.noise import Noise
from harness.rng import Rng

Floats = NDArray[np.float64]


class Mechanism(Protocol):
    """A classifier whose decision depends on probabilities of votes that can be drawn.

    Attributes:
        norm: of the ball that `radius` speaks of.
        voters: networks that vote in one draw, V.
    """

    @property
    def norm(self) -> str: ...

    @property
    def voters(self) -> int: ...

    def votes(self, x: Tensor, rng: Rng, draw: Tensor) -> Tensor:
        """Classes int64 [B, V], of independent draws for images x [B, C, H, W]; draw int64 [B] numbers them."""

    def radius(self, shares: Floats) -> Floats:
        """Shares of the votes for one class, or lower bounds that hold together, [..., V] -> the radius [...] within
        which the classifier predicts that class; not positive where it need not even do so at the image itself."""


@dataclass(frozen=True)
class Smoothed:
    """The class that a network gives most noisy copies (Cohen et al. 2019, arXiv 1902.02918).

    Args:
        network: from images to logits, in eval mode.
        noise: how copies are drawn.
    """

    network: nn.Module
    noise: Noise

    @property
    def norm(self) -> str:
        return self.noise.norm

    @property
    def voters(self) -> int:
        return 1

    def votes(self, x: Tensor, rng: Rng, draw: Tensor) -> Tensor:
        logits: Tensor = self.network(self.noise(x, rng, draw))
        return logits.argmax(1, keepdim=True)

    def radius(self, shares: Floats) -> Floats:
        return self.noise.radius(shares[..., 0])
