"""A second set of batch norms, for the adversarial examples of a training: it trains along and is not deployed."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gauntlet.errors import UserError
from gauntlet.training.model_context import forwarding


class AuxiliaryNorms(nn.Module):
    """Copies of the batch norms of a network, statistics, weights and biases, which begin as they are there; and, for
    an attack on weights of the past, copies of the whole.

    It stands beside the network, whose state stays that of its architecture.

    Args:
        model: the network, on its device.
        lag: steps by which the attacked weights are old, >= 0; 0 keeps no copies.

    Raises:
        UserError: the network has no batch norm.
    """

    def __init__(self, model: nn.Module, lag: int = 0) -> None:
        super().__init__()
        norms = batch_norms(model)
        if not norms:
            raise UserError("this recipe gives adversarial examples batch norms of their own: the network has none")
        self.norms = nn.ModuleList(deepcopy(norm) for norm in norms)
        count = lag + 1 if lag else 0  # the live weights change before they are old
        self.past = nn.ModuleList(
            nn.ModuleList([deepcopy(model), deepcopy(self.norms)]).eval().requires_grad_(False) for _ in range(count)
        )

    def attacked(self, model: nn.Module) -> tuple[nn.Module, Iterable[nn.Module]]:
        """Return the network that is attacked, and its norms: as they were `lag` steps ago."""
        if not len(self.past):
            return model, self.norms
        network, norms = self.past[0].children()
        return network, norms.children()

    @torch.no_grad()
    def follow(self, model: nn.Module) -> None:
        """Let the past go on by one step, to the network as it is now."""
        if not len(self.past):
            return
        line: list[Iterable[nn.Module]] = [*(each.children() for each in self.past), (model, self.norms)]
        states = [[*_tensors(modules)] for modules in line]
        for older, newer in pairwise(states):
            for mine, other in zip(older, newer, strict=True):
                mine.copy_(other)


@contextmanager
def switched(model: nn.Module, norms: Iterable[nn.Module]) -> Iterator[None]:
    """Have a network pass through other batch norms than its own within the block, in the mode of its own."""
    with ExitStack() as around:
        for layer, norm in zip(batch_norms(model), norms, strict=True):
            around.enter_context(forwarding(layer, partial(_through, layer, norm)))
        yield


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """Return the batch norms of a network, in its order."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def _through(layer: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    norm.training = layer.training
    found: Tensor = norm(x)
    return found


def _tensors(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    for module in modules:
        yield from module.parameters()
        yield from module.buffers()
