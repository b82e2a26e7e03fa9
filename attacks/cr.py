"""CR attack: steps in a ball that is larger than the threat, judged inside it."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gauntlet.attacks.losses import ce, margins, ranking
from gauntlet.attacks.projected_ascent import BestCandidates, Step, ascend
from gauntlet.attacks.relaxed_ball import RelaxedSearch
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat


@dataclass(frozen=True)
class CR(Knobs, key="attack"):
    """CR attack (Efficient Robustness Evaluation via Constraint Relaxation, AAAI 2025), for linf.

    A few steps of PGD on cross-entropy (arXiv 1706.06083) choose the targets: the best other classes where they end.
    To each target go cycles of three parts with sign steps on z_t - z_y: in a ball of eps (1 + scale), where a point is
    judged by its projection to eps; in eps itself; and in eps again from a point that was pulled into eps (1 - scale)
    and shaken by scale eps. The scale, also the length of the steps, is halved from cycle to cycle. After the second
    part a sample leaves the run whose margin is still wide, and only pairs of sample and target that once came close
    are tried again.

    The thresholds are shares of the clean margin (`gauntlet.attacks.relaxed_ball`). A candidate counts as found where
    any class beats the label.

    Args:
        targets: classes to move to, >= 1.
        cycles: of each run, >= 1.
        steps: of each of the three parts of a cycle, and on cross-entropy, >= 1.
        restarts: more rounds over the targets, >= 0.
        prune: a sample leaves a run whose margin exceeds prune times scale times its clean margin, > 0.
        near: share of the clean margin below which a pair must have come to be tried again, >= 0.

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[str] = "gradient"
    norms: ClassVar[tuple[str, ...]] = ("linf",)
    targetable: ClassVar[bool] = False  # its targets are its own

    targets: int = knob(3, least=1)
    cycles: int = knob(5, least=1)
    steps: int = knob(10, least=1)
    restarts: int = knob(4, least=0)
    prune: float = knob(0.5, above=0)
    near: float = knob(0.03, least=0)

    def __call__(self, head: CountedHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return candidates z of the shape of x [B, C, H, W]; y: labels int64 [B]."""
        best = BestCandidates.start(x)
        if not len(x):
            return best.z
        clean = margins(head.scores(x, rng.stream("clean")), y)
        plan = [Step(ce, 0.5)] * (self.steps - 1) + [Step(ce, 0.25)]
        everyone, draw = torch.arange(len(x), device=x.device), rng.stream("screen")
        index, z = ascend(
            head, x, y, threat.random(x, draw.stream("start")), plan, best, everyone, threat=threat, rng=draw
        )
        if not len(index):
            return best.z
        ranked = ranking(head.scores(z, rng.select(index).stream("targets")), y[index])[:, : self.targets]
        order = y.new_zeros(len(x), ranked.shape[1]).index_copy(0, index, ranked)
        search = RelaxedSearch(self.cycles, self.steps, self.restarts, self.prune, self.near)
        search.search(head, best, ~best.broken, x, y, order, clean, threat=threat, rng=rng)
        return best.z
