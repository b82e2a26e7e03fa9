"""Room between a find and the decision boundary, for attacks that end on it."""

import torch
from torch import Tensor

from gauntlet.threat_model.access import DecisionHead
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat

CLEARANCE = 1e-3
"""Share of its distance by which a find is moved on: the rounding of another batch composition, such as that of the
verifier, must not undo it."""


def cleared(head: DecisionHead, x: Tensor, y: Tensor, found: Tensor, threat: Threat, rng: Rng) -> Tensor:
    """Finds a little farther from their images, where they still fool the victim there; one query for each sample.

    Args:
        x, found: [B, C, H, W]; found is the image itself where nothing was found.
        threat: unbounded.
    """
    z = (x + (1 + CLEARANCE) * (found - x)).clamp(threat.low, threat.high)
    broken = head.broken(z, y, rng)
    return torch.where(broken.reshape(-1, *[1] * (x.dim() - 1)), z, found)
