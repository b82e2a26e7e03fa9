"""The images that an attacker may choose, and the least value of a linear function on them."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gauntlet.errors import UserError
from gauntlet.threat_model.threat import Threat

NORMS = ("linf", "l2")
CLIPS = 4
"""Newton steps for the multiplier of the l2 ball inside the box; every one of them is sound."""


@dataclass(frozen=True)
class Region:
    """{z in [lower, upper] : ||z - centre||_2 <= radius}, one for each image.

    Args:
        centre, lower, upper: float [B, C, H, W].
        radius: [B]; None: the box alone.
    """

    centre: Tensor
    lower: Tensor
    upper: Tensor
    radius: Tensor | None = None

    def select(self, index: Tensor) -> "Region":
        """Return the regions of some of the images; index int64 [b]."""
        radius = None if self.radius is None else self.radius[index]
        return Region(self.centre[index], self.lower[index], self.upper[index], radius)

    def to(self, dtype: torch.dtype) -> "Region":
        """Return the same numbers, rounded to that dtype."""
        radius = None if self.radius is None else self.radius.to(dtype)
        return replace(
            self,
            centre=self.centre.to(dtype),
            lower=self.lower.to(dtype),
            upper=self.upper.to(dtype),
            radius=radius,
        )

    def least(self, a: Tensor, owner: Tensor | None = None) -> Tensor:
        """Return a lower bound of the least a . z, [Q], for a [Q, C, H, W] on the regions of the images owner [Q].

        owner: None: there is one region, for all questions.
        """
        return self.lowest(a, owner)[0]

    def lowest(self, a: Tensor, owner: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the same, and the points [Q, C, H, W] where it is taken: the gradients of the bounds.

        Exact on a box. In the l2 ball, by duality: the least over the box of a . d + (|d|^2 - radius^2) / (2 t), any
        t > 0; from t = radius / |a|, which gives no less than the ball alone, towards the best t. The points may lie
        a little outside of the ball.
        """
        shape, a = a.shape, a.flatten(1)
        centre, lower, upper = (
            v.flatten(1) if owner is None else v.flatten(1)[owner] for v in (self.centre, self.lower, self.upper)
        )
        if self.radius is None:
            point = torch.where(a > 0, lower, upper)
            return torch.einsum("qi,qi->q", a, point), point.reshape(shape)
        radius = (self.radius if owner is None else self.radius[owner])[:, None]
        low, high = lower - centre, upper - centre
        with torch.no_grad():
            t = radius / a.norm(dim=1, keepdim=True).clamp_min(1e-30)
            best, chosen = torch.full_like(t, -torch.inf), torch.zeros_like(a)
            for _ in range(CLIPS):
                free = -a * t
                step = free.clamp(low, high)
                value = (a * step).sum(1, keepdim=True) + (step.square().sum(1, keepdim=True) - radius**2) / (2 * t)
                chosen, best = torch.where(value > best, step, chosen), value.maximum(best)
                held = step != free
                left = radius**2 - (step.square() * held).sum(1, keepdim=True)
                rest = (a.square() * ~held).sum(1, keepdim=True)
                t = torch.where((left > 0) & (rest > 0), (left / rest.clamp_min(1e-300)).sqrt(), t * 4)
        # The multiplier is best for its a, so the gradient is that of the linear part alone.
        linear = (a * chosen).sum(1)
        value = (a * centre).sum(1) + best.squeeze(1) + (linear - linear.detach())
        return value, (centre + chosen).reshape(shape)


def fall_in_ball(a: Tensor, low: Tensor, high: Tensor, radius: Tensor) -> Tensor:
    """Return how far a . d can fall below zero at most, [Q], for |d| <= radius and d in [low, high] around zero.

    The dual bound of `Region.lowest`, as a sum of terms >= 0, which float32 may round.

    Args:
        a, low, high: [Q, N]; low and high may be shared by all: [1, N].
        radius: [Q or 1, 1].
    """
    t = radius / a.norm(dim=1, keepdim=True).clamp_min(1e-30)
    best = torch.full_like(t, torch.inf)
    for _ in range(CLIPS):
        free = -a * t
        step = free.maximum(low).minimum(high)
        fall = (step * (a + step / (2 * t))).sum(1, keepdim=True)
        best = best.minimum(radius**2 / (2 * t) - fall)
        held = (step != free).to(a.dtype)
        if not held.any():
            break
        left = radius**2 - (step.square() * held).sum(1, keepdim=True)
        rest = (a.square() * (1 - held)).sum(1, keepdim=True)
        more = (left.clamp_min(0) / rest.clamp_min(1e-30)).sqrt()
        t = torch.where((left > 0) & (rest > 0), more, t * 4)
    return best.squeeze(1)


def legal(threat: Threat, x: Tensor) -> Region:
    """Return all that the threat calls legal around the images, float64: `Threat.contains` with its tolerances.

    Args:
        threat: linf or l2.
        x: float32 [B, C, H, W] in the box.

    Raises:
        UserError: another norm.
    """
    if threat.norm not in NORMS:
        raise UserError(f"threat={threat.norm}: bounds know linf and l2; for l1 and l0 use certifier=smoothing")
    centre = x.double()
    # contains() allows eps (1 + 1e-6) + 1e-7; the rest is for the rounding of the distance itself.
    radius = threat.budget(centre) * (1 + 1.1e-6) + 1.1e-7
    lower, upper = (centre - radius).clamp_min(threat.low), (centre + radius).clamp_max(threat.high)
    ball = threat.norm == "l2" and not threat.unbounded
    return Region(centre, lower, upper, radius.flatten().expand(len(x)) if ball else None)
