"""Products of two nodes: matrices, and entry by entry (McCormick 1976, doi 10.1007/BF01580665)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gauntlet.certification.crown.affine_layers import HALF_ULP, SLACK, TINY
from gauntlet.certification.crown.joint import Joint, Link, Planes


@dataclass(frozen=True)
class Product(Joint):
    """x y, for matrices x [..., I, K] and y [..., K, J].

    With midpoints m, n and radii r, s of the two boxes x y = m y + x n - m n + (x - m)(y - n), and the last lies within
    r s: the mean of the two planes of McCormick, below and above. Of all pairs of planes it has the least largest gap.

    Args:
        inner: K.
        shares: whether the rows of x are those of a softmax: they are not negative and sum to one.
        extra: roundings that the deployed network may add to those of sums and products.
    """

    inner: int
    shares: bool = False
    extra: int = 0
    name = "product of matrices"

    def at(self, *inputs: Tensor) -> Tensor:
        return inputs[0] @ inputs[1]

    def interval(self, low: list[Tensor], high: list[Tensor]) -> tuple[Tensor, Tensor]:
        least = most = torch.zeros((), dtype=low[0].dtype, device=low[0].device)
        for k in range(self.inner):
            ends = [x[..., :, k, None] * y[..., k, None, :] for x in (low[0], high[0]) for y in (low[1], high[1])]
            least = least + ends[0].minimum(ends[1]).minimum(ends[2].minimum(ends[3]))
            most = most + ends[0].maximum(ends[1]).maximum(ends[2].maximum(ends[3]))
        if not self.shares:
            return least, most
        # Rows of shares make means of the rows of y.
        off = self._off() * low[1].abs().maximum(high[1].abs()).amax(-2, keepdim=True)
        return least.maximum(low[1].amin(-2, keepdim=True) - off), most.minimum(high[1].amax(-2, keepdim=True) + off)

    def rounding(self, low: list[Tensor], high: list[Tensor]) -> Tensor:
        x, y = (one.abs().maximum(other.abs()) for one, other in zip(low, high, strict=True))
        terms = (self.inner + self.extra + 2) * HALF_ULP
        return SLACK * terms / (1 - terms) * (x @ y) + TINY

    def planes(self, low: list[Tensor], high: list[Tensor]) -> Planes:
        (x, y), (r, s) = _middles(low, high)
        apart, free = r @ s, torch.zeros_like(x @ y)
        if self.shares:  # x y = x (y - c) + c as far as rows sum to one: less of the gaps of x is multiplied
            centre = (y.amin(-2, keepdim=True) + y.amax(-2, keepdim=True)) / 2
            y, free = y - centre, (1 - x.sum(-1, keepdim=True)) * centre
            apart = apart + self._off() * centre.abs()
        links = (
            Link(y, ("ik", "kj", "ij"), y.shape[-1] + 2),
            Link(x, ("kj", "ik", "ij"), x.shape[-2] + 2),
        )
        constant = free - x @ y
        return Planes(links, links, constant - apart, constant + apart)

    def _off(self) -> float:
        """Return how far the sum of K shares, that the deployed network divided by their sum, may lie from one."""
        terms = (self.inner + self.extra + 8) * HALF_ULP
        return SLACK * terms / (1 - terms)


@dataclass(frozen=True)
class Times(Joint):
    """x y entry by entry, for nodes of one shape."""

    name = "product"

    def at(self, *inputs: Tensor) -> Tensor:
        return inputs[0] * inputs[1]

    def interval(self, low: list[Tensor], high: list[Tensor]) -> tuple[Tensor, Tensor]:
        ends = torch.stack([x * y for x in (low[0], high[0]) for y in (low[1], high[1])])
        return ends.amin(0), ends.amax(0)

    def rounding(self, low: list[Tensor], high: list[Tensor]) -> Tensor:
        x, y = (one.abs().maximum(other.abs()) for one, other in zip(low, high, strict=True))
        return SLACK * 2 * HALF_ULP * x * y + TINY

    def planes(self, low: list[Tensor], high: list[Tensor]) -> Planes:
        (x, y), (r, s) = _middles(low, high)
        links = (Link(y, ("", "", ""), 2), Link(x, ("", "", ""), 2))
        return Planes(links, links, -x * y - r * s, r * s - x * y)


def _middles(low: list[Tensor], high: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return midpoints and radii of the boxes of the inputs."""
    sides = list(zip(low, high, strict=True))
    return [(one + other) / 2 for one, other in sides], [(other - one) / 2 for one, other in sides]
