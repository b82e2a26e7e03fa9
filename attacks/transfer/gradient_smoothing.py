"""Smoother gradients: over a neighbourhood of the point, or over the pixels of the image."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from gauntlet.attacks.log_scaled_gradient import LogScaledGradient, weighted_sum
from gauntlet.attacks.transfer.context import AttackContext
from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.rng import Rng

At = Callable[[Tensor, Rng], LogScaledGradient]
"""The gradient at some points, under draws of its own."""


class GradientSmoothing(Protocol):
    """How the gradient of a step is made from gradients around the point."""

    central: ClassVar[bool]
    """Whether the gradient at the point itself is wanted."""

    def __call__(
        self,
        at: At,
        z: Tensor,
        center: LogScaledGradient | None,
        memory: LogScaledGradient | None,
        context: AttackContext,
        rng: Rng,
        last: bool,
    ) -> tuple[LogScaledGradient, LogScaledGradient | None]:
        """Return the gradient to follow, and what to remember for the next step.

        Args:
            z: the points [B, C, H, W].
            center: the gradient there; None unless `central`.
            memory: what the step before remembered; None at the first step.
            last: no step follows.
        """


@dataclass(frozen=True)
class Variance(Knobs, key="attack.smoothing"):
    """VMI: variance tuning (Wang and He 2021, arXiv 2103.15571). The gradient is corrected by how much the mean
    gradient around the point of the step before differed from the gradient there. 1 + neighbours gradients a step, the
    last step one.

    Args:
        neighbours: points drawn, >= 1.
        reach: of the neighbourhood, as a multiple of eps, > 0.
    """

    central: ClassVar[bool] = True

    neighbours: int = knob(20, least=1)
    reach: float = knob(1.5, above=0)

    def __call__(
        self,
        at: At,
        z: Tensor,
        center: LogScaledGradient | None,
        memory: LogScaledGradient | None,
        context: AttackContext,
        rng: Rng,
        last: bool,
    ) -> tuple[LogScaledGradient, LogScaledGradient | None]:
        assert center is not None
        tuned = center if memory is None else weighted_sum((1.0, center), (1.0, memory))
        if last:
            return tuned, None
        variance = weighted_sum((-1.0, center))
        for number in range(self.neighbours):
            draw = rng.stream(number)
            near = at(context.nearby(z, self.reach, draw.stream("near")), draw)
            variance = weighted_sum((1.0, variance), (1 / self.neighbours, near))
        return tuned, variance


@dataclass(frozen=True)
class Flatness(Knobs, key="attack.smoothing"):
    """PGN: penalized gradient norm (Ge et al. 2023, arXiv 2306.05225). The mean, over neighbours, of the gradient there
    and of that one step back along it, which favors flat maxima. 2 neighbours gradients a step.

    Args:
        neighbours: points drawn, >= 1.
        reach: of the neighbourhood, as a multiple of eps, > 0.
        balance: weight of the gradient one step back, in [0, 1].
    """

    central: ClassVar[bool] = False

    neighbours: int = knob(20, least=1)
    reach: float = knob(3.0, above=0)
    balance: float = knob(0.5, least=0, most=1)

    def __call__(
        self,
        at: At,
        z: Tensor,
        center: LogScaledGradient | None,
        memory: LogScaledGradient | None,
        context: AttackContext,
        rng: Rng,
        last: bool,
    ) -> tuple[LogScaledGradient, LogScaledGradient | None]:
        total: list[tuple[float, LogScaledGradient]] = []
        for number in range(self.neighbours):
            draw = rng.stream(number)
            near = context.nearby(z, self.reach, draw.stream("near"))
            first = at(near, draw.stream("first"))
            second = at(near - context.shift(context.scaled(first.direction)), draw.stream("second"))
            mean = weighted_sum((1 - self.balance, first), (self.balance, second))
            total = [(1.0, weighted_sum(*total, (1 / self.neighbours, mean)))]
        return total[0][1], None


@dataclass(frozen=True)
class Kernel(Knobs, key="attack.kernel"):
    """TI: translation invariance (Dong et al. 2019, arXiv 1904.02884). The gradient is blurred with a Gaussian, which
    stands for the mean gradient over shifted images.

    Args:
        size: of the kernel in pixels, odd, >= 1.
        spread: the kernel covers this many standard deviations to each side, > 0.
    """

    size: int = knob(15, least=1)
    spread: float = knob(3.0, above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size % 2 == 0:
            raise UserError(f"attack.kernel.size={self.size} must be odd: the kernel has a middle")

    def __call__(self, gradient: Tensor) -> Tensor:
        """Return the blurred gradient [B, C, H, W], with zeros beyond its edges."""
        line = (
            torch.linspace(-self.spread, self.spread, self.size, dtype=torch.float64)
            if self.size > 1
            else torch.zeros(1)
        )
        bell = torch.exp(-line.square() / 2)
        plane = bell[:, None] * bell
        weight = (plane / plane.sum()).to(gradient).expand(gradient.shape[1], 1, -1, -1)
        # Scaled to largest entry one first: tiny gradients would vanish below the range of float32.
        peak = gradient.abs().flatten(1).amax(1).reshape(-1, 1, 1, 1).clamp_min(torch.finfo(gradient.dtype).tiny)
        return peak * conv2d(gradient / peak, weight, padding=self.size // 2, groups=gradient.shape[1])
