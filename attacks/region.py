"""What an attacker may reach from some images, for the loops that project onto it in every step."""

from typing import NamedTuple

from torch import Tensor

from harness.threat import Threat


class Region(NamedTuple):
    """The set of a threat around images that stay the same from step to step.

    What depends on the images alone is computed once, so that a projection is a single clamp under linf. The points are
    to the last bit those of `Threat.project`.
    """

    threat: Threat
    x: Tensor  # [B, C, H, W]
    eps: Tensor  # [1 or B, 1, 1, 1]
    low: Tensor | None  # the least and
    high: Tensor | None  # the largest value of each pixel, where they bound the set

    @classmethod
    def around(cls, threat: Threat, x: Tensor) -> "Region":
        """The set of the threat around images x [B, C, H, W]."""
        eps = threat.budget(x)
        if threat.norm != "linf" or threat.unbounded:
            return cls(threat, x, eps, None, None)
        low, high = ((x + side * eps).clamp_(threat.low, threat.high) for side in (-1, 1))
        return cls(threat, x, eps, low, high)

    def select(self, index: Tensor) -> "Region":
        """The sets of some of the samples; positions int64 [b]."""
        low, high = (None if side is None else side.index_select(0, index) for side in (self.low, self.high))
        eps = self.eps if len(self.eps) == 1 else self.eps[index]
        return Region(self.threat.select(index), self.x.index_select(0, index), eps, low, high)

    def project(self, z: Tensor) -> Tensor:
        """The point of the set near z, which may be overwritten."""
        return self.threat.project(z, self.x) if self.low is None else z.clamp_(self.low, self.high)

    def step(self, z: Tensor, gradient: Tensor, length: Tensor | float, sparsity: float = 0.05) -> Tensor:
        """The point `length` times eps from z along the steepest direction, back inside the set; a tensor of its own.

        length: a number, or one for each sample [B, 1, 1, 1].
        """
        way = self.threat.steepest(gradient, sparsity).mul_(self.eps * length)
        return self.project(way.add_(z))
