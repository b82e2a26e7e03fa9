"""FAB: fast adaptive boundary attack."""

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from attacks.losses import margin
from harness.errors import UserError
from harness.meter import MeteredHead
from harness.rng import Rng
from harness.threat import Threat


@dataclass(frozen=True)
class FAB:
    """Targeted FAB (Croce and Hein 2020, arXiv 1907.02044) for linf, l2 and l1: walks along the decision boundary.

    Each step linearises z_t - z_y, projects the point and the clean image onto the plane where it vanishes, inside the
    box, steps a little beyond the mixture of both, and comes back towards the image where that fools the victim. A
    sample leaves as soon as a candidate within eps fools the victim.

    Args:
        steps: per target, >= 1.
        targets: the best other classes of the clean image to walk to, each in turn, >= 1.
        overshoot: eta, how far beyond the plane, > 0.
        pull: beta, share of the perturbation that is kept on the way back, in (0, 1).
        bias: alpha_max, the largest weight of the clean image, in [0, 1].

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[str] = "gradient"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")

    steps: int = 100
    targets: int = 9
    overshoot: float = 1.05
    pull: float = 0.9
    bias: float = 0.1

    def __post_init__(self) -> None:
        for name, good in (
            ("steps", self.steps >= 1),
            ("targets", self.targets >= 1),
            ("overshoot", self.overshoot > 0 and math.isfinite(self.overshoot)),
            ("pull", 0 < self.pull < 1),
            ("bias", 0 <= self.bias <= 1),
        ):
            if not good:
                raise UserError(f"attack.{name}={getattr(self, name)} is out of range; see docs/attacks.md")

    def __call__(self, head: MeteredHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Candidates z of the shape of x [B, C, H, W], the image itself where nothing was found; y: int64 [B]."""
        found, alive = x.clone(), torch.arange(len(x), device=x.device)
        if not len(x):
            return found
        scores = head.scores(x, rng.stream("targets"))
        order = scores.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :-1]
        for rank in range(min(self.targets, order.shape[1])):
            if len(alive):
                below = rng.select(alive).stream(rank)
                done = self._run(head, x, y, order[:, rank], found, alive, threat, below)
                alive = alive[~done]
        return found

    def _run(
        self,
        head: MeteredHead,
        x: Tensor,
        y: Tensor,
        target: Tensor,
        found: Tensor,
        alive: Tensor,
        threat: Threat,
        rng: Rng,
    ) -> Tensor:
        """Walk the samples at `alive` to their target; enter what is found, return which were, bool like alive."""
        done = torch.zeros(len(alive), dtype=torch.bool, device=x.device)
        place = torch.arange(len(alive), device=x.device)
        x, y, target, threat = x[alive], y[alive], target[alive], threat.select(alive)
        point = x
        for number in range(self.steps):
            draw = rng.stream(number)
            logits, slope = head.gradient(point, partial(margin, y=y, target=target), draw)
            # The cotangent is half of e_t - e_y, and so is the value that goes with this slope.
            gap = (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1).to(x.dtype) / 2
            offset = (slope * (point - x)).flatten(1).sum(1)
            from_point = reach(point, slope, -gap, threat)
            from_image = reach(x, slope, offset - gap, threat)
            one, two = threat.distance(from_point, 0 * x), threat.distance(from_image, 0 * x)
            share = (one / (one + two).clamp_min(1e-12)).clamp(0, self.bias).to(x.dtype).reshape(-1, 1, 1, 1)
            ahead, straight = point + self.overshoot * from_point, x + self.overshoot * from_image
            point = ((1 - share) * ahead + share * straight).clamp(threat.low, threat.high)
            broken = head.broken(point, head.scores(point, draw), y, draw, plain=True)
            inside = broken & threat.contains(point, x)
            if inside.any():
                found[alive[place[inside]]] = point[inside]
                done[place[inside]] = True
                stay = (~inside).nonzero().squeeze(1)
                if not len(stay):
                    break
                place, point, x, y, target, broken = (t[stay] for t in (place, point, x, y, target, broken))
                threat, rng = threat.select(stay), rng.select(stay)
            point = torch.where(broken.reshape(-1, 1, 1, 1), x + self.pull * (point - x), point)
        return done


def reach(x: Tensor, slope: Tensor, amount: Tensor, threat: Threat) -> Tensor:
    """The least move d with <slope, d> = amount that keeps x + d in the box; as far as the box allows where none does.

    Args:
        x, slope: [B, C, H, W].
        amount: [B].

    Returns:
        d like x, least in the norm of the threat. Each pixel moves in the direction that helps, by min(t g, room) with
        g = 1 for linf and |slope| for l2; the t that meets the amount is found by sorting the points where pixels meet
        the box. For l1 the pixels of largest |slope| move to the box one after the other.
    """
    weight = slope.flatten(1).double()
    sign = amount.sign().double()[:, None] * weight.sign()
    start, need = x.flatten(1).double(), amount.abs().double()[:, None]
    room = torch.where(sign > 0, threat.high - start, start - threat.low) * (sign != 0)
    size = weight.abs()
    if threat.norm == "l1":
        order = size.argsort(dim=1, descending=True)
        gain = (size * room).gather(1, order)
        before = gain.cumsum(1) - gain
        ordered = size.gather(1, order).clamp_min(1e-300)
        move = ((need - before).clamp_min(0) / ordered).minimum(room.gather(1, order))
        move = torch.zeros_like(move).scatter(1, order, move)
    else:
        pace = torch.ones_like(size) if threat.norm == "linf" else size
        kink, order = torch.where(pace > 0, room / pace.clamp_min(1e-300), 0.0).sort(dim=1)
        clipped = (size * room).gather(1, order)
        free = (size * pace).gather(1, order)
        left = free.sum(1, keepdim=True) - free.cumsum(1) + free  # of the pixels that have not met the box before this
        total = clipped.cumsum(1) - clipped + kink * left  # gained at t = kink
        piece = torch.searchsorted(total.contiguous(), need.contiguous()).clamp_max(total.shape[1] - 1)
        base = (clipped.cumsum(1) - clipped).gather(1, piece)
        t = (need - base) / left.gather(1, piece).clamp_min(1e-300)
        move = (t.clamp_min(0) * pace).minimum(room)
    return (sign * move).to(x.dtype).reshape(x.shape)
