"""Exact early ends of runs of a constant step: their iterates come back, bit for bit."""

import numpy as np
import torch
from torch import Tensor

from gauntlet.threat_model.passes import HostIndex, HostMask, positions

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
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.anchor: Tensor | None = None
        self.ended: list[tuple[HostIndex, Tensor]] = []

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

    def leave(self, rows: HostIndex, z: Tensor, ended: HostMask) -> None:
        """Keep the points z of samples that have come to their end; rows: of all in the run, ended: bool [b]."""
        if ended.any():
            (at,) = positions(z.device, ended.nonzero()[0])
            self.ended.append((rows[ended], z.index_select(0, at)))

    def merged(self, rows: HostIndex, z: Tensor) -> tuple[HostIndex, Tensor]:
        """Return the rows in the run of all that have come to the end, rising, and their points; rows, z: of those that
        went all the way."""
        found = np.concatenate([rows, *(each for each, _ in self.ended)])
        order = found.argsort()
        (at,) = positions(z.device, order)
        return found[order], torch.cat([z, *(points for _, points in self.ended)]).index_select(0, at)
