"""Stand-ins for what cannot be differentiated: exact forward, the gradient of something else (BPDA).

Backward pass differentiable approximation (Athalye, Carlini and Wagner 2018, arXiv 1802.00420): where a module hides
its gradient (rounding, compression, a top-k activation, an inner loop), the attacker replaces it in the backward pass.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Map = Callable[[Tensor], Tensor]


def identity(x: Tensor) -> Tensor:
    """Return the straight-through stand-in: for a module that gives back about what it was given."""
    return x


class StandIn(nn.Module):
    """A module whose output is that of `exact`, bit for bit, and whose gradient is that of `soft`.

    Args:
        exact: what is deployed, such as a module; called without a graph.
        soft: a differentiable map of about the same values and of exactly the same shape.

    Raises:
        ValueError: when called, where the two differ in shape.
    """

    def __init__(self, exact: Map, soft: Map = identity) -> None:
        super().__init__()
        self.exact, self.soft = exact, soft

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            value = self.exact(x)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return value
        soft = self.soft(x)
        if soft.shape != value.shape:
            raise ValueError(f"the stand-in gives {list(soft.shape)}, the module {list(value.shape)}")
        swapped: Tensor = _Swap.apply(soft, value)
        return swapped


def with_stand_ins(network: nn.Module, soft: Mapping[str, Map]) -> nn.Module:
    """Return a network of the same weights in which the named modules have stand-ins.

    Its predictions are those of the network, bit for bit; the network itself is not changed. Parameters and buffers are
    shared, not copied.

    Args:
        soft: name of a submodule, as in `network.named_modules()` -> what stands in for it in the backward pass.

    Raises:
        ValueError: the network has no module of that name.
    """
    names = dict(network.named_modules())
    lacking = [name for name in soft if not name or name not in names]
    if lacking:
        raise ValueError(f"there is no module {lacking[0]!r}; there are {', '.join(filter(None, names))}")
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    result = copy.deepcopy(network, shared)
    for name, stand_in in soft.items():
        above, _, last = name.rpartition(".")
        setattr(result.get_submodule(above), last, StandIn(result.get_submodule(name), stand_in).eval())
    return result


class _Swap(torch.autograd.Function):
    """The value of the second argument with the gradient of the first."""

    @staticmethod
    def forward(ctx: Any, soft: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None
