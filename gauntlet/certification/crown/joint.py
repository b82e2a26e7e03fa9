"""Operations whose entries depend on several entries of what they read, and the planes that hold them on a box."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Read = Callable[[Tensor], Tensor]
"""Field of all images -> its values for some questions, [Q or 1, ...]."""


@dataclass(frozen=True)
class Link:
    """A linear map from one input to the output, of its own for each image.

    Args:
        weight: [B, ...].
        through: letters of the last axes of input, weight and output, such as ("ik", "kj", "ij"); the axes before are
            shared.
        terms: products that are summed in one entry of `back`.
    """

    weight: Tensor
    through: tuple[str, str, str]
    terms: int

    def forward(self, z: Tensor) -> Tensor:
        source, weight, out = self.through
        return torch.einsum(f"...{source},...{weight}->...{out}", z, self.weight)

    def back(self, a: Tensor, read: Read) -> Tensor:
        """Return the coefficients of the input from those of the output, [Q, *shape]."""
        source, weight, out = self.through
        return torch.einsum(f"...{out},...{weight}->...{source}", a, read(self.weight))

    def spread(self, reach: Tensor) -> Tensor:
        """Return |W| reach."""
        return Link(self.weight.abs(), self.through, self.terms).forward(reach)

    def to(self, dtype: torch.dtype) -> "Link":
        return Link(self.weight.to(dtype), self.through, self.terms)


@dataclass(frozen=True)
class Planes:
    """An output lies between sum lower_s z_s + floor and sum upper_s z_s + ceiling for all inputs z_s of a box.

    Args:
        lower, upper: one map for each input; the same object where they do not differ.
        floor, ceiling: [B, *shape].
    """

    lower: tuple[Link, ...]
    upper: tuple[Link, ...]
    floor: Tensor
    ceiling: Tensor

    def back(self, a: Tensor, read: Read) -> list[Tensor]:
        """Return the coefficients of each input in a lower bound of a times the output."""
        up = a.clamp_min(0)
        return [
            down.back(a, read) if down is above else down.back(up, read) + above.back(a - up, read)
            for down, above in zip(self.lower, self.upper, strict=True)
        ]


class Joint(ABC):
    """An operation on one or more nodes; fields are [B, *shape]."""

    name: str

    @abstractmethod
    def at(self, *inputs: Tensor) -> Tensor:
        """Return the result in exact arithmetic."""

    @abstractmethod
    def interval(self, low: list[Tensor], high: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return bounds of the exact results for inputs in [low, high]."""

    @abstractmethod
    def rounding(self, low: list[Tensor], high: list[Tensor]) -> Tensor:
        """Return how far a deployed float32 result may lie from the exact one for inputs in [low, high]."""

    @abstractmethod
    def planes(self, low: list[Tensor], high: list[Tensor]) -> Planes:
        """Return planes that hold the exact results for inputs in [low, high]."""
