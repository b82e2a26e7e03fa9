"""How many passes each sample has cost."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor


@dataclass
class Counts:
    """Passes of the defended pipeline for each sample of one batch, all int64 [B].

    A stage that averages over n draws pays n forwards and n backwards for one gradient. What is the same for all of the
    samples that a step books is only noted, and entered for many steps at once, or when somebody looks.
    """

    COLUMNS: ClassVar[tuple[str, ...]] = ("forwards", "backwards", "zero_gradients", "bad_gradients")
    NOTES: ClassVar[int] = 64
    """How many are held at most: each keeps the ids of its samples."""

    ids: Tensor
    phase: Tensor  # position in `phases` of the part of an attack that a sample has reached, -1 where it says nothing
    phases: list[str] = field(default_factory=list)
    _entered: Tensor = field(init=False, repr=False)  # [columns, B]
    _noted: list[tuple[int, Tensor, int]] = field(init=False, repr=False, default_factory=list)  # column, ids, amount

    def __post_init__(self) -> None:
        self._entered = self.ids.new_zeros(len(self.COLUMNS), len(self.ids))

    @classmethod
    def of(cls, ids: Tensor) -> "Counts":
        """Return zeros for these samples; ids must be strictly increasing."""
        return cls(ids, torch.full_like(ids, -1))

    @property
    def forwards(self) -> Tensor:
        return self._column("forwards")

    @property
    def backwards(self) -> Tensor:
        return self._column("backwards")

    @property
    def zero_gradients(self) -> Tensor:
        return self._column("zero_gradients")

    @property
    def bad_gradients(self) -> Tensor:
        return self._column("bad_gradients")

    def add(self, column: str, ids: Tensor, amount: Tensor | int = 1) -> None:
        """Book an amount for each of some samples; column: one of `COLUMNS`."""
        row = self.COLUMNS.index(column)
        if isinstance(amount, Tensor):
            self._entered[row].index_add_(0, torch.searchsorted(self.ids, ids), amount)
            return
        self._noted.append((row, ids, amount))
        if len(self._noted) >= self.NOTES:
            self._enter_noted()

    def enter(self, phase: str, ids: Tensor) -> None:
        """Book that these samples have reached this part of the attack."""
        if phase not in self.phases:
            self.phases.append(phase)
        self.phase[torch.searchsorted(self.ids, ids)] = self.phases.index(phase)

    def _column(self, name: str) -> Tensor:
        self._enter_noted()
        return self._entered[self.COLUMNS.index(name)]

    def _enter_noted(self) -> None:
        if not self._noted:
            return
        rows, ids, amounts = zip(*self._noted, strict=True)
        self._noted.clear()
        table = np.repeat([[row * len(self.ids) for row in rows], amounts], [len(each) for each in ids], axis=1)
        first, amount = torch.from_numpy(table).to(self.ids.device, non_blocking=True)
        self._entered.view(-1).index_add_(0, torch.searchsorted(self.ids, torch.cat(ids)).add_(first), amount)
