"""Lines around ReLUs and curves, and what they make of coefficients."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gauntlet.certification.crown.curves import Curve
from gauntlet.certification.crown.graph import Relu


@dataclass(frozen=True)
class Lines:
    """max(z, 0), or a curve, lies between lower z + floor and upper z + constant for every entry z of a node, all
    [Q, *shape].

    unsure: whether z has both signs.
    floor: None: zero.
    """

    lower: Tensor
    upper: Tensor
    constant: Tensor
    unsure: Tensor
    floor: Tensor | None = None

    @classmethod
    def of(cls, op: Relu | Curve, low: Tensor, high: Tensor) -> "Lines":
        """Return the lines of a node for bounds of what it reads."""
        if isinstance(op, Relu):
            return cls.between(low, high)
        (lower, floor), (upper, constant) = op.below(low, high), op.above(low, high)
        return cls(lower, upper, constant, torch.zeros_like(low, dtype=torch.bool), floor)

    @classmethod
    def between(cls, low: Tensor, high: Tensor) -> "Lines":
        """Return the lines for bounds [Q, *shape] of a node, the lower ones where CROWN has them."""
        unsure = (low < 0) & (high > 0)
        on = (low >= 0).to(low.dtype)
        upper = torch.where(unsure, high / (high - low).clamp_min(1e-30), on)
        lower = torch.where(unsure, (high > -low).to(low.dtype), on)
        return cls(lower, upper, torch.where(unsure, -upper * low, 0.0), unsure)

    def select(self, index: Tensor) -> "Lines":
        """Return the lines of some questions; index int64 [q]."""
        return Lines(self.lower[index], self.upper[index], self.constant[index], self.unsure[index])

    def of_part(self, part: slice) -> "Lines":
        """Return the lines of some entries of [Q, U]."""
        return Lines(self.lower[:, part], self.upper[:, part], self.constant[:, part], self.unsure[:, part])


def below(a: Tensor, lines: Lines) -> tuple[Tensor, Tensor]:
    """Return coefficients [Q, N] and constant [Q] below ReLUs from the coefficients a [Q, N] of their outputs."""
    least = a.clamp_max(0)
    return torch.addcmul(least * lines.upper, a.clamp_min(0), lines.lower), (least * lines.constant).sum(1)


def chosen(a: Tensor, z: Tensor, lines: Lines) -> Tensor:
    """Return the outputs [Q, N] of ReLUs with inputs z where bounds with coefficients a of the outputs are taken."""
    return torch.where(a > 0, lines.lower * z, torch.addcmul(lines.constant, lines.upper, z))


@dataclass(frozen=True)
class Taken:
    """Lower bounds of functions of the scores and where they are taken.

    Attributes:
        bound: [D].
        corner: images, [D, C, H, W].
        above: coefficients of the outputs of the open entries' ReLUs, [D, U].
        memo: what whoever made them keeps.
    """

    bound: Tensor
    corner: Tensor
    above: Tensor
    memo: Any = None
