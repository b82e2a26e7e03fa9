"""A search over the parameters of a transformation: a grid, and ascent from its best points."""

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from gauntlet.attacks.losses import LOSSES, fewest_classes, margins, named
from gauntlet.attacks.projected_ascent import BestCandidates
from gauntlet.knobs import Knobs, choice, knob
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.passes import RowLoss
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.transformation import TransformationThreat


@dataclass(frozen=True)
class ParameterSearch(Knobs, key="attack"):
    """Asks about every point of a grid over the parameters, then ascends the gradient in the parameters from the points
    of least margin, by sign steps that shrink to zero.

    Engstrom et al. 2019 (arXiv 1712.02779) found the grid to be the stronger part: the loss has many maxima in so few
    parameters. A sample leaves as soon as a candidate fools the victim; the rest keep the candidate of least margin.

    Args:
        points: of the grid along each parameter, both limits among them, >= 1; 1: the middle alone.
        starts: points of the grid from which it ascends, the best first, >= 0.
        steps: of each ascent, >= 1.
        step_size: first step as a multiple of eps, > 0.
        loss: ce, margin, dlr, pm or mifpe.

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[str] = "gradient"
    norms: ClassVar[tuple[str, ...]] = Threat.TRANSFORMATIONS

    points: int = knob(7, least=1)
    starts: int = knob(3, least=0)
    steps: int = knob(10, least=1)
    step_size: float = knob(0.1, above=0)
    loss: str = choice("margin", LOSSES)

    @property
    def fewest_classes(self) -> int:
        """Return how many classes the model must have."""
        return fewest_classes(self.loss, targeted=False)

    def __call__(self, head: CountedHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return parameters [B, P]; y: labels int64 [B]; threat: a `TransformationThreat`."""
        assert isinstance(threat, TransformationThreat)  # by `norms`
        best = BestCandidates.start(x.new_zeros(len(x), len(threat.axes)))
        grid = self._grid(threat).to(x)
        found = x.new_full((len(x), len(grid)), math.inf)
        for number, point in enumerate(grid):
            index = (~best.broken).nonzero().squeeze(1)
            if not len(index):
                return best.z
            here = point.expand(len(index), -1)
            found[index, number] = self._ask(head, x, y, here, best, index, threat, rng.stream("grid").stream(number))
        order = found.argsort(dim=1, stable=True)
        for rank in range(min(self.starts, len(grid))):
            index = (~best.broken).nonzero().squeeze(1)
            self._ascend(head, x, y, grid[order[index, rank]], best, index, threat, rng.stream("ascent").stream(rank))
        return best.z

    def _grid(self, threat: TransformationThreat) -> Tensor:
        """Return the points of the grid, [G, P]; a parameter without a limit has one."""
        line = threat.radius * (torch.linspace(-1, 1, self.points) if self.points > 1 else torch.zeros(1))
        lines = [line if limit else torch.zeros(1) for limit in threat.axes]
        return torch.cartesian_prod(*lines).reshape(-1, len(lines))

    def _ask(
        self,
        head: CountedHead,
        x: Tensor,
        y: Tensor,
        u: Tensor,
        best: BestCandidates,
        index: Tensor,
        threat: TransformationThreat,
        rng: Rng,
    ) -> Tensor:
        """Return the margins at the parameters u of the samples at `index`, which are entered into `best`."""
        z, draw, label = threat.realized(u, x[index]), rng.select(index), y[index]
        logits = head.scores(z, draw)
        margin = margins(logits, label)
        best.note(index, u, margin, head.broken(z, logits, label, draw, plain=True, margin=margin))
        return margin.to(x.dtype)

    def _ascend(
        self,
        head: CountedHead,
        x: Tensor,
        y: Tensor,
        u: Tensor,
        best: BestCandidates,
        index: Tensor,
        threat: TransformationThreat,
        rng: Rng,
    ) -> None:
        """Ascend from the parameters u of the samples at `index`; candidates are entered into `best`."""
        for number in range(self.steps):
            if not len(index):
                return
            draw, label, here = rng.select(index).stream(number), y[index], x[index]
            loss, view = RowLoss(named(self.loss), label), partial(threat.realized, x=here)
            logits, gradient = head.gradient(u, loss, draw, view)
            margin = margins(logits, label)
            broken = head.broken(view(u), logits, label, draw, margin=margin)
            best.note(index, u, margin, broken)
            length = self.step_size * threat.radius * (1 - number / self.steps)
            u = threat.project(u + length * gradient.sign(), here)[~broken]
            index = index[~broken]
        if len(index):
            self._ask(head, x, y, u, best, index, threat, rng.stream(self.steps))
