"""SIA: another simple transform for each block of the image."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gauntlet.attacks.transfer.context import AttackContext, TransformedInput
from gauntlet.attacks.transfer.input_transforms import side
from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.rng import Rng

OPERATIONS = ("vertical shift", "horizontal shift", "vertical flip", "horizontal flip", "half turn", "scale", "noise")


@dataclass(frozen=True)
class BlockTransforms(Knobs):
    """SIA (Wang et al. 2023, arXiv 2309.14700): random cuts divide the image into blocks, and each is shifted
    cyclically, flipped, turned by 180 degrees, scaled by U(0, 1) or given uniform noise (and clipped to the pixel box).

    Args:
        copies: draws averaged over, >= 1.
        blocks: along each axis, >= 1.
        noise: its amplitude in pixel values, >= 0.
    """

    copies: int = knob(20, least=1)
    blocks: int = knob(3, least=1)
    noise: float = knob(0.0627451, least=0)

    def draw(self, copy: int, context: AttackContext, rng: Rng) -> TransformedInput:
        here, threat = side(context.x), context.threat
        if here < self.blocks:
            raise UserError(f"blocks={self.blocks} of sia is too many for images of {here} pixels")
        grid = (self.blocks, self.blocks)
        rows = _Axis.cut(here, self.blocks, rng.stream("rows"))
        columns = _Axis.cut(here, self.blocks, rng.stream("columns"))

        def spread(values: Tensor) -> Tensor:
            """Return the values of the blocks [B, blocks, blocks] at their pixels, [B, H, W]."""
            flat = rows.block[:, :, None] * self.blocks + columns.block[:, None, :]
            return values.flatten(1).gather(1, flat.flatten(1)).reshape(flat.shape)

        operation = spread(rng.stream("operation").integers(grid, len(OPERATIONS)))
        shift = spread(rng.stream("shift").uniform(grid))
        down = rows.source(operation == 0, (operation == 2) | (operation == 4), shift, -1)
        across = columns.source(operation == 1, (operation == 3) | (operation == 4), shift, -2)
        source = (down * here + across).flatten(1)[:, None]
        scale = torch.where(operation == 5, spread(rng.stream("scale").uniform(grid)), 1.0)[:, None].to(context.x.dtype)
        noisy = (operation == 6)[:, None]
        noise = rng.stream("noise").uniform(tuple(context.x.shape[1:]), -self.noise, self.noise, dtype=context.x.dtype)

        def view(z: Tensor) -> Tensor:
            moved = z.flatten(2).gather(2, source.expand(-1, z.shape[1], -1)).reshape(z.shape) * scale
            return torch.where(noisy, (moved + noise).clamp(threat.low, threat.high), moved)

        return TransformedInput(view, torch.zeros_like(context.y, dtype=torch.bool))


@dataclass(frozen=True)
class _Axis:
    """The blocks along one axis: for each pixel [B, n], the number, first pixel and length of its block."""

    block: Tensor
    first: Tensor
    length: Tensor

    @classmethod
    def cut(cls, here: int, blocks: int, rng: Rng) -> "_Axis":
        """Cut at random different places."""
        inner = rng.uniform((max(here - 1, 1),)).argsort(dim=1, stable=True)[:, : blocks - 1] + 1
        edges = torch.cat([torch.zeros_like(inner[:, :1]), inner.sort(1).values], 1)
        if blocks == 1:
            edges = torch.zeros(len(rng.ids), 1, dtype=torch.long, device=rng.ids.device)
        ends = torch.cat([edges[:, 1:], torch.full_like(edges[:, :1], here)], 1)
        at = torch.arange(here, device=edges.device)
        block = (at >= edges[:, :, None]).sum(1) - 1
        return cls(block, edges.gather(1, block), (ends - edges).gather(1, block))

    def source(self, shifted: Tensor, flipped: Tensor, shift: Tensor, other: int) -> Tensor:
        """Return where each pixel [B, H, W] comes from along this axis; `other` is the dimension of the other axis.

        shift: uniform in [0, 1), the cyclic shift as a share of the block.
        """
        first, length = self.first.unsqueeze(other), self.length.unsqueeze(other)
        at = torch.arange(self.first.shape[1], device=first.device).unsqueeze(other)
        local = (at - first).expand_as(shift)
        steps = (shift * length).floor().long()
        moved = torch.where(shifted, (local - steps) % length, local)
        return first + torch.where(flipped, length - 1 - local, moved)
