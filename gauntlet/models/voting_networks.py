"""Networks that vote: each on its own, and all of them as one module."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class VotingNetworks(nn.Module):
    """Networks of one form. As a network it is their mean of logarithms of probabilities.

    Args:
        networks: from images [B, C, H, W] to logits [B, K].
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def each(self, x: Tensor) -> Tensor:
        """Return the logits of every network, [networks, B, K]."""
        return torch.stack([network(x) for network in self.networks])

    def forward(self, x: Tensor) -> Tensor:
        return self.each(x).log_softmax(2).mean(0)
