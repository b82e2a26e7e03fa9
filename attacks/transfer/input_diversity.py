"""DI: input diversity, a random resize and padding."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gauntlet.attacks.transfer.context import AttackContext, TransformedInput
from gauntlet.attacks.transfer.input_transforms import side
from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.rng import Rng


@dataclass(frozen=True)
class Diversity(Knobs):
    """DI (Xie et al. 2019, arXiv 1803.06978): with some probability the image is resized to a random size and placed at
    a random position on a black canvas.

    With rate > 1 the size lies in [side, rate side), the canvas has rate side pixels and is resized back to the image's
    size. With rate < 1 the size lies in [rate side, side) and the canvas has the size of the image. All resizing is
    bilinear, every image has its own draw.

    Args:
        probability: of the transform, in [0, 1].
        rate: > 0, not one.
        copies: draws averaged over, >= 1.
    """

    probability: float = knob(0.5, least=0, most=1)
    rate: float = knob(1.1, above=0, below=10)
    copies: int = knob(1, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rate == 1:
            raise UserError(f"Diversity.rate={self.rate} changes no size; take another, such as 1.1, or probability=0")

    def draw(self, copy: int, context: AttackContext, rng: Rng) -> TransformedInput:
        here = side(context.x)
        other = max(1, int(here * self.rate))
        low, high = min(here, other), max(here, other)
        chosen = rng.stream("chosen").uniform((1,))[:, 0] < self.probability
        size = low + rng.stream("size").integers((1,), max(high - low, 1))[:, 0]
        corner = (rng.stream("corner").uniform((2,)) * (high - size)[:, None]).floor().long()
        back = _resizing(high, here, context.x)
        rows, columns = (back @ _placing(here, size, corner[:, axis], high, context.x) for axis in (0, 1))

        def view(z: Tensor) -> Tensor:
            moved = rows[:, None] @ z @ columns[:, None].mT
            return torch.where(chosen[:, None, None, None], moved, z)

        return TransformedInput(view, ~chosen)


def _interpolating(source: Tensor, count: int) -> Tensor:
    """Return the matrices [..., m, count] that read `count` pixels at fractional positions source [..., m] >= 0."""
    left = source.floor().clamp_max(count - 1)
    right = (left + 1).clamp_max(count - 1)
    share = (source - left)[..., None]
    pixel = torch.arange(count, device=source.device)
    return (1 - share) * (pixel == left[..., None]) + share * (pixel == right[..., None])


def _resizing(before: int, after: int, like: Tensor) -> Tensor:
    """Return the matrix [after, before] of a bilinear resize along one axis."""
    at = torch.arange(after, device=like.device, dtype=like.dtype)
    return _interpolating(((at + 0.5) * (before / after) - 0.5).clamp_min(0), before)


def _placing(before: int, size: Tensor, corner: Tensor, canvas: int, like: Tensor) -> Tensor:
    """Return the matrices [B, canvas, before]: resize to `size` pixels, then place at `corner` on an empty canvas."""
    at = torch.arange(canvas, device=like.device, dtype=like.dtype) - corner[:, None]
    source = ((at + 0.5) * (before / size.to(like.dtype))[:, None] - 0.5).clamp_min(0)
    inside = (at >= 0) & (at < size[:, None])
    return _interpolating(source, before) * inside[..., None]
