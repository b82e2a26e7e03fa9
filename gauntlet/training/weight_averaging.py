"""Averages of the weights: exponential over the steps, or uniform over the epochs."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from gauntlet.knobs import Knobs, choice, knob


class Averaged(Protocol):
    """An average of the weights of a network: `module`, in eval mode, without gradients; `updates`: made so far."""

    module: nn.Module
    updates: int

    def update(self, model: nn.Module) -> None:
        """Take in the weights of `model`, and copy its buffers."""


class Average:
    """A copy of a network whose parameters follow it slowly (Gowal et al. 2020, arXiv 2010.03593).

    The decay starts small, min(decay, (1 + t) / (10 + t)) at update t, so that the first weights are soon forgotten.
    Buffers such as batch-norm statistics are copied.

    Attributes:
        module: the average, in eval mode, without gradients.
        updates: made so far.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    def update(self, model: nn.Module) -> None:
        """Move towards the weights of `model`."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        _follow(self.module, model, decay)


@dataclass(frozen=True, kw_only=True)
class SWA(Knobs, key="recipe.swa"):
    """The mean of the weights at the ends of the last epochs (Izmailov et al. 2018, arXiv 1803.05407).

    From then on the mean is what is validated and kept. The batch-norm statistics of a mean of weights are no mean of
    statistics: they are estimated anew, by passes in train mode over training images.

    Args:
        start: share of the training after which epochs count, in [0, 1).
        images: what passes through the network for that: adversarial (what the recipe trains on) or clean.
        limit: use the first images of the training part, >= 2; null uses them all.

    Raises:
        UserError: a value outside its range.
    """

    start: float = knob(0.5, least=0, below=1)
    images: str = choice("adversarial", ("adversarial", "clean"))
    limit: int | None = knob(5000, least=2, optional=True, hint="null uses all images")


class Mean:
    """The uniform mean of the weights it was shown; attributes as of Average."""

    def __init__(self, model: nn.Module) -> None:
        self.module = deepcopy(model).eval().requires_grad_(False)
        self.updates = 0

    def update(self, model: nn.Module) -> None:
        """Count the weights of `model` in."""
        self.updates += 1
        _follow(self.module, model, 1 - 1 / self.updates)


@torch.no_grad()
def _follow(mine: nn.Module, other: nn.Module, decay: float) -> None:
    for average, weight in zip(mine.parameters(), other.parameters(), strict=True):
        average.lerp_(weight, 1 - decay)
    for copy, buffer in zip(mine.buffers(), other.buffers(), strict=True):
        copy.copy_(buffer)
