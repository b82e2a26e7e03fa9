"""Projected gradient descent."""

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from gauntlet.attacks.apgd_l1 import sparse_ascent
from gauntlet.attacks.losses import LOSSES, fewest_classes, named, ranking
from gauntlet.attacks.projected_ascent import BestCandidates, Step, ascend
from gauntlet.knobs import Knobs, choice, knob
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat


@dataclass(frozen=True)
class PGD(Knobs, key="attack"):
    """Projected gradient descent from a random start (Madry et al. 2018, arXiv 1706.06083), for linf, l2, l1 and l0.

    Under l1 the steps are those of Auto-PGD (`gauntlet.attacks.apgd_l1`): as sparse as the best point so far, in balls
    that shrink to eps, of a length that adapts; `step_size` and `schedule` have no effect there.

    A sample leaves as soon as a candidate fools the victim; the rest keep the candidate of least margin. Long runs of a
    constant step under linf on a deterministic victim end where the iterates return, as all steps would end
    (`gauntlet.attacks.returning_iterates`).

    Args:
        steps: per restart, >= 1.
        step_size: first step as a multiple of eps, > 0.
        schedule: "constant"; "cosine": step i is step_size cos(pi i / (2 steps)); "linear": step_size (1 - i / steps).
        loss: ce, margin, dlr, pm or mifpe.
        restarts: >= 1; only survivors are attacked again.
        targets: 0 for untargeted; n: each restart moves to each of the n best other classes of the clean image in turn.
        random_start: begin at a random point of the ball, else at the image.
        sparsity: share of the entries that the first steps move; l1 only.

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[str] = "gradient"
    revisions: ClassVar[dict[str, int]] = {"l1": 2}  # version 1 moved a fixed share of the entries

    LONG: ClassVar[int] = 50
    """Steps from which on a run looks whether its iterates return: shorter ones end before that pays."""

    steps: int = knob(40, least=1)
    step_size: float = knob(0.1, above=0)
    schedule: str = choice("constant", ("constant", "cosine", "linear"))
    loss: str = choice("ce", LOSSES)
    restarts: int = knob(1, least=1)
    targets: int = knob(0, least=0)
    random_start: bool = True
    sparsity: float = knob(0.05, above=0, most=1)

    @property
    def fewest_classes(self) -> int:
        """Return how many classes the model must have."""
        return fewest_classes(self.loss, self.targets > 0)

    def plan(self) -> list[Step]:
        """Return the steps of one run."""
        shape = [1.0] * self.steps
        if self.schedule == "cosine":
            shape = [math.cos(i / self.steps * math.pi / 2) for i in range(self.steps)]
        elif self.schedule == "linear":
            shape = [1 - i / self.steps for i in range(self.steps)]
        return [Step(named(self.loss), self.step_size * share) for share in shape]

    def may_return(self, norm: str) -> bool:
        """Return whether the run of a sample may end early because its iterates return."""
        return norm == "linf" and self.schedule == "constant" and self.steps >= self.LONG

    def __call__(self, head: CountedHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return candidates z of the shape of x [B, C, H, W]; y: labels int64 [B]."""
        best = BestCandidates.start(x)
        order = None
        if self.targets:
            order = ranking(head.scores(x, rng.stream("targets")), y)
        for restart in range(self.restarts):
            for rank in range(max(1, 0 if order is None else min(self.targets, order.shape[1]))):
                index = (~best.broken).nonzero().squeeze(1)
                if not len(index):
                    return best.z
                below = rng.select(index).stream(restart).stream(rank)
                here, around = x[index], threat.select(index)
                start = around.random(here, below.stream("start")) if self.random_start else here
                target = None if order is None else order[index, rank]
                returning = head.deterministic and self.may_return(threat.norm)
                walk = sparse_ascent if threat.norm == "l1" else partial(ascend, returning=returning)
                walk(
                    head, here, y[index], start, self.plan(), best, index,
                    threat=around, rng=below, target=target, sparsity=self.sparsity,
                )  # fmt: skip
        return best.z
