"""Margin between an adversarial example and the decision boundary, for attacks that end on it."""

import torch
from torch import Tensor

from gauntlet.threat_model.access import DecisionHead
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat

BOUNDARY_MARGIN = 1e-3
"""Share of its distance by which an adversarial example is moved on: the rounding of another batch composition, such as
that of the verifier, must not undo it."""


def with_boundary_margin(head: DecisionHead, x: Tensor, y: Tensor, found: Tensor, threat: Threat, rng: Rng) -> Tensor:
    """Move adversarial examples a little farther from their images, where they still fool the victim there; one query
    for each sample.

    Args:
        x, found: [B, C, H, W]; found is the image itself where nothing was found.
        threat: unbounded.
    """
    z = (x + (1 + BOUNDARY_MARGIN) * (found - x)).clamp(threat.low, threat.high)
    broken = head.broken(z, y, rng)
    return torch.where(broken.reshape(-1, *[1] * (x.dim() - 1)), z, found)
