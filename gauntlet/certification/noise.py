"""Random views of an image, and what the votes on them prove about every image nearby."""

import math
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cache
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.rng import Rng

Floats = NDArray[np.float64]


class Noise(Protocol):
    """A distribution of noisy copies and its radius map.

    Attributes:
        norm: of the ball.
    """

    norm: ClassVar[str]

    def __call__(self, x: Tensor, rng: Rng, draw: Tensor | int) -> Tensor:
        """Return a noisy copy of each image x [B, C, H, W]; draw: which of its copies, one number or int64 [B]."""

    def radius(self, share: Floats) -> Floats:
        """Return the ball in which a class keeps more than half of the votes of which it has `share` > 1/2 at the
        center.

        Not positive where the share does not exceed 1/2.
        """


@dataclass(frozen=True)
class Gaussian(Knobs):
    """x + N(0, sigma^2 I): l2 radius sigma Phi^-1(share). Cohen et al. 2019, arXiv 1902.02918.

    Args:
        sigma: in pixels of [0, 1], > 0; it is added before any normalization.

    Raises:
        UserError: sigma is not a positive number.
    """

    norm: ClassVar[str] = "l2"

    sigma: float = knob(0.25, above=0, hint="without noise nothing is certified")

    def __call__(self, x: Tensor, rng: Rng, draw: Tensor | int) -> Tensor:
        return x + self.sigma * rng.normal(tuple(x.shape[1:]), draw, dtype=x.dtype)

    def radius(self, share: Floats) -> Floats:
        radii: Floats = self.sigma * special.ndtri(share)
        return radii


