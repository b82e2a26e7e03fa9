"""Margin decomposition attack."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gauntlet.attacks.apgd_l1 import sparse_ascent
from gauntlet.attacks.losses import Cotangent, along, margin, ranking, rival_logit, true_logit
from gauntlet.attacks.pma import two_cosines, two_phases
from gauntlet.attacks.projected_ascent import BestCandidates, Step, ascend
from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat


@dataclass(frozen=True)
class MD(Knobs, key="attack"):
    """Margin decomposition (Ma et al. 2023, arXiv 2006.13726), the ancestor of PMA, with logits for probabilities.

    A restart is two runs from fresh noise. The first pushes -z_y for half its steps, the second z_m, and both then
    push their sum, the margin z_m - z_y; step 0 raises z_y. The step size is a cosine from 2 eps to 0 over each half;
    under l1 the steps are those of Auto-PGD, whose lengths adapt (`gauntlet.attacks.apgd_l1`).

    Args:
        steps: per run, >= 2; even.
        restarts: >= 1; only survivors are attacked again.
        targets: 0 for untargeted; n: each restart moves to each of the n best other classes of the clean image in turn.
        diversify: first steps of a run, 0 to half of it, that go eps each towards random outputs instead.

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[str] = "gradient"
    revisions: ClassVar[dict[str, int]] = {"l1": 2}  # version 1 moved 5 % of the entries

    steps: int = knob(50, least=2)
    restarts: int = knob(1, least=1)
    targets: int = knob(0, least=0, hint="0 is untargeted")
    diversify: int = knob(0, least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps % 2:
            raise UserError(f"attack.steps={self.steps} must be even: half of them go to each phase")
        if self.diversify > self.steps // 2:
            raise UserError(f"attack.diversify={self.diversify} must be at most {self.steps // 2}, half of the steps")

    def plan(self, first: Cotangent) -> list[Step]:
        """Return the steps of a run whose first phase is on `first`, without those that diversify."""
        return two_phases((_away, first, margin), two_cosines(self.steps))[self.diversify :]

    def __call__(self, head: CountedHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return candidates z of the shape of x [B, C, H, W]; y: labels int64 [B]."""
        best = BestCandidates.start(x)
        clean = head.scores(x, rng.stream("targets")) if self.targets or self.diversify else None
        order = ranking(clean, y) if clean is not None and self.targets else None
        ranks = 1 if order is None else min(self.targets, order.shape[1])
        for restart in range(self.restarts):
            for rank in range(ranks):
                for half, first in enumerate((true_logit, rival_logit)):
                    index = (~best.broken).nonzero().squeeze(1)
                    if not len(index):
                        return best.z
                    draws = rng.stream(restart).stream(rank).stream(half)
                    z = threat.select(index).random(x[index], draws.select(index).stream("start"))
                    if clean is not None and self.diversify:
                        index, z = self._diversify(head, x, y, z, clean.shape[1], best, index, threat, draws)
                    around, below = threat.select(index), draws.select(index)
                    target = None if order is None else order[index, rank]
                    walk = sparse_ascent if threat.norm == "l1" else ascend
                    walk(
                        head, x[index], y[index], z, self.plan(first), best, index,
                        threat=around, rng=below, target=target,
                    )  # fmt: skip
        return best.z

    def _diversify(
        self,
        head: CountedHead,
        x: Tensor,
        y: Tensor,
        z: Tensor,
        classes: int,
        best: BestCandidates,
        index: Tensor,
        threat: Threat,
        rng: Rng,
    ) -> tuple[Tensor, Tensor]:
        """Return the survivors' positions after steps towards random outputs, and their points."""
        below = rng.select(index).stream("diversify")
        weights = below.stream("weights").uniform((classes,), -1, 1)
        plan = [Step(along, 1.0)] * self.diversify
        return ascend(
            head, x[index], y[index], z, plan, best, index, threat=threat.select(index), rng=below, target=weights
        )


def _away(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    return -true_logit(logits, y)
