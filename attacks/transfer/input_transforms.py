"""Views: random differentiable changes of the images through which a network is asked for its gradient."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gauntlet.attacks.transfer.context import AttackContext, TransformedInput
from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.counted_head import View
from gauntlet.threat_model.rng import Rng


class Piece(Protocol):
    """A kind of view. Every image has draws of its own."""

    @property
    def copies(self) -> int:
        """Return the views over which a gradient is averaged."""

    def draw(self, copy: int, context: AttackContext, rng: Rng) -> TransformedInput:
        """Draw view number `copy` for the samples of the context.

        Raises:
            UserError: the images do not fit this view.
        """


@dataclass(frozen=True)
class Scales(Knobs):
    """SI: the image divided by 1, 2, 4, ... (Lin et al. 2020, arXiv 1908.06281).

    Args:
        copies: number of scales, >= 1.
    """

    copies: int = knob(5, least=1)

    def draw(self, copy: int, context: AttackContext, rng: Rng) -> TransformedInput:
        same = torch.full_like(context.y, copy == 0, dtype=torch.bool)
        return TransformedInput(None if copy == 0 else lambda z: z / 2**copy, same)


class TransformGrid:
    """The views at one point of an attack: every combination of the copies of the pieces, each piece applied to what
    the one before shows. A copy of a piece is drawn once: the scales of an admixed image share what was mixed in."""

    def __init__(self, pieces: Mapping[str, Piece], context: AttackContext, rng: Rng) -> None:
        self.pieces, self.context, self.rng = pieces, context, rng
        self.count = math.prod(piece.copies for piece in pieces.values())
        self._drawn: dict[str, tuple[int, TransformedInput]] = {}

    def shown(self, copy: int, name: str) -> TransformedInput:
        """Combination number `copy`; other names give independent draws."""
        views: list[View] = []
        plain = torch.ones_like(self.context.y, dtype=torch.bool)
        left = self.count
        for key, piece in self.pieces.items():
            left //= piece.copies
            shown = self._draw(f"views {name}/{key}", piece, copy // left % piece.copies)
            plain = plain & shown.plain
            if shown.view is not None:
                views.append(shown.view)
        return TransformedInput(_chain(views) if views else None, plain)

    def _draw(self, stream: str, piece: Piece, copy: int) -> TransformedInput:
        """Return the view of a piece: the last one is kept, for the pieces after it turn over faster."""
        if stream not in self._drawn or self._drawn[stream][0] != copy:
            self._drawn[stream] = copy, piece.draw(copy, self.context, self.rng.stream(stream).stream(copy))
        return self._drawn[stream][1]


def _chain(views: list[View]) -> View:
    def view(z: Tensor) -> Tensor:
        for each in views:
            z = each(z)
        return z

    return view


def side(x: Tensor) -> int:
    """Height and width of images [B, C, H, W]. Raises UserError where they differ."""
    if x.shape[-1] != x.shape[-2]:
        raise UserError(f"this view needs square images, these have {x.shape[-2]} x {x.shape[-1]} pixels; resize them")
    return x.shape[-1]
