"""Networks whose layers are products of three factors: W = U S V^T of a small rank, in place of one dense matrix."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gauntlet.errors import UserError

FORM = ("kernel_size", "stride", "padding", "dilation", "padding_mode")


class LowRank(nn.Sequential):
    """A convolution or linear layer of weights U S V^T: children `right` (V^T), `core` (S) and `left` (U), layers too.

    As three layers in a row it costs r (n + m + r) multiply-adds a pixel in place of n m, and whatever reads networks
    layer by layer reads it. The bias is that of `left`.

    Args:
        layer: dense, with weights [n, ...] of m numbers in each row; a convolution of one group.
        rank: r, 1 to min(n, m); the factors are those of the best approximation of the weights of the layer.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear, rank: int) -> None:
        super().__init__()
        outside, bias = layer.weight.shape[0], layer.bias is not None
        if isinstance(layer, nn.Conv2d):
            form: dict[str, Any] = {name: getattr(layer, name) for name in FORM}
            self.right: nn.Conv2d | nn.Linear = nn.Conv2d(layer.in_channels, rank, bias=False, **form)
            self.core: nn.Conv2d | nn.Linear = nn.Conv2d(rank, rank, 1, bias=False)
            self.left: nn.Conv2d | nn.Linear = nn.Conv2d(rank, outside, 1, bias=bias)
        else:
            self.right = nn.Linear(layer.in_features, rank, bias=False)
            self.core = nn.Linear(rank, rank, bias=False)
            self.left = nn.Linear(rank, outside, bias=bias)
        with torch.no_grad():
            u, s, v = torch.linalg.svd(layer.weight.flatten(1), full_matrices=False)
            for part, value in ((self.left, u[:, :rank]), (self.core, s[:rank].diag()), (self.right, v[:rank])):
                part.weight.copy_(value.reshape(part.weight.shape))
            if layer.bias is not None and self.left.bias is not None:
                self.left.bias.copy_(layer.bias)

    def matrix(self) -> Tensor:
        """Return U S V^T, [n, m]."""
        product: Tensor = self.left.weight.flatten(1) @ self.core.weight.flatten(1) @ self.right.weight.flatten(1)
        return product


def low_rank(network: nn.Module, compression: float = 0.5, rank: int | None = None) -> nn.Module:
    """Return a network with each convolution and linear layer in place of its factors; the last linear one keeps its
    full rank (CondLR; Savostianova et al. 2023, arXiv 2306.01485).

    Args:
        network: is changed in place. Convolutions of several groups stay as they are.
        compression: share of the singular directions of a layer that are left out, in [0, 1): the rank of one with
            weights [n, m] is (1 - compression) min(n, m), rounded up.
        rank: of every layer but the last, >= 1, in place of that; null: by compression.

    Raises:
        UserError: a value outside its range, a rank larger than a layer has, or a network without such layers.
    """
    if not 0 <= compression < 1:
        raise UserError(f"model.compression={compression} must be a share from 0 and below 1")
    dense = list(_dense(network))
    if not dense or any(isinstance(module, LowRank) for module in network.modules()):
        raise UserError("model=low_rank factors the layers of a dense network, and here are none, or factors already")
    last = next((name for name, layer in reversed(dense) if isinstance(layer, nn.Linear)), None)
    for name, layer in dense:
        most = min(layer.weight.shape[0], layer.weight.flatten(1).shape[1])
        wanted = most if name == last else math.ceil((1 - compression) * most) if rank is None else rank
        if not 1 <= wanted <= most:
            raise UserError(f"model.rank={rank} does not fit {name}, whose rank is {most} at most; take 1 to {most}")
        above, _, own = name.rpartition(".")
        setattr(network.get_submodule(above), own, LowRank(layer, wanted))
    return network


def factored(network: nn.Module) -> Iterator[tuple[str, LowRank]]:
    """Yield the factored layers of a network with their names."""
    for name, module in network.named_modules():
        if isinstance(module, LowRank):
            yield name, module


def _dense(network: nn.Module) -> Iterator[tuple[str, nn.Conv2d | nn.Linear]]:
    for name, module in network.named_modules():
        if (name and isinstance(module, nn.Linear)) or (isinstance(module, nn.Conv2d) and module.groups == 1):
            yield name, module
