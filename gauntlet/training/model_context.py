"""Looking at a network without leaving a trace in it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gauntlet.threat_model.rng import Rng


class PassCounter:
    """Counts what goes through networks between `with PassCounter(model, ...) as passes` and the end of the block."""

    def __init__(self, *networks: nn.Module) -> None:
        self._networks = networks
        self.forwards = 0
        self.backwards = 0

    def __enter__(self) -> "PassCounter":
        self._handles = [network.register_forward_hook(self._forward) for network in self._networks]
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _forward(self, module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            self.forwards += len(output)
            if output.requires_grad:
                output.register_hook(self._backward)  # type: ignore[no-untyped-call]

    def _backward(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


FORMATS = {"bfloat16": torch.bfloat16}


@contextmanager
def lowered(model: nn.Module, name: str | None, device: torch.device) -> Iterator[None]:
    """Take convolutions and products of the network in that format within the block; its output is float32.

    The network keeps its float32 weights, and losses, gradients of weights and the optimizer are float32 too. Without a
    name all is as ever.
    """
    if name is None:
        yield
        return
    plain = model.forward

    def forward(*inputs: Tensor, **options: Tensor) -> object:
        with torch.autocast(device.type, FORMATS[name]):
            output = plain(*inputs, **options)
        return output.float() if isinstance(output, Tensor) else output

    with forwarding(model, forward):
        yield


def shuffle(ids: Tensor, seed: int, epoch: int) -> Tensor:
    """Return the positions [n] in the order of the epoch: a function of the sample ids, the seed and the epoch."""
    return Rng(seed, ids, f"order/{epoch}").bits((1,)).squeeze(1).argsort(stable=True)


@contextmanager
def seeded(seed: int, name: str, device: torch.device | str = "cpu") -> Iterator[None]:
    """Make torch's global generator a function of (seed, name) within the block; it is as before afterwards.

    For draws that no Rng reaches: the initial weights of a network, dropout.
    """
    word = int(Rng(seed, torch.zeros(1, dtype=torch.int64), name).bits((1,)))
    place = torch.device(device)
    with torch.random.fork_rng([place] if place.type == "cuda" else []):
        torch.manual_seed(word)
        yield


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a network in eval mode within the block; each submodule gets its own flag back: frozen layers stay frozen."""
    flags = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, flag in flags:
            part.training = flag


@contextmanager
def frozen(module: nn.Module, but: Iterable[nn.Parameter] = ()) -> Iterator[None]:
    """Give the weights no gradients within the block, which makes those to the input cheaper.

    but: weights that keep theirs.
    """
    spared = {id(weight) for weight in but}
    weights = [weight for weight in module.parameters() if weight.requires_grad and id(weight) not in spared]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


@contextmanager
def forwarding(module: nn.Module, function: Callable[..., Any]) -> Iterator[None]:
    """Have `module(...)` call the function in place of its forward within the block; hooks and state are as ever."""
    before = module.__dict__.get("forward")
    module.forward = function
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before
