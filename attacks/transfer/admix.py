"""Admix: a little of an image of another class."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from gauntlet.attacks.transfer.context import AttackContext, TransformedInput
from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.rng import Rng


@dataclass(frozen=True)
class Admix(Knobs):
    """Admix (Wang et al. 2021, arXiv 2102.00436): the image plus a share of an image of another class.

    The paper mixes with other images of the batch, which would let batch-mates matter. Here each sample draws, for each
    copy, from a pool that is the same for all: images spread evenly over the attacked split, less those of its class.

    Args:
        strength: share of the other image, >= 0.
        copies: other images averaged over, >= 1.
        images: size of the pool, >= 2.
        pool: its images [n, C, H, W] and labels [n], handed over by the evaluation.
    """

    strength: float = knob(0.2, least=0)
    copies: int = knob(3, least=1)
    images: int = knob(100, least=2)
    pool: tuple[Tensor, Tensor] | None = field(default=None, repr=False, compare=False, metadata={"internal": True})

    def stocked(self, images: Tensor, labels: Tensor) -> "Admix":
        """Set the pool."""
        return replace(self, pool=(images, labels))

    def draw(self, copy: int, context: AttackContext, rng: Rng) -> TransformedInput:
        plain = torch.full_like(context.y, self.strength == 0, dtype=torch.bool)
        if self.strength == 0:
            return TransformedInput(None, plain)
        if self.pool is None:
            raise UserError(
                "admix mixes in images of other classes, and this kind of run hands over none; leave it out"
            )
        images, labels = self.pool[0], self.pool[1].to(context.y.device)
        fit = labels != context.y[:, None]
        if not fit.any(1).all():
            raise UserError("admix found no image of another class in its pool; raise its field images")
        chosen = rng.uniform((len(labels),)).masked_fill(~fit, -1.0).argmax(1)
        other = self.strength * images[chosen.to(images.device)].to(context.x)
        return TransformedInput(lambda z: z + other, plain)
