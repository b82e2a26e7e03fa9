"""Functions of single entries as nodes of a graph, and the lines that hold sigmoid and tanh on an interval."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gauntlet.certification.crown.affine_layers import HALF_ULP, SLACK, TINY

TERMS = 8
"""Roundings that a float32 result passes through at most: exponential, sum, quotient, each within two last digits."""

HALVINGS = 40
"""Of the interval in which the point of a tangent lies."""

PAD = 1e-12
"""Covers what float64 rounds in lines."""


@dataclass(frozen=True)
class Curve(ABC):
    """A function of single entries.

    Args:
        name: of the function, as torch has it.
        at: the function of a tensor.
    """

    name: str
    at: Callable[[Tensor], Tensor]

    @abstractmethod
    def range(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Return bounds of the exact function on [low, high]."""

    @abstractmethod
    def rounding(self, reach: Tensor, size: Tensor) -> Tensor:
        """Return how far the deployed float32 result may lie from the exact one.

        Args:
            reach: what the exact result is at most, without its sign.
            size: the same of the argument.
        """

    @abstractmethod
    def above(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Return slope and constant of a line that is nowhere below the function on [low, high]."""

    @abstractmethod
    def below(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same for a line that is nowhere above."""


@dataclass(frozen=True)
class SShaped(Curve):
    """A function that rises, is convex below zero and concave above, and odd around its value at zero.

    Args:
        slope: its derivative, from its values.
        middle: its value at zero.
    """

    slope: Callable[[Tensor], Tensor]
    middle: float

    def range(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        return self.at(low), self.at(high)

    def rounding(self, reach: Tensor, size: Tensor) -> Tensor:
        return SLACK * TERMS * HALF_ULP / (1 - TERMS * HALF_ULP) * reach + TINY

    def above(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Return the line from above.

        The chord where the function is convex, or where no tangent passes above its lower end; else the tangent in the
        middle or, where that would pass below that end, the first that does not.
        """
        left, right = self.at(low), self.at(high)
        chord = (right - left) / (high - low).clamp_min(1e-9)
        chord = torch.where(high - low > 1e-9, chord, torch.zeros_like(chord))
        start, end = torch.zeros_like(high), high.clamp_min(0)
        for _ in range(HALVINGS):
            point = (start + end) / 2
            over = self._tangent(point, low) >= left
            start, end = torch.where(over, start, point), torch.where(over, point, end)
        touch = torch.where(low >= 0, start, end).maximum((low + high) / 2)
        tangent = (low >= 0) | ((high > 0) & (self._tangent(high, low) >= left))
        slope = torch.where(tangent, self.slope(self.at(touch)), chord)
        base = torch.where(tangent, self.at(touch) - slope * touch, right - slope * high)
        return slope, base + PAD * (1 + low.abs().maximum(high.abs()))

    def below(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        slope, base = self.above(-high, -low)
        return slope, 2 * self.middle - base

    def _tangent(self, point: Tensor, low: Tensor) -> Tensor:
        """Return the value at `low` of the tangent at a point."""
        value = self.at(point)
        return value + self.slope(value) * (low - point)


CURVES = {
    "sigmoid": SShaped("sigmoid", torch.sigmoid, lambda value: value * (1 - value), 0.5),
    "tanh": SShaped("tanh", torch.tanh, lambda value: 1 - value.square(), 0.0),
}
"""Name of a function -> what it is."""
