"""What defenses that can be certified are made of: the descriptions that their certifiers read."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gauntlet.certification.noise import Gaussian, Noise
from gauntlet.errors import UserError
from gauntlet.threat_model.decision import check_finite, votes
from gauntlet.threat_model.rng import Rng

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
        """Return classes int64 [B, V], of independent draws for images x [B, C, H, W]; draw int64 [B] numbers them.
        The number of classes, K, is a vote for none. Raises UserError where scores are not finite.
        """

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
        return votes(self.network(self.noise(x, rng, draw)))[:, None]

    def radius(self, shares: Floats) -> Floats:
        return self.noise.radius(shares[..., 0])


@dataclass(frozen=True)
class Dual:
    """The class with the largest sum of the shares of two networks, each of which sees another half of the pixels.

    Xia et al. 2024, arXiv 2404.09586. With shares p and q of a class, u = Phi^-1(p) and v = Phi^-1(q), a perturbation
    of length a on one half and b on the other leaves at least Phi(u - a / sigma) + Phi(v - b / sigma), which exceeds
    one, and with it the sum of every other class, as long as a + b < sigma (u + v). The least a^2 + b^2 on that line
    gives the radius sigma (u + v) / sqrt 2, also where one of u and v is negative.

    Args:
        left, right: networks on disjoint pixels, such as `gauntlet.models.half_image.Half`.
        noise: on every pixel, so that the halves of one copy are independent.
    """

    left: nn.Module
    right: nn.Module
    noise: Gaussian

    @property
    def norm(self) -> str:
        return "l2"

    @property
    def voters(self) -> int:
        return 2

    def votes(self, x: Tensor, rng: Rng, draw: Tensor) -> Tensor:
        noisy = self.noise(x, rng, draw)
        return torch.stack([votes(self.left(noisy)), votes(self.right(noisy))], 1)

    def radius(self, shares: Floats) -> Floats:
        radii: Floats = (self.noise.radius(shares[..., 0]) + self.noise.radius(shares[..., 1])) / math.sqrt(2)
        return radii


@dataclass(frozen=True)
class Mixed:
    """(1 - a) g(x) + a h(x) with probabilities g of any network and h = E softmax(scale f(x + noise)), a >= alpha.

    A vote is a class drawn from the softmax of a noisy copy, so that the share of a class is its entry of h. The other
    classes together have 1 - h_y, and g can add at most 1 - a to one of them and nothing to y: where h_y >= 1 / (2 a)
    the mixture predicts y. For Gaussian noise h_y falls along a line no faster than a half-space's share would, so this
    holds up to the radius sigma (Phi^-1(h_y) - Phi^-1(1 / (2 a))), which a half-space attains.

    Args:
        robust: the network f, in eval mode.
        noise: how copies are drawn.
        alpha: the least weight that h can have, wherever an attacker moves the image; in [0.5, 1].
        scale: inverse temperature of f.
    """

    robust: nn.Module
    noise: Gaussian
    alpha: float
    scale: float = 1.0

    @property
    def norm(self) -> str:
        return "l2"

    @property
    def voters(self) -> int:
        return 1

    def votes(self, x: Tensor, rng: Rng, draw: Tensor) -> Tensor:
        logits = self.robust(self.noise(x, rng, draw))
        check_finite(logits)
        chances = (self.scale * logits.double()).softmax(1).cumsum(1)
        high, low = rng.stream("vote").bits((2, 1), draw).unbind(1)
        unit = ((high << 21) | (low >> 11)).double() * 2.0**-53
        drawn: Tensor = (unit >= chances).sum(1, keepdim=True).clamp_max(logits.shape[1] - 1)
        return drawn

    def radius(self, shares: Floats) -> Floats:
        radii: Floats = self.noise.radius(shares[..., 0]) - self.noise.radius(np.array(0.5 / self.alpha))
        return radii


@dataclass(frozen=True)
class Blend:
    """log((1 - a) softmax(g(x)) + a softmax(scale h(x))) of any network g and a network h, a >= alpha; no votes.

    Args:
        robust: the network h, in eval mode.
        alpha: the least weight that h can have, wherever an attacker moves the image; in [0.5, 1].
        scale: inverse temperature of h.
    """

    robust: nn.Module
    alpha: float
    scale: float = 1.0


def check_weight(mechanism: Mixed | Blend) -> None:
    """Raises UserError where any accurate network could overturn the robust one, so that nothing can be certified."""
    if mechanism.alpha <= 0.5:
        raise UserError(
            f"with weight {mechanism.alpha} of the robust network the accurate one decides alone, and no radius above "
            "0 can be certified; take defense.alpha, or alpha_low, above 0.5"
        )
