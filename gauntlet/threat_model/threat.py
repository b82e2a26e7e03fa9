"""What an attacker may change: a norm ball around the image, inside the pixel box.

The benchmark owns the threat; no attack has an eps of its own. Images are float [B, C, H, W] with pixels in [0, 1].
"""

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from gauntlet.errors import UserError
from gauntlet.threat_model.eps import UNBOUNDED, parse_eps
from gauntlet.threat_model.l1_projection import project_l1
from gauntlet.threat_model.rng import Rng

ROUNDS = 12
"""Newton steps of a projection on an l1 ball that nearly always suffice."""

GOALS = ("untargeted", "targeted")
"""What counts as a success: any class but the label, or the target of each image."""

TARGETS = ("random", "least_likely", "runner_up", "nearest", "column")
"""How the target of an image is chosen: any other class, by the seed; by the clean scores, the worst or the best;
that whose boundary is nearest, as the gradients at the clean image see it (arXiv 2407.02240); as the data set says."""


@dataclass(frozen=True)
class Threat:
    """The set {z in [low, high]^d : ||z - x||_norm <= eps}.

    Args:
        norm: "linf", "l2", "l1" or "l0" (l0 counts pixels, not channels); of a kind with a class of its own its name;
            or, for certifiers, "patch", a square of that side, "poisoning", so many changes of the training set, and
            "attribution", an l2 ball in which not the class but what speaks for it shall stay.
        eps: the budget, > 0: a number, or text such as "8/255", which is kept as an exact fraction; or "unbounded":
            only the box limits, and an evaluation measures how far the attacker must go.
        low, high: the pixel box.
        goal: untargeted, or targeted: an attack succeeds only where the target of an image is predicted.
        target: random, least_likely, runner_up, nearest or column (of the data set): how it is chosen, where the goal
            is targeted.
        factors: per-sample multiples of eps, float [B]; None: all ones.

    Raises:
        UserError: unknown norm, goal or target, eps neither a positive finite number nor "unbounded", empty box.
    """

    norm: str
    eps: str | float
    low: float = 0.0
    high: float = 1.0
    goal: str = GOALS[0]
    target: str = TARGETS[0]
    factors: Tensor | None = field(default=None, metadata={"internal": True})

    NORMS: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1", "l0")
    PATCH: ClassVar[str] = "patch"
    TRANSFORMATIONS: ClassVar[tuple[str, ...]] = ("spatial", "color")
    KINDS: ClassVar[tuple[str, ...]] = (*NORMS, PATCH, *TRANSFORMATIONS)
    POISONING: ClassVar[str] = "poisoning"
    ATTRIBUTION: ClassVar[str] = "attribution"

    parametric: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.norm not in (known := (*self.KINDS, self.POISONING, self.ATTRIBUTION)):
            raise UserError(f"threat.norm={self.norm!r} is unknown; choose one of {', '.join(known)}")
        for key, value, choices in (("goal", self.goal, GOALS), ("target", self.target, TARGETS)):
            if value not in choices:
                raise UserError(f"threat.{key}={value!r} is unknown; choose one of {', '.join(choices)}")
        if not self.low < self.high:
            raise UserError(f"threat.low={self.low} must be below threat.high={self.high}")
        if self.norm == "linf" and self.high - self.low < parse_eps(self.eps) < math.inf:
            raise UserError(
                f"threat.eps={self.eps} is wider than the pixel box; did you mean {float(parse_eps(self.eps)):g}/255?"
            )
        parse_eps(self.eps)

    @property
    def radius(self) -> float:
        """Return eps as a float, without the per-sample factors; infinite where it is unbounded."""
        return float(parse_eps(self.eps))

    @property
    def unbounded(self) -> bool:
        """Return whether the box alone limits the attacker."""
        return self.radius == math.inf

    @property
    def targeted(self) -> bool:
        """Return whether only the target of an image counts as a success."""
        return self.goal == "targeted"

    @property
    def label(self) -> str:
        """Return the name for a folder, such as `linf-8_255`, `l2-unbounded` or `linf-8_255-targeted-random`."""
        aim = f"-targeted-{self.target}" if self.targeted else ""
        shape = "".join(f"-{key}-{value:g}" for key, value in self.shape.items())
        size = UNBOUNDED if self.unbounded else str(parse_eps(self.eps)).replace("/", "_")
        return f"{self.norm}-{size}{shape}{aim}"

    @property
    def shape(self) -> dict[str, float]:
        """Return what sets this set apart from others of its norm and eps; empty: nothing."""
        return {}

    def check_reach(self, shape: tuple[int, ...]) -> None:
        """Refuse an eps beyond the distance of any two images of the box, which limits nothing; shape: (C, H, W).

        Raises:
            UserError: it is.
        """
        pixels, width = math.prod(shape), self.high - self.low
        far = {"linf": width, "l2": width * math.sqrt(pixels), "l1": width * pixels, "l0": pixels / shape[0]}[self.norm]
        if far < self.radius < math.inf:
            raise UserError(
                f"threat.eps={self.eps} is wider than the pixel box: no two images of {'x'.join(map(str, shape))} lie "
                f"further apart than {far:g} in {self.norm}; give at most that"
            )

    def scaled(self, factors: Tensor) -> "Threat":
        """Return the same threat with eps multiplied per sample; factors: float [B], >= 0."""
        return replace(self, factors=factors if self.factors is None else self.factors * factors)

    def within(self, eps: Tensor) -> "Threat":
        """Return this threat with a budget of its own for each sample; eps: finite, >= 0, as the norm counts, [B]."""
        unit = self.high - self.low  # an eps that every norm allows
        return replace(self, eps=unit, factors=eps / unit)

    def select(self, index: Tensor) -> "Threat":
        """Return the threat for some of the samples; index: a mask bool [B] or positions int64 [b]."""
        return self if self.factors is None else replace(self, factors=self.factors[index])

    def budget(self, x: Tensor) -> Tensor:
        """Return eps per sample in the dtype of x, broadcastable against it: [1 or B, 1, 1, 1]; infinite if unbounded.

        Raises:
            UserError: the norm is none that an attack knows.
        """
        if self.norm not in self.NORMS:
            raise UserError(f"no attack knows threat.norm={self.norm}; choose one of {', '.join(self.NORMS)}")
        if self.unbounded:
            return torch.full([1] * x.dim(), math.inf, device=x.device, dtype=x.dtype)
        factors = torch.ones(1, device=x.device, dtype=x.dtype) if self.factors is None else self.factors.to(x)
        return (factors * self.radius).reshape(-1, *[1] * (x.dim() - 1))

    @final
    def project(self, z: Tensor, x: Tensor) -> Tensor:
        """Return the point of the set near z. Exact for linf, l1 and l0; for l2 the ball comes first and the box
        second, which stays inside both but is not the nearest point where a pixel meets the box.
        """
        if self.norm == "l2" and not self.unbounded:
            return self._settled(self._scaled(z, x), x)[0]
        point, taken = self.projected(z, x, ROUNDS)
        if taken is None or not (taken > ROUNDS).any():
            return point
        return self._settled(project_l1(z, x, self.budget(x), self.low, self.high)[0], x)[0]

    def projected(self, z: Tensor, x: Tensor, rounds: int) -> tuple[Tensor, Tensor | None]:
        """Return what `project` does, by so many rounds and read by nobody yet, and how many each sample takes, [B]:
        the point of one that takes more is not there. None: all are.

        For loops that read all of a step at once.
        """
        if self.unbounded:
            return z.clamp(self.low, self.high), None
        eps = self.budget(x)
        if self.norm == "linf":
            return z.clamp(x - eps, x + eps).clamp_(self.low, self.high), None
        if self.norm == "l2":
            return self._settled(self._scaled(z, x), x, rounds)
        if self.norm == "l1":
            point, taken = project_l1(z, x, eps, self.low, self.high, rounds)
            return point, taken + rounds * (self._settled(point, x, 1)[1] - 1)
        delta = z.clamp(self.low, self.high) - x
        size = delta.square().sum(1, keepdim=True)
        keep = _largest(size.flatten(1), eps.flatten().floor().long()).reshape(size.shape)
        return x + delta * keep, None

    def _scaled(self, z: Tensor, x: Tensor) -> Tensor:
        """Return z, pulled towards x into the l2 ball, then moved into the box."""
        delta = z - x
        return (x + delta * (self.budget(x) / _length(delta).clamp_min(1e-30)).clamp_max(1.0)).clamp_(
            self.low, self.high
        )

    def _settled(self, z: Tensor, x: Tensor, rounds: int | None = None) -> tuple[Tensor, Tensor]:
        """Return z, pulled towards x where rounding its many pixels to the dtype of x left it outside the ball, and how
        many rounds that takes, [B]; rounds: of these, without a read; None: as many as it takes."""
        eps = self._exact_eps(x)
        slack, taken = 1e-6, torch.ones(len(z), device=z.device)
        while True:
            distance = self.distance(z, x)
            over = distance > eps * (1 + 5e-7) + 5e-8
            taken += over
            rounds = None if rounds is None else rounds - 1
            if rounds == 0 or slack > 0.5 or (rounds is None and not over.any()):
                return z, taken
            share = torch.where(over, eps / distance * (1 - slack), 1.0).reshape(-1, *[1] * (x.dim() - 1))
            z = torch.where(share < 1, (x + (z - x) * share.to(x.dtype)).clamp(self.low, self.high), z)
            slack *= 2

    def sample(self, x: Tensor, unit: Tensor, gauss: Tensor) -> Tensor:
        """Return a random point of the set. unit: uniform [0, 1), gauss: standard normal, both of the shape of x.

        linf: uniform in the cube. l2: uniform in the ball. l1: a Laplace direction, uniform radius, projected.
        l0: uniform values at the pixels that the largest of gauss pick. Unbounded: uniform in the box.
        """
        if self.unbounded:
            return (self.low + (self.high - self.low) * unit).expand_as(x)
        eps = self.budget(x)
        if self.norm == "linf":
            return self.project(x + eps * (2 * unit - 1), x)
        flat = [1] * (x.dim() - 1)
        if self.norm == "l2":
            share = unit.flatten(1)[:, 0].reshape(-1, *flat) ** (1 / x[0].numel())
            return self.project(x + eps * share * gauss / _length(gauss).clamp_min(1e-30), x)
        if self.norm == "l1":
            laplace = -gauss.sign() * torch.log1p(-unit)
            return self.project(
                x + eps * laplace / laplace.abs().flatten(1).sum(1).reshape(-1, *flat).clamp_min(1e-30), x
            )
        chosen = _largest(gauss[:, 0].flatten(1), eps.flatten().floor().long()).reshape(len(x), 1, *x.shape[2:])
        return torch.where(chosen, self.low + (self.high - self.low) * unit, x)

    def realized(self, found: Tensor, x: Tensor) -> Tensor:
        """Return the images that are judged, of what an attack returned: the same, unless the set has parameters."""
        return found

    def random(self, x: Tensor, rng: Rng) -> Tensor:
        """Return a random point of the set for each sample of the stream."""
        shape = tuple(x.shape[1:])
        unit = rng.uniform(shape, dtype=x.dtype)
        return self.sample(x, unit, unit if self.norm == "linf" else rng.normal(shape, draw=1, dtype=x.dtype))

    def edge(self, x: Tensor, rng: Rng) -> Tensor:
        """Return a random point on the boundary of the ball, then moved into the box: the start of Auto-PGD."""
        if self.unbounded:
            return self.random(x, rng)
        shape = tuple(x.shape[1:])
        way = rng.uniform(shape, -1, 1, dtype=x.dtype) if self.norm == "linf" else rng.normal(shape, dtype=x.dtype)
        flat = way.flatten(1)
        far = flat.abs().amax(1) if self.norm == "linf" else torch.linalg.vector_norm(flat, dim=1).clamp_min(1e-30)
        return self.project(x + self.budget(x) * way / far.reshape(-1, *[1] * (x.dim() - 1)), x)

    def steepest(self, gradient: Tensor, sparsity: float = 0.05) -> Tensor:
        """Return the direction of unit length in this norm along which the gradient promises most.

        l1 spreads over the share `sparsity` of the entries with the largest gradients (a single entry, the exact
        answer, makes no progress in practice; Tramer and Boneh 2019, arXiv 1904.13000). l0 uses the l2 direction.
        """
        flat = [1] * (gradient.dim() - 1)
        if self.norm == "linf":
            return gradient.sign()
        if self.norm == "l1":
            count = max(1, round(sparsity * gradient[0].numel()))
            amount = torch.full((len(gradient),), count, device=gradient.device)
            top = gradient.sign() * _largest(gradient.abs().flatten(1), amount).reshape(gradient.shape)
            return top / top.abs().flatten(1).sum(1).reshape(-1, *flat).clamp_min(1.0)
        # Scaled to largest entry one first: the square of a tiny or huge gradient leaves the range of float32.
        peak = gradient.abs().flatten(1).amax(1).reshape(-1, *flat)
        scaled = gradient / peak.clamp_min(torch.finfo(gradient.dtype).tiny)
        return scaled / _length(scaled).clamp_min(1e-12)

    def distance(self, z: Tensor, x: Tensor) -> Tensor:
        """Return ||z - x|| in this norm, float64 [B]; NaN where z is not finite."""
        delta = z.to(torch.float64, copy=True).sub_(x).flatten(1)
        if self.norm == "linf":
            return delta.abs_().amax(1)
        if self.norm == "l2":
            return delta.square_().sum(1).sqrt_()
        if self.norm == "l1":
            return delta.abs_().sum(1)
        changed = (z != x).any(1).flatten(1).sum(1).double()
        return torch.where(delta.isfinite().all(1), changed, math.nan)

    def _exact_eps(self, x: Tensor) -> Tensor:
        """Return eps per sample, float64 [1 or B]."""
        return self.budget(torch.empty(0, device=x.device, dtype=torch.float64))

    def contains(self, z: Tensor, x: Tensor) -> Tensor:
        """Return whether each candidate is legal, bool [B]: finite, in the box, within eps (1 + 1e-6) + 1e-7."""
        inside = ((z >= self.low) & (z <= self.high)).flatten(1).all(1)  # false for NaN
        eps = self._exact_eps(x)
        return inside & (self.distance(z, x) <= eps * (1 + 1e-6) + 1e-7)


def _length(delta: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
    return length.reshape(-1, *[1] * (delta.dim() - 1))


def _largest(values: Tensor, count: Tensor) -> Tensor:
    """Mask of the `count[i]` largest entries of row i; bool like values [B, d]."""
    order = values.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(values.shape[1], device=values.device).expand_as(order)
    )
    return rank < count[:, None]
