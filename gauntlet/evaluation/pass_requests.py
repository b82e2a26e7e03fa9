"""What a call of an attack asks for where it stands still: a pass of its images, or columns on the host."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gauntlet.evaluation.tasks import Task
from gauntlet.threat_model.passes import HostValues, RowLoss
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Forward


@dataclass(eq=False)
class PassRequest:
    """Images of one call that wait for a pass.

    Attributes:
        since: how many passes had been made when they came.
        taken: how many of them have been taken into passes.
        answers: for each pass that they took part in, their rows of what it returned.
        alone: a pass that they took part in failed: the call is to make a pass of them alone.
    """

    task: Task[Any]
    forward: Forward
    x: Tensor
    rng: Rng
    since: int
    loss: RowLoss | None = None
    dtype: torch.dtype | None = None
    taken: int = 0
    answers: list[tuple[Tensor, ...]] = field(default_factory=list)
    alone: bool = False

    @property
    def left(self) -> int:
        """Return how many images wait for a pass."""
        return len(self.x) - self.taken

    @property
    def kind(self) -> tuple[object, ...]:
        """Return what images must have in common to share a pass."""
        x = self.x
        return (
            id(self.forward), self.loss is None, self.dtype, x.dtype, x.device, x.shape[1:], self.rng.seed,
        )  # fmt: skip

    def answer(self) -> tuple[Tensor, ...]:
        """Return what the passes returned for all of the images."""
        if len(self.answers) == 1:
            return self.answers[0]
        return tuple(torch.cat(rows) for rows in zip(*self.answers, strict=True))


class RequestRows(NamedTuple):
    """The images begin to end of a request."""

    request: PassRequest
    begin: int
    end: int

    @property
    def rows(self) -> slice:
        return slice(self.begin, self.end)

    @property
    def whole(self) -> bool:
        return self.end - self.begin == len(self.request.x)

    @property
    def x(self) -> Tensor:
        return self.request.x if self.whole else self.request.x[self.rows]

    @property
    def rng(self) -> Rng:
        return self.request.rng if self.whole else self.request.rng.select(self.rows)

    @property
    def loss(self) -> RowLoss:
        loss = self.request.loss
        assert loss is not None
        return loss if self.whole else loss.select(self.rows)


@dataclass(eq=False)
class ReadRequest:
    """Columns that one call wants on the host; answer: there they are, None: the read failed."""

    task: Task[Any]
    columns: tuple[Tensor, ...]
    answer: tuple[HostValues, ...] | None = None
