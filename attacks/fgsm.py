"""Fast gradient sign method."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gauntlet.attacks.losses import LOSSES, named
from gauntlet.attacks.projected_ascent import BestCandidates, Step, ascend
from gauntlet.knobs import Knobs, choice
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat


@dataclass(frozen=True)
class FGSM(Knobs, key="attack"):
    """One step of length eps along the steepest direction of the norm (Goodfellow et al. 2015, arXiv 1412.6572).

    A reference attack, not one to report: an attack that succeeds on more than PGD does hides its gradients.

    Args:
        loss: ce, margin, dlr or pm.
        random_start: begin at a random point of the ball (R+FGSM).

    Raises:
        UserError: unknown loss.
    """

    needs: ClassVar[str] = "gradient"

    loss: str = choice("ce", LOSSES)
    random_start: bool = False

    def __call__(self, head: CountedHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return candidates z of the shape of x [B, C, H, W]; y: labels int64 [B]."""
        best = BestCandidates.start(x)
        start = threat.random(x, rng.stream("start")) if self.random_start else x
        plan = [Step(named(self.loss), 1.0)]
        ascend(head, x, y, start, plan, best, torch.arange(len(x), device=x.device), threat=threat, rng=rng)
        return best.z
