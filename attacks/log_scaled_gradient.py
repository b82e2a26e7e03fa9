"""Gradients of a loss whose lengths can be compared and added although the loss saturates.

The losses of this package are directions. Where gradients are averaged (over copies of an image, neighbours, networks),
their lengths matter: that of cross-entropy is proportional to 1 - p_y, which leaves the range of float32 on confident
networks. A slope keeps the logarithm of that length beside the direction, so that any average is exact up to one
positive factor for each sample.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from gauntlet.attacks.losses import Cotangent, named, scored
from gauntlet.errors import UserError


class Slope(NamedTuple):
    """The gradient `way * exp(log)` of each sample."""

    way: Tensor  # [B, C, H, W]
    log: Tensor  # [B]

    def select(self, index: Tensor) -> "Slope":
        """The same for some of the samples."""
        return Slope(self.way[index], self.log[index])


def added(*terms: tuple[float, Slope]) -> Slope:
    """The weighted sum of slopes; a single term of weight one comes back as it is."""
    if len(terms) == 1 and terms[0][0] == 1.0:
        return terms[0][1]
    top = torch.stack([slope.log for _, slope in terms]).amax(0)
    total = torch.zeros_like(terms[0][1].way)
    for weight, (way, log) in terms:
        total = total + weight * (log - top).exp().to(way.dtype).reshape(-1, *[1] * (way.dim() - 1)) * way
    return Slope(total, top)


class Measured(NamedTuple):
    """A loss, and the logarithm of the length that its cotangent was scaled by."""

    cotangent: Cotangent
    log: Callable[[Tensor, Tensor], Tensor]  # (logits [B, K], y [B]) -> [B]


MEASURED = ("ce", "margin")
"""Losses whose gradient comes with its log scale."""


def measured(name: str) -> Measured:
    """The loss of that name: ce or margin. Raises UserError."""
    logs = {"ce": _log_error, "margin": lambda logits, y: torch.zeros_like(_error(logits, y))}
    if name not in logs:
        raise UserError(f"loss={name!r} is unknown here; choose one of {', '.join(logs)}")
    return Measured(named(name), logs[name])


def surprise(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy -log p_y, [B], without cancellation."""
    return softplus(_error(logits, y))


def _error(logits: Tensor, y: Tensor) -> Tensor:
    return scored("ce").value(logits, y)


def _log_error(logits: Tensor, y: Tensor) -> Tensor:
    """log(1 - p_y), [B]."""
    return logsigmoid(_error(logits, y))
