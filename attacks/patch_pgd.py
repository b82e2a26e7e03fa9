"""Projected gradient descent inside patches, at the places where it promises most."""

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gauntlet.attacks.losses import LOSSES, fewest_classes, margins, named
from gauntlet.attacks.projected_ascent import BestCandidates, Step, ascend
from gauntlet.knobs import Knobs, choice, knob
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.passes import RowLoss
from gauntlet.threat_model.patch import PatchThreat
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat


@dataclass(frozen=True)
class PatchPGD(Knobs, key="attack"):
    """Chooses the places of patches, and ascends inside them by sign steps, as patches are attacked in Chiang et al.
    2020 (arXiv 2003.06693), with a place for each image.

    The gain of a pixel is what its gradient at the image promises if the pixel takes the better end of the box: the
    first order of what a patch can reach. "gradient" ranks places by the gain inside a patch, at the price of one
    gradient. "score" paints each place of a grid with these ends and asks for the margin, one forward each; further
    patches go where the gain is the largest then. The best places are attacked, one after the other. A sample leaves as
    soon as a candidate fools the victim; the rest keep the candidate of least margin.

    Args:
        search: score or gradient.
        queries: places that "score" asks about at most, >= 1: its grid is as fine as they allow.
        locations: places of the first patch that are attacked, the best first, >= 1.
        steps: per place and restart, >= 1.
        step_size: as a multiple of the box, > 0.
        loss: ce, margin, dlr, pm or mifpe.
        restarts: from other random content, >= 1.

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[str] = "gradient"
    norms: ClassVar[tuple[str, ...]] = (Threat.PATCH,)

    search: str = choice("score", ("score", "gradient"))
    queries: int = knob(100, least=1)
    locations: int = knob(5, least=1)
    steps: int = knob(40, least=1)
    step_size: float = knob(0.1, above=0)
    loss: str = choice("margin", LOSSES)
    restarts: int = knob(1, least=1)

    @property
    def fewest_classes(self) -> int:
        """Return how many classes the model must have."""
        return fewest_classes(self.loss, targeted=False)

    def __call__(self, head: CountedHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return candidates z of the shape of x [B, C, H, W]; y: labels int64 [B]; threat: a `PatchThreat`."""
        best = BestCandidates.start(x)
        if not len(x):
            return best.z
        assert isinstance(threat, PatchThreat)  # by `norms`
        places = self._places(head, x, y, best, threat, rng.stream("places"))
        plan = [Step(named(self.loss), self.step_size)] * self.steps
        for rank in range(places.shape[1]):
            for restart in range(self.restarts):
                index = (~best.broken).nonzero().squeeze(1)
                if not len(index):
                    return best.z
                below = rng.select(index).stream(rank).stream(restart)
                there, here = threat.located(places[index, rank]), x[index]
                start = there.random(here, below.stream("start"))
                ascend(head, here, y[index], start, plan, best, index, threat=there, rng=below)
        return best.z

    def _places(
        self, head: CountedHead, x: Tensor, y: Tensor, best: BestCandidates, threat: PatchThreat, rng: Rng
    ) -> Tensor:
        """Return the places to attack, int64 [B, locations, count, 2], the best first."""
        height, width = threat.size(x)
        down, across = x.shape[2] - height + 1, x.shape[3] - width + 1
        ranks = min(self.locations, down * across) if threat.row is None else 1
        logits, gradient = head.gradient(x, RowLoss(named(self.loss), y), rng)
        margin = margins(logits, y)
        best.note(torch.arange(len(x), device=x.device), x, margin, head.broken(x, logits, y, rng, margin=margin))
        painted = torch.where(gradient > 0, threat.high, threat.low).to(x.dtype)
        gain = ((painted - x) * gradient).sum(1, keepdim=True)
        gain = gain / gain.flatten(1).amax(1).reshape(-1, 1, 1, 1).clamp_min(torch.finfo(x.dtype).tiny)
        if self.search == "gradient" or threat.row is not None:
            return threat.places(gain, ranks)
        return self._by_score(head, x, y, painted, gain, best, threat, rng, ranks)

    def _by_score(
        self,
        head: CountedHead,
        x: Tensor,
        y: Tensor,
        painted: Tensor,
        gain: Tensor,
        best: BestCandidates,
        threat: PatchThreat,
        rng: Rng,
        ranks: int,
    ) -> Tensor:
        """Return the places of least margin when painted; those of the other patches follow by their gain."""
        height, width = threat.size(x)
        grid = _grid(x.shape[2] - height + 1, x.shape[3] - width + 1, self.queries).to(x.device)
        found = torch.full((len(x), len(grid)), math.inf, device=x.device)
        for number, corner in enumerate(grid):
            index = (~best.broken).nonzero().squeeze(1)
            if not len(index):
                break
            draw, here = rng.select(index).stream(number), x[index]
            z = torch.where(threat.mask(here, corner.expand(len(index), 1, 2)), painted[index], here)
            logits = head.scores(z, draw)
            margin = margins(logits, y[index])
            best.note(index, z, margin, head.broken(z, logits, y[index], draw, plain=True, margin=margin))
            found[index, number] = margin.to(found.dtype)
        first = grid[found.argsort(dim=1, stable=True)[:, :ranks]]  # [B, ranks, 2]
        return threat.completed(gain, first)


def _grid(rows: int, columns: int, most: int) -> Tensor:
    """Return places of an even grid over rows x columns, at most so many, int64 [n, 2]: all where these suffice."""
    stride = next(step for step in itertools.count(1) if -(-rows // step) * -(-columns // step) <= most)
    tops, lefts = (
        torch.linspace(0, side - 1, -(-side // stride)).round().long() if side > stride else torch.tensor([side // 2])
        for side in (rows, columns)
    )
    return torch.cartesian_prod(tops, lefts)
