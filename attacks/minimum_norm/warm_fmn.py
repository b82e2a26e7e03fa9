"""FMN from adversarial examples that another attack found."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gauntlet.attacks.apgd import APGD
from gauntlet.attacks.losses import margin
from gauntlet.attacks.minimum_norm.epsilon_search import Search
from gauntlet.attacks.minimum_norm.fmn import FMN, FMNState
from gauntlet.attacks.minimum_norm.minimum_norm_loop import farthest, minimize_norm
from gauntlet.errors import UserError
from gauntlet.threat_model.attack import traits_of
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat


@dataclass(frozen=True)
class WarmFMN(FMN, key="attack"):
    """FMN with a warm start (Pintor et al. 2021, arXiv 2102.12827): from the candidates of another attack, in balls
    that reach as far as these; from the image itself where that found nothing.

    The candidate is the first point that is looked at, so that the answer lies no farther. Costs what the other attack
    costs besides.

    Args:
        inner: the other attack, such as search, fab_nearest or sigma_zero (l0): under an unbounded threat one that
            measures distances.
        steps, step_size, rate, last_rate: as of FMN.

    Raises:
        UserError: a value outside its range, or an inner attack that does not use gradients.
    """

    inner: Any = field(default_factory=lambda: Search(APGD(steps=20, loss="margin")))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.inner) or traits_of(self.inner).needs != "gradient" or traits_of(self.inner).stages:
            raise UserError("attack.inner must be a single attack that uses gradients, such as attack/search")
        if not traits_of(self.inner).unbounded:
            raise UserError("attack.inner needs an eps; use one that measures distances, such as attack/search")

    @property
    def norms(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return the norms of the inner attack."""
        return traits_of(self.inner).norms

    def __call__(self, head: CountedHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return candidates z like x [B, C, H, W], the image itself where nothing was found; y: int64 [B]."""
        z = self.inner(head, x, y, threat=threat, rng=rng.stream("inner"))
        far = threat.distance(z, x).to(x.dtype)
        eps = torch.where(far > 0, far, 1.0 if threat.norm == "l0" else torch.inf)
        start = FMNState(z, eps, farthest(x, threat))
        return minimize_norm(head, x, y, start, self._advance, self.steps, loss=margin, threat=threat, rng=rng)
