"""Threats that are a transformation with a few parameters: the attacker chooses these, and the judge transforms."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gauntlet.errors import UserError
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat


@dataclass(frozen=True)
class TransformationThreat(Threat):
    """The set {T(x; u) : |u_i| <= eps}, with u in units of the limit of each parameter.

    Whether an image lies in such a set cannot be told from its pixels. So the points of this set are parameters, float
    [B, P], in place of images: an attack returns them, `contains`, `distance` and `project` speak of them, and
    `realized` transforms the image. What the judge sees is in the set by construction.

    Args:
        eps: multiple of the limits, > 0.
    """

    LIMITS: ClassVar[dict[str, float]] = {}  # field -> the most that it may be at eps=1
    KIND: ClassVar[str] = ""
    parametric: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm != self.KIND:
            raise UserError(f"threat.norm={self.norm} is not {self.KIND}; take threat={self.norm}")
        for name, most in self.LIMITS.items():
            limit = getattr(self, name)
            if not (math.isfinite(limit) and limit >= 0):
                raise UserError(f"threat.{name}={limit} must be a number >= 0")
            if not self.unbounded and limit * self.radius > most * (1 + 1e-9):
                raise UserError(f"threat.{name}={limit:g} times threat.eps={self.eps} must be at most {most:g}")
        if not any(self.shape.values()):
            raise UserError(f"all limits are zero: give one of {', '.join(f'threat.{name}' for name in self.LIMITS)}")

    @property
    def shape(self) -> dict[str, float]:
        """Return the limits by their names."""
        return {name: float(getattr(self, name)) for name in self.LIMITS}

    @property
    def axes(self) -> tuple[float, ...]:
        """Return the limit of each parameter, in the order of the parameters."""
        raise NotImplementedError

    def transformed(self, x: Tensor, amounts: Tensor) -> Tensor:
        """Return transformed images like x [B, C, H, W]; amounts: parameters in their own units, [B, P]."""
        raise NotImplementedError

    def realized(self, found: Tensor, x: Tensor) -> Tensor:
        """Return T(x; u) of the parameters u [B, P], differentiable in u; x itself, to the last bit, where u = 0."""
        self._check(found, x)
        if not len(x):
            return x
        amounts = found * torch.tensor(self.axes, device=found.device, dtype=found.dtype)
        z = self.transformed(x, amounts.to(x.dtype)).clamp(self.low, self.high)
        still = (found == 0).all(1).reshape(-1, 1, 1, 1)
        return z + torch.where(still, x - z, 0.0).detach()

    def _check(self, found: Tensor, x: Tensor) -> None:
        if found.shape != (len(x), len(self.axes)):
            raise ValueError(
                f"candidates are parameters [B, {len(self.axes)}] of threat={self.norm}, not {[*found.shape]}"
            )

    def check_reach(self, shape: tuple[int, ...]) -> None:
        """Refuse images that cannot be transformed; shape: (C, H, W)."""

    def projected(self, z: Tensor, x: Tensor, rounds: int) -> tuple[Tensor, None]:
        """Return the nearest parameters of the set; those without a limit of their own are 0."""
        free = torch.tensor([limit > 0 for limit in self.axes], device=z.device)
        return torch.where(free, z.clamp(-self.radius, self.radius), 0.0), None

    def random(self, x: Tensor, rng: Rng) -> Tensor:
        """Return uniform parameters of the set, [B, P]."""
        return self.project(self.radius * rng.uniform((len(self.axes),), -1, 1, dtype=x.dtype), x)

    def distance(self, z: Tensor, x: Tensor) -> Tensor:
        """Return the largest share of a limit that the parameters use, float64 [B]; NaN where they are not finite."""
        return z.double().abs().amax(1)

    def contains(self, z: Tensor, x: Tensor) -> Tensor:
        """Return whether parameters are in the set, bool [B]: finite, and within eps (1 + 1e-6) + 1e-7."""
        self._check(z, x)
        return self.distance(z, x) <= self.radius * (1 + 1e-6) + 1e-7  # false for NaN

    def within(self, eps: Tensor) -> "TransformationThreat":
        raise UserError(f"threat={self.norm} has one size for all images; this needs a norm, such as threat=linf")

    def scaled(self, factors: Tensor) -> "TransformationThreat":
        return self.within(factors)

    def select(self, index: Tensor) -> "TransformationThreat":
        """Return the threat for some of the samples, which is the same for all."""
        return self
