"""Exact early ends of runs of a constant step: their iterates come back, bit for bit."""

import torch
from torch import Tensor

WINDOW = 12
"""Steps between the points that iterates are compared with: cycles of 1, 2, 3, 4, 6 and 12 steps are found."""


def earliest_return(steps: int) -> int:
    """Return the fewest gradients after which a run of so many steps can end."""
    return steps % WINDOW + 2


class ReturningIterates:
    """Finds the iterates that are already the last ones of their run.

    Steps of one length along the signs of a gradient go from point to point of a finite lattice, so that linf PGD ends
    in a cycle, mostly of two steps (arXiv 2503.19347). Where victim, loss and step are the same from step to step, an
    iterate that returns repeats all that lies between. Here an iterate is compared with one from which a whole number
    of windows is left, and only where the steps between divide a window: what has returned is where the run will end.

    Args:
        steps: of the run.
        index: positions of its samples, int64 [B], rising.
    """

    def __init__(self, steps: int, index: Tensor) -> None:
        self.steps, self.index = steps, index
        self.anchor: Tensor | None = None
        self.ended: list[tuple[Tensor, Tensor]] = []

    def last(self, number: int, z: Tensor) -> Tensor:
        """Return which iterates z [b, C, H, W] at step `number` are those after the last step, bool [b]."""
        since = WINDOW - (self.steps - number) % WINDOW
        known, self.anchor = self.anchor, z if since == WINDOW else self.anchor
        if known is None or WINDOW % since:
            return torch.zeros(len(z), dtype=torch.bool, device=z.device)
        return (z == known).flatten(1).all(1)

    def select(self, rows: Tensor) -> None:
        """Keep some of the samples, int64 [b]."""
        self.anchor = None if self.anchor is None else self.anchor.index_select(0, rows)

    def leave(self, index: Tensor, z: Tensor) -> None:
        """Keep the positions int64 [e] of samples that have come to their end, and their points."""
        self.ended.append((index, z))

    def merged(self, index: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the positions of all that have come to the end, rising, their points, and their rows in the run;
        index, z: of those that went all the way."""
        found, points = (torch.cat(parts) for parts in zip((index, z), *self.ended, strict=True))
        index, order = found.sort()
        return index, points[order], torch.searchsorted(self.index, index)
