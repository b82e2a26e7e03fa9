"""Patches: the attacker may paint rectangles of the image with anything, and leaves the rest as it is."""

import itertools
import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional

from gauntlet.errors import UserError
from gauntlet.threat_model.threat import Threat

MOST = 3
"""Patches, of which a corner of what they cover belongs to one: so membership is decided exactly."""


@dataclass(frozen=True)
class PatchThreat(Threat):
    """The images of the box that differ from x inside `count` rectangles only (Brown et al. 2017, arXiv 1712.09665).

    `distance` is the least side that covers all changed pixels, so that it compares with the certified sides of
    `certifier=patches` (Levine and Feizi 2020, arXiv 2002.10733), which speak of one square anywhere.

    Args:
        norm: "patch".
        eps: width of each patch in pixels, >= 1.
        low, high, goal, target, factors: as in `Threat`.
        count: patches, 1 to 3; they may overlap.
        aspect: height of a patch divided by its width, > 0; 1: squares.
        row, column: of the upper left pixel, where the place of a single patch is given; None: anywhere.
        corners: (row, column) of the upper left pixel of each patch of each sample, int64 [B, count, 2]: where an
            attack has chosen to paint. `project` and `sample` keep to it; `contains` and `distance` do not know it.

    Raises:
        UserError: a value outside its range.
    """

    norm: str = Threat.PATCH
    eps: str | float = 2
    count: int = 1
    aspect: float = 1.0
    row: int | None = None
    column: int | None = None
    corners: Tensor | None = field(default=None, metadata={"internal": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm != self.PATCH:
            raise UserError(f"threat.norm={self.norm} is not that of patches; take threat={self.norm}")
        if not self.unbounded and self.radius < 1:
            raise UserError(f"threat.eps={self.eps} is less than a pixel; give the width of the patch, threat.eps=2")
        if not 1 <= self.count <= MOST:
            raise UserError(f"threat.count={self.count} must be 1 to {MOST} patches")
        if not (math.isfinite(self.aspect) and self.aspect > 0):
            raise UserError(f"threat.aspect={self.aspect} must be a positive number, height over width")
        if (self.row is None) != (self.column is None):
            raise UserError("threat.row and threat.column go together: the place of the patch's upper left pixel")
        if self.row is not None and (self.count > 1 or min(self.row, self.column or 0) < 0):
            raise UserError("threat.row and threat.column, >= 0, place a single patch; leave threat.count=1")

    @property
    def shape(self) -> dict[str, float]:
        """Return what sets these patches apart from one square anywhere; empty: nothing."""
        said = {"count": self.count, "aspect": self.aspect, "row": self.row, "column": self.column}
        plain = {"count": 1, "aspect": 1.0, "row": None, "column": None}
        return {key: value for key, value in said.items() if value is not None and value != plain[key]}

    def size(self, x: Tensor) -> tuple[int, int]:
        """Return the height and width of a patch in pixels, at most those of the images x [..., H, W].

        Raises:
            UserError: it has none, or does not fit where it is placed.
        """
        if self.unbounded:
            raise UserError("patches need a width; give threat.eps=2, in pixels")
        height, width = (min(int(side * (1 + 1e-6)), most) for side, most in self._sides(x))
        if not height:
            raise UserError(f"threat.aspect={self.aspect} makes patches of no height; give more, or a larger eps")
        if (
            self.row is not None
            and self.column is not None
            and (self.row + height > x.shape[-2] or self.column + width > x.shape[-1])
        ):
            raise UserError(
                f"the patch of {height}x{width} at row {self.row}, column {self.column} leaves the image of "
                f"{x.shape[-2]}x{x.shape[-1]}"
            )
        return height, width

    def _sides(self, x: Tensor) -> tuple[tuple[float, int], tuple[float, int]]:
        return (self.radius * self.aspect, x.shape[-2]), (self.radius, x.shape[-1])

    def check_reach(self, shape: tuple[int, ...]) -> None:
        """Refuse a patch that covers the image, or that does not fit where it is placed; shape: (C, H, W)."""
        height, width = self.size(torch.empty(shape, device="meta"))
        if (height, width) == shape[1:]:
            raise UserError(f"threat.eps={self.eps} is wider than the images: the patch covers all of {shape[1:]}")

    def located(self, corners: Tensor) -> "PatchThreat":
        """Return the threat with patches at these places, int64 [B, count, 2]."""
        return replace(self, corners=corners)

    def select(self, index: Tensor) -> "PatchThreat":
        """Return the threat for some of the samples; index: a mask bool [B] or positions int64 [b]."""
        return self if self.corners is None else replace(self, corners=self.corners[index])

    def budget(self, x: Tensor) -> Tensor:
        """Return how far a pixel may move, in the dtype of x, [1, 1, 1, 1]: the unit of steps; all of the box."""
        return torch.full([1] * x.dim(), self.high - self.low, device=x.device, dtype=x.dtype)

    def within(self, eps: Tensor) -> "PatchThreat":
        raise UserError("patches have one size for all images; this needs a norm, such as threat=linf")

    def scaled(self, factors: Tensor) -> "PatchThreat":
        return self.within(factors)

    def mask(self, x: Tensor, corners: Tensor) -> Tensor:
        """Return which pixels the patches at these places cover, bool [B, 1, H, W]; corners: int64 [B, n, 2]."""
        height, width = self.size(x)
        rows, columns = (torch.arange(side, device=x.device) for side in x.shape[-2:])
        top, left = corners[..., 0, None], corners[..., 1, None]
        inside = ((rows >= top) & (rows < top + height))[..., None] & ((columns >= left) & (columns < left + width))[
            ..., None, :
        ]
        return inside.any(1, keepdim=True)

    def places(self, value: Tensor, ranks: int = 1) -> Tensor:
        """Return the places of the patches that hold most of a value, the best first, int64 [B, ranks, count, 2].

        The first patch goes to the place of that rank, the others to the best of what is left, one after the other.

        Args:
            value: >= 0 of each pixel, [B, 1, H, W].
            ranks: how many; the last is repeated where there are fewer.
        """
        if self.row is not None:
            return torch.tensor([self.row, self.column], device=value.device).expand(len(value), ranks, 1, 2)
        return self.completed(value, _ranked(value, *self.size(value), ranks))

    def completed(self, value: Tensor, first: Tensor) -> Tensor:
        """Return the places of all patches, int64 [B, ranks, count, 2], with these first ones int64 [B, ranks, 2]."""
        found, left = [first], value[:, None].expand(-1, first.shape[1], -1, -1, -1).flatten(0, 1)
        for _ in range(1, self.count):
            left = left.masked_fill(self.mask(left, found[-1].flatten(0, 1)[:, None]), 0.0)
            found.append(_ranked(left, *self.size(left), 1).reshape(first.shape))
        return torch.stack(found, 2)

    def projected(self, z: Tensor, x: Tensor, rounds: int) -> tuple[Tensor, None]:
        """Return the point of the set near z: what is outside of the patches is undone, then the box.

        Without `corners` the patches go where undoing costs the most; for one patch that is the nearest point.
        """
        inside = z.clamp(self.low, self.high)
        cost = ((z - x).square() - (z - inside).square()).sum(1, keepdim=True)
        corners = self.places(cost)[:, 0] if self.corners is None else self.corners
        return torch.where(self.mask(x, corners), inside, x), None

    def sample(self, x: Tensor, unit: Tensor, gauss: Tensor) -> Tensor:
        """Return a random point: uniform values, at places that the largest of gauss pick; both of the shape of x."""
        if self.corners is None:
            height, width = self.size(x)
            rank = gauss[:, :1, : x.shape[2] - height + 1, : x.shape[3] - width + 1]
            corners = _ranked(rank, 1, 1, self.count) if self.row is None else self.places(x[:, :1])[:, 0]
        else:
            corners = self.corners
        return torch.where(self.mask(x, corners), self.low + (self.high - self.low) * unit, x)

    def steepest(self, gradient: Tensor, sparsity: float = 0.05) -> Tensor:
        """Return the sign of the gradient: inside a patch the set is a cube."""
        return gradient.sign()

    def distance(self, z: Tensor, x: Tensor) -> Tensor:
        """Return the least width of patches of this shape that cover all changed pixels, float64 [B].

        NaN where z is not finite, infinite where no patch at the given place does.
        """
        changed = (z != x).any(1)
        rows, columns = changed.shape[1:]
        down, across = (torch.arange(n, device=x.device) for n in (rows, columns))
        if self.row is not None and self.column is not None:
            outside = changed & ((down < self.row)[:, None] | (across < self.column)[None])
            far = torch.maximum((across - self.column + 1)[None], (down - self.row + 1)[:, None] / self.aspect).double()
            found = torch.where(changed, far, 0.0).flatten(1).amax(1)
            found = torch.where(outside.flatten(1).any(1), math.inf, found)
        else:
            found = torch.where(changed.flatten(1).any(1), math.inf, 0.0).double()
            widths = {float(n) for n in range(1, columns + 1)} | {n / self.aspect for n in range(1, rows + 1)}
            for width in sorted(widths):
                if not (open_ := found.isinf()).any():
                    break
                height = int(width * self.aspect * (1 + 1e-9))
                covered = _covers(changed[open_], height, int(width * (1 + 1e-9)), self.count)
                found[open_] = torch.where(covered, width, math.inf).double()
        return torch.where(z.isfinite().flatten(1).all(1), found, math.nan)

    def _exact_eps(self, x: Tensor) -> Tensor:
        return torch.full((1,), self.radius, device=x.device, dtype=torch.float64)


def _ranked(value: Tensor, height: int, width: int, ranks: int) -> Tensor:
    """Return the places of the windows of that size with the largest sums of value [B, 1, H, W], int64 [B, ranks, 2].

    Of equals the first in reading order; the last place is repeated where there are fewer.
    """
    sums = functional.avg_pool2d(value, (height, width), 1)  # [B, 1, h, w]
    order = sums.flatten(1).argsort(dim=1, descending=True, stable=True)
    at = order[:, torch.arange(ranks, device=value.device).clamp_max(order.shape[1] - 1)]
    return torch.stack([at // sums.shape[3], at % sums.shape[3]], -1)


def _covers(changed: Tensor, height: int, width: int, count: int) -> Tensor:
    """Return whether `count` <= 3 rectangles cover the changed pixels bool [B, H, W], bool [B].

    The bounding box of what is left has four sides, so that of three rectangles one meets two of them; and if these
    are opposite, it may be moved into a corner as well. So a corner of the box is tried for each rectangle in turn.
    """
    rows, columns = changed.any(2), changed.any(1)
    top, bottom = _ends(rows)
    left, right = _ends(columns)
    fits = (bottom - top < height) & (right - left < width)
    if count == 1 or not height or not width:
        return fits | ~rows.any(1)
    down, across = (torch.arange(n, device=changed.device) for n in changed.shape[1:])
    found = fits | ~rows.any(1)
    for up, side in itertools.product((top, bottom - height + 1), (left, right - width + 1)):
        inside = ((down >= up[:, None]) & (down < up[:, None] + height))[:, :, None] & (
            (across >= side[:, None]) & (across < side[:, None] + width)
        )[:, None]
        found = found | _covers(changed & ~inside, height, width, count - 1)
    return found


def _ends(marks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and the last mark of each row, int64 [B]; marks: bool [B, n]."""
    number = marks.int()
    return number.argmax(1), marks.shape[1] - 1 - number.flip(1).argmax(1)
