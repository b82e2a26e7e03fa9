"""BSR: blocks shuffled and rotated."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gauntlet.attacks.transfer.context import AttackContext, TransformedInput
from gauntlet.attacks.transfer.input_transforms import side
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.rng import Rng


@dataclass(frozen=True)
class ShuffledRotations(Knobs):
    """BSR (Wang et al. 2024, arXiv 2308.10299): the image is cut into strips along a random axis; each strip is rotated
    about its center (bilinear, black outside) and cut into pieces along the other axis; pieces and strips are shuffled.

    Args:
        copies: draws averaged over, >= 1.
        blocks: strips, and pieces of a strip, >= 1.
        degrees: largest rotation, in [0, 180].
    """

    copies: int = knob(20, least=1)
    blocks: int = knob(3, least=1)
    degrees: float = knob(24.0, least=0, most=180)

    def draw(self, copy: int, context: AttackContext, rng: Rng) -> TransformedInput:
        here, count = side(context.x), self.blocks
        upright = (rng.stream("axis").uniform((1,)) < 0.5)[:, :, None, None]
        strip, first, length, local = _shuffled(here, count, 1, rng.stream("strips"))
        strip, first, length, local = (t[:, 0, :, None] for t in (strip, first, length, local))
        # For each strip its own cut along the other axis; pixels [B, here, here] read that of their strip.
        _, start, _, inside = _shuffled(here, count, count, rng.stream("pieces"))
        along = (start + inside).gather(1, strip.expand(-1, -1, here))
        angle = rng.stream("angle").uniform((count,), -self.degrees, self.degrees, dtype=context.x.dtype)
        angle = angle.gather(1, strip[:, :, 0])[:, :, None] * (math.pi / 180)
        down, across = local - (length - 1) / 2, along - (here - 1) / 2
        row = angle.cos() * down + angle.sin() * across + (length - 1) / 2
        column = angle.cos() * across - angle.sin() * down + (here - 1) / 2
        corners = list(_corners(row, column, first, length, here))

        def view(z: Tensor) -> Tensor:
            turned = torch.where(upright, z, z.mT)
            flat = turned.flatten(2)
            out = torch.zeros_like(flat)
            for source, weight in corners:
                out = out + flat.gather(2, source[:, None].expand(-1, z.shape[1], -1)) * weight[:, None]
            out = out.reshape(z.shape)
            return torch.where(upright, out, out.mT)

        return TransformedInput(view, torch.zeros_like(context.y, dtype=torch.bool))


def _shuffled(here: int, count: int, sets: int, rng: Rng) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cut [0, here) into `count` intervals of random lengths and shuffle them, `sets` times for each sample.

    Returns, for each position after the shuffle, [B, sets, here]: the interval that lies there, its first position and
    length before the shuffle, and the place inside it.
    """
    share = 2 - rng.stream("lengths").uniform((sets, count))  # in (1, 2]: lengths differ by at most a factor of two
    length = (share / share.sum(-1, keepdim=True) * here).round().long()
    rest = here - length.sum(-1, keepdim=True)
    length = length.scatter_add(-1, length.argmax(-1, keepdim=True), rest)
    first = length.cumsum(-1) - length
    order = rng.stream("order").uniform((sets, count)).argsort(dim=-1, stable=True)
    after = length.gather(-1, order).cumsum(-1)
    at = torch.arange(here, device=order.device)
    slot = (at >= after[..., None]).sum(-2)
    interval = order.gather(-1, slot)
    begin = (after - length.gather(-1, order)).gather(-1, slot)
    return interval, first.gather(-1, interval), length.gather(-1, interval), at - begin


def _corners(row: Tensor, column: Tensor, first: Tensor, length: Tensor, here: int) -> list[tuple[Tensor, Tensor]]:
    """Return the four pixels around each position inside its strip, flat [B, H W], and their bilinear weights."""
    total = []
    for below in (0, 1):
        for right in (0, 1):
            r, c = row.floor() + below, column.floor() + right
            inside = (r >= 0) & (r <= length - 1) & (c >= 0) & (c <= here - 1)
            weight = (1 - (row - r).abs()) * (1 - (column - c).abs()) * inside
            source = (first + r).clamp(0, here - 1).long() * here + c.clamp(0, here - 1).long()
            total.append((source.flatten(1), weight.flatten(1)))
    return total
