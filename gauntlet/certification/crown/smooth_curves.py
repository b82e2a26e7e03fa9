"""GELU, SiLU and the curves of layer norm: lines that hold them on an interval."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from gauntlet.certification.crown.affine_layers import HALF_ULP, SLACK, TINY
from gauntlet.certification.crown.curves import PAD, Curve

CELLS = 48
"""Parts into which an interval is cut: between points the curve leaves its chord by its bend and a cell's width."""

TERMS = 16
"""Roundings of a float32 result, those of an error function that is exact to 1.5e-7 among them."""


@dataclass(frozen=True)
class SmoothCurve(Curve):
    """A function whose second derivative is bounded.

    Any slope gives a sound line: its constant is the least distance to the curve on a grid, less what the curve can do
    between its points. Of some slopes the one is taken whose line is nearest in the middle of the interval.

    Args:
        slope: its derivative.
        bend: bound of its second derivative, without the sign.
    """

    slope: Callable[[Tensor], Tensor]
    bend: float

    def range(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        least, most = self._apart(low, high, [torch.zeros_like(low)])
        return least[0], most[0]

    def rounding(self, reach: Tensor, size: Tensor) -> Tensor:
        """Products with the argument round in proportion to it, also where the result is nearly zero."""
        terms = TERMS * HALF_ULP
        return SLACK * terms / (1 - terms) * (reach + size) + TINY

    def above(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        slopes, middle = self._slopes(low, high), (low + high) / 2
        _, most = self._apart(low, high, slopes)
        over = torch.stack([slope * middle for slope in slopes]) + most
        best = over.argmin(0, keepdim=True)
        return torch.stack(slopes).gather(0, best)[0], most.gather(0, best)[0]

    def below(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        slopes, middle = self._slopes(low, high), (low + high) / 2
        least, _ = self._apart(low, high, slopes)
        under = torch.stack([slope * middle for slope in slopes]) + least
        best = under.argmax(0, keepdim=True)
        return torch.stack(slopes).gather(0, best)[0], least.gather(0, best)[0]

    def _slopes(self, low: Tensor, high: Tensor) -> list[Tensor]:
        """Return those of the chord and of tangents."""
        wide = high - low
        chord = (self.at(high) - self.at(low)) / wide.clamp_min(1e-9)
        tangents = [self.slope(low + share * wide) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
        return [torch.where(wide > 1e-6, chord, tangents[2]), *tangents]

    def _apart(self, low: Tensor, high: Tensor, slopes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return bounds of function - slope z on [low, high], for each slope."""
        every = torch.stack(slopes)
        least, most = torch.full_like(every, torch.inf), torch.full_like(every, -torch.inf)
        for cell in range(CELLS + 1):
            z = low + (high - low) * (cell / CELLS)
            value = self.at(z) - every * z
            least, most = least.minimum(value), most.maximum(value)
        room = self.bend * ((high - low) / CELLS).square() / 8 + PAD * (1 + low.abs().maximum(high.abs()))
        return least - room, most + room


@dataclass(frozen=True)
class FallingCurve(Curve):
    """A function that falls and is convex for arguments >= 0; these are never negative.

    Args:
        slope: its derivative.
    """

    slope: Callable[[Tensor], Tensor]

    def range(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        return self.at(high.clamp_min(0)) * (1 - PAD), self.at(low.clamp_min(0)) * (1 + PAD)

    def rounding(self, reach: Tensor, size: Tensor) -> Tensor:
        terms = TERMS * HALF_ULP
        return SLACK * terms / (1 - terms) * reach + TINY

    def above(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Return the chord."""
        low, high = low.clamp_min(0), high.clamp_min(0)
        left, right = self.at(low), self.at(high)
        slope = torch.where(high - low > 1e-12, (right - left) / (high - low).clamp_min(1e-12), 0.0)
        return slope, (left - slope * low).maximum(right - slope * high) + PAD * (left + slope.abs() * high)

    def below(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tangent in the middle."""
        middle = (low.clamp_min(0) + high.clamp_min(0)) / 2
        value, slope = self.at(middle), self.slope(middle)
        return slope, value - slope * middle - PAD * (value + slope.abs() * middle)


def _gelu_slope(z: Tensor) -> Tensor:
    return (1 + torch.erf(z / math.sqrt(2))) / 2 + z * torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)


ROOT, CUBE = math.sqrt(2 / math.pi), 0.044715


def _tanh_gelu_slope(z: Tensor) -> Tensor:
    bent = torch.tanh(ROOT * (z + CUBE * z**3))
    return (1 + bent) / 2 + z / 2 * (1 - bent.square()) * ROOT * (1 + 3 * CUBE * z.square())


def _silu_slope(z: Tensor) -> Tensor:
    share = torch.sigmoid(z)
    return share * (1 + z * (1 - share))


GELU = SmoothCurve("gelu", functional.gelu, _gelu_slope, 0.8)
TANH_GELU = SmoothCurve("gelu", lambda z: functional.gelu(z, approximate="tanh"), _tanh_gelu_slope, 0.8)
SILU = SmoothCurve("silu", functional.silu, _silu_slope, 0.5)
SQUARE = SmoothCurve("square", torch.square, lambda z: 2 * z, 2.0)


def inverse_root(epsilon: float) -> FallingCurve:
    """Return 1 / sqrt(z + epsilon)."""
    return FallingCurve("rsqrt", lambda z: (z + epsilon).rsqrt(), lambda z: -0.5 * (z + epsilon) ** -1.5)
