"""Gradients of a loss whose lengths can be compared and added although the loss saturates.

The losses of this package are directions. Where gradients are averaged (over copies of an image, neighbors, networks),
their lengths matter: that of cross-entropy is proportional to 1 - p_y, which leaves the range of float32 on confident
networks. A log-scaled gradient keeps the logarithm of that length beside the direction, so that any average is exact up
to one positive factor for each sample.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from gauntlet.attacks.losses import Cotangent, named, scored
from gauntlet.errors import UserError


class LogScaledGradient(NamedTuple):
    """The gradient `direction * exp(log_scale)` of each sample."""

    direction: Tensor  # [B, C, H, W]
    log_scale: Tensor  # [B]

    def select(self, index: Tensor) -> "LogScaledGradient":
        """Select some of the samples."""
        return LogScaledGradient(self.direction[index], self.log_scale[index])


def weighted_sum(*terms: tuple[float, LogScaledGradient]) -> LogScaledGradient:
    """Return the weighted sum of log-scaled gradients; a single term of weight one comes back unchanged."""
    if len(terms) == 1 and terms[0][0] == 1.0:
        return terms[0][1]
    top = torch.stack([term.log_scale for _, term in terms]).amax(0)
    total = torch.zeros_like(terms[0][1].direction)
    for weight, (direction, log) in terms:
        total = (
            total + weight * (log - top).exp().to(direction.dtype).reshape(-1, *[1] * (direction.dim() - 1)) * direction
        )
    return LogScaledGradient(total, top)


class LogScaledLoss(NamedTuple):
    """A loss, and the logarithm of the length that its cotangent was scaled by."""

    cotangent: Cotangent
    log_scale: Callable[[Tensor, Tensor], Tensor]  # (logits [B, K], y [B]) -> [B]


LOG_SCALED_LOSSES = ("ce", "margin")
"""Losses whose gradient comes with its log scale."""


def log_scaled_loss(name: str) -> LogScaledLoss:
    """Return the loss of that name: ce or margin. Raises UserError."""
    logs = {"ce": _log_error, "margin": lambda logits, y: torch.zeros_like(_error(logits, y))}
    if name not in logs:
        raise UserError(f"loss={name!r} is unknown here; choose one of {', '.join(logs)}")
    return LogScaledLoss(named(name), logs[name])


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy -log p_y, [B], without cancellation."""
    return softplus(_error(logits, y))


def _error(logits: Tensor, y: Tensor) -> Tensor:
    return scored("ce").value(logits, y)


def _log_error(logits: Tensor, y: Tensor) -> Tensor:
    """Return log(1 - p_y), [B]."""
    return logsigmoid(_error(logits, y))
