"""Exponential moving average of the weights."""

from copy import deepcopy

import torch
from torch import nn


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

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards the weights of `model`."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for mine, other in zip(self.module.parameters(), model.parameters(), strict=True):
            mine.lerp_(other, 1 - decay)
        for copy, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            copy.copy_(buffer)
