"""The Euclidean projection onto an l1 ball inside the pixel box."""

import torch
from torch import Tensor


def project_l1(z: Tensor, x: Tensor, eps: Tensor, low: float, high: float) -> Tensor:
    """Return the point of {||u - x||_1 <= eps} and the box that is nearest to z [B, C, H, W], exact up to rounding.

    With room_i the way from x_i to the box in the direction of delta_i, the solution moves entry i by
    clip(|delta_i| - t, 0, room_i) for the smallest t >= 0 that meets the budget. That sum falls piecewise linearly in
    t: Newton steps, halving where they leave the bracket or are many, end on the right piece sooner than a sort.
    """
    delta, start = (z - x).flatten(1), x.flatten(1)
    size, slack = delta.abs(), 8 * torch.finfo(x.dtype).eps
    limit = eps.flatten(1) * (1 - slack)
    room = torch.where(delta > 0, high - start, start - low)
    moved = size.minimum(room)
    done = moved.sum(1, keepdim=True) <= limit
    left, right = torch.zeros_like(size[:, :1]), size.amax(1, keepdim=True)
    t = left
    for number in range(200):
        if done.all():
            break
        moved = (size - t).clamp_min_(0).minimum(room)
        excess = moved.sum(1, keepdim=True) - limit
        done = done | (excess.abs() <= slack * limit)
        left, right = torch.where(excess > 0, t, left), torch.where(excess > 0, right, t)
        done = done | (right - left <= slack * right)  # far points and a small ball: t itself has no more digits
        ahead = t + excess / ((size > t) & (moved < room)).sum(1, keepdim=True).clamp_min(1)
        halve = (ahead <= left) | (ahead >= right) | (number > 15 and number % 2 == 0)
        t = torch.where(done, t, torch.where(halve, (left + right) / 2, ahead))
    return (start + delta.sign() * moved).reshape(x.shape).clamp(low, high)
