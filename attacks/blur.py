"""Gradients averaged over a neighbourhood, for networks whose own gradients say little."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.meter import MeteredHead
from harness.rng import Rng
from harness.threat import Threat


@dataclass(frozen=True)
class Blurred:
    """A head whose gradient is the mean over points around the one that is asked for, and whose logits are not.

    Averaging recovers a slope from steps and kinks much finer than the budget (Athalye et al. 2018, arXiv 1802.00420).

    Args:
        head: whose gradients are averaged.
        points: how many, >= 1. A gradient costs `points` + 1 forwards and `points` backwards.
        width: of the neighbourhood, as a multiple of eps.
        threat: gives the shape of the neighbourhood, for the samples `ids`.
        ids: of these samples, int64, strictly increasing.
    """

    head: MeteredHead
    points: int
    width: float
    threat: Threat
    ids: Tensor

    def scores(self, z: Tensor, rng: Rng) -> Tensor:
        """As those of the head."""
        return self.head.scores(z, rng)

    def broken(self, z: Tensor, logits: Tensor, y: Tensor, rng: Rng, plain: bool = False) -> Tensor:
        """As that of the head; the logits always come from `scores`."""
        return self.head.broken(z, logits, y, rng, plain=True)

    def gradient(self, z: Tensor, cotangent: Callable[[Tensor], Tensor], rng: Rng) -> tuple[Tensor, Tensor]:
        """Logits at z [B, K], and the mean of the gradients around z, each of length one."""
        total = z.new_zeros(z.shape)
        around = self.threat.select(torch.searchsorted(self.ids, rng.ids)).scaled(z.new_full((len(z),), self.width))
        for k in range(self.points):
            draw = rng.stream(("blur", k))
            _, gradient = self.head.gradient(around.random(z, draw), cotangent, draw)
            flat = gradient.flatten(1)
            total += (flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-30)).reshape(z.shape)
        return self.head.scores(z, rng), total
