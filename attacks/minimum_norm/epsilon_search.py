"""The nearest adversarial example of an attack that takes a fixed eps."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from gauntlet.attacks.apgd import APGD
from gauntlet.attacks.losses import margin, margins
from gauntlet.attacks.minimum_norm.minimum_norm_loop import NearestExamples, clearly_broken, dual_norm, farthest, refine
from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.attack import traits_of
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.passes import RowLoss
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat


@dataclass(frozen=True)
class Search(Knobs, key="attack"):
    """Searches, for each sample, the smallest eps at which another attack succeeds, as AttackBench does for
    attacks with a fixed eps (Cina et al. 2024, arXiv 2404.19460).

    The first eps is twice the distance to the boundary as the clean gradient sees it. eps is doubled until the attack
    succeeds, then the interval between the largest eps without an adversarial example and the nearest one is
    halved. Under a
    finite eps there is nothing to search: the attack runs at that eps, once.

    Args:
        inner: the attack; its cost times `rounds` is what this one costs, and less where it succeeds.
        rounds: values of eps that are tried, >= 1.

    Raises:
        UserError: a value outside its range, or an inner attack that makes no use of eps.
    """

    needs: ClassVar[str] = "gradient"
    unbounded: ClassVar[bool] = True

    inner: Any = field(default_factory=lambda: APGD(steps=97))
    rounds: int = knob(10, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.inner) or traits_of(self.inner).needs != "gradient":
            raise UserError("attack.inner must be an attack that uses gradients, such as attack/apgd")
        if traits_of(self.inner).unbounded:
            raise UserError("attack.inner measures distances by itself; use it directly, without search")

    @property
    def norms(self) -> tuple[str, ...]:
        """Return the norms of the inner attack."""
        return traits_of(self.inner).norms

    def __call__(self, head: CountedHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return candidates z like x [B, C, H, W], the image itself where nothing was found; y: int64 [B]."""
        if not threat.unbounded:
            z: Tensor = self.inner(head, x, y, threat=threat, rng=rng.stream("inner"))
            return z
        best = NearestExamples.start(x)
        if not len(x):
            return best.z
        draw, most = rng.stream("first"), farthest(x, threat)
        logits, gradient = head.gradient(x, RowLoss(margin, y), draw)
        wrong = head.broken(x, logits, y, draw)
        best.note(torch.arange(len(x), device=x.device), x, torch.zeros_like(best.distance), wrong)
        eps = (margins(logits, y).to(x.dtype).abs() / dual_norm(gradient, threat.norm)).minimum(most)
        if threat.norm == "l0":
            eps = eps.ceil().clamp_min(1)
        low = torch.zeros_like(eps)
        for number in range(self.rounds):
            index = (best.distance > 0).nonzero().squeeze(1)
            if not len(index):
                break
            found = self._round(head, x, y, best, index, threat.within(eps), rng.select(index).stream(number))
            low[index[~found]] = low.maximum(eps)[index[~found]]
            near = best.distance.to(x.dtype)
            eps = torch.where(near.isfinite(), (low + near) / 2, (2 * eps).minimum(most))
        refine(head, x, y, best, threat=threat, rng=rng.stream("refine"))
        return best.z

    def _round(
        self, head: CountedHead, x: Tensor, y: Tensor, best: NearestExamples, index: Tensor, ball: Threat, rng: Rng
    ) -> Tensor:
        """Run the inner attack on the samples at `index`, each in its own ball; whether it succeeded, bool."""
        x, y, ball = x[index], y[index], ball.select(index)
        z = self.inner(head, x, y, threat=ball, rng=rng.stream("inner"))
        draw = rng.stream("end")
        broken = clearly_broken(head, z, head.scores(z, draw), y, draw, plain=True)
        best.note(index, z, ball.distance(z, x), broken)
        return broken
