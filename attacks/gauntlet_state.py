"""What `gauntlet` knows of the samples of a call, and how its parts run on them."""

import torch
from torch import Tensor

from gauntlet.attacks.apgd_l1 import sparse_ascent
from gauntlet.attacks.losses import along, margin, margins, ranking
from gauntlet.attacks.minimum_norm.sigma_zero import SigmaZero
from gauntlet.attacks.projected_ascent import BestCandidates, Step, ascend
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.passes import RowLoss
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat

ODI_STEP = Step(along, 1.0)


class GauntletState:
    """The state of one call."""

    LINEARITY_STEP = 0.05  # share of the way back to the image over which local linearity is tested

    def __init__(self, head: CountedHead, x: Tensor, y: Tensor, threat: Threat, rng: Rng) -> None:
        self.head, self.x, self.y, self.threat, self.rng = head, x, y, threat, rng
        self.best = BestCandidates.start(x)
        self.clean = margins(head.scores(x, rng.stream("clean")), y) if len(x) else x.new_zeros(0)

    def survivors(self, where: Tensor | None = None) -> Tensor:
        """Return the positions of the survivors, int64 [b]; where: of these, bool [B]."""
        return (~self.best.broken if where is None else ~self.best.broken & where).nonzero().squeeze(1)

    def gaps(self) -> Tensor:
        """Return the margin that is left of each sample over the margin that was taken from it, [B]."""
        taken = self.clean - self.best.margin
        return torch.where(taken > 0, self.best.margin / taken, torch.inf)

    def ranked_classes(self, index: Tensor, name: object) -> Tensor:
        """Return the other classes at the best point so far, the best first, int64 [b, K - 1]."""
        draw = self.rng.select(index).stream(name).stream("order")
        return ranking(self.head.scores(self.best.z[index], draw), self.y[index])

    def odi_direction(self, index: Tensor, name: object) -> Tensor:
        """Return the weights of the logits [b, K]: 1 for one of the four best rivals, -0.5 to 0.1 for the truth, else
        -1 to 1.
        """
        ranked_classes, draw = self.ranked_classes(index, name), self.rng.select(index).stream(name)
        classes = ranked_classes.shape[1] + 1
        chosen = draw.stream("rival").integers((1,), min(4, classes - 1))
        weights = draw.stream("weights").uniform((classes,), -1, 1, dtype=self.x.dtype)
        weights = weights.scatter(1, ranked_classes.gather(1, chosen), 1.0)
        return weights.scatter(1, self.y[index, None], draw.stream("true").uniform((1,), -0.5, 0.1, dtype=self.x.dtype))

    def run(
        self,
        phase: str,
        index: Tensor,
        plan: list[Step],
        name: object = "",
        start: Tensor | None = None,
        target: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Ascend by a plan; return the survivors and their points."""
        around, draw = self.threat.select(index), self.rng.select(index).stream(phase).stream(name)
        self.head.counts.enter(phase, draw.ids)
        start = around.random(self.x[index], draw.stream("start")) if start is None else start
        walk = sparse_ascent if self.threat.norm == "l1" and plan[:1] != [ODI_STEP] else ascend
        return walk(
            self.head, self.x[index], self.y[index], start, plan, self.best, index,
            threat=around, rng=draw, target=target,
        )  # fmt: skip

    def sparse(self, attack: SigmaZero, number: int) -> None:
        """Run sigma-zero on the survivors."""
        index = self.survivors()
        if not len(index):
            return
        x, y, draw = self.x[index], self.y[index], self.rng.select(index).stream("sparse").stream(number)
        self.head.counts.enter("sparse", draw.ids)
        z = attack(self.head, x, y, threat=self.threat.select(index), rng=draw)
        moved = (z != x).flatten(1).any(1).nonzero().squeeze(1)  # the others are the images: nothing was found
        if len(moved):
            z, y, end = z[moved], y[moved], draw.select(moved).stream("end")
            logits = self.head.scores(z, end)
            self.best.note(index[moved], z, margins(logits, y), self.head.broken(z, logits, y, end, plain=True))

    def linearity_error(self, index: Tensor) -> Tensor:
        """Return how far the linear model at the best point is from the change of the margin on the way back to the
        image, [b].

        0: the same, or both are nothing; 1: one of both is nothing; 2: of opposite sign.
        """
        x, y, z, draw = self.x[index], self.y[index], self.best.z[index], self.rng.select(index).stream("slope")
        back = self.LINEARITY_STEP * (x - z)
        logits, gradient = self.head.gradient(z, RowLoss(margin, y), draw)
        if self.head.dtype is not None:  # in reduced precision they are off by more than the change on so short a way
            logits = self.head.scores(z, draw)
        rival = ranking(logits, y)[:, :1]
        before = logits.gather(1, rival) - logits.gather(1, y[:, None])
        logits = self.head.scores(z + back, draw.stream("back"))
        observed = (logits.gather(1, rival) - logits.gather(1, y[:, None]) - before).squeeze(1).double()
        predicted = 2 * (gradient * back).flatten(1).double().sum(1)  # the cotangent is half of e_m - e_y
        most = observed.abs().maximum(predicted.abs())
        return (observed - predicted).abs() / most.clamp_min(1e-30)
