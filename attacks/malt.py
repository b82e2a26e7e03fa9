"""MALT: targets ordered by how near their boundary is, then Auto-PGD to the nearest."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gauntlet.attacks.apgd import APGD
from gauntlet.attacks.linearized_boundary import nearest_classes
from gauntlet.attacks.losses import SCORED, fewest_classes
from gauntlet.attacks.projected_ascent import BestCandidates
from gauntlet.knobs import Knobs, choice, knob
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat


@dataclass(frozen=True)
class MALT(Knobs, key="attack"):
    """Mesoscopic almost linearity targeting (Melamed, Yehudai and Shamir 2024, arXiv 2407.02240): linf, l2 and l1.

    The other classes are ordered by the distance of their boundary as the gradient at the clean image sees it,
    (z_y - z_t) / ||gradient of z_y - z_t|| in the dual norm, and not by their logits. Then Auto-PGD (arXiv 2003.01690)
    moves to the nearest, each in turn. The order costs one backward for each class that is looked at: of use where
    classes are many.

    Args:
        targets: nearest classes to move to, >= 1.
        candidates: classes of largest logit that are looked at, >= 1.
        steps: of Auto-PGD to each target, >= 1.
        loss: margin, dlr, ce or mifpe; dlr needs four classes.

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[str] = "gradient"
    norms: ClassVar[tuple[str, ...]] = APGD.norms
    targetable: ClassVar[bool] = False  # its targets are its own

    targets: int = knob(9, least=1)
    candidates: int = knob(100, least=1)
    steps: int = knob(100, least=1)
    loss: str = choice("dlr", SCORED)

    @property
    def fewest_classes(self) -> int:
        """Return how many classes the model must have."""
        return fewest_classes(self.loss, True)

    def __call__(self, head: CountedHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return candidates z of the shape of x [B, C, H, W]; y: labels int64 [B]."""
        best = BestCandidates.start(x)
        if len(x):
            order, _ = nearest_classes(head, x, y, self.candidates, threat.norm, rng.stream("targets"))
            APGD(steps=self.steps, loss=self.loss).toward(
                head, x, y, best, order[:, : self.targets], threat=threat, rng=rng
            )
        return best.z
