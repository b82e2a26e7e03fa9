"""How a head passes images through its network: at once and by themselves, or gathered with those of others.

See `gauntlet.evaluation.full_passes` for the second.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Forward

HostMask = NDArray[np.bool_]
"""A mask of samples on the host, bool [B]."""

HostValues = NDArray[Any]
"""Numbers of samples on the host, float [B]."""

HostIndex = NDArray[np.int64]
"""Positions of samples on the host, int64 [b]."""

Pullback = Callable[[Tensor], Tensor]
"""Logits [B, K] -> the cotangent [B, K] that is pulled back to the images: row by row, and without side effects."""


class RowLoss:
    """A pullback that can be asked for some of its rows, and together with those of others: what shares a pass needs.

    Args:
        loss: called with logits [B, K] and the columns.
        columns: what it needs of each sample, such as labels and targets, [B, ...] or None.
    """

    __slots__ = ("columns", "loss")

    def __init__(self, loss: Callable[..., Tensor], *columns: Tensor | None) -> None:
        self.loss, self.columns = loss, columns

    def __call__(self, logits: Tensor) -> Tensor:
        return self.loss(logits, *self.columns)

    def select(self, rows: slice) -> "RowLoss":
        """Select some of the rows."""
        return RowLoss(self.loss, *(None if column is None else column[rows] for column in self.columns))

    def joins(self, other: "RowLoss") -> bool:
        """Return whether both can be asked at once."""
        forms = ([None if c is None else (c.dtype, c.shape[1:]) for c in each.columns] for each in (self, other))
        return self.loss == other.loss and next(forms) == next(forms)

    @classmethod
    def joined(cls, parts: "Sequence[RowLoss]") -> "RowLoss":
        """Return the rows of some that join each other, one after the other."""
        if len(parts) == 1:
            return parts[0]
        columns = zip(*(part.columns for part in parts), strict=True)
        return cls(parts[0].loss, *(None if found[0] is None else torch.cat(found) for found in columns))


def resolved(logits: Tensor) -> Tensor:
    """Return the logits without their graph, in float32 at least."""
    plain = logits.detach() if logits.requires_grad else logits
    return plain if plain.dtype in (torch.float32, torch.float64) else plain.float()


class Passes:
    """Makes every pass at once, of the images that it is given and no others."""

    @torch.no_grad()
    def forward(self, forward: Forward, x: Tensor, rng: Rng) -> Tensor:
        """Return the scores of images x [B, C, H, W] without a gradient, [B, K]."""
        return forward(x, rng)

    def pull(
        self, forward: Forward, x: Tensor, cotangent: Pullback, rng: Rng, dtype: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the logits [B, K] of images x [B, C, H, W], and the pulled-back cotangent like x.

        dtype: reduced precision of the pass; None: that of the images.
        """
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = _precise(forward, leaf, rng, dtype)
            plain = logits.detach()
            total = _weighed(logits, cotangent(plain))
        (gradient,) = torch.autograd.grad(total, leaf)
        return resolved(plain), gradient

    def read(self, *columns: Tensor) -> tuple[HostValues, ...]:
        """Return columns [B], float or bool, on the host by a single read: an accelerator is waited for at each."""
        return read_together(columns)


class BatchedPasses(Passes):
    """Makes passes of so many images at most; what is no `RowLoss` is pulled back in one.

    Args:
        size: images of a pass, >= 1.
    """

    def __init__(self, size: int) -> None:
        self._size = size

    def forward(self, forward: Forward, x: Tensor, rng: Rng) -> Tensor:
        parts = [Passes.forward(self, forward, x[at], rng.select(at)) for at in self._slices(x)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def pull(
        self, forward: Forward, x: Tensor, cotangent: Pullback, rng: Rng, dtype: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor]:
        slices = self._slices(x)
        if len(slices) == 1 or not isinstance(cotangent, RowLoss):
            return super().pull(forward, x, cotangent, rng, dtype)
        parts = [Passes.pull(self, forward, x[at], cotangent.select(at), rng.select(at), dtype) for at in slices]
        logits, gradients = zip(*parts, strict=True)
        return torch.cat(logits), torch.cat(gradients)

    def _slices(self, x: Tensor) -> list[slice]:
        return [slice(at, at + self._size) for at in range(0, max(len(x), 1), self._size)]


def read_together(columns: Sequence[Tensor]) -> tuple[HostValues, ...]:
    """Return columns, float or bool and of any lengths, on the host by a single read; numbers in the widest type."""
    whole = columns[0] if len(columns) == 1 else torch.cat(list(columns))
    there = (whole.float() if whole.dtype == torch.bfloat16 else whole).cpu().numpy()  # numpy has no bfloat16
    parts = np.split(there, np.cumsum([len(column) for column in columns])[:-1])
    return tuple(
        part.astype(bool) if column.dtype == torch.bool else part for part, column in zip(parts, columns, strict=True)
    )


def doubtful(sums: HostValues) -> HostMask:
    """Return whose entries may all be zero, or some not finite, by their sums: whose is zero or not finite."""
    mask: HostMask = ~np.isfinite(sums) | (sums == 0)
    return mask


MOST_ROUNDS = 16
"""Rounds of what is found in rounds that are made before anybody reads how many it takes."""


class Guess:
    """How much work to do before anybody reads how much it takes: what it took the last time, and some more.

    Args:
        first: the first guess.
        most: the largest; who needs more asks otherwise.
        spare: share of what it took the last time that is done besides.
    """

    def __init__(self, first: int, most: int, spare: float) -> None:
        self.value, self.most, self.spare = first, most, spare

    def enough(self, taken: HostValues) -> bool:
        """Return whether the guess was enough for what each sample takes, [b]; guess anew."""
        needed, guessed = int(taken.max()), self.value
        more = needed + int(self.spare * needed)
        self.value = min(max(more, (guessed + more) // 2), self.most)
        return needed <= guessed


def positions(device: torch.device, *found: HostIndex) -> tuple[Tensor, ...]:
    """Return positions on the device, by a single copy that waits for nothing."""
    there = torch.from_numpy(np.concatenate(found)).to(device, non_blocking=True)
    parts: tuple[Tensor, ...] = there.split([len(each) for each in found])  # type: ignore[no-untyped-call]
    return parts


def with_graph(forward: Forward, x: Tensor, rng: Rng, dtype: torch.dtype | None) -> Tensor:
    """Return the logits [B, K] with their graph; dtype: reduced precision of the pass, or None."""
    with torch.enable_grad():
        return _precise(forward, x, rng, dtype)


def weighed(output: Tensor, cotangent: Tensor) -> Tensor:
    """Return a number whose gradient is the pulled-back cotangent to the last bit: autograd, when it is handed a
    cotangent, imports a library for symbols, which takes as long as the rest of a short run.
    """
    with torch.enable_grad():
        return _weighed(output, cotangent)


def _precise(forward: Forward, x: Tensor, rng: Rng, dtype: torch.dtype | None) -> Tensor:
    if dtype is None:
        return forward(x, rng)
    with torch.autocast(x.device.type, dtype):
        return forward(x, rng)


def _weighed(output: Tensor, cotangent: Tensor) -> Tensor:
    return (output * (cotangent if cotangent.dtype == output.dtype else cotangent.to(output.dtype))).sum()
