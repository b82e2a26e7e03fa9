"""Entries put elsewhere: permuting, slicing, repeating, and joining with constants, as one affine layer."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Self

import torch
from torch import Tensor

from gauntlet.certification.crown.affine_layers import Affine


@dataclass(frozen=True, kw_only=True)
class Move(Affine):
    """Output entry i is input entry index[i], or the bias alone where index[i] is -1. weight: an empty tensor.

    Args:
        index: positions in the flattened input, int64 [entries of `after`].
        before, after: shapes of one image.
    """

    index: Tensor
    before: tuple[int, ...]
    after: tuple[int, ...]
    diagonal: ClassVar[bool] = True

    def forward(self, x: Tensor) -> Tensor:
        return _read(x, self.index).reshape(len(x), *self.after)

    def transpose(self, a: Tensor) -> Tensor:
        inverse, repeated = self._inverse
        if not repeated:
            return _read(a, inverse).reshape(len(a), *self.before)
        read = self.index >= 0
        found = a.new_zeros(len(a), inverse.numel())
        found.index_add_(1, self.index[read].to(a.device), a.flatten(1)[:, read])
        return found.reshape(len(a), *self.before)

    def back_terms(self) -> int:
        """Return how often an entry is read at most, one for one: then nothing is summed."""
        most = int(self.index[self.index >= 0].bincount().max()) if (self.index >= 0).any() else 0
        return most if most > 1 else 0

    def to(self, dtype: torch.dtype) -> Self:
        return replace(super().to(dtype), index=self.index)

    @cached_property
    def _inverse(self) -> tuple[Tensor, bool]:
        """Return where each input entry goes, -1 for nowhere, and whether one goes to several places."""
        count = torch.Size(self.before).numel()
        inverse = torch.full((count,), -1, dtype=torch.int64, device=self.index.device)
        read = (self.index >= 0).nonzero().squeeze(1)
        inverse[self.index[read]] = read
        return inverse, int((inverse >= 0).sum()) < len(read)


def _read(x: Tensor, index: Tensor) -> Tensor:
    """Return the entries of [B, ...] at positions [N] of the rest, zero at -1: [B, N]."""
    found = x.flatten(1)[:, index.clamp_min(0)]
    return found if bool((index >= 0).all()) else torch.where(index.to(x.device) >= 0, found, 0.0)
