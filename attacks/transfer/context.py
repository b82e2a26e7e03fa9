"""What the pieces of a transfer attack are given: the samples under attack, and how far a step goes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from gauntlet.attacks.log_scaled_gradient import LogScaledGradient, LogScaledLoss
from gauntlet.threat_model.counted_head import CountedHead, View
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat

Members = tuple[CountedHead, ...]


@dataclass(frozen=True)
class AttackContext:
    """The samples that survive so far.

    Args:
        x, y: clean images [B, C, H, W] and labels [B].
        threat: what may be changed.
        loss: to be maximized.
        length: of a step, as a multiple of eps.
        target: classes to move to, [B]; None: away from the label.
    """

    x: Tensor
    y: Tensor
    threat: Threat
    loss: LogScaledLoss
    length: float
    target: Tensor | None = None

    @property
    def aim(self) -> Tensor:
        """Return the class whose probability the loss is about: the target, else the label, [B]."""
        return self.y if self.target is None else self.target

    def select(self, index: Tensor) -> "AttackContext":
        """Select some of the samples; positions int64 [b]."""
        target = None if self.target is None else self.target[index]
        return replace(self, x=self.x[index], y=self.y[index], threat=self.threat.select(index), target=target)

    def cotangent(self, logits: Tensor) -> Tensor:
        """Return the direction in which the logits [B, K] shall move."""
        return self.loss.cotangent(logits, self.y, self.target)

    def log_scale(self, logits: Tensor) -> Tensor:
        """Return the logarithm of what that direction was scaled by, [B]."""
        return self.loss.log_scale(logits, self.aim)

    def stepped(self, z: Tensor, direction: Tensor) -> Tensor:
        """Take one step from z along the steepest direction of a gradient, back inside the threat."""
        step = self.threat.budget(self.x) * self.length * self.threat.steepest(direction)
        return self.threat.project(z + step, self.x)

    def shift(self, direction: Tensor) -> Tensor:
        """Return a move along a scaled gradient as it is, without taking its steepest direction: looking ahead."""
        return self.threat.budget(self.x) * self.length * direction

    def scaled(self, direction: Tensor) -> Tensor:
        """Return a gradient whose entries are one on average (linf), or whose length is one (l2, l1)."""
        flat = [1] * (direction.dim() - 1)
        if self.threat.norm == "linf":
            return direction / direction.abs().flatten(1).mean(1).reshape(-1, *flat).clamp_min(
                torch.finfo(direction.dtype).tiny
            )
        peak = direction.abs().flatten(1).amax(1).reshape(-1, *flat)
        small = direction / peak.clamp_min(torch.finfo(direction.dtype).tiny)
        return small / self._length(small).reshape(-1, *flat).clamp_min(1e-12)

    def nearby(self, z: Tensor, reach: float, rng: Rng) -> Tensor:
        """Return a random point at most `reach` times eps from z, inside neither threat nor box: uniform in the cube
        (linf), else in a random direction.
        """
        shape = tuple(self.x.shape[1:])
        radius = reach * self.threat.budget(self.x)
        if self.threat.norm == "linf":
            return z + radius * rng.uniform(shape, -1, 1, dtype=z.dtype)
        flat = [1] * len(shape)
        direction = rng.normal(shape, dtype=z.dtype)
        share = rng.uniform((1,), draw=1, dtype=z.dtype).reshape(-1, *flat) ** (1 / self.x[0].numel())
        return z + radius * share * direction / self._length(direction).reshape(-1, *flat).clamp_min(1e-12)

    def _length(self, direction: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(direction.flatten(1), ord=1 if self.threat.norm == "l1" else 2, dim=1)
        return length


class TransformedInput(NamedTuple):
    """What a head is shown instead of the images; None: the images themselves."""

    view: View | None
    plain: Tensor  # bool [B], where the view changes nothing


DrawView = Callable[[str], TransformedInput]
"""Draws a view; different names give independent draws."""


class GradientResult(NamedTuple):
    """The logits and the gradient at some points."""

    logits: Tensor  # [B, K]
    plain: Tensor  # bool [B], where the logits are those of the points themselves
    gradient: LogScaledGradient
