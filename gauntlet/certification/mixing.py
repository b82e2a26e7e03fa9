"""Certificates for an accurate network mixed with a smoothed one."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from gauntlet.certification.certifiable import Mixed, check_weight
from gauntlet.certification.sequential_test import Radius
from gauntlet.certification.smoothing import Smoothing
from gauntlet.errors import UserError
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MixingCertifier(Smoothing):
    """`Smoothing` for (1 - a) g + a h, whatever the network g says (Bai et al., arXiv 2301.12554).

    Only the share h_y of the class is bounded; the other classes share the rest. Where a third network chooses a for
    each image, its least value counts: that is what fooling it can buy.

    Args: as of `Smoothing`, and
        formula: "closed": sigma (Phi^-1(h_y) - Phi^-1(1 / (2 a))), the largest radius that h_y alone can give;
            "smoothing": sigma Phi^-1(a h_y), and "lipschitz": (2 a h_y - 1) / (2 a L) with L = 1 / (sigma sqrt(2 pi)):
            the two of the paper, with a bound in place of its point estimates. Neither exceeds "closed".

    Raises:
        UserError: an unknown formula.
    """

    norms: ClassVar[tuple[str, ...]] = ("l2",)
    takes: ClassVar[tuple[type, str]] = (
        Mixed,
        "defense=smoothed_mixing or smoothed_adaptive (for mixing and adaptive_smoothing: certifier=mixing_bounds)",
    )

    formula: str = "closed"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.formula not in FORMULAS:
            raise UserError(f"certifier.formula={self.formula!r} is unknown; choose one of {', '.join(FORMULAS)}")

    def check(self, victim: Victim, threat: Threat) -> None:
        check_weight(self._mechanism(victim))
        super().check(victim, threat)

    def _radius(self, mechanism: Any) -> Radius:
        formula = FORMULAS[self.formula]
        return lambda shares: formula(shares[..., 0], 1 - shares[..., 0], mechanism.alpha, mechanism.noise.sigma)


def closed(top: ArrayLike, second: ArrayLike, alpha: float, sigma: float) -> Floats:
    """Return the radius from the share of the class alone; `second` is not used."""
    radius: Floats = sigma * (special.ndtri(np.asarray(top, float)) - special.ndtri(0.5 / alpha))
    return radius


def smoothing(top: ArrayLike, second: ArrayLike, alpha: float, sigma: float) -> Floats:
    """Return the paper's radius by smoothing, from the shares of the class and of the best other one."""
    h, other = np.asarray(top, float), np.asarray(second, float)
    radius: Floats = sigma / 2 * (special.ndtri(alpha * h) - special.ndtri(alpha * other + 1 - alpha))
    return radius


def lipschitz(
    top: ArrayLike, second: ArrayLike, alpha: float, sigma: float, constant: float = 1 / math.sqrt(2 * math.pi)
) -> Floats:
    """Return the paper's radius by Lipschitz constants. Its code has the constant sqrt(2 / pi), twice what is
    needed."""
    h, other = np.asarray(top, float), np.asarray(second, float)
    radius: Floats = (alpha * (h - other) + alpha - 1) / (2 * alpha * constant / sigma)
    return radius


def both(top: float, second: float, alpha: float, sigma: float) -> float:
    """Return the radius from a lower bound of the first share and an upper bound of the second, by bisection.

    At distance t the first is at least Phi(Phi^-1(top) - t / sigma) and the second at most Phi(Phi^-1(second) + t /
    sigma); the mixture holds while they differ by (1 - alpha) / alpha. Not less than `smoothing`; with second = 1 - top
    it is `closed`.
    """
    first, other = special.ndtri(top), special.ndtri(second)

    def margin(t: float) -> float:
        return float(special.ndtr(first - t) - special.ndtr(other + t) - (1 - alpha) / alpha)

    low, high = 0.0, 20.0
    if margin(low) <= 0:
        return 0.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if margin(middle) > 0 else (low, middle)
    return sigma * low


Formula = Callable[[ArrayLike, ArrayLike, float, float], Floats]

FORMULAS: dict[str, Formula] = {"closed": closed, "smoothing": smoothing, "lipschitz": lipschitz}
