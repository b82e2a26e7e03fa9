"""An image at several resolutions, each moved, recoloured and blurred by chance, stacked as channels."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.rng import Rng


@dataclass(frozen=True)
class ResolutionStack(Knobs, key="stack"):
    """For each size in turn: shift around the edges, contrast, colour, shrink, noise, grow, noise, clip to [0, 1].

    Fort and Lakshminarayanan 2024, arXiv 2408.05446, who draw contrast and colour from grids of 100 values. Contrast is
    about the mean of the image. The noise is uniform in [0, down) and [0, up), as there: it brightens.

    Args:
        sizes: heights and widths in pixels, at most those of the images.
        shift: the most pixels, >= 0, in both directions.
        contrast, colour: ranges of the two factors, in [0, inf) and [0, 1]; colour 0 is grey.
        down, up: noise of the shrunk and of the grown image, in pixels of [0, 1], >= 0.
        legacy_contrast: the contrast is the draw of the colour, a slip of the released code.
        per_sample: whether each image has draws of its own; else all images of a call have the same.

    Raises:
        UserError: a value out of range; when called, a size above that of the images.
    """

    sizes: tuple[int, ...] = (32, 16, 8, 4)
    shift: int = knob(3, least=0)
    contrast: tuple[float, float] = (0.7, 1.5)
    colour: tuple[float, float] = (0.5, 1.0)
    down: float = knob(0.2, least=0)
    up: float = knob(0.2, least=0)
    legacy_contrast: bool = False
    per_sample: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, good in (
            ("sizes", len(self.sizes) >= 1 and min(self.sizes) >= 1),
            ("contrast", len(self.contrast) == 2 and 0 <= self.contrast[0] <= self.contrast[1]),
            ("colour", len(self.colour) == 2 and 0 <= self.colour[0] <= self.colour[1] <= 1),
        ):
            if not good:
                raise UserError(f"stack.{name}={getattr(self, name)} is out of range; see docs/ensembles.md")

    def __call__(self, x: Tensor, rng: Rng) -> Tensor:
        """Pixels [B, C, H, W] to [B, len(sizes) C, H, W] in [0, 1]."""
        if max(self.sizes) > min(x.shape[2:]):
            raise UserError(
                f"stack.sizes={list(self.sizes)} must not exceed the {min(x.shape[2:])} pixels of the images"
            )
        drawn = rng if self.per_sample else replace(rng, ids=torch.zeros_like(rng.ids))
        return torch.cat([self._view(x, size, drawn.stream(f"view{n}")) for n, size in enumerate(self.sizes)], 1)

    def _view(self, x: Tensor, size: int, rng: Rng) -> Tensor:
        def factor(name: str, bounds: tuple[float, float]) -> Tensor:
            return rng.stream(name).uniform((1, 1, 1), *bounds, dtype=x.dtype)

        def noise(name: str, width: float, like: Tensor) -> Tensor:
            return width * rng.stream(name).uniform(tuple(like.shape[1:]), dtype=x.dtype)

        z = rolled(x, rng.stream("shift").integers((2,), 2 * self.shift + 1) - self.shift)
        colour = factor("colour", self.colour)
        contrast = colour if self.legacy_contrast else factor("contrast", self.contrast)
        mean = z.mean((1, 2, 3), keepdim=True)
        z = mean + contrast * (z - mean)
        z = colour * z + (1 - colour) * z.mean(1, keepdim=True)
        small = F.interpolate(z, (size, size), mode="bicubic", align_corners=False)
        if self.down:
            small = small + noise("down", self.down, small)
        large = F.interpolate(small, tuple(x.shape[2:]), mode="bicubic", align_corners=False)
        return (large + noise("up", self.up, large) if self.up else large).clamp(0, 1)


def rolled(x: Tensor, shift: Tensor) -> Tensor:
    """Return each image of x [B, C, H, W] moved down and right by its shift, int64 [B, 2], around the edges."""
    for dim in (2, 3):
        size = x.shape[dim]
        source = (torch.arange(size, device=x.device) - shift[:, dim - 2, None]) % size
        at = source[:, None, :, None] if dim == 2 else source[:, None, None, :]
        x = x.gather(dim, at.expand(x.shape))
    return x