@dataclass(frozen=True)
class GridGaussian(Gaussian):
    """Gaussian noise whose sampled form is exact: the network sees images rounded to whole steps.

    In floating point x + noise gives away the low bits of x, and certificates of such samples can be false (Voracek and
    Hein 2023). Here f(round(x + noise)) is certified and deployed, at every x. Of an image in whole steps round(x +
    noise) = x + round(noise): whole numbers of steps, drawn from 60 random bits with the probabilities of their cells,
    which are rounded to 2^-60: of 100,000 draws of 3072 pixels all are exact but for a probability of 2e-7. Anywhere
    else the same bits give the noise itself, in float64, and the sum is rounded once; no certificate is issued there,
    but those nearby speak of it.

    Args:
        sigma: as of `Gaussian`.
        steps: of a unit of brightness, >= 1; images must lie on them.

    Raises:
        UserError: a value outside its range.
    """

    steps: int = knob(255, least=1, hint="of a unit of brightness, 255 for bytes")

    def __call__(self, x: Tensor, rng: Rng, draw: Tensor | int) -> Tensor:
        most, below = cells(self.sigma, self.steps)
        high, low = rng.bits((2, *x.shape[1:]), draw).unbind(1)
        unit = (high << (BITS - 32)) | (low >> (64 - BITS))
        moved = torch.searchsorted(torch.from_numpy(below).to(x.device), unit, right=True) - most
        scaled, nearest, whole = self._scaled(x)
        between = (scaled + self.steps * self.sigma * _normal(unit)).round()
        noisy = (torch.where(whole, nearest + moved, between) / self.steps).to(x.dtype)
        return noisy + (x - x.detach())  # the gradient of x, and not one bit of it beyond its steps

    def admit(self, x: Tensor) -> None:
        """Raises UserError where an image is not in whole steps."""
        if not self._scaled(x)[2].all():
            raise UserError(
                f"the noise of this defense certifies images in steps of 1/{self.steps}, and these have others; set "
                "defense.steps (240 for digits), or defense.exact=false"
            )

    def _scaled(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the images in steps, the nearest whole steps, and where the first are the second as float32 has
        them.
        """
        scaled = x.detach().double() * self.steps
        nearest = scaled.round()
        return scaled, nearest, (scaled - nearest).abs() <= self.steps * ULPS


def _normal(unit: Tensor) -> Tensor:
    """Return the standard normal number, float64, below which a share of (unit + 1/2) / 2^60 lies; each tail from its
    end, since float64 has no numbers so close to 1.
    """
    upper = unit >= 1 << (BITS - 1)
    tail = torch.where(upper, (1 << BITS) - 1 - unit, unit).double() + 0.5
    gauss = torch.special.ndtri(tail * 2.0**-BITS)
    return torch.where(upper, -gauss, gauss)


ULPS = 2.0**-22
"""How far a float32 pixel may lie from its whole step: byte / 255, byte * (1 / 255) and the like differ by less."""

BITS = 60
"""Random bits behind a pixel of `GridGaussian`."""


@cache
def cells(sigma: float, steps: int) -> tuple[int, NDArray[np.int64]]:
    """Return the largest number of steps n, and 2^60 P[noise is at most i steps, rounded] for i = -n ... n - 1,
    nearest.

    Phi(z) = 1/2 + phi(z) (z + z^3 / 3 + z^5 / (3 5) + ...), whose terms are all positive, in decimals of 40 digits.
    """
    most, one = math.ceil(9 * sigma * steps), 1 << BITS
    with localcontext(prec=40):
        root = (Decimal(2) * Decimal("3.14159265358979323846264338327950288419717")).sqrt()
        above = []
        for i in range(most):
            z = (Decimal(i) + Decimal("0.5")) / steps / Decimal(sigma)
            term = total = z
            odd = 1
            while term > total * Decimal("1e-38"):
                odd += 2
                term = term * z * z / odd
                total += term
            above.append(int(((-z * z / 2).exp() * total / root + Decimal("0.5")) * one + Decimal("0.5")))
    return most, np.array([*(one - value for value in reversed(above)), *above], np.int64)


@dataclass(frozen=True)
class Uniform(Knobs):
    """x + U[-width, width]^d: l1 radius 2 width (share - 1/2). Yang et al. 2020, arXiv 2002.08118.

    Args:
        width: half of the range, in pixels of [0, 1], > 0; the standard deviation is width / sqrt 3.
    """

    norm: ClassVar[str] = "l1"

    width: float = knob(0.5, above=0, hint="without noise nothing is certified")

    def __call__(self, x: Tensor, rng: Rng, draw: Tensor | int) -> Tensor:
        return x + rng.uniform(tuple(x.shape[1:]), -self.width, self.width, draw, dtype=x.dtype)

    def radius(self, share: Floats) -> Floats:
        radii: Floats = 2 * self.width * (share - 0.5)
        return radii


@dataclass(frozen=True)
class Laplace(Knobs):
    """x + Laplace(scale)^d: l1 radius -scale ln(2 (1 - share)). Teng et al. 2020; Yang et al. 2020, arXiv 2002.08118.

    Args:
        scale: in pixels of [0, 1], > 0; the standard deviation is sqrt 2 times as much.
    """

    norm: ClassVar[str] = "l1"

    scale: float = knob(0.25, above=0, hint="without noise nothing is certified")

    def __call__(self, x: Tensor, rng: Rng, draw: Tensor | int) -> Tensor:
        unit = (rng.bits(tuple(x.shape[1:]), draw).double() + 0.5) * 2.0**-32 - 0.5
        laplace = -unit.sign() * torch.log1p(-2 * unit.abs())
        return x + self.scale * laplace.to(x.dtype)

    def radius(self, share: Floats) -> Floats:
        with np.errstate(divide="ignore"):
            radii: Floats = -self.scale * np.log(2 * (1 - share))
        return radii


@dataclass(frozen=True)
class Ablation(Knobs):
    """All pixels but `keep` random ones become grey: l0 radius in pixels. Levine and Feizi 2020, arXiv 1911.09272.

    A change of r pixels is seen by at most 1 - C(n - r, keep) / C(n, keep) of the copies, so a class keeps its majority
    while its share exceeds one half by more than that. Radii between whole numbers interpolate.

    Args:
        keep: pixels that are left, with all channels, 1 to size^2.
        size: height and width of the images.

    Raises:
        UserError: a value outside its range, or images of another size.
    """

    norm: ClassVar[str] = "l0"

    GREY: ClassVar[float] = 0.5

    keep: int = knob(20, least=1)
    size: int = knob(8, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep > self.size**2:
            raise UserError(f"keep={self.keep} must be at most {self.size**2}, the pixels of an image")

    def __call__(self, x: Tensor, rng: Rng, draw: Tensor | int) -> Tensor:
        if tuple(x.shape[2:]) != (self.size, self.size):
            raise UserError(f"size={self.size} is not that of the images, {x.shape[2]}x{x.shape[3]} pixels")
        high, low = rng.bits((2, *x.shape[2:]), draw).flatten(2).unbind(1)  # so many bits that no two keys are equal
        order = ((high << 30) | (low >> 2)).argsort(dim=1, stable=True)
        kept = torch.zeros(order.shape, dtype=torch.bool, device=x.device).scatter_(1, order[:, : self.keep], True)
        return torch.where(kept.reshape(len(x), 1, *x.shape[2:]), x, self.GREY)

    def seen(self, pixels: Floats) -> Floats:
        """Return the share of copies that see at least one of so many pixels."""
        n, k, r = self.size**2, self.keep, np.minimum(np.asarray(pixels, float), self.size**2 - self.keep + 1 - 1e-9)
        log = special.gammaln(n - r + 1) - special.gammaln(n - r - k + 1)
        share: Floats = 1 - np.exp(log - special.gammaln(n + 1) + special.gammaln(n - k + 1))
        return share

    def radius(self, share: Floats) -> Floats:
        excess = np.asarray(share, float) - 0.5
        low, high = np.zeros_like(excess), np.full_like(excess, self.size**2)
        for _ in range(60):
            middle = (low + high) / 2
            fine = self.seen(middle) < excess
            low, high = np.where(fine, middle, low), np.where(fine, high, middle)
        return np.where(excess > 0, low, -1.0)
