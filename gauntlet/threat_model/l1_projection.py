"""The Euclidean projection onto an l1 ball inside the pixel box."""

import torch
from torch import Tensor

LOOKS = 16
"""Steps between two looks at whether all points are found."""

MOST = 200
"""Newton steps and halvings after which no digits are left."""


def project_l1(
    z: Tensor, x: Tensor, eps: Tensor, low: float, high: float, rounds: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the point of {||u - x||_1 <= eps} and the box that is nearest to z [B, C, H, W], exact up to rounding, and
    how many Newton steps each takes, [B].

    With room_i the way from x_i to the box in the direction of delta_i, the solution moves entry i by
    clip(|delta_i| - t, 0, room_i) for the smallest t >= 0 that meets the budget. That sum falls piecewise linearly in
    t: Newton steps, halving where they leave the bracket or are many, end on the right piece sooner than a sort.

    rounds: of these, which read nothing: a point that takes more is not found, one that takes less is not changed by
        more; None: until all points are found.
    """
    delta, start = (z - x).flatten(1), x.flatten(1)
    size, slack = delta.abs(), 8 * torch.finfo(x.dtype).eps
    limit = eps.flatten(1) * (1 - slack)
    room, close = torch.where(delta > 0, high - start, start - low), slack * limit
    moved = size.minimum(room)
    free, inside = torch.empty_like(size), torch.empty_like(size)  # in place: new memory costs more than the sums
    done = moved.sum(1, keepdim=True) <= limit
    left, right = torch.zeros_like(size[:, :1]), size.amax(1, keepdim=True)
    t, spare, number = left, torch.zeros_like(done, dtype=torch.int32), 0
    for number in range(1, 1 + (rounds or MOST)):
        if rounds is None and number % LOOKS == 0 and done.all():
            break
        torch.minimum(torch.sub(size, t, out=moved).clamp_min_(0), room, out=moved)
        excess = moved.sum(1, keepdim=True).sub_(limit)
        above = excess > 0
        done = done | (excess.abs() <= close)
        left, right = torch.where(above, t, left), torch.where(above, right, t)
        done |= right - left <= slack * right  # far points and a small ball: t itself has no more digits
        spare += done
        count = torch.gt(size, t, out=free).mul_(torch.lt(moved, room, out=inside)).sum(1, keepdim=True)
        ahead = t + excess / count.clamp_min_(1)
        halve = (ahead <= left) | (ahead >= right)
        if number > 16 and number % 2:
            halve = torch.ones_like(halve)
        t = torch.where(done, t, torch.where(halve, (left + right) / 2, ahead))
    point = (start + delta.sign() * moved).reshape(x.shape).clamp(low, high)
    return point, (number + 1 - spare).squeeze(1)
