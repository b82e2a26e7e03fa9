"""The decision boundary linearized: the hyperplane where two logits of the linearized network are equal."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gauntlet.attacks.losses import margin, margin_hidden_by_rounding, ranking, runner_up
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.passes import RowLoss
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.targeted import TargetedHead

DUAL = {"linf": 1, "l2": 2, "l1": math.inf}


class LinearizedBoundary(NamedTuple):
    """gap + <gradient, move> = 0, for the half difference of another logit and the true one.

    Where a large common offset hides that difference in the last digits of the logits, the plane lies beyond the
    boundary by more than they hide.
    """

    gap: Tensor  # [B], at the point: negative where the true logit is larger
    gradient: Tensor  # [B, C, H, W]
    sums: Tensor  # of the entries of each gradient, [B]: where one is doubtful, nobody has settled them yet


def linearize_boundary(head: CountedHead, point: Tensor, y: Tensor, target: Tensor, rng: Rng) -> LinearizedBoundary:
    """Return the boundary to a chosen class, for one gradient. y, target: int64 [B]."""
    logits, gradient, sums = head.pulled(point, RowLoss(margin, y, target), rng)
    return LinearizedBoundary(_gap(logits, y, target, point), gradient, sums)


def nearest_boundary(head: CountedHead, point: Tensor, y: Tensor, norm: str, rng: Rng) -> LinearizedBoundary:
    """Return the boundary that is nearest in the norm, for one forward pass and a backward pass for each other class.

    Of a targeted head it is that between the target and the best other class at the point, for one backward pass: to
    become the target an image must be ahead of all, and the best is the last that it passes.
    """
    if isinstance(head, TargetedHead):
        logits, gradient, sums = head.pulled(point, RowLoss(margin, y), rng)
        return LinearizedBoundary(_gap(logits, y, runner_up(logits, y), point), gradient, sums)
    logits, pull = head.linearize(point, rng)
    best, least, settled = None, point.new_full((len(point),), math.inf), point.new_ones(len(point))
    for number in range(1, logits.shape[1]):
        target = (y + number) % logits.shape[1]
        boundary = LinearizedBoundary(_gap(logits, y, target, point), pull(margin(logits, y, target)), settled)
        length = torch.linalg.vector_norm(boundary.gradient.flatten(1), DUAL[norm], dim=1)
        away = boundary.gap.abs() / length.clamp_min(1e-12)
        nearer = away < least
        wide = nearer.reshape(-1, *[1] * (point.dim() - 1))
        best = boundary if best is None else LinearizedBoundary(
            torch.where(nearer, boundary.gap, best.gap), torch.where(wide, boundary.gradient, best.gradient), settled
        )  # fmt: skip
        least = torch.where(nearer, away, least)
    assert best is not None, "a classifier has two classes at least"
    return best


def nearest_classes(
    head: CountedHead, x: Tensor, y: Tensor, candidates: int, norm: str, rng: Rng
) -> tuple[Tensor, Tensor]:
    """Return the other classes from the nearest boundary to the farthest, int64 [B, n], and the distances [B, n].

    For one forward pass and a backward pass for each class. A distance is negative where the class is ahead.

    Args:
        x, y: images [B, C, H, W] and labels int64 [B].
        candidates: how many classes of largest logit are looked at; n is that, or all others where they are fewer.
        norm: linf, l2 or l1.
    """
    logits, pull = head.linearize(x, rng)
    classes = ranking(logits, y)[:, :candidates]
    away = torch.empty(classes.shape, dtype=x.dtype, device=x.device)
    for number, target in enumerate(classes.unbind(1)):
        length = torch.linalg.vector_norm(pull(margin(logits, y, target)).flatten(1), DUAL[norm], dim=1)
        away[:, number] = -_gap(logits, y, target, x) / length.clamp_min(torch.finfo(x.dtype).tiny)
    order = away.argsort(dim=1, stable=True)
    return classes.gather(1, order), away.gather(1, order)


def _gap(logits: Tensor, y: Tensor, target: Tensor, point: Tensor) -> Tensor:
    """Return the value that goes with the cotangent of `margin`, which is half of e_target - e_y."""
    apart = (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)
    return (apart - margin_hidden_by_rounding(logits)).to(point.dtype) / 2
