"""Attributions of a network: which pixels its score of a class depends on, of unit length, averaged over a ball."""

import math

import torch
from torch import Tensor

from gauntlet.errors import UserError
from gauntlet.threat_model.decision import check_finite
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Forward

METHODS = ("gradient", "integrated")


def attribution(predict: Forward, x: Tensor, target: Tensor, rng: Rng, method: str, steps: int) -> Tensor:
    """Return the attributions of images, each of unit length, or zero where the score is flat; float64 [B, C, H, W].

    gradient: that of the score of the class. integrated: its mean on the way from the black image, times the image
    (Sundararajan et al. 2017, arXiv 1703.01365), by the midpoints of `steps` parts.

    Args:
        x: [B, C, H, W].
        target: class of each image, int64 [B].

    Raises:
        UserError: scores have no gradient, or one that is not finite.
    """
    if method == "gradient":
        found = _gradient(predict, x, target, rng).double()
    else:
        parts = ((step + 0.5) / steps for step in range(steps))
        found = sum((_gradient(predict, part * x, target, rng).double() for part in parts), torch.zeros(())) * x
    check_finite(found.flatten(1), "attributions")
    flat = found.flatten(1)
    peak = flat.abs().amax(1, keepdim=True)  # the square of a tiny or huge gradient leaves the range
    scaled = flat / torch.where(peak > 0, peak, 1.0)
    length = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return (scaled / torch.where(length > 0, length, 1.0)).reshape(found.shape)


def _gradient(predict: Forward, x: Tensor, target: Tensor, rng: Rng) -> Tensor:
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        scores = predict(leaf, rng)
        if not scores.requires_grad:
            raise UserError("the scores of this defense have no gradient, so that nothing is attributed to pixels")
        (found,) = torch.autograd.grad(scores.gather(1, target[:, None]).sum(), leaf)
    return found


def in_ball(x: Tensor, radius: float, rng: Rng, draw: Tensor) -> Tensor:
    """Return images moved by a vector that is uniform in the l2 ball of this radius; draw: numbers it, int64 [B]."""
    shape = tuple(x.shape[1:])
    way = rng.normal(shape, draw, dtype=torch.float64)
    length = rng.stream("length").uniform((), draw=draw, dtype=torch.float64) ** (1 / math.prod(shape))
    scale = radius * length / torch.linalg.vector_norm(way.flatten(1), dim=1)
    moved: Tensor = x + scale.reshape(-1, 1, 1, 1) * way
    return moved.to(x.dtype)
