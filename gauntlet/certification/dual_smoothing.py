"""Certificates for dual randomized smoothing."""

from dataclasses import dataclass
from typing import ClassVar

from gauntlet.certification.certifiable import Dual
from gauntlet.certification.smoothing import Smoothing


@dataclass(frozen=True)
class DualSmoothingCertifier(Smoothing):
    """`Smoothing` for two networks that see a half of the pixels each (Xia et al. 2024, arXiv 2404.09586).

    Another method is called dual randomized smoothing, too: a smoothed estimator that chooses the noise of a smoothed
    classifier image by image (Sun, Mao and Vechev, ICLR 2026). This certifier is not for it.

    Each half has its own bound, at half of alpha because both must hold together, and the radius is their sum over
    sqrt 2 (see `gauntlet.certification.certifiable.Dual`); a half below one half counts against the other. The
    released code of the paper differs in three points that are not sound: the root of the sum of squares, alpha for
    each half, and halves below one half counted as zero.

    Args: as of `Smoothing`; single_phase is not for two networks.
    """

    norms: ClassVar[tuple[str, ...]] = ("l2",)
    takes: ClassVar[tuple[type, str]] = (Dual, "defense=dual_smoothing")
