"""What every rejecting defense shares: a score of each image, and a threshold chosen on validation images."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gauntlet.data.fitting import FittingImages
from gauntlet.defenses.base import Defense
from gauntlet.errors import UserError
from gauntlet.knobs import knob
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Head, Victim, plain

Score = Callable[[Tensor], Tensor]
"""Images [B, C, H, W] -> how much each looks like the data, [B], larger = more."""


@dataclass(frozen=True)
class Rejecting(Defense):
    """A network that gives no answer where a score of the image falls below a threshold.

    The threshold lets through the share `accepted` of the clean validation images that the network gets right. The
    acceptance is the score less the threshold, over the standard deviation of those images' scores. A subclass gives
    the score, and with `views` differentiable stand-ins for it where its own gradient says little.

    Args:
        parts: "model", from pixels to logits.
        accepted: share of right clean validation images to accept, in (0, 1]: the true-positive rate.
        threshold: of the score; null: chosen so.

    Raises:
        UserError: a value out of range; when fitted, a threshold that rejects all of these images, or one score for
            all of them.
    """

    accepted: float = knob(0.95, above=0, most=1, hint="the share of right clean images to accept")
    threshold: float | None = knob(None, optional=True)

    @abstractmethod
    def score(self, model: nn.Module, images: FittingImages) -> Score:
        """Return the score, fitted to train and validation images."""

    def views(self, model: nn.Module, score: Score) -> dict[str, Score]:
        """Return name -> a score of better gradient, one head each. None here: the score's own gradient is its best."""
        return {}

    def fitted(self, models: Mapping[str, nn.Module], images: FittingImages) -> Victim:
        (model,) = models.values()
        score = self.score(model, images)
        scores = right_scores(model, score, images)
        limit = chosen_threshold(scores, self.accepted) if self.threshold is None else self.threshold
        if not bool((scores >= limit).any()):
            raise UserError(
                f"defense.threshold={limit:g} rejects every validation image that the network gets right "
                f"(their scores end at {float(scores.max()):.4g}); leave it out to have one chosen"
            )
        spread = float(scores.std())
        if not (math.isfinite(spread) and spread > 1e-9 * max(1.0, float(scores.abs().max()))):
            raise UserError("the detector gives all validation images the same score; choose another, or other layers")

        def accepts(seen: Score) -> Callable[[Tensor, Rng], Tensor]:
            return lambda x, rng: (seen(x) - limit) / spread

        heads = tuple(
            Head(name, plain(model), accepts=accepts(view), stand_in=True)
            for name, view in self.views(model, score).items()
        )
        return replace(self.deploy(models), accepts=accepts(score), surrogates=heads, mechanism=None)


@torch.no_grad()
def right_scores(model: nn.Module, score: Score, images: FittingImages) -> Tensor:
    """Return the scores of the clean validation images that the network gets right, float64 [n]. UserError: none."""
    found = [score(x).double()[model(x).argmax(1) == y] for _, x, y in images.batches("validation")]
    scores = torch.cat(found) if found else torch.zeros(0)
    if len(scores) < 2:
        raise UserError("the network gets fewer than two validation images right: no threshold can be fitted")
    if not bool(scores.isfinite().all()):
        raise UserError("the detector's score is not finite on validation images; choose other layers or settings")
    return scores


def chosen_threshold(scores: Tensor, accepted: float) -> float:
    """Return the largest score [n] that at least a share `accepted` of them reaches: an order statistic."""
    below = int((1 - accepted) * len(scores) + 1e-9)
    return float(scores.sort().values[below])
